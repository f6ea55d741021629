"""The numbers of every question at the same seeds are those of version 0.7.0.

``same_numbers.json`` holds, by question, the options of a tiny run and a few numbers of each column
of its table, as version 0.7.0 wrote it on JAX 0.12: of its first cell, and of all of it. What
theory expects is version 0.8.0's. Bits differ between versions of JAX and machines,
so that the fifth digit decides. No time is held.
"""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from convjax import lab
from experiments import all as everything

HELD = json.loads(Path(__file__).with_name("same_numbers.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-5
# Rounding grows in steps; what it measures before any is held by its first cell.
TRAINED = {"transfer": 1e-3}
TIMED_COLUMNS = ("seconds", "processor_seconds", "most_seconds", "images_per_second")
# Of many quantities one below the other.
LONG = ("degradation",)
# Mostly times, and accuracies after epochs, in which rounding grows: their tests hold them.
NOT_HELD = {"claims", "separable"}
# The others train, or their first cell takes long: they are for the slow part.
QUICK = [name for name, held in HELD.items() if "cell" in held]


def brief(columns, name):
    """Return a few numbers for each column of numbers, and for each quantity of a long table."""
    found = {}
    for key, column in columns.items():
        if key in TIMED_COLUMNS or column.dtype.kind not in "iufb":
            continue
        if name in LONG and key == "value":
            for quantity in np.unique(columns["quantity"]).tolist():
                found[f"value: {quantity}"] = _brief(column[columns["quantity"] == quantity])
        else:
            found[key] = _brief(column)
    return found


def _brief(column):
    numbers = column.astype(np.float64)
    there = numbers[np.isfinite(numbers)]
    ends = there[[0, -1]].tolist() if len(there) else [0.0, 0.0]
    return [len(numbers), len(there), float(there.sum()), float(np.abs(there).sum()), *ends]


def differing(found, held, tolerance=TOLERANCE):
    """Return the columns whose numbers are others than those held."""
    return {
        key: (found.get(key), wanted)
        for key, wanted in held.items()
        if key not in found or not _same(found[key], wanted, tolerance)
    }


def _same(found, wanted, tolerance):
    (*counts, total, size, first, last), (*least, whole, much, begin, end) = found, wanted
    each = much / max(1, least[1])
    allowed = tolerance * np.array([much, much, *(max(each, abs(v)) for v in (begin, end))])
    away = np.abs(np.subtract([total, size, first, last], [whole, much, begin, end]))
    return counts == least and bool((away <= allowed).all())


def asked(name, out):
    home = "convjax.lab" if name == "train" else "experiments"
    made = lab.experiment(importlib.import_module(f"{home}.{name.replace('-', '_')}"))
    argv = made.in_full(HELD[name]["argv"].split())
    config = lab.parse(made.config, argv, command=name, about=made.about)
    return made, dataclasses.replace(config, out=out)


@pytest.fixture(autouse=True)
def promoting():
    """Promote types as the command does: Optax counts on it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_every_question_is_held():
    assert set(HELD) == set(everything.NAMES) - NOT_HELD


def test_a_change_in_the_fifth_digit_is_seen():
    columns = {"x": np.array([1.0, -1.0, np.nan, 2.0]), "seed": np.arange(4)}
    held = brief(columns, "")
    assert differing(brief({**columns, "x": columns["x"] * (1 + 5e-6)}, ""), held) == {}
    for i, by in ((0, 1e-4), (1, -1e-4), (3, 1e-4), (2, 1.0)):
        changed = np.where(np.arange(4) == i, np.nan_to_num(columns["x"]) + by, columns["x"])
        assert set(differing(brief({**columns, "x": changed}, ""), held)) == {"x"}
    assert set(differing({}, held)) == {"x", "seed"}


@pytest.mark.parametrize("name", QUICK)
def test_the_first_cell_is_what_it_was(name, tmp_path):
    made, config = asked(name, tmp_path)
    columns = made.measure(made.cells(config)[0])
    assert differing(brief(columns, name), HELD[name]["cell"]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_the_whole_table_is_what_it_was(name, tmp_path):
    columns = lab.measure_all(*asked(name, tmp_path))
    tolerance = TRAINED.get(name, TOLERANCE)
    assert differing(brief(columns, name), HELD[name]["table"], tolerance) == {}
