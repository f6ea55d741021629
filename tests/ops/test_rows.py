"""Sums over rows: the same by slices as by stages, with their derivatives, in batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax.ops import _rows


@pytest.mark.parametrize(("count", "stage"), [(96, 6), (26, 13), (7, 7)])
def test_sum_over_rows_is_that_of_float64(count, stage):
    rows = 3 + jax.random.normal(jax.random.key(count), (count, 5))
    by_slices = jax.jit(_rows._row_sum.bind, static_argnames="stage")(rows, stage=stage)
    for total in (by_slices, _rows.row_sum(rows, stage)):
        np.testing.assert_allclose(total, np.asarray(rows, np.float64).sum(0), rtol=3e-7)


def test_sum_over_rows_is_linear_and_sums_each_of_a_batch():
    batch = jax.random.normal(jax.random.key(0), (32, 3, 5))
    sums, back = jax.vjp(
        jax.vmap(lambda rows: _rows._row_sum.bind(rows, stage=8), in_axes=1), batch
    )
    np.testing.assert_allclose(sums, np.asarray(batch, np.float64).sum(0), atol=3e-6)
    g = jnp.arange(15.0).reshape(3, 5)
    np.testing.assert_array_equal(back(g)[0], np.broadcast_to(g, batch.shape))
