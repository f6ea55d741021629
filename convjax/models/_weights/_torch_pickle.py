"""The pickle in a PyTorch file: dictionaries, numbers and tensors, and nothing that could act.

A name in the pickle is looked up in one table here and never imported. What the table gives out is
of this file, or a built-in type that cannot be changed, so that no pickle can reach further.
"""

import io
import math
import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from convjax._pickles import Call, check_numbers

_DTYPES = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64")},
    **{name: np.dtype(name) for name in ("complex128", "bool", "int8", "int16", "int32")},
    **{name: np.dtype(name) for name in ("int64", "uint8", "uint16", "uint32", "uint64")},
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz")
    },
}
_STORAGES = {
    **{"Half": "float16", "Float": "float32", "Double": "float64", "BFloat16": "bfloat16"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128", "Bool": "bool"},
    **{"Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64", "Byte": "uint8"},
    "Untyped": "uint8",
}

SHARED = 16  # times the size of the file: what all of its tensors may declare


class Storage:
    """The numbers that one or several tensors look into.

    Args:
      kind: of the numbers.
      count: how many there are.
      big: whether their bytes stand in the other order.
      data: the bytes; none where they follow later.
    """

    def __init__(self, kind: np.dtype, count: int, big: bool, data: bytes):
        self.kind, self.count, self.big = kind, count, big
        self.bytes = np.zeros(0, np.uint8)
        self.tensors: list[Tensor] = []
        if data:
            self.fill(data)

    def of(self, kind: np.dtype, count: int) -> "Storage":
        """Return itself; refuse a second view of it that declares something else."""
        if (kind, count) != (self.kind, self.count):
            raise pickle.UnpicklingError("it declares one storage in two ways: it is damaged")
        return self

    def fill(self, data: bytes) -> None:
        """Set the bytes."""
        if len(data) != self.count * self.kind.itemsize:
            raise EOFError(f"a storage of {self.count} {self.kind} has {len(data)} bytes")
        self.bytes = np.frombuffer(data, np.uint8)


class Tensor:
    """A view into a storage, which may be filled after it was made."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, kind: np.dtype):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        self.kind = kind

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a tensor: it is damaged")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.array, dtype)

    @property
    def array(self) -> np.ndarray:
        """Its numbers."""
        size = self.kind.itemsize
        if not self.shape or all(self.shape):
            last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
            if (self.offset + last + 1) * size > len(self.storage.bytes):
                raise EOFError("a tensor reaches beyond its storage")
        else:
            return np.zeros(self.shape, self.kind)
        values = self.storage.bytes
        values = values[: len(values) // size * size].view(
            self.kind.newbyteorder(">") if self.storage.big and size > 1 else self.kind
        )[self.offset :]
        steps = [s * size for s in self.strides]
        return np.lib.stride_tricks.as_strided(values, self.shape, steps, writeable=False).astype(
            self.kind
        )


class _Passed:
    """An object that is passed over: arguments of a script, a device."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Namespace(_Passed):
    """argparse's, with nothing in it."""


class _Ordered(dict):
    """An ordered dictionary, or one that Lightning lets attributes be read of, with none."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Default(_Ordered):
    """A dictionary whose factory is passed over: what is not there is not made."""

    def __init__(self, *_: Any):
        super().__init__()


class _Kind:
    """A storage's class, or a dtype."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a class: it is damaged")


class dtype(_Kind):  # noqa: N801
    """torch.float32 and the like: the name is what messages call it."""


def _foreign(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(
        f"it is not read because of {what}: it holds more than arrays; where you trust it, open "
        "it with PyTorch and save its state_dict() alone"
    )


class _Number:
    """NumPy's dtype, as its scalars are pickled."""

    def __init__(self, word: Any = "", *_: Any):
        if not isinstance(word, str) or not re.fullmatch(_WORDS, word):
            raise _foreign(f"numpy.dtype({word!r})")
        self.dtype = np.dtype(word)

    def __setstate__(self, state: Any) -> None:
        if len(state) > 1 and state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


# Numbers and texts; an object could be anything.
_WORDS = r"[iu][1248]|f[248]|b1|c8|c16|[SU][1-9][0-9]{0,5}"


class NumpyArray:
    """NumPy's array, as it is pickled: made first, and told what it holds afterwards."""

    array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, data = state if len(state) == 5 else (None,) * 5
        self.array = _numbers(data, kind, shape, "F" if by_column else "C")

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.array, dtype)


def _numbers(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    whole = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**62 for n in shape)
    if not isinstance(kind, _Number) or not isinstance(data, bytes | bytearray) or not whole:
        raise pickle.UnpicklingError("it holds a NumPy array that is none: it is damaged")
    if len(data) != math.prod(shape) * kind.dtype.itemsize or len(shape) > 32:
        raise EOFError(f"an array {shape} of {kind.dtype} has {len(data)} bytes")
    found = np.frombuffer(bytes(data), kind.dtype) if data else np.zeros(0, kind.dtype)
    return found.reshape(shape, order="F" if order == "F" else "C")


def _array(*_: Any) -> NumpyArray:
    return NumpyArray()


def _array_of(data: Any, kind: Any, shape: Any, order: Any) -> NumpyArray:
    found = NumpyArray()
    found.array = _numbers(data, kind, shape, order)
    return found


def _path(kind: type[pathlib.PurePath]) -> Call:
    """Return what makes a text of a path's parts."""

    def text(*parts: Any) -> str:
        if not all(isinstance(part, str) for part in parts):
            raise pickle.UnpicklingError("it holds a path that is none: it is damaged")
        return str(kind(*parts))

    return Call(text)


def _scalar(kind: Any, data: Any = b"") -> Any:
    if not isinstance(kind, _Number) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("because of a NumPy scalar of an odd type")
    return np.frombuffer(data, kind.dtype, 1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("because of _codecs.encode")
    return text.encode("latin1")


def _no_bytes(*_: Any) -> bytes:
    return b""  # where there are some, they are encoded


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_NUMPY = {
    **{
        f"numpy.{core}.{name}": Call(function)
        for core in ("core", "_core")
        for name, function in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", _array),
            ("numeric._frombuffer", _array_of),
        )
    },
    "numpy.dtype": _Number,
    "numpy.ndarray": _Passed,
}
# What scripts save beside the weights, and what a dictionary of theirs may have for a factory.
_BESIDE = {
    **{
        f"{module}.{name}": found
        for module in ("builtins", "__builtin__")
        for name, found in (
            *(("set", set), ("bytes", Call(_no_bytes))),
            *((name, _Passed) for name in ("bool", "dict", "float", "int", "list", "long")),
            *((name, _Passed) for name in ("object", "str", "tuple", "unicode")),
        )
    },
    "collections.defaultdict": _Default,
    **{
        f"{module}.{kind}{flavour}Path": _path(path)
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure")
        for flavour, path in (
            ("Posix", pathlib.PurePosixPath),
            ("Windows", pathlib.PureWindowsPath),
        )
    },
    **{
        f"{module}.AttributeDict": _Ordered
        for module in (
            *("lightning.fabric.utilities.data", "lightning_fabric.utilities.data"),
            *("lightning.pytorch.utilities.parsing", "pytorch_lightning.utilities.parsing"),
        )
    },
}


def _table(most: int) -> dict[str, Any]:
    """Return what a pickle may name.

    A tensor of more bytes than these is refused, and so are tensors that share the same numbers so
    often that all together would have many times as many.
    """
    left = SHARED * most

    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, kind: np.dtype) -> Tensor:
        nonlocal left
        numbers = isinstance(shape, tuple) and isinstance(strides, tuple)
        whole = (offset, *shape, *strides) if numbers else (None,)
        right = all(type(n) is int and 0 <= n < 2**62 for n in whole)
        if not isinstance(storage, Storage) or not right or len(shape) != len(strides):
            raise pickle.UnpicklingError("it holds a tensor without a storage: it is damaged")
        if math.prod(shape) * kind.itemsize > most or len(shape) > 32:
            raise pickle.UnpicklingError(f"it declares a tensor {shape}, and the file is smaller")
        left -= math.prod(shape) * kind.itemsize
        if left < 0:
            raise pickle.UnpicklingError("its tensors declare far more than the file holds")
        return Tensor(storage, offset, shape, strides, kind)

    def second(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
        return tensor(storage, offset, shape, strides, getattr(storage, "kind", np.dtype("u1")))

    def third(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
        kind = rest[2] if len(rest) > 2 else None
        if not isinstance(kind, dtype):
            raise pickle.UnpicklingError("it holds a tensor without a dtype: it is damaged")
        return tensor(storage, offset, shape, strides, kind.dtype)

    return {
        "collections.OrderedDict": _Ordered,
        "argparse.Namespace": Namespace,
        "torch.device": _Passed,
        "torch.Size": tuple,
        "torch._utils._rebuild_tensor_v2": Call(second),
        "torch._utils._rebuild_tensor_v3": Call(third),
        "torch._utils._rebuild_parameter": Call(_parameter),
        "torch._utils._rebuild_parameter_with_state": Call(_parameter),
        "_codecs.encode": Call(_encode),
        **_NUMPY,
        **_BESIDE,
        **{f"torch.{name}": dtype(kind) for name, kind in _DTYPES.items()},
        **{f"torch.{name}Storage": _Kind(_DTYPES[kind]) for name, kind in _STORAGES.items()},
        "torch.storage.UntypedStorage": _Kind(_DTYPES["uint8"]),
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, storage: Callable[..., Storage], most: int):
        super().__init__(file)
        self.storage, self.known = storage, _table(most)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self.known:
            raise _foreign(full)
        return self.known[full]

    def persistent_load(self, pid: Any) -> Storage:
        parts = list(pid) if isinstance(pid, tuple) else []
        word, kind, key, _, count, view = (*parts, *(None,) * 6)[:6]
        if word != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str):
            raise pickle.UnpicklingError("it refers to something else than a storage")
        if type(count) is not int or count < 0 or view is not None:
            raise pickle.UnpicklingError("it holds views of storages, as PyTorch before 0.4 did")
        return self.storage(kind.dtype, key, count)


def unpickle(
    data: bytes, storage: Callable[..., Storage], most: int, start: int = 0
) -> tuple[Any, int]:
    """Return what one pickle holds, and where it ends.

    Args:
      data: bytes with the pickle in them.
      storage: gives the storage of a dtype, a key and a count.
      most: bytes that a tensor may have.
      start: where the pickle begins.

    Raises:
      UnpicklingError: a class that is not of PyTorch's arrays.
    """
    file = io.BytesIO(data)
    file.seek(start)
    try:
        check_numbers(file, len(data))
    except ValueError as error:
        told = "its text is damaged" if isinstance(error, UnicodeError) else str(error)
        raise EOFError(told) from error
    end = file.tell()
    return _Unpickler(io.BytesIO(data[start:end]), storage, most).load(), end
