"""Measurements, theory and the verdict between them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, nn

NET = nn.Chain(
    conv=nn.Conv(2, 3, (3, 3), kernel_init="he", use_bias=False, rngs=nnx.Rngs(0)),
    act=nn.Activation("relu"),
)
DOUBLE = np.random.default_rng(0).normal(size=(4, 5, 3, 2))
X = jnp.asarray(DOUBLE, jnp.float32)
KEY = jax.random.key(2)
LOST = X.at[1, 0, 0, 0].set(jnp.nan)


class Opaque(nn.Node):
    """A leaf of which theory knows nothing."""

    def __call__(self, x, train=False, rngs=None):
        return jnp.sort(x, axis=-1)


def profile(net=NET, x=X, **changes):
    return gradflow.profile(net, x, **{"cotangent": KEY, "train": False, **changes})


def refused(**changes):
    return lambda: profile(**changes)


def compared(found=None, expected=None, **options):
    def call():
        return gradflow.compare(
            profile() if found is None else found(),
            gradflow.predict(NET, X, train=False) if expected is None else expected(),
            **options,
        )

    return call


def same(one, other):
    return np.allclose(one["conv"].gradient.log_norm, other["conv"].gradient.log_norm, atol=1e-6)


def with_nan():
    twin = nnx.clone(NET)
    kernel = dict(twin.items())["conv"].kernel
    kernel[...] = kernel[...].at[0, 0, 0, 0].set(jnp.nan)
    return twin


CASES = {
    "NumPy's float64": (lambda: same(profile(x=DOUBLE), profile()), None),
    "a sound network": (lambda: compared()().first is None, None),
    "NumPy's tolerance": (lambda: compared(tolerance=np.float32(0.5))().first is None, None),
    "a seed for a key": (refused(cotangent=3), r"^cotangent=3 \(int\)"),
    "a complex cotangent": (refused(cotangent=np.zeros((4, 5, 3, 3), complex)), "^cotangent="),
    "a list": (refused(x=DOUBLE.tolist()), "^x=.*list"),
    "whole numbers": (refused(x=np.ones((2, 5, 3, 2), int)), "x has dtype int"),
    "no example": (refused(x=X[:0]), r"x has shape \(0, 5, 3, 2\)"),
    "a class": (refused(net=nn.Chain), "^net=.*a class is no network"),
    "a function": (refused(net=lambda x: x), "^net=.*must be a network"),
    "train in words": (refused(train="yes"), "^train='yes'"),
    "a seed for streams": (refused(rngs=0), r"^rngs=0 \(int\)"),
    "a loss in words": (refused(cotangent=None, loss="mean"), "^loss='mean'"),
    "loss and cotangent": (refused(loss=jnp.sum), "both were given"),
    "a place by number": (lambda: profile()[0], r"^path=0 \(int\)"),
    "NumPy's width": (
        lambda: profile().text(width=np.int64(60), rows=np.int8(5)) == profile().text(width=60),
        None,
    ),
    "a width in words": (lambda: profile().text(width="wide"), "^width='wide'"),
    "half a row": (lambda: profile().text(rows=4.5), r"^rows=4\.5 \(float\)"),
    "no room for a table": (lambda: profile().text(width=39), "^width=39 must be at least 40"),
    "a picture over another profile": (lambda: profile().plot(profile()), "^prediction=Profile"),
    "NaN": (refused(x=LOST), "unit 'input' is NaN or infinite"),
    "spectrum of NaN": (
        lambda: gradflow.spectrum(NET, LOST[:2], train=False),
        "unit 'input' is NaN or infinite",
    ),
    "theory of too small an image": (
        lambda: gradflow.predict(
            nn.Pool("max", 3, padding="VALID"), jnp.ones((2, 2, 2, 4)), train=False
        ),
        r"x is too small: a window of \(3, 3\) fits nowhere",
    ),
    "theory of NaN": (lambda: gradflow.predict(NET, LOST, train=False), "x holds a NaN"),
    "theory of a NaN kernel": (
        lambda: gradflow.predict(with_nan(), X, train=False, kernels="measured"),
        "NaN",
    ),
    "a tolerance of NaN": (compared(tolerance=float("nan")), "^tolerance=nan must be finite"),
    "a tolerance of infinity": (compared(tolerance=float("inf")), "^tolerance=inf must be finite"),
    "a negative tolerance": (compared(tolerance=-1), "^tolerance=-1 must be at least 0"),
    "a prediction twice": (compared(lambda: gradflow.predict(NET, X, train=False)), "^profile="),
    "another network": (
        compared(expected=lambda: gradflow.predict(nn.Chain(a=nn.Identity()), X, train=False)),
        "of two networks|none of the prediction's units",
    ),
    "another batch": (
        compared(expected=lambda: gradflow.predict(NET, X[:2], train=False)),
        "a batch of 4, the prediction one of 2|a batch of 4, the prediction of one of 2",
    ),
    "a verdict over nothing": (
        compared(
            lambda: profile(nn.Chain(a=Opaque())),
            lambda: gradflow.predict(nn.Chain(a=Opaque()), X, train=False),
        ),
        "no verdict over nothing",
    ),
    "a profile that was not checked": (
        compared(lambda: dataclasses.replace(jax.jit(lambda x: profile(x=x))(LOST))),
        "NaN or infinite",
    ),
}
