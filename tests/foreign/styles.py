"""Small networks of many styles, as people write them, in four frameworks and as plain functions.

``STYLES`` holds, by name, a function that makes ``(net, x)``, or ``(net, x, call)``.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from convjax.nn import Function
from tests.foreign.arrays import normal

STYLES: dict[str, Callable[[], Any]] = {}
NHWC = ("NHWC", "HWIO", "NHWC")


def style(make):
    """Note a style."""
    STYLES[make.__name__] = make
    return make


def values(*shapes, start: Any = 10, **named: Any):
    """Return parameters of some shapes, of variance one over the terms of a sum."""
    shapes = dict(enumerate(shapes)) | named
    return {
        f"w{k}" if isinstance(k, int) else k: normal(s, start + i)
        / max(1, math.prod(s[:-1])) ** 0.5
        / max(1, jnp.prod(jnp.array(s[:-1]))) ** 0.5
        for i, (k, s) in enumerate(shapes.items())
    }


def conv(x, w, stride=1, groups=1, dilation=1, padding="SAME"):
    rank = x.ndim - 2
    spec = ("N" + "DHW"[-rank:] + "C", "DHW"[-rank:] + "IO", "N" + "DHW"[-rank:] + "C")
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * rank,
        padding,
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=spec,
        feature_group_count=groups,
    )


IMAGE = (2, 8, 4, 6)


def image(shape=IMAGE):
    return normal(shape, 3)


@style
def attention_gates():
    """A U-Net whose skips are gated by what comes from below."""

    class Gate(nnx.Module):
        def __init__(self, features, rngs):
            self.of_skip = nnx.Conv(features, 3, (1, 1), rngs=rngs)
            self.of_below = nnx.Conv(features, 3, (1, 1), rngs=rngs)
            self.psi = nnx.Conv(3, 1, (1, 1), rngs=rngs)

        def __call__(self, skip, below):
            return skip * nnx.sigmoid(self.psi(nnx.relu(self.of_skip(skip) + self.of_below(below))))

    class UNet(nnx.Module):
        def __init__(self, rngs):
            self.down = nnx.Conv(6, 4, (3, 3), rngs=rngs)
            self.bottom = nnx.Conv(4, 4, (3, 3), rngs=rngs)
            self.gate = Gate(4, rngs)
            self.up = nnx.ConvTranspose(4, 4, (2, 2), strides=(2, 2), rngs=rngs)
            self.out = nnx.Conv(8, 2, (1, 1), rngs=rngs)

        def __call__(self, x):
            skip = nnx.relu(self.down(x))
            below = self.up(nnx.relu(self.bottom(nnx.max_pool(skip, (2, 2), strides=(2, 2)))))
            return self.out(jnp.concatenate([self.gate(skip, below), below], -1))

    return UNet(nnx.Rngs(0)), image()


@style
def exchange():
    """Two resolutions that exchange what they have, as in HRNet."""

    class Exchange(nnx.Module):
        def __init__(self, rngs):
            self.high = nnx.Conv(6, 6, (3, 3), rngs=rngs)
            self.low = nnx.Conv(6, 4, (3, 3), strides=(2, 2), rngs=rngs)
            self.high_to_low = nnx.Conv(6, 4, (3, 3), strides=(2, 2), rngs=rngs)
            self.low_to_high = nnx.Conv(4, 6, (1, 1), rngs=rngs)
            self.low2 = nnx.Conv(4, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(10, 3, rngs=rngs)

        def __call__(self, x):
            high, low = nnx.relu(self.high(x)), nnx.relu(self.low(x))
            rise = jax.image.resize(self.low_to_high(low), high.shape, "nearest")
            high, low = nnx.relu(high + rise), nnx.relu(self.low2(low) + self.high_to_low(high))
            return self.head(jnp.concatenate([high.mean((1, 2)), low.mean((1, 2))], -1))

    return Exchange(nnx.Rngs(0)), image()


@style
def dense_transitions():
    """DenseNet with bottlenecks and compressing transitions, in Linen."""

    class Dense(linen.Module):
        @linen.compact
        def __call__(self, x):
            for _ in range(2):
                for _ in range(2):
                    y = linen.Conv(6, (1, 1), use_bias=False)(linen.relu(linen.LayerNorm()(x)))
                    y = linen.Conv(3, (3, 3), use_bias=False)(linen.relu(linen.LayerNorm()(y)))
                    x = jnp.concatenate([x, y], -1)
                x = linen.Conv(x.shape[-1] // 2, (1, 1))(linen.relu(x))
                x = linen.avg_pool(x, (2, 2), strides=(2, 2))
            return linen.Dense(3)(x.mean((1, 2)))

    return in_linen(Dense())


def in_linen(module, x=None, **options):
    x = image() if x is None else x
    variables = module.init(jax.random.key(0), x, **options)
    return Function(lambda v, x: module.apply(v, x, **options), variables), x


@style
def cardinality():
    """ResNeXt: grouped convolutions, pre-activated, the shortcut projected."""

    class Block(linen.Module):
        stride: int = 1

        @linen.compact
        def __call__(self, x):
            y = linen.Conv(8, (1, 1), use_bias=False)(x)
            y = linen.relu(linen.GroupNorm(4)(y))
            y = linen.Conv(8, (3, 3), self.stride, feature_group_count=4, use_bias=False)(y)
            y = linen.Conv(12, (1, 1))(linen.relu(linen.GroupNorm(4)(y)))
            if x.shape != y.shape:
                x = linen.Conv(12, (1, 1), self.stride, name="proj")(x)
            return linen.relu(x + y)

    class ResNeXt(linen.Module):
        @linen.compact
        def __call__(self, x):
            for stride in (1, 2, 1):
                x = Block(stride)(x)
            return linen.Dense(3)(x.mean((1, 2)))

    return in_linen(ResNeXt())


@style
def shuffled():
    """ShuffleNet: the channels are split, and mixed by a transposition."""

    def shuffle(x, groups=2):
        n, h, w, c = x.shape
        return x.reshape(n, h, w, groups, c // groups).swapaxes(3, 4).reshape(n, h, w, c)

    def apply(p, x):
        left, right = jnp.split(x, 2, -1)
        right = jax.nn.relu(conv(right, p["first"]))
        right = conv(right, p["depthwise"], groups=3)
        right = jax.nn.relu(conv(right, p["last"]))
        return shuffle(jnp.concatenate([left, right], -1)) @ p["head"]

    shapes = {"first": (1, 1, 3, 3), "depthwise": (3, 3, 1, 3), "last": (1, 1, 3, 3)}
    return Function(apply, values(**shapes, head=(6, 2))), image()


@style
def pixel_shuffle():
    """Channels become places, and places channels."""

    def up(x, r=2):
        n, h, w, c = x.shape
        y = x.reshape(n, h, w, r, r, c // r**2).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(n, h * r, w * r, c // r**2)

    def down(x, r=2):
        n, h, w, c = x.shape
        y = x.reshape(n, h // r, r, w // r, r, c).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(n, h // r, w // r, c * r**2)

    def apply(p, x):
        x = jax.nn.relu(conv(x, p["a"]))
        x = jax.nn.relu(conv(down(x), p["b"]))
        return conv(up(x), p["c"])

    return Function(apply, values(a=(3, 3, 6, 4), b=(3, 3, 16, 8), c=(3, 3, 2, 3))), image()


@style
def reversible():
    """RevNet: two streams, each adds what it makes of the other."""

    class Rev(nnx.Module):
        def __init__(self, rngs):
            self.f = nnx.List([nnx.Conv(3, 3, (3, 3), rngs=rngs) for _ in range(2)])
            self.g = nnx.List([nnx.Conv(3, 3, (3, 3), rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            a, b = jnp.split(x, 2, -1)
            for f, g in zip(self.f, self.g, strict=True):
                a = a + nnx.relu(f(b))
                b = b + nnx.relu(g(a))
            return jnp.concatenate([a, b], -1)

    return Rev(nnx.Rngs(0)), image()


@style
def mixer():
    """MLP-Mixer: one network mixes places, another one channels."""

    class MLP(linen.Module):
        width: int

        @linen.compact
        def __call__(self, x):
            return linen.Dense(x.shape[-1])(linen.gelu(linen.Dense(self.width)(x)))

    class Mixer(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(5, (2, 2), strides=(2, 2), name="stem")(x)
            x = x.reshape(len(x), -1, 5)
            for _ in range(2):
                y = jnp.swapaxes(linen.LayerNorm()(x), 1, 2)
                x = x + jnp.swapaxes(MLP(7, name=None)(y), 1, 2)
                x = x + MLP(9)(linen.LayerNorm()(x))
            return linen.Dense(3)(linen.LayerNorm()(x).mean(1))

    return in_linen(Mixer())


@style
def highway():
    """A gate decides how much of the input is carried."""

    class Highway(hk.Module):
        def __call__(self, x):
            t = jax.nn.sigmoid(hk.Linear(6, name="gate", b_init=hk.initializers.Constant(-1.0))(x))
            return t * jnp.tanh(hk.Linear(6, name="transform")(x)) + (1 - t) * x

    def net(x):
        for _ in range(3):
            x = Highway()(x)
        return hk.Linear(2)(x)

    return in_haiku(net)


def in_haiku(function, x=None):
    x = image() if x is None else x
    f = hk.without_apply_rng(hk.transform(function))
    return Function(f.apply, f.init(jax.random.key(0), x)), x


@style
def film():
    """Each channel is scaled and shifted by what a network makes of the whole."""

    class FiLM(eqx.Module):
        conv: eqx.nn.Conv2d
        condition: eqx.nn.Linear
        norm: eqx.nn.GroupNorm
        out: eqx.nn.Conv2d

        def __init__(self, key):
            a, b, c = jax.random.split(key, 3)
            self.conv = eqx.nn.Conv2d(6, 4, 3, padding=1, key=a)
            self.norm = eqx.nn.GroupNorm(2, 4, channelwise_affine=False)
            self.condition = eqx.nn.Linear(6, 8, key=b)
            self.out = eqx.nn.Conv2d(4, 2, 1, key=c)

        def __call__(self, x):
            gamma, beta = jnp.split(self.condition(x.mean((1, 2))), 2)
            y = self.norm(self.conv(x))
            return self.out(jax.nn.relu((1 + gamma[:, None, None]) * y + beta[:, None, None]))

    return in_equinox(FiLM(jax.random.key(0)))


def in_equinox(net, x=None):
    x = image((2, 6, 8, 4)) if x is None else x
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)
    return Function(lambda a, x: jax.vmap(eqx.combine(a, rest))(x), arrays), x


@style
def wavenet():
    """Dilated causal convolutions, gated, with skips that are added up at the end."""

    class WaveNet(nnx.Module):
        def __init__(self, rngs):
            how = {"padding": "CAUSAL", "rngs": rngs}
            self.dilated = nnx.List(
                [nnx.Conv(4, 8, 2, kernel_dilation=2**i, **how) for i in range(3)]
            )
            self.mix = nnx.List([nnx.Conv(4, 4, 1, rngs=rngs) for _ in range(3)])
            self.skip = nnx.List([nnx.Conv(4, 5, 1, rngs=rngs) for _ in range(3)])
            self.end = nnx.Conv(5, 2, 1, rngs=rngs)

        def __call__(self, x):
            total = 0.0
            for dilated, mix, skip in zip(self.dilated, self.mix, self.skip, strict=True):
                a, b = jnp.split(dilated(x), 2, -1)
                y = jnp.tanh(a) * nnx.sigmoid(b)
                total = total + skip(y)
                x = x + mix(y)
            return self.end(nnx.relu(total))

    return WaveNet(nnx.Rngs(0)), image((2, 12, 4))


@style
def volumes():
    """Three spatial axes."""

    class Volumes(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(4, (3, 3, 3))(x))
            x = linen.max_pool(x, (2, 2, 2), strides=(2, 2, 2))
            x = x + linen.Conv(4, (3, 3, 3))(linen.relu(linen.BatchNorm(False)(x)))
            return linen.Dense(3)(x.mean((1, 2, 3)))

    module = Volumes()
    x = image((2, 4, 6, 4, 3))
    variables = module.init(jax.random.key(0), x)
    apply = lambda v, x: module.apply(v, x, mutable=["batch_stats"])[0]  # noqa: E731
    return Function(apply, variables), x


@style
def recurrent():
    """An LSTM by a scan over time, in Linen."""

    class LSTM(linen.Module):
        @linen.compact
        def __call__(self, x):
            y: Any = linen.RNN(linen.OptimizedLSTMCell(5))(x)
            return linen.Dense(2)(y[:, -1])

    return in_linen(LSTM(), image((2, 7, 4)))


@style
def recurrent_in_haiku():
    def net(x):
        core = hk.GRU(5)
        y: Any = hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0]
        return hk.Linear(2)(y.mean(1))

    return in_haiku(net, image((2, 7, 4)))


@style
def graph_convolution():
    """The product with a constant adjacency, between layers."""
    adjacency = jax.nn.softmax(normal((7, 7), 5))

    def apply(p, x):
        x = jax.nn.relu(adjacency @ (x @ p["w0"]))
        x = jax.nn.relu(jnp.einsum("ij,njc->nic", adjacency, x) @ p["w1"])
        return x.mean(1) @ p["w2"]

    return Function(apply, values((4, 6), (6, 5), (5, 2))), image((2, 7, 4))


@style
def siamese():
    """The halves of a batch go through one network, and are compared."""

    class Siamese(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.embed = nnx.Linear(4, 5, rngs=rngs)
            self.head = nnx.Linear(10, 1, rngs=rngs)

        def branch(self, x):
            return self.embed(nnx.relu(self.conv(x)).mean((1, 2)))

        def __call__(self, x):
            a, b = self.branch(x[..., :3]), self.branch(x[..., 3:])
            return self.head(jnp.concatenate([jnp.abs(a - b), a * b], -1))

    return Siamese(nnx.Rngs(0)), image()


@style
def pyramid():
    """Several scales by resizing, added up."""

    def apply(p, x):
        total = 0.0
        for i, (h, w) in enumerate([(8, 4), (4, 2), (2, 2)]):
            y = jax.image.resize(x, (len(x), h, w, x.shape[-1]), "bilinear")
            y = jax.nn.relu(conv(y, p[f"w{i}"]))
            total = total + jax.image.resize(y, (len(x), 8, 4, 4), "bilinear")
        return total @ p["head"]

    return Function(apply, values((3, 3, 6, 4), (3, 3, 6, 4), (3, 3, 6, 4), head=(4, 2))), image()


@style
def spectral_norm():
    """The kernel is divided by its largest singular value, found by power iteration."""

    def normed(w):
        u = jnp.ones(w.shape[-1])
        flat = w.reshape(-1, w.shape[-1])
        for _ in range(2):
            v = flat @ u
            v = v / jnp.linalg.norm(v)
            u = flat.T @ v
            u = u / jnp.linalg.norm(u)
        return w / (lax.stop_gradient(v) @ flat @ lax.stop_gradient(u))

    def apply(p, x):
        x = jax.nn.leaky_relu(conv(x, normed(p["w0"])))
        return conv(x, normed(p["w1"]), 2)

    return Function(apply, values((3, 3, 6, 4), (3, 3, 4, 3))), image()


@style
def spectral_norm_in_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.SpectralNorm(nnx.Linear(6, 5, rngs=rngs), rngs=rngs)
            self.weight_normed = nnx.WeightNorm(nnx.Linear(5, 2, rngs=rngs), rngs=rngs)

        def __call__(self, x):
            return self.weight_normed(nnx.relu(self.layer(x)))

    return Net(nnx.Rngs(0)), image()


@style
def low_rank():
    """One matrix as the product of two; and two factors one after the other."""

    def apply(p, x):
        x = jax.nn.relu(x @ (p["a"] @ p["b"]) + p["bias"])
        return (x @ p["c"]) @ p["d"]

    shapes = {"a": (6, 2), "b": (2, 6), "bias": (1, 6), "c": (6, 2), "d": (2, 5)}
    return Function(apply, values(**shapes)), image()


@style
def fourier():
    """A product with complex numbers in the frequency domain, as in an FNO."""

    def apply(p, x):
        y = jnp.fft.rfft2(x, axes=(1, 2))
        y = jnp.einsum("nhwi,hwio->nhwo", y, p["re"] + 1j * p["im"])
        y = jnp.fft.irfft2(y, s=x.shape[1:3], axes=(1, 2))
        return jax.nn.gelu(y + x @ p["w"]) @ p["out"]

    shape = (8, 3, 6, 6)
    return Function(apply, values(re=shape, im=shape, w=(6, 6), out=(6, 2))), image()


@style
def fourier_mixing():
    """FNet: the real part of a Fourier transform in place of attention."""

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.dense = nnx.Linear(6, 6, rngs=rngs)

        def __call__(self, x):
            x = self.norm(x + jnp.fft.fft2(x, axes=(1, 2)).real)
            return x + nnx.gelu(self.dense(x))

    return nnx.Sequential(Block(nnx.Rngs(0)), Block(nnx.Rngs(1))), image((2, 7, 6))


@style
def bilinear():
    """Bilinear pooling by an einsum, with signed roots and a norm."""

    def apply(p, x):
        a, b = jax.nn.relu(conv(x, p["w0"])), jax.nn.relu(conv(x, p["w1"]))
        z = jnp.einsum("nhwi,nhwj->nij", a, b) / 32
        z = z.reshape(len(x), -1)
        z = jnp.sign(z) * jnp.sqrt(jnp.abs(z) + 1e-3)
        return (z / jnp.linalg.norm(z, axis=-1, keepdims=True)) @ p["w2"]

    return Function(apply, values((3, 3, 6, 3), (3, 3, 6, 4), (12, 2))), image()


@style
def sorted_values():
    """The largest values of each channel, in order."""

    def apply(p, x):
        x = jnp.tanh(x.reshape(2, -1, 6) @ p["w0"])
        best, _ = lax.top_k(x.swapaxes(1, 2), 3)
        return jnp.sort(best.reshape(2, -1), -1) @ p["w1"]

    return Function(apply, values((6, 5), (15, 2))), image()


@style
def looked_up():
    """Vector quantisation: the nearest code, and the gradient straight through."""

    def apply(p, x):
        z = x @ p["w0"]
        distance = jnp.sum((z[..., None, :] - p["codes"]) ** 2, -1)
        code = p["codes"][jnp.argmin(distance, -1)]
        return (z + lax.stop_gradient(code - z)) @ p["w1"]

    return Function(apply, values((6, 4), (4, 2), codes=(9, 4))), image()


@style
def embedded():
    """Binned values look up an embedding, which is added to a projection."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(5, 4, rngs=rngs)
            self.dense = nnx.Linear(6, 4, rngs=rngs)
            self.out = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            bins = jnp.clip(jnp.floor(x[..., 0] + 2), 0, 4).astype(jnp.int32)
            return self.out(nnx.relu(self.dense(x) + self.embed(bins)))

    return Net(nnx.Rngs(0)), image()


@style
def half_precision():
    class Net(nnx.Module):
        def __init__(self, rngs):
            how = {"dtype": jnp.bfloat16, "rngs": rngs}
            self.conv = nnx.Conv(6, 8, (3, 3), **how)
            self.norm = nnx.GroupNorm(8, num_groups=2, **how)
            self.conv2 = nnx.Conv(8, 8, (3, 3), **how)
            self.head = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.conv(x))
            x = x + self.conv2(nnx.relu(self.norm(x)))
            return self.head(x.mean((1, 2)).astype(jnp.float32))

    return Net(nnx.Rngs(0)), image()


@style
def channels_first():
    """A plain function in NCHW with its norms by hand."""
    layout = ("NCHW", "OIHW", "NCHW")

    def block(x, w, g, b):
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        y = y - y.mean((2, 3), keepdims=True)
        y = y * lax.rsqrt((y**2).mean((2, 3), keepdims=True) + 1e-5)
        return jax.nn.relu(y * g[:, None, None] + b[:, None, None])

    def apply(p, x):
        x = block(x, **p["one"])
        x = x + block(x, **p["two"])
        return x.mean((2, 3)) @ p["head"]

    def part(i):
        return values(w=(4, (6, 4)[i], 3, 3), start=30 + i) | {"g": jnp.ones(4), "b": jnp.zeros(4)}

    return Function(apply, {"one": part(0), "two": part(1), **values(head=(4, 2))}), image(
        (2, 6, 8, 4)
    )


@style
def masked():
    """Padded places take no part in a mean."""
    mask = (jnp.arange(7) < 5).astype(jnp.float32)[None, :, None]

    def apply(p, x):
        y = jax.nn.silu(x @ p["w0"]) * mask
        y = y.sum(1) / mask.sum(1)
        return jnp.where(y > 0, y, 0.3 * jnp.expm1(y)) @ p["w1"]

    return Function(apply, values((4, 5), (5, 2))), image((2, 7, 4))


@style
def attending():
    """Attention written by hand, causal, with several heads."""

    def apply(p, x):
        q, k, v = (jnp.einsum("ntc,chd->nhtd", x, p[name]) for name in "qkv")
        score = jnp.einsum("nhtd,nhsd->nhts", q, k) / 2
        score = jnp.where(jnp.tril(jnp.ones((7, 7), bool)), score, -1e9)
        y = jnp.einsum("nhts,nhsd->nhtd", jax.nn.softmax(score), v)
        return x + jnp.einsum("nhtd,hdc->ntc", y, p["out"])

    shapes = dict.fromkeys("qkv", (4, 2, 3))
    return Function(apply, values(**shapes, out=(2, 3, 4))), image((2, 7, 4))


@style
def attending_in_equinox():
    class Block(eqx.Module):
        norm: eqx.nn.LayerNorm
        attend: eqx.nn.MultiheadAttention
        mlp: eqx.nn.MLP

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.norm = eqx.nn.LayerNorm(4)
            self.attend = eqx.nn.MultiheadAttention(2, 4, key=a)
            self.mlp = eqx.nn.MLP(4, 4, 6, 1, key=b)

        def __call__(self, x):
            y = jax.vmap(self.norm)(x)
            x = x + self.attend(y, y, y)
            return x + jax.vmap(self.mlp)(x)

    return in_equinox(Block(jax.random.key(0)), image((2, 7, 4)))


@style
def attending_in_haiku():
    def net(x):
        init = hk.initializers.VarianceScaling()
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(2, 3, w_init=init, model_size=4)(y, y, y)
        return hk.nets.MLP([6, 2])(x)

    return in_haiku(net, image((2, 7, 4)))


@style
def routed():
    """A mixture of experts: each place goes to all, weighed by a softmax."""

    def apply(p, x):
        gate = jax.nn.softmax(x @ p["gate"])
        y = jax.nn.relu(jnp.einsum("nhwc,ecf->nhwef", x, p["first"]))
        y = jnp.einsum("nhwef,efc->nhwec", y, p["second"])
        return x + jnp.einsum("nhwec,nhwe->nhwc", y, gate)

    return Function(apply, values(gate=(6, 3), first=(3, 6, 5), second=(3, 5, 6))), image()


@style
def vmapped_experts():
    """Parameters with an axis more, over which a function is mapped."""

    def one(w, b, x):
        return jax.nn.relu(x @ w + b)

    def apply(p, x):
        return jax.vmap(one, (0, 0, None))(p["w"], p["b"], x).mean(0) @ p["out"]

    return Function(apply, values(w=(3, 6, 4), b=(3, 4), out=(4, 2))), image()


@style
def maxout():
    def apply(p, x):
        x = (x @ p["w0"]).reshape(*x.shape[:-1], 4, 3).max(-1)
        a, b = jnp.split(x @ p["w1"], 2, -1)
        return jnp.maximum(a, b) @ p["w2"]

    return Function(apply, values((6, 12), (4, 8), (4, 2))), image()


@style
def nested_scans():
    """A loop over stages, each a loop over its layers."""

    table = normal((6,), 4)

    def layer(x, w):
        return x + 0.5 * table * jnp.tanh(x @ w), None

    def stage(x, w):
        x = lax.scan(layer, x, w)[0]
        return x + jnp.sin(lax.scan(layer, x, w)[0]) * table, None

    def apply(p, x):
        return lax.scan(stage, x, p["w"])[0] @ p["out"]

    return Function(apply, values(w=(2, 3, 6, 6), out=(6, 2))), image()


@style
def remat_of_blocks():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = linen.Conv(6, (3, 3))(linen.relu(linen.Conv(6, (3, 3))(x)))
            return x + y

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            for _ in range(2):
                x = linen.remat(Block)()(x)
            return linen.Dense(2)(x.mean((1, 2)))

    return in_linen(Net())


@style
def chosen_by_cond():
    """A branch is chosen by a number that the network holds."""

    def apply(p, x):
        x = lax.cond(p["deep"] > 0, lambda x: jnp.tanh(x @ p["w0"]), lambda x: x, x)
        return lax.switch(1, [lambda x: x[..., :2], lambda x: jax.nn.relu(x @ p["w1"])], x)

    return Function(apply, {**values((6, 6), (6, 2)), "deep": jnp.array(1)}), image()


@style
def deep_supervision():
    """Outputs of several depths are averaged."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(3)])
            self.heads = nnx.List([nnx.Linear(6, 2, rngs=rngs) for _ in range(3)])

        def __call__(self, x):
            found = []
            for layer, head in zip(self.layers, self.heads, strict=True):
                x = nnx.elu(layer(x))
                found.append(head(x))
            return sum(found) / len(found)

    return Net(nnx.Rngs(0)), image()


@style
def neural_cell():
    """NASNet's cells: pairs of operations on the two results before."""

    class Cell(nnx.Module):
        def __init__(self, rngs):
            self.five = nnx.Conv(6, 6, (5, 5), feature_group_count=6, rngs=rngs)
            self.three = nnx.Conv(6, 6, (3, 3), rngs=rngs)
            self.point = nnx.Conv(6, 6, (1, 1), rngs=rngs)

        def __call__(self, before, x):
            a = self.five(before) + self.three(x)
            b = nnx.avg_pool(x, (3, 3), padding="SAME") + self.point(before)
            return x, nnx.relu(a + b * 0.5)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.cells = nnx.List([Cell(rngs) for _ in range(3)])

        def __call__(self, x):
            state = (x, x)
            for cell in self.cells:
                state = cell(*state)
            return state[1]

    return Net(nnx.Rngs(0)), image()


@style
def normalised_networks():
    """Norms of many kinds, in Equinox."""

    class Net(eqx.Module):
        parts: list[Any]

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.parts = [
                eqx.nn.Conv2d(6, 4, 3, padding=1, key=a),
                eqx.nn.GroupNorm(4, 4),
                jax.nn.mish,
                eqx.nn.AvgPool2d(2, 2),
                eqx.nn.LayerNorm((4, 4, 2)),
                eqx.nn.PReLU(),
                eqx.nn.AdaptiveAvgPool2d(1),
                lambda x: x[:, 0, 0],
                eqx.nn.RMSNorm(4),
                eqx.nn.Linear(4, 2, key=b),
            ]

        def __call__(self, x):
            for part in self.parts:
                x = part(x)
            return x

    return in_equinox(Net(jax.random.key(0)))


@style
def deformed():
    """Places are read where a layer says, between the pixels."""

    def apply(p, x):
        shift = 0.3 * jnp.tanh(x @ p["offset"])
        rows = jnp.arange(8.0)[None, :, None] + shift[..., 0]
        columns = jnp.arange(4.0)[None, None, :] + shift[..., 1]

        def read(image, r, c):
            one = lambda channel: jax.scipy.ndimage.map_coordinates(channel, [r, c], 1, "nearest")  # noqa: E731
            return jax.vmap(one, -1, -1)(image)

        return jax.vmap(read)(x, rows, columns) @ p["w"]

    return Function(apply, values(offset=(6, 2), w=(6, 3))), image()


@style
def solved():
    """A ridge regression of a layer's features, by a linear solve."""

    def apply(p, x):
        z = jnp.tanh(x.reshape(2, -1, 6) @ p["w"])
        gram = jnp.einsum("nti,ntj->nij", z, z) + jnp.eye(4)
        return jnp.linalg.solve(gram, z.swapaxes(1, 2) @ jnp.ones((32, 2)))

    return Function(apply, values(w=(6, 4))), image()


@style
def accumulated():
    """A cumulative sum over time, and a state that decays (a linear recurrence)."""

    def apply(p, x):
        y = jnp.cumsum(jnp.tanh(x @ p["w0"]), 1) / 7
        decay = jax.nn.sigmoid(p["decay"])

        def combine(a, b):
            return a[0] * b[0], a[1] * b[0] + b[1]

        rate = jnp.broadcast_to(decay, y.shape)
        return lax.associative_scan(combine, (rate, y), axis=1)[1] @ p["w1"]

    return Function(apply, values((4, 5), (5, 2), decay=(5,))), image((2, 7, 4))
