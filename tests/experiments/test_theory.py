"""The experiment that holds theory against measurement, at tiny size."""

import numpy as np
import pytest

from convjax import lab
from experiments import theory

TINY = theory.Config(
    networks=("residual, batch norm",), depths=(4,), width=8, seeds=3, batch_size=4, data="gaussian"
)


@pytest.fixture(scope="module")
def columns():
    return lab.measure_all(lab.experiment(theory), TINY)


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
    (panel,) = theory.draw(columns).panels
    assert len(panel.series) == TINY.seeds + 1
    np.testing.assert_allclose(panel.series[-1].expected[-1], 1)
    assert theory.table(columns).row_count == 1
