import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from convjax.lab import Ensemble, as_rows, joined, log_ratios
from experiments import __main__ as entry
from experiments import skip_and_scale
from experiments._shortcuts import ONE, TWO, Cell, expected, finite_width, summaries
from tests.nn.conftest import quick_compilation as quick_compilation

TINY = skip_and_scale.Config(depths=(3,), scales=("L^-1/2",), width=5, batch_size=2, seeds=3)
WHOLE = skip_and_scale.Config(depths=(4, 8))


# One of each pair is enough: every program takes a second to trace.
SOME = [Cell(ONE, "none", "1", 3, 5), Cell(TWO, "identity", "L^-1/2", 3, 5)]


@pytest.fixture(scope="module")
def measured():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    some = [Ensemble(cell, TINY.seeds, TINY.batch_size) for cell in SOME]
    columns = joined([skip_and_scale.measure(networks) for networks in some])
    jax.config.update("jax_disable_most_optimizations", before)
    return columns


def by_hand(cell, seed):
    """Propagate a batch through one network, forward and back, in NumPy."""
    shape = (TINY.batch_size, TINY.width)

    def draw(key):
        weights, *others = jax.random.split(key, 3)
        branch = cell.network(nnx.Rngs(weights)).unit.branch
        kernels = {name: branch[name].kernel[...] for name in branch.names if name != "relu"}
        return kernels, [jax.random.normal(other, shape) for other in others]

    drawn = jax.jit(draw)(jax.random.key(seed))
    kernels, (x, g) = jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)
    last, first = kernels["last"], kernels.get("first")
    skip = float(cell.shortcut == "identity")
    gates = []
    for i in range(cell.units):
        z = x if first is None else x @ first[i]
        gates.append(z > 0)
        x = skip * x + cell.factor * (z * gates[i]) @ last[i]
    squares = [np.sum(g**2)]
    for i in reversed(range(cell.units)):
        back = (g @ last[i].T) * gates[i]
        g = skip * g + cell.factor * (back if first is None else back @ first[i].T)
        squares.append(np.sum(g**2))
    return np.log(squares[::-1]) - np.log(squares[0])


@pytest.mark.parametrize("cell", SOME, ids=str)
def test_the_measurement_is_that_of_a_loop(measured, cell, quick_compilation):
    for seed in (0, 2):
        wanted = dataclasses.asdict(cell) | {"seed": seed}
        row = np.logical_and.reduce([measured[name] == value for name, value in wanted.items()])
        assert measured["position"][row].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(measured["log_ratio"][row], by_hand(cell, seed), atol=1e-5)


def test_there_is_a_row_for_each_network_and_place(measured):
    assert {len(column) for column in measured.values()} == {2 * 3 * 4}
    assert np.isfinite(measured["log_ratio"]).all()


def test_all_kinds_are_measured():
    kinds = skip_and_scale.cells(skip_and_scale.Config())
    assert len(set(kinds)) == len(kinds) == 2 * 2 * 5


def test_silent_branches_leave_the_gradient_as_it_is(quick_compilation):
    def measured(key):
        weights, signal, cotangent = jax.random.split(key, 3)
        net = Cell(TWO, "identity", "0", 2, 5).network(nnx.Rngs(weights))
        return log_ratios(net, jax.random.normal(signal, (3, 5)), cotangent)

    assert np.abs(jax.jit(measured)(jax.random.key(0))).max() == 0


def test_a_run_is_written_and_told(measured, tmp_path, capsys):
    config = dataclasses.replace(TINY, out=tmp_path)
    assert lab.conclude(lab.experiment(skip_and_scale), config, measured, {}) in (0, 1)
    assert (tmp_path / "skip_and_scale.png").stat().st_size > 20_000
    told = capsys.readouterr().out
    assert "W, ReLU, W" in told
    assert "Verdict" in told


def tangents(units, scale, width, count):
    """Return E|u_L|^2 / E|u_0|^2 of tangents: forwards it is the same trace as backwards."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, width, 1))
    u = rng.standard_normal((count, width, 4))
    start = np.mean(u**2)
    for _ in range(units):
        weights = rng.standard_normal((count, width, width)) * np.sqrt(2 / width)
        gate = x > 0
        x, u = (v + scale * weights @ (gate * v) for v in (x, u))
    of_each = np.mean(u**2, axis=(1, 2)) / start
    return of_each.mean(), of_each.std() / np.sqrt(count)


@pytest.mark.parametrize(("units", "scale"), [(6, 1.0), (4, 1.5)])
def test_narrow_trunks_hand_back_more_than_wide_ones(units, scale):
    wide = (1 + scale**2) ** units
    found, error = tangents(units, scale, 16, 6000)
    factor = finite_width(units, scale, 16)
    assert factor > 1.05 + 3 * error / wide
    # What is of second order in 1/n is left out.
    assert abs(found / wide - factor) < 3 * error / wide + (factor - 1) ** 2


def scattered(cell, seeds=40, factor=1.0):
    """Return rows of networks whose mean is theory's, but for what is planted."""
    noise = np.random.default_rng(3).normal(0, 0.3, (seeds, 1))
    noise -= np.log(np.mean(np.exp(noise)))
    back = np.arange(cell.units, -1, -1) / cell.units
    if cell.factor == 0:
        noise = np.zeros((seeds, 1))
    return as_rows(cell, log_ratio=(np.log(expected(cell) * factor) + noise) * back)


def obeying(planted=None, factor=1.0):
    kinds = [networks.kind for networks in skip_and_scale.cells(WHOLE)]
    return joined([scattered(one, factor=factor if one == planted else 1.0) for one in kinds])


def test_networks_that_obey_pass():
    criteria = skip_and_scale.judge(obeying())
    assert len(criteria) == 10
    assert all(criterion.holds for criterion in criteria)


@pytest.mark.parametrize(
    ("cell", "factor"),
    [
        (Cell(ONE, "identity", "1", 8, 256), 1.03**8),
        (Cell(TWO, "identity", "L^-1/2", 4, 256), 1 / 1.05**4),
        (Cell(TWO, "none", "1", 8, 256), 1.04**8),
        (Cell(ONE, "identity", "0", 8, 256), 1 + 2e-6),
    ],
)
def test_a_wrong_gain_fails_and_alone(cell, factor):
    criteria = skip_and_scale.judge(obeying(cell, factor))
    failed = [criterion.claim for criterion in criteria if not criterion.holds]
    assert len(failed) == 1
    assert failed[0].startswith(f"{cell.branch}, {cell.label}")


def test_the_typical_network_has_less_than_the_mean():
    for row in summaries(obeying()):
        assert row.typical < row.mean[-1] or row.cell.factor == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--scales", "2"], "scales: '2' is not known"),
        (["--scales", "1", "1"], "scales=['1', '1'] must hold at least one value, none twice"),
        (["--depths", "0"], "depths=(0,) must be at least 1"),
        (["--depths", "8", "8"], "depths=[8, 8] must hold at least one value, none twice"),
        (["--depths", "900"], "depths=(900,): beyond 500 units"),
        (["--seeds", "1"], "seeds=1 must be at least 2"),
        (["--width", "0"], "width=0 must be at least 1"),
        (["--batch-size", "0"], "batch_size=0 must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["skip-and-scale", *argv, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
