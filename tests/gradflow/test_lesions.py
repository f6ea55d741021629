"""Lesions and features of a small residual network, against the network rebuilt by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from convjax._check import WrongTypeError


def branch(width, features, strides, rngs):
    parts: dict[str, nnx.Module] = {
        "conv1": nn.Conv(width, features, (3, 3), strides=strides, rngs=rngs)
    }
    parts["relu"] = nn.Activation("relu")
    return nn.Chain(parts | {"conv2": nn.Conv(features, features, (3, 3), rngs=rngs)})


@pytest.fixture(scope="module")
def net():
    """A stem, two units by one program, one that changes the shape, and a head."""
    rngs = nnx.Rngs(0)
    same = lambda rngs: nn.Residual(branch(3, 3, 1, rngs), activation=nn.Activation("relu"))  # noqa: E731
    wider = nn.Residual(
        branch(3, 4, 2, rngs), nn.ZeroPadShortcut(3, 4, strides=2), activation=nn.Activation("relu")
    )
    return nn.Chain(
        stem=nn.Conv(2, 3, (3, 3), rngs=rngs),
        body=nn.Repeat(same, 2, rngs=rngs),
        wider=wider,
        pool=nn.GlobalPool("avg"),
    )


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (3, 4, 6, 2))


def by_hand(net, x, unit=None, layer=None):
    """Run it part by part, leaving out one unit, or one layer; return the output and features."""
    y, features = net["stem"](x), []
    every = [net["body"].unit] * 2 + [net["wider"]]
    narrow = lambda x: jnp.pad(x[:, ::2, ::2], ((0, 0),) * 3 + ((0, 1),))  # noqa: E731
    for i, node in enumerate(every):
        if i < 2:  # one of the two whose parameters are stacked
            graphdef, state = nnx.split(node)
            node = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        identity = narrow if i == 2 else lambda x: x
        first = identity(y) if layer == 2 * i else node.branch["conv1"](y)
        inside = jax.nn.relu(first)
        inside = inside if layer == 2 * i + 1 else node.branch["conv2"](inside)
        summed = jax.nn.relu(inside + identity(y))
        features.append((identity(y) if unit == i else summed, inside, y))
        y = features[-1][0]
    return y.mean((1, 2)), features


def test_each_unit_and_layer_is_taken_out_alone(net, x):
    score = lambda y: {"norm": jnp.linalg.norm(y)}  # noqa: E731
    found = jax.jit(lambda x: gradflow.lesions(net, x, score, layers=True))(x)
    whole = jnp.linalg.norm(by_hand(net, x)[0])
    np.testing.assert_allclose(found["whole"]["norm"], whole, rtol=1e-5)
    for name, of, count in (("without", "unit", 3), ("without_layer", "layer", 6)):
        expected = [jnp.linalg.norm(by_hand(net, x, **{of: i})[0]) for i in range(count)]
        np.testing.assert_allclose(found[name]["norm"], expected, rtol=1e-5)
        assert len({*np.round(expected, 5).tolist(), round(float(whole), 5)}) == count + 1


def test_features_are_compared_along_the_units(net, x):
    found = jax.jit(lambda x: gradflow.along(net, x))(x)
    start = np.asarray(net["stem"](x))
    for i, (y, inside, before) in enumerate(by_hand(net, x)[1]):
        if i == 2:
            start = np.pad(start[:, ::2, ::2], ((0, 0),) * 3 + ((0, 1),))
        rows = [np.asarray(v).reshape(3, -1) for v in (start, y)]
        a, b = (one - one.mean(0) for one in rows)
        cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
        np.testing.assert_allclose(found["correlation"][i], cosine, rtol=1e-4)
        products = [v @ v.T for v in (a, b)]
        alike = (products[0] * products[1]).sum() / np.prod([np.linalg.norm(p) for p in products])
        np.testing.assert_allclose(found["cka"][i], alike, rtol=1e-4)
        share = jnp.linalg.norm(inside) / jnp.linalg.norm(before)
        np.testing.assert_allclose(found["branch"][i], share, rtol=1e-4)


def test_what_has_no_units_is_refused(x):
    conv = nn.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(WrongTypeError, match=r"^net=.* must be an nn.Chain of residual units"):
        gradflow.along(conv, x)
    with pytest.raises(ValueError, match=r"no unit that is an nn.Residual"):
        gradflow.lesions(nn.Chain(conv=conv), x, jnp.sum)
