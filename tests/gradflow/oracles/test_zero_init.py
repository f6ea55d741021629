"""Row 17: which gradients are exactly zero in networks whose branches start at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn
from convjax.gradflow import oracles

UNITS, WIDTH = 3, 6
X = jax.random.normal(jax.random.key(0), (5, WIDTH))
TARGETS = jax.random.normal(jax.random.key(1), (5, 2))


def unit(kind, rngs):
    init = nn.initializers.he_normal()
    scale = oracles.fixup_scale(UNITS, 2) if kind == "fixup" else 1.0
    branch = {
        "first": nn.Dense(WIDTH, 9, use_bias=False, kernel_init=init, rngs=rngs),
        "relu": nn.Activation("relu"),
        "last": nn.Dense(9, WIDTH, use_bias=False, kernel_init=init, rngs=rngs),
    }
    branch["first"].kernel[...] *= scale
    if kind == "fixup":
        branch["last"].kernel[...] = jnp.zeros((9, WIDTH))
    else:
        branch["scale"] = nn.Scale(0.0, learnable=True)
    return nn.Residual(nn.Chain(branch))


def network(kind):
    rngs = nnx.Rngs(2)
    body = nn.Chain([unit(kind, rngs) for _ in range(UNITS)])
    head = nn.Dense(WIDTH, 2, use_bias=False, rngs=rngs)
    if kind == "fixup":
        head.kernel[...] = jnp.zeros((WIDTH, 2))
    return nn.Chain(body=body, head=head)


def steps(kind, count):
    """Return, for each step of descent, {leaf of the network: largest gradient}."""
    graphdef, params = nnx.split(network(kind))

    @jax.jit
    def step(params):
        def loss(params):
            return jnp.sum((nnx.merge(graphdef, params)(X) - TARGETS) ** 2)

        gradients = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradients), gradients

    for _ in range(count):
        params, gradients = step(params)
        flat = nnx.to_flat_state(gradients)
        yield {path: float(np.abs(leaf[...]).max()) for path, leaf in flat}


def moving(gradients):
    """Return the kinds of leaf whose gradients are not all exactly zero."""
    kinds = {}
    for path, size in gradients.items():
        kind = next(k for k in ("first", "last", "scale", "head") if k in path)
        kinds.setdefault(kind, []).append(size > 0)
    assert all(len(set(all_units)) == 1 for all_units in kinds.values()), kinds
    return {kind for kind, units in kinds.items() if units[0]}


def test_a_scale_of_zero_hides_the_branches_for_one_step():
    zeroth, first = steps("skipinit", 2)
    assert moving(zeroth) == {"scale", "head"}
    assert moving(first) == {"scale", "head", "first", "last"}


def test_fixup_wakes_layer_by_layer():
    zeroth, first, second = steps("fixup", 3)
    assert moving(zeroth) == {"head"}
    assert moving(first) == {"head", "last"}
    assert moving(second) == {"head", "last", "first"}


@pytest.mark.parametrize("kind", ["skipinit", "fixup"])
def test_the_gradient_is_the_same_at_every_unit(kind):
    body = network(kind)["body"]
    x, tails = X, []
    for i in range(UNITS):
        x, pull = jax.vjp(body[i], x)
        tails.append(pull)
    cotangent = jax.random.normal(jax.random.key(3), x.shape)
    g = cotangent
    for pull in reversed(tails):
        (g,) = pull(g)
        np.testing.assert_array_equal(g, cotangent)
    assert oracles.residual_gain(UNITS, 0.0, 2.0) == 1
