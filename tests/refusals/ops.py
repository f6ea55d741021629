"""The operations: arrays of NumPy, integers of NumPy, and whatever else is put in their place."""

import inspect

import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import ops

X, KERNEL = np.ones((2, 5, 6, 4)), np.ones((3, 3, 4, 8))
DEEP, MIX = np.ones((3, 3, 1, 4)), np.ones((1, 1, 4, 8))
COLUMN, ROW = np.ones((3, 1, 4, 2)), np.ones((1, 3, 2, 4))
CHANNELS = np.ones(4)


def drop_in(**options):
    numbers = ("NHWC", "HWIO", "NHWC")
    given = {"padding": [(1, 1), (1, 1)], "dimension_numbers": numbers, **options}
    return ops.conv_general_dilated(jnp.asarray(X), jnp.asarray(KERNEL), (1, 1), **given)


# A call of every operation that is right, by NumPy's arrays alone.
CALLS = {
    "conv": (X, KERNEL),
    "depthwise_conv": (X, DEEP),
    "pointwise_conv": (X, MIX),
    "separable_conv": (X, DEEP, MIX),
    "spatial_separable_conv": (X, COLUMN, ROW),
    "conv_transpose": (X, KERNEL),
    "dense": (X, MIX[0, 0]),
    "max_pool": (X, np.int64(2)),
    "avg_pool": (X, np.array([2, 3])),
    "global_avg_pool": (X,),
    "global_max_pool": (X,),
    "batch_moments": (X,),
    "batch_norm": (X, CHANNELS, CHANNELS),
    "normalize": (X, CHANNELS, CHANNELS, CHANNELS, CHANNELS),
    "group_norm": (X, CHANNELS, CHANNELS),
    "layer_norm": (X, CHANNELS, CHANNELS),
    "standardize_kernel": (KERNEL,),
    "separate_kernel": (KERNEL, np.int8(2)),
}
NEEDED = {"group_norm": {"num_groups": np.int64(2)}}
NUMPY = {
    "strides": np.array([2, 1]),
    "kernel_dilation": np.int32(1),
    "padding": np.array([[0, 1], [1, 1]]),
    "feature_group_count": np.int64(1),
    "epsilon": np.float32(1e-3),
    "num_groups": np.int64(2),
    "gain": np.float64(2.0),
    "keepdims": np.bool_(True),
    "zero_pad": np.bool_(True),
    "count_include_pad": np.bool_(False),
}
# What no argument can be, and what some cannot.
ODD = {
    "a string": "wrong",
    "a list": [1.5, 2.5],
    "a half": 0.5,
    "nothing": None,
    "a set": {1.5},
    "NaN": float("nan"),
    "an object": object(),
    "a dict": {"a": 1},
}
FINE = {  # odd, and yet right
    *(("bias", "nothing"), ("scale", "nothing"), ("strides of a pool", "nothing")),
    *(("epsilon", "a half"), ("gain", "a half")),
}


def arguments(op):
    """Pairs of a name and where it stands: a place in the call, or None for a keyword."""
    function = getattr(ops, op)
    names = [*inspect.signature(function).parameters]
    for place in range(len(CALLS[op])):
        yield (names[place] if place < len(names) else names[-1]), place
    for name in names:
        if name in NUMPY:
            yield name, None


def given(op, name, place, value):
    args, options = [*CALLS[op]], dict(NEEDED.get(op, {}))
    if place is None:
        options[name] = value
    else:
        args[place] = value
    return lambda: getattr(ops, op)(*args, **options)


def leaves(result):
    return result if isinstance(result, tuple) else (result,)


def as_of_jax(op):
    args = [jnp.asarray(a) if isinstance(a, np.ndarray) and a.ndim > 1 else a for a in CALLS[op]]

    def agree():
        found = getattr(ops, op)(*CALLS[op], **NEEDED.get(op, {}))
        expected = getattr(ops, op)(*args, **NEEDED.get(op, {}))
        return all(
            a.dtype == np.float32 and bool((a == b).all())
            for a, b in zip(leaves(found), leaves(expected), strict=True)
        )

    return agree


def odd_ones():
    for op in CALLS:
        for name, place in arguments(op):
            for kind, value in ODD.items():
                shown = "strides of a pool" if name == "strides" and "pool" in op else name
                if (shown, kind) not in FINE:
                    said = rf"{op}.*(\b{name}\b|kernels\[)"
                    yield f"{op}, {name}: {kind}", (given(op, name, place, value), said)


CASES = {
    **{f"{op}: NumPy's arrays": (as_of_jax(op), None) for op in CALLS},
    **{
        f"{op}, {name}: NumPy's": (
            lambda op=op, name=name: given(op, name, None, NUMPY[name])() is not None,
            None,
        )
        for op in CALLS
        for name, place in arguments(op)
        if place is None
    },
    **dict(odd_ones()),
    "a bool for a stride": (lambda: ops.conv(X, KERNEL, strides=True), "strides=True"),
    "integers": (lambda: ops.conv(X.astype(int), KERNEL), "conv: x has dtype int32; cast it"),
    "complex numbers": (lambda: ops.dense(X + 0j, MIX[0, 0]), "dense: x has dtype complex64"),
    "half of NumPy": (
        lambda: ops.conv(X.astype(np.float16), KERNEL),
        "x is float16, kernel is float32",
    ),
    "an infinite epsilon": (lambda: ops.layer_norm(X, epsilon=np.inf), "epsilon=inf must be fin"),
    **{
        f"precision={value!r}": (lambda v=value: ops.conv(X, KERNEL, precision=v), said)
        for value, said in {
            "hihgest": "conv: precision='hihgest' is not known; did you mean 'highest'",
            ("high", "low"): "conv: precision='low' is not known",
            3: r"conv: precision=3 \(int\) must be None, a name",
            ("high",): r"conv: precision=\('high',\) \(tuple\) must be None, a name",
            (None, "high"): r"conv: precision=\(None, 'high'\) \(tuple\)",
            ("high", lax.Precision.HIGH): r"conv: precision=\('high', Precision.HIGH\)",
        }.items()
    },
    "precision of a dense layer": (
        lambda: ops.dense(X, MIX[0, 0], precision="hihgest"),
        "dense: precision='hihgest'",
    ),
    "precision of a transposed convolution": (
        lambda: ops.conv_transpose(X, KERNEL, precision=[]),
        r"conv_transpose: precision=\[\] \(list\)",
    ),
    "a list of precisions": (
        lambda: (
            ops.dense(X, MIX[0, 0], precision=["highest", "default"]).shape
            == ops.conv(X, KERNEL, precision=[lax.Precision.HIGH] * 2).shape
        ),
        None,
    ),
    "a list of lowerings": (
        lambda: ops.conv(X, KERNEL, lowering=["lax"]),
        r"conv: lowering=\['lax'\] \(list\) must be one of",
    ),
    "a number for a block's lowering": (
        lambda: ops.default_lowering(3).__enter__(),
        r"default_lowering: name=3 \(int\) must be one of",
    ),
    "a lowering of what lax computes": (
        lambda: drop_in(lhs_dilation=(2, 1), lowering="taps"),
        "conv_general_dilated: lowering='taps' cannot serve this call",
    ),
    "an unknown lowering of what lax computes": (
        lambda: drop_in(lhs_dilation=(2, 1), lowering="tap"),
        "conv_general_dilated: lowering='tap' is not known",
    ),
    "an infinite gain": (lambda: ops.standardize_kernel(KERNEL, gain=np.inf), "gain=inf must be"),
    "accelerate without a function": (
        lambda: ops.accelerate(3),
        r"accelerate: f=3 \(int\) must be a function",
    ),
}
