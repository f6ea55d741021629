"""Questions: criteria, the options that they check, the small classifier."""

import functools
import types

import numpy as np

from convjax import lab


def refused(function, *arguments, **options):
    return functools.partial(function, *arguments, **options)


def classifier(**changes):
    made = {"norm": "none", "shortcut": "none", "width": 4, "activation": "relu", "init": "he"}
    return refused(lab.Classifier, **{**made, "conv": "dense", "depth": 8, **changes})


def checked(check, value, *options, **bounds):
    return refused(check, types.SimpleNamespace(rate=value), *options, **bounds)


def columns():
    return {"depth": np.array([8, 20]), "loss": np.ones(2)}


CASES = (
    {
        f"that: {value!r}": (
            refused(lab.that, "x", value, "a", "b"),
            r"^holds=.* must be True or False",
        )
        for value in ("FAILS", float("nan"), [False], 1)
    }
    | {
        "that: NumPy": (lambda: lab.that("x", np.bool_(True), "a", "b").holds is True, None),
        "worst: wrong errors": (
            refused(lab.worst, "x", [lab.Mean("x", np.ones(2), 1.0)], errors="3"),
            "errors='3' .* must be a number",
        ),
        "ensembles: apart is one name": (
            refused(lab.ensembles, lab.Classifier, seeds=2, apart="depth"),
            "^kind=Classifier needs",
        ),
        "check_least: NaN": (
            checked(lab.check_least, float("nan"), rate=0),
            "^rate=nan must be finite",
        ),
        "check_positive: several": (
            checked(lab.check_positive, [1, 0], "rate"),
            r"^rate=\[1, 0\] must be greater than 0",
        ),
        "check_positive: text": (
            checked(lab.check_positive, ["a"], "rate"),
            "^rate.* must be a num",
        ),
        "check_positive: None": (
            checked(lab.check_positive, None, "rate"),
            "^rate=None .* must be a n",
        ),
        "pick: column": (
            lambda: lab.pick(columns(), dept=8),
            "^column='dept' is not known; did you mean 'depth'",
        ),
        "array: column": (
            lambda: lab.array(columns(), "los", "depth"),
            "^column='los' is not known",
        ),
        "stack: none": (refused(lab.stack, []), r"^rows=\[\] must hold at least one"),
        "stack: other keys": (
            refused(lab.stack, [{"a": 1}, {"a": 1, "b": 2}]),
            r"^rows\[0\] and rows\[1\] must have the same names: b",
        ),
        "joined: other columns": (
            lambda: lab.joined([columns(), {"depth": np.ones(2)}]),
            r"^tables\[0\] and tables\[1\] must have the same names: loss",
        ),
        "Classifier: depth": (
            classifier(depth=9),
            "^depth=9 must be 2, of stem and head, and 2 for e",
        ),
        "Classifier: too little": (classifier(depth=2), "^depth=2 must be at least 4"),
    }
    | {
        f"Classifier: {name}": (classifier(**{name: "no such"}), f"^{name}='no such' is not known")
        for name in ("norm", "shortcut", "activation", "init", "conv")
    }
)
