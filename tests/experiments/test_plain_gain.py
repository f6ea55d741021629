import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from experiments import plain_gain
from experiments.plain_gain import Plain

TINY = plain_gain.Config(inits=("he", "torch"), widths=(11,), depths=(3,), seeds=4)


@pytest.fixture(scope="module")
def measured():
    return lab.measure_all(lab.experiment(plain_gain), TINY)


def by_hand(init, width, seed):
    """Propagate one example through one network, forward and back, in NumPy."""
    kind = Plain(init, width, TINY.depths[0])
    net_key, signal_key = jax.random.split(kind.keys(TINY.seeds)[seed])
    net = kind.network(nnx.Rngs(net_key))
    kernels = np.asarray(net.unit.branch["conv1"].kernel[...], np.float64)[:, 0, 0]
    signals = np.asarray(jax.random.normal(signal_key, (2, 1, 1, 1, width)), np.float64)
    x, gradient = signals.reshape(2, width)
    entering = []
    for kernel in kernels:
        entering.append(x)
        x = np.maximum(x, 0) @ kernel
    logs = [np.log(gradient @ gradient)]
    for kernel, x in zip(kernels[::-1], entering[::-1], strict=True):
        gradient = (x > 0) * (kernel @ gradient)
        logs.append(np.log(gradient @ gradient))
    return np.array(logs) - logs[0]


@pytest.mark.parametrize("init", TINY.inits)
def test_the_measurement_is_that_of_a_loop(measured, init):
    for seed in (0, 3):
        row = lab.pick(measured, init=init, seed=seed)
        assert row["layers"].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(row["log_square"], by_hand(init, 11, seed), atol=2e-5)


def test_there_is_a_row_for_each_network_and_layer(measured):
    assert {len(column) for column in measured.values()} == {2 * 4 * 4}
    assert np.isfinite(measured["log_square"]).all()
    scales = measured["scale"][measured["init"] == "torch"]
    np.testing.assert_allclose(scales, 1 / 3)


def walk(*, gain_error=0.0, per_layer=5.0, seeds=2000, depth=20, width=64):
    """Draw logarithms that scatter as theory says, but for what is planted."""
    rng = np.random.default_rng(0)
    mean = np.log(1 / 2) - per_layer / (2 * width) + gain_error
    steps = rng.normal(mean, np.sqrt(per_layer / width), (seeds, depth))
    logs = np.concatenate([np.zeros((seeds, 1)), np.cumsum(steps, axis=1)], axis=1)
    return lab.as_rows(Plain("lecun", width, depth), place="layers", log_square=logs)


@pytest.mark.parametrize(
    ("planted", "slope", "variance"),
    [
        ({}, True, True),
        ({"gain_error": 0.01}, False, True),
        ({"gain_error": 5 / 128}, False, True),  # the logarithm of the mean, not its mean
        ({"per_layer": 3.5, "gain_error": -1.5 / 128}, True, False),
        ({"per_layer": 6.5, "gain_error": 1.5 / 128}, True, False),
    ],
)
def test_a_wrong_gain_or_scatter_fails(planted, slope, variance):
    first, second = plain_gain.judge(walk(**planted))
    assert (first.holds, second.holds) == (slope, variance)
    assert "slope" in first.claim and "variance" in second.claim


def test_slope_and_error_are_those_of_the_ends():
    columns = walk(seeds=50)
    shuffled = np.random.default_rng(1).permutation(len(columns["seed"]))
    (row,) = plain_gain.scatters({name: column[shuffled] for name, column in columns.items()})
    ends = columns["log_square"][columns["layers"] == 20] / 20
    np.testing.assert_allclose(row.slope.mean, ends.mean())
    np.testing.assert_allclose(row.slope.error, ends.std(ddof=1) / np.sqrt(50))
    np.testing.assert_allclose(row.kind.expected(20), (20 * np.log(0.5) - 50 / 64, 100 / 64))


def test_figure_and_table(measured):
    panels = plain_gain.draw(measured).panels
    assert len(panels) == 4
    # Points and theory for each of the two initialisers.
    for one in (one for panel in panels for one in panel.series):
        assert len(one.x) > 2 and len(one.y) == len(one.expected)
    assert plain_gain.table(measured).row_count == 2
