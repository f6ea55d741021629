"""profile: the norms of signal and gradient at every unit, by one backward pass."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from convjax import nn
from convjax._check import instance
from convjax._readable import Readable, Table, known, size
from convjax._rules import registered
from convjax.gradflow import _check as check
from convjax.gradflow import _plot as drawing
from convjax.gradflow._door import not_seen, opened, said
from convjax.gradflow._gather import Gathered, Together
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._norm import SMALL, at_least_float32, finite, suspect
from convjax.gradflow._own import shared
from convjax.gradflow._pack import packed
from convjax.gradflow._run import (
    Forward,
    Scope,
    Signal,
    Summands,
    is_whole,
    tapped_at,
    token_paths,
    visit,
)
from convjax.gradflow._table import as_table, check_finite, columns, pick
from convjax.gradflow._tap import TOKEN, cut
from convjax.gradflow._tapped import trunk
from convjax.gradflow._unit import Unit
from convjax.gradflow._unrolled import named, unrolled

_DEEP = 100
"""Units of a trunk up to which nothing need be rescaled, as a rule."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Profile(Readable):
    """The measurement of one network on one batch: a pytree, fit for ``jit`` and ``vmap``.

    Attributes:
      paths: every unit's path, children before parents, "input" first. ``*`` stands for every
        unit of a ``Repeat``; under a transformation also for every turn of a loop in which a
        network that was read calls equal layers.
      units: what was measured there, in the same order.
      loss: the loss, or None where a cotangent was given.
      batch_size: examples in the batch. Norms are those of the gradient of the loss as given: a
        mean over the batch makes them smaller by the batch size than a sum does.
      train: whether norms used the batch's statistics.
      opaque: paths of leaves that are not seen through: modules that hold modules but registered no
        children, and what was read of a program and not recognised; measured from outside.
      mode: how the network was called, in words.
      turns: for each unit, its names in the turns of such a loop, or None; empty without loops.
    """

    paths: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    units: tuple[Unit, ...]
    loss: Any
    batch_size: int = dataclasses.field(metadata={"static": True})
    train: bool = dataclasses.field(metadata={"static": True})
    opaque: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    mode: str = dataclasses.field(default="", metadata={"static": True})
    turns: tuple[nn.Turns | None, ...] = dataclasses.field(default=(), metadata={"static": True})

    def __getitem__(self, path: str) -> Unit:
        """Return the unit at a path; a number in place of a ``*`` picks one unit of a repeat."""
        instance("path", path, str, "a unit's path")
        if path in self.paths:
            return self.units[self.paths.index(path)]
        replicas = np.ndim(self.units[0].activation.squares)
        unit = named(path, self.units, self.turns, replicas) if self.turns else None
        unit = pick(self.paths, self.units, path) if unit is None else unit
        if unit is not None:
            return unit
        near = difflib.get_close_matches(path, self.paths, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}? Its" if near else "its"
        raise KeyError(f"{path!r} is not in the profile; {hint} paths are {', '.join(self.paths)}")

    def items(self) -> Iterator[tuple[str, Unit]]:
        """Yield ``(path, unit)``."""
        return zip(self.paths, self.units, strict=True)

    def table(self) -> dict[str, np.ndarray]:
        """Return the columns named in ``gradflow.COLUMNS``: one row per unit, repeats unrolled."""
        written = self.unrolled()
        return columns(written.paths, written.units)

    def check(self) -> "Profile":
        """Return the profile, or raise a ValueError that names the first unit not finite."""
        written = self.unrolled()
        check_finite(written.paths, written.units)
        return self

    def unrolled(self) -> "Profile":
        """Return the profile with a unit for every turn of a loop, by its own name."""
        if not self.turns:
            return self
        replicas = np.ndim(self.units[0].activation.squares)
        paths, units = unrolled(self.paths, self.units, self.turns, replicas)
        return dataclasses.replace(self, paths=paths, units=units, turns=())

    def plot(self, prediction: Any = None) -> Any:
        """Draw activations and gradients along the trunk; of a vmapped profile mean and ends.

        Args:
          prediction: what ``gradflow.predict`` expects of the same units, drawn as lines in bands
            of two standard deviations and theory's slack; None draws the measurement alone.

        Returns:
          The figure, a ``plots.Sheet``; ``plots.save`` writes it.

        Raises:
          ValueError: no prediction, or one of other units.
          MissingPackageError: matplotlib is not installed.
        """
        return drawing.of_profile(self.unrolled(), prediction)

    def __repr__(self) -> str:
        shapes = [np.shape(unit.activation.squares) for unit in self.units]
        count = sum(math.prod(shape[len(shapes[0]) :]) for shape in shapes[1:])
        how = self.mode or f"train={self.train}"
        said = f"{count} units, batch of {self.batch_size}, {how}"
        ends = [unit.gradient for unit in (self.units[0], self.units[-1])]
        if all(known(norm.squares) and np.ndim(norm.squares) == 0 for norm in ends):
            first, last = (size(float(norm.log_rms)) for norm in jax.device_get(ends))
            said += f"; gradient rms {first} at the input, {last} at the output"
        return f"Profile({said})"

    def _as_table(self) -> Table:
        said = self.mode or f"train={self.train}"
        below = [f"root mean squares; batch of {self.batch_size}, {said}"]
        written = self.unrolled()
        return as_table(written.paths, written.units, [*below, *not_seen(self.opaque)])


def profile(
    net: nnx.Module,
    x: ArrayLike,
    *,
    loss: Callable[..., jax.Array] | None = None,
    targets: Any = None,
    cotangent: ArrayLike | None = None,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Profile:
    """Measure activations and gradients at every unit of a network, by one backward pass.

    For every node, down to the leaves inside a branch: the norm of its output ``y``, of ``dL/dy``,
    of its parameters and of their gradients, as logarithms that neither under- nor overflow at any
    depth. The network itself is left as it was: statistics do not move.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, ``(N, *spatial, C)``.
      loss: ``loss(output)``, or ``loss(output, targets)`` where targets are given, returning a
        scalar. Pass the same function object each time: another one is another compilation.
      targets: second argument of the loss, any pytree of arrays.
      cotangent: in place of a loss, dL/d(output): an array of the output's shape, or a PRNG key
        for a unit Gaussian one, the usual choice at initialization.
      train: whether norms use the batch's statistics and dropout drops. There is no default: at
        initialization a network with batch norm computes two different functions in the two modes.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``Profile``. Compiled on first use, then cached by the network's structure.

    Raises:
      ValueError: both or neither of loss and cotangent; a loss that is not scalar; a cotangent of
        another shape; a NaN or infinity in the result, naming the first unit that has one (not
        checked under a transformation: call ``Profile.check`` on what comes out).

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.deep_stack(20, 8, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (4, 8, 6, 8))
      >>> measured = gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)
      >>> measured["0"].gradient.log_norm.shape, bool(measured["0"].gradient.norm > 0)
      ((), True)

    Reference: the norms of backward passes as in He et al. 2015, section 4.1; the renormalisation
    rests on a backward pass being linear in its cotangent.
    """
    x = check.batch(x)
    net, train, rngs = opened(net, x, train, rngs, call)
    cotangent = check.start(loss, targets, cotangent)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    check.held(net, params, rest)
    streams = None if rngs is None else nnx.split(rngs)
    arrays = (params, rest, x, targets, cotangent, streams)
    rules = registered(homogeneous)
    how = {"graphdef": graphdef, "loss": loss, "train": train, "rules": rules}
    if _traced(arrays):
        return _measured(*arrays, **how, level="careful")
    level = _cheapest(net, x)
    measured = _results(*arrays, **how, level=level).unpacked()
    doubtful = [norm for unit in measured.units for norm in unit.of_signals()]
    if level == "plain":  # what is large was summed in one pass, as signals are
        norms = (norm for unit in measured.units for norm in unit.of_parameters())
        doubtful += [norm for norm in norms if norm.size > SMALL]
    if suspect(doubtful):
        measured = _results(*arrays, **how, level="careful").unpacked()
    if not finite([n for unit in measured.units for n in unit.of_signals() + unit.of_parameters()]):
        measured.check()
    return measured.unrolled()


def _cheapest(net: nnx.Module, x: jax.Array) -> str:
    """Return the cheapest way to measure that will do: nothing rescaled, if not very deep.

    A half precision's range is so small that entries are lost where no norm shows it.
    """
    units = sum(map(math.prod, trunk(net).values()))
    return "plain" if units <= _DEEP and x.dtype != jnp.float16 else "cut"


def _traced(tree: Any) -> bool:
    """Whether values are not to be had: a transformation's argument, or all within ``jit``."""
    # Given to the device by word, which jax.transfer_guard allows.
    return isinstance(jax.device_put(np.zeros(())), Tracer) or any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)
    )


def _measure(params, rest, x, targets, cotangent, streams, *, graphdef, loss, train, level, rules):
    plain, careful = level == "plain", level == "careful"
    net = nnx.merge(graphdef, params, rest)
    dtype = at_least_float32(x.dtype)
    repeats = token_paths(net)
    tied = shared(net, is_whole)
    tokens = {path: jnp.zeros((*axes, *TOKEN), dtype) for path, axes in repeats.items()}
    tokens |= tied.tokens()
    anchors: dict[str, str] = {}
    aliases: dict[str, str] = {}

    def run(params, tokens):
        net = nnx.merge(graphdef, params, rest, copy=True)
        rngs = None if streams is None else nnx.merge(*streams, copy=True)
        records: dict[str, Any] = {}
        scope = Scope(train, careful, rngs, tokens, records, anchors, aliases, plain=plain)
        signal: Any = Signal(x, jnp.zeros((), dtype))
        if plain:
            signal = signal._replace(x=tapped_at("input", x, scope))
        else:
            scope = dataclasses.replace(scope, shared=tied.paths)
            signal = cut(signal, tokens["input"], careful)
        signal = visit(net, signal, scope)
        return signal.x, records

    if plain:
        _, outlined = jax.eval_shape(run, params, {})
        found = (
            (p, r.activation.squares if isinstance(r, Forward) else r) for p, r in outlined.items()
        )
        tokens = {p: jnp.zeros(s.shape, s.dtype) for p, s in found if not isinstance(s, Summands)}
    output, pullback, records = jax.vjp(run, params, tokens, has_aux=True)
    value, cotangent = _cotangent(output, loss, targets, cotangent)
    gradients, received = pullback(cotangent)

    together = Together() if plain else None
    gathered = Gathered(records, received, anchors, aliases, tied, repeats, together)
    # The gradients in the network's own shape: walking both shows every leaf beside its gradient.
    twin = nnx.merge(graphdef, gradients, rest)
    names, units, opaque = ["input"], [gathered.input(x)], []
    turns: list[nn.Turns | None] = [None]
    for (path, node, axes), (_, shadow, _) in zip(nn.walk(net), nn.walk(twin), strict=True):
        shown = nn.label_of(path, node)
        if path not in anchors or shown is None:
            continue  # its parent runs it as a whole, or its output is its last unit's
        names.append(shown)
        turns.append(nn.turns_of(node))
        units.append(gathered.unit(path, node, shadow, len(axes)))
        if gathered.hides(node):
            opaque.append((shown, nn.turns_of(node)))
    if together is not None:
        units = together.kept(units)
    hidden = nn.Turns.names([str(shown) for shown, _ in opaque], [own for _, own in opaque])
    how = (value, x.shape[0], train, hidden, said(net, train))
    return Profile(tuple(names), tuple(units), *how, tuple(turns) if any(turns) else ())


_STATIC = ("graphdef", "loss", "train", "level", "rules")
_measured = jax.jit(_measure, static_argnames=_STATIC)


@partial(jax.jit, static_argnames=_STATIC)
def _results(*arrays, **how):
    return packed(_measure(*arrays, **how))


def _cotangent(output, loss, targets, cotangent):
    """Return the loss (or None) and the gradient with respect to the output."""
    if loss is not None:
        of = loss if targets is None else lambda y: loss(y, targets)
        shape = jax.eval_shape(of, output)
        if getattr(shape, "shape", None) != ():
            raise ValueError(
                f"loss must return a scalar, not {getattr(shape, 'shape', shape)}; reduce it, for "
                "example by a mean over the batch"
            )
        return jax.value_and_grad(of)(output)
    if check.is_key(cotangent):
        return None, jax.random.normal(cotangent, output.shape, output.dtype)
    if cotangent.shape != output.shape:
        raise ValueError(
            f"cotangent has shape {cotangent.shape}, the output {output.shape}; they must agree"
        )
    return None, cotangent.astype(output.dtype)
