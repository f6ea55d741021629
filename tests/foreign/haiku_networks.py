"""A residual network of Haiku as people write it, and its references by ``intercept_methods``."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tests.foreign.arrays import References, measured, norms, numbered, shaken


class Block(hk.Module):
    def __init__(self, channels, stride, projection, name=None):
        super().__init__(name=name)
        bn = {"create_scale": True, "create_offset": True, "decay_rate": 0.9}
        self.projection = projection
        if projection:
            self.proj_conv = hk.Conv2D(channels, 1, stride, with_bias=False, name="shortcut_conv")
            self.proj_bn = hk.BatchNorm(name="shortcut_batchnorm", **bn)
        self.conv_0 = hk.Conv2D(channels, 3, stride, with_bias=False, name="conv_0")
        self.bn_0 = hk.BatchNorm(name="batchnorm_0", **bn)
        self.conv_1 = hk.Conv2D(channels, 3, with_bias=False, name="conv_1")
        self.bn_1 = hk.BatchNorm(name="batchnorm_1", **bn)

    def __call__(self, x, is_training):
        shortcut = x
        if self.projection:
            shortcut = self.proj_bn(self.proj_conv(x), is_training)
        out = jax.nn.relu(self.bn_0(self.conv_0(x), is_training))
        out = self.bn_1(self.conv_1(out), is_training)
        return jax.nn.relu(out + shortcut)


class ResNet(hk.Module):
    """As Haiku's own, at small widths."""

    def __init__(self, classes, widths=(8, 12), name=None):
        super().__init__(name=name)
        self.initial_conv = hk.Conv2D(widths[0], 3, with_bias=False, name="initial_conv")
        self.initial_bn = hk.BatchNorm(True, True, 0.9, name="initial_batchnorm")
        self.blocks = []
        before = widths[0]
        for width in widths:
            changes = width != before
            self.blocks.append(Block(width, 2 if changes else 1, changes))
            self.blocks.append(Block(width, 1, False))
            before = width
        self.logits = hk.Linear(classes, name="logits")

    def __call__(self, x, is_training):
        x = jax.nn.relu(self.initial_bn(self.initial_conv(x), is_training))
        for block in self.blocks:
            x = block(x, is_training)
        return self.logits(jnp.mean(x, axis=(1, 2)))


SHAPE = (3, 16, 12, 3)


def made(train: bool, dtype=jnp.float32):
    """Return parameters (no default among them) and ``apply(params, x)``, which holds the state."""
    network = hk.transform_with_state(lambda x, is_training: ResNet(5)(x, is_training))
    params, state = network.init(jax.random.key(0), jnp.ones(SHAPE), True)
    params, state = shaken(params, dtype=dtype), shaken(state, 2, dtype)
    return params, lambda params, x: network.apply(params, state, None, x, train)[0]


def references(apply: Callable[[Any, Any], Any], params, x, cotangent=None) -> References:
    """Return the norms at every module, by a perturbation of its output, and of every gradient.

    Args:
      apply: ``apply(params, x)``, as ``made`` returns it.
      params: by module and name.
      x: the batch.
      cotangent: of the output; one that depends on its shape alone if None.
    """

    def run(params, perturbations, x):
        outputs = {}

        def watch(next_f, args, kwargs, context):
            y = next_f(*args, **kwargs)
            if context.method_name != "__call__" or "ema" in context.module.module_name:
                return y
            name = numbered(context.module.module_name, outputs)
            if perturbations is not None:
                y = y + perturbations[name]
            outputs[name] = y
            return y

        def watched(params, x):
            with hk.intercept_methods(watch):
                return apply(params, x)

        return watched(params, x), outputs

    output, outputs, by_param, by_output = measured(run, params, x, cotangent)
    flat = {f"{module}/{name}": g for module, held in by_param.items() for name, g in held.items()}
    return norms(outputs, by_output, flat, output)
