"""Malformed calls of ``convjax.gradflow``."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, nn
from tests.fuzz.kinds import (
    FUNCTION,
    KEY,
    RNGS,
    Kind,
    also,
    array,
    but,
    choice,
    flag,
    integer,
    integers,
    net,
    number,
    optional,
    wrong,
)
from tests.fuzz.room import call

# NaN in the signal is found at the first unit, which is the input itself.
NAMES = {"x": ("input",), "start": ("input", "x"), "end": ("input", "x")}
NET = nn.Chain([nn.Dense(3, 3, kernel_init="he", rngs=nnx.Rngs(0)), nn.Activation("relu")])
X = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 5
UNITS = nn.Chain([nn.Residual(NET, activation=None)])
some, x = net(NET), but(array(X, any_rank=True), "no axis")
some = also(some, plain=nnx.Dict({}))
ones = but(array(jnp.ones(3), any_rank=True), "integers", "flags")  # they count as floats
rngs = optional(RNGS._replace(valid=None))
loss = FUNCTION
absent = optional(KEY._replace(valid=None))
as_it_is = optional(FUNCTION._replace(valid=None))
instruments = {"net": some, "x": x, "train": flag(False), "rngs": rngs, "call": as_it_is}
PROFILE = gradflow.profile(NET, X, loss=jnp.sum, train=False)
PREDICTION = gradflow.predict(NET, (2, 3), train=True)
profile = Kind(PROFILE, wrong(seven=7, itself=gradflow.Profile, net=NET))
prediction = Kind(PREDICTION, wrong(seven=7, itself=gradflow.Prediction, net=NET))
square = number(2.0, least=0.0)
logs = Kind(
    [1.0, 0.8, 0.5, 0.2, 0.0],
    wrong(seven=7, one=[1.0], nans=[float("nan")] * 5, words=["a"] * 5, nothing=[None] * 5),
    {"tuple": (1.0, 0.8, 0.5, 0.2, 0.0), "array": np.array([1.0, 0.8, 0.5, 0.2, 0.0])},
)
cotangent = ones._replace(bad=ones.bad | {"key of none": 7}, nan={})
shapes = Kind({"a": (2, 3)}, wrong("dict", seven=7, numbers={"a": 7}, fractions={"a": (0.5,)}))
PARAMS = nnx.state(NET, nnx.Param)
params = Kind(PARAMS, wrong("dict", "list", "nested list", seven=7, shorter={}))
whole = Kind((), wrong("list", "no numbers", seven=7, misspelt=["conv"], numbers=[7]), {"list": []})


def summed(y):
    return jnp.sum(y)


def each(y):
    return jnp.sum(y)


per = Kind(each, wrong("lambda", "class", seven=7))

CALLS = {
    "gradflow.along": call(gradflow.along, net=net(UNITS), x=x),
    "gradflow.lesions": call(
        gradflow.lesions,
        net=net(UNITS),
        x=x,
        score=loss._replace(valid=summed),
        layers=flag(False),
    ),
    "gradflow.profile": call(
        gradflow.profile, NAMES, loss=optional(loss._replace(valid=summed)), **instruments
    ),
    "gradflow.paths": call(
        gradflow.paths,
        NAMES,
        loss=optional(loss._replace(valid=summed)),
        whole=whole,
        **instruments,
    ),
    "gradflow.predict": call(
        gradflow.predict,
        net=some,
        x=but(integers((2, 3), single=False, length=False), "array", "matrix"),  # or a batch
        train=flag(True),
        kernels=choice("declared"),
        rngs=rngs,
        call=as_it_is,
    ),
    "gradflow.compare": call(
        gradflow.compare,
        profile=profile,
        prediction=prediction,
        tolerance=number(0.02, least=0.0),
        net=optional(Kind(NET, wrong(seven=7, itself=nn.Chain, profile=PROFILE))),
    ),
    "gradflow.correlation": call(
        gradflow.correlation, NAMES, cotangent=cotangent, samples=integer(1, least=1), **instruments
    ),
    "gradflow.line": call(
        gradflow.line,
        NAMES,
        start=array(X[0], any_rank=True),
        end=array(X[1], any_rank=True),
        points=integer(4, least=2),
        cotangent=cotangent,
        samples=integer(1, least=1),
        **{k: v for k, v in instruments.items() if k != "x"},
    ),
    "gradflow.spectrum": call(
        gradflow.spectrum,
        NAMES,
        method=choice("dense"),
        steps=integer(4, least=1),
        samples=integer(4, least=1),
        key=absent,
        **instruments,
    ),
    "gradflow.gradient_scale_coefficient": call(
        gradflow.gradient_scale_coefficient,
        NAMES,
        key=KEY,
        samples=integer(2, least=1),
        **instruments,
    ),
    "gradflow.noise_scale": call(
        gradflow.noise_scale, NAMES, loss=per, chunk=integer(2, least=1), **instruments
    ),
    "gradflow.per_example_norms": call(
        gradflow.per_example_norms, NAMES, loss=per, chunk=integer(2, least=1), **instruments
    ),
    "gradflow.noise_scale_from_norms": call(
        gradflow.noise_scale_from_norms,
        small_norm_sq=square,
        small=integer(2, least=1),
        big_norm_sq=number(1.5, least=0.0),
        big=integer(8, least=1),
    ),
    "gradflow.growth": call(gradflow.growth, log_norms=logs),
    "gradflow.homogeneous": call(gradflow.homogeneous, node=some),
    "gradflow.trunk": call(gradflow.trunk, {"net": ("net", "node")}, net=some),
    "gradflow.relative_gradients": call(gradflow.relative_gradients, profile=profile),
    "gradflow.update_ratios": call(
        gradflow.update_ratios,
        {"params_before": ("parameters",), "params_after": ("parameters",)},
        params_before=params,
        params_after=params,
    ),
    "gradflow.tokens": call(
        gradflow.tokens, places=shapes, dtype=Kind(jnp.float32, wrong("class", "None", seven=7))
    ),
    "gradflow.squares": call(
        gradflow.squares, token=array(jnp.ones((2, 3)), any_rank=True, any_dtype=True)
    ),
    "gradflow.tapped": call(
        gradflow.tapped,
        tokens=Kind({}, wrong("dict", seven=7)),
        **{k: v for k, v in instruments.items() if k != "call"},
    ),
}
EXEMPT = {
    "gradflow.expected": "what rules of one's own register with; the walk calls it",
}
ACCEPTED: dict[str, str] = {}
