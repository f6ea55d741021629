"""Whether a malformed call ended well: refused in convjax by a good sentence, or right."""

import contextlib
import dataclasses
import io
import re
import signal
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import convjax
from tests.fuzz.kinds import Fresh

SECONDS = 10.0
REFUSALS = (ValueError, TypeError, FileNotFoundError, ImportError)
HOME = str(Path(convjax.__file__).parent)
EXPERIMENTS = str(Path(convjax.__file__).parent.parent / "experiments")


class Hang(BaseException):
    """A call took too long."""


class Outcome(NamedTuple):
    """What a call returned or raised."""

    result: Any
    error: BaseException | None


def outcome(function: Any, given: dict[str, Any]) -> Outcome:
    """Make a call: within a time limit, with warnings as errors, and saying nothing."""
    given = {name: v.make() if isinstance(v, Fresh) else v for name, v in given.items()}

    def stop(*_: Any) -> None:
        raise Hang(f"took longer than {SECONDS:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        silent = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            warnings.simplefilter("error")
            return Outcome(plain(function(**given)), None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Outcome(None, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def refusal(error: BaseException, names: tuple[str, ...], value: Any) -> str | None:
    """What is wrong with a refusal; None where nothing is."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(f"{type(error).__name__}: {error}".split())
    if not isinstance(error, REFUSALS) or isinstance(error, Warning):
        return f"raised {said:.300}"
    if not frame.filename.startswith(HOME):
        return f"raised in {'/'.join(Path(frame.filename).parts[-2:])}: {said:.300}"
    # A message that shows a whole path has named it.
    if isinstance(value, Path) and str(value) in str(error):
        return None
    if not any(re.search(rf"(?<![A-Za-z]){re.escape(n)}(?![A-Za-z])", str(error)) for n in names):
        return f"names no {' or '.join(names)}: {said:.300}"
    if not any(one in str(error) for one in renderings(value)):
        return f"shows no value: {said:.300}"
    return None


def renderings(value: Any) -> list[str]:
    """How a message may show a value: itself, its type, its shape, or its first entry."""
    found = [type(value).__name__, repr(value)[:12], str(value)[:30]]
    if isinstance(value, np.ndarray | jax.Array):
        found += [str(value.shape), str(value.dtype)]
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1:
        found += [f"[{i}]={entry}" for i, entry in enumerate(value.tolist())]
    if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "OU":
        found += renderings(value.flat[0])
    if isinstance(value, bytes):
        found.append(repr(value.decode(errors="replace")))
    if isinstance(value, str) and "\0" in value:
        found.append("NUL")
    if isinstance(value, type):
        found += [value.__name__, value.__qualname__]
    if isinstance(value, list | tuple | set | bytes) and value:
        found += renderings(next(iter(value)))
        found += [f"{len(value)} "]
    if isinstance(value, dict) and value:
        found += [repr(next(iter(value))), *renderings(next(iter(value.values())))]
    plain_size = getattr(value, "size", None) if isinstance(value, np.ndarray) else None
    if plain_size == 0 or (isinstance(value, list | tuple | dict | set) and not value):
        found += ["empty", "()", "none", "nothing"]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isnan(value).any():
        found += ["NaN", "nan"]
    with contextlib.suppress(ValueError):
        found.append(str(np.shape(value)))
    return [one for one in found if one]


def holds_nan(result: Any) -> bool:
    """Whether some number of a result is NaN."""
    leaves = jax.tree.leaves(result)
    return any(np.isnan(leaf).any() for leaf in leaves if isinstance(leaf, np.ndarray | float))


def equal(one: Any, other: Any) -> bool:
    """Whether two results are the same to the last bit."""
    ones, structure = jax.tree.flatten(one)
    others, second = jax.tree.flatten(other)
    return structure == second and all(map(_same, ones, others))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        same = isinstance(other, np.ndarray) and one.dtype == other.dtype
        return same and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return one == other or (one != one and other != other)


def plain(result: Any) -> Any:
    """Return a result as a tree of NumPy arrays, numbers and texts."""
    if isinstance(result, nnx.Module):
        return [type(result).__name__, *map(_leaf, jax.tree.leaves(nnx.state(result)))]
    if isinstance(result, np.generic) and not isinstance(result, np.ndarray):
        return result.item()
    if isinstance(result, np.ndarray | jax.Array | jax.ShapeDtypeStruct):
        return _leaf(result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        found = {f.name: plain(getattr(result, f.name)) for f in dataclasses.fields(result)}
        return {"": type(result).__name__, **found}
    if isinstance(result, dict):
        return {str(name): plain(value) for name, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    if isinstance(result, bool | int | float | str | None):
        return result
    return type(result).__name__


def _leaf(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return f"{leaf.dtype}{leaf.shape}"
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    found = np.asarray(leaf)
    return found.astype(np.float32) if found.dtype.kind == "V" else found
