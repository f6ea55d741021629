"""Networks of many seeds, trained and measured by programs that are compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import lab, nn, train

IMAGES = np.random.default_rng(0).standard_normal((24, 3, 2, 1), np.float32)
LABELS = np.arange(24, dtype=np.int32) % 3
RECIPE = train.Recipe(steps=5, learning_rate=0.05, dispatch=2)


def make(rngs):
    return nn.Chain(
        norm=nn.BatchNorm(1, rngs=rngs),
        pool=nn.GlobalPool("avg"),
        dense=nn.Dense(1, 3, rngs=rngs),
    )


@pytest.fixture(scope="module")
def seeds():
    return lab.Seeds(make, IMAGES, LABELS, batch_size=4)


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Promote as optax's schedules need it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_seeds_train_as_fit_does_by_one_program(seeds):
    trainer = seeds.trainer(RECIPE)
    net, metrics = trainer.fit(seeds.draw(1), 1)
    fitted = train.fit(seeds.draw(1), seeds.source(1), RECIPE)
    assert metrics["loss"].tolist() == [row["loss"] for row in fitted.rows]
    ours, theirs = (jax.tree.leaves(nnx.state(one)) for one in (net, fitted.net))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    other = trainer.fit(seeds.draw(2), 2)[1]["loss"]
    assert not np.array_equal(other, metrics["loss"])
    again = trainer.fit(seeds.draw(1), 1, steps=3)[1]["loss"]
    np.testing.assert_array_equal(again, metrics["loss"][:3])
    assert isinstance(trainer.dispatch, jax.stages.Compiled)  # one program for all


def test_a_program_sees_the_network_and_the_batch_of_a_step(seeds):
    batch = seeds.batch(1, step=2)
    inputs = seeds.source(1).inputs(2, 1)
    np.testing.assert_array_equal(batch[1], LABELS[np.ravel(inputs["index"])])
    program = seeds.program(lambda net, x: net(x, train=False), batch[0])
    for seed in (0, 1):
        net = seeds.draw(seed)
        np.testing.assert_allclose(program(net, batch[0]), net(jnp.asarray(batch[0])), rtol=1e-5)
