"""The precision of products is that of the call, whatever surrounds the compilation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convjax import ops
from convjax.ops._forms import _choose, _onednn

PLATFORMS = ("cpu", "cuda", "tpu")
NHWC = ("NHWC", "HWIO", "NHWC")


def lax_conv(x, kernel, precision=None, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC, **options}
    return lax.conv_general_dilated(x, kernel, precision=precision, **options)


def drop_in(x, kernel, precision=None):
    return ops.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, precision=precision
    )


def depthwise(x, kernel, precision=None):
    return lax_conv(x, kernel, precision, feature_group_count=96)


def product(x, kernel, precision=None):
    return lax.dot_general(x, kernel, (((3,), (0,)), ((), ())), precision=precision)


# Ours, lax's, and the kernel's shape; "auto" computes the first by Winograd at the default.
CALLS = {
    "conv": (ops.conv, lax_conv, (3, 3, 96, 96)),
    "drop-in": (drop_in, lax_conv, (3, 3, 96, 96)),
    "pointwise_conv": (ops.pointwise_conv, lax_conv, (1, 1, 96, 8)),
    "depthwise_conv": (ops.depthwise_conv, depthwise, (3, 3, 1, 96)),
    "dense": (ops.dense, product, (96, 8)),
    "conv_transpose": (ops.conv_transpose, lax_conv, (3, 3, 96, 96)),
}


def programs(call, shape, context, precision=None):
    """Return the precisions of the value's and both gradients' products, on every platform."""
    x = jax.ShapeDtypeStruct((1, 12, 12, 96), jnp.float32)
    kernel = jax.ShapeDtypeStruct(shape, jnp.float32)

    def derived(x, kernel):
        y, pull = jax.vjp(lambda *given: call(*given, precision=precision), x, kernel)
        return y, pull(y)

    with jax.default_matmul_precision(context):
        traced = jax.jit(derived).trace(x, kernel)
    # Outside of the block: the precision is fixed.
    for platform in PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found = re.findall(r"precision(?:_config)? = \[(.*?)\]", text)
        yield platform, [re.findall(r"DEFAULT|HIGHEST|HIGH", pair) for pair in found]


@pytest.fixture
def by_the_compiler(monkeypatch):
    """Without oneDNN, whose calls have no precision to read: they are as exact as the highest."""
    monkeypatch.setattr(_onednn, "is_there", lambda dtype: False)


@pytest.mark.usefixtures("by_the_compiler")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("context", "precision"),
    [("tensorfloat32", None), (None, None), ("highest", "default")],
)
def test_the_precision_around_a_call_reaches_every_product_as_in_lax(name, context, precision):
    mine, theirs, shape = CALLS[name]
    pairs = zip(
        programs(mine, shape, context, precision),
        programs(theirs, shape, context, precision),
        strict=True,
    )
    for (platform, ours), (_, of_lax) in pairs:
        (expected,) = {tuple(pair) for pair in of_lax}
        if platform != "cpu" or name != "depthwise_conv":  # there by multiplications alone
            assert {tuple(pair) for pair in ours} == {expected}


@pytest.mark.usefixtures("by_the_compiler")
def test_winograd_is_not_chosen_where_a_precision_surrounds_the_call():
    x, kernel = jnp.ones((1, 12, 12, 96)), jnp.ones((3, 3, 96, 96))

    @jax.jit
    def run(x):
        return ops.conv(x, kernel)

    transforms = {}
    for context in (None, "highest", None, "high", "default"):
        with jax.default_matmul_precision(context):
            transforms[context] = run.lower(x).as_text().count("stablehlo.convolution")
            message = "winograd.*precision.*can serve"
            if context in ("high", "highest"):
                with pytest.raises(ValueError, match=message):
                    ops.conv(x, kernel, lowering="winograd")
    assert transforms == {None: 6, "default": 6, "highest": 1, "high": 1}


@pytest.mark.parametrize("form", [*_choose.FORMS, "auto"])
def test_one_function_under_two_precisions_is_two_programs(form):
    serving = {"shift": (3, 3, 1, 64), "product": (1, 1, 64, 8)}
    kernel = jnp.ones(serving.get(form, (3, 3, 64, 8)))
    groups = 64 // kernel.shape[2]
    run = jax.jit(lambda x: ops.conv(x, kernel, lowering=form, feature_group_count=groups))
    x = jnp.ones((1, 4, 4, 64))
    if form == "onednn" and not _onednn.is_there(x.dtype):
        pytest.skip("this jaxlib cannot call oneDNN")
    plain, written = form in ("onednn", "winograd"), []
    for context in (None, "default", "highest"):
        with jax.default_matmul_precision(context):
            if not (plain and context == "highest"):
                written.append(re.findall(r"precision=\((.*?)\)", str(run.trace(x).jaxpr)))
    assert written[0] == written[1] and "DEFAULT" in written[0][0]
    assert plain or "HIGHEST, Precision.HIGHEST" in written[2][0]


KERNEL, X = np.ones((1, 1, 2, 2), "f4"), np.ones((1, 3, 3, 2), "f4")
ACCEPTED = {
    "names": ("highest", "default"),
    "a pair": (lax.Precision.HIGH, lax.Precision.DEFAULT),
    "one": lax.Precision.HIGHEST,
    "an algorithm": lax.DotAlgorithmPreset.F32_F32_F32,
    "an algorithm's name": "F32_F32_F32",
    **{name: name for name in ("default", "fastest", "bfloat16", "high", "bfloat16_3x")},
    **{name: name for name in ("tensorfloat32", "highest", "float32")},
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_lax_takes_is_taken_and_means_the_same(kind):
    given = ACCEPTED[kind]

    def written(call):
        text = jax.jit(lambda x, w: call(x, w, given)).lower(X[0, 0], KERNEL[0, 0]).as_text()
        (line,) = (line for line in text.splitlines() if "dot_general" in line)
        return line.partition("dot_general")[2].partition("->")[0].split(",", 2)[2]

    dot = lambda x, w, given: lax.dot_general(x, w, (((1,), (0,)), ((), ())), precision=given)  # noqa: E731
    mine = written(lambda x, w, given: ops.dense(x, w, precision=given))
    assert mine == written(dot)
    conv = lambda x, w: ops.conv(x, w, precision=given)  # noqa: E731
    assert jax.eval_shape(conv, X, KERNEL).shape == X.shape
