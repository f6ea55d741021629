"""What holds for every operator: no public function can be left out."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

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
    with jax.checking_leaks():
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


@every_op
def test_derivatives_of_both_orders_in_both_modes(name, x64, quick_compilation):
    @jax.jit  # which also turns the checker's NumPy arrays into JAX arrays
    def curved(*given):
        return jax.tree.map(jnp.sin, CALLS[name].function(*given))

    check_grads(
        curved, arrays(name, jnp.float64), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4
    )


@functools.cache
def compiled(name):
    """The operator, compiled in float64 but once for all dtypes."""
    return jax.jit(CALLS[name].function)


@every_op
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_in_is_dtype_out(name, dtype, x64):
    dtype = jnp.dtype(dtype)
    call, given = CALLS[name], arrays(name, dtype)

    def loss(*given):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(call.function(*given)))

    function = compiled(name)
    narrow = jax.tree.leaves(function(*given))
    exact = jax.tree.leaves(function(*(a.astype(jnp.float64) for a in given)))
    slopes = jax.jit(jax.grad(loss, tuple(range(len(given)))))(*given)
    for a, b in zip(narrow, exact, strict=True):
        assert a.dtype == (jnp.dtype("float32") if "moments" in name else dtype)
        assert b.dtype == jnp.float64
        tolerance = 4 * call.rounding * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=tolerance, atol=tolerance * np.abs(b).max()
        )
    assert [s.dtype for s in slopes] == [dtype] * len(given)
    assert all(jnp.isfinite(s).all() for s in slopes)
