"""Networks of degradation: plain and residual twins of two depths, trained, then looked into."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, models, train
from convjax.lab import Seeds
from convjax.lab.lesions import looked, scores
from experiments.claims.networks import PLAIN, RESIDUAL, SHORTCUTS

STAGES, LAYERS_PER_UNIT = 3, 2
TWINS = (PLAIN, RESIDUAL)


def network(twin: str, depth: int, width: int, rngs: nnx.Rngs) -> models.Network:
    """Return He's network for small images, or its plain twin: the same parameters."""
    return models.resnet_cifar(
        depth, width=width, in_features=1, shortcut=SHORTCUTS[twin], rngs=rngs
    )


def transitions(units: int) -> list[int]:
    """Return which units change the shape: the first of every stage but the first."""
    return [stage * units // STAGES for stage in range(1, STAGES)]


def trained(
    twin: str,
    depth: int,
    width: int,
    recipe: train.Recipe,
    *,
    batch_size: int,
    seeds: int,
    lesions: int,
) -> list[dict[str, np.ndarray]]:
    """Train a network seed by seed; return the losses of all steps, features and lesions by name.

    Args:
      twin: plain or residual.
      depth: weighted layers.
      width: channels of the first stage.
      recipe: how it is trained.
      batch_size: images in a step.
      seeds: how many.
      lesions: how many images of training the network is looked into with.
    """
    images, labels = data.digits("train")
    seen = [jnp.asarray(array[:lesions]) for array in (images, labels)]
    unseen = [jnp.asarray(array) for array in data.digits("test")]
    every = Seeds(
        lambda rngs: network(twin, depth, width, rngs), images, labels, batch_size=batch_size
    )
    trainer = every.trainer(recipe)

    @jax.jit
    def look(state):
        net = nnx.merge(every.graphdef, state)
        found = looked(net, *seen, layers=True)
        accuracy = scores(net(unseen[0], train=False), unseen[1])[1]
        return found | {"test_accuracy": accuracy[None]}

    results = []
    for seed in range(seeds):
        net, metrics = trainer.fit(every.draw(seed), seed)
        found = {"batch_loss": metrics["loss"], **jax.device_get(look(nnx.state(net)))}
        results.append({name: np.asarray(value, np.float64) for name, value in found.items()})
    return results
