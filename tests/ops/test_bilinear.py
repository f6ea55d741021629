"""The convolution's primitives: derivatives, maps, loops and devices, under every form."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from convjax.ops._forms import _choose
from tests.nn.conftest import QUICKLY
from tests.nn.conftest import quick_compilation as quick_compilation

LAYOUT = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}

CASES = {
    "1-D": ((2, 9, 3), (4, 3, 5), {"strides": (2,), "padding": [(0, 3)], "kernel_dilation": (2,)}),
    "2-D": ((2, 7, 5, 4), (3, 2, 4, 6), {"strides": (2, 1), "padding": [(1, 1), (0, 1)]}),
    "groups": ((2, 6, 5, 4), (3, 3, 2, 6), {"feature_group_count": 2, "padding": [(1, 1), (2, 0)]}),
    "left over": ((1, 8, 9, 2), (3, 2, 2, 3), {"strides": (3, 4), "padding": [(0, 0), (0, 0)]}),
    "3-D": ((1, 4, 5, 3, 2), (2, 3, 1, 2, 3), {"strides": (1, 2, 1), "padding": [(1, 0)] * 3}),
}
# One that each form serves.
FORMS = {
    "lax": ((2, 6, 5, 4), (3, 2, 2, 6), {"strides": (2, 1), "feature_group_count": 2}),
    "product": ((2, 5, 6, 3), (2, 1, 3, 2), {"strides": (2, 2)}),
    "shift": ((2, 6, 5, 2), (3, 2, 1, 4), {"strides": (1, 2), "feature_group_count": 2}),
    "taps": ((2, 6, 5, 3), (3, 2, 3, 2), {"strides": (2, 1)}),
    "winograd": ((2, 5, 6, 3), (2, 3, 3, 2), {}),
}
for form, (_, _, options) in FORMS.items():
    options.update(padding=[(1, 2), (0, 1)], lowering=form)
ALL_CASES = CASES | {f"by {form}": case for form, case in FORMS.items()}


def _lax(options):
    def conv(x, kernel):
        rank = kernel.ndim - 2
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            options.get("strides", (1,) * rank),
            options["padding"],
            rhs_dilation=options.get("kernel_dilation", (1,) * rank),
            feature_group_count=options.get("feature_group_count", 1),
            dimension_numbers=LAYOUT[rank],
        )

    return conv


def test_every_form_has_its_case():
    # oneDNN's are in `test_onednn`, since it has no float64.
    assert set(FORMS) == set(_choose.FORMS) - {"onednn"}


@pytest.mark.every(2)
@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("case", ALL_CASES)
def test_every_derivative_up_to_the_second_equals_that_of_lax(case):
    x_shape, kernel_shape, options = ALL_CASES[case]
    keys = jax.random.split(jax.random.key(7), 6)
    x, kernel = jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], kernel_shape)
    dx, dkernel = jax.random.normal(keys[2], x_shape), jax.random.normal(keys[3], kernel_shape)

    def derivatives(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.tanh(conv(x, kernel)) ** 2)

        @jax.jit
        def run(x, kernel):
            forward = jax.jvp(conv, (x, kernel), (dx, dkernel))
            reverse = jax.grad(loss, (0, 1))
            over = jax.jvp(reverse, (x, kernel), (dx, dkernel))
            twice = jax.grad(
                lambda x, w: sum(jnp.sum(g**3) for g in reverse(x, w)), argnums=(0, 1)
            )(x, kernel)
            return forward, over, twice

        return run(x, kernel)

    ours = derivatives(lambda x, w: ops.conv(x, w, **options))
    theirs = derivatives(_lax(options))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, theirs)


@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("mapped", [(0, None), (1, None), (None, 0), (2, 1)])
def test_a_mapped_convolution_equals_a_loop_in_value_and_gradient(mapped):
    n, keys = 3, jax.random.split(jax.random.key(1), 2)
    arrays = [jax.random.normal(keys[0], (2, 6, 5, 4)), jax.random.normal(keys[1], (3, 3, 4, 2))]
    arrays = [
        a if axis is None else jnp.stack([(i + 1) * jnp.sin(i + a) for i in range(n)], axis)
        for a, axis in zip(arrays, mapped, strict=True)
    ]

    @jax.jit
    def gradients(x, kernel):
        return jax.grad(lambda x, w: jnp.sum(ops.conv(x, w, strides=2) ** 3), (0, 1))(x, kernel)

    together = jax.vmap(gradients, in_axes=mapped)(*arrays)
    for i in range(n):
        one = [a if d is None else a.take(i, d) for a, d in zip(arrays, mapped, strict=True)]
        for whole, part in zip(together, gradients(*one), strict=True):
            np.testing.assert_allclose(whole[i], part, rtol=1e-9, atol=1e-9)


# What each vmap maps, image and kernel, the outermost first.
MAPS = {
    "inputs": [(0, None)],
    "kernels": [(None, 0)],
    "both": [(0, 0)],
    "kernels, within inputs": [(0, None), (None, 0)],
    "both, within kernels": [(None, 0), (0, 0)],
}


def _mapped(function, maps):
    for axes in reversed(maps):
        function = jax.vmap(function, in_axes=axes)
    return function


def _looped(function, maps, *arrays):
    """The same by a loop over a copy for each level."""
    if not maps:
        return function(*arrays)
    axes, *inner = maps
    size = next(len(a) for a, axis in zip(arrays, axes, strict=True) if axis == 0)
    results = []
    for i in range(size):
        one = [a if d is None else a[i] for a, d in zip(arrays, axes, strict=True)]
        results.append(_looped(function, inner, *one))
    return [np.stack(parts) for parts in zip(*results, strict=True)]


def _stacked(shapes, maps):
    """Arrays with an axis in front for every level that maps them, of sizes 2, 3."""
    generator = np.random.default_rng(0)
    for i, shape in enumerate(shapes):
        sizes = [2 + level for level, axes in enumerate(maps) if axes[i] == 0]
        yield generator.normal(size=(*sizes, *shape))


@functools.cache
def _loss_and_gradients(form):
    options = FORMS[form][2]

    def loss(x, kernel):
        return jnp.sum(ops.conv(x, kernel, **options) ** 3)

    return loss, jax.grad(loss, (0, 1)), jax.jit(jax.grad(loss, (0, 1)))


@pytest.mark.every(2)
@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("form", FORMS)
def test_a_mapped_form_equals_a_loop_both_in_gradients_and_differentiated(form, maps):
    loss, gradients, compiled = _loss_and_gradients(form)
    arrays = list(_stacked(FORMS[form][:2], maps))

    @jax.jit
    def run(*arrays):
        total = lambda *arrays: jnp.sum(_mapped(loss, maps)(*arrays))  # noqa: E731
        return _mapped(gradients, maps)(*arrays), jax.grad(total, (0, 1))(*arrays)

    per_example, of_total = run(*arrays)
    expected = _looped(compiled, maps, *arrays)
    for i, (a, b, e) in enumerate(zip(per_example, of_total, expected, strict=True)):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)
        shared = tuple(level for level, axes in enumerate(maps) if axes[i] is None)
        np.testing.assert_allclose(b, e.sum(shared), rtol=1e-9, atol=1e-9)


def _value(conv):
    return conv


def _tangent(conv):
    return lambda *given: jax.jvp(conv, given, given)


def _gradients(conv):
    return jax.grad(lambda x, kernel: jnp.sum(jnp.tanh(conv(x, kernel))), (0, 1))


def _hessian_product(conv):
    return lambda *given: jax.jvp(_gradients(conv), given, given)


FORWARD, EVERY = {"forward"}, {"forward", "input_gradient", "kernel_gradient"}


@pytest.mark.every(2)
@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize(
    ("derived", "expected"),
    [(_value, FORWARD), (_tangent, FORWARD), (_gradients, EVERY), (_hessian_product, EVERY)],
)
@pytest.mark.parametrize("form", FORMS)
def test_under_every_transformation_the_primitives_stay(form, derived, expected, maps):
    *shapes, options = FORMS[form]

    def conv(x, kernel):
        return ops.conv(x, kernel, **options)

    arrays = [np.float32(a) for a in _stacked(shapes, maps)]
    for function in (_mapped(derived(conv), maps), derived(_mapped(conv, maps))):
        text = str(jax.make_jaxpr(function)(*arrays))
        assert set(re.findall(r"\bconvolution_(\w+)\[", text)) == expected
        assert "conv_general_dilated" not in text
        assert set(re.findall(r"lowering='(\w+)'", text)) == {form}


def test_inside_a_loop_every_convolution_has_the_order_that_is_fast():
    kernels = jax.random.normal(jax.random.key(0), (4, 3, 3, 8, 8))
    x = jax.random.normal(jax.random.key(1), (4, 10, 12, 8))

    def loss(kernels, x):
        body = lambda x, kernel: (jnp.tanh(ops.conv(x, kernel)), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(body, x, kernels)[0])

    text = jax.jit(jax.grad(loss, (0, 1))).lower(kernels, x).compile().as_text()
    assert text is not None
    orders = set(re.findall(r"convolution\(.*dim_labels=([\w>-]+)", text))
    assert orders == {"b01f_01io->b01f"}


@pytest.mark.later
def test_a_sharded_batch_gives_the_derivatives_of_the_whole():
    # In a process of its own, which has two devices: JAX fixes their number when it starts.
    command = [sys.executable, "-m", "tests.ops.on_two_devices"]
    subprocess.run(command, check=True, timeout=240, env=os.environ | QUICKLY)
