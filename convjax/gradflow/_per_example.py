"""per_example_norms: the norm of every example's own gradient."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax import nn
from convjax._check import integer
from convjax._readable import Readable, Table, on_trunk, size, whole
from convjax._rules import registered
from convjax.gradflow import _check as check
from convjax.gradflow._door import has_mode, opened
from convjax.gradflow._function import split_streams
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._profile import Profile, profile
from convjax.gradflow._table import _Rows


@dataclasses.dataclass(frozen=True, repr=False)
class PerExample(Readable):
    """Norms of the gradients of single examples' losses with respect to the parameters.

    Attributes:
      loss: every example's loss, ``(N,)``.
      log_norm: natural logarithm of the norm over all parameters, ``(N,)``.
      log_norms: the same for the parameters of one unit, by the unit's path, each ``(N,)``; minus
        infinity where the gradient is zero.
      mode: how the network was called, in words.
    """

    loss: np.ndarray
    log_norm: np.ndarray
    log_norms: dict[str, np.ndarray]
    mode: str = ""

    def __repr__(self) -> str:
        least, middle, most = _spread(self.log_norm)
        units = f"{len(self.log_norm)} examples, {len(self.log_norms)} units"
        return f"PerExample({units}; gradient norm {least} to {most}, median {middle})"

    def _as_table(self) -> Table:
        logs = {**self.log_norms, "": self.log_norm}
        paths = list(logs)
        return Table(
            ("unit", "least", "median", "largest"),
            [(whole(path), *_spread(log)) for path, log in logs.items()],
            main=on_trunk(paths, [""] * len(paths)),
            below=[
                f"norms of {len(self.log_norm)} examples' gradients by the parameters"
                + (f", {self.mode}" if self.mode else "")
            ],
        )


def _spread(logs: np.ndarray) -> list[str]:
    """Return least, median and largest of norms, from their logarithms."""
    ordered = np.sort(logs)
    return [size(float(ordered[i])) for i in (0, (len(ordered) - 1) // 2, -1)]


def per_example_norms(
    net: nnx.Module,
    x: ArrayLike,
    *,
    loss: Callable[..., jax.Array],
    targets: Any = None,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
    chunk: int = 32,
) -> PerExample:
    """Measure the norm of each example's own parameter gradient, in all and unit by unit.

    Formula: ``|d loss(net(x_i), t_i) / d W|``, where ``x_i`` is a batch of one; so a mean and a sum
    over the batch are the same loss here. Each example is profiled by itself: the logarithms
    neither under- nor overflow at any depth.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, ``(N, *spatial, C)``.
      loss: ``loss(output)``, or ``loss(output, targets)`` where targets are given, returning a
        scalar; it sees batches of one. Pass the same function object each time.
      targets: second argument of the loss, any pytree of arrays whose first axis is the examples'.
      train: whether dropout drops, for each example anew. Refused where a norm takes statistics
        from the batch: an example's loss then depends on all examples, and none has a gradient of
        its own.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced. Each
        example has numbers of its own, of these keys and of those that the network holds or closes
        over; where a call makes its key itself, all examples have the same.
      chunk: examples differentiated at once; memory grows with it.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      ``PerExample``, on the host in float64. Compiled on first use, then cached by structure.

    Raises:
      ValueError: ``train=True`` with batch norm; targets for another number of examples; a chunk
        below one; a loss that is not scalar; a parameter that stands at two paths; a NaN or
        infinity, naming the first unit with one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import gradflow, nn
      >>> net = nn.Chain(pool=nn.GlobalPool(), dense=nn.Dense(3, 2, rngs=nnx.Rngs(0)))
      >>> x = jax.random.normal(jax.random.key(1), (5, 4, 6, 3))
      >>> norms = gradflow.per_example_norms(net, x, loss=lambda y: jnp.sum(y**2))
      >>> list(norms.log_norms), norms.log_norm.shape
      (['dense'], (5,))

    Reference: Goodfellow, Efficient Per-Example Gradient Computations, 2015, for the quantity.
    """
    x, chunk = check_examples(x, loss, targets, chunk)
    net, train, rngs = one_by_one(net, x, train, rngs, call)
    _check_unshared(net)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    check.held(net, params, rest)
    measured: Profile = _profiles(
        params,
        rest,
        x,
        targets,
        split_streams(rngs),
        graphdef=graphdef,
        loss=loss,
        train=train,
        chunk=even_chunk(x.shape[0], chunk),
        rules=registered(homogeneous),
    )
    measured = jax.device_get(measured).unrolled().check()
    logs = measured.table()["parameter_gradient_log_norm"].reshape(x.shape[0], -1)
    rows = _Rows(measured.paths, measured.units)
    by_path = {
        path: logs[:, i]
        for i, (path, entry) in enumerate(zip(rows.paths, rows.entries, strict=True))
        if measured.units[entry].parameters
    }
    losses = np.asarray(measured.loss, np.float64)
    return PerExample(losses, logs[:, -1], by_path, measured.mode)


def check_examples(x: Any, loss: Any, targets: Any, chunk: Any) -> tuple[jax.Array, int]:
    """Return batch and chunk; refuse targets for another number of examples."""
    x, chunk = check.batch(x), integer("chunk", chunk, 1)
    check.objective(loss)
    check.arrays("targets", targets)
    for leaf in jax.tree.leaves(targets):
        if jnp.shape(leaf)[:1] != x.shape[:1]:
            raise ValueError(
                f"targets has a leaf of shape {jnp.shape(leaf)}; its first axis must be that of "
                f"the {x.shape[0]} examples of x"
            )
    return x, chunk


def one_by_one(
    net: Any, x: jax.Array, train: bool | None, rngs: Any, call: Any
) -> tuple[nnx.Module, bool, nnx.Rngs | None]:
    """Return the expression of a network on batches of one; refuse what has none for each."""
    if train is None and has_mode(net, call):
        train = False
    net, train, rngs = opened(net, x[:1], train, rngs, call)
    coupled = nnx.to_flat_state(nnx.state(net, nnx.BatchStat)) if train else []
    norms = ["/".join(map(str, path[:-1])) for path, _ in coupled]
    leaves = (leaf for _, leaf, _ in nn.walk(net) if isinstance(leaf, nn.Segment))
    norms += [str(nn.label_of("", leaf)) for leaf in leaves if leaf.mode == "batch"]
    for path in norms:
        raise ValueError(
            f"train=True: the norm at {path!r} takes its statistics from the batch, so an "
            "example's loss depends on all examples and none has a gradient of its own; measure "
            "with train=False, or use group or layer norm"
        )
    return net, train, rngs


def _check_unshared(net: nnx.Module):
    """Refuse a parameter at two paths: a profile rescales the two parts of its gradient apart."""
    seen: dict[int, str] = {}
    for path, node, _ in nn.walk(net):
        if any(True for _ in nn.children(node)):
            continue
        for _, part in nnx.iter_graph(node):
            if isinstance(part, nnx.Param) and seen.setdefault(id(part), path) != path:
                raise ValueError(
                    f"net has one parameter at {seen[id(part)]!r} and {path!r}; its gradient is no "
                    "single unit's: let a combinator of your own call the unit twice"
                )


def even_chunk(count: int, chunk: int) -> int:
    """Return the largest chunk, no larger than asked for, that leaves the fewest places empty."""
    return -(-count // -(-count // chunk))


def padded(count: int, chunk: int) -> jax.Array:
    """Return the examples' numbers, the last repeated up to whole chunks: one program for all."""
    return jnp.minimum(jnp.arange(-(-count // chunk) * chunk), count - 1)


def streams_of(streams: Any, i: jax.Array) -> Any:
    """Return random streams of example ``i``, which differ from those of any other."""

    def fold(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.fold_in(leaf, i) if is_key else leaf

    return jax.tree.map(fold, streams)


@partial(jax.jit, static_argnames=("graphdef", "loss", "train", "chunk", "rules"))
def _profiles(params, rest, x, targets, streams, *, graphdef, loss, train, chunk, rules):
    def one(i):
        return profile(
            nnx.merge(graphdef, params, streams_of(rest, i), copy=True),
            x[i][None],
            loss=loss,
            targets=jax.tree.map(lambda leaf: leaf[i][None], targets),
            train=train,
            rngs=None if streams is None else nnx.merge(*streams_of(streams, i), copy=True),
        )

    count = x.shape[0]
    measured = jax.lax.map(one, padded(count, chunk), batch_size=chunk)
    return jax.tree.map(lambda leaf: leaf[:count], measured)
