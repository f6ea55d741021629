"""A small network, data and a source of batches for the tests of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import data, nn


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax mixes dtypes."""
    before = jax.config.jax_numpy_dtype_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", before)


def quick_jit(function):
    """Compile with little optimisation: for tests that run a few times what they compile."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


class Indexed:
    """A source that indexes arrays and does nothing else."""

    def __init__(self, images, labels, batch_size, seed=0):
        self.arrays = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
        self.count, self.batch_size, self.seed = len(labels), batch_size, seed

    @property
    def about(self):
        return {"seed": self.seed}

    def inputs(self, first, steps):
        return np.stack(
            [
                data.batch_indices(self.count, self.batch_size, seed=self.seed, step=step)
                for step in range(first, first + steps)
            ]
        )

    def batch(self, arrays, inputs, key):
        return arrays["images"][inputs], arrays["labels"][inputs]


def small(norm="batch", *, dropout=0.0, seed=0, features=4):
    """Return convolution, two repeated residual units and a classifier of three classes."""
    rngs = nnx.Rngs(seed)

    def unit(rngs):
        conv = nn.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        normed = nn.norm(norm, features, rngs=rngs)
        return nn.Residual(nn.Chain(norm=normed, relu=nn.Activation("relu"), conv=conv))

    units = {
        "stem": nn.Conv(2, features, (3, 3), rngs=rngs),
        "body": nn.Repeat(unit, 2, rngs=rngs),
        "pool": nn.GlobalPool("avg"),
    }
    if dropout:
        units["dropout"] = nn.Dropout(dropout)
    return nn.Chain({**units, "dense": nn.Dense(features, 3, rngs=rngs)})


@pytest.fixture(scope="session")
def pictures():
    """Return 24 images of 5x4 with a pattern that tells their three classes."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 24).astype(np.int32)
    patterns = random.normal(size=(3, 5, 4, 2))
    images = patterns[labels] + 0.5 * random.normal(size=(24, 5, 4, 2))
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels)


@pytest.fixture
def source(pictures):
    return Indexed(*pictures, batch_size=8)
