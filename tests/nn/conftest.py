"""What the tests of networks share."""

import jax
import pytest


@pytest.fixture
def quick_compilation():
    """Compile ten times faster to code that is slower: most of a small test is compilation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
