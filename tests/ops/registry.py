"""One small call of every operator, for the tests that hold for all of them."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from convjax import ops


class Call(NamedTuple):
    """function(*arrays) with every other option bound; arrays are float64, drawn at random."""

    function: Callable
    arrays: tuple[np.ndarray, ...]
    rounding: float = 1.0  # how many times its dtype's epsilon a result may be off, in the large


def _call(name, *shapes, rounding=1.0, positive=(), arguments=(), **options):
    generator = np.random.default_rng(list(name.encode()))
    arrays = [generator.normal(size=shape) for shape in shapes]
    arrays = [np.square(a) + 0.5 if i in positive else a for i, a in enumerate(arrays)]
    operator = getattr(ops, name)

    @functools.wraps(operator)
    def function(*arrays):
        return operator(*arrays, *arguments, **options)

    return Call(function, tuple(arrays), rounding)


IMAGE = (2, 5, 4, 4)
CALLS = {
    "conv": _call(
        "conv", IMAGE, (3, 2, 2, 4), strides=(2, 1), kernel_dilation=(1, 2), feature_group_count=2
    ),
    "depthwise_conv": _call("depthwise_conv", IMAGE, (3, 2, 1, 8), padding="REFLECT"),
    "pointwise_conv": _call("pointwise_conv", IMAGE, (1, 1, 4, 3), strides=2),
    "separable_conv": _call("separable_conv", IMAGE, (3, 2, 1, 4), (1, 1, 4, 3), padding=1),
    "spatial_separable_conv": _call(
        "spatial_separable_conv", IMAGE, (3, 1, 4, 2), (1, 3, 2, 3), padding="CIRCULAR"
    ),
    "conv_transpose": _call(
        "conv_transpose", (2, 3, 2, 4), (3, 2, 2, 4), strides=2, feature_group_count=2
    ),
    "conv_general_dilated": _call(
        "conv_general_dilated",
        IMAGE,
        (4, 2, 2, 3),
        arguments=((2, 1), "SAME"),
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "OIWH", "NCHW"),
        feature_group_count=2,
    ),
    "max_pool": _call("max_pool", IMAGE, window_shape=(3, 2), strides=2, padding="SAME"),
    "avg_pool": _call(
        "avg_pool", IMAGE, window_shape=3, strides=2, padding=1, count_include_pad=False
    ),
    "global_avg_pool": _call("global_avg_pool", IMAGE),
    "global_max_pool": _call("global_max_pool", IMAGE),
    "batch_moments": _call("batch_moments", IMAGE),
    "batch_norm": _call("batch_norm", IMAGE, (4,), (4,), epsilon=0.1),
    "normalize": _call("normalize", IMAGE, (4,), (4,), (4,), (4,), positive=(2,)),
    "group_norm": _call("group_norm", IMAGE, (4,), (4,), num_groups=2),
    "layer_norm": _call("layer_norm", IMAGE, (4,), (4,), epsilon=0.1),
    "dense": _call("dense", (3, 2, 4), (4, 5), (5,)),
    "standardize_kernel": _call("standardize_kernel", (3, 2, 4, 3), gain=1.5),
    "separate_kernel": _call("separate_kernel", (3, 4, 2, 1), arguments=(1,), rounding=8),
}


def public_functions():
    functions = {
        name
        for name, value in vars(ops).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    return functions - {"default_lowering", "accelerate"}  # which take no array


def arrays(name, dtype=jnp.float32):
    return tuple(jnp.asarray(a, dtype) for a in CALLS[name].arrays)
