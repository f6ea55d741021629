"""Pictures."""

import tempfile

import numpy as np
from matplotlib.figure import Figure

from convjax import plots

STEPS = {"step": np.arange(3), "path": np.array(["a"] * 3), "gradient": np.ones(3)}
LINE = plots.Series("He", [1, 2], y=[1.0, 2.0])
PANEL = plots.Panel("plain", "depth", "gain", [LINE])
SAME = {
    **{"norm": "none", "shortcut": "none", "width": 8, "activation": "relu", "init": "he"},
    **{"conv": "dense", "depth": 8, "step": 0, "seed": 0, "position": 1, "gradient_log_norm": 0.5},
}
STACK = {name: np.full(4, value) for name, value in SAME.items()}


def series(**changes):
    return lambda: plots.Series(**{"label": "a", "x": [1, 2], **changes})


def panel(**changes):
    given = {"title": "a", "xlabel": "b", "ylabel": "c", "series": [LINE], **changes}
    return lambda: plots.Panel(**given)


def waterfall(columns=STEPS, losses=None, **changes):
    return lambda: plots.waterfall(columns, losses, **changes)


def without(columns, *names):
    return {name: column for name, column in columns.items() if name not in names}


CASES = {
    "NumPy's numbers": (
        lambda: plots.Panel("a", "b", "c", (LINE,), level=np.float32(1)).level == 1,
        None,
    ),
    "label": (series(label=3), "^label=3"),
    "x as a number": (series(x=3), "series 'a': x=3 .*array of numbers"),
    "x as text": (series(x=["a", "b"]), r"series 'a': x=\['a', 'b'\] .*array of numbers"),
    "y as an object": (series(y=object()), "series 'a': y=<object"),
    "y of two axes": (series(y=np.ones((2, 2))), r"y has shape \(2, 2\)"),
    "low too long": (series(low=[1, 2, 3]), r"low has shape \(3,\), x has \(2,\)"),
    "names too short": (series(names=["a"]), r"names has shape \(1,\)"),
    "joined": (series(joined=1), r"^joined=1 \(int\)"),
    "colour": (series(colour="blau"), "^colour='blau'"),
    "a panel's title": (panel(title=None), r"^title=None"),
    "a panel's series": (panel(series=[3]), r"^series\[0\]=3 \(int\)"),
    "one series": (panel(series=LINE), "^series=.*sequence of plots.Series"),
    "xscale": (panel(xscale="powers"), "^xscale='powers'"),
    "yscale": (panel(yscale="lin"), "^yscale='lin' is not known; did you mean 'linear'"),
    "level": (panel(level=float("inf")), "^level=inf must be finite"),
    "no panel": (lambda: plots.panels("a", []), "^drawn=.* is empty"),
    "a panel alone": (lambda: plots.panels("a", PANEL), "^drawn=.*sequence of plots.Panel"),
    "columns": (lambda: plots.panels("a", [PANEL], columns=0), "^columns=0 must be at least 1"),
    "a sheet's columns": (lambda: plots.Sheet("a", [PANEL], columns=1.5), r"^columns=1\.5"),
    "shared": (lambda: plots.Sheet("a", [PANEL], shared="yes"), "^shared='yes'"),
    "no figure": (lambda: plots.save(PANEL, "a"), "^figure=.* must be a figure of matplotlib"),
    "stem": (lambda: plots.save(Figure(), 3), r"^stem=3 \(int\)"),
    "no name": (lambda: plots.save(Figure(), ""), "^stem='' must be a path"),
    "no folder": (
        lambda: plots.save(Figure(), f"{tempfile.gettempdir()}/missing folder/a"),
        "^stem='.*missing folder/a': there is no folder",
    ),
    "dpi": (lambda: plots.save(Figure(), "a", dpi=-1), "^dpi=-1 must be at least 1"),
    "no table": (waterfall(columns=[1]), r"^columns=\[1\] \(list\)"),
    "a column is missing": (waterfall(without(STEPS, "path")), "^columns lacks 'path'; its"),
    "no row": (waterfall({k: v[:0] for k, v in STEPS.items()}), "^columns has no row"),
    "rows of two runs": (
        waterfall({k: np.concatenate([v, v]) for k, v in STEPS.items()}),
        "^columns have several rows of one step and path",
    ),
    "unequal columns": (waterfall(STEPS | {"gradient": np.ones(2)}), "must be equally long"),
    "steps as text": (waterfall(STEPS | {"step": STEPS["path"]}), r"^columns\['step'\]="),
    "a quantity as text": (waterfall(quantity="path"), r"^columns\['path'\]="),
    "quantity": (waterfall(quantity=None), "^quantity=None"),
    "match": (waterfall(match=3), "^match=3"),
    "title": (waterfall(title=b"a"), "^title=b'a'"),
    "losses": (waterfall(losses={"step": [1]}), "^losses lacks 'loss'"),
    "every": (lambda: plots.Waterfall("a", every=float("nan")), "^every=nan must be finite"),
    "path": (lambda: plots.Waterfall(None), "^path=None"),
    "rows": (lambda: plots.Waterfall("a", rows=3), "^rows=3"),
    "what is drawn": (lambda: plots.Waterfall("a", quantity=3), "^quantity=3"),
    "a stack without depth": (
        lambda: plots.gradient_norms(without(STACK, "depth")),
        "^columns lacks 'depth'",
    ),
    "nothing on the stack": (
        lambda: plots.gradient_norms(STACK | {"position": -np.ones(4)}),
        "^columns have no row on the stack",
    ),
    "norms as text": (
        lambda: plots.gradient_norms(STACK | {"gradient_log_norm": STACK["conv"]}),
        r"^columns\['gradient_log_norm'\]=",
    ),
}
