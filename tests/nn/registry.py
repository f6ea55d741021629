"""One small network of every node, for the tests that hold for all of them."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import nn


class Case(NamedTuple):
    """make(rngs, **dtypes) gives the node, with every other option bound."""

    make: Callable[..., nnx.Module]
    shape: tuple[int, ...] = (2, 5, 4, 6)
    draws: bool = False  # whether it needs random numbers when training
    keeps_dtype: bool = False  # whether its input must come in the dtype of the computation


def _conv(rngs, **dtypes):
    return nn.Conv(6, 6, (3, 2), rngs=rngs, **dtypes)


CASES = {
    "Activation": Case(lambda rngs: nn.Activation("gelu")),
    "BatchNorm": Case(lambda rngs, **dtypes: nn.BatchNorm(6, rngs=rngs, **dtypes)),
    "CellPool": Case(lambda rngs: nn.CellPool(3)),
    "Channels": Case(lambda rngs: nn.Channels((4, 1, 5, 0))),
    "Chain": Case(
        lambda rngs, **dtypes: nn.Chain(conv=_conv(rngs, **dtypes), act=nn.Activation("tanh"))
    ),
    "Conv": Case(
        lambda rngs, **dtypes: nn.Conv(
            6, 4, (3, 2), strides=(2, 1), feature_group_count=2, rngs=rngs, **dtypes
        )
    ),
    "ConvTranspose": Case(
        lambda rngs, **dtypes: nn.ConvTranspose(
            6,
            4,
            (3, 2),
            strides=2,
            padding=(1, 0),
            kernel_dilation=(1, 2),
            feature_group_count=2,
            output_padding=1,
            rngs=rngs,
            **dtypes,
        )
    ),
    "Dense": Case(lambda rngs, **dtypes: nn.Dense(6, 5, rngs=rngs, **dtypes), (3, 6)),
    "DepthwiseConv": Case(
        lambda rngs, **dtypes: nn.DepthwiseConv(
            6, (3, 2), channel_multiplier=2, rngs=rngs, **dtypes
        )
    ),
    "Dropout": Case(lambda rngs: nn.Dropout(0.4), draws=True),
    "Gate": Case(lambda rngs, **dtypes: nn.Gate(6, rngs=rngs, **dtypes)),
    "GlobalPool": Case(lambda rngs: nn.GlobalPool("max")),
    "GroupNorm": Case(lambda rngs, **dtypes: nn.GroupNorm(6, num_groups=2, rngs=rngs, **dtypes)),
    "Identity": Case(lambda rngs: nn.Identity()),
    "LayerNorm": Case(lambda rngs, **dtypes: nn.LayerNorm(6, rngs=rngs, **dtypes)),
    "Parallel": Case(
        lambda rngs, **dtypes: nn.Parallel([_conv(rngs, **dtypes), _conv(rngs, **dtypes)])
    ),
    "PointwiseConv": Case(
        lambda rngs, **dtypes: nn.PointwiseConv(6, 4, strides=2, rngs=rngs, **dtypes)
    ),
    "Pool": Case(lambda rngs: nn.Pool("avg", (3, 2), strides=2, padding="SAME")),
    "Repeat": Case(
        lambda rngs, **dtypes: nn.Repeat(
            lambda rngs: nn.Chain(
                norm=nn.BatchNorm(6, rngs=rngs, **dtypes),
                conv=_conv(rngs, **dtypes),
                drop=nn.Dropout(0.4),
            ),
            3,
            rngs=rngs,
        ),
        draws=True,
        keeps_dtype=True,
    ),
    "Residual": Case(
        lambda rngs, **dtypes: nn.Residual(
            nn.Chain(norm=nn.BatchNorm(6, rngs=rngs, **dtypes), conv=_conv(rngs, **dtypes)),
            nn.Gate(6, rngs=rngs, **dtypes),
            scale=0.5,
            activation=nn.Activation("relu"),
        ),
        keeps_dtype=True,
    ),
    "ResponseNorm": Case(lambda rngs, **dtypes: nn.ResponseNorm(6, rngs=rngs, **dtypes)),
    "Scale": Case(
        lambda rngs, param_dtype=jnp.float32: nn.Scale(0.3, learnable=True, param_dtype=param_dtype)
    ),
    "SqueezeExcite": Case(
        lambda rngs, **dtypes: nn.SqueezeExcite(6, 2, rngs=rngs, **dtypes), keeps_dtype=True
    ),
    "StochasticDepth": Case(lambda rngs: nn.StochasticDepth(0.4), (9, 3, 2), draws=True),
    "Upsample": Case(lambda rngs: nn.Upsample(2)),
    "ZeroPadShortcut": Case(lambda rngs: nn.ZeroPadShortcut(6, 9, strides=2)),
    "norm": Case(lambda rngs, **dtypes: nn.norm("group", 6, rngs=rngs, **dtypes)),
    "separable_conv": Case(
        lambda rngs, **dtypes: nn.separable_conv(6, 4, (3, 2), strides=2, rngs=rngs, **dtypes)
    ),
}


# What reads a network, and what it makes of it: tests/nn/test_read.py.
OF_READ = {"read", "seen", "applied", "Reading", "Segment", "Graph"}


def public_makers():
    """Names of the node classes of ``convjax.nn``, and of its functions that make nodes."""
    return {
        name
        for name, value in vars(nn).items()
        if (inspect.isclass(value) and issubclass(value, nn.Node) and value is not nn.Node)
        or (inspect.isfunction(value) and "rngs" in inspect.signature(value).parameters)
    } - OF_READ


def takes_dtype(name):
    """Whether the dtype of the node's computation can be chosen."""
    accepted = inspect.signature(CASES[name].make).parameters
    return any(p.kind is p.VAR_KEYWORD for p in accepted.values())


def make(name, seed=0, **dtypes):
    """Make the node; of the dtypes it gets those that it has an argument for."""
    if not takes_dtype(name):
        accepted = inspect.signature(CASES[name].make).parameters
        dtypes = {argument: dtype for argument, dtype in dtypes.items() if argument in accepted}
    return CASES[name].make(nnx.Rngs(seed), **dtypes)


def image(name, dtype=jnp.float32):
    generator = np.random.default_rng(list(name.encode()))
    return jnp.asarray(generator.normal(size=CASES[name].shape), dtype)
