"""Malformed calls of ``convjax.nn``."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import nn
from tests.fuzz.kinds import (
    DTYPE,
    FUNCTION,
    INIT,
    RNGS,
    ZEROS,
    Fresh,
    Kind,
    array,
    but,
    choice,
    flag,
    integer,
    integers,
    net,
    number,
    optional,
    padding,
    text,
    wrong,
)
from tests.fuzz.room import call

NAMES = {
    "init": ("kernel_init", "bias_init", "scale_init", "init"),
    "in_features": ("features",),
}
features, count = integer(3, least=1), integer(2, least=1)
window, strides = integers((3, 3)), integers(1)
dtype = optional(DTYPE._replace(valid=None, same={}))
epsilon = number(1e-5, least=0.0)
rngs = RNGS
common = {"use_bias": flag(True), "kernel_init": INIT, "bias_init": ZEROS, "dtype": dtype,
          "param_dtype": DTYPE, "rngs": rngs}  # fmt: skip
norm = {"num_features": features, "epsilon": epsilon, "use_scale": flag(True),
        "use_bias": flag(True), "scale_init": optional(INIT._replace(valid=None, same={})),
        "dtype": dtype, "param_dtype": DTYPE, "rngs": rngs}  # fmt: skip
function = Kind(
    "relu", wrong("lambda", "class", misspelt="rellu", seven=7), {"str_": np.str_("relu")}
)
units = Kind(
    Fresh(lambda: [nn.Identity(), nn.Activation("relu")]),
    wrong(
        seven=7,
        none=[None],
        numbers=[1, 2],
        functions=[jnp.tanh],
        empty="",
        of={"a/b": nn.Identity()},
    ),
)
unit = net(Fresh(lambda: nn.Dense(3, 3, rngs=nnx.Rngs(0))))
tree = net(Fresh(lambda: nn.Chain([nn.Dense(3, 3, rngs=nnx.Rngs(0))])))
rate = number(0.25, least=0.0, below=1.0)


def norm_of(name, num_features, rngs):
    return nn.norm(name, num_features, rngs=rngs)


def repeat(make_unit, n, rngs, remat):
    return nn.Repeat(make_unit, n, rngs=rngs, remat=remat)


maker = Kind(
    lambda rngs: nn.Dense(3, 3, rngs=rngs),
    wrong("lambda", "class", seven=7, makes_none=lambda rngs: None, unit=nn.Identity()),
)


applied = Kind(lambda params, x: x @ params, wrong("lambda", "class", seven=7))
READ = nnx.Linear(3, 2, rngs=nnx.Rngs(0))


CALLS = {
    "nn.read": call(
        nn.read,
        net=net(READ),
        x=but(array(jnp.ones((2, 3)), any_rank=True, any_dtype=True), "no axis"),
        call=optional(FUNCTION._replace(valid=None)),
        train=optional(flag(None)),
        rngs=optional(RNGS._replace(valid=None)),
    ),
    "nn.Function": call(nn.Function, apply=applied, params=Kind(jnp.ones((3, 2)), {"seven": 7})),
    "nn.Conv": call(
        nn.Conv,
        NAMES,
        in_features=features,
        out_features=count,
        kernel_size=window,
        strides=strides,
        padding=padding(),
        kernel_dilation=strides,
        feature_group_count=integer(1, least=1),
        standardize=flag(False),
        gain=number(1.0),
        scaled=flag(True),
        epsilon=number(1e-4, least=0.0),
        **common,
    ),
    "nn.ConvTranspose": call(
        nn.ConvTranspose,
        in_features=features,
        out_features=count,
        kernel_size=window,
        strides=strides,
        padding=padding(),
        **common,
    ),
    "nn.Dense": call(nn.Dense, in_features=features, out_features=count, **common),
    "nn.DepthwiseConv": call(
        nn.DepthwiseConv,
        in_features=features,
        kernel_size=window,
        channel_multiplier=count,
        strides=strides,
        padding=padding(),
        kernel_dilation=strides,
        **common,
    ),
    "nn.PointwiseConv": call(
        nn.PointwiseConv,
        in_features=features,
        out_features=count,
        strides=strides,
        rank=count,
        **common,
    ),
    "nn.separable_conv": call(
        nn.separable_conv,
        in_features=features,
        out_features=count,
        kernel_size=window,
        strides=strides,
        padding=padding(),
        use_bias=flag(True),
        kernel_init=INIT,
        pointwise_init=optional(INIT._replace(valid=None, same={})),
        dtype=dtype,
        param_dtype=DTYPE,
        rngs=rngs,
    ),
    "nn.BatchNorm": call(
        nn.BatchNorm,
        momentum=number(0.9, least=0.0, most=1.0),
        axis_name=optional(text(None)),
        **norm,
    ),
    "nn.GroupNorm": call(nn.GroupNorm, num_groups=integer(3, least=1), **norm),
    "nn.Upsample": call(nn.Upsample, scale=count),
    "nn.Channels": call(nn.Channels, indices=integers((2, 0), single=False)),
    "nn.LayerNorm": call(nn.LayerNorm, **norm),
    "nn.ResponseNorm": call(
        nn.ResponseNorm,
        **{k: v for k, v in norm.items() if k not in ("use_scale", "use_bias", "scale_init")},
    ),
    "nn.norm": call(norm_of, name=choice("batch"), num_features=features, rngs=rngs),
    "nn.Activation": call(nn.Activation, {"function": ("activation",)}, function=function),
    "nn.Chain": call(nn.Chain, {"units": ("unit",)}, units=units),
    "nn.Parallel": call(nn.Parallel, {"units": ("unit",)}, units=units),
    "nn.Dropout": call(nn.Dropout, rate=rate),
    "nn.StochasticDepth": call(nn.StochasticDepth, rate=rate),
    "nn.Gate": call(
        nn.Gate,
        features=features,
        kernel_size=window,
        bias=number(-2.0),
        kernel_init=INIT,
        dtype=dtype,
        param_dtype=DTYPE,
        rngs=rngs,
    ),
    "nn.GlobalPool": call(nn.GlobalPool, kind=choice("avg"), keepdims=flag(False)),
    "nn.Pool": call(
        nn.Pool,
        kind=choice("max"),
        window_shape=integers((2, 2)),
        strides=optional(integers(None)),
        padding=padding("VALID"),
        count_include_pad=flag(True),
        zero_pad=flag(False),
    ),
    "nn.Repeat": call(repeat, make_unit=maker, n=count, rngs=rngs, remat=choice("none")),
    "nn.Residual": call(
        nn.Residual,
        branch=unit,
        shortcut=unit._replace(bad=unit.bad | {"misspelt": "identitty"}),
        scale=number(1.0),
        activation=optional(function._replace(valid=None, same={})),
    ),
    "nn.Scale": call(
        nn.Scale,
        value=number(0.5),
        learnable=flag(True),
        features=optional(features),
        param_dtype=DTYPE,
    ),
    "nn.SqueezeExcite": call(
        nn.SqueezeExcite,
        features=features,
        reduced_features=count,
        activation=function,
        gate=function,
        rank=count,
        dtype=dtype,
        param_dtype=DTYPE,
        rngs=rngs,
    ),
    "nn.ZeroPadShortcut": call(
        nn.ZeroPadShortcut, in_features=count, out_features=features, strides=count
    ),
    "nn.at": call(nn.at, node=tree, path=text("0")),
    "nn.children": call(lambda node: list(nn.children(node)), node=tree),
    "nn.walk": call(
        lambda node, path, repeats: [p for p, *_ in nn.walk(node, path, repeats)],
        node=tree,
        path=text(""),
        repeats=integers((), single=False, length=False),
    ),
    "nn.join": call(nn.join, path=text("a"), name=text("b")),
    "nn.rematerialise": call(nn.rematerialise, net=unit, remat=choice("unit")),
}
EXEMPT = {
    "nn.Reading": "nn.read makes it",
    "nn.Segment": "nn.read makes it",
    "nn.Graph": "nn.read makes it",
    "nn.Live": "train.fit makes it",
    "nn.applied": "what calls a unit of a combinator; any module is taken",
    "nn.kind_of": "what results are made with; any node is taken",
    "nn.seen": "what the measurements of gradflow begin with; they are varied",
    "nn.turns_of": "what results are made with; any node is taken",
    "nn.label_of": "what results are made with; any node is taken",
    "nn.takes_mode": "any module is taken",
    "nn.Identity": "takes nothing",
    "nn.Node": "a base class, which takes nothing itself",
}
ACCEPTED: dict[str, str] = {}
