"""What an argument may be: refused here, in one way, with the argument's name and its value.

Every function takes the argument's name first, as the caller wrote it ("``conv: strides``" where
one function stands for several), and returns the value in its plain form: a Python ``int`` for any
integer, NumPy's among them, a ``float`` for any real number. What has the right type and the wrong
value is a ValueError; what has the wrong type is a ``WrongTypeError``, which is a TypeError too.
"""

import difflib
import math
import operator
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

# What padding may be called, in convolutions and pools.
PADDINGS = ("SAME", "SAME_LOWER", "VALID", "CAUSAL", "CIRCULAR", "REFLECT")


class WrongTypeError(TypeError, ValueError):
    """An argument of a wrong type: a TypeError, and a ValueError like every other refusal."""


class MissingFileError(FileNotFoundError, ValueError):
    """A file or folder that is not there: a FileNotFoundError, and a ValueError."""


class MissingPackageError(ImportError, ValueError):
    """A package that is not installed: an ImportError, and a ValueError."""


def shown(value: object, most: int = 80) -> str:
    """Return a value as a message shows it: short, and whatever its ``repr`` does.

    An array is shown by dtype and shape, anything else by the beginning of its ``repr``.
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and shape and dtype is not None and not isinstance(value, type):
        return f"<{dtype} of the shape {shape}>"
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def wrong_type(name: str, value: object, expected: str) -> NoReturn:
    """Raise the ``WrongTypeError`` of an argument: its name, its value, what it should be."""
    raise WrongTypeError(f"{name}={shown(value)} ({type(value).__name__}) must be {expected}")


def refuse(argument: str, value: object, known: Iterable[str], every: str = "") -> NoReturn:
    """Raise a ValueError that names the argument, the value and the nearest known names.

    All of them follow, or in their place ``every``, a sentence that says what lists them.
    """
    known = sorted(known)
    named = {name.upper(): name for name in known}
    near = difflib.get_close_matches(str(value).upper(), named, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(named[name]) for name in near)}? " if near else ""
    every = every or f"choose from {', '.join(known)}"
    raise ValueError(f"{argument}={value!r} is not known; {hint}{every}")


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Return one of some names."""
    known = tuple(known)
    if not isinstance(value, str):
        wrong_type(name, value, f"one of {', '.join(map(repr, known))}")
    if value not in known:
        refuse(name, value, known)
    return value


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Return a sequence of strings as a tuple; one string is none."""
    if not _several(value):
        wrong_type(name, value, "a sequence of strings")
    return tuple(instance(f"{name}[{i}]", one, str, "a string") for i, one in enumerate(value))


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return any integer, NumPy's among them, as an int; a bool, a float or a string is none."""
    if isinstance(value, bool | np.bool_):
        wrong_type(name, value, "an integer")
    try:
        found = operator.index(value)
    except (TypeError, jax.errors.ConcretizationTypeError):
        wrong_type(name, value, "an integer")
    if least is not None and found < least:
        raise ValueError(f"{name}={found} must be at least {least}")
    if most is not None and found > most:
        raise ValueError(f"{name}={found} must be at most {most}")
    return found


def integers(
    name: str, value: Any, *, least: int | None = None, length: int | None = None
) -> tuple[int, ...]:
    """Return a sequence of integers as a tuple; ``length`` of them, where it is given."""
    if not _several(value):
        wrong_type(name, value, "a sequence of integers")
    found = tuple(integer(f"{name}[{i}]", entry, least) for i, entry in enumerate(value))
    if length is not None and len(found) != length:
        raise ValueError(f"{name}={shown(value)} has {len(found)} entries; it must have {length}")
    return found


def _several(value: Any) -> bool:
    """Whether something is a sequence: no text, set or mapping, nor an array of no axis."""
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):
        return False
    return not isinstance(value, np.ndarray | jax.Array) or value.ndim > 0


def sizes(
    name: str, value: Any, *, rank: int | None = None, least: int | None = 1
) -> int | tuple[int, ...]:
    """Return one integer, which stands for every axis, or a tuple of one for each axis."""
    several = _several(value)
    if not (several or hasattr(value, "__index__")):
        wrong_type(name, value, "an integer, or a sequence of one for each axis")
    if not several:
        return integer(name, value, least)
    found = integers(name, value, least=least)
    _one_an_axis(name, value, len(found), rank, "one integer, or one for each axis")
    return found


def padding(
    name: str, value: Any, *, rank: int | None = None, known: Sequence[str] = PADDINGS
) -> str | int | tuple[int | tuple[int, int], ...]:
    """Return a name, an integer, or a tuple of an integer or a pair (low, high) for each axis."""
    if isinstance(value, str):
        choice(name, value, known)
        if value == "CAUSAL" and rank not in (None, 1):
            raise ValueError(f"{name}='CAUSAL' is for 1 spatial axis, and here are {rank}")
        return value
    right = "a name, an integer, or an integer or pair (low, high) for each axis"
    if not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        if not hasattr(value, "__index__"):
            wrong_type(name, value, right)
        return integer(name, value, 0)
    found = []
    for i, entry in enumerate(value):
        side = sizes(f"{name}[{i}]", entry, least=0)
        if isinstance(side, tuple) and len(side) != 2:
            raise ValueError(f"{name}[{i}]={shown(entry)} must be an integer or a pair (low, high)")
        found.append(side)
    _one_an_axis(name, value, len(found), rank, right)
    return tuple(found)


def _one_an_axis(name: str, value: Any, found: int, rank: int | None, right: str) -> None:
    if not found or (rank is not None and found != rank):
        axes = "" if rank is None else f" for {rank} spatial axes"
        raise ValueError(f"{name}={shown(value)} has {found} entries{axes}; give {right}")


def number(
    name: str,
    value: Any,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
) -> float:
    """Return a finite real number as a float, within bounds that it may touch or may not.

    NumPy's scalars and arrays of no axis are numbers; bools, strings and complex numbers are none.
    """
    real = isinstance(value, int | float | np.integer | np.floating) or _real_scalar(value)
    if isinstance(value, bool) or not real:
        wrong_type(name, value, "a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    except jax.errors.ConcretizationTypeError:
        wrong_type(name, value, "a number that is known while JAX traces")
    bounds = []
    if least is not None:
        bounds.append((found >= least, f"at least {least:g}"))
    if above is not None:
        bounds.append((found > above, f"greater than {above:g}"))
    if most is not None:
        bounds.append((found <= most, f"at most {most:g}"))
    if below is not None:
        bounds.append((found < below, f"less than {below:g}"))
    if not math.isfinite(found) or not all(holds for holds, _ in bounds):
        words = [words for _, words in bounds]
        words = words if math.isfinite(found) else ["finite", *words]
        raise ValueError(f"{name}={shown(value)} must be {' and '.join(words)}")
    return found


def _real_scalar(value: Any) -> bool:
    """Whether this is an array of no axis that holds one real number."""
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        return False
    real = jnp.issubdtype(value.dtype, jnp.integer) or jnp.issubdtype(value.dtype, jnp.floating)
    return value.shape == () and real


def numbers(
    name: str,
    value: Any,
    *,
    length: int | None = None,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
) -> tuple[float, ...]:
    """Return a sequence of finite real numbers as a tuple, each within bounds as for ``number``."""
    if not _several(value):
        wrong_type(name, value, "a sequence of numbers")
    bounds = {"least": least, "above": above, "most": most, "below": below}
    found = tuple(number(f"{name}[{i}]", entry, **bounds) for i, entry in enumerate(value))
    if length is not None and len(found) != length:
        raise ValueError(f"{name}={shown(value)} has {len(found)} entries; it must have {length}")
    return found


def flag(name: str, value: Any) -> bool:
    """Return True or False, NumPy's among them; nothing else is a flag."""
    if not isinstance(value, bool | np.bool_):
        wrong_type(name, value, "True or False")
    return bool(value)


def instance(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> Any:
    """Return a value of one of some types, which ``expected`` calls by a noun phrase."""
    if not isinstance(value, kinds):
        wrong_type(name, value, expected)
    return value


def function(name: str, value: Any, expected: str = "a function") -> Callable[..., Any]:
    """Return what can be called; a class is not taken for one of its instances."""
    if not callable(value) or isinstance(value, type):
        wrong_type(name, value, expected)
    return value


def dtype(name: str, value: Any) -> np.dtype:
    """Return a floating dtype, however it is written: ``"float32"`` or ``jnp.float32``."""
    try:
        # NumPy takes containers for structured dtypes, and None for float64.
        found = None if isinstance(value, list | tuple | dict | None) else jnp.dtype(value)
    except TypeError:
        found = None
    if found is None:
        wrong_type(name, value, "a floating dtype, such as 'float32' or jnp.bfloat16")
    if not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"{name}={found} must be a floating dtype, such as float32 or bfloat16")
    return found


def array(name: str, value: Any, *, ndim: int | Sequence[int] | None = None) -> Any:
    """Return an array of NumPy or JAX, with the dtype that JAX would give it.

    NumPy's default float64 becomes float32 unless JAX computes in 64 bits: so it does under
    ``jit``, and so it does here. Lists and numbers are refused, as by ``jax.numpy``'s functions.
    """
    arrays = np.ndarray | np.generic | jax.Array
    if not isinstance(value, arrays | type) and hasattr(value, "__jax_array__"):
        value = value.__jax_array__()  # a parameter of Flax's, say
    if not isinstance(value, arrays):
        wrong_type(name, value, "an array of NumPy or JAX")
    if isinstance(value, np.ndarray | np.generic):
        if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
            wrong_type(name, value, "an array of numbers")
        value = jnp.asarray(value)
    allowed = () if ndim is None else (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if allowed and value.ndim not in allowed:
        axes = " or ".join(map(str, allowed))
        raise ValueError(f"{name} has the shape {value.shape}; it must have {axes} axes")
    return value


def key(name: str, value: Any) -> jax.Array:
    """Return a single PRNG key, of either kind that JAX knows."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.ndim == 0:
            return value
        if value.dtype == np.uint32 and value.ndim == 1:
            return value
    wrong_type(name, value, "a single PRNG key, such as jax.random.key(0)")


def path(name: str, value: Any) -> Path:
    """Return a str or a path as a Path, a leading ``~`` replaced by the user's home folder."""
    try:
        text = os.fspath(value)
    except TypeError:
        wrong_type(name, value, "a path: a str or a pathlib.Path")
    if not isinstance(text, str):
        wrong_type(name, value, "a path: a str or a pathlib.Path")
    if not text or "\0" in text:
        raise ValueError(f"{name}={shown(value)} must be a path, not empty and without NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user
        return Path(text)


def place(name: str, value: Any) -> Path:
    """Return the path of what is there or can be made: no folder on the way to it is a file."""
    found = path(name, value)
    above = next(one for one in found.absolute().parents if os.path.exists(one))
    if not above.is_dir():
        raise ValueError(f"{name}={str(found)!r} lies below {str(above)!r}, which is no folder")
    return found


def existing_file(name: str, value: Any, hint: str = "") -> Path:
    """Return the path of a regular file: a pipe or a device would be waited for, or never end.

    What is not there is a ``MissingFileError``; ``hint`` says then what to do.
    """
    return _existing(name, value, hint, stat.S_IFREG)


def existing_folder(name: str, value: Any, hint: str = "") -> Path:
    """Return the path of a folder that is there, as ``existing_file`` does of a file."""
    return _existing(name, value, hint, stat.S_IFDIR)


_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _existing(name: str, value: Any, hint: str, expected: int) -> Path:
    found = path(name, value)
    said = f"{name}={str(found)!r}"
    try:
        kind = stat.S_IFMT(os.stat(found).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is a link to a file that does not exist" if found.is_symlink() else "does not exist"
        raise MissingFileError(f"{said} {what}" + (hint and f"; {hint}")) from error
    except (OSError, ValueError) as error:  # not allowed, a loop of links, no name at all
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{said} cannot be read: {reason}") from error
    if kind != expected:
        what = _KINDS.get(kind, "of another kind")
        wanted = "a regular file" if expected == stat.S_IFREG else "a folder"
        raise ValueError(f"{said} is {what}; it must be {wanted}")
    return found
