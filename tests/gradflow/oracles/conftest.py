"""One thread for NumPy's matrix products, which are small here."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread():
    """Keep BLAS from starting threads: beside other test processes they wait for each other."""
    with threadpool_limits(1):
        yield
