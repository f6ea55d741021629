"""PyTorch's files, read without PyTorch: raw arrays, and a pickle of a few known classes."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convjax.models._weights._torch_pickle import Storage, Tensor, unpickle

# Moving averages of the weights, which training scripts evaluate and publish, in timm's order.
AVERAGES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict"),
    *("params_ema", "ema_model", "ema", "teacher"),
)
PLAIN = (
    *("state_dict", "model_state_dict", "model", "net", "network", "params", "module"),
    "student",
)
CODE = 2**20
MAGIC = 0x1950A86A20F9469CFC6C


def read_torch(path: Path) -> Any:
    """Return what a file of PyTorch holds; nothing in it is executed.

    Args:
      path: a .pth, .pt, .bin, .ckpt or .tar file, in either of torch.save's formats.

    Raises:
      ValueError: objects other than arrays and plain ones.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        data = path.read_bytes()
        if data.startswith(b"PK"):
            raise EOFError("the archive's end is missing")
        return _read_legacy(data)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error


def _read_zip(path: Path) -> Any:
    """Read what torch.save writes: an archive of a pickle and one entry for each storage."""
    _check_archive(path)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise ValueError("a TorchScript archive; save the network's state_dict()")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        found: dict[str, Storage] = {}

        def storage(kind: np.dtype, key: str, count: int) -> Storage:
            if key not in found:
                data = archive.read(f"{root}data/{key}")
                found[key] = Storage(kind, count, order == b"big", data)
            return found[key].of(kind, count)

        return unpickle(archive.read(pickled), storage, CODE + path.stat().st_size)[0]


def is_torch(path: Path, head: bytes) -> bool:
    """Whether a file begins as torch.save's do, in either of its formats."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    return MAGIC.to_bytes(10, "little") in head[:32]


def _read_legacy(data: bytes) -> Any:
    """Read what torch.save wrote before 1.6: pickles, and then the storages one after another."""
    found: dict[str, Storage] = {}

    def storage(kind: np.dtype, key: str, count: int) -> Storage:
        if key not in found:
            found[key] = Storage(kind, count, not info.get("little_endian", True), b"")
        return found[key].of(kind, count)

    info: dict[str, Any] = {}
    most = CODE + len(data)
    magic, end = unpickle(data, storage, most)
    if magic != MAGIC:
        raise ValueError("a pickle that torch.save did not write; save the state_dict() with it")
    _, end = unpickle(data, storage, most, end)
    given, end = unpickle(data, storage, most, end)
    info.update(given if isinstance(given, dict) else {})
    content, end = unpickle(data, storage, most, end)
    keys, end = unpickle(data, storage, most, end)
    for key in keys:
        if key not in found:
            raise ValueError(f"it lists the storage {key!r}, which no array has")
        size = int.from_bytes(data[end : end + 8], "little") * found[key].kind.itemsize
        found[key].fill(data[end + 8 : end + 8 + size])
        end += 8 + size
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive that torch.save did not write, or that holds less than it declares."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise ValueError("a zip archive that torch.save did not write")
    # torch.save compresses nothing but code, and no two of its entries share bytes.
    declared, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if declared > size + CODE:
        raise ValueError(f"its entries declare {declared} bytes, and the whole file has {size}")


def unwrapped(content: Any, use_ema: bool) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the state dict within a checkpoint, and the names under which it lies there.

    What stands beside it (epoch, optimiser, NumPy's arrays, …) is passed over unless it is a
    tensor. A name that is none of ``AVERAGES`` and ``PLAIN`` is taken where nothing else holds
    arrays by name.

    Args:
      content: of a file.
      use_ema: whether a moving average is taken where there is one, as timm does.

    Raises:
      ValueError: no state dict, or several that nothing tells apart; no other than an average.
    """
    names: list[str] = []
    while isinstance(content, Mapping):
        if len(names) > 2 * len(PLAIN):
            raise ValueError(f"its {names[-1]!r} holds itself, or another wrapper, again and again")
        name = _wrapper(content, use_ema)
        if name is None:
            return {n: getattr(value, "array", value) for n, value in content.items()}, (*names,)
        beside = [k for k, v in content.items() if isinstance(v, Tensor) and v.ndim]
        if beside:
            raise ValueError(f"beside its {name!r} it holds the arrays {', '.join(beside)}")
        content = content[name]
        names.append(name)
    kind = "Tensor" if hasattr(content, "__array__") else type(content).__name__
    raise ValueError(f"it holds one {kind}, not a state dict; save the network's state_dict()")


def _wrapper(content: Mapping[Any, Any], use_ema: bool) -> str | None:
    """Return the name under which a checkpoint's state dict lies; None where it is one itself."""
    if {"state", "param_groups"} == {*content}:
        raise ValueError("it holds an optimiser's state alone; save the network's state_dict()")
    averages = [name for name in AVERAGES if isinstance(content.get(name), Mapping)]
    plain = [name for name in PLAIN if isinstance(content.get(name), Mapping)]
    if found := (averages + plain if use_ema else plain):
        return found[0]
    if any(isinstance(value, Tensor) and value.ndim for value in content.values()):
        return None
    others = [
        n for n, v in content.items() if n not in averages and isinstance(n, str) and _named(v)
    ]
    if len(others) > 1:
        held = ", ".join(map(repr, others[:8]))
        raise ValueError(
            f"it holds several networks, {held}: save the one that you want by itself, "
            f"torch.save(torch.load(file)[{others[0]!r}], …)"
        )
    if averages and not others:
        raise ValueError(
            f"it holds a moving average alone, {averages[0]!r}, and use_ema=False asks for the "
            "other weights; use_ema=True reads it"
        )
    return others[0] if others else None


def _named(value: Any) -> bool:
    """Whether arrays by name are held by a mapping, or by one within it."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        # A mapping may hold itself, or one other many times.
        if isinstance(one, Mapping) and id(one) not in seen and all(type(n) is str for n in one):
            if any(hasattr(v, "__array__") and np.ndim(v) for v in one.values()):
                return True
            seen.add(id(one))
            waiting += one.values()
    return False


def drop_module_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop the prefix that PyTorch's parallel and averaging wrappers give to all names."""
    names = [name for name in arrays if name != "n_averaged"]  # the average's own counter
    if not names or not all(name.startswith("module.") for name in names):
        return arrays
    return {name.removeprefix("module."): arrays[name] for name in names}


def of_tensor(tensor: Any) -> Any:
    """Return a PyTorch tensor as NumPy's, bfloat16 and float8 included."""
    import torch  # pyright: ignore[reportMissingImports]

    tensor = tensor.detach().cpu()
    own = getattr(ml_dtypes, str(tensor.dtype).removeprefix("torch."), None)
    if own is None:
        return tensor.numpy()
    bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
    return tensor.view(bits).numpy().view(own)
