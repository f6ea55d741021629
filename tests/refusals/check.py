"""The validators themselves."""

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from convjax import _check


class Odd:
    def __repr__(self):
        raise RuntimeError


def traced(check):
    return lambda: jax.jit(lambda n: check("n", n) or n)(3)


KEPT = tempfile.TemporaryDirectory()
FOLDER = Path(KEPT.name)
FILE = FOLDER / "file"
FILE.write_text("x")
(FOLDER / "link").symlink_to(FOLDER / "nowhere")
(FOLDER / "loop").symlink_to(FOLDER / "loop")
os.mkfifo(FOLDER / "pipe")


def missing(found):
    """Whether a file that is not there is refused as users catch it."""
    try:
        _check.existing_file("f", found)
    except (FileNotFoundError, ValueError) as error:
        return isinstance(error, FileNotFoundError) and isinstance(error, ValueError)


CASES = {
    "a path": (lambda: _check.path("p", "a/b") == Path("a/b"), None),
    "a home folder": (lambda: _check.path("p", "~/b") == Path.home() / "b", None),
    "nobody's home": (lambda: _check.path("p", "~no such user/b"), None),
    "a file": (lambda: _check.existing_file("f", str(FILE)) == FILE, None),
    "a folder": (lambda: _check.existing_folder("f", FOLDER) == FOLDER, None),
    "a missing file's error": (lambda: missing(FOLDER / "nowhere"), None),
    "a number for a path": (lambda: _check.path("p", 3), r"^p=3 \(int\) must be a path"),
    "bytes for a path": (lambda: _check.path("p", b"a"), r"^p=b'a' \(bytes\)"),
    "nothing for a path": (lambda: _check.path("p", ""), "^p='' must be a path, not empty"),
    "a path with NUL": (lambda: _check.existing_file("f", "a\0b"), r"^f='a\\x00b' must be a path"),
    "no such file": (
        lambda: _check.existing_file("f", "no", "make it"),
        "^f='no' does.*; make it$",
    ),
    "in a file": (lambda: _check.existing_file("f", FILE / "a"), "^f='.*a' does not exist$"),
    "a broken link": (lambda: _check.existing_file("f", FOLDER / "link"), "is a link to a file"),
    "a loop of links": (lambda: _check.existing_file("f", FOLDER / "loop"), "cannot be read: Too"),
    "a name too long": (lambda: _check.existing_file("f", "a" * 999), "cannot be read: File name"),
    "a pipe": (
        lambda: _check.existing_file("f", FOLDER / "pipe"),
        "is a named pipe; it must be a re",
    ),
    "a device": (lambda: _check.existing_file("f", "/dev/zero"), "^f='/dev/zero' is a device"),
    "a folder for a file": (
        lambda: _check.existing_file("f", FOLDER),
        "is a folder; it must be a r",
    ),
    "a file for a folder": (
        lambda: _check.existing_folder("f", FILE),
        "is a file; it must be a fol",
    ),
    "numbers": (lambda: _check.numbers("n", np.ones(2), length=2) == (1.0, 1.0), None),
    "one integer": (lambda: _check.integers("n", np.array(3)), "^n=.*must be a sequence"),
    "one number": (lambda: _check.numbers("n", np.float32(1)), "^n=.*1.*must be a sequence"),
    "NaN among numbers": (lambda: _check.numbers("n", [1, float("nan")]), r"^n\[1\]=nan must"),
    "too few numbers": (lambda: _check.numbers("n", [1], length=3), r"^n=\[1\] has 1 entries"),
    "infinity among numbers": (lambda: _check.numbers("n", [1e400]), r"^n\[0\]=inf must be fin"),
    "NumPy's integers": (
        lambda: type(_check.integer("n", np.int64(3))) is int and _check.integer("n", 3) == 3,
        None,
    ),
    "a sequence": (lambda: _check.integers("n", np.array([3, 4])) == (3, 4), None),
    "NumPy's numbers": (lambda: _check.number("n", np.float16(2)) == 2.0, None),
    "JAX's numbers": (lambda: _check.number("n", jnp.float32(2)) == 2.0, None),
    "NumPy's flags": (lambda: _check.flag("f", np.bool_(True)) is True, None),
    "float64": (lambda: _check.array("x", np.zeros(2)).dtype == np.float32, None),
    "bfloat16": (lambda: _check.array("x", np.zeros(2, ml_dtypes.bfloat16)).ndim == 1, None),
    "keys": (lambda: _check.key("k", jax.random.key(0)).ndim == 0, None),
    "old keys": (lambda: _check.key("k", jax.random.PRNGKey(0)).ndim == 1, None),
    "a float for an integer": (lambda: _check.integer("n", 2.0), r"^n=2\.0 \(float\)"),
    "a bool for an integer": (lambda: _check.integer("n", True), r"^n=True \(bool\)"),
    "too small": (lambda: _check.integer("n", np.int8(0), 1), "^n=0 must be at least 1"),
    "too large": (lambda: _check.integer("n", 9, 1, 8), "^n=9 must be at most 8"),
    "traced": (traced(_check.integer), r"^n=.* must be an integer"),
    "a traced number": (traced(_check.number), r"^n=.* must be a number that is known"),
    "in a sequence": (lambda: _check.integers("n", [1, 2.5]), r"^n\[1\]=2\.5 \(float\)"),
    "a string of digits": (lambda: _check.integers("n", "12"), "^n='12'"),
    "one too many": (lambda: _check.integers("n", [1, 2], length=1), r"^n=\[1, 2\] has 2"),
    "NaN": (lambda: _check.number("n", float("nan")), "^n=nan must be finite"),
    "beyond all floats": (lambda: _check.number("n", 10**400, least=0), "^n=1000.*finite and at"),
    "a complex number": (lambda: _check.number("n", 1j), r"^n=1j \(complex\)"),
    "on an open bound": (lambda: _check.number("n", 0, above=0), "must be greater than 0"),
    "1 for a flag": (lambda: _check.flag("f", 1), r"^f=1 \(int\) must be True or False"),
    "a list for an array": (lambda: _check.array("x", [1, 2]), r"^x=\[1, 2\] \(list\)"),
    "an array of text": (lambda: _check.array("x", np.array(["a"])), "^x=.*array of numbers"),
    "a wrong rank": (lambda: _check.array("x", np.zeros((2, 3)), ndim=(3, 4)), "have 3 or 4 axes"),
    "a seed for a key": (lambda: _check.key("k", 0), r"^k=0 \(int\)"),
    "several keys": (lambda: _check.key("k", jax.random.split(jax.random.key(0))), "single PRNG"),
    "a class for a function": (lambda: _check.function("f", int), "^f=<class 'int'> .*a function"),
    "an integer for all axes": (lambda: _check.sizes("s", np.array(2)) == 2, None),
    "an integer an axis": (lambda: _check.sizes("s", np.array([2, 3]), rank=2) == (2, 3), None),
    "a float for all axes": (lambda: _check.sizes("s", 2.0), r"^s=2\.0 \(float\) .* each axis"),
    "one axis too many": (lambda: _check.sizes("s", (1, 2), rank=1), r"^s=\(1, 2\) has 2 entries"),
    "a size of none": (lambda: _check.sizes("s", (1, 0)), r"^s\[1\]=0 must be at least 1"),
    "a named padding": (lambda: _check.padding("p", "SAME", rank=2) == "SAME", None),
    "NumPy's paddings": (
        lambda: _check.padding("p", np.array([[0, 1], [2, 3]])) == ((0, 1), (2, 3)),
        None,
    ),
    "a padding misspelt": (lambda: _check.padding("p", "same"), "^p='same'.*did you mean 'SAME'"),
    "causal in a plane": (lambda: _check.padding("p", "CAUSAL", rank=2), "^p='CAUSAL' is for 1"),
    "half a padding": (lambda: _check.padding("p", 0.5), r"^p=0\.5 \(float\) must be a name"),
    "three sides": (lambda: _check.padding("p", [1, (1, 2, 3)]), r"^p\[1\]=\(1, 2, 3\) must"),
    "padding of three axes": (lambda: _check.padding("p", [1, 1, 1], rank=2), "3 entries for 2"),
    "negative padding": (lambda: _check.padding("p", -1), "^p=-1 must be at least 0"),
    "dtypes": (lambda: _check.dtype("d", "bfloat16") == jnp.bfloat16, None),
    "no dtype": (lambda: _check.dtype("d", "float33"), r"^d='float33' \(str\) must be a floating"),
    "a whole dtype": (lambda: _check.dtype("d", int), "^d=int64 must be a floating dtype"),
    "a name that is none": (lambda: _check.choice("p", None, ["a"]), r"^p=None \(NoneType\)"),
    "a name misspelt": (lambda: _check.choice("p", "sane", ["same"]), "did you mean 'same'"),
    "a repr that fails": (lambda: _check.integer("n", Odd()), r"^n=<Odd> \(Odd\)"),
}
