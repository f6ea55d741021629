"""profile: the norms of signal and gradient at every unit, by one backward pass."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax import nn
from convjax.gradflow._norm import Norm, at_least_float32, measure, measure_stacked
from convjax.gradflow._run import Scope, Signal, returned, token_paths, visit
from convjax.gradflow._table import check_finite, columns, pick, to_text
from convjax.gradflow._tap import TOKEN, cut


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Addition:
    """The two sides of a residual's addition, forward and backward.

    Attributes:
      branch: norm of the branch's term.
      shortcut: norm of the shortcut's term.
      branch_gradient: norm of the gradient that the branch hands back to the residual's input.
      shortcut_gradient: norm of what the shortcut hands back. The sum of the two is the gradient
        at the residual's input.
    """

    branch: Norm
    shortcut: Norm
    branch_gradient: Norm
    shortcut_gradient: Norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unit:
    """What was measured of one node; inside a ``Repeat`` every array has an axis per repeat.

    Attributes:
      kind: the node's type, or an activation's name.
      activation: norm of the node's output.
      gradient: norm of the loss's gradient with respect to the node's output.
      parameters: norm of each of the leaf's own parameters; empty for a combinator.
      parameter_gradients: norm of the loss's gradient with respect to each.
      addition: for a residual with a shortcut, the two sides of its addition.
    """

    kind: str = dataclasses.field(metadata={"static": True})
    activation: Norm
    gradient: Norm
    parameters: dict[str, Norm]
    parameter_gradients: dict[str, Norm]
    addition: Addition | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Profile:
    """The measurement of one network on one batch: a pytree, fit for ``jit`` and ``vmap``.

    Attributes:
      paths: every unit's path, children before parents, "input" first. ``*`` stands for every
        unit of a ``Repeat``.
      units: what was measured there, in the same order.
      loss: the loss, or None where a cotangent was given.
      batch_size: examples in the batch. Norms are those of the gradient of the loss as given: a
        mean over the batch makes them smaller by the batch size than a sum does.
      train: whether norms used the batch's statistics.
      opaque: paths of modules that hold modules but registered no children; they were measured
        from outside.
    """

    paths: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    units: tuple[Unit, ...]
    loss: Any
    batch_size: int = dataclasses.field(metadata={"static": True})
    train: bool = dataclasses.field(metadata={"static": True})
    opaque: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __getitem__(self, path: str) -> Unit:
        """Return the unit at a path; a number in place of a ``*`` picks one unit of a repeat."""
        if path in self.paths:
            return self.units[self.paths.index(path)]
        unit = pick(self, path)
        if unit is not None:
            return unit
        raise KeyError(f"{path!r} is not in the profile; its paths are {', '.join(self.paths)}")

    def items(self) -> Iterator[tuple[str, Unit]]:
        """Yield ``(path, unit)``."""
        return zip(self.paths, self.units, strict=True)

    def table(self) -> dict[str, np.ndarray]:
        """Return the columns named in ``gradflow.COLUMNS``: one row per unit, repeats unrolled."""
        return columns(self)

    def check(self) -> "Profile":
        """Return the profile, or raise a ValueError that names the first unit not finite."""
        check_finite(self)
        return self

    def __str__(self) -> str:
        return to_text(self)


def profile(
    net: nnx.Module,
    x: ArrayLike,
    *,
    loss: Callable[..., jax.Array] | None = None,
    targets: Any = None,
    cotangent: ArrayLike | None = None,
    train: bool,
    rngs: nnx.Rngs | None = None,
) -> Profile:
    """Measure activations and gradients at every unit of a network, by one backward pass.

    For every node, down to the leaves inside a branch: the norm of its output ``y``, of ``dL/dy``,
    of its parameters and of their gradients, as logarithms that neither under- nor overflow at any
    depth. The network itself is left as it was: statistics do not move.

    Args:
      net: any node of ``convjax.nn``, or any module called as ``net(x, train, rngs)``.
      x: the batch, ``(N, *spatial, C)``.
      loss: ``loss(output)``, or ``loss(output, targets)`` where targets are given, returning a
        scalar. Pass the same function object each time: another one is another compilation.
      targets: second argument of the loss, any pytree of arrays.
      cotangent: in place of a loss, dL/d(output): an array of the output's shape, or a PRNG key
        from which a unit Gaussian one is drawn, as measurements at birth want it.
      train: whether norms use the batch's statistics and dropout drops. There is no default: a
        batch-norm network at birth is one network with and another without.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced.

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
    if (loss is None) == (cotangent is None):
        given = "both" if loss is not None else "neither"
        raise ValueError(f"give loss or cotangent, one of the two; {given} was given")
    x = jnp.asarray(x)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    streams = None if rngs is None else nnx.split(rngs)
    measure = partial(
        _measure,
        params,
        rest,
        x,
        targets,
        cotangent,
        streams,
        graphdef=graphdef,
        loss=loss,
        train=train,
    )
    if _traced((params, rest, x, targets, cotangent, streams)):
        return measure(careful=True)
    measured = measure(careful=False)
    norms = jax.tree.leaves(jax.device_get(measured), is_leaf=lambda leaf: isinstance(leaf, Norm))
    if any(isinstance(norm, Norm) and norm.suspect() for norm in norms):
        measured = measure(careful=True)
    return measured.check()


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


@partial(jax.jit, static_argnames=("graphdef", "loss", "train", "careful"))
def _measure(params, rest, x, targets, cotangent, streams, *, graphdef, loss, train, careful):
    net = nnx.merge(graphdef, params, rest)
    dtype = at_least_float32(x.dtype)
    repeats = token_paths(net)
    tokens = {path: jnp.zeros((*axes, *TOKEN), dtype) for path, axes in repeats.items()}
    anchors: dict[str, str] = {}
    aliases: dict[str, str] = {}

    def run(params, tokens):
        net = nnx.merge(graphdef, params, rest, copy=True)
        rngs = None if streams is None else nnx.merge(*streams, copy=True)
        records: dict[str, Any] = {}
        scope = Scope(train, careful, rngs, tokens, records, anchors, aliases)
        signal = cut(Signal(x, jnp.zeros((), dtype)), tokens["input"], careful)
        signal = visit(net, signal, scope)
        return signal.x, records

    output, pullback, records = jax.vjp(run, params, tokens, has_aux=True)
    value, cotangent = _cotangent(output, loss, targets, cotangent)
    gradients, received = pullback(cotangent)

    gathered = _Gathered(records, received, anchors, aliases)
    # The gradients in the network's own shape: walking both shows every leaf beside its gradient.
    twin = nnx.merge(graphdef, gradients, rest)
    names, units, opaque = ["input"], [gathered.input(x)], []
    for (path, node, axes), (_, shadow, _) in zip(nn.walk(net), nn.walk(twin), strict=True):
        if path not in anchors:
            continue  # its parent runs it as a whole
        names.append(path)
        units.append(gathered.unit(path, node, shadow, len(axes)))
        if _holds_unseen(node):
            opaque.append(path)
    return Profile(tuple(names), tuple(units), value, x.shape[0], train, tuple(opaque))


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
    if jnp.issubdtype(cotangent.dtype, jax.dtypes.prng_key):
        return None, jax.random.normal(cotangent, output.shape, output.dtype)
    if cotangent.shape != output.shape:
        raise ValueError(
            f"cotangent has shape {cotangent.shape}, the output {output.shape}; they must agree"
        )
    return None, cotangent.astype(output.dtype)


@dataclasses.dataclass(frozen=True)
class _Gathered:
    """Forward records and the tokens' gradients, put together by path."""

    records: dict[str, Any]
    received: dict[str, jax.Array]
    anchors: dict[str, str]
    aliases: dict[str, str]

    def input(self, x: jax.Array) -> Unit:
        activation = measure(x, jnp.zeros((), self.received["input"].dtype), careful=True)
        return Unit("input", activation, self._gradient("input", activation.size), {}, {})

    def unit(self, path: str, node: nnx.Module, twin: nnx.Module, axes: int) -> Unit:
        activation, gradient = self._output(path)
        values, gradients = _own_parameters(node), _own_parameters(twin)
        # A gradient is the outer product of an input and a cotangent: both were rescaled.
        exponent = 0.0
        if values:
            exponent = self.records[path].exponent
            exponent += self._downstream(path, exponent)
        return Unit(
            node.name if isinstance(node, nn.Activation) else type(node).__name__,
            activation,
            gradient,
            {k: measure_stacked(v, axes=axes) for k, v in values.items()},
            {k: measure_stacked(v, exponent, axes=axes) for k, v in gradients.items()},
            self._addition(path),
        )

    def _output(self, path: str) -> tuple[Norm, Norm]:
        same = self.aliases.get(path)
        if same is None:
            activation = self.records[path].activation
            return activation, self._gradient(path, activation.size)
        both = self._output(same)
        if same.endswith("*"):
            # A repeat's output is its last unit's.
            return jax.tree.map(lambda a: a[..., -1], both)
        return both

    def _gradient(self, token: str, size: int, path: str | None = None) -> Norm:
        own = self.received[token]
        on_trunk = path is None and self.anchors.get(token, token) == token
        squares, divisor, exponent = own[..., 0], own[..., 1], own[..., 2]
        if not on_trunk:
            exponent = self._downstream(path or token, squares)
        return Norm(squares, divisor, exponent, size)

    def _downstream(self, path: str, like: jax.Array) -> jax.Array:
        """Return the power of two taken out of the cotangents that reach this node's inside.

        It has the axes of ``like``: the anchor may stand around repeats that the node is in.
        """
        exponent = self.received[self.anchors[path]][..., 2]
        axes = exponent.shape + (1,) * (like.ndim - exponent.ndim)
        return jnp.broadcast_to(exponent.reshape(axes), like.shape)

    def _addition(self, path: str) -> Addition | None:
        terms = self.records.get(f"{path}+")
        if terms is None:
            return None
        handed = (
            self._gradient(returned(path, part), terms.input_size, path)
            for part in ("branch", "shortcut")
        )
        return Addition(terms.branch, terms.shortcut, *handed)


def _own_parameters(node: nnx.Module) -> dict[str, jax.Array]:
    """Return the parameters of a leaf, nested modules' included where no child shows them."""
    if any(True for _ in nn.children(node)):
        return {}
    flat = nnx.to_flat_state(nnx.state(node, nnx.Param))
    return {"/".join(map(str, path)): leaf[...] for path, leaf in flat}


def _holds_unseen(node: nnx.Module) -> bool:
    if any(True for _ in nn.children(node)) or type(node).__module__.startswith("convjax."):
        return False
    return any(isinstance(value, nnx.Module) for value in vars(node).values())
