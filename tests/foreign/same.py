"""One residual network written three times, with the same values: convjax.nn, NNX and Linen.

A stem, three post-activation units of which the second has a projection, a global mean, a layer.
Batch norms have no default value. Mode: ``train`` in all three.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.traverse_util import unflatten_dict

from convjax import nn
from tests.foreign.arrays import shaken

SHAPE = (4, 10, 8, 3)
WIDTHS = ((8, 8, 1), (8, 12, 2), (12, 12, 1))
"""Channels in and out, and the stride, of each unit."""
EPSILON = 1e-5
PATHS = {
    "stem": "stem",
    "stem_bn": "stem_bn",
    **{
        f"block{i}/{theirs}": f"block{i}/{ours}"
        for i in range(3)
        for theirs, ours in {
            "conv1": "branch/conv1",
            "bn1": "branch/bn1",
            "conv2": "branch/conv2",
            "bn2": "branch/bn2",
            "proj": "shortcut/proj",
            "proj_bn": "shortcut/proj_bn",
        }.items()
        if "proj" not in theirs or i == 1
    },
    "fc": "fc",
}
"""By the path of a module in NNX and Linen, its path in ``convjax.nn``."""


class Block(nnx.Module):
    def __init__(self, cin, cout, stride, *, rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        bn = partial(nnx.BatchNorm, cout, epsilon=EPSILON, rngs=rngs)
        self.conv1, self.bn1 = conv(cin, cout, (3, 3), strides=stride), bn()
        self.conv2, self.bn2 = conv(cout, cout, (3, 3)), bn()
        self.projects = cin != cout
        if self.projects:
            self.proj, self.proj_bn = conv(cin, cout, (1, 1), strides=stride), bn()

    def __call__(self, x, train):
        h = nnx.relu(self.bn1(self.conv1(x), use_running_average=not train))
        h = self.bn2(self.conv2(h), use_running_average=not train)
        if self.projects:
            x = self.proj_bn(self.proj(x), use_running_average=not train)
        return nnx.relu(x + h)


class ResNet(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.stem_bn = nnx.BatchNorm(8, epsilon=EPSILON, rngs=rngs)
        for i, sizes in enumerate(WIDTHS):
            setattr(self, f"block{i}", Block(*sizes, rngs=rngs))
        self.fc = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x, train):
        x = nnx.relu(self.stem_bn(self.stem(x), use_running_average=not train))
        for i in range(len(WIDTHS)):
            x = getattr(self, f"block{i}")(x, train)
        return self.fc(x.mean((1, 2)))


class LinenBlock(linen.Module):
    cout: int
    stride: int

    @linen.compact
    def __call__(self, x, train):
        conv = partial(linen.Conv, self.cout, use_bias=False)
        bn = partial(linen.BatchNorm, use_running_average=not train, epsilon=EPSILON)
        strides = (self.stride, self.stride)
        h = linen.relu(bn(name="bn1")(conv((3, 3), strides=strides, name="conv1")(x)))
        h = bn(name="bn2")(conv((3, 3), name="conv2")(h))
        if x.shape != h.shape:
            x = bn(name="proj_bn")(conv((1, 1), strides=strides, name="proj")(x))
        return linen.relu(x + h)


class LinenResNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(8, (3, 3), use_bias=False, name="stem")(x)
        x = linen.BatchNorm(use_running_average=not train, epsilon=EPSILON, name="stem_bn")(x)
        x = linen.relu(x)
        for i, (_, cout, stride) in enumerate(WIDTHS):
            x = LinenBlock(cout, stride, name=f"block{i}")(x, train)
        return linen.Dense(5, name="fc")(jnp.mean(x, axis=(1, 2)))


def in_nnx(dtype=jnp.float32) -> ResNet:
    """Return the network in NNX, whose values the two others have."""
    graphdef, state = nnx.split(ResNet(rngs=nnx.Rngs(0)))
    return nnx.merge(graphdef, shaken(state, dtype=dtype))


def in_linen(net: ResNet, train: bool):
    """Return ``apply`` and variables of the network in Linen."""
    held = {"params": {}, "batch_stats": {}}
    for path, variable in nnx.to_flat_state(nnx.state(net)):
        kind = "params" if isinstance(variable, nnx.Param) else "batch_stats"
        held[kind][path] = variable[...]
    variables = {kind: unflatten_dict(flat) for kind, flat in held.items()}
    module = LinenResNet()
    if train:
        return lambda v, x: module.apply(v, x, True, mutable=["batch_stats"])[0], variables
    return lambda v, x: module.apply(v, x, False), variables


def in_convjax(net: ResNet) -> nn.Chain:
    """Return the network as an expression of convjax."""
    rngs = nnx.Rngs(0)
    conv = partial(nn.Conv, use_bias=False, rngs=rngs)
    bn = partial(nn.BatchNorm, epsilon=EPSILON, rngs=rngs)

    def unit(cin, cout, stride):
        branch = nn.Chain(
            conv1=conv(cin, cout, (3, 3), strides=stride),
            bn1=bn(cout),
            relu=nn.Activation("relu"),
            conv2=conv(cout, cout, (3, 3)),
            bn2=bn(cout),
        )
        projection = nn.Chain(proj=conv(cin, cout, (1, 1), strides=stride), proj_bn=bn(cout))
        shortcut = "identity" if cin == cout else projection
        return nn.Residual(branch, shortcut, activation=nn.Activation("relu"))

    ours = nn.Chain(
        stem=conv(3, 8, (3, 3)),
        stem_bn=bn(8),
        relu=nn.Activation("relu"),
        **{f"block{i}": unit(*sizes) for i, sizes in enumerate(WIDTHS)},
        pool=nn.GlobalPool("avg"),
        fc=nn.Dense(12, 5, rngs=rngs),
    )
    for theirs, path in PATHS.items():
        there, here = _at(net, theirs), _at(ours, path)
        copied = [name for name in ("kernel", "bias", "scale", "mean", "var") if _has(there, name)]
        for name in copied:
            variable = getattr(here, name)
            setattr(here, name, type(variable)(getattr(there, name)[...]))
    return ours


def _has(module, name):
    return isinstance(getattr(module, name, None), nnx.Variable)


def _at(module, path):
    for name in path.split("/"):
        module = getattr(module, name)
    return module


def outputs(train: bool, x: jax.Array) -> list[jax.Array]:
    """Return what each of the three computes."""
    net = in_nnx(x.dtype)
    apply, variables = in_linen(net, train)
    ours = in_convjax(net)
    return [ours(x, train=train), apply(variables, x), net(x, train)]
