"""The networks written out once more, from the papers, on nested dictionaries of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


def random_parameters(net):
    """Shift every parameter of a network, so that none is 0 or 1, and return them all."""
    generator = np.random.default_rng(5)
    state = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * generator.normal(size=leaf.shape), leaf.dtype),
        nnx.state(net, nnx.Param),
    )
    nnx.update(net, state)
    return nnx.to_pure_dict(state)


def convolve(p, x, stride=1, groups=1):
    if "depthwise" in p:
        return convolve(p["pointwise"], convolve(p["depthwise"], x, stride, x.shape[-1]))
    side = p["kernel"].shape[0] // 2
    y = lax.conv_general_dilated(
        x,
        p["kernel"],
        (stride, stride),
        [(side, side)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y + per_channel(p["bias"]) if "bias" in p else y


def per_channel(vector):
    return vector.reshape(1, 1, 1, -1)


def batch_norm(p, x):
    mean, var = (f(x, axis=(0, 1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
    y = (x - mean) / jnp.sqrt(var + 1e-5)
    return y * per_channel(p["scale"]) + per_channel(p["bias"])


def branch(p, x, order, stride=1):
    """The residual branch of two convolutions, in the order of 2015 or of 2016."""
    if order == "post":
        y = jax.nn.relu(batch_norm(p["norm1"], convolve(p["conv1"], x, stride)))
        return batch_norm(p["norm2"], convolve(p["conv2"], y))
    y = convolve(p["conv1"], jax.nn.relu(batch_norm(p["norm1"], x)), stride)
    return convolve(p["conv2"], jax.nn.relu(batch_norm(p["norm2"], y)))


def unit(p, x, order, shortcut, stride=1):
    y = branch(p["branch"], x, order, stride)
    if shortcut != "none":
        beside = x
        if "shortcut" in p:
            beside = convolve({"kernel": p["shortcut"]["conv"]["kernel"]}, x, stride)
            beside = batch_norm(p["shortcut"]["norm"], beside)
        elif stride > 1:
            beside = jnp.concatenate([x[:, ::2, ::2], 0 * x[:, ::2, ::2]], -1)
        y = y + beside
    return jax.nn.relu(y) if order == "post" else y


def units(p, n):
    """The parameters of n units, one after the other, from stacked ones."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], p["unit"]) for i in range(n)]


def resnet(p, x, order, shortcut):
    """The network of depth 14, in training mode."""
    x = convolve(p["stem"]["conv"], x)
    if order == "post":
        x = jax.nn.relu(batch_norm(p["stem"]["norm"], x))
    for stage, stride in (("stage1", 1), ("stage2", 2), ("stage3", 2)):
        if stride > 1:
            x = unit(p[stage]["first"], x, order, shortcut, stride)
        for one in units(p[stage]["rest"], 3 - stride):
            x = unit(one, x, order, shortcut)
    if order == "pre":
        x = jax.nn.relu(batch_norm(p["head"]["norm"], x))
    dense = p["head"]["dense"]
    return jnp.mean(x, (1, 2)) @ dense["kernel"] + dense["bias"].reshape(1, -1)
