"""The interpreter behind paths: a backward pass that keeps paths of each length apart.

The cotangents are the coefficients of a polynomial whose k-th stands for all paths through k
branches; ``jax.vmap`` of the pullback gives them their axis. At a residual's sum the branch's term
receives the polynomial multiplied by its variable (``longer``), the shortcut's as it is. After the
coefficients comes the plain cotangent: their sum, but not from them, as they may cancel to less
than they are rounded by.

Every coefficient has a power of two of its own, as lengths differ by hundreds of orders of
magnitude. It is the cotangent of the ``Signal``'s exponent, and JAX would add two of them where a
signal is used twice. So a signal is used once: ``fork`` makes several of it, and adds on the way
back what has first been brought to one power.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_batching import custom_vmap

from convjax import nn
from convjax._rules import by_type
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._norm import at_least_float32, measure, power_of_two, sum_squares
from convjax.gradflow._sums import elementwise, joins, own_module
from convjax.gradflow._tap import Signal, renormalise, restore


@dataclasses.dataclass(frozen=True)
class Route:
    """Where the interpreter stands: the mode, and whether the forward pass may be renormalised.

    ``whole`` are the paths of modules that count as one leaf, whatever they compute.
    """

    train: bool
    rngs: nnx.Rngs | None
    on_trunk: bool = True
    renormalise: bool = False
    path: str = ""
    whole: tuple[str, ...] = ()

    def inside(self, name: str) -> "Route":
        """Return the route of a child."""
        return dataclasses.replace(self, path=nn.join(self.path, name))

    def aside(self) -> "Route":
        """Return the route of a part through which not the whole signal passes."""
        return dataclasses.replace(self, on_trunk=False, renormalise=False)


@by_type
def longest(node: Any) -> int:
    """Return the largest number of branches on any path through a node."""
    return 0


@longest.register
def _(node: nn.Chain) -> int:
    return sum(longest(unit) for unit in node)


@longest.register
def _(node: nn.Parallel) -> int:
    return max(longest(unit) for unit in node)


@longest.register
def _(node: nn.Repeat) -> int:
    return node.n * longest(node.unit)


@longest.register
def _(node: nn.Residual) -> int:
    after = longest(node.activation)
    if node.shortcut is None:
        return longest(node.branch) + after
    return max(1 + longest(node.branch), longest(node.shortcut)) + after


def refuse_hidden(net: nnx.Module, whole: Sequence[str] = ()) -> None:
    """Raise a ValueError that names the first module whose residuals cannot be seen."""
    for path, node, _ in nn.walk(net):
        if path in whole:
            continue
        inside = (module for _, module in nnx.iter_modules(node))
        if _is_whole(node) and any(isinstance(m, nn.Residual) and m.shortcut for m in inside):
            raise ValueError(
                f"paths cannot see through {path!r} ({type(node).__name__}), which holds "
                "residuals; write it with Chain, Parallel, Residual and Repeat"
            )


def visit(node: nnx.Module, signal: Signal, route: Route) -> Signal:
    """Run one node; what its backward pass sees is renormalised, each length by itself."""
    signal = travel(node, signal, route)
    if _is_whole(node) and not isinstance(node, nn.Activation | nn.Identity):
        (signal,) = fork(signal, 1)
    if route.renormalise:
        x, exponent = jax.lax.stop_gradient(signal)
        return renormalise(signal, measure(x, exponent, careful=True))
    return restore(signal) if route.on_trunk and homogeneous(node) else signal


@by_type
def travel(node: Any, signal: Signal, route: Route) -> Signal:
    """Apply one node; what is no combinator is called as a whole."""
    if own_module(node) and route.path not in route.whole:
        _refuse_joined(node, signal.x, route)
    return signal._replace(x=nn.applied(node, signal.x, route.train, route.rngs))


def _refuse_joined(node: Any, x: jax.Array, route: Route) -> None:
    """Refuse a module of your own whose program has paths of its own, as a residual has."""

    def run(x):
        rngs = None if route.rngs is None else nnx.clone(route.rngs)
        return nn.applied(nnx.clone(node), x, route.train, rngs)

    joined = joins(run, x)
    if not joined or (isinstance(node, nn.Activation) and elementwise(run, x)):
        return
    raise ValueError(
        f"paths cannot see through {route.path!r} ({type(node).__name__}), whose program {joined} "
        "values that both come from its input; write it with Chain, Parallel, Residual and Repeat "
        f"(an elementwise function as nn.Activation), or give whole=[{route.path!r}], which counts "
        "it as one leaf"
    )


def _is_whole(node: nnx.Module) -> bool:
    """Whether a node is called as a whole, its inside unseen."""
    return travel.dispatch(type(node)) is travel.dispatch(object)


@travel.register
def _(node: nn.Chain, signal: Signal, route: Route) -> Signal:
    if isinstance(node, nn.Reading):
        node.draw(route.rngs)
    units = list(node.items())
    following = [homogeneous(unit) for _, unit in units[1:]] + [route.renormalise]
    for (name, unit), after in zip(units, following, strict=True):
        keeps = route.on_trunk and after and homogeneous(unit)
        inner = dataclasses.replace(route, renormalise=keeps).inside(name)
        signal = visit(unit, signal, inner)
    return signal


@travel.register
def _(node: nn.Parallel, signal: Signal, route: Route) -> Signal:
    parts = fork(signal, len(node))
    outputs = [
        visit(unit, part, route.aside().inside(name))
        for (name, unit), part in zip(node.items(), parts, strict=True)
    ]
    return Signal(node.merge([y.x for y in outputs]), _same(*outputs))


@travel.register
def _(node: nn.Residual, signal: Signal, route: Route) -> Signal:
    if node.shortcut is None:
        branch = visit(node.branch, signal, route.aside().inside("branch"))
        total = node.merge(*node.summands(jax.lax.stop_gradient(signal.x), branch.x, None))
        signal = branch._replace(x=total)
    else:
        branch, beside = _terms(node, node.shortcut, signal, route.aside())
        branch = longer(branch)
        signal = Signal(node.merge(branch.x, beside.x), _same(branch, beside))
    return (
        signal
        if node.activation is None
        else visit(node.activation, signal, route.inside("activation"))
    )


def _terms(
    node: nn.Residual, shortcut: nnx.Module, signal: Signal, route: Route
) -> tuple[Signal, Signal]:
    """Return the two terms of the sum, as signals that share nothing."""
    stop = jax.lax.stop_gradient
    second: Any
    if not isinstance(shortcut, nn.Gate):
        into, past = fork(signal, 2)
        branch = visit(node.branch, into, route.inside("branch"))
        beside = visit(shortcut, past, route.inside("shortcut"))
        first, second = node.summands(stop(signal.x), branch.x, beside.x)
        return branch._replace(x=first), beside._replace(x=second)
    into, past, steering = fork(signal, 3)
    branch = visit(node.branch, into, route.inside("branch"))
    opening, closing = fork(visit(shortcut, steering, route.inside("shortcut")), 2)
    first, _ = node.summands(stop(past.x), branch.x, opening.x)
    _, second = node.summands(past.x, stop(branch.x), closing.x)
    return Signal(first, _same(branch, opening)), Signal(second, _same(past, closing))


@travel.register
def _(node: nn.Repeat, signal: Signal, route: Route) -> Signal:
    keeps = route.on_trunk and homogeneous(node)

    def step(unit, signal, rngs, _):
        inner = dataclasses.replace(route, rngs=rngs, renormalise=keeps)
        return visit(unit, signal, inner.inside("*")), None

    return node.scan(step, signal, route.rngs)[0]


def fork(signal: Signal, n: int) -> tuple[Signal, ...]:
    """Return n signals in place of one; their cotangents are brought to one power and added."""
    copies: Any = _fork(signal, n)
    return copies


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fork(signal, n):
    return (signal,) * n


def _fork_forward(signal, n):
    return (signal,) * n, None


def _fork_backward(n, _, parts):
    return (add(parts),)


_fork.defvjp(_fork_forward, _fork_backward)


def add(parts: Sequence[Signal]) -> Signal:
    """Return the sum of cotangents with powers of their own, its largest part of about size one."""
    powers = [_power(part.x) for part in parts]
    sizes = [part.exponent + power for part, power in zip(parts, powers, strict=True)]
    largest = reduce(jnp.maximum, sizes)
    largest = jnp.where(jnp.isneginf(largest), jnp.zeros_like(largest), largest)
    total = jnp.zeros((), parts[0].x.dtype)
    for part, power, size in zip(parts, powers, sizes, strict=True):
        total = total + _shrunk(part.x, power, size - largest)
    return Signal(total, largest)


def _power(x: jax.Array) -> jax.Array:
    """Return the power of two next below the root mean square; minus infinity of zeros."""
    squares, divisor = sum_squares(x, careful=True)
    power = power_of_two(squares, divisor, x.size)
    return jnp.where(squares == 0, -jnp.inf, power)


def _shrunk(x: jax.Array, power: jax.Array, size: jax.Array) -> jax.Array:
    """Return ``x / 2 ** power * 2 ** size``, for a size of at most zero."""
    # In two steps and in float32 or better: one step reaches only half of what a dtype spans.
    wide = at_least_float32(x.dtype)
    limit = -jnp.finfo(wide).minexp - 1
    one = jnp.ones((), wide)
    unit = jnp.ldexp(one, jnp.clip(-power, -limit, limit).astype(jnp.int32))
    small = jnp.where(size < -limit, 0, jnp.ldexp(one, jnp.clip(size, -limit, 0).astype(jnp.int32)))
    return (x.astype(wide) * unit * small).astype(x.dtype)


@jax.custom_vjp
def longer(signal: Signal) -> Signal:
    """Hand the signal on; on the way back every path becomes longer by one branch."""
    return signal


def _longer_forward(signal):
    return signal, None


def _longer_backward(_, cotangent):
    return (jax.tree.map(_next_length, cotangent),)


longer.defvjp(_longer_forward, _longer_backward)


@custom_vmap
def _next_length(x: jax.Array) -> jax.Array:
    """Stand for the shift along the axis of lengths, whose last entry is the plain cotangent."""
    return x


@_next_length.def_vmap
def _(axis_size, in_batched, x):
    if not in_batched[0]:
        x = jnp.broadcast_to(x, (axis_size, *x.shape))
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-2], x[-1:]]), True


def _same(*signals: Signal) -> jax.Array:
    """Return the signals' common exponent; its cotangent goes to each of them."""
    first, *others = (signal.exponent for signal in signals)
    for other in others:
        first = first + (other - jax.lax.stop_gradient(other))
    return first
