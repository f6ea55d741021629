"""Networks of Flax Linen as people write them, and their references by ``intercept_methods``."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from tests.foreign.arrays import References, measured, norms, numbered, shaken

ModuleDef = Any


class BottleneckResNetBlock(nn.Module):
    filters: int
    conv: ModuleDef
    norm: ModuleDef
    act: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.conv(self.filters, (1, 1))(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3), self.strides)(y)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters * 4, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class ResNet(nn.Module):
    """As in Flax's ImageNet example: its structure and names, on one device."""

    stage_sizes: Sequence[int]
    num_classes: int
    block_cls: ModuleDef = BottleneckResNetBlock
    num_filters: int = 4
    act: Callable[..., Any] = nn.relu
    conv: ModuleDef = nn.Conv

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(self.conv, use_bias=False)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
        )
        x = conv(self.num_filters, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = norm(name="bn_init")(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, block_size in enumerate(self.stage_sizes):
            for j in range(block_size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block_cls(
                    self.num_filters * 2**i, strides=strides, conv=conv, norm=norm, act=self.act
                )(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes)(x)


class SmallConvNet(nn.Module):
    """Convolutions, pools, dropout and two dense layers."""

    rate: float = 0.3

    @nn.compact
    def __call__(self, x, *, deterministic: bool = True):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(12, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(16)(x))
        x = nn.Dropout(self.rate, deterministic=deterministic)(x)
        return nn.Dense(5)(x)


SHAPE = (3, 16, 12, 3)
DROPOUT = 5
"""The seed of dropout's key."""


def _resnet():
    return ResNet(stage_sizes=(1, 2), num_classes=5)


def _resnet_options(train):
    return {"train": train, **({"mutable": ["batch_stats"]} if train else {})}


def _small_options(train):
    rngs = {"rngs": {"dropout": jax.random.key(DROPOUT)}} if train else {}
    return {"deterministic": not train, **rngs}


NETWORKS = {
    "resnet": (_resnet, _resnet_options),
    "small": (SmallConvNet, _small_options),
}


def made(name: str, train: bool, dtype=jnp.float32):
    """Return a module, its variables (no default among them), and how it is applied.

    The last is ``apply(variables, x)``, which returns the output alone.
    """
    make, options = NETWORKS[name]
    module = make()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.ones(SHAPE))
    how = options(train)

    def apply(variables, x):
        y = module.apply(variables, x, **how)
        return y[0] if "mutable" in how else y

    return module, shaken(variables, dtype=dtype), apply


def references(apply: Callable[[Any, Any], Any], variables, x, cotangent=None) -> References:
    """Return the norms at every module, by a perturbation of its output, and of every gradient.

    Args:
      apply: ``apply(variables, x)``, as ``made`` returns it.
      variables: with the entry "params".
      x: the batch.
      cotangent: of the output; one that depends on its shape alone if None.
    """

    def run(params, perturbations, x):
        outputs = {}

        def watch(next_fun, args, kwargs, context):
            y = next_fun(*args, **kwargs)
            if context.method_name != "__call__" or not context.module.path:
                return y
            name = numbered("/".join(context.module.path), outputs)
            if perturbations is not None:
                y = y + perturbations[name]
            outputs[name] = y
            return y

        with nn.intercept_methods(watch):
            return apply({**variables, "params": params}, x), outputs

    params = variables["params"]
    output, outputs, by_param, by_output = measured(run, params, x, cotangent)
    return norms(outputs, by_output, flatten_dict(by_param, sep="/"), output)
