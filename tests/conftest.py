"""Strict numerics for every test: shapes are checked, and no promotion is silent."""

import gc
import os

# Tracing makes millions of objects and hardly a cycle: collecting less often saves a tenth.
gc.set_threshold(50_000, 20, 20)

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests import cases, checked

# Before the first import of the package: signatures' shapes are checked at run time, here only.
checked.install()

import jax
import pytest
from jax._src.interpreters.partial_eval import DynamicJaxprTracer

from tests.nn.conftest import compiling_quickly

# Flax asks every traced array for its sharding, in vain, and JAX walks the whole program to say
# why: three quarters of the time to outline a network.
DynamicJaxprTracer._origin_msg = lambda self: ""

# Where in the source each operation stands is written into no program: a fifth of its tracing.
jax.config.update("jax_traceback_in_locations_limit", 0)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Compile quickly what modules of tests compute while they are imported."""
    with compiling_quickly():
        return (yield)


@pytest.fixture
def x64():
    """Compute in float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


def pytest_addoption(parser):
    about = "of each test one case in N, which its name decides; a test of few cases keeps one"
    parser.addoption("--one-in", type=int, default=1, metavar="N", help=about)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Of what is asked for keep one in so many."""
    cases.leave_for_later(items)
    result = yield
    left = {*cases.not_one_in(config.getoption("--one-in"), items)}
    config.hook.pytest_deselected(items=[*left])
    items[:] = [item for item in items if item not in left]
    return result
