"""Strict numerics for every test: shapes are checked, and no promotion is silent."""

import collections
import gc
import os

# Tracing makes millions of objects and hardly a cycle: collecting less often saves a tenth.
gc.set_threshold(50_000, 20, 20)

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests import checked

# Before the first import of the package: signatures' shapes are checked at run time, here only.
checked.install()

import jax
import pytest
from jax._src.interpreters.partial_eval import DynamicJaxprTracer

# Flax asks every traced array for its sharding, in vain, and JAX walks the whole program to say
# why: three quarters of the time to outline a network.
DynamicJaxprTracer._origin_msg = lambda self: ""

# Where in the source each operation stands is written into no program: a fifth of its tracing.
jax.config.update("jax_traceback_in_locations_limit", 0)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Compute in float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave most cases of a long sweep to the later part: ``every(n)`` keeps each n-th."""
    counts = collections.Counter()
    for item in items:
        mark = item.get_closest_marker("every")
        if mark and not item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            if counts[test] % mark.args[0]:
                item.add_marker("later")
            counts[test] += 1
