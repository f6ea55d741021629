"""Experiments are compiled quickly: their tests look at what is measured, not at how fast."""

import pytest

from tests.nn.conftest import compiling_quickly


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compile quickly, for the fixtures of a whole module as well."""
    with compiling_quickly():
        yield
