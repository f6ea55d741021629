"""Malformed calls of ``convjax.plots``."""

import numpy as np
from matplotlib.figure import Figure

from convjax import plots
from tests.fuzz.kinds import (
    FOLDER,
    Kind,
    choice,
    file,
    flag,
    integer,
    number,
    optional,
    text,
    wrong,
)
from tests.fuzz.room import call

SERIES = plots.Series("He", [1, 2], y=[1.0, 1.1])
PANEL = plots.Panel("plain", "depth", "gain", [SERIES])
step, layer = np.indices((4, 3)).reshape(2, -1)
WATERFALL = {"step": step, "path": np.array(["a", "b", "c"])[layer], "gradient": np.ones(12)}
same = {"norm": "none", "shortcut": "none", "width": 8, "activation": "relu", "init": "he",
        "conv": "dense", "depth": 8, "step": 0, "seed": 0}  # fmt: skip
NORMS = {name: np.full(4, value) for name, value in same.items()}
NORMS |= {"position": np.arange(4), "gradient_log_norm": -np.arange(4.0)}


def drawn(function):
    return lambda **options: type(function(**options)).__name__


def table(valid):
    short = {name: value[:1] if i else value for i, (name, value) in enumerate(valid.items())}
    return Kind(
        valid,
        wrong(seven=7, numbers=dict.fromkeys(valid, 7), nothing=dict.fromkeys(valid), uneven=short,
              less=dict(list(valid.items())[1:])),
    )  # fmt: skip


numbers = Kind(
    [1.0, 2.0],
    wrong("list", seven=7, long=[1.0] * 3, words=["a", "b"], nothing=[None, None]),
    {"tuple": (1.0, 2.0), "array": np.array([1.0, 2.0])},
)
arrays = {
    name: optional(numbers._replace(same={}))
    for name in ("y", "low", "high", "expected", "expected_low", "expected_high")
}
ends = {name: kind._replace(valid=None) for name, kind in arrays.items() if name != "y"}
several = {
    "panels": Kind([PANEL], wrong("list", seven=7, sevens=[7], nothing=[None], one=PANEL)),
    "columns": integer(3, least=1),
}
size = {"quantity": text("gradient"), "match": optional(text(None)), "title": optional(text(None))}

CALLS = {
    "plots.Series": call(
        plots.Series,
        label=text("He"),
        x=numbers._replace(bad=numbers.bad | {"list": "no"}),
        y=arrays["y"],
        joined=flag(False),
        shaded=flag(False),
        names=optional(Kind(None, wrong("None", seven=7, long=["a"] * 3))),
        colour=optional(choice(None, "#30638e")),
        **ends,
    ),
    "plots.Panel": call(
        plots.Panel,
        title=text("a"),
        xlabel=text("b"),
        ylabel=text("c"),
        series=Kind([SERIES], wrong("list", seven=7, sevens=[7], nothing=[None], one=SERIES)),
        xscale=choice("linear"),
        yscale=choice("linear"),
        level=optional(number(None)),
    ),
    "plots.Sheet": call(drawn(plots.Sheet), title=text("a"), shared=flag(False), **several),
    "plots.panels": call(
        drawn(plots.panels), title=text("a"), drawn=several["panels"], columns=several["columns"]
    ),
    "plots.save": call(
        drawn(plots.save),
        figure=Kind(Figure(figsize=(1, 1)), wrong(seven=7, itself=Figure)),
        stem=file(FOLDER / "figure", missing=False, folder=False),
        dpi=integer(20, least=1),
    ),
    "plots.gradient_norms": call(drawn(plots.gradient_norms), columns=table(NORMS)),
    "plots.waterfall": call(
        drawn(plots.waterfall),
        {"columns": ("column",), "losses": ("column",)},
        columns=table(WATERFALL),
        losses=optional(table({"step": np.arange(4), "loss": np.ones(4)})),
        **size,
    ),
    "plots.Waterfall": call(
        drawn(plots.Waterfall),
        path=file(FOLDER / "live.png", missing=False),
        every=number(30, least=0),
        rows=Kind(
            (),
            wrong(
                "list", "dict", "set", "no numbers", "matrix", seven=7, sevens=[7], nothing=[None]
            ),
        ),
        **size,
    ),
}
EXEMPT: dict[str, str] = {}
ACCEPTED: dict[str, str] = {}
