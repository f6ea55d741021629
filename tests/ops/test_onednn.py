"""Convolutions by oneDNN: what it computes, where a program may call it, and what is refused."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from convjax.ops._forms import _onednn
from tests.nn.conftest import quick_compilation as quick_compilation

FLOAT32 = np.dtype("float32")
needs_onednn = pytest.mark.skipif(
    not _onednn.is_there(FLOAT32), reason="this jaxlib cannot call oneDNN"
)
CALL = "__onednn$convolution"
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 4)), jnp.float32)
KERNEL = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 4, 4)), jnp.float32)


def _conv(x, kernel, lowering="onednn"):
    return ops.conv(x, kernel, lowering=lowering)


def _loss(x, kernel, lowering="onednn"):
    return jnp.sum(jnp.tanh(_conv(x, kernel, lowering)) ** 2)


def _same(function, *arrays):
    """Compare a function of a lowering under oneDNN and lax, and return oneDNN's program."""
    mine, theirs = (jax.jit(lambda *a, name=name: function(name, *a)) for name in ("onednn", "lax"))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)  # noqa: E731
    jax.tree.map(close, mine(*arrays), theirs(*arrays))
    return mine.lower(*arrays).as_text()


def _run_table(*dtypes, **environment):
    command = [sys.executable, "-m", "tests.ops.onednn_table", *dtypes]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-2000:]}"


@pytest.mark.later
@needs_onednn
def test_every_kind_of_geometry_is_computed_in_every_dtype_as_lax_does_in_float64():
    dtypes = ["float32"]
    if _onednn.is_there(np.dtype(jnp.bfloat16)):
        dtypes.append("bfloat16")
    _run_table(*dtypes)


@pytest.mark.later
@needs_onednn
def test_every_kind_is_computed_where_avx2_alone_may_be_used():
    _run_table("float32", ONEDNN_MAX_CPU_ISA="AVX2")


@needs_onednn
@pytest.mark.usefixtures("quick_compilation")
def test_derivatives_of_derivatives_loops_and_checkpoints_call_it():
    def function(name, x, kernel):
        def body(x, _):
            return jnp.tanh(jax.checkpoint(lambda x: _conv(x, kernel, name))(x)), None

        loss = lambda x: jnp.sum(jax.lax.scan(body, x, length=2)[0] ** 2)  # noqa: E731
        gradient = lambda x, w: jax.grad(_loss, (0, 1))(x, w, name)  # noqa: E731
        return jax.grad(loss)(x), jax.jvp(gradient, (x, kernel), (x, kernel))

    assert CALL in _same(function, X, KERNEL)


@needs_onednn
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("axes", "calls"), [((0, None), True), ((None, 0), True), ((0, 0), False)])
def test_what_is_mapped_calls_it_where_one_call_computes_all(axes, calls):
    arrays = [
        jnp.stack([a, 2 * a]) if axis == 0 else a for a, axis in zip((X, KERNEL), axes, strict=True)
    ]
    text = _same(lambda name, *a: jax.vmap(lambda x, w: _conv(x, w, name), axes)(*a), *arrays)
    assert (CALL in text) == calls


@needs_onednn
def test_a_program_for_another_process_or_platform_does_not_call_it():
    compiled = jax.jit(_conv)
    assert CALL in compiled.lower(X, KERNEL).as_text()
    for platforms in (["cpu"], ["cpu", "cuda"], ["tpu"]):
        exported = jax.export.export(compiled, platforms=platforms)(X, KERNEL)
        assert "onednn" not in exported.mlir_module()
    for platforms in (("cuda",), ("cpu", "tpu")):
        lowered = compiled.trace(X, KERNEL).lower(lowering_platforms=platforms)
        assert "onednn" not in lowered.as_text()
    assert CALL in compiled.lower(X, KERNEL).as_text()


REFUSED = {
    "float16": (jnp.float16, {}),
    "exact": (jnp.float32, {"precision": "highest"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_compute_is_refused(case):
    dtype, options = REFUSED[case]
    message = r"conv: lowering='onednn' serves float32, .*x86-64 and Linux; this call has .*dtype"
    with pytest.raises(ValueError, match=message):
        ops.conv(X.astype(dtype), KERNEL.astype(dtype), lowering="onednn", **options)


def test_another_machine_refuses_it_by_name_and_computes_a_block_without_it(monkeypatch):
    monkeypatch.setattr(_onednn, "_answers", lambda: False)
    with pytest.raises(ValueError, match=r"lowering='onednn' serves .* can serve"):
        _conv(X, KERNEL)
    with ops.default_lowering("onednn"):
        function = lambda x, w: ops.conv(x, w, strides=(1, 2))  # noqa: E731
        assert "onednn" not in jax.jit(function).lower(X, KERNEL).as_text()


def test_an_unknown_target_an_untried_version_and_a_limit_of_the_processor_say_no(monkeypatch):
    _onednn._answers.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(_onednn, "_CONVOLUTION", "__onednn$nothing")
        assert not _onednn._ask()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "__version_info__", (99, 0, 0))
        assert not _onednn.is_there(FLOAT32)
    _onednn._answers.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert not _onednn.is_there(np.dtype(jnp.bfloat16))
    with monkeypatch.context() as patch:
        patch.setattr(_onednn, "_processor", frozenset)
        assert not _onednn.is_there(FLOAT32)


def test_it_is_asked_for_inside_a_trace_as_outside():
    expected, found = _onednn.is_there(FLOAT32), []
    _onednn._answers.cache_clear()

    @jax.jit
    def traced(x):
        found.append(_onednn.is_there(FLOAT32))
        return x

    jax.vmap(traced)(X)
    assert found == [expected]
