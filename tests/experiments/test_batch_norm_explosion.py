import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from experiments import batch_norm_explosion
from experiments.batch_norm_explosion import Normed

TINY = batch_norm_explosion.Config(batch_sizes=(5,), width=6, depths=(5,), discard=1, seeds=2)


@pytest.fixture(scope="module")
def measured():
    return lab.measure_all(lab.experiment(batch_norm_explosion), TINY)


def normalized(x):
    """Return x as batch norm makes it, and what takes a gradient back through that."""
    deviation = x.std(0)
    y = (x - x.mean(0)) / deviation
    return y, lambda g: (g - g.mean(0) - y * (g * y).mean(0)) / deviation


def by_hand(activation, seed):
    """Propagate a batch through one network, forward and back, in NumPy."""
    keys = jax.random.split(jax.random.key(0), TINY.seeds)
    net_key, signal_key = jax.random.split(keys[seed])

    drawn = Normed(activation, 5, TINY.width, TINY.depths[0]).network(nnx.Rngs(net_key)).unit
    kernels = np.asarray(drawn["dense"].kernel[...], np.float64)
    x, gradient = np.asarray(jax.random.normal(signal_key, (2, 5, TINY.width)), np.float64)
    gradient = gradient - gradient.mean(0)
    backs = []
    for kernel in kernels:
        y, back = normalized(x)
        gate = y > 0 if activation == "relu" else np.ones_like(y)
        backs.append(lambda g, k=kernel, gate=gate, back=back: back(gate * (g @ k.T)))
        x = (gate * y) @ kernel
    gains = []
    for back in backs[::-1]:
        before = back(gradient)
        gains.append(np.sum(before**2) / np.sum(gradient**2))
        gradient = before
    return gains[::-1]


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_the_measurement_is_that_of_a_loop(measured, activation):
    for seed in range(2):
        found = lab.pick(measured, activation=activation, seed=seed)
        assert found["layer"].tolist() == [0, 1, 2, 3, 4]
        assert found["kept"].tolist() == [False, True, True, True, False]
        np.testing.assert_allclose(found["gain"], by_hand(activation, seed), rtol=2e-3)


def test_a_third_is_left_out_at_either_end_of_shallow_networks():
    config = batch_norm_explosion.Config(depths=(2, 8, 24, 30), batch_sizes=(8,))
    assert [one.discard for one in batch_norm_explosion.cells(config)[::2]] == [0, 2, 8, 8]


def planted(activation="relu", sizes=(4, 8, 64, 256), factors=(1.0, 1.0, 1.0, 1.0)):
    """Return columns whose gain is theory's, but for what is planted."""
    # The first and the last layer must not count; of the others the mean is compared.
    by_layer = np.array([9.0, 0.9, 1.1, 9.0])
    blocks = []
    for size, factor in zip(sizes, factors, strict=True):
        kind = Normed(activation, size, 512, 4)
        gain = np.outer([0.999, 1.001], factor * kind.expected * by_layer)
        rows = lab.as_rows(kind, place="layer", gain=gain)
        blocks.append(rows | {"kept": np.isin(rows["layer"], [1, 2])})
    return lab.joined(blocks)


@pytest.mark.parametrize(
    ("activation", "factors", "verdicts"),
    [
        ("relu", (1.0, 1.0, 1.0, 1.0), [True, True]),
        ("linear", (1.0, 1.0, 1.0, 1.0), [True, True]),
        ("relu", (1.3, 1.0, 1.0, 1.0), [True, True]),  # a batch of 4 has no finite variance
        ("relu", (1.0, 1.0, 1.0, 0.96), [False, True]),
        ("relu", (1.0, 1.04, 1.0, 1.0), [False, True]),
        ("linear", (1.0, 0.96, 1.0, 1.0), [False, True]),
        ("relu", (1.0, 1.0, 0.985, 1.01), [True, False]),
        ("linear", (1.0, 1.0, 1.0, 1.02), [True, False]),
        ("relu", (0.5, 1.0, 1.0, 1.0), [True, False]),
    ],
)
def test_a_wrong_gain_fails(activation, factors, verdicts):
    criteria = batch_norm_explosion.judge(planted(activation, factors=factors))
    assert [criterion.holds for criterion in criteria] == verdicts


def test_relu_is_not_taken_for_linear():
    columns = planted("relu")
    columns["activation"] = np.full(len(columns["gain"]), "linear")
    assert not batch_norm_explosion.judge(columns)[0].holds


def test_batches_below_8_are_shown_but_not_held_to_the_formula(measured):
    assert batch_norm_explosion.judge(measured) == []
    assert batch_norm_explosion.table(measured).row_count == 2
    assert len(batch_norm_explosion.draw(measured).panels) == 2


def test_the_figure_shows_theory_by_batch_size():
    panels = batch_norm_explosion.draw(planted()).panels
    assert [panel.title for panel in panels[1:]] == [
        "from the second layer on, batch of 8",
        "from the second layer on, batch of 256",
    ]
    (by_size,) = panels[0].series
    np.testing.assert_allclose(by_size.expected[1], 1.788, rtol=1e-3)
    np.testing.assert_allclose(by_size.y, by_size.expected)
