"""The experiment that holds theory against measurement, at tiny size."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import __main__ as entry
from experiments import _cli, theory

TINY = theory.Config(
    networks=("residual, batch norm",), depth=4, width=8, seeds=3, batch_size=4, data="gaussian"
)


@pytest.fixture(scope="module")
def columns():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield theory.measure(TINY)
    jax.config.update("jax_disable_most_optimizations", before)


def test_a_row_for_every_seed_and_unit(columns):
    assert len(columns["network"]) == 3 * 3
    assert np.isfinite(columns["gradient_log_norm"]).all()
    # The last unit's gradient is the output's.
    last = columns["position"] == 2
    np.testing.assert_allclose(columns["gradient_log_norm"][last], 0, atol=1e-6)
    assert columns["expected_log_norm"][last].tolist() == [0, 0, 0]


def test_what_agrees_holds_and_what_does_not_fails(columns):
    agreeing = {**columns, "gradient_log_norm": columns["expected_log_norm"]}
    assert all(criterion.holds for criterion in theory.judge(agreeing))
    off = {**columns, "gradient_log_norm": columns["expected_log_norm"] + 1.0}
    assert [c.holds for c in theory.judge(off)] == [True, False]
    departing = {**agreeing, "largest_z": np.full(9, 99.0)}
    assert [c.holds for c in theory.judge(departing)] == [False, True]


def test_figure_and_table(columns):
    assert len(theory.draw(columns).axes) == 1
    assert theory.table(columns).row_count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ("plane",)}, "did you mean 'plain'"),
        ({"networks": ()}, "networks is empty"),
        ({"depth": 5}, "depth = 5 must be an even number"),
        ({"seeds": 1}, "seeds = 1 is too small"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, message):
    with pytest.raises(_cli.UsageError, match=message):
        theory.measure(dataclasses.replace(TINY, **changes))


def test_it_is_listed():
    assert "theory" in entry.EXPERIMENTS
