"""Files of weights: what stands in them, as arrays by the names that they bear there.

No file is trusted: of a pickle, arrays and a few known classes are read and nothing is executed,
and what a file holds is recognised by its first bytes, not by its name alone.
"""

import contextlib
import difflib
import io
import json
import os
import re
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from flax import nnx

from convjax._check import MissingFileError, MissingPackageError, existing_file, wrong_type
from convjax._check import path as checked_path
from convjax.models._weights._hdf5 import LARGEST_RATIO, SMALL
from convjax.models._weights._keras_file import read_archive, read_keras
from convjax.models._weights._torch_file import (
    drop_module_prefix,
    is_torch,
    of_tensor,
    read_torch,
    unwrapped,
)

SAFETENSORS, ZIP, PICKLE, HDF5 = "safetensors", "a zip archive", "a pickle", "HDF5"
SIGNATURES = {
    b"PK\x03\x04": ZIP,
    b"\x80": PICKLE,
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"version https://git-lfs": "a git-lfs pointer, not the file itself (run `git lfs pull`)",
    b"<!doctype html": "an HTML page: the download went wrong",
    b"<html": "an HTML page: the download went wrong",
    b"<?xml": "XML: the download went wrong",
    b"{": "JSON",
    b"\x89png": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"gif8": "a GIF image",
    b"%pdf": "a PDF",
    b"\x1f\x8b": "a gzip archive",
    b"\x93numpy": "one NumPy array",
}


# The file of weights in a folder as the hub has it, the first that is there.
_HUB = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# What trainers leave beside it: no weights, or parts of one checkpoint.
_NO_WEIGHTS = (
    r"(optimi[sz]er|scheduler|scaler|training_args|rng_state|random_states)\b.*"
    r"|.*-\d+-of-\d+\.\w+"
)
_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt")
_MAPPING = "source (a mapping)"
_STATE = "nnx.update(net, state) takes a state of the same network"


class Arrays(NamedTuple):
    """What a source of weights holds.

    Attributes:
      kind: whose names and layouts these are: ``"torch"``, ``"keras"``, or None where the source
        does not tell.
      arrays: arrays by name, in the order of the source.
      where: what to call the source in an error message.
      taken: names under which the arrays lay in a checkpoint, the outermost first.
    """

    kind: str | None
    arrays: dict[str, np.ndarray]
    where: str
    taken: tuple[str, ...] = ()


class _Format(NamedTuple):
    kind: str
    contents: tuple[str, ...]
    read: Callable[[Path], Any]


def read(source: str | os.PathLike | Mapping[str, Any], *, use_ema: bool = True) -> Arrays:
    """Return the arrays of a file of weights, or of a mapping.

    Args:
      source: a file whose name ends in .safetensors, in .pth, .pt, .bin, .ckpt or .tar (PyTorch's,
        read without it), in .npz, in .index.json (which names the files of a sharded checkpoint
        beside it), in .h5 or .keras (Keras's), or in .zip, with one of these in it; a file of
        another name that begins as one of safetensors or PyTorch; a folder as those of the Hugging
        Face hub; or a mapping from names to NumPy, JAX or PyTorch arrays. A
        prefix ``module.`` common to all names is dropped.
      use_ema: whether a moving average of the weights is taken from a checkpoint that holds one.

    Returns:
      ``Arrays(kind, arrays, where, taken)``, each array in the dtype and layout of the source.

    Raises:
      FileNotFoundError: a file that is absent.
      ImportError: a package that reads it is not installed.
      ValueError: a file that is empty, truncated, foreign or of an unknown extension, or no regular
        file; an entry that is no array.

    Example:
      >>> import numpy as np
      >>> from convjax.models._weights._formats import read
      >>> read({"module.fc.bias": np.zeros(3)}).arrays
      {'fc.bias': array([0., 0., 0.])}
    """
    if isinstance(source, Mapping):
        where = _MAPPING
        if isinstance(source, nnx.State):
            raise ValueError(
                f"{where} is a state of Flax, whose names are no reference's; {_STATE}"
            )
        if not source:
            raise ValueError(
                f"source={source!r} is empty; give a file or a mapping with the weights"
            )
        return Arrays(None, drop_module_prefix(_arrays(source, where)), where)
    path = _existing(source)
    where = f"source={str(path)!r}"
    form = _format(path, where)
    taken: tuple[str, ...] = ()
    try:
        if form.read is _read_inside:
            return _read_inside(path, use_ema)._replace(where=where)
        found = form.read(path)
        if form.kind == "torch":
            found, taken = unwrapped(found, use_ema)
    except ImportError as error:
        raise MissingPackageError(
            f"{where}: the package {error.name} that reads it is not installed; "
            "pip install convjax[weights]"
        ) from error
    except UnicodeError as error:
        raise ValueError(f"{where} is truncated or damaged; fetch it again") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:  # each library raises its own kinds on a damaged file
        reason = str(error).partition("\n")[0][:160]
        raise ValueError(f"{where} is truncated or damaged ({reason}); fetch it again") from error
    arrays = _arrays(found, where)
    if form.kind == "torch":
        arrays = drop_module_prefix(arrays)
    if not arrays:
        raise ValueError(f"{where} holds no arrays")
    return Arrays(form.kind, arrays, where, taken)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read all dtypes: the NumPy reader of older versions knows neither bfloat16 nor float8."""
    import safetensors

    data = path.read_bytes()
    # The library's bare entry point: it checks the file, but hands its entries out in any order.
    entries = dict(safetensors.deserialize(data))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {
        name: np.frombuffer(entry["data"], _dtype(entry["dtype"], name)).reshape(entry["shape"])
        for name, entry in ((name, entries[name]) for name in header if name in entries)
    }


def _dtype(word: str, name: str) -> np.dtype:
    words = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_, "C64": np.complex64}
    words |= {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    if word in words:
        return np.dtype(words[word])
    if re.fullmatch(r"[FIU](8|16|32|64)", word):
        letter = {"F": "f", "I": "i", "U": "u"}[word[0]]
        return np.dtype(f"<{letter}{int(word[1:]) // 8}")
    raise ValueError(f"{name!r} has dtype {word}, which NumPy does not know")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read NumPy's archive; what an array's header declares is held against its bytes."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        declared, size = sum(e.file_size for e in archive.infolist()), path.stat().st_size
        if declared > 50 * size + 2**24:
            raise ValueError(f"its entries declare {declared} bytes, and the whole file has {size}")
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            file = io.BytesIO(archive.read(entry))
            version = np.lib.format.read_magic(file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if header is None:
                raise ValueError(f"{name!r} is of NumPy's format {version}, which is not read")
            shape, by_column, dtype = header(file)
            if dtype.hasobject:
                raise ValueError(f"{name!r} has dtype {dtype}, not numbers")
            array = np.frombuffer(file.read(), dtype)
            arrays[name] = array.reshape(shape, order="F" if by_column else "C")
    return arrays


def _read_shards(path: Path) -> dict[str, Any]:
    """Read the files that an index names, all of them in its folder."""
    arrays: dict[str, Any] = {}
    for name in shards_of(path):
        arrays |= read(path.parent / name).arrays
    places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    if absent := [name for name in places if name not in arrays]:
        raise ValueError(f"its shards do not hold {', '.join(absent[:8])}")
    return arrays


def _read_inside(path: Path, use_ema: bool = True) -> Arrays:
    """Read the one file of weights in an archive."""
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if any(name.endswith("data.pkl") for name in sizes):
            raise ValueError("it is an archive of torch.save; name it *.pth")
        endings = tuple(ending for ending in FORMATS if ending not in (".zip", ".index.json"))
        # What macOS puts beside every file is none of them.
        names = (name for name in sizes if not name.startswith("__MACOSX/"))
        inside = [name for name in names if name.lower().endswith(endings)]
        if len(inside) != 1:
            held = f"{len(inside)} ({', '.join(inside[:8])})" if inside else "none"
            raise ValueError(
                f"an archive is read where one file of weights is in it, and it holds {held}; "
                "unpack it and give the file"
            )
        size = path.stat().st_size
        if sizes[inside[0]] > max(LARGEST_RATIO * size, SMALL):
            raise ValueError(f"it would unpack to far more than its {size} bytes")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(inside[0]).name
            file.write_bytes(archive.read(inside[0]))
            try:
                return read(file, use_ema=use_ema)
            except ValueError as error:
                reason = str(error).replace(str(file), inside[0])
                raise ValueError(f"in it, {reason}") from error


FORMATS = {
    ".safetensors": _Format("torch", (SAFETENSORS,), _read_safetensors),
    ".pth": (torch := _Format("torch", (ZIP, PICKLE), read_torch)),
    ".pt": torch,
    ".bin": torch,
    ".ckpt": torch,
    ".tar": torch,
    ".npz": _Format("torch", (ZIP,), _read_npz),
    ".index.json": _Format("torch", ("JSON",), _read_shards),
    ".h5": (keras := _Format("keras", (HDF5,), read_keras)),
    ".hdf5": keras,
    ".keras": _Format("keras", (ZIP,), read_archive),
    ".zip": _Format("", (ZIP,), _read_inside),
}
del torch, keras


def _existing(source: Any) -> Path:
    """Return the path of a file that is there, or say which files are."""
    if not isinstance(source, str | os.PathLike):
        wrong_type("source", source, "a file of weights, or a mapping from names to arrays")
    path = checked_path("source", source)
    if os.path.isdir(path):
        found = of_hub(_weights_in(path))
        usual = found[:1] and (found[0] in _HUB or os.path.exists(path / "config.json"))
        if usual and len(found) == 1:
            return existing_file("source", path / found[0], "")
        if any(os.path.exists(path / name) for name in _ORBAX):
            raise ValueError(
                f"source={str(path)!r} is a checkpoint of Orbax, whose names are no reference's; "
                f"with state = orbax.checkpoint.StandardCheckpointer().restore("
                f"{os.path.abspath(path)!r}, nnx.state(net)), {_STATE}"
            )
        within = ", ".join(_weights_in(path)) or "none"
        raise ValueError(f"source={str(path)!r} is a directory; files of weights in it: {within}")
    hint = "" if os.path.exists(path) else _nearest(path, os.fspath(source))
    return existing_file("source", path, hint)


def _format(path: Path, where: str) -> _Format:
    """Return the format of a file, after a look at its name and first bytes."""
    form = next((f for ending, f in FORMATS.items() if path.name.lower().endswith(ending)), None)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from error
    if not head:
        raise ValueError(f"{where} is empty; fetch it again")
    content = _content(head)
    if form is None:
        if content == SAFETENSORS:
            return FORMATS[".safetensors"]
        if is_torch(path, head):
            return FORMATS[".pth"]
        known = ", ".join(FORMATS)
        raise ValueError(f"{where} has the unknown extension {path.suffix!r}; known are {known}")
    if content not in form.contents:
        expected = " or ".join(form.contents)
        rename = [e for e, f in FORMATS.items() if content in f.contents]
        hint = f"; if it holds weights, name it *{rename[0]}" if rename else ""
        raise ValueError(
            f"{where} holds {content or 'something unknown, or it is truncated'}, where a "
            f"{path.suffix} file holds {expected}{hint}"
        )
    return form


def _content(head: bytes) -> str | None:
    """Say what a file is by its first bytes; None where they tell nothing."""
    # A safetensors file begins with its header's length, and the header is JSON.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000:
        return SAFETENSORS
    raw, text = head, head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    fits = (name for sign, name in SIGNATURES.items() if raw.startswith(sign))
    return next(fits, None) or next(
        (name for sign, name in SIGNATURES.items() if text.startswith(sign)), None
    )


def _weights_in(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in names if name.lower().endswith(tuple(FORMATS))]


def of_hub(names: Iterable[str]) -> list[str]:
    """Return the files of a repository that may hold its weights; one where that is clear."""
    files = sorted(name for name in names if name.lower().endswith(tuple(FORMATS)))
    usual = [name for name in _HUB if name in files]
    others = [n for n in files if "/" not in n and not re.fullmatch(_NO_WEIGHTS, n.lower())]
    return usual[:1] or others


def shards_of(index: Path) -> list[str]:
    """Return the names of the files beside an index that hold a sharded checkpoint.

    Raises:
      ValueError: an index that has no map of weights, or names what is no file beside it.
    """
    found = json.loads(index.read_text(encoding="utf-8"))
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError("an index of a sharded checkpoint has a weight_map, and it has none")
    names = list(dict.fromkeys(places.values()))
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(".index.json"):
            raise ValueError(
                f"its weight_map names {name!r}, which is no file of weights beside it"
            )
    return names


def index_beside(source: Any) -> str | None:
    """Return the path of the index that names a file as one shard, where it lies beside it."""
    if isinstance(source, Mapping):
        return None
    path = checked_path("source", source)
    for index in sorted(path.parent.glob("*.index.json")):
        # One that cannot be read is of something else.
        with contextlib.suppress(ValueError, OSError, RecursionError):
            if path.name in shards_of(index):
                return str(index)
    return None


def _nearest(path: Path, source: str) -> str:
    if "://" in source:
        return "an address is not opened: fetch the file, then give its path"
    if re.fullmatch(r"(hf[-_]hub:)?[\w.-]+/[\w.-]+", source) and not os.path.exists(path.parent):
        return f"if it is a repository of the Hugging Face hub, models.from_hub({source!r}, …)"
    if not os.path.isdir(path.parent):
        return f"there is no folder {str(path.parent)!r}"
    names = _weights_in(path.parent)
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:3]
    return f"in that folder there is {' or '.join(near) or 'no file of weights'}"


def _arrays(found: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise ValueError(f"{where}: the key {name!r} is {type(name).__name__}, not a name")
        arrays[name] = _array(name, value, where)
    return arrays


def _array(name: str, value: Any, where: str) -> np.ndarray:
    hint = ""
    if isinstance(value, Mapping) and where != _MAPPING:
        hint = "; save the network's state_dict() alone"
    elif isinstance(value, Mapping):
        deeper = any(isinstance(inner, Mapping) for inner in value.values())
        hint = f"; where it is a state of Flax, {_STATE}" if deeper else ""
        hint = hint or "; give the inner mapping itself"
    refused = ValueError(f"{where}: {name!r} is {type(value).__name__}, not an array{hint}")
    if not hasattr(value, "__array__"):
        raise refused
    try:
        array = of_tensor(value) if type(value).__module__.startswith("torch") else value
        array = np.asarray(array)
    except (TypeError, RuntimeError) as error:  # sparse or quantised
        raise refused from error
    if array.dtype.kind in "OSUMm" or array.dtype.names:
        raise ValueError(f"{where}: {name!r} has dtype {array.dtype}, which is no number")
    return array


def write_safetensors(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays as safetensors, whole or not at all: an old file stays until the new one stands.

    Args:
      path: the file; its name ends in .safetensors, and its folder exists.
      arrays: arrays by name.
      metadata: words about the file; PyTorch's readers look for ``{"format": "pt"}``.

    Raises:
      ValueError: another extension; a folder that does not exist or cannot be written.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from convjax.models._weights._formats import read, write_safetensors
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_safetensors(f"{folder}/a.safetensors", {"bias": np.arange(3.0)})
      ...     read(f"{folder}/a.safetensors").arrays["bias"].tolist()
      [0.0, 1.0, 2.0]
    """
    path = checked_path("file", path)
    where = f"file={str(path)!r}"
    if path.suffix != ".safetensors":
        raise ValueError(f"{where} must end in .safetensors, not in {path.suffix!r}")
    if not os.path.isdir(path.parent):
        raise MissingFileError(f"{where}: there is no folder {str(path.parent)!r}; make it first")
    if os.path.isdir(path):
        raise ValueError(f"{where} is a directory")
    try:
        from safetensors import numpy as safetensors
    except ImportError as error:
        raise MissingPackageError(
            f"{where}: the package safetensors is not installed; pip install convjax[weights]"
        ) from error
    # ascontiguousarray would make a vector of a scalar; the library reads memory in C order.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    data = safetensors.save(ordered, None if metadata is None else dict(metadata))
    try:
        _replace(path, data)
    except OSError as error:
        raise ValueError(f"{where} cannot be written: {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file and rename: a crash leaves the old file or the new, never a half."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
