"""paths: the gradient's energy by the number of residual branches that it came through."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax import nn
from convjax._check import choice, number, wrong_type
from convjax._readable import Readable, Table, known
from convjax._rules import registered
from convjax.gradflow import _check as check
from convjax.gradflow import _plot as drawing
from convjax.gradflow._door import not_seen, opened, said, unseen
from convjax.gradflow._forward import check_forward, is_lost
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._lengths import Route, longest, refuse_hidden, visit
from convjax.gradflow._norm import Norm, at_least_float32, measure_stacked
from convjax.gradflow._profile import _cotangent, _traced
from convjax.gradflow._tap import Signal

ROWS = 20
"""Most rows in the text of a result; beyond, neighbouring lengths share one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Paths(Readable):
    """The gradient at the input, taken apart by path length: a pytree, for ``jit`` and ``vmap``.

    ``parts`` and ``gradient`` may be used under transformations; everything else is NumPy in
    float64, with lengths along the last axis.

    Attributes:
      parts: for every length k from 0, the norm of ``g_k``: what came over all paths through
        exactly k branches.
      gradient: the norm of the gradient itself, the sum of the ``g_k``.
      batch_size: examples in the batch; energies are summed over them.
      train: whether norms used the batch's statistics.
      whole: units that were read from a program and not seen through, which have paths of their
        own: each counts as one leaf.
      mode: how the network was called, in words.
    """

    parts: Norm
    gradient: Norm
    batch_size: int = dataclasses.field(metadata={"static": True})
    train: bool = dataclasses.field(metadata={"static": True})
    whole: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    mode: str = dataclasses.field(default="", metadata={"static": True})

    @property
    def lengths(self) -> np.ndarray:
        """The numbers of branches, 0 to the most that a path can have."""
        return np.arange(np.shape(self.parts.squares)[-1])

    @property
    def log_energy(self) -> np.ndarray:
        """Natural logarithm of ``|g_k|^2`` by length; minus infinity where nothing came."""
        return 2 * jax.device_get(self.parts).log_norm

    @property
    def total_log_energy(self) -> Any:
        """Natural logarithm of ``|sum_k g_k|^2``, the gradient's own energy."""
        return 2 * jax.device_get(self.gradient).log_norm

    @property
    def energy(self) -> np.ndarray:
        """Share of every length in ``sum_k |g_k|^2``; NaN where the whole gradient is zero."""
        with np.errstate(invalid="ignore"):
            return np.exp(self.log_energy - self._log_sum[..., None])

    @property
    def coherence(self) -> Any:
        """``|sum_k g_k|^2 / sum_k |g_k|^2``: 1 where paths of different length are orthogonal."""
        with np.errstate(invalid="ignore"):
            return np.exp(self.total_log_energy - self._log_sum)

    @property
    def skip_share(self) -> Any:
        """Share of the energy that came over the skips alone, through no branch."""
        return self.energy[..., 0]

    @property
    def mean_length(self) -> Any:
        """Mean length, weighted by energy."""
        return self.energy @ self.lengths

    def quantile(self, share: float) -> Any:
        """Return the least length at which paths up to it hold this share of the energy."""
        share = number("share", share, least=0, most=1)
        return np.argmax(np.cumsum(self.energy, axis=-1) >= share * (1 - 1e-12), axis=-1)

    def check(self) -> "Paths":
        """Return the result, or raise a ValueError where it holds a NaN or an infinity."""
        logs = np.append(self.log_energy, self.total_log_energy)
        if np.isnan(logs).any() or np.isposinf(logs).any():
            raise ValueError(
                "the gradient is NaN or infinite; gradflow.profile names the unit where that begins"
            )
        return self

    @property
    def _log_sum(self) -> Any:
        return np.logaddexp.reduce(self.log_energy, axis=-1)

    def plot(self) -> Any:
        """Draw the share of the energy by path length; of a vmapped result mean and ends.

        Returns:
          The figure, a ``plots.Sheet``; ``plots.save`` writes it.

        Raises:
          MissingPackageError: matplotlib is not installed.
        """
        title, share = "Gradient energy by path length", "share of the energy"
        return drawing.curve(title, "paths", self.lengths, self.energy, "branches", share)

    def __repr__(self) -> str:
        mode, most = self._how, ""
        if shape := np.shape(self.parts.squares):
            most = f"lengths 0 to {shape[-1] - 1}, "
        if known(self.parts.squares) and np.ndim(self.parts.squares) == 1:
            mode += f"; mean length {self.mean_length:.4g}, coherence {self.coherence:.3g}"
        return f"Paths({most}{mode})"

    @property
    def _how(self) -> str:
        return f"batch of {self.batch_size}, {self.mode or f'train={self.train}'}"

    def _as_table(self) -> Table:
        values = (
            np.ravel(value)
            for value in (
                self.mean_length,
                self.quantile(0.05),
                self.quantile(0.95),
                self.skip_share,
                self.coherence,
            )
        )
        said = [
            f"mean length {mean:.4g}, 5 to 95 %: {low} to {high}; over the skips alone: "
            f"{skip:.3g}; coherence {coherence:.3g}"
            for mean, low, high, skip, coherence in zip(*values, strict=True)
        ]
        if self.energy.shape[-1] == 1:
            said = ["no residual sum stands in this network: there is nothing to take apart"]
        said.append(self._how)
        said += not_seen(self.whole, "paths inside of these are not told apart, each is one leaf")
        heads = ("branches", "energy", "up to here")
        if self.energy.ndim > 1:
            return Table(heads, [], below=said)
        first, last = int(self.quantile(0.005)), int(self.quantile(0.995))
        if first > 0 or last < len(self.energy) - 1:
            said.append(f"lengths below {first} and above {last} hold less than 1 % together")
        return Table(heads, _by_length(self, first, last), left=0, below=said)


def _by_length(result: Paths, first: int, last: int) -> list[tuple[str, str, str]]:
    """Return the rows of energy by length, neighbouring lengths together where they are many."""
    together = math.ceil((last + 1 - first) / ROWS)
    rows = []
    for start in range(first, last + 1, together):
        end = min(start + together, last + 1)
        label = str(start) if end == start + 1 else f"{start} to {end - 1}"
        share, below = result.energy[start:end].sum(), result.energy[:end].sum()
        rows.append((label, f"{share:.4f}", f"{below:.4f}"))
    return rows


def paths(
    net: nnx.Module,
    x: ArrayLike,
    *,
    loss: Callable[..., jax.Array] | None = None,
    targets: Any = None,
    cotangent: ArrayLike | None = None,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
    whole: Sequence[str] = (),
) -> Paths:
    """Take the gradient at the input apart by the number of residual branches it came through.

    Formula: with every branch's backward pass multiplied by t, the gradient is a polynomial
    ``g(t) = sum_k t^k g_k``, and ``g_k`` is what came over all paths through exactly k branches.
    The energies ``|g_k|^2`` are exact: the backward pass carries the coefficients, each with a
    power of two of its own, so that no length is lost beside another, at any depth, in any dtype.

    Where a path enters a residual's sum by the branch's term it grows by one; by the shortcut's, by
    none. A residual in a branch adds its own; a gate belongs to whichever term it multiplies;
    ``shortcut="none"`` offers no choice and counts nothing. What runs in ``Parallel`` is added up.

    One forward pass, and one backward pass with respect to the activations on as many cotangents as
    there are lengths: it takes about the time of a plain gradient of a batch as many times as
    large, and its cotangents as much memory. A smaller batch is the way out.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, ``(N, *spatial, C)``.
      loss: ``loss(output)``, or ``loss(output, targets)`` where targets are given, returning a
        scalar. Pass the same function object each time: another one is another compilation.
      targets: second argument of the loss, any pytree of arrays.
      cotangent: in place of a loss, dL/d(output): an array of the output's shape, or a PRNG key
        for a unit Gaussian one, the usual choice at initialization.
      train: whether norms use the batch's statistics and dropout drops; there is no default.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced.
      whole: paths of modules of your own that count as one leaf, although their programs add or
        concatenate what comes from their input: a custom norm, say. Without it they are refused.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``Paths``. Compiled on first use, then cached by the network's structure.

    Raises:
      ValueError: both or neither of loss and cotangent; a loss that is not scalar; a cotangent of
        another shape; a module of your own that holds residuals, or whose program has paths of its
        own; a NaN or infinity forward or backward (not checked under a transformation: call
        ``Paths.check`` on what comes out).

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.deep_stack(24, 8, convs_per_unit=1, padding="CIRCULAR", rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (4, 6, 5, 8))
      >>> found = gradflow.paths(net, x, cotangent=jax.random.key(2), train=False)
      >>> len(found.lengths), bool(10 < found.mean_length < 14), bool(found.skip_share < 1e-6)
      (25, True, True)

    Reference: Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks,
    2016. Their figure is the norm of single paths times the number of paths of that length, which
    is another quantity: paths of one length are here added before they are measured.
    """
    x = check.batch(x)
    if isinstance(whole, str | bytes) or not isinstance(whole, Sequence):
        wrong_type("whole", whole, "a sequence of paths")
    net, train, rngs = opened(net, x, train, rngs, call, whole)
    cotangent = check.start(loss, targets, cotangent)
    whole = _known_paths(net, whole)
    refuse_hidden(net, whole)
    graphdef, state = nnx.split(net)
    check.held(net, state)
    streams = None if rngs is None else nnx.split(rngs)
    arrays = (state, x, targets, cotangent, streams)
    rules = registered(homogeneous)
    found = _measure(*arrays, graphdef=graphdef, loss=loss, train=train, whole=whole, rules=rules)
    found = dataclasses.replace(found, whole=unseen(net), mode=said(net, train))
    if _traced(arrays):
        return found
    check_forward(net, x, train=train, rngs=rngs, plain=False)
    return found.check()


def _known_paths(net: nnx.Module, whole: Sequence[str]) -> tuple[str, ...]:
    known = [path for path, _, _ in nn.walk(net)]
    return tuple(choice(f"whole[{i}]", path, known) for i, path in enumerate(whole))


@partial(jax.jit, static_argnames=("graphdef", "loss", "train", "whole", "rules"))
def _measure(state, x, targets, cotangent, streams, *, graphdef, loss, train, whole, rules):
    zero = jnp.zeros((), at_least_float32(x.dtype))
    count = 1 + longest(nnx.merge(graphdef, state))

    def run(signal):
        net = nnx.merge(graphdef, state, copy=True)
        rngs = None if streams is None else nnx.merge(*streams, copy=True)
        return visit(net, signal, Route(train, rngs, whole=whole))

    output, pullback = jax.vjp(run, Signal(x, zero))
    _, cotangent = _cotangent(output.x, loss, targets, cotangent)
    start = jnp.zeros((count + 1, *output.x.shape), output.x.dtype)
    start = start.at[jnp.array([0, count])].set(cotangent)
    (found,) = jax.vmap(pullback)(Signal(start, jnp.broadcast_to(zero, (count + 1,))))
    # The slope of a rectifier at NaN is 0: what is lost forward must show here too.
    lost = jnp.where(is_lost(x, output.x), jnp.nan, 1.0).astype(found.x.dtype)
    norms = measure_stacked(found.x * lost, found.exponent, axes=1)
    parts = jax.tree.map(lambda a: a[:-1], norms)
    whole = jax.tree.map(lambda a: a[-1], norms)
    return Paths(parts, whole, x.shape[0], train)
