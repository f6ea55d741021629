"""What the other tests rely on: wrong types, shapes that disagree and leaks are seen."""

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from jaxtyping import Array, Float

from convjax import nn, ops
from tests import checked
from tests.leaks import checking_leaks


def test_types_are_checked():
    for wrong in (
        lambda: nn.Scale("2"),
        lambda: nn.Chain(nn.Scale(2.0), norm=3),
        lambda: ops.dense(jnp.ones((2, 3)), jnp.ones((3, 4)), precision=3),
    ):
        with pytest.raises((beartype.roar.BeartypeCallHintViolation, jaxtyping.TypeCheckError)):
            wrong()


def test_shapes_are_checked():
    @checked.checking(typechecker=beartype.beartype)
    def add(x: Float[Array, "rows columns"], y: Float[Array, " columns"]) -> Float[Array, "1 2"]:
        return x + y[None]

    add(jnp.ones((1, 2)), jnp.ones(2))
    for shapes in (((1, 2), (1,)), ((2, 2), (2,)), ((1, 2), (1, 2))):
        with pytest.raises(jaxtyping.TypeCheckError):
            add(*map(jnp.ones, shapes))
    with pytest.raises(jaxtyping.TypeCheckError):
        ops.conv(jnp.ones((1, 5, 4, 3)), jnp.ones((3, 3, 3, 8), jnp.int32))


def test_a_tracer_that_is_kept_is_seen():
    kept = []
    with pytest.raises(Exception, match=r"(?i)leaked trace"), checking_leaks():
        jax.jit(lambda x: kept.append(x) or 2 * x)(1.0)
