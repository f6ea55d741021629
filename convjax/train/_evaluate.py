"""evaluate: loss and accuracy of a network on examples that it does not learn from."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from convjax import _check, nn
from convjax.train import _arguments
from convjax.train._losses import accuracy, check_labels, cross_entropy
from convjax.train._mesh import AXIS, spread
from convjax.train._state import assembled, parts

Batches = Iterable[tuple[Any, Any]]
Held = tuple[Any, Any] | Callable[[], Batches]


def evaluate(
    net: nnx.Module,
    test: Held,
    *,
    batch_size: int = 256,
    call: Callable[..., Any] | None = None,
) -> dict[str, float]:
    """Return mean loss and accuracy of a network, on its running statistics.

    Args:
      net: the network; any module of Flax NNX, or an ``nn.Function``. It is left as it is.
      test: ``(images, labels)``, or a function that returns an iterable of such batches, of any
        sizes, for sets that do not fit in memory.
      batch_size: examples at once, where ``test`` is a pair.
      call: how the network is called, if not as its signature says: ``call(net, x)``, which is
        passed ``train`` and ``rngs`` where it takes them by name; see ``nn.applied``.

    Returns:
      ``{"loss": …, "accuracy": …}``, means over all examples. An image for which the network
      returns NaN makes the loss NaN, and is not counted as right.

    Raises:
      ValueError: no example, images and labels of different numbers, or a label that is no class
        of the network's; the message names it and says how many classes there are.

    Example:
      >>> from flax import nnx
      >>> from convjax import data, models, train
      >>> net = models.resnet_cifar(8, width=4, in_features=1, rngs=nnx.Rngs(0))
      >>> sorted(train.evaluate(net, data.digits("test")))
      ['accuracy', 'loss']
    """
    graphdef, params, rest = parts(_arguments.network(net))
    batch_size = _check.integer("batch_size", batch_size, 1)
    evaluation = Evaluation(graphdef, test, batch_size, call=_arguments.call(call))
    evaluation.check(params, rest)
    return evaluation(params, rest)


class Evaluation:
    """The evaluation of networks of one structure, compiled once for each size of batch.

    On a mesh the devices share each batch; what they hold of network and result is the same.
    """

    def __init__(
        self,
        graphdef: Any,
        test: Held,
        batch_size: int = 256,
        *,
        mesh: Mesh | None = None,
        call: Callable[..., Any] | None = None,
    ):
        self.test = _called(test) if callable(test) else _pair(test)
        self.batch_size = batch_size
        self.mesh = mesh

        def scores(params, rest, images, labels, seen):
            net = assembled(graphdef, params, rest)
            logits = nn.applied(net, images, train=False, call=call)

            def one(logits, label, seen):
                logits, label = logits[None], label[None]
                found = jnp.stack([cross_entropy(logits, label), accuracy(logits, label)])
                return jnp.where(seen, found, 0)

            found = jax.vmap(one)(logits, labels, seen).sum(0)
            # An array of no element, whose shape alone is of use: it tells the number of classes.
            outputs = jnp.zeros((0, logits.shape[-1]))
            return found if mesh is None else jax.lax.psum(found, AXIS), outputs

        if mesh is not None:
            same, shared = PartitionSpec(), PartitionSpec(AXIS)
            specs = (same, same, shared, shared, shared)
            scores = jax.shard_map(
                scores, mesh=mesh, in_specs=specs, out_specs=same, check_vma=False
            )
        self.scores = jax.jit(scores)

    def check(self, params: Any, rest: Any) -> None:
        """Refuse, without compiling, a test that the network does not fit; only of a pair.

        Args:
          params: of a network, or their shapes.
          rest: likewise.
        """
        if callable(self.test):
            return
        batch = spread(self._even(next(self._batches())), self.mesh, axis=0)
        _, outputs = self.scores.eval_shape(params, rest, *batch)
        check_labels("test labels", self.test[1], outputs.shape[-1])

    def __call__(self, params: Any, rest: Any) -> dict[str, float]:
        """Return mean loss and accuracy, of a test that ``check`` took if it is a pair."""
        total, count = np.zeros(2), 0
        for batch in self._batches():
            count += int(batch[2].sum())
            shared = spread(self._even(batch), self.mesh, axis=0)
            found, outputs = self.scores(params, rest, *shared)
            if callable(self.test):
                check_labels("test labels", batch[1], outputs.shape[-1])
            total += np.asarray(found, np.float64)
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
            for i, batch in enumerate(_iterated(self.test())):
                images, labels = _pair(batch, f"test()[{i}]")
                yield images, labels, np.ones(len(labels), bool)
            return
        images, labels = self.test
        size = min(self.batch_size, len(labels))
        for first in range(0, len(labels), size):
            # The last batch is moved back to full size: what it shares with others counts once.
            begin = min(first, len(labels) - size)
            seen = np.arange(begin, begin + size) >= first
            yield images[begin : begin + size], labels[begin : begin + size], seen


def _iterated(batches: Any) -> Batches:
    return _check.instance("test()", batches, Iterable, "an iterable of pairs (images, labels)")


def _called(test: Any) -> Callable[[], Batches]:
    try:
        inspect.signature(test).bind()
    except TypeError:
        _check.wrong_type("test", test, "a pair (images, labels), or a function of no argument")
    except ValueError:  # it has no signature
        pass
    return test


def _pair(test: Any, name: str = "test") -> tuple[Any, Any]:
    right = "a pair (images, labels), or a function that returns an iterable of such pairs"
    if not isinstance(test, tuple | list) or len(test) != 2:
        _check.wrong_type(name, test, right if name == "test" else "a pair (images, labels)")
    arrays, expected = (np.ndarray, jax.Array), "an array of NumPy or JAX"
    # Left where they are: a test set may be larger than the device's memory.
    images = _check.instance(f"{name}[0]", test[0], arrays, expected)
    labels = _check.instance(f"{name}[1]", test[1], arrays, expected)
    if images.ndim == 0 or labels.ndim not in (1, 2):
        raise ValueError(
            f"{name} has images of the shape {images.shape} and labels of the shape "
            f"{labels.shape}; labels must be classes (N,), or probabilities (N, classes)"
        )
    if len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"{name} has images of the shape {images.shape} and labels of the shape "
            f"{labels.shape}; it needs as many of both, at least one"
        )
    return images, labels
