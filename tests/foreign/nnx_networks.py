"""Networks of Flax NNX as people write them, and their references.

Modes are said in each of the usual ways: by ``train``, by ``deterministic``, by
``use_running_average``, and by ``net.train()`` and ``net.eval()``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tests.foreign.arrays import References, measured, norms, numbered, shaken

conv3 = partial(nnx.Conv, kernel_size=(3, 3), padding=1, use_bias=False)
conv1 = partial(nnx.Conv, kernel_size=(1, 1), use_bias=False)


# Residual networks.


class BasicBlock(nnx.Module):
    def __init__(self, in_planes, planes, stride=1, *, rngs):
        self.conv1 = conv3(in_planes, planes, strides=stride, rngs=rngs)
        self.bn1 = nnx.BatchNorm(planes, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv2 = conv3(planes, planes, rngs=rngs)
        self.bn2 = nnx.BatchNorm(planes, momentum=0.9, epsilon=1e-5, rngs=rngs)
        if stride != 1 or in_planes != planes:
            self.downsample = Downsample(in_planes, planes, stride, rngs=rngs)
        else:
            self.downsample = None

    def __call__(self, x, train: bool):
        out = self.bn1(self.conv1(x), use_running_average=not train)
        out = nnx.relu(out)
        out = self.bn2(self.conv2(out), use_running_average=not train)
        identity = x if self.downsample is None else self.downsample(x, train)
        return nnx.relu(out + identity)


class Downsample(nnx.Module):
    def __init__(self, in_planes, planes, stride, *, rngs):
        self.conv = conv1(in_planes, planes, strides=stride, rngs=rngs)
        self.bn = nnx.BatchNorm(planes, rngs=rngs)

    def __call__(self, x, train: bool):
        return self.bn(self.conv(x), use_running_average=not train)


class ResNet18(nnx.Module):
    """Basic blocks, 2-2-2-2, as in torchvision; lists of blocks; ``train`` in the call."""

    def __init__(self, widths=(8, 8, 12, 16), *, rngs):
        self.conv1 = conv3(3, widths[0], rngs=rngs)
        self.bn1 = nnx.BatchNorm(widths[0], rngs=rngs)
        inside = (widths[0], *widths[:-1])
        for i, (before, width) in enumerate(zip(inside, widths, strict=True)):
            blocks = [
                BasicBlock(before, width, 1 if i == 0 else 2, rngs=rngs),
                BasicBlock(width, width, rngs=rngs),
            ]
            setattr(self, f"layer{i + 1}", nnx.List(blocks))
        self.fc = nnx.Linear(widths[-1], 5, rngs=rngs)

    def __call__(self, x, train: bool = False):
        x = nnx.relu(self.bn1(self.conv1(x), use_running_average=not train))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = block(x, train)
        return self.fc(jnp.mean(x, axis=(1, 2)))


class Bottleneck(nnx.Module):
    def __init__(self, in_planes, planes, stride=1, *, rngs):
        self.conv1 = conv1(in_planes, planes, rngs=rngs)
        self.bn1 = nnx.BatchNorm(planes, rngs=rngs)
        self.conv2 = conv3(planes, planes, strides=stride, rngs=rngs)
        self.bn2 = nnx.BatchNorm(planes, rngs=rngs)
        self.conv3 = conv1(planes, 2 * planes, rngs=rngs)
        self.bn3 = nnx.BatchNorm(2 * planes, rngs=rngs)
        if stride != 1 or in_planes != 2 * planes:
            self.shortcut = nnx.Sequential(
                conv1(in_planes, 2 * planes, strides=stride, rngs=rngs),
                nnx.BatchNorm(2 * planes, rngs=rngs),
            )
        else:
            self.shortcut = lambda x: x

    def __call__(self, x):
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = nnx.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return nnx.relu(out)


class BottleneckNet(nnx.Module):
    """Stem with max pool, bottlenecks in ``nnx.Sequential``; net.train() and net.eval()."""

    def __init__(self, *, rngs):
        self.stem = nnx.Conv(3, 8, (7, 7), strides=(2, 2), padding=3, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.layer1 = nnx.Sequential(Bottleneck(8, 6, rngs=rngs), Bottleneck(12, 6, rngs=rngs))
        self.layer2 = nnx.Sequential(Bottleneck(12, 8, 2, rngs=rngs), Bottleneck(16, 8, rngs=rngs))
        self.head = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        x = self.layer2(self.layer1(x))
        return self.head(x.mean((1, 2)))


# A U-Net.


class DoubleConv(nnx.Module):
    def __init__(self, cin, cout, *, rngs):
        self.conv1 = nnx.Conv(cin, cout, (3, 3), rngs=rngs)
        self.norm1 = nnx.GroupNorm(cout, num_groups=2, rngs=rngs)
        self.conv2 = nnx.Conv(cout, cout, (3, 3), rngs=rngs)
        self.norm2 = nnx.GroupNorm(cout, num_groups=2, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.norm1(self.conv1(x)))
        return nnx.silu(self.norm2(self.conv2(x)))


class Up(nnx.Module):
    def __init__(self, cin, cout, *, rngs):
        self.up = nnx.ConvTranspose(cin, cout, (2, 2), strides=(2, 2), rngs=rngs)
        self.conv = DoubleConv(2 * cout, cout, rngs=rngs)

    def __call__(self, x, skip):
        x = self.up(x)
        return self.conv(jnp.concatenate([skip, x], axis=-1))


class UNet(nnx.Module):
    """Two levels, skips by concatenation, dropout at the bottom; ``deterministic``."""

    def __init__(self, *, rngs):
        self.inc = DoubleConv(3, 8, rngs=rngs)
        self.down1 = DoubleConv(8, 12, rngs=rngs)
        self.down2 = DoubleConv(12, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.up1 = Up(16, 12, rngs=rngs)
        self.up2 = Up(12, 8, rngs=rngs)
        self.outc = nnx.Conv(8, 2, (1, 1), rngs=rngs)

    def __call__(self, x, *, deterministic: bool):
        pool = partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
        x1 = self.inc(x)
        x2 = self.down1(pool(x1))
        x3 = self.dropout(self.down2(pool(x2)), deterministic=deterministic)
        return self.outc(self.up2(self.up1(x3, x2), x1))


# Mobile networks.


class InvertedResidual(nnx.Module):
    def __init__(self, cin, cout, stride, expand, *, rngs):
        hidden = cin * expand
        self.use_res = stride == 1 and cin == cout
        self.expand = conv1(cin, hidden, rngs=rngs) if expand != 1 else None
        self.expand_bn = nnx.BatchNorm(hidden, rngs=rngs) if expand != 1 else None
        self.dw = conv3(hidden, hidden, strides=stride, feature_group_count=hidden, rngs=rngs)
        self.dw_bn = nnx.BatchNorm(hidden, rngs=rngs)
        self.project = conv1(hidden, cout, rngs=rngs)
        self.project_bn = nnx.BatchNorm(cout, rngs=rngs)

    def __call__(self, x, train):
        h = x
        if self.expand is not None:
            h = jax.nn.relu6(self.expand_bn(self.expand(h), use_running_average=not train))
        h = jax.nn.relu6(self.dw_bn(self.dw(h), use_running_average=not train))
        h = self.project_bn(self.project(h), use_running_average=not train)
        return x + h if self.use_res else h


class MobileNetV2(nnx.Module):
    """Inverted residuals with linear ends; ``training`` in the call; dropout before the head."""

    def __init__(self, *, rngs):
        self.stem = conv3(3, 8, strides=2, rngs=rngs)
        self.stem_bn = nnx.BatchNorm(8, rngs=rngs)
        self.blocks = nnx.List(
            [
                InvertedResidual(*sizes, rngs=rngs)
                for sizes in [(8, 8, 1, 1), (8, 12, 2, 3), (12, 12, 1, 3), (12, 12, 1, 3)]
            ]
        )
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x, training=False):
        x = jax.nn.relu6(self.stem_bn(self.stem(x), use_running_average=not training))
        for block in self.blocks:
            x = block(x, training)
        x = jnp.mean(x, axis=(1, 2))
        return self.classifier(self.dropout(x, deterministic=not training))


class SqueezeExcite(nnx.Module):
    def __init__(self, features, reduced, *, rngs):
        self.reduce = nnx.Conv(features, reduced, (1, 1), rngs=rngs)
        self.expand = nnx.Conv(reduced, features, (1, 1), rngs=rngs)

    def __call__(self, x):
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = nnx.sigmoid(self.expand(nnx.swish(self.reduce(s))))
        return x * s


class MBConv(nnx.Module):
    def __init__(self, cin, cout, kernel, stride, expand, drop, *, rngs):
        hidden = cin * expand
        self.skip = stride == 1 and cin == cout
        self.drop = drop
        self.expand_conv = conv1(cin, hidden, rngs=rngs)
        self.bn0 = nnx.BatchNorm(hidden, epsilon=1e-3, rngs=rngs)
        self.depthwise = nnx.Conv(
            hidden,
            hidden,
            (kernel, kernel),
            strides=stride,
            feature_group_count=hidden,
            use_bias=False,
            rngs=rngs,
        )
        self.bn1 = nnx.BatchNorm(hidden, epsilon=1e-3, rngs=rngs)
        self.se = SqueezeExcite(hidden, max(1, cin // 4), rngs=rngs)
        self.project_conv = conv1(hidden, cout, rngs=rngs)
        self.bn2 = nnx.BatchNorm(cout, epsilon=1e-3, rngs=rngs)
        self.rngs = rngs.fork()

    def __call__(self, x, train):
        h = nnx.swish(self.bn0(self.expand_conv(x), use_running_average=not train))
        h = nnx.swish(self.bn1(self.depthwise(h), use_running_average=not train))
        h = self.bn2(self.project_conv(self.se(h)), use_running_average=not train)
        if not self.skip:
            return h
        if train and self.drop:  # stochastic depth, by example
            keep = 1.0 - self.drop
            mask = jax.random.bernoulli(self.rngs.dropout(), keep, (x.shape[0], 1, 1, 1))
            h = jnp.where(mask, h / keep, 0)
        return x + h


class EfficientNet(nnx.Module):
    """MBConv with squeeze-and-excitation, swish and stochastic depth; ``train``."""

    def __init__(self, *, rngs):
        self.stem_conv = nnx.Conv(3, 8, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.stem_bn = nnx.BatchNorm(8, epsilon=1e-3, rngs=rngs)
        self.blocks = nnx.List(
            [
                MBConv(*sizes, rngs=rngs)
                for sizes in [
                    (8, 8, 3, 1, 2, 0.1),
                    (8, 12, 5, 2, 3, 0.2),
                    (12, 12, 5, 1, 3, 0.3),
                ]
            ]
        )
        self.head_conv = conv1(12, 16, rngs=rngs)
        self.head_bn = nnx.BatchNorm(16, epsilon=1e-3, rngs=rngs)
        self.fc = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x, train: bool = False):
        x = nnx.swish(self.stem_bn(self.stem_conv(x), use_running_average=not train))
        for block in self.blocks:
            x = block(x, train)
        x = nnx.swish(self.head_bn(self.head_conv(x), use_running_average=not train))
        return self.fc(jnp.mean(x, axis=(1, 2)))


# ConvNeXt, DenseNet, Inception.


class ConvNeXtBlock(nnx.Module):
    def __init__(self, dim, *, rngs):
        self.dwconv = nnx.Conv(dim, dim, (7, 7), padding=3, feature_group_count=dim, rngs=rngs)
        self.norm = nnx.LayerNorm(dim, epsilon=1e-6, rngs=rngs)
        self.pwconv1 = nnx.Linear(dim, 4 * dim, rngs=rngs)
        self.pwconv2 = nnx.Linear(4 * dim, dim, rngs=rngs)
        self.gamma = nnx.Param(0.1 * jnp.ones(dim))

    def __call__(self, x):
        h = self.pwconv1(self.norm(self.dwconv(x)))
        h = self.pwconv2(jax.nn.gelu(h))
        return x + self.gamma * h


class ConvNeXt(nnx.Module):
    """Patches, depthwise 7x7, layer norm, GELU, layer scale; no mode at all."""

    def __init__(self, dims=(8, 12), *, rngs):
        self.downsample_layers = nnx.List(
            [
                nnx.Sequential(
                    nnx.Conv(3, dims[0], (2, 2), strides=(2, 2), rngs=rngs),
                    nnx.LayerNorm(dims[0], rngs=rngs),
                ),
                nnx.Sequential(
                    nnx.LayerNorm(dims[0], rngs=rngs),
                    nnx.Conv(dims[0], dims[1], (2, 2), strides=(2, 2), rngs=rngs),
                ),
            ]
        )
        self.stages = nnx.List(
            [nnx.List([ConvNeXtBlock(dim, rngs=rngs) for _ in range(2)]) for dim in dims]
        )
        self.norm = nnx.LayerNorm(dims[-1], rngs=rngs)
        self.head = nnx.Linear(dims[-1], 5, rngs=rngs)

    def __call__(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = downsample(x)
            for block in stage:
                x = block(x)
        return self.head(self.norm(x.mean(axis=(1, 2))))


class DenseLayer(nnx.Module):
    def __init__(self, cin, growth, *, rngs):
        self.norm1 = nnx.BatchNorm(cin, rngs=rngs)
        self.conv1 = conv1(cin, 2 * growth, rngs=rngs)
        self.norm2 = nnx.BatchNorm(2 * growth, rngs=rngs)
        self.conv2 = conv3(2 * growth, growth, rngs=rngs)

    def __call__(self, features, use_running_average):
        x = jnp.concatenate(features, axis=-1)
        h = self.conv1(jax.nn.relu(self.norm1(x, use_running_average=use_running_average)))
        return self.conv2(jax.nn.relu(self.norm2(h, use_running_average=use_running_average)))


class DenseNet(nnx.Module):
    """Dense blocks and a transition; ``use_running_average`` in the call."""

    def __init__(self, growth=4, *, rngs):
        self.conv0 = conv3(3, 8, rngs=rngs)
        width = 8
        self.block1 = nnx.List(
            [DenseLayer(width + i * growth, growth, rngs=rngs) for i in range(3)]
        )
        width += 3 * growth
        self.transition_norm = nnx.BatchNorm(width, rngs=rngs)
        self.transition_conv = conv1(width, width // 2, rngs=rngs)
        width //= 2
        self.block2 = nnx.List(
            [DenseLayer(width + i * growth, growth, rngs=rngs) for i in range(2)]
        )
        width += 2 * growth
        self.norm5 = nnx.BatchNorm(width, rngs=rngs)
        self.classifier = nnx.Linear(width, 5, rngs=rngs)

    def __call__(self, x, use_running_average=True):
        features = [self.conv0(x)]
        for layer in self.block1:
            features.append(layer(features, use_running_average))
        x = jnp.concatenate(features, axis=-1)
        x = jax.nn.relu(self.transition_norm(x, use_running_average=use_running_average))
        x = nnx.avg_pool(self.transition_conv(x), (2, 2), strides=(2, 2))
        features = [x]
        for layer in self.block2:
            features.append(layer(features, use_running_average))
        x = self.norm5(jnp.concatenate(features, -1), use_running_average=use_running_average)
        return self.classifier(jax.nn.relu(x).mean((1, 2)))


class ConvBNRelu(nnx.Module):
    def __init__(self, cin, cout, kernel, stride=1, *, rngs):
        self.conv = nnx.Conv(cin, cout, kernel, strides=stride, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(cout, rngs=rngs)

    def __call__(self, x):
        return jax.nn.relu(self.bn(self.conv(x)))


class InceptionUnit(nnx.Module):
    def __init__(self, cin, *, rngs):
        self.branch1 = ConvBNRelu(cin, 4, (1, 1), rngs=rngs)
        self.branch3_reduce = ConvBNRelu(cin, 4, (1, 1), rngs=rngs)
        self.branch3 = ConvBNRelu(4, 6, (3, 3), rngs=rngs)
        self.branch5 = nnx.Sequential(
            ConvBNRelu(cin, 2, (1, 1), rngs=rngs),
            ConvBNRelu(2, 4, (1, 5), rngs=rngs),
            ConvBNRelu(4, 4, (5, 1), rngs=rngs),
        )
        self.branch_pool = ConvBNRelu(cin, 4, (1, 1), rngs=rngs)

    def __call__(self, x):
        pooled = nnx.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
        branches = [
            self.branch1(x),
            self.branch3(self.branch3_reduce(x)),
            self.branch5(x),
            self.branch_pool(pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class Inception(nnx.Module):
    """Two units of four branches; net.train() and net.eval()."""

    def __init__(self, *, rngs):
        self.stem = ConvBNRelu(3, 8, (3, 3), 2, rngs=rngs)
        self.mixed1 = InceptionUnit(8, rngs=rngs)
        self.mixed2 = InceptionUnit(18, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.fc = nnx.Linear(18, 5, rngs=rngs)

    def __call__(self, x):
        x = self.mixed2(self.mixed1(self.stem(x)))
        return self.fc(self.dropout(jnp.mean(x, (1, 2))))


# A vision transformer.


class MLP(nnx.Module):
    def __init__(self, dim, hidden, rate, *, rngs):
        self.fc1 = nnx.Linear(dim, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, dim, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x, deterministic):
        x = self.dropout(nnx.gelu(self.fc1(x)), deterministic=deterministic)
        return self.fc2(x)


class EncoderBlock(nnx.Module):
    def __init__(self, dim, heads, rate, *, rngs):
        self.norm1 = nnx.LayerNorm(dim, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(
            num_heads=heads, in_features=dim, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(dim, rngs=rngs)
        self.mlp = MLP(dim, 2 * dim, rate, rngs=rngs)

    def __call__(self, x, deterministic):
        h = self.norm1(x)
        x = x + self.attn(h, h, deterministic=deterministic)
        return x + self.mlp(self.norm2(x), deterministic=deterministic)


class ViT(nnx.Module):
    """Patches, a class token, positions, two encoder blocks; ``deterministic``."""

    def __init__(self, dim=8, *, rngs):
        self.patch_embeddings = nnx.Conv(3, dim, (4, 4), strides=(4, 4), rngs=rngs)
        self.cls_token = nnx.Param(0.1 * jax.random.normal(rngs.params(), (1, 1, dim)))
        self.pos_embed = nnx.Param(0.1 * jax.random.normal(rngs.params(), (1, 13, dim)))
        self.blocks = nnx.List([EncoderBlock(dim, 2, 0.1, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.classifier = nnx.Linear(dim, 5, rngs=rngs)

    def __call__(self, x, deterministic: bool = True):
        x = self.patch_embeddings(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.pos_embed
        for block in self.blocks:
            x = block(x, deterministic)
        return self.classifier(self.norm(x)[:, 0])


# Deep ones.


class Deep(nnx.Module):
    """Convolutions without skips, in a Python loop: the gradient shrinks with every one."""

    def __init__(self, depth, features=8, *, rngs):
        self.layers = nnx.List(
            [nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs) for _ in range(depth)]
        )

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


class ConvRelu(nnx.Module):
    def __init__(self, features, *, rngs):
        self.conv = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x):
        return jax.nn.relu(self.conv(x))


class Scanned(nnx.Module):
    """The same in one block with stacked parameters, by ``nnx.vmap`` and ``nnx.scan``."""

    def __init__(self, depth, features=8, *, rngs):
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return ConvRelu(features, rngs=rngs)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, block):
            return block(x)

        return forward(x, self.blocks)


def unrolled(net: Scanned) -> Deep:
    """Return the network in a Python loop with the values of one by scan."""
    kernels = net.blocks.conv.kernel[...]
    twin = nnx.eval_shape(lambda: Deep(len(kernels), kernels.shape[-1], rngs=nnx.Rngs(0)))
    for layer, kernel in zip(twin.layers, kernels, strict=True):
        layer.kernel = nnx.Param(kernel)
    return twin


# All of them, and their references.


class Network(NamedTuple):
    """How a network is made and called.

    Attributes:
      make: of ``rngs=``.
      mode: the argument of its call that says the mode; "method" where net.train() and net.eval()
        do; None without any mode.
      shape: the input's.
    """

    make: Callable[..., Any]
    mode: str | None = None
    shape: tuple[int, ...] = (3, 16, 12, 3)


NETWORKS = {
    "resnet18": Network(ResNet18, "train"),
    "bottleneck": Network(BottleneckNet, "method"),
    "unet": Network(UNet, "deterministic"),
    "mobilenet": Network(MobileNetV2, "training"),
    "efficientnet": Network(EfficientNet, "train"),
    "convnext": Network(ConvNeXt),
    "densenet": Network(DenseNet, "use_running_average"),
    "inception": Network(Inception, "method"),
    "vit": Network(ViT, "deterministic"),
    "deep": Network(partial(Deep, 3), None, (2, 5, 4, 8)),
}


def made(name: str, train: bool, dtype=jnp.float32):
    """Return a network in a mode, with values that are no defaults, and its call's arguments."""
    how = NETWORKS[name]
    net = how.make(rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(net)
    net = nnx.merge(graphdef, shaken(state, dtype=dtype))
    if how.mode == "method":
        net.train() if train else net.eval()
    return net, options(how.mode, train)


def options(mode: str | None, train: bool) -> dict[str, bool]:
    """Return the arguments of a call in a mode."""
    if mode in (None, "method"):
        return {}
    return {mode: train if mode in ("train", "training") else not train}


class _Tape:
    """What passes through the modules of one call: outputs are kept, perturbations added."""

    def __init__(self, perturbations):
        self.perturbations, self.outputs = perturbations, {}

    def pass_by(self, path, y):
        name = numbered(path, self.outputs)
        if self.perturbations is not None:
            y = y + self.perturbations[name]
        self.outputs[name] = y
        return y


def _watched(net, tape):
    """Swap every module's class for one whose call goes by a tape."""
    for path, module in list(nnx.iter_modules(net)):
        kind = type(module)
        if path and callable(module):
            module.__class__ = _swapped(kind, "/".join(map(str, path)), tape)


def _swapped(kind, path, tape):
    def call(self, *args, **kwargs):
        y = kind.__call__(self, *args, **kwargs)
        floating = isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.floating)
        return tape.pass_by(path, y) if floating else y

    return type(kind.__name__, (kind,), {"__call__": call})


def references(net: nnx.Module, x: jax.Array, cotangent=None, **kwargs) -> References:
    """Return the norms at every module, by a perturbation of its output, and of every gradient.

    Args:
      net: the network; it is not changed. It calls no module within a loop of JAX: for one that
        does, ask its twin in a Python loop (``unrolled``).
      x: the batch.
      cotangent: of the output; one that depends on its shape alone if None.
      **kwargs: of the call.
    """
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def run(params, perturbations, x):
        tape = _Tape(perturbations)
        copy = nnx.merge(graphdef, params, rest, copy=True)
        _watched(copy, tape)
        return copy(x, **kwargs), tape.outputs

    output, outputs, by_param, by_output = measured(run, params, x, cotangent)
    flat = nnx.to_flat_state(by_param)
    gradients = {"/".join(map(str, path)): value[...] for path, value in flat}
    return norms(outputs, by_output, gradients, output)
