"""evaluate: loss and accuracy of a network on examples that it does not learn from."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from convjax.train._losses import accuracy, cross_entropy
from convjax.train._mesh import AXIS, spread
from convjax.train._state import assembled, parts

Batches = Iterable[tuple[Any, Any]]
Held = tuple[Any, Any] | Callable[[], Batches]


def evaluate(net: nnx.Module, test: Held, *, batch_size: int = 256) -> dict[str, float]:
    """Return mean loss and accuracy of a network, on its running statistics.

    Args:
      net: the network.
      test: ``(images, labels)``, or a function that returns an iterable of such batches, of any
        sizes, for sets that do not fit in memory.
      batch_size: examples at once, where ``test`` is a pair.

    Returns:
      ``{"loss": …, "accuracy": …}``, means over all examples.

    Raises:
      ValueError: no example, or images and labels of different numbers.

    Example:
      >>> from flax import nnx
      >>> from convjax import data, models, train
      >>> net = models.resnet_cifar(8, width=4, in_features=1, rngs=nnx.Rngs(0))
      >>> sorted(train.evaluate(net, data.digits("test")))
      ['accuracy', 'loss']
    """
    graphdef, params, rest = parts(net)
    return Evaluation(graphdef, test, batch_size)(params, rest)


class Evaluation:
    """The evaluation of networks of one structure, compiled once for each size of batch.

    On a mesh the devices share each batch; what they hold of network and result is the same.
    """

    def __init__(
        self, graphdef: Any, test: Held, batch_size: int = 256, *, mesh: Mesh | None = None
    ):
        self.test = test if callable(test) else _checked(test)
        self.batch_size = batch_size
        self.mesh = mesh

        def scores(params, rest, images, labels, seen):
            net = assembled(graphdef, params, rest)
            logits = net(images, train=False)

            def one(logits, label, seen):
                logits, label = logits[None], label[None]
                found = jnp.stack([cross_entropy(logits, label), accuracy(logits, label)])
                return jnp.where(seen, found, 0)

            found = jax.vmap(one)(logits, labels, seen).sum(0)
            return found if mesh is None else jax.lax.psum(found, AXIS)

        if mesh is not None:
            same, shared = PartitionSpec(), PartitionSpec(AXIS)
            specs = (same, same, shared, shared, shared)
            scores = jax.shard_map(
                scores, mesh=mesh, in_specs=specs, out_specs=same, check_vma=False
            )
        self.scores = jax.jit(scores)

    def __call__(self, params: Any, rest: Any) -> dict[str, float]:
        """Return mean loss and accuracy."""
        total, count = np.zeros(2), 0
        for batch in self._batches():
            count += int(batch[2].sum())
            batch = spread(self._even(batch), self.mesh, axis=0)
            total += np.asarray(self.scores(params, rest, *batch), np.float64)
        if not count:
            raise ValueError("test holds no example")
        return {"loss": float(total[0] / count), "accuracy": float(total[1] / count)}

    def _even(self, batch: tuple[Any, Any, np.ndarray]) -> tuple[Any, Any, np.ndarray]:
        """Return a batch that the devices can share: with its last example again, not counted."""
        devices = 1 if self.mesh is None else self.mesh.size
        if not (short := -len(batch[2]) % devices):
            return batch
        images, labels = (np.concatenate([a, np.repeat(a[-1:], short, 0)]) for a in batch[:2])
        return images, labels, np.concatenate([batch[2], np.zeros(short, bool)])

    def _batches(self) -> Iterator[tuple[Any, Any, np.ndarray]]:
        if callable(self.test):
            for images, labels in self.test():
                images, labels = _checked((images, labels))
                yield images, labels, np.ones(len(labels), bool)
            return
        images, labels = self.test
        size = min(self.batch_size, len(labels))
        for first in range(0, len(labels), size):
            # The last batch is moved back to full size: what it shares with others counts once.
            begin = min(first, len(labels) - size)
            seen = np.arange(begin, begin + size) >= first
            yield images[begin : begin + size], labels[begin : begin + size], seen


def _checked(test: tuple[Any, Any]) -> tuple[Any, Any]:
    images, labels = test
    if len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"test has {len(images)} images and {len(labels)} labels; it needs as many of both, "
            "at least one"
        )
    return images, labels
