"""Modules and functions as units of an expression: every instrument sees into them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.nn.test_units import pair

pytestmark = pytest.mark.usefixtures("quick_compilation")
X = jax.random.normal(jax.random.key(0), (3, 5, 4, 4))
MODES = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
FIELDS = ("activation_log_rms", "gradient_log_norm", "gradient_scatter")


class Skip(nnx.Module):
    """A residual block as people write it, called with x alone."""

    def __init__(self, features, rngs):
        self.conv = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.bn(self.conv(x)))


def ours(skip):
    """The same block as an expression, with the same values."""
    norm = nn.BatchNorm(4, epsilon=1e-5, rngs=nnx.Rngs(0))
    conv = nn.Conv(4, 4, (3, 3), rngs=nnx.Rngs(0))
    for mine, its in ((conv, skip.conv), (norm, skip.bn)):
        for name in ("kernel", "bias", "scale", "mean", "var"):
            if isinstance(getattr(its, name, None), nnx.Variable):
                getattr(mine, name).set_value(getattr(its, name)[...])
    return nn.Residual(nn.Chain(conv=conv, bn=norm, tanh=nn.Activation("tanh")))


def _of(net, train, **options):
    rngs = nnx.Rngs(dropout=3) if train else None
    return gradflow.profile(net, X, cotangent=jax.random.key(1), train=train, rngs=rngs, **options)


@MODES
def test_layers_of_flax_are_measured_as_ours_are(train):
    ours, theirs = pair()
    expected, found = _of(ours, train), _of(theirs, train)
    assert set(expected.paths) == set(found.paths) and found.opaque == ()
    for path, unit in expected.items():
        mine = found[path]
        if path.endswith("act"):
            continue
        for a, b in ((unit.activation, mine.activation), (unit.gradient, mine.gradient)):
            np.testing.assert_allclose(b.norm, a.norm, rtol=2e-4, err_msg=path)
        assert set(unit.parameters) == set(mine.parameters), path
        for name, norm in unit.parameter_gradients.items():
            near = {"rtol": 1e-3, "atol": 1e-4, "err_msg": f"{path}/{name}"}
            np.testing.assert_allclose(mine.parameter_gradients[name].norm, norm.norm, **near)


@MODES
def test_theory_and_cost_know_layers_of_flax(train):
    both = pair()
    ours, theirs = (gradflow.predict(net, X.shape, train=train, kernels="measured") for net in both)
    assert ours.unknown == theirs.unknown == ()
    for unit in ours.units:
        for field in FIELDS:
            a, b = getattr(unit, field), getattr(theirs[unit.path], field)
            np.testing.assert_allclose(b, a, atol=1e-3, err_msg=f"{unit.path} {field}")
    a, b = (convjax.cost(net, X.shape) for net in both)
    assert a.unknown == b.unknown == ()
    assert (a.multiply_adds, a.parameters, a.paths) == (b.multiply_adds, b.parameters, b.paths)


def _lengths(blocks, x, cotangent, train):
    """The gradients by paths of each length, block by block, each by its own pullback."""
    pullbacks, y = [], x
    for block in blocks:

        def branch(x, block=block):
            copy = nnx.clone(block)
            copy.train() if train else copy.eval()
            return copy(x) - x

        out, pullback = jax.vjp(branch, y)
        pullbacks.append(pullback)
        y = y + out
    found = [cotangent]
    for pullback in reversed(pullbacks):
        longer = [jnp.zeros_like(x), *(pullback(g)[0] for g in found)]
        found = [a + b for a, b in zip([*found, jnp.zeros_like(x)], longer, strict=True)]
    return np.array([float(jnp.sum(g**2)) for g in found])


@MODES
@pytest.mark.parametrize("around", ["chain", "repeat"])
def test_paths_through_a_sum_of_ones_own_are_those_of_an_explicit_decomposition(around, train):
    if around == "chain":
        blocks = [Skip(4, nnx.Rngs(i)) for i in range(3)]
        net = nn.Chain(nnx.clone(block) for block in blocks)
    else:
        net = nn.Repeat(lambda rngs: Skip(4, rngs), 3, rngs=nnx.Rngs(0))
        blocks = list(nnx.clone(net).unrolled())
    cotangent = jax.random.normal(jax.random.key(5), X.shape)
    energy = _lengths(blocks, X, cotangent, train)
    found = gradflow.paths(net, X, cotangent=cotangent, train=train)
    assert found.skip_share < 0.9
    np.testing.assert_allclose(np.exp(found.log_energy), energy, rtol=1e-3)


@MODES
@pytest.mark.parametrize("place", ["branch", "parallel", "repeat"])
def test_a_block_of_ones_own_is_measured_where_it_stands(place, train):
    def around(unit):
        if place == "branch":
            return nn.Residual(nn.Chain(unit=unit))
        if place == "parallel":
            return nn.Parallel(unit=nn.Chain(unit=unit), other=nn.Identity())
        return nn.Repeat(lambda rngs: nnx.clone(unit), 2, rngs=nnx.Rngs(0))

    skip = Skip(4, nnx.Rngs(0))
    theirs, mine = nn.Chain(a=around(skip)), nn.Chain(a=around(ours(skip)))
    found, expected = _of(theirs, train), _of(mine, train)
    inside = {"branch": "a/branch/unit", "parallel": "a/unit/unit", "repeat": "a/*"}[place]
    same = {"conv": "branch/conv", "bn": "branch/bn", "add": ""}
    for label, path in same.items():
        other = expected[nn.join(inside, path) if path else inside]
        unit = found[f"{inside}/{label}"]
        np.testing.assert_allclose(unit.gradient.norm, other.gradient.norm, rtol=1e-4)
        np.testing.assert_allclose(unit.activation.norm, other.activation.norm, rtol=1e-4)
        assert set(unit.parameter_gradients) == set(other.parameter_gradients)
    np.testing.assert_allclose(
        found["input"].gradient.norm, expected["input"].gradient.norm, rtol=1e-5
    )


def test_the_other_instruments_see_in_too():
    skip = Skip(4, nnx.Rngs(0))
    pool = {"pool": lambda x: x.mean((1, 2)), "fc": nnx.Linear(4, 2, rngs=nnx.Rngs(1))}
    theirs, mine = nn.Chain({"a": skip, **pool}), nn.Chain({"a": ours(skip), **pool})
    found = [
        gradflow.correlation(net, X, cotangent=jax.random.key(1), train=False).cosines
        for net in (theirs, mine)
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)

    def loss(y):
        return jnp.sum(y**2)

    norms = [gradflow.per_example_norms(net, X, loss=loss) for net in (theirs, mine)]
    np.testing.assert_allclose(norms[0].log_norm, norms[1].log_norm, rtol=1e-4)
    assert "a/conv" in norms[0].log_norms
    scales = [gradflow.noise_scale(net, X, loss=loss).scale for net in (theirs, mine)]
    np.testing.assert_allclose(*scales, rtol=1e-3)
    both = gradflow.compare(_of(theirs, False), gradflow.predict(theirs, X.shape, train=False))
    assert len(both.units) > 3


def test_masks_of_dropout_are_those_of_the_call():
    def unit(rngs):
        return nn.Chain(dense=nnx.Linear(4, 4, rngs=rngs), drop=nnx.Dropout(0.5))

    net = nn.Chain(
        first=nnx.Dropout(0.2), rest=nn.Repeat(unit, 3, rngs=nnx.Rngs(0)), last=unit(nnx.Rngs(1))
    )
    rngs = nnx.Rngs(dropout=7)
    y, pullback = jax.vjp(lambda x: net(x, train=True, rngs=nnx.Rngs(dropout=7)), X)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    found = gradflow.profile(net, X, cotangent=cotangent, train=True, rngs=rngs)
    np.testing.assert_allclose(found[""].activation.norm, jnp.linalg.norm(y), rtol=1e-5)
    norm = jnp.linalg.norm(pullback(cotangent)[0])
    np.testing.assert_allclose(found["input"].gradient.norm, norm, rtol=1e-5)
    assert int(rngs.dropout.count[...]) == 0


def test_a_function_that_is_not_elementwise_is_none_to_any_instrument():
    net = nn.Chain(mean=lambda x: x.mean((1, 2)), own=lambda x: x - x.mean(-1, keepdims=True))
    measured = _of(net, False)
    assert measured["mean"].kind == "GlobalPool" and measured.opaque == ("own",)
    assert gradflow.predict(net, X.shape, train=False).unknown == ("own",)


def test_a_network_is_not_traced_again_for_a_second_measurement():
    traces = []

    class Counted(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones((1, 1, 1, 4)))

        def __call__(self, x):
            traces.append(None)
            return x * self.w

    net = nn.Chain(counted=Counted())
    _of(net, False)
    count = len(traces)
    net["counted"].w.set_value(2 * jnp.ones((1, 1, 1, 4)))
    again = _of(net, False)
    assert len(traces) == count
    np.testing.assert_allclose(again["counted"].activation.norm, 2 * jnp.linalg.norm(X), rtol=1e-5)
