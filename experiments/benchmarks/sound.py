"""Sound networks of many kinds, initialised as they should be: an alarm is a false one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import models, nn

Make = Callable[[nnx.Rngs], nnx.Module]


@dataclasses.dataclass(frozen=True)
class Sound:
    """A network, the batch that it sees, and whether it is large for its few draws."""

    make: Make
    shape: tuple[int, ...] = (8, 8, 8, 16)
    inputs: str = "normal"
    train: bool = True
    large: bool = False


def batch(sound: Sound) -> jax.Array:
    """Return the batch: the same for all initializations."""
    x = jax.random.normal(jax.random.key(0), sound.shape)
    if sound.inputs == "smooth":
        for axis in range(1, x.ndim - 1):
            x = x + jnp.roll(x, 1, axis) + jnp.roll(x, -1, axis)
        return x / x.std()
    if sound.inputs == "sparse":
        return jnp.where(jax.random.uniform(jax.random.key(1), x.shape) < 0.1, x, 0)
    return jnp.abs(x) if sound.inputs == "positive" else x


def is_held_out(name: str) -> bool:
    """Whether a configuration decides: theory may be tuned on the others, and on these never."""
    return name in BLIND or crc32(name.encode()) % 2 == 0


def stack(depth: int = 6, width: int = 16, **options: Any) -> Make:
    """Return a stack of equal units."""
    return lambda rngs: models.deep_stack(depth, width, rngs=rngs, **options)


def plain(depth: int = 6, width: int = 16, **options: Any) -> Make:
    """Return layers without shortcuts."""
    given = {"shortcut": "none", "convs_per_unit": 1, "padding": "CIRCULAR", **options}
    return stack(depth, width, **given)


def conv(width: int, size: int = 3, out: int | None = None, **options: Any) -> Make:
    """Return a convolution."""
    given = {"use_bias": False, "kernel_init": "he", "padding": "CIRCULAR", **options}
    return lambda rngs: nn.Conv(width, out or width, (size, size), rngs=rngs, **given)


def relu_conv(width: int, size: int = 3, out: int | None = None, **options: Any) -> Make:
    """Return a rectifier and a convolution."""
    return chain(lambda rngs: nn.Activation("relu"), conv(width, size, out, **options))


def norm_relu_conv(width: int, norm: str = "batch", **options: Any) -> Make:
    """Return norm, rectifier and convolution."""
    return chain(lambda rngs: nn.norm(norm, width, rngs=rngs), relu_conv(width, **options))


def chain(*parts: Make) -> Make:
    """Return parts one after the other."""
    return lambda rngs: nn.Chain([part(rngs) for part in parts])


def repeated(part: Make, n: int = 3) -> Make:
    """Return one part several times."""
    return chain(*[part] * n)


def added(branch: Make, **options: Any) -> Make:
    """Return a branch beside the identity."""
    return lambda rngs: nn.Residual(branch(rngs), "identity", **options)


def beside(*parts: Make) -> Make:
    """Return branches side by side."""
    return lambda rngs: nn.Parallel([part(rngs) for part in parts])


def pool(kind: str, size: int = 3, strides: int = 1, padding: Any = "SAME") -> Make:
    """Return a pool."""
    return lambda rngs: nn.Pool(kind, size, strides=strides, padding=padding)


def head(width: int) -> Make:
    """Return a global mean and a dense layer."""
    dense: Make = lambda rngs: nn.Dense(width, 10, kernel_init="lecun", rngs=rngs)  # noqa: E731
    return chain(lambda rngs: nn.GlobalPool("avg"), dense)


def depthwise(width: int, size: int = 3, **options: Any) -> Make:
    """Return a depthwise convolution."""
    given = {"use_bias": False, "kernel_init": "lecun", "padding": "CIRCULAR", **options}
    return lambda rngs: nn.DepthwiseConv(width, (size, size), rngs=rngs, **given)


def norm(name: str, width: int) -> Make:
    """Return a norm."""
    return lambda rngs: nn.norm(name, width, rngs=rngs)


def flattened(x: jax.Array) -> jax.Array:
    """Return the places of every image as channels."""
    return x.reshape(len(x), -1)


def activation(name: str) -> Make:
    """Return an activation."""
    return lambda rngs: nn.Activation(name)


def excite(width: int) -> Make:
    """Return squeeze-and-excitation."""
    return lambda rngs: nn.SqueezeExcite(width, width // 4, rngs=rngs)


def bottleneck(width: int, groups: int = 1, last: str = "linear") -> Make:
    """Return the three convolutions of a bottleneck, each with batch norm."""
    inner = width // 2
    part = lambda a, size, b, **o: chain(conv(a, size, b, **o), norm("batch", b))  # noqa: E731
    grouped = part(inner, 3, inner, feature_group_count=groups)
    steps = [part(width, 1, inner), activation("relu"), grouped, activation("relu")]
    return chain(*steps, part(inner, 1, width), activation(last))


def inverted(width: int, size: int = 3, *, excited: bool = False) -> Make:
    """Return MobileNet's inverted residual: wide inside, narrow outside."""
    wide = 4 * width
    between = [excite(wide)] if excited else []
    return added(
        chain(
            *(conv(width, 1, wide), norm("batch", wide), activation("relu6")),
            *(depthwise(wide, size), norm("batch", wide), activation("relu6")),
            *(*between, conv(wide, 1, width, kernel_init="lecun"), norm("batch", width)),
        )
    )


def convnext(width: int) -> Make:
    """Return ConvNeXt's unit, without its layer scale."""
    return added(
        chain(
            *(depthwise(width, 7), norm("layer", width), conv(width, 1, 4 * width)),
            *(activation("gelu"), conv(4 * width, 1, width, kernel_init="lecun")),
        )
    )


def bypassed(branch: Make, beside: Make, last: str = "linear") -> Make:
    """Return a branch beside a shortcut with weights."""
    return lambda rngs: nn.Residual(branch(rngs), beside(rngs), activation=nn.Activation(last))


def thinned(width: int) -> Make:
    """Return DenseNet's transition: half the channels, and a quarter of the places."""
    return chain(norm_relu_conv(width, size=1, out=width // 2), pool("avg", 2, 2))


def inception(width: int) -> Make:
    """Return branches of several windows and of a pool."""
    q = width // 4
    return beside(
        *(relu_conv(width, 1, q), relu_conv(width, 3, q), relu_conv(width, 5, q)),
        chain(pool("max"), relu_conv(width, 1, q)),
    )


def dense_connections(width: int, growth: int = 8, n: int = 3) -> Make:
    """Return DenseNet's units: each adds channels."""
    units = [
        beside(lambda rngs: nn.Identity(), norm_relu_conv(width + i * growth, out=growth))
        for i in range(n)
    ]
    return chain(*units)


def conv_norm_relu(width: int, size: int, out: int) -> Make:
    """Return convolution, batch norm and rectifier."""
    return chain(conv(width, size, out), norm("batch", out), activation("relu"))


BLIND: dict[str, Sound] = {
    "post-activation, zero-initialised last norms": Sound(
        repeated(
            bypassed(
                chain(
                    *(conv_norm_relu(16, 3, 16), conv(16)),
                    lambda rngs: nn.BatchNorm(16, scale_init="zero", rngs=rngs),
                ),
                lambda rngs: nn.Identity(),
                "relu",
            ),
            4,
        )
    ),
    "post-activation, projections": Sound(
        lambda rngs: models.resnet_cifar(14, transition="projection", rngs=rngs), (8, 16, 16, 3)
    ),
    "post-activation, 4 pixels, batch of 4": Sound(
        stack(norm="batch", order="post"), (4, 4, 4, 16)
    ),
    "pre-activation ResNet for CIFAR": Sound(
        lambda rngs: models.resnet_cifar(14, order="pre", rngs=rngs), (16, 12, 12, 3)
    ),
    "residual batch norm, truncated": Sound(
        stack(
            norm="batch",
            padding="CIRCULAR",
            init=jax.nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
        )
    ),
    "residual instance norm, tanh": Sound(
        repeated(
            added(
                chain(
                    lambda rngs: nn.GroupNorm(16, num_groups=16, rngs=rngs),
                    *(activation("tanh"), conv(16, kernel_init="lecun")),
                )
            )
        )
    ),
    "layer norm after the addition": Sound(
        repeated(chain(added(chain(relu_conv(16), relu_conv(16))), norm("layer", 16)))
    ),
    "residual batch norm, orthogonal 5x5": Sound(
        stack(norm="batch", padding="CIRCULAR", kernel_size=(5, 5), init="orthogonal")
    ),
    "residual batch norm, 1-D": Sound(stack(norm="batch", kernel_size=(5,)), (8, 24, 16)),
    "separable, 3-D": Sound(
        stack(4, conv="separable", norm="batch", kernel_size=(3, 3, 3)), (4, 4, 5, 4, 16)
    ),
    "bottlenecks with strides and projections": Sound(
        repeated(
            bypassed(
                chain(conv_norm_relu(24, 1, 12), conv(12, 3, 24, strides=2), norm("batch", 24)),
                chain(conv(24, 1, strides=2), norm("batch", 24)),
                "relu",
            ),
            2,
        ),
        (8, 16, 12, 24),
    ),
    "inverted residuals, strides and zero padding": Sound(
        chain(
            *(conv_norm_relu(16, 1, 48), depthwise(48, 3, strides=2, padding="SAME")),
            *(norm("batch", 48), activation("relu6"), conv(48, 1, 24, kernel_init="lecun")),
            *(norm("batch", 24), inverted(24)),
        ),
        (8, 12, 10, 16),
    ),
    "depthwise with excitation, running statistics": Sound(
        repeated(
            chain(
                *(norm("batch", 16), activation("relu"), depthwise(16, kernel_init="he")),
                *(excite(16), conv(16, 1, kernel_init="lecun")),
            )
        ),
        train=False,
    ),
    "ConvNeXt with layer scale, smooth inputs": Sound(
        repeated(
            added(
                chain(
                    *(depthwise(24, 7, padding="SAME"), norm("layer", 24), conv(24, 1, 96)),
                    *(activation("gelu"), conv(96, 1, 24, kernel_init="lecun")),
                    lambda rngs: nn.Scale(0.3, learnable=True, features=24),
                )
            )
        ),
        (8, 10, 8, 24),
        inputs="smooth",
    ),
    "Inception, batch norm": Sound(
        repeated(
            beside(
                *(conv_norm_relu(24, 1, 12), conv_norm_relu(24, 3, 6)),
                chain(pool("avg"), conv_norm_relu(24, 1, 6)),
            )
        ),
        (8, 8, 8, 24),
    ),
    "dense connections with transitions, running statistics": Sound(
        chain(dense_connections(16), thinned(40), dense_connections(20, growth=6)), train=False
    ),
    "gated, batch norm": Sound(stack(norm="batch", shortcut="gated", padding="CIRCULAR")),
    "stochastic depth and dropout, batch norm": Sound(
        repeated(
            added(
                chain(
                    *(norm_relu_conv(16), lambda rngs: nn.Dropout(0.2)),
                    *(norm_relu_conv(16), lambda rngs: nn.StochasticDepth(0.2)),
                )
            )
        ),
        (32, 6, 6, 16),
    ),
    "residual silu, group norm, dilation": Sound(
        repeated(
            added(
                chain(
                    lambda rngs: nn.GroupNorm(48, num_groups=4, rngs=rngs),
                    *(activation("silu"), conv(48, kernel_dilation=2)),
                )
            )
        ),
        (8, 8, 8, 48),
    ),
    "ResNeXt, running statistics": Sound(
        repeated(added(bottleneck(32, groups=8), activation=nn.Activation("relu"))),
        (8, 8, 8, 32),
        train=False,
    ),
}
"""Written before any result on them was seen, to decide what no tuning has touched."""

SOUND: dict[str, Sound] = {
    **BLIND,
    **{
        f"plain {name}": Sound(plain(activation=name, init=init))
        for name, init in {
            "relu": "he",
            "gelu": "he",
            "silu": "he",
            "elu": "lecun",
            "selu": "lecun",
            "leaky_relu": "he",
            "hard_swish": "he",
            "tanh": "lecun",
            "sigmoid": "lecun",
        }.items()
    },
    **{
        f"plain relu {init}": Sound(plain(init=init))
        for init in ("orthogonal", "delta_orthogonal", "glorot", "he_uniform", "lecun")
    },
    **{
        f"plain relu {size}x{size}": Sound(plain(kernel_size=(size, size), padding="SAME"))
        for size in (1, 3, 5, 7)
    },
    "plain relu valid": Sound(repeated(relu_conv(16, padding="VALID"), 4), (8, 14, 12, 16)),
    "plain relu reflect": Sound(plain(padding="REFLECT")),
    "plain relu 1-D": Sound(plain(kernel_size=(5,)), (8, 24, 16)),
    "plain relu 3-D": Sound(plain(4, kernel_size=(3, 3, 3)), (4, 4, 5, 4, 16)),
    "plain relu narrow": Sound(plain(width=12), (8, 8, 8, 12)),
    "plain relu wide": Sound(plain(4, 96), (8, 6, 6, 96)),
    "plain relu strides": Sound(
        chain(relu_conv(16), relu_conv(16, strides=2), relu_conv(16, strides=2)), (8, 16, 12, 16)
    ),
    "plain relu dilation": Sound(repeated(relu_conv(16, kernel_dilation=2), 4)),
    "plain relu grouped": Sound(repeated(relu_conv(16, feature_group_count=4), 4)),
    "plain relu max pool": Sound(
        chain(relu_conv(16), pool("max", 2, 2), relu_conv(16), pool("max", 2, 2), relu_conv(16)),
        (8, 16, 12, 16),
    ),
    "plain relu overlapping max pool": Sound(chain(relu_conv(16), pool("max", 3, 2), conv(16))),
    "plain relu average pool": Sound(
        chain(relu_conv(16), pool("avg", 2, 2), relu_conv(16)), (8, 16, 12, 16)
    ),
    "plain relu global pool": Sound(chain(repeated(relu_conv(16)), head(16))),
    "plain relu flattened": Sound(
        chain(
            *(conv(16), activation("relu"), lambda rngs: nn.Activation(flattened)),
            lambda rngs: nn.Dense(16 * 64, 10, kernel_init="he", rngs=rngs),
        )
    ),
    **{f"plain {name} norm": Sound(plain(norm=name)) for name in ("batch", "group", "layer")},
    "plain instance norm": Sound(
        repeated(chain(lambda rngs: nn.GroupNorm(16, num_groups=16, rngs=rngs), relu_conv(16)))
    ),
    "plain batch norm, one place": Sound(plain(norm="batch", kernel_size=(1, 1)), (32, 1, 1, 16)),
    "plain batch norm, zero padding": Sound(plain(norm="batch", padding="SAME")),
    "plain batch norm, running statistics": Sound(plain(norm="batch"), train=False),
    **{
        f"residual {name}": Sound(stack(padding="CIRCULAR", norm=name))
        for name in ("none", "batch", "group", "layer")
    },
    "residual running statistics": Sound(stack(padding="CIRCULAR", norm="batch"), train=False),
    "residual scaled branch": Sound(stack(12, padding="CIRCULAR", branch_scale=0.3)),
    "residual scaled shortcut": Sound(stack(padding="CIRCULAR", shortcut="scaled")),
    "residual gated": Sound(stack(shortcut="gated", padding="CIRCULAR")),
    "residual gelu": Sound(stack(activation="gelu", padding="CIRCULAR")),
    "residual batch norm, zero padding": Sound(stack(norm="batch")),
    "post-activation": Sound(stack(norm="batch", order="post", padding="CIRCULAR")),
    "post-activation, zero padding": Sound(stack(norm="batch", order="post")),
    "norm after the addition": Sound(
        repeated(chain(added(chain(relu_conv(16), relu_conv(16))), norm("batch", 16)))
    ),
    "activation as a branch": Sound(repeated(chain(added(activation("relu")), conv(16)))),
    "max pool as a branch": Sound(
        repeated(chain(added(pool("max")), conv(16, kernel_init="lecun")), 2)
    ),
    "average pool as a branch": Sound(
        repeated(chain(added(pool("avg")), conv(16, kernel_init="lecun")), 2)
    ),
    "bottlenecks": Sound(
        repeated(added(bottleneck(32), activation=nn.Activation("relu"))), (8, 8, 8, 32)
    ),
    "ResNeXt": Sound(
        repeated(added(bottleneck(32, groups=4), activation=nn.Activation("relu"))), (8, 8, 8, 32)
    ),
    "ResNet for CIFAR": Sound(lambda rngs: models.resnet_cifar(20, rngs=rngs), (8, 32, 32, 3)),
    "ResNet for CIFAR, running statistics": Sound(
        lambda rngs: models.resnet_cifar(20, rngs=rngs), (8, 32, 32, 3), train=False
    ),
    "separable": Sound(stack(conv="separable", norm="batch", padding="CIRCULAR")),
    "separable, zero padding": Sound(stack(conv="separable", norm="batch")),
    "separable, plain": Sound(plain(conv="separable")),
    "separable hard_swish": Sound(
        repeated(
            chain(
                *(norm("batch", 16), activation("hard_swish"), depthwise(16, 5)),
                *(norm("batch", 16), activation("hard_swish"), conv(16, 1)),
            ),
            2,
        ),
        (8, 6, 6, 16),
    ),
    "inverted residuals": Sound(repeated(inverted(16))),
    "inverted residuals with excitation": Sound(repeated(inverted(16, 5, excited=True))),
    "inverted residuals, running statistics": Sound(repeated(inverted(16)), train=False),
    "ConvNeXt": Sound(repeated(convnext(24)), (8, 8, 8, 24)),
    "ConvNeXt, global pool": Sound(chain(repeated(convnext(24)), head(24)), (8, 8, 8, 24)),
    "squeeze-and-excitation": Sound(repeated(chain(norm_relu_conv(16), excite(16)))),
    "Inception": Sound(repeated(inception(32)), (8, 8, 8, 32)),
    "dense connections": Sound(dense_connections(16)),
    "dropout": Sound(repeated(chain(relu_conv(16), lambda rngs: nn.Dropout(0.3)), 3)),
    "stochastic depth": Sound(
        repeated(added(chain(relu_conv(16), lambda rngs: nn.StochasticDepth(0.2)))),
        (32, 6, 6, 16),
    ),
    **{
        f"plain relu, {kind} inputs": Sound(plain(), inputs=kind)
        for kind in ("smooth", "sparse", "positive")
    },
    **{
        f"residual batch norm, {kind} inputs": Sound(
            stack(norm="batch", padding="CIRCULAR"), inputs=kind
        )
        for kind in ("smooth", "sparse", "positive")
    },
}
"""Every configuration by its name."""


@functools.cache
def of_zoo(name: str) -> Make:
    """Return how a network of ``convjax.models`` is made, by its name."""
    return lambda rngs: models.create(name, num_classes=10, rngs=rngs)


FAMILIES = (
    *("mobilenetv1_100", "mobilenetv2_050", "mobilenetv3_small_100", "mobilenetv4_conv_small"),
    *("ghostnet_050", "efficientnet_b0", "efficientnet_lite0", "tf_efficientnetv2_b0"),
    *("mnasnet_050", "semnasnet_050", "shufflenet_v2_x0_5", "squeezenet1_1", "resnet18"),
    *("resnet10t", "resnet18d", "resnet26", "resnetv2_18", "resnext50_32x4d", "seresnet18"),
    *("seresnext26t_32x4d", "legacy_seresnext26_32x4d", "regnetx_002", "regnety_002"),
    *("resnet20_cifar", "wrn16_8_cifar", "convnext_atto", "convnextv2_atto", "repvgg_a0"),
    *("vgg11", "vgg11_bn", "densenet121", "googlenet", "inception_v3", "inception_v4"),
    *("inception_resnet_v2", "legacy_xception", "xception41", "unet", "fcn_resnet50"),
)
"""A small network of every family of ``convjax.models``."""

ZOO: dict[str, Sound] = {
    f"{name}, {size}, {'batch' if train else 'running'} statistics": Sound(
        of_zoo(name), (8, size, size, 3), train=train, large=True
    )
    for name in FAMILIES
    for size in (64, 96)
    if size > 75 or not name.startswith(("inception",))
    for train in (True, False)
}
"""Each of them at two sizes, in both modes; Inception from 75 pixels on."""
