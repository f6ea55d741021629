import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import data, gradflow, lab
from convjax.lab import Ensemble, as_rows, joined
from experiments import __main__ as entry
from experiments import residual_power_law
from experiments._power_law import DIGITS, GAUSSIAN, Cell, summaries
from tests.nn.conftest import quick_compilation as quick_compilation

# One on each kind of data is enough: every program takes seconds to trace.
SOME = [Cell(GAUSSIAN, 1, "none", 3, 5, 7, 3), Cell(DIGITS, 2, "identity", 2, 3, 6, 3)]


@pytest.fixture(scope="module")
def measured():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    columns = joined([residual_power_law.measure(Ensemble(cell, 2)) for cell in SOME])
    jax.config.update("jax_disable_most_optimizations", before)
    return columns


def shifts(kernel):
    """Yield every place of the window, and how far the image moves for it."""
    for i, j in np.ndindex(kernel.shape[:2]):
        yield kernel[i, j], (kernel.shape[0] // 2 - i, kernel.shape[1] // 2 - j)


def forward(x, kernels):
    """Norm, ReLU, circular convolution, as often as there are kernels."""
    kept = []
    for kernel in kernels:
        deviation = np.sqrt(x.var((0, 1, 2)) + 1e-5)
        y = (x - x.mean((0, 1, 2))) / deviation
        kept.append((y, deviation, kernel))
        x = sum(np.roll(np.maximum(y, 0), by, (1, 2)) @ w for w, by in shifts(kernel))
    return x, kept


def backward(g, kept):
    for y, deviation, kernel in kept[::-1]:
        g = sum(np.roll(g @ w.T, (-by[0], -by[1]), (1, 2)) for w, by in shifts(kernel)) * (y > 0)
        g = (g - g.mean((0, 1, 2)) - y * (g * y).mean((0, 1, 2))) / deviation
    return g


def by_hand(cell, seed):
    """Return ln(|g_l|^2 / |g_L|^2) and v_l of one network, unit by unit, in NumPy."""
    images = data.digits("train")[0]

    def draw(key):
        weights, signal, cotangent = jax.random.split(key, 3)
        if cell.data == GAUSSIAN:
            x = jax.random.normal(signal, (cell.batch_size, 1, 1, cell.width))
        else:
            x = residual_power_law.through_stem(signal, images, cell.batch_size, cell.width)
        branch = cell.network(nnx.Rngs(weights)).unit.branch
        kernels = [branch[f"conv{i + 1}"].kernel[...] for i in range(cell.convs)]
        return x, jax.random.normal(cotangent, x.shape), kernels

    drawn = jax.jit(draw)(jax.random.key(seed))
    x, g, kernels = jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)
    skip = float(cell.shortcut == "identity")
    variances, tapes = [x.var((0, 1, 2)).mean()], []
    for i in range(cell.units):
        y, tape = forward(x, [kernel[i] for kernel in kernels])
        x = skip * x + y
        variances.append(x.var((0, 1, 2)).mean())
        tapes.append(tape)
    squares = [np.sum(g**2)]
    for tape in tapes[::-1]:
        g = skip * g + backward(g, tape)
        squares.append(np.sum(g**2))
    return np.log(squares[::-1]) - np.log(squares[0]), variances


@pytest.mark.parametrize("cell", SOME, ids=str)
def test_the_measurement_is_that_of_a_loop(measured, cell, quick_compilation):
    wanted = dataclasses.asdict(cell) | {"seed": 1}
    row = np.logical_and.reduce([measured[name] == value for name, value in wanted.items()])
    assert measured["position"][row].tolist() == list(range(cell.units + 1))
    logs, variances = by_hand(cell, 1)
    np.testing.assert_allclose(measured["log_ratio"][row], logs, atol=2e-4)
    np.testing.assert_allclose(measured["variance"][row], variances, rtol=1e-4)


def test_digits_are_drawn_without_one_twice(quick_compilation):
    images = np.arange(30.0, dtype=np.float32).reshape(30, 1, 1, 1) * np.ones((1, 3, 3, 1), "f4")
    x = jax.jit(residual_power_law.through_stem, static_argnums=(2, 3))(
        jax.random.key(0), images, 30, 2
    )
    assert x.shape == (30, 3, 3, 2)
    assert len(np.unique(np.round(np.asarray(x[:, 0, 0, 0]), 3))) == 30


def obeying(cell, *, power=1.0, slope=1.0, exponential=0.0, seeds=3):
    """Return rows of networks that do what theory says, but for what is planted."""
    rng = np.random.default_rng(5)
    start = 0.9 + 0.2 * (cell.data == GAUSSIAN)
    if cell.shortcut == "none":
        logs = 0.38 * np.arange(cell.units, -1, -1.0)
    else:
        gains = gradflow.oracles.batch_norm_residual_gain(cell.units, cell.convs, start)
        logs = power * np.append(np.cumsum(np.log(gains)[::-1])[::-1], 0.0)
        logs = logs + exponential * np.arange(cell.units, -1, -1.0)
    variance = start + slope * (1 - 1 / np.pi) * np.arange(cell.units + 1)
    scatter = 1 + 0.001 * rng.standard_normal((seeds, 1))
    return as_rows(cell, log_ratio=logs * scatter, variance=variance * np.ones((seeds, 1)))


def all_kinds(planted=None, depth=128, **changes):
    kinds = residual_power_law.kinds(residual_power_law.Config(), depth)
    return joined(
        [obeying(one, **(changes if i == planted else {})) for i, one in enumerate(kinds)]
    )


def test_networks_that_obey_pass():
    criteria = residual_power_law.judge(all_kinds())
    assert len(criteria) == 9
    assert all(criterion.holds for criterion in criteria)


@pytest.mark.parametrize(
    ("planted", "changes", "claim"),
    [
        (0, {"power": 1.07}, "gaussian, residual, m = 1: exponent"),
        (1, {"power": 0.92}, "gaussian, residual, m = 2: exponent"),
        (1, {"slope": 1.05}, "gaussian, residual, m = 2: growth of the variance"),
        (4, {"power": 0.0, "exponential": 0.1}, "digits, residual, m = 2: ln|g_l| is straighter"),
    ],
)
def test_another_law_fails_and_alone(planted, changes, claim):
    criteria = residual_power_law.judge(all_kinds(planted, **changes))
    (failed,) = [criterion.claim for criterion in criteria if not criterion.holds]
    assert failed.startswith(claim)


def test_a_plain_network_that_does_not_explode_fails():
    columns = all_kinds()
    plain = columns["shortcut"] == "none"
    columns["log_ratio"] = np.where(
        plain, -1.5 * np.log1p(columns["position"]), columns["log_ratio"]
    )
    (failed,) = [c for c in residual_power_law.judge(columns) if not c.holds]
    assert failed.claim.startswith("gaussian, plain")


def test_a_run_is_written_and_told(tmp_path, capsys):
    config = residual_power_law.Config(out=tmp_path)
    assert lab.conclude(lab.experiment(residual_power_law), config, all_kinds(), {}) == 0
    assert (tmp_path / "residual_power_law.png").stat().st_size > 20_000
    told = capsys.readouterr().out
    assert "1.467" in told
    assert "holds (9 of 9 criteria)" in told


def test_the_first_eighth_does_not_enter_the_exponent():
    columns = all_kinds()
    early = columns["position"] < columns["units"] // 8
    columns["log_ratio"] = columns["log_ratio"] + 5.0 * early
    for before, after in zip(summaries(all_kinds()), summaries(columns), strict=True):
        np.testing.assert_allclose(before.exponents, after.exponents)


def test_the_exponent_is_asked_for_where_theory_has_come_to_it():
    asked = {}
    for depth in (8, 32, 56):
        criteria = residual_power_law.judge(all_kinds(depth=depth))
        assert all(criterion.holds for criterion in criteria)
        asked[depth] = [c.claim for c in criteria if c.claim.endswith("exponent of |g|^2 in depth")]
    assert [len(claims) for claims in asked.values()] == [0, 1, 2]


def test_networks_on_digits_are_half_as_deep():
    config = residual_power_law.Config(depths=(8, 20, 128))
    units = {one.kind.depth: one.kind.units for one in residual_power_law.cells(config)}
    assert units == {8: 8, 20: 10, 128: 64}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--depths", "32", "7"], "depths=(32, 7) must be at least 8"),
        (["--batch-size", "3"], "batch_size=3 must be at least 4"),
        (["--digits-batch-size", "5000"], "digits_batch_size=5000: there are 1437 digits"),
        (["--width", "0"], "width=0 must be at least 1"),
        (["--seeds", "1"], "seeds=1 must be at least 2"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["residual-power-law", *argv, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
