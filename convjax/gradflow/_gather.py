"""Put together what the forward pass recorded and what the backward pass returned, by path."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import nn
from convjax.gradflow._lengths import add
from convjax.gradflow._norm import SMALL, Norm, lanes, measure, measure_stacked
from convjax.gradflow._own import Place, Shared, own_parameters
from convjax.gradflow._pack import Later
from convjax.gradflow._run import ONE, ZERO, returned
from convjax.gradflow._tap import Signal
from convjax.gradflow._unit import Addition, Unit


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Forward records and the tokens' gradients, put together by path.

    Attributes:
      records: what the forward pass wrote.
      received: the tokens' gradients.
      anchors: every visited node's anchor.
      aliases: the node whose output is this node's.
      shared: the parameters that stand at several places.
      repeats: the lengths of the repeats around each node.
      together: takes the norms of parameters, where no power of two was taken out of anything.
    """

    records: dict[str, Any]
    received: dict[str, jax.Array]
    anchors: dict[str, str]
    aliases: dict[str, str]
    shared: Shared
    repeats: Mapping[str, tuple[int, ...]]
    together: "Together | None" = None

    def input(self, x: jax.Array) -> Unit:
        """Return what was measured of the batch itself."""
        if self.together is not None:
            activation = self.together(x, 0)
        else:
            activation = measure(x, jnp.zeros((), self.received["input"].dtype), careful=True)
        return Unit("input", activation, self._gradient("input", activation.size), {}, {})

    def unit(self, path: str, node: nnx.Module, twin: nnx.Module, axes: int) -> Unit:
        """Return what was measured of a node; its twin holds gradients in place of parameters."""
        activation, gradient = self._output(path)
        seen = [child for name, child in nn.children(node) if nn.join(path, name) in self.anchors]
        beside = [child for name, child in nn.children(twin) if nn.join(path, name) in self.anchors]
        values = {} if path in self.aliases else own_parameters(node, seen)
        gradients = own_parameters(twin, beside)
        later, groups = self.shared.later(path), self.shared.at(path)
        parameters, of_parameters = {}, {}
        for name in sorted(values.keys() - later):
            if self.together is not None:
                parameters[name] = self.together(values[name][...], axes)
                of_parameters[name] = self.together(gradients[name][...], axes)
                continue
            parameters[name] = measure_stacked(values[name][...], axes=axes)
            if name in groups:
                parts = [self._part(place) for place in groups[name]]
                of_parameters[name] = _together(parts, axes)
            else:
                of_parameters[name] = measure_stacked(
                    gradients[name][...], self._exponent(path), axes=axes
                )
        return Unit(
            nn.kind_of(node),
            activation,
            gradient,
            dict(sorted(parameters.items())),
            dict(sorted(of_parameters.items())),
            self._addition(path),
        )

    def _exponent(self, path: str) -> jax.Array:
        """Return the power of two taken out of the gradients of a node's parameters."""
        # A gradient is the outer product of an input and a cotangent: both were rescaled.
        exponent = self.records[path].exponent
        return exponent + self._downstream(path, exponent)

    def _part(self, place: Place) -> Signal:
        """Return what one place adds to the gradient of a parameter that stands elsewhere too."""
        return Signal(self.received[place.token], self._exponent(place.path))

    @staticmethod
    def hides(node: nnx.Module) -> bool:
        """Whether a leaf is not known, or one with a rule of the user's own holds modules."""
        if isinstance(node, nn.Segment):
            return node.like is None
        own = not type(node).__module__.startswith("convjax.")
        return own and any(module is not node for _, module in nnx.iter_modules(node))

    def _output(self, path: str) -> tuple[Norm, Norm]:
        same = self.aliases.get(path)
        if same is None:
            activation = self._summed(path, self.records[path].activation)
            return activation, self._gradient(path, activation.size)
        both = self._output(same)
        if same.endswith("*"):
            # A repeat's output is its last unit's.
            return jax.tree.map(lambda a: a[..., -1], both)
        return both

    def _gradient(self, token: str, size: int, path: str | None = None) -> Norm:
        own = self.received[token]
        if self.together is not None:
            return self._summed(token, Norm(own, ONE, ZERO, size))
        on_trunk = path is None and self.anchors.get(token, token) == token
        squares, divisor, exponent = own[..., 0], own[..., 1], own[..., 2]
        if not on_trunk:
            exponent = self._downstream(token if path is None else path, squares)
        return Norm(squares, divisor, exponent, size)

    def _summed(self, path: str, norm: Norm) -> Norm:
        """Return a norm of which sums of squares are left to do, where that is so."""
        if self.together is None:
            return norm
        shape = self.repeats[path]
        one, zero = (np.broadcast_to(a, shape) for a in (ONE, ZERO))
        return Norm(Later(norm.squares, len(shape)), one, zero, norm.size)

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
        handed = [
            self._gradient(returned(path, part), terms.input_size, path)
            for part in ("branch", "shortcut")
        ]
        terms = (self._summed(path, norm) for norm in (terms.branch, terms.shortcut))
        return Addition(*terms, *handed)


class Together:
    """The norms of many arrays: those of small ones of a shape, one after the other, are one sum.

    A call promises the norm over all but the first axes of an array; ``kept`` puts all norms that
    were promised in the place of the promises.
    """

    def __init__(self):
        self._arrays: list[tuple[jax.Array, int]] = []

    def __call__(self, x: jax.Array, axes: int) -> Norm:
        """Promise a norm."""
        self._arrays.append((x, axes))
        place = len(self._arrays) - 1
        zero = np.zeros(x.shape[:axes], np.float32)
        size = math.prod(x.shape[axes:])
        return Norm(_Promise(place, 0), _Promise(place, 1), zero, size)

    def kept(self, tree: Any) -> Any:
        """Return a pytree with norms in the place of promises."""
        alike: dict[Any, list[int]] = {}
        for place, (x, axes) in enumerate(self._arrays):
            alike.setdefault((x.shape, x.dtype, axes), []).append(place)
        found: dict[int, tuple[Any, Any]] = {}
        for (shape, _, axes), places in alike.items():
            arrays = [self._arrays[place][0] for place in places]
            if math.prod(shape[axes:]) <= SMALL:
                norms = measure_stacked(jnp.stack(arrays, axes), axes=axes + 1)
                squares, divisor = (Later(a, axes + 1) for a in (norms.squares, norms.divisor))
                for i, place in enumerate(places):
                    found[place] = squares[..., i], divisor[..., i]
                continue
            take = lanes
            for _ in range(axes):
                take = jax.vmap(take)
            for x, place in zip(arrays, places, strict=True):
                found[place] = Later(take(x), axes), np.broadcast_to(ONE, shape[:axes])
        return jax.tree.map(
            lambda leaf: found[leaf.place][leaf.part] if isinstance(leaf, _Promise) else leaf, tree
        )


@dataclasses.dataclass(frozen=True)
class _Promise:
    place: int
    part: int


def _together(parts: list[Signal], axes: int) -> Norm:
    """Return the norm of the sum of parts with powers of two of their own."""
    sums = add
    for _ in range(axes):
        sums = jax.vmap(sums)
    total = sums(parts)
    return measure_stacked(total.x, total.exponent, axes=axes)
