"""predict against closed forms, in the limit of wide networks: nothing here is measured."""

import math

import jax
import numpy as np
import pytest
import scipy
from flax import nnx

from convjax import gradflow, models, nn
from convjax.gradflow._theory._norms import inverse_forms
from tests.nn import registry

WIDE = 100_000


def _abstract(make):
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def _stack(depth, **options):
    options = {"shortcut": "none", "padding": "CIRCULAR", **options}
    return _abstract(lambda rngs: models.deep_stack(depth, WIDE, rngs=rngs, **options))


def _predict(net, shape=(4, 6, 5, WIDE)):
    return gradflow.predict(net, shape, train=True)


def _squared_gains(found, units):
    """Squared gradient gain of every unit of a repeat, the first first."""
    return np.exp([2 * found[str(i)].gradient_gain for i in range(units)])


@pytest.mark.parametrize(("init", "scale"), [("he", 2.0), ("lecun", 1.0), ("torch", 1 / 3)])
def test_plain_gain(init, scale):
    found = _predict(_stack(6, init=init, convs_per_unit=1))
    np.testing.assert_allclose(
        _squared_gains(found, 6), gradflow.oracles.relu_gain(scale), rtol=1e-3
    )
    assert found["3"].activation_gain == pytest.approx(0.5 * np.log(scale / 2), abs=1e-3)


@pytest.mark.parametrize("batch", [5, 8, 64])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_batch_norm_gain_at_its_fixed_point(batch, activation):
    net = _abstract(
        lambda rngs: nn.Repeat(
            lambda rngs: nn.Chain(
                norm=nn.BatchNorm(WIDE, epsilon=0.0, rngs=rngs),
                activation=nn.Activation(activation),
                dense=nn.Dense(WIDE, WIDE, use_bias=False, rngs=rngs),
            ),
            24,
            rngs=rngs,
        )
    )
    gains = _squared_gains(_predict(net, (batch, WIDE)), 24)
    expected = gradflow.oracles.batch_norm_gain(batch, activation)
    np.testing.assert_allclose(gains[6:18], expected, rtol=2e-3)


def test_residual_gain():
    for scale in (1.0, 0.5):
        found = _predict(_stack(8, shortcut="identity", branch_scale=scale, convs_per_unit=1))
        total = np.exp(2 * found[""].gradient_gain)
        assert total == pytest.approx(gradflow.oracles.residual_gain(8, scale, 1.0), rel=1e-2)


@pytest.mark.parametrize("convs", [1, 2])
def test_batch_norm_residual_gains(convs):
    units = 30
    net = _abstract(
        lambda rngs: models.deep_stack(
            units * convs,
            WIDE,
            norm="batch",
            convs_per_unit=convs,
            kernel_size=(1,),
            padding="VALID",
            init="he",
            rngs=rngs,
        )
    )
    gains = _squared_gains(_predict(net, (2048, 1, WIDE)), units)
    expected = gradflow.oracles.batch_norm_residual_gain(units, convs)
    np.testing.assert_allclose(gains[8:], expected[8:], rtol=0.01)


@pytest.mark.parametrize("size", [8, 32])
def test_zero_padding(size):
    layers = 20
    net = _stack(layers, padding="SAME", convs_per_unit=1)
    found = _predict(net, (2, size, size, WIDE))
    total = np.exp(2 * found[""].gradient_gain)
    # The oracle's first layer reads an even map, as the last does on the way back.
    expected = gradflow.oracles.padding_gain(size, layers)
    assert total == pytest.approx(expected, rel=2e-3)


def test_separable_units():
    net = _stack(12, conv="separable", convs_per_unit=1, padding="SAME")
    total = np.exp(2 * _predict(net, (2, 8, 8, WIDE))[""].gradient_gain)
    assert total == pytest.approx(gradflow.oracles.separable_gain(8, 12), rel=5e-3)


@pytest.mark.every(2)
@pytest.mark.parametrize("weight", [1.0, 1.5, 2.0])
def test_tanh_follows_chi(weight):
    init = nn.initializers.VarianceScaling(weight)
    found = _predict(_stack(60, init=init, activation="tanh", convs_per_unit=1))
    gains = _squared_gains(found, 60)
    expected = gradflow.oracles.chi("tanh", weight, 0.0)
    if weight > 1:
        np.testing.assert_allclose(gains[30:], expected, rtol=5e-3)
    else:  # at the edge the fixed point is reached as a power law
        assert 0.95 < gains[-1] < 1


def test_standardised_kernels_explode_like_batch_norm():
    gain = np.sqrt(2 / gradflow.oracles.CENTRED)
    net = _abstract(
        lambda rngs: nn.Repeat(
            lambda rngs: nn.Chain(
                activation=nn.Activation("relu"),
                conv=nn.Conv(
                    WIDE, WIDE, (1,), standardize=True, gain=gain, use_bias=False, rngs=rngs
                ),
            ),
            8,
            rngs=rngs,
        )
    )
    found = _predict(net, (4, 3, WIDE))
    np.testing.assert_allclose(
        _squared_gains(found, 8)[2:], 1 / gradflow.oracles.CENTRED, rtol=1e-3
    )
    assert found["5"].activation_gain == pytest.approx(0.0, abs=1e-3)


def test_the_scatter_of_a_narrow_plain_network_is_log_normal():
    depth, width = 32, 64
    net = _abstract(
        lambda rngs: nn.Chain(
            [
                nn.Chain(
                    dense=nn.Dense(width, width, kernel_init="he", use_bias=False, rngs=rngs),
                    activation=nn.Activation("relu"),
                )
                for _ in range(depth)
            ]
        )
    )
    found = gradflow.predict(net, (1, width), train=True)[""]
    mean, variance = gradflow.oracles.log_spread(depth, width)
    assert 4 * found.gradient_gain_scatter**2 == pytest.approx(variance, rel=0.05)
    assert 2 * found.gradient_gain == pytest.approx(mean, rel=0.05)


def test_a_silent_branch_leaves_the_gradient_as_it_is():
    net = _abstract(
        lambda rngs: nn.Repeat(
            lambda rngs: nn.Residual(
                nn.Chain(conv=nn.Conv(8, 8, (3, 3), rngs=rngs), skip=nn.Scale(0.0))
            ),
            5,
            rngs=rngs,
        )
    )
    found = gradflow.predict(net, (2, 5, 4, 8), train=True)
    assert found[""].gradient_gain == 0 and found[""].gradient_gain_scatter == 0
    assert found["2/branch"].activation_log_rms == -np.inf


def test_shortcuts_that_are_scaled_gated_and_padded():
    scaled = _predict(_stack(4, shortcut="scaled", shortcut_scale=0.5, branch_scale=0.0))
    assert scaled[""].gradient_gain == pytest.approx(2 * np.log(0.5))
    bias = -3.0
    gate = _abstract(
        lambda rngs: nn.Residual(
            nn.Scale(0.0), nn.Gate(64, bias=bias, kernel_init="zero", rngs=rngs)
        )
    )
    found = gradflow.predict(gate, (2, 3, 3, 64), train=True)
    assert found[""].gradient_gain == pytest.approx(
        0.5 * np.log(gradflow.oracles.highway_carry(bias, 1) ** 2), abs=1e-3
    )
    padded = _abstract(lambda rngs: nn.ZeroPadShortcut(6, 9, strides=2))
    found = gradflow.predict(padded, (2, 4, 6, 6), train=True)
    # Two thirds of the channels carry something; what comes back to the others is lost.
    assert found[""].activation_gain == pytest.approx(0.5 * np.log(6 / 9))
    scatter = found[""].gradient_gain_scatter
    assert found[""].gradient_gain == pytest.approx(0.5 * np.log(6 / 9) - scatter**2)
    assert scatter**2 == pytest.approx(0.5 / (2 * 2 * 3) * (1 / 6 - 1 / 9), rel=1e-6)


def test_a_layer_scale_acts_by_its_mean_square():
    scale = nn.Scale(1.0, learnable=True, features=6)
    values = np.array([0.5, -1.5, 2.0, 0.0, 1.0, -3.0], np.float32)
    scale.value[...] = values
    expected = 0.5 * np.log(np.mean(values**2))
    found = gradflow.predict(scale, (2, 4, 3, 6), train=True)
    assert found[""].activation_gain == pytest.approx(expected)
    assert found[""].gradient_gain == pytest.approx(expected)
    assert not found.unknown
    # Behind a padded shortcut only two channels carry something, and by their own numbers.
    padded = nn.Chain(pad=nn.ZeroPadShortcut(2, 6), scale=scale)
    found = gradflow.predict(padded, (2, 4, 3, 2), train=True)
    assert found["scale"].activation_gain == pytest.approx(0.5 * np.log(np.mean(values[:2] ** 2)))


def test_pools():
    for kind, window in (("avg", (2, 2)), ("max", (2, 2))):
        found = gradflow.predict(nn.Pool(kind, window), (2, 8, 6, 16), train=True)
        gain = np.exp(2 * found[""].gradient_gain)
        assert gain == pytest.approx(gradflow.oracles.pooling_gain(kind, window), rel=1e-6)
    found = gradflow.predict(nn.GlobalPool("avg"), (2, 8, 6, 16), train=True)
    assert np.exp(2 * found[""].gradient_gain) == pytest.approx(1 / 48)
    # Every cell is the mean of 2x2 places; of 4x4, the image itself.
    for size, gain in (((8, 6), 1 / 4), ((4, 4), 1.0)):
        found = gradflow.predict(nn.CellPool(4), (2, *size, 16), train=True)
        assert np.exp(2 * found[""].gradient_gain) == pytest.approx(gain, rel=1e-3)


@pytest.mark.every(2)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", sorted(registry.CASES))
def test_every_node_is_known(name, train):
    found = gradflow.predict(registry.make(name), registry.CASES[name].shape, train=train)
    assert not found.unknown
    for unit in found.units:
        assert np.isfinite(unit.activation_log_rms)
        assert np.isfinite(unit.activation_gain_slack)
    assert np.isfinite(found[""].gradient_gain)


def test_an_unknown_leaf_is_named_and_the_rest_predicted():
    class Mystery(nnx.Module):
        def __call__(self, x, train=False, rngs=None):
            return x[:, ::2] ** 3

    net = nn.Chain(
        a=nn.Conv(
            WIDE, 8, (3, 3), kernel_init="he", use_bias=False, padding="CIRCULAR", rngs=nnx.Rngs(0)
        ),
        mystery=Mystery(),
        relu=nn.Activation("relu"),
    )
    found = gradflow.predict(net, (2, 6, 4, WIDE), train=True)
    assert found.unknown == ("mystery",)
    assert "mystery" in found["mystery"].note and "not: mystery" in str(found)
    assert found["relu"].gradient_gain == pytest.approx(0.5 * np.log(0.5), abs=1e-2)


def test_abstract_and_concrete_networks_are_one():
    def make(rngs):
        return models.resnet_cifar(8, width=4, norm="group", rngs=rngs)

    shape = (2, 8, 8, 3)
    concrete = gradflow.predict(make(nnx.Rngs(1)), shape, train=True).table()
    abstract = gradflow.predict(_abstract(make), shape, train=True).table()
    for name, column in concrete.items():
        np.testing.assert_array_equal(column, abstract[name], err_msg=name)


@pytest.mark.later
def test_measured_kernels_are_those_of_the_network():
    net = models.deep_stack(4, 16, shortcut="none", convs_per_unit=1, rngs=nnx.Rngs(0))
    net.unit.branch["conv1"].kernel[...] = 3.0 * net.unit.branch["conv1"].kernel[...]
    shape = (2, 6, 5, 16)
    declared = gradflow.predict(net, shape, train=True)
    measured = gradflow.predict(net, shape, train=True, kernels="measured")
    gap = measured["2"].gradient_gain - declared["2"].gradient_gain
    assert gap == pytest.approx(np.log(3.0), abs=0.05)


def test_the_batchs_own_cotangent_is_used():
    net = nn.GlobalPool("avg", keepdims=True)
    x = jax.random.normal(jax.random.key(0), (4, 3, 2, 5))
    cotangent = jax.random.normal(jax.random.key(1), (4, 1, 1, 5))
    found = gradflow.predict(net, x, train=True, cotangent=cotangent)
    assert found[""].gradient_gain == pytest.approx(0.5 * np.log(1 / 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": "guessed"}, "kernels='guessed'"),
        ({"x": (4,)}, r"x has shape \(4,\)"),
        ({"cotangent": np.zeros((4, 2))}, r"cotangent has shape \(4, 2\)"),
    ],
)
def test_what_cannot_be_predicted_is_refused(options, message):
    arguments = {"x": (4, 3, 3, 5), **options}
    with pytest.raises(ValueError, match=message):
        gradflow.predict(nn.Identity(), train=True, **arguments)


def test_the_table_and_the_text():
    net = models.deep_stack(4, 8, norm="batch", rngs=nnx.Rngs(0))
    found = gradflow.predict(net, (4, 5, 3, 8), train=True)
    table = found.table()
    assert len(table["path"]) == len(found.units) and "0/branch/norm1" in table["path"]
    assert "0/branch/norm1" in str(found) and "batch of 4" in str(found)
    with pytest.raises(KeyError, match="nowhere"):
        found["nowhere"]


def _deep(depth, init):
    def unit(rngs):
        return nn.Chain(
            relu=nn.Activation("relu"),
            dense=nn.Dense(WIDE, WIDE, kernel_init=init, use_bias=False, rngs=rngs),
        )

    return _abstract(lambda rngs: nn.Repeat(unit, depth, rngs=rngs))


def test_no_depth_overflows():
    # Squares of norms reach e^1600, far beyond float64.
    for scale, sign in ((1e-7, -1), (1e7, 1)):
        found = _predict(_deep(100, nn.initializers.VarianceScaling(scale)), (2, WIDE))
        rate = found[""].gradient_gain / 100
        assert abs(found[""].gradient_gain) > 700
        assert rate == pytest.approx(found["7"].gradient_gain, rel=1e-3) and rate * sign > 0.2
        assert found[""].activation_log_rms == pytest.approx(found[""].gradient_gain, rel=1e-3)


@pytest.mark.parametrize(("terms", "out", "falls"), [(16, 32, 0.0), (27, 32, 4.0), (9, 16, 4.0)])
def test_a_kernel_and_the_norm_behind_it_scatter_against_each_other(terms, out, falls):
    """Where a batch varies in few directions the kernel undoes little of the norm's scatter."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, terms)) * np.exp(-falls * np.arange(terms) / terms)
    x = x @ np.linalg.qr(generator.normal(size=(terms, terms)))[0]
    gains = []
    for _ in range(400):
        kernel = generator.normal(size=(terms, out)) / math.sqrt(terms)
        g, y = generator.normal(size=(256, out)), x @ kernel
        z = (y - y.mean(0)) / y.std(0)
        back = (g - g.mean(0) - z * (g * z).mean(0)) / y.std(0)
        steps = [np.linalg.norm(a) for a in (g, back, back @ kernel.T)]
        gains.append(np.diff(np.log(steps)))
    net = nn.Chain(
        dense=nn.Dense(terms, out, use_bias=False, kernel_init="lecun", rngs=nnx.Rngs(0)),
        norm=nn.BatchNorm(out, epsilon=1e-12, rngs=nnx.Rngs(0)),
    )
    found = gradflow.predict(net, x.astype(np.float32), train=True)
    dense, norm = np.std(gains, axis=0)[::-1]
    expected = [found[name].gradient_gain_scatter for name in ("dense", "norm", "")]
    assert expected == pytest.approx([dense, norm, np.std(np.sum(gains, axis=1))], rel=0.15)


def test_what_dividing_by_a_first_kernels_sizes_makes_of_energies():
    """Of one channel and equal eigenvalues it is one over a chi square, of known logarithm."""
    terms = 6
    heavy, released, variance, undone = inverse_forms(np.ones(terms), terms, 1)
    mean = -scipy.special.digamma(terms / 2) - np.log(2 / terms)
    assert variance == pytest.approx(scipy.special.polygamma(1, terms / 2), rel=0.25)
    assert np.log(heavy) - variance / 2 == pytest.approx(mean, abs=0.1)
    # The kernel undoes all of it: w'w over itself is one.
    assert undone == pytest.approx((variance, -2 * variance))
    assert np.log(heavy * released) == pytest.approx(variance)
    # Of many channels it is the expectation: of five terms and a constant one, by quadrature.
    spectrum = np.array([5.0, 1, 1, 1, 1, 1])
    heavy, released, variance, _ = inverse_forms(spectrum, 6, 4000)
    t = np.geomspace(1e-7, 1e4, 20_001)
    factor = 1 + 2 * t[:, None] * spectrum / spectrum.sum()
    density = np.prod(factor**-0.5, axis=1)
    assert heavy == pytest.approx(np.trapezoid(density, t), rel=0.05)
    ratio = np.trapezoid(density * (1 / factor).mean(1), t)
    assert heavy * released == pytest.approx(ratio, rel=0.05)
    assert variance < 0.01
