"""What holds for every operator: no public function can be left out."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.leaks import checking_leaks
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops.registry import CALLS, arrays, public_functions

every_op = pytest.mark.parametrize("name", sorted(CALLS))


def test_every_public_function_is_registered():
    assert set(CALLS) == public_functions()


@every_op
def test_documentation_is_complete(name):
    text = inspect.getdoc(CALLS[name].function)
    assert text is not None
    for part in ("$$", "Args:", "Returns:", "Raises:", "Example:", ">>> ", "Reference:"):
        assert part in text, part
    signature = inspect.signature(CALLS[name].function)
    for argument in signature.parameters:
        assert f"{argument}: " in text, argument


@every_op
def test_lowers_for_every_platform_with_its_gradient(name):
    def loss(*given):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(CALLS[name].function(*given)))

    given = arrays(name)
    platforms = ("cpu", "cuda", "tpu")
    for function in (CALLS[name].function, jax.grad(loss, tuple(range(len(given))))):
        exported = jax.export.export(jax.jit(function), platforms=platforms)(*given)
        assert exported.platforms == platforms


@every_op
def test_jit_changes_nothing_and_leaks_nothing(name):
    given = arrays(name)
    expected = CALLS[name].function(*given)
    with checking_leaks():
        jitted = jax.jit(CALLS[name].function)(*given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jitted, expected)


@every_op
def test_vmap_over_any_argument_is_a_loop(name, quick_compilation):
    function, given = jax.jit(CALLS[name].function), arrays(name)
    batched = [jnp.stack([a, a[::-1], 2 * a]) for a in given]
    for mapped in itertools.product([True, False], repeat=min(len(given), 3)):
        mapped = (*mapped, *[False] * (len(given) - len(mapped)))
        if not any(mapped):
            continue
        some = [b if m else a for a, b, m in zip(given, batched, mapped, strict=True)]
        axes = [0 if m else None for m in mapped]
        together = jax.jit(jax.vmap(CALLS[name].function, axes))(*some)
        singly = [
            function(*(a[i] if m else a for a, m in zip(some, mapped, strict=True)))
            for i in range(3)
        ]
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singly)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), together, expected)


def _every_derivative(function):
    """Value, slopes and curvatures along v, in forward and in reverse mode, as one program."""

    @jax.jit
    def run(x, v, w):
        def value(x):
            return jax.tree.map(jnp.sin, function(*x))

        def along(x):
            return jax.jvp(value, (x,), (v,))[1]

        def inner(y):
            return sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (y, w)), strict=True))

        def back(x):
            return jax.grad(lambda x: inner(value(x)))(x)

        def slope(x):
            return sum(jnp.sum(a * b) for a, b in zip(back(x), v, strict=True))

        return {
            "value": value(x),
            "forward": along(x),
            "reverse": back(x),
            "forward of forward": jax.jvp(along, (x,), (v,))[1],
            "forward of reverse": jax.jvp(back, (x,), (v,))[1],
            "reverse of forward": jax.grad(lambda x: inner(along(x)))(x),
            "reverse of reverse": jax.grad(slope)(x),
        }

    return run


@every_op
def test_derivatives_of_both_orders_in_both_modes(name, x64, quick_compilation):
    x = tuple(map(np.asarray, arrays(name, jnp.float64)))
    random, run = np.random.default_rng(0), _every_derivative(CALLS[name].function)
    v = tuple(random.normal(size=a.shape) for a in x)
    shapes = jax.eval_shape(CALLS[name].function, *x)
    w = jax.tree.map(lambda y: random.normal(size=y.shape), shapes)
    h = 1e-5
    here, ahead, behind = (
        jax.device_get(run(tuple(a + step * b for a, b in zip(x, v, strict=True)), v, w))
        for step in (0.0, h, -h)
    )

    def close(found, expected):
        compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
        jax.tree.map(compare, found, expected)

    def difference(of):
        return jax.tree.map(lambda a, b: (a - b) / (2 * h), ahead[of], behind[of])

    def inner(a, b):
        return sum(np.vdot(p, q) for p, q in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    close(here["forward"], difference("value"))
    close(inner(here["reverse"], v), inner(here["forward"], w))
    close(here["forward of forward"], difference("forward"))
    for order in ("forward of reverse", "reverse of forward", "reverse of reverse"):
        close(here[order], difference("reverse"))


@functools.cache
def compiled(name):
    """The operator, compiled in float64 once for all dtypes that it is compared with."""
    return jax.jit(CALLS[name].function)


@pytest.mark.every(2)
@every_op
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_in_is_dtype_out(name, dtype, x64):
    dtype = jnp.dtype(dtype)
    call, given = CALLS[name], arrays(name, dtype)

    def loss(*given):
        made = call.function(*given)
        return sum(jnp.sum(leaf).astype(jnp.float64) for leaf in jax.tree.leaves(made)), made

    exact = jax.tree.leaves(compiled(name)(*(a.astype(jnp.float64) for a in given)))
    slopes, narrow = jax.jit(jax.grad(loss, tuple(range(len(given))), has_aux=True))(*given)
    for a, b in zip(jax.tree.leaves(narrow), exact, strict=True):
        assert a.dtype == (jnp.dtype("float32") if "batch" in name and a.ndim == 1 else dtype)
        assert b.dtype == jnp.float64
        tolerance = 4 * call.rounding * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=tolerance, atol=tolerance * np.abs(b).max()
        )
    assert [s.dtype for s in slopes] == [dtype] * len(given)
    assert all(np.isfinite(np.asarray(s, np.float64)).all() for s in slopes)
