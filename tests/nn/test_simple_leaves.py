"""Pools, activations, scales, the zero-padding shortcut, squeeze-excitation: against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.default_rng(3).normal(size=(2, 6, 4, 5))
IMAGE = jnp.asarray(X, jnp.float32)


def windows(x, h, w):
    """Disjoint windows as two more axes."""
    n, height, width, c = x.shape
    return x.reshape(n, height // h, h, width // w, w, c)


@pytest.mark.parametrize("kind, function", [("max", np.max), ("avg", np.mean)])
def test_pools(kind, function):
    expected = function(windows(X, 3, 2), axis=(2, 4))
    np.testing.assert_allclose(nn.Pool(kind, (3, 2))(IMAGE), expected, rtol=1e-4, atol=1e-6)
    for keepdims in (True, False):
        pool = nn.GlobalPool(kind, keepdims=keepdims)
        expected = function(X, axis=(1, 2), keepdims=keepdims)
        np.testing.assert_allclose(pool(IMAGE), expected, rtol=1e-4, atol=1e-6)


def test_a_maximum_sees_zeros_beyond_the_edge_if_asked():
    below = IMAGE - 5  # zero would win everywhere
    for zero_pad, edge in ((False, -np.inf), (True, 0.0)):
        beyond = np.pad(X - 5, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=edge)
        pool = nn.Pool("max", (2, 2), padding=1, zero_pad=zero_pad)
        np.testing.assert_allclose(pool(below), windows(beyond, 2, 2).max((2, 4)), rtol=1e-5)


def test_padded_places_count_in_a_mean_if_asked():
    padded = np.pad(X, [(0, 0), (1, 1), (1, 1), (0, 0)])
    sums = windows(padded, 2, 2).sum((2, 4))
    inside = np.pad(np.ones_like(X), [(0, 0), (1, 1), (1, 1), (0, 0)])
    for count, divisor in ((True, 4), (False, windows(inside, 2, 2).sum((2, 4)))):
        pool = nn.Pool("avg", (2, 2), padding=1, count_include_pad=count)
        np.testing.assert_allclose(pool(IMAGE), sums / divisor, rtol=1e-4, atol=1e-6)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "exact_gelu": lambda x: x / 2 * (1 + special.erf(x / np.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "linear": lambda x: x,
}


def test_every_activation_by_name_is_its_formula():
    assert set(nn.ACTIVATIONS) == set(ACTIVATIONS)
    x = np.linspace(-7.5, 7.5, 32).reshape(2, 16)
    for name, formula in ACTIVATIONS.items():
        node = nn.Activation(name)
        assert node.name == name
        found = node(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(found, formula(x), rtol=1e-4, atol=1e-5, err_msg=name)
    approximate = np.abs(ACTIVATIONS["gelu"](x) - ACTIVATIONS["exact_gelu"](x)).max()
    assert approximate > 1e-4  # so that this test tells the two apart


def test_an_activation_may_be_any_function():
    node = nn.Activation(jnp.sin)
    assert node.name == "sin"
    np.testing.assert_allclose(node(IMAGE), np.sin(X), rtol=1e-4, atol=1e-6)


def test_a_scale_is_a_parameter_only_where_it_is_learned():
    fixed, learned = nn.Scale(0.3), nn.Scale(0.3, learnable=True)
    assert len(nnx.to_flat_state(nnx.state(fixed))) == 0
    assert [path for path, _ in nnx.to_flat_state(nnx.state(learned, nnx.Param))] == [("value",)]
    for node in (fixed, learned):
        np.testing.assert_allclose(node(IMAGE), 0.3 * X, rtol=1e-5)
    learned.value[...] = jnp.asarray(-2.0)
    np.testing.assert_allclose(learned(IMAGE), -2 * X, rtol=1e-5)


def test_a_layer_scale_is_a_learned_number_for_each_channel():
    node = nn.Scale(1e-6, learnable=True, features=5)
    np.testing.assert_allclose(node.value[...], np.full(5, 1e-6, np.float32))
    node.value[...] = jnp.arange(-2.0, 3.0)
    np.testing.assert_allclose(node(IMAGE), np.arange(-2, 3) * X, rtol=1e-5)
    np.testing.assert_allclose(node(IMAGE[0, 0, 0]), np.arange(-2, 3) * X[0, 0, 0], rtol=1e-5)


def test_zero_padding_subsamples_and_adds_silent_channels():
    y = nn.ZeroPadShortcut(5, 8, strides=2)(IMAGE)
    assert y.shape == (2, 3, 2, 8)
    np.testing.assert_array_equal(y[..., :5], IMAGE[:, ::2, ::2])
    assert not y[..., 5:].any()
    np.testing.assert_array_equal(nn.ZeroPadShortcut(5, 5)(IMAGE), IMAGE)


def test_channels_are_taken_in_any_order():
    for indices in ((1, 2, 3), (4, 0, 2), (3,)):
        np.testing.assert_array_equal(nn.Channels(indices)(IMAGE), IMAGE[..., list(indices)])


def test_squeeze_excitation_by_its_formula():
    node = nn.SqueezeExcite(5, 2, activation="tanh", gate="hard_sigmoid", rngs=nnx.Rngs(0))
    node.reduce.bias[...], node.expand.bias[...] = jnp.array([0.5, -1.0]), jnp.arange(5.0)
    reduce, expand = (
        np.asarray(c.kernel[...], np.float64)[0, 0] for c in (node.reduce, node.expand)
    )
    squeezed = np.tanh(X.mean((1, 2)) @ reduce + [0.5, -1.0])
    weights = ACTIVATIONS["hard_sigmoid"](squeezed @ expand + np.arange(5))
    expected = X * weights[:, None, None]
    np.testing.assert_allclose(node(IMAGE), expected, rtol=1e-4, atol=1e-5)
    assert nn.SqueezeExcite(5, 2, rank=1, rngs=nnx.Rngs(0))(IMAGE[:, 0]).shape == (2, 4, 5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Activation("rellu"), "function='rellu' .* did you mean 'relu'"),
        (lambda: nn.Pool("mean", (2, 2)), "kind='mean' is not known; .*avg, max"),
        (lambda: nn.GlobalPool("maxx"), "did you mean 'max'"),
        (lambda: nn.Channels((1, 1)), "indices=.* none of them twice"),
        (lambda: nn.Channels((1, 5))(IMAGE), "x has 5 channels, no 5"),
        (lambda: nn.ZeroPadShortcut(5, 4), "out_features=4 must be at least in_features=5"),
        (lambda: nn.ZeroPadShortcut(5, 8, strides=0), "strides=0 must be at least 1"),
        (lambda: nn.Scale(0.1, learnable=True, features=0), "features=0 must be at least 1"),
        (lambda: nn.Scale(0.1, features=5), "features=5 is for .* learned; give learnable=True"),
        (lambda: nn.Scale(0.1, learnable=True, features=4)(IMAGE), "5 channels, the scale 4"),
        (lambda: nn.SqueezeExcite(5, 0, rngs=nnx.Rngs(0)), "reduced_features=0 must be at least 1"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
