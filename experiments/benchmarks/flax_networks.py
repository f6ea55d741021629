"""Networks of Flax's own layers, as their users write them: MobileNetV1 in NNX, ResNet-50 in Linen.

Whatever is given to their convolutions, such as ``conv_general_dilated``, is an argument.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

# Howard et al. 2017, "MobileNets", table 1: features and stride of every separable convolution.
UNITS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2))
UNITS += ((1024, 1),)
# He et al. 2015, "Deep residual learning", table 1: bottlenecks of each stage.
STAGES = (3, 4, 6, 3)


class MobileNet(nnx.Module):
    """MobileNetV1's convolutions, without its classes."""

    def __init__(self, units: int, rngs: nnx.Rngs, **options: Any):
        features = 32
        self.stem = nnx.Conv(3, features, (3, 3), strides=2, rngs=rngs, **options)
        options |= {"use_bias": False, "rngs": rngs}
        layers: list[Any] = []
        for outputs, stride in UNITS[:units]:
            depthwise = {"strides": stride, "feature_group_count": features, **options}
            layers.append(nnx.Conv(features, features, (3, 3), **depthwise))
            layers += [nnx.BatchNorm(features, rngs=rngs), jax.nn.relu]
            layers.append(nnx.Conv(features, outputs, (1, 1), **options))
            layers += [nnx.BatchNorm(outputs, rngs=rngs), jax.nn.relu]
            features = outputs
        self.body = nnx.Sequential(*layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last features' means, (batch, features)."""
        return jnp.mean(self.body(self.stem(x)), (1, 2))


class ResNet(linen.Module):
    """ResNet-50 whose 3x3 convolutions have the strides, without its classes."""

    units: int
    """How many of its sixteen bottlenecks."""
    options: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last features' means, (batch, features)."""

        def conv_norm(x: jax.Array, features: int, window: int, stride: int = 1) -> jax.Array:
            options = {"use_bias": False, **self.options}
            x = linen.Conv(features, (window, window), stride, **options)(x)
            return linen.BatchNorm(use_running_average=False)(x)

        x = linen.relu(conv_norm(x, 64, 7, 2))
        x = linen.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        every = [(stage, unit) for stage, n in enumerate(STAGES) for unit in range(n)]
        for stage, unit in every[: self.units]:
            features, stride = 64 << stage, 2 if stage and not unit else 1
            y = linen.relu(conv_norm(x, features, 1))
            y = linen.relu(conv_norm(y, features, 3, stride))
            y = conv_norm(y, 4 * features, 1)
            shortcut = x if unit else conv_norm(x, 4 * features, 1, stride)
            x = linen.relu(y + shortcut)
        return jnp.mean(x, (1, 2))
