"""What holds of every experiment that is a grid of cells, from its options alone."""

import dataclasses
import importlib

import pytest

from convjax import lab, study
from convjax.lab import Experiment
from convjax.study._version import _Tracing, classes_of, plain_function
from experiments import all as everything

# Whose networks have no depth to choose: layers one at a time; a network of the zoo, by its name.
WITHOUT_DEPTHS = {"separable", "transfer", "train"}
# Whose figures and criteria are of one depth each.
BY_DEPTH = {"batch-norm-explosion", "edge-of-chaos", "path-lengths", "plain-gain", "theory"}
BY_DEPTH |= {"residual-power-law"}
SHOWING = ("convjax.lab._outcome", "convjax.lab._run", "convjax.plots")

every = pytest.mark.parametrize("name", everything.NAMES)


def experiment(name) -> Experiment:
    home = "convjax.lab" if name == "train" else "experiments"
    return lab.experiment(importlib.import_module(f"{home}.{name.replace('-', '_')}"))


@every
def test_it_takes_what_every_experiment_takes(name):
    made = experiment(name)
    fields = {field.name for field in dataclasses.fields(made.config)}
    assert made.name == name and issubclass(made.config, lab.Options)
    assert "seeds" in fields
    assert ("depths" in fields) == (name not in WITHOUT_DEPTHS)
    assert made.apart == ("depth",) or name not in BY_DEPTH


@every
def test_its_cells_are_frozen_data_apart_from_one_another(name):
    made = experiment(name)
    cells = made.cells(made.config())
    texts = [study.canonical(cell) for cell in cells]
    assert len(cells) > 0 and len(set(texts)) == len(cells)
    assert len({str(cell) for cell in cells}) == len(cells)
    for cell in cells:
        assert type(cell).__dataclass_params__.frozen
        assert not str(cell).startswith(type(cell).__name__)


@every
def test_seeds_are_part_of_a_cell(name):
    made = experiment(name)
    few, many = (made.cells(made.config(seeds=seeds)) for seeds in (5, 6))
    apart = {study.canonical(cell) for cell in few} ^ {study.canonical(cell) for cell in many}
    assert apart


# What "train" measures, it draws meanwhile.
@pytest.mark.parametrize("name", sorted({*everything.NAMES} - {"train"}))
def test_a_new_title_leaves_what_was_measured_as_it_is(name):
    made = experiment(name)
    cell = made.cells(made.config())[0]
    tracing = _Tracing({"experiments"})
    # The measurement of the room is decorated under the tests.
    for root in (plain_function(made.measure)[0], *classes_of(cell)):
        tracing.begin(root)
    tracing.texts()
    assert "convjax.nn" in tracing.modules  # it looks where it should
    assert not {module for module in tracing.modules if module.startswith(SHOWING)}
