"""Kinds of arguments: a valid value, malformed ones, and other writings of the valid one."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Fresh(NamedTuple):
    """A value that is made anew for every call, since calls change it."""

    make: Callable[[], Any]


class Kind(NamedTuple):
    """What an argument takes.

    ``nan`` are values that may be refused, or must give NaN.
    """

    valid: Any
    bad: Mapping[str, Any]
    same: Mapping[str, Any] = {}
    nan: Mapping[str, Any] = {}


WRONG = {
    "None": None,
    "text": "3",
    "fraction": 2.5,
    "list": [],
    "dict": {},
    "set": {7},
    "object": object(),
    "lambda": lambda: 0,
    "class": int,
    "bytes": b"3",
    "True": True,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
    "complex": 3j,
    "nested list": [[]],
    "matrix": np.zeros((2, 3)),
    "no numbers": np.zeros((0,)),
    "objects": np.array([None, {}], object),
    "texts": np.array(["a"]),
}
ABSENT = object()


def wrong(*but: str, **more: Any) -> dict[str, Any]:
    """Return the common malformed values but some, and others."""
    return {name: value for name, value in WRONG.items() if name not in but} | more


def optional(kind: Kind) -> Kind:
    """Return the kind that takes None too."""
    return kind._replace(bad={k: v for k, v in kind.bad.items() if k != "None"})


def but(kind: Kind, *names: str) -> Kind:
    """Return the kind without some of its values."""
    return kind._replace(
        bad={k: v for k, v in kind.bad.items() if k not in names},
        same={k: v for k, v in kind.same.items() if k not in names},
    )


def also(kind: Kind, **more: Any) -> Kind:
    """Return the kind with further malformed values."""
    return kind._replace(bad={**kind.bad, **more})


def integer(valid: Any, least: int | None = None, most: int | None = None) -> Kind:
    """An integer within bounds."""
    outside = {}
    for value in (-1, 0, -(10**10), 10**10):
        below, above = least is not None and value < least, most is not None and value > most
        outside |= {str(value): value} if below or above else {}
    same = {}
    if valid is not None:
        same = {"int64": np.int64(valid), "int8": np.int8(valid), "no axis": np.array(valid)}
    return Kind(valid, wrong() | outside, same)


def number(
    valid: Any,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Kind:
    """A finite real number within bounds."""
    outside: dict[str, Any] = {"huge": 10**400}
    for value in (-1.0, 0.0, 1e300, -1e300):
        small = (least is not None and value < least) or (above is not None and value <= above)
        large = (most is not None and value > most) or (below is not None and value >= below)
        outside |= {str(value): value} if small or large else {}
    same = {}
    if valid is not None:
        same = {"float64": np.float64(valid), "no axis": np.array(valid)}
        if float(np.float32(valid)) == valid:
            same |= {"float32": np.float32(valid), "JAX's": jnp.float32(valid)}
    return Kind(valid, wrong("fraction") | outside, same)


def flag(valid: bool) -> Kind:
    """True or False."""
    return Kind(valid, wrong("True", one=1, zero=0), {"bool_": np.bool_(valid)})


def choice(valid: Any, sample: str | None = None) -> Kind:
    """A name out of several."""
    sample = valid if sample is None else sample
    names = {"misspelt": f"{sample}x", "empty": "", "upper": sample.swapcase() + "_", "seven": 7}
    same = {} if valid is None else {"str_": np.str_(valid)}
    return Kind(valid, wrong(**names), same)


def text(valid: Any) -> Kind:
    """Any text."""
    return Kind(valid, wrong("text", seven=7))


def array(valid: Any, *, any_rank: bool = False, any_dtype: bool = False) -> Kind:
    """An array of floating-point numbers."""
    plain = np.asarray(valid)
    bad = wrong("matrix", "no numbers", numbers=plain.tolist(), seven=7)
    if not any_rank:
        bad |= {"7 axes": np.zeros((1,) * 7, np.float32), "no axis": np.zeros((), np.float32)}
    if not any_dtype:
        bad |= {"integers": plain.astype(np.int32), "flags": plain > 0}
        bad |= {"complex array": plain.astype(np.complex64)}
    same = {"NumPy's": plain}
    if plain.dtype == np.float32:
        same |= {"doubles": plain.astype(np.float64)}
    nan = {"NaN array": np.full_like(plain, np.nan)} if plain.dtype.kind == "f" else {}
    return Kind(valid, bad, same, nan)


def integers(
    valid: Any, *, least: int | None = 1, single: bool = True, length: bool = True
) -> Kind:
    """A sequence of integers; where ``single``, one integer too."""
    bad = wrong(
        "list", "no numbers",
        fractions=(2.5, 2.5), nothing=[None, None], words=["3", "3"], nested=((1,), (1,)),
        flags=[True, True], nans=[float("nan")] * 2, floats=np.ones(2),
    )  # fmt: skip
    if least is not None:
        bad |= {"-1": -1, "negative": (-1, -1), "0 of it": (least - 1,) * 2}
    if not single:
        bad["seven"] = 7
    if length:
        bad["nine"] = (1,) * 9
    if isinstance(valid, int):
        same: dict[str, Any] = {"int64": np.int64(valid), "int8": np.int8(valid)}
    elif valid is None:
        same = {}
    else:
        same = {"list": list(valid), "array": np.array(valid), "int64s": [*map(np.int64, valid)]}
    return Kind(valid, bad, same)


def padding(valid: Any = "SAME") -> Kind:
    """Padding: a name, an integer, or pairs."""
    more: dict[str, Any] = {
        "misspelt": "SAMEE", "one": [(1,)], "three": [(1, 2, 3)] * 2, "names": ("SAME", "SAME"),
        "fractions": [(0.5, 0.5)] * 2, "nothing": [None, None], "nine": [(1, 1)] * 9,
    }  # fmt: skip
    return Kind(
        valid,
        wrong("list", "no numbers", **more),
        {"str_": np.str_("SAME")} if valid == "SAME" else {},
    )


PRECISION = Kind(
    None, wrong("None", "list", "dict", misspelt="higest", seven=7, triple=("high",) * 3), {}
)
DTYPE = Kind(
    jnp.float32,
    wrong("None", "class", misspelt="float33", whole="int32", flags=bool, imaginary="complex64"),
    {"name": "float32", "NumPy's": np.float32, "np.dtype": np.dtype("float32")},
)
INIT = Kind("he", wrong("lambda", "class", misspelt="hee", seven=7), {"str_": np.str_("he")})
ZEROS = INIT._replace(valid="zero", same={"str_": np.str_("zero")})
FUNCTION = Kind(jnp.sum, wrong("lambda", "class", seven=7), {})
MAPPING = Kind({}, wrong("dict", "list", seven=7, pairs=[("a", 1)]), {})
RNGS = Kind(Fresh(lambda: nnx.Rngs(0)), wrong(seven=7, key=jax.random.key(0), itself=nnx.Rngs), {})
KEY = Kind(
    jax.random.key(0),
    wrong(seven=7, keys=jax.random.split(jax.random.key(0)), rngs=nnx.Rngs(0), number=jnp.ones(())),
    {},
)


def net(valid: Any) -> Kind:
    """A network."""
    return Kind(valid, wrong(seven=7, array=jnp.ones((2, 3)), of_flax=nnx.Module), {})


FOLDER = Path(tempfile.mkdtemp(prefix="convjax-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def file(valid: Any, *, missing: bool = True, folder: bool = True) -> Kind:
    """A file that exists, or one to be written where ``missing`` is False."""
    bad = wrong("text", "list", seven=7)
    more: dict[str, Any] = {"NUL": "a\0b", "empty": ""}
    if missing:
        pipe = FOLDER / "pipe"
        if not pipe.exists():
            os.mkfifo(pipe)
        (FOLDER / "noise").write_bytes(bytes(range(256)))
        more |= {"missing": FOLDER / "missing", "pipe": pipe, "noise": FOLDER / "noise"}
    if folder:
        (FOLDER / "folder").mkdir(exist_ok=True)
        more["folder"] = FOLDER / "folder"
    return Kind(valid, bad | {"list": []} | more, {})


def place(valid: Any, *, missing: bool = False) -> Kind:
    """A folder; one that exists where ``missing`` is True."""
    (FOLDER / "plain").write_text("a file")
    more: dict[str, Any] = {
        "NUL": "a\0b",
        "a file": FOLDER / "plain",
        "below": FOLDER / "plain" / "a",
    }
    if missing:
        more["missing"] = FOLDER / "missing"
    return Kind(valid, wrong("text", seven=7) | more, {})
