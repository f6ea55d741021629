"""What the tests of networks share."""

import contextlib
from unittest import mock

import jax
import pytest
from jax._src import compiler

# Small programs are not worth a compiler for each thread: a tenth of the time.
PLAINLY = {"xla_cpu_parallel_codegen_split_count": 1}
# On JAX 0.10 half of the rest is that of these; later JAX has no choice here.
if jax.__version_info__ < (0, 11):
    PLAINLY["xla_cpu_use_fusion_emitters"] = False
# The same for other processes, in their environment.
QUICKLY = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join(f"--{name}={str(value).lower()}" for name, value in PLAINLY.items()),
}


# Part of JAX's key of what is compiled: other tests of the process must not get these programs,
# which round differently.
_COMPILED = jax.make_user_context("well")


@contextlib.contextmanager
def compiling_quickly():
    """Compile ten times faster to code that is slower: most of a small test is compilation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    plainly = _plainly(compiler.get_compile_options)
    try:
        with mock.patch.object(compiler, "get_compile_options", plainly), _COMPILED("quickly"):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def quick_compilation():
    """Compile quickly for the length of one test."""
    with compiling_quickly():
        yield


def _plainly(get_compile_options):
    def plainly(*args, **options):
        made = get_compile_options(*args, **options)
        made.env_option_overrides += PLAINLY.items()
        return made

    return plainly
