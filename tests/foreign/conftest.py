"""Networks of others promote types and ranks as JAX does by default."""

import jax
import pytest


@pytest.fixture(autouse=True)
def default_promotion():
    """Undo the strict settings of these tests, as a reader's process has them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
