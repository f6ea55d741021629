"""CIFAR's Python version: a pickle of one array, names and labels, and nothing that could act.

A name in the pickle is looked up in one table here and never imported, as in the reader of
PyTorch's files. What the table gives out cannot be changed, so that no pickle can reach further.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import shown
from convjax._pickles import Call, check_numbers

PIXELS = 3 * 32 * 32


class _Dtype:
    """NumPy's dtype, as an array's is pickled; bytes alone are taken."""

    def __init__(self, word: Any = "", *_: Any):
        if word not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"it holds an array of {shown(word)}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Take what is pickled of a dtype: bytes have no order."""


class _Array:
    """An array of bytes, which its state fills."""

    def __init__(self, *_: Any):
        self.array = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype)):
            raise pickle.UnpicklingError("it holds an array of an odd form")
        _, shape, _, columns, content = state
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not sizes or columns or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it holds an array of an odd form")
        if len(shape) > 2 or math.prod(shape) != len(content):
            raise pickle.UnpicklingError(f"it declares an array {shape} and holds {len(content)}")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("because of _codecs.encode")
    return text.encode("latin1")


TABLE = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": Call(_encode),
    **{f"numpy.{core}.multiarray._reconstruct": Call(_Array) for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (full := f"{module}.{name}") not in TABLE:
            raise pickle.UnpicklingError(
                f"it is not read because of {full}: it is no array of CIFAR"
            )
        return TABLE[full]


def python_records(file: Path, names: tuple[str, ...], count: int | None) -> np.ndarray:
    """Return what a file of the Python version holds in the form of the binary one.

    Args:
      file: such as ``data_batch_1``.
      names: of the labels, in the order that they have in a record.
      count: records that it must have, or None.

    Returns:
      uint8 ``(N, len(names) + 3072)``: labels, then the pixels.

    Raises:
      ValueError: a file that cannot be read or holds something else, named.
    """
    try:
        held = _unpickled(file.read_bytes())
        if not isinstance(held, dict):
            raise ValueError("it holds no dictionary")
        held = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in held.items()}
        if missing := [name for name in ("data", *names) if name not in held]:
            raise ValueError(f"it holds no {missing[0]!r}; it holds {', '.join(map(str, held))}")
        pixels = held["data"].array if isinstance(held["data"], _Array) else np.zeros(0)
        if pixels.shape[1:] != (PIXELS,) or not len(pixels):
            raise ValueError(f"its data are no array of bytes of the shape (N, {PIXELS})")
        labels = [_column(name, held[name], len(pixels)) for name in names]
        if count is not None and len(pixels) != count:
            raise ValueError(f"it holds {len(pixels)} images; there must be {count}")
    except Exception as error:  # damage breaks a pickle in any way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"file={str(file)!r} cannot be read as CIFAR: {reason}") from error
    return np.concatenate([*labels, pixels], 1)


def _column(name: str, labels: Any, count: int) -> np.ndarray:
    """Return labels as a column of bytes."""
    whole = isinstance(labels, list) and all(type(n) is int and 0 <= n < 256 for n in labels)
    if not whole or len(labels) != count:
        raise ValueError(f"its {name} are no list of {count} labels")
    return np.array(labels, np.uint8)[:, None]


def _unpickled(data: bytes) -> Any:
    """Return what the pickle holds."""
    check_numbers(io.BytesIO(data), len(data))
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()
