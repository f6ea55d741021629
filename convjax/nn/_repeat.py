"""Repeat: n units of one shape, their parameters stacked, run by one scan."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from convjax import _check
from convjax.nn._applied import applied
from convjax.nn._chain import Chain
from convjax.nn._held import check_held
from convjax.nn._node import Node, check_module, check_streams, children_of
from convjax.nn._remat import REMAT, scan
from convjax.nn._unit import unit as as_unit

_FEW = 32
"""Most units that are made one by one."""


class Repeat(Node):
    """n units of one shape with parameters of their own, one after the other, by ``jax.lax.scan``.

    Parameters carry a leading axis of length n. Compile time does not grow with n. The initial
    values, the outputs and the random numbers are those of the unrolled chain.

    Args:
      make_unit: called with ``rngs``, returns one unit: a node, any other module of Flax NNX, or a
        function; it must keep the shape of its input.
      n: how many units.
      rngs: source of the initial values, used as n calls of ``make_unit`` in turn would.
      remat: what the backward pass runs again instead of keeping it: ``"none"``, ``"unit"`` or
        ``"sqrt"``, explained at ``nn.rematerialise``.

    Raises:
      ValueError: n below one, an unknown ``remat``; in the call, a unit that changes shape or
        dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> net = nn.Repeat(lambda rngs: nn.Conv(4, 4, (3, 3), rngs=rngs), 1000, rngs=nnx.Rngs(0))
      >>> net.unit.kernel.shape, net(jnp.ones((1, 3, 5, 4))).shape
      ((1000, 3, 3, 4, 4), (1, 3, 5, 4))
    """

    def __init__(
        self,
        make_unit: Callable[[nnx.Rngs], Any],
        n: int,
        *,
        rngs: nnx.Rngs,
        remat: str = "none",
    ):
        self.remat = _check.choice("remat", remat, REMAT)
        n = _check.integer("n", n, 1)
        if not callable(make_unit) or isinstance(make_unit, nnx.Module):  # a class is a maker
            _check.wrong_type("make_unit", make_unit, "a function of rngs that returns a module")
        before = _counts(check_streams(rngs))
        graphdef, first = nnx.split(as_unit("make_unit(rngs)", make_unit(rngs)))
        for leaf in jax.tree.leaves(first):
            check_held(f"n={n}", (n, *leaf.shape), leaf.dtype, leaf)
        draws = jax.tree.map(jnp.subtract, _counts(rngs), before)

        def make(i):
            local = nnx.clone(rngs)
            _set_counts(local, jax.tree.map(lambda b, d: b + i * d, before, draws))
            return nnx.state(as_unit("make_unit(rngs)", make_unit(local)))

        rest = _every(make, n, first)
        _set_counts(rngs, jax.tree.map(lambda b, d: b + n * d, before, draws))
        self.unit = nnx.merge(graphdef, _stack(first, rest))
        self.n = n

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Apply the units in turn."""

        def step(unit, x, rngs, _):
            return applied(unit, x, train, rngs), None

        return self.scan(step, x, rngs)[0]

    def scan(
        self,
        step: Callable[[Any, Any, nnx.Rngs | None, Any], tuple[Any, Any]],
        carry: Any,
        rngs: nnx.Rngs | None = None,
        xs: Any = None,
    ) -> tuple[Any, Any]:
        """Run ``carry, y = step(unit, carry, rngs, x)`` over the units, as an interpreter does.

        Args:
          step: sees one unit with its own parameters; may move the unit's statistics.
          carry: any pytree; its shapes and dtypes must not change.
          rngs: handed from unit to unit, so that each gets its own random numbers.
          xs: pytree of arrays with leading axis n, one slice for each unit; or None.

        Returns:
          The last carry, and the ys stacked.

        Raises:
          ValueError: a carry that changes shape or dtype.
        """
        graphdef, params, rest = nnx.split(self.unit, nnx.Param, ...)
        streams = None if rngs is None else nnx.split(rngs)

        moved = drawn = False

        def body(carry, slices):
            nonlocal moved, drawn
            carry, random = carry
            params, rest, x = slices
            before, keys = jax.tree.leaves(rest), jax.tree.leaves(random)
            unit = nnx.merge(graphdef, params, rest)
            local = None if streams is None else nnx.merge(streams[0], random)
            carry_after, y = step(unit, carry, local, x)
            _check_kept(type(unit).__name__, carry, carry_after)
            rest = nnx.split(unit, nnx.Param, ...)[2]
            random = None if local is None else nnx.state(local)
            moved = moved or not _untouched(before, rest)
            drawn = drawn or not _untouched(keys, random)
            return (carry_after, random), (rest, y)

        start = (carry, None if streams is None else streams[1])
        (carry, random), (rest, ys) = scan(body, start, (params, rest, xs), self.n, self.remat)
        # A network closed over by jax.grad may be read but not written.
        if moved:
            nnx.update(self.unit, rest)
        if drawn:
            nnx.update(rngs, random)
        return carry, ys

    def __getitem__(self, i: int) -> nnx.Module:
        """Return unit i, a copy with its own slice of the parameters."""
        i = _check.integer("i", i)
        if not -self.n <= i < self.n:
            raise IndexError(f"unit {i} of a Repeat of {self.n}")
        graphdef, state = nnx.split(self.unit)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[i], state))

    def __len__(self) -> int:
        return self.n

    def unrolled(self) -> Chain:
        """Return the chain of the n units, named "0" to "n-1", with the same values."""
        return Chain([self[i] for i in range(self.n)])

    @classmethod
    def stacked(cls, chain: Chain) -> "Repeat":
        """Return the repeat of a chain's units, which must be of one structure and shape.

        Args:
          chain: units that differ in their parameters' values alone.

        Returns:
          The repeat, with the same values; ``unrolled`` is its inverse.

        Raises:
          ValueError: units of different structure, shape or dtype; the message names the first.
        """
        _check.instance("chain", chain, Chain, "an nn.Chain")
        split = [nnx.split(unit) for unit in chain]
        for name, (graphdef, state) in zip(chain.names, split, strict=True):
            if graphdef != split[0][0] or _kind(state) != _kind(split[0][1]):
                raise ValueError(
                    f"Repeat.stacked: unit {name!r} differs in structure, shape or dtype from unit "
                    f"{chain.names[0]!r}; only units of one kind can be stacked"
                )
        repeat = cls(lambda rngs: nnx.clone(chain[0]), 1, rngs=nnx.Rngs(0))
        states = [state for _, state in split]
        repeat.unit = nnx.merge(split[0][0], jax.tree.map(lambda *a: jnp.stack(a), *states))
        repeat.n = len(states)
        return repeat


@children_of.register
def _(node: Repeat):
    yield "*", node.unit


def rematerialise(net: nnx.Module, remat: str) -> None:
    """Have a network's repeats keep less for the backward pass, and compute it again.

    Values, gradients, statistics and random numbers stay what they are. Of a ``Repeat`` of n units
    the backward pass keeps, and the forward pass runs in all:

    - ``"none"``: whatever n units computed; once.
    - ``"unit"``: the inputs of n units, and what one computed; twice.
    - ``"sqrt"``: about 2 sqrt(n) inputs, and what one unit computed; three times. The units are cut
      into about sqrt(n) blocks. A block is run again from its input, then a unit from its own.
      Fewer than nine units are run as by ``"unit"``.

    Units outside of a ``Repeat`` keep what they computed.

    Args:
      net: any network; ``remat`` is set on every ``Repeat`` in it, its variables are untouched.
        What was compiled before stays as it is.
      remat: ``"none"``, ``"unit"`` or ``"sqrt"``.

    Raises:
      ValueError: an unknown ``remat``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> def unit(rngs):
      ...     return nn.Residual(nn.Conv(4, 4, (3, 3), rngs=rngs), activation=nn.Activation("gelu"))
      >>> net = nn.Repeat(unit, 1000, rngs=nnx.Rngs(0))
      >>> def memory():
      ...     gradient = jax.jit(jax.grad(lambda x: net(x).var())).lower(jnp.ones((1, 64, 64, 4)))
      ...     return gradient.compile().memory_analysis().temp_size_in_bytes
      >>> before = memory()
      >>> nn.rematerialise(net, "sqrt")
      >>> memory() < before / 10
      True

    Reference: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    check_module("net", net)
    _check.choice("remat", remat, REMAT)
    for _, module in nnx.iter_modules(net):
        if isinstance(module, Repeat):
            module.remat = remat


def _counts(rngs: nnx.Rngs) -> Any:
    return jax.tree.map(jnp.asarray, nnx.state(rngs, nnx.RngCount))


def _set_counts(rngs: nnx.Rngs, counts: Any) -> None:
    nnx.update(rngs, counts)


def _every(make: Callable[[Any], Any], n: int, first: Any) -> Any | None:
    """Return the states of the units 1 to n - 1, stacked; None of one unit."""
    if n == 1:
        return None
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(first))
    if n > _FEW or traced:
        return jax.vmap(make)(jnp.arange(1, n, dtype=jnp.uint32))
    # A few units, one by one, come from programs that are compiled; of a batch of keys each shape
    # would be a compilation.
    states = [make(np.uint32(i)) for i in range(1, n)]
    return jax.tree.map(lambda *leaves: _on_host(leaves), *states)


def _on_host(leaves: Sequence[Any]) -> jax.Array:
    """Stack arrays without a compilation for their shape; keys cannot come to the host."""
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    return jnp.asarray(np.stack(jax.device_get(leaves)))


def _stack(first: Any, rest: Any | None) -> Any:
    if rest is None:
        return jax.tree.map(lambda a: a[None], first)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def _untouched(before: list[Any], after: Any) -> bool:
    return all(a is b for a, b in zip(before, jax.tree.leaves(after), strict=True))


def _kind(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


def _check_kept(unit: str, before: Any, after: Any) -> None:
    if _kind(before) != _kind(after):
        raise ValueError(
            f"Repeat: a unit ({unit}) makes {_kind(after)} of {_kind(before)}; a repeated unit "
            "must keep shape and dtype"
        )
