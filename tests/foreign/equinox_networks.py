"""A residual network of Equinox as people write it, and its references by wrapped modules.

One example is the module's input; the batch is a ``jax.vmap`` with an axis name, over which
``eqx.nn.BatchNorm`` has its statistics, and these are a state that goes in and out.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten_with_path, tree_map_with_path

from tests.foreign.arrays import References, measured, norms, shaken


class Block(eqx.Module):
    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    bn2: eqx.nn.BatchNorm
    shortcut: eqx.nn.Conv2d | None

    def __init__(self, cin, cout, stride, key):
        k1, k2, k3 = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(cin, cout, 3, stride, 1, use_bias=False, key=k1)
        self.bn1 = eqx.nn.BatchNorm(cout, axis_name="batch", mode="batch")
        self.conv2 = eqx.nn.Conv2d(cout, cout, 3, padding=1, use_bias=False, key=k2)
        self.bn2 = eqx.nn.BatchNorm(cout, axis_name="batch", mode="batch")
        changes = stride != 1 or cin != cout
        self.shortcut = eqx.nn.Conv2d(cin, cout, 1, stride, key=k3) if changes else None

    def __call__(self, x, state):
        h, state = self.bn1(self.conv1(x), state)
        h, state = self.bn2(self.conv2(jax.nn.relu(h)), state)
        skip = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(h + skip), state


class ResNet(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, key, widths=(8, 12)):
        keys = iter(jax.random.split(key, 8))
        self.stem = eqx.nn.Conv2d(3, widths[0], 3, padding=1, use_bias=False, key=next(keys))
        self.norm = eqx.nn.BatchNorm(widths[0], axis_name="batch", mode="batch")
        self.blocks = []
        before = widths[0]
        for width in widths:
            self.blocks.append(Block(before, width, 1 if width == before else 2, next(keys)))
            self.blocks.append(Block(width, width, 1, next(keys)))
            before = width
        self.head = eqx.nn.Linear(widths[-1], 5, key=next(keys))

    def __call__(self, x, state):
        x, state = self.norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, axis=(1, 2))), state


SHAPE = (3, 3, 16, 12)
"""Channels first, as Equinox has them."""
LAYERS = (eqx.nn.Conv2d, eqx.nn.BatchNorm, eqx.nn.Linear)


def made(train: bool, dtype=jnp.float32):
    """Return the network's arrays (no default among them), what else it holds, and its state."""
    net, state = eqx.nn.make_with_state(ResNet)(jax.random.key(0))
    warm = jax.random.normal(jax.random.key(1), SHAPE)
    _, state = _batched(net, state, warm)  # so that there are statistics
    net = eqx.nn.inference_mode(net, not train)
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)
    arrays, state = shaken(arrays, dtype=dtype), _in(state, dtype)
    return arrays, rest, state


def _in(state, dtype):
    def cast(leaf):
        floating = eqx.is_inexact_array(leaf)
        return leaf.astype(dtype) if floating else leaf

    return jax.tree.map(cast, state)


def _batched(net, state, x):
    mapped = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return mapped(x, state)


def applied(rest, state) -> Callable[[Any, Any], Any]:
    """Return ``apply(arrays, x)``; the state is closed over, and so is what is no array."""

    def apply(arrays, x):
        return _batched(eqx.combine(arrays, rest), _copied(state), x)[0]

    return apply


def _copied(state):
    """Return the state as it was: Equinox lets nobody use one twice."""
    return jax.tree.map(lambda leaf: leaf, state)


class _Watched(eqx.Module):
    """A module whose output goes by a tape: kept, and perturbed."""

    module: Any
    path: str = eqx.field(static=True)
    perturbations: Any
    outputs: Any = eqx.field(static=True)

    def __call__(self, *args, **kwargs):
        result = self.module(*args, **kwargs)
        y, *rest = result if isinstance(result, tuple) else (result,)
        if self.perturbations is not None:
            y = y + self.perturbations[self.path]
        self.outputs[self.path] = y
        return (y, *rest) if rest else y


def _watch(net, perturbations, outputs):
    """Wrap the layers, and then the blocks around them."""

    def wrap(kinds, whole):
        return tree_map_with_path(
            lambda path, m: (
                _Watched(m, _name(path), perturbations, outputs) if isinstance(m, kinds) else m
            ),
            whole,
            is_leaf=lambda m: isinstance(m, kinds),
        )

    return wrap((Block,), wrap(LAYERS, net))


def _name(path):
    return "/".join(str(getattr(k, "name", getattr(k, "idx", k))) for k in path)


def references(arrays, rest, state, x, cotangent=None) -> References:
    """Return the norms at every layer and block, by perturbations, and of every gradient.

    Args:
      arrays: as ``made`` returns them.
      rest: likewise.
      state: likewise.
      x: the batch, channels first.
      cotangent: of the output; one that depends on its shape alone if None.
    """

    def run(arrays, perturbations, x):
        def one(x, perturbations):
            outputs = {}
            net = _watch(eqx.combine(arrays, rest), perturbations, outputs)
            return net(x, _copied(state))[0], outputs

        mapped = jax.vmap(one, axis_name="batch")
        return mapped(x, perturbations)

    output, outputs, by_param, by_output = measured(run, arrays, x, cotangent)
    return norms(outputs, by_output, by_path(by_param), output)


def by_path(arrays) -> dict[str, jax.Array]:
    """Return the arrays by path."""
    flat, _ = tree_flatten_with_path(arrays)
    return {_name(path): leaf for path, leaf in flat}
