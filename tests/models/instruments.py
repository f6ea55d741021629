"""What every instrument must be able to do with a network."""

import jax
import numpy as np
from flax import nnx

import convjax
from convjax import gradflow, nn


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def shapes(net):
    return {path: leaf.shape for path, leaf in parameters(net).items()}


def nodes(net, kind):
    return {path: node for path, node, _ in nn.walk(net) if isinstance(node, kind)}


def check_foreseen(net, shape):
    """Theory and cost know every leaf; they need no values."""
    predicted = gradflow.predict(net, shape, train=True)
    assert not predicted.unknown
    assert all(np.isfinite(unit.gradient_log_norm) for unit in predicted.units)
    cost = convjax.cost(net, shape)
    assert not cost.unknown
    assert cost.parameters == sum(np.prod(shape) for shape in shapes(net).values())
    return predicted


def check_measured(net, image, **how):
    """A profile sees every layer, and theory has the same rows; paths add up to its gradient."""
    key = jax.random.key(2)
    found = gradflow.profile(net, image, cotangent=key, train=True, **how)
    assert not found.opaque
    assert set(found.paths) == {path for path, _, _ in nn.walk(net)} | {"input"}
    assert all(bool(unit.gradient.norm > 0) for _, unit in found.items())
    predicted = gradflow.predict(net, image.shape, train=True)
    assert list(found.paths)[1:] == [unit.path for unit in predicted.units]
    if nodes(net, nn.Residual):
        taken_apart = gradflow.paths(net, image, cotangent=key, train=True, **how)
        np.testing.assert_allclose(
            taken_apart.gradient.log_norm, found["input"].gradient.log_norm, atol=1e-4
        )
    return found


def check_twins(make):
    """``make(shortcut=…)``: the same initial values, but for what a gate has of its own."""
    plain = parameters(make(shortcut="none"))
    for name in ("identity", "gated"):
        other = parameters(make(shortcut=name))
        more = other.keys() - plain.keys()
        assert name == "gated" or all("shortcut" in path for path in more)
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))
