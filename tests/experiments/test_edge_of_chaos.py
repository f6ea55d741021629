import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab, nn
from convjax.gradflow import oracles
from experiments import edge_of_chaos

TINY = edge_of_chaos.Config(
    weight_variances=(1.0, 4.0),
    bias_variance=0.3,
    depths=(4,),
    discard=1,
    width=6,
    batch_size=3,
    seeds=3,
)


@pytest.fixture(scope="module")
def measured():
    return lab.measure_all(lab.experiment(edge_of_chaos), TINY)


def by_hand(index, seed):
    """Propagate a batch through one network, forward and back, in NumPy."""
    keys = jax.random.split(jax.random.key(index), TINY.seeds)
    net_key, signal_key = jax.random.split(keys[seed])

    def unit(rngs):
        normal = jax.nn.initializers.normal(1.0)
        return nn.Dense(TINY.width, TINY.width, kernel_init=normal, bias_init=normal, rngs=rngs)

    drawn = nn.Repeat(unit, TINY.depths[0], rngs=nnx.Rngs(net_key)).unit
    deviation = np.sqrt(TINY.weight_variances[index] / TINY.width)
    kernels = np.asarray(drawn.kernel[...], np.float64) * deviation
    biases = np.asarray(drawn.bias[...], np.float64) * np.sqrt(TINY.bias_variance)
    shape = (2, TINY.batch_size, TINY.width)
    x, gradient = np.asarray(jax.random.normal(signal_key, shape), np.float64)
    entering = []
    for kernel, bias in zip(kernels, biases, strict=True):
        entering.append(x)
        x = np.tanh(x) @ kernel + bias
    gains = []
    for kernel, x in zip(kernels[::-1], entering[::-1], strict=True):
        before = (1 - np.tanh(x) ** 2) * (gradient @ kernel.T)
        gains.append(np.sum(before**2) / np.sum(gradient**2))
        gradient = before
    return gains[::-1], [np.mean(x**2) for x in entering]


@pytest.mark.parametrize(("index", "seed"), [(0, 0), (1, 2)])
def test_the_measurement_is_that_of_a_loop(measured, index, seed):
    found = lab.pick(measured, weight_variance=TINY.weight_variances[index], seed=seed)
    gains, variances = by_hand(index, seed)
    assert found["layer"].tolist() == [0, 1, 2, 3]
    assert found["kept"].tolist() == [False, True, True, True]
    np.testing.assert_allclose(found["gain"], gains, rtol=2e-5)
    np.testing.assert_allclose(found["variance"], variances, rtol=2e-5)


def test_other_variances_are_arguments_of_one_program(measured):
    cells = edge_of_chaos.cells(TINY)
    other = dataclasses.replace(
        cells[0], kind=dataclasses.replace(cells[0].kind, bias_variance=0.2)
    )
    before = edge_of_chaos.profiles._cache_size()
    edge_of_chaos.measure(other)
    assert edge_of_chaos.profiles._cache_size() == before
    assert len({edge_of_chaos.group(one) for one in [*cells, other]}) == 1


def test_a_quarter_is_left_out_of_shallow_networks():
    cells = edge_of_chaos.cells(edge_of_chaos.Config(depths=(8, 20, 40, 110)))
    assert [one.discard for one in cells[::6]] == [2, 5, 10, 10]


def planted(factor=1.0, shift=0.0, variances=(1.0, 1.5, 1.7, 2.0, 2.5, 4.0)):
    """Return columns whose gain is theory's, but for what is planted."""
    rng = np.random.default_rng(0)
    # A first layer that must not count, and gains of which the mean is compared.
    by_layer = np.array([5.0, 0.5, 1.5, 1.0])
    blocks = []
    for v in variances:
        kind = edge_of_chaos.Tanh(v, 0.05, 9, 4)
        gain = np.exp(factor * np.log(kind.chi) + shift) * by_layer
        gain = gain * (1 + 1e-4 * rng.standard_normal((3, 4)))
        rows = lab.as_rows(kind, place="layer", gain=gain, variance=np.full((3, 4), 0.5))
        blocks.append(rows | {"kept": rows["layer"] > 0})
    return lab.joined(blocks)


@pytest.mark.parametrize(
    ("wrong", "verdicts"),
    [
        ({}, [True] * 6),
        ({"factor": 1.02}, [True] * 6),
        ({"factor": 1.04}, [False] * 4 + [True, True]),
        ({"shift": 0.005}, [True, False, False, True, True, False]),
        ({"shift": 0.03}, [False] * 6),
        ({"factor": -1.0}, [False] * 6),
    ],
)
def test_a_wrong_gain_fails(wrong, verdicts):
    criteria = edge_of_chaos.judge(planted(**wrong))
    assert [criterion.holds for criterion in criteria] == verdicts
    assert [c.claim.rpartition(" ")[2] for c in criteria[:4]] == ["1", "1.5", "2.5", "4"]


def test_what_is_too_near_the_edge_is_not_held_to_three_percent():
    claims = [c.claim for c in edge_of_chaos.judge(planted(variances=(1.7, 1.76, 2.0)))]
    assert len(claims) == 2
    fade_and_grow = edge_of_chaos.judge(planted(variances=(1.7, 1.76, 2.0)))[0]
    assert fade_and_grow.measured == "fade at 1.7; grow at 2"


def test_the_edge_is_where_science_says():
    assert abs(oracles.edge_of_chaos("tanh", 0.05, 1.0, 4.0) - 1.76) < 0.002
    assert edge_of_chaos.crossing([1.0, 2.0, 4.0], [-3.0, -1.0, 3.0]) == 2.5
    assert np.isnan(edge_of_chaos.crossing([1.0, 2.0], [1.0, -1.0]))


def test_the_table_has_a_row_for_each_variance(measured):
    assert edge_of_chaos.table(measured).row_count == 2


def test_the_figure_shows_theory_along_the_network():
    columns = planted(variances=(1.0, 4.0))
    along = edge_of_chaos.draw(columns).panels[2].series[0]
    expected = np.log(oracles.chi("tanh", 1.0, 0.05)) * np.array([4, 3, 2, 1])
    np.testing.assert_allclose(along.expected, expected)
    # The product of the planted gains, each network's on its own, averaged last.
    product = columns["gain"].reshape(2, 3, 4)[0].prod(axis=1)
    np.testing.assert_allclose(along.y[0], np.log(product.mean()))
