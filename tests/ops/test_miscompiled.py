"""Operands of one repeated number, which some versions of JAX multiply by wrongly on CPU.

JAX 0.12.0.1 gives 0.0072 for 0.1714 where the right operand of a product or convolution is one
repeated number and the result is summed in the same program: YNNPACK's reduction fusion.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convjax import ops
from tests.nn.conftest import compiling_quickly

X = np.random.default_rng(0).normal(size=(256, 16)).astype("f4")
IMAGE = X.reshape(4, 8, 8, 16)
NHWC = ("NHWC", "HWIO", "NHWC")


def same_window(image, kernel):
    return lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


# What JAX is given: an array, and one number that is known (0.1) or not, to be repeated.
PLAIN = {
    "known": lambda x, _: x @ jnp.full((16, 64), 0.1),
    "unknown": lambda x, s: x @ jnp.broadcast_to(s, (16, 64)),
    "bfloat16": lambda x, _: x.astype(jnp.bfloat16) @ jnp.full((16, 64), 0.1, jnp.bfloat16),
    "convolution": lambda x, _: same_window(x.reshape(IMAGE.shape), jnp.full((1, 1, 16, 64), 0.1)),
    "left": lambda x, _: jnp.full((64, 256), 0.1) @ x,
    "unknown left": lambda x, s: jnp.broadcast_to(s, (64, 256)) @ x,
    "elementwise": lambda x, _: x * jnp.full((256, 16), 0.1),
}
# Independently: what each sums to, in float64.
ROWS = np.float64(X).sum()
SUMS = dict.fromkeys(PLAIN, 6.4 * ROWS) | {"elementwise": 0.1 * ROWS}
KNOWN = {"0.12.0.1": {"known", "unknown", "bfloat16", "convolution"}}


def test_jax_alone_is_wrong_only_where_it_is_known_to_be():
    wrong = {
        name
        for name, product in PLAIN.items()
        if abs(float(jax.jit(lambda x, s, p=product: jnp.sum(p(x, s)))(X, 0.1)) / SUMS[name] - 1)
        > 0.05
    }
    more = wrong - KNOWN.get(jax.__version__, set())
    assert not more, (
        f"JAX {jax.__version__} multiplies wrongly on CPU by one repeated number ({sorted(more)}): "
        "see that the tests below pass, then say so here and in the README's limits"
    )


def by(form, **options):
    return lambda x, kernel: ops.conv(x, kernel, lowering=form, **options)


PADDED = {"padding": [(1, 1), (1, 1)]}
OURS = {
    "lax": (by("lax", **PADDED), (3, 3, 16, 32)),
    "product": (by("product"), (1, 1, 16, 32)),
    "patches": (by("product", strides=2), (2, 2, 16, 32)),
    "shift": (by("shift", feature_group_count=16, **PADDED), (3, 3, 1, 16)),
    "taps": (by("taps", **PADDED), (3, 3, 16, 32)),
    "winograd": (by("winograd", **PADDED), (3, 3, 16, 32)),
    "dense": (ops.dense, (16, 64)),
    "conv_transpose": (functools.partial(ops.conv_transpose, strides=2), (3, 3, 16, 32)),
    "handed to lax": (
        lambda x, w: ops.conv_general_dilated(
            x, w, (1, 1), [(1, 1), (1, 1)], (2, 2), dimension_numbers=NHWC
        ),
        (3, 3, 16, 32),
    ),
    "a loop": (
        lambda x, w: lax.scan(lambda x, _: (ops.conv(x, w), None), x, length=2)[0],
        (3, 3, 16, 16),
    ),
    "mapped": (lambda x, w: jax.vmap(ops.dense, (0, None))(x, w), (16, 32)),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("case", OURS)
def test_a_product_of_ours_by_one_repeated_number_is_right(case):
    product, shape = OURS[case]
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)

    def value(x, kernel, cotangent):
        return jnp.sum(product(x, kernel))

    def gradients(x, kernel, cotangent):
        y, pull = jax.vjp(product, x, kernel)
        return [jnp.sum(a) for a in pull(y if cotangent is None else cotangent)]

    y = jax.eval_shape(product, IMAGE, kernel)
    calls = [(value, shape, None), (gradients, shape, None), (gradients, kernel, y.shape)]

    def full(a):
        return jnp.full(a, 0.1) if isinstance(a, tuple) else a

    # One program each: what else a program holds decides whether the compiler fuses a sum.
    known = [jax.jit(lambda x, c=call: c[0](x, full(c[1]), full(c[2])))(IMAGE) for call in calls]
    with compiling_quickly():  # without the optimisation, and with all as arguments
        run = jax.jit(lambda given: [c[0](IMAGE, *g) for c, g in zip(calls, given, strict=True)])
        expected = run([[full(a) for a in call[1:]] for call in calls])
    for ours, right in zip(jax.tree.leaves(known), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize(
    "reduction",
    [
        ops.global_avg_pool,
        ops.global_max_pool,
        ops.layer_norm,
        functools.partial(ops.group_norm, num_groups=2),
    ],
    ids=["average", "maximum", "layer norm", "group norm"],
)
def test_nan_behind_an_activation_stays_nan(reduction):
    """JAX 0.12.0.1 by itself makes 0 of ``relu(x).sum()``, and minus infinity of ``x.max()``."""
    x = jnp.full((64, 8, 8, 16), jnp.nan)
    assert bool(jnp.isnan(jax.jit(lambda x: reduction(jax.nn.relu(x)))(x)).all())
    assert bool(jnp.isfinite(jax.jit(lambda x: reduction(jax.nn.relu(x)))(jnp.ones_like(x))).all())
