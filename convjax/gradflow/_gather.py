"""Put together what the forward pass recorded and what the backward pass returned, by path."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import nn
from convjax.gradflow._norm import Norm, measure, measure_stacked
from convjax.gradflow._run import returned
from convjax.gradflow._unit import Addition, Unit


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Forward records and the tokens' gradients, put together by path.

    Attributes:
      records: what the forward pass wrote.
      received: the tokens' gradients.
      anchors: every visited node's anchor.
      aliases: the node whose output is this node's.
    """

    records: dict[str, Any]
    received: dict[str, jax.Array]
    anchors: dict[str, str]
    aliases: dict[str, str]

    def input(self, x: jax.Array) -> Unit:
        """Return what was measured of the batch itself."""
        activation = measure(x, jnp.zeros((), self.received["input"].dtype), careful=True)
        return Unit("input", activation, self._gradient("input", activation.size), {}, {})

    def unit(self, path: str, node: nnx.Module, twin: nnx.Module, axes: int) -> Unit:
        """Return what was measured of a node; its twin holds gradients in place of parameters."""
        activation, gradient = self._output(path)
        seen = self._sees_inside(path, node)
        values, gradients = ({}, {}) if seen else (_parameters(node), _parameters(twin))
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

    def hides(self, path: str, node: nnx.Module) -> bool:
        """Whether a node of the user's own holds modules that were not seen."""
        own = not type(node).__module__.startswith("convjax.")
        holds = any(isinstance(value, nnx.Module) for value in vars(node).values())
        return own and holds and not self._sees_inside(path, node)

    def _sees_inside(self, path: str, node: nnx.Module) -> bool:
        return any(nn.join(path, name) in self.anchors for name, _ in nn.children(node))

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
            exponent = self._downstream(token if path is None else path, squares)
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


def _parameters(node: nnx.Module) -> dict[str, jax.Array]:
    flat = nnx.to_flat_state(nnx.state(node, nnx.Param))
    return {"/".join(map(str, path)): leaf[...] for path, leaf in flat}
