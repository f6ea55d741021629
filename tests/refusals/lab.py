"""Questions: criteria, the options that they check, the small classifier."""

import functools

import numpy as np

from convjax import lab


def refused(function, *arguments, **options):
    return functools.partial(function, *arguments, **options)


CASES = {
    f"that: {value!r}": (
        refused(lab.that, "x", value, "a", "b"),
        r"^holds=.* must be True or False",
    )
    for value in ("FAILS", float("nan"), [False], 1)
} | {
    "that: NumPy": (lambda: lab.that("x", np.bool_(True), "a", "b").holds is True, None),
    "worst: wrong errors": (
        refused(lab.worst, "x", [lab.Mean("x", np.ones(2), 1.0)], errors="3"),
        "errors='3' .* must be a number",
    ),
}
