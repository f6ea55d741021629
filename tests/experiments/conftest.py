"""Experiments are compiled quickly: their tests look at what is measured, not at how fast."""

import jax
import pytest

from tests.nn.conftest import compiling_quickly


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compile quickly, for the fixtures of a whole module as well."""
    with compiling_quickly():
        yield


@pytest.fixture(scope="module")
def promotion():
    """Promote types as the command does: Optax's cosine multiplies an integer with a float."""
    with jax.numpy_dtype_promotion("standard"):
        yield
