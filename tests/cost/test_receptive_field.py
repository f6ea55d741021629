"""Receptive fields: by hand, and against what a gradient finds on real images."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import nn
from tests.nn.conftest import quick_compilation as quick_compilation

LENGTH = 64


def conv(size, strides=1, dilation=1, padding="SAME"):
    """Return a one-dimensional convolution."""
    return nn.Conv(
        1,
        1,
        (size,),
        strides=strides,
        kernel_dilation=dilation,
        padding=padding,
        rngs=nnx.Rngs(0),
    )


def up(size, strides, padding="SAME", **options):
    options |= {"strides": strides, "padding": padding, "rngs": nnx.Rngs(0)}
    return nn.ConvTranspose(1, 1, (size,), **options)


def abstract(make):
    """Make a network of shapes, which no initialiser has to fill."""
    return nnx.eval_shape(make)


def around():
    """Return a unit that keeps the shape by way of another resolution."""
    return nn.Chain(down=conv(3, 2), up=up(4, 2), mix=conv(2))


def seen(net, shape):
    """Return which places of the input every place of the output depends on, by its gradient."""
    graphdef, state = nnx.split(net)
    generator = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(0.5, 1, leaf.shape), leaf.dtype), state
    )
    x = jnp.asarray(generator.uniform(0.5, 1, shape), jnp.float32)

    def of_image(x):
        return nnx.merge(graphdef, state)(x)[0].sum(-1)

    return np.asarray(jax.jit(jax.jacrev(of_image))(x))[..., 0, :, 0] != 0


def measured(net, length=LENGTH):
    """Return the widest span of input places, and their step, away from the borders."""
    rows = seen(net, (1, length, 1))
    middle = range(len(rows) // 4, len(rows) * 3 // 4)
    spans = [np.flatnonzero(rows[place])[[0, -1]] for place in middle]
    size = max(last - first + 1 for first, last in spans)
    steps = (len(spans) - 1) // 6 * 6  # whole periods
    return size, (spans[steps][0] - spans[0][0]) / steps


CASES = {
    "one window": (lambda: conv(5), 5, 1),
    "holes": (lambda: conv(3, dilation=4), 9, 1),
    "vgg": (
        lambda: nn.Chain([conv(3), conv(3), nn.Pool("max", (2,)), conv(3), conv(3)]),
        # 1 + 2 + 2, then 1 more by the pool, then twice 2 places two apart
        6 + 4 + 4,
        2,
    ),
    "strides and padding by numbers": (
        lambda: nn.Chain([conv(4, 2, padding=((2, 0),)), conv(3, 1, padding=1)]),
        4 + 2 * 2,
        2,
    ),
    "average pool that overlaps": (
        lambda: nn.Chain([nn.Pool("avg", (3,), strides=2, padding="SAME_LOWER"), conv(2)]),
        3 + 2,
        2,
    ),
    "transposed alone": (lambda: up(5, 2), 3, 0.5),
    "transposed, even window": (lambda: nn.Chain([up(4, 2, padding=1), conv(3)]), 3, 0.5),
    "transposed and dilated": (
        lambda: nn.Chain(up(3, 2, 1, kernel_dilation=3, output_padding=2), conv(3)),
        None,
        0.5,
    ),
    "transposed after a stride": (lambda: nn.Chain([conv(3, 2), up(2, 2), conv(3)]), 5, 1),
    "transposed by three": (lambda: nn.Chain([up(3, 3, padding="VALID"), conv(2, 2)]), 2, 2 / 3),
    "residual": (
        lambda: nn.Chain([conv(2), nn.Residual(nn.Chain([conv(3, padding="SAME"), conv(5)]))]),
        2 + 2 + 4,
        1,
    ),
    "sides that look apart": (
        # What one side sees lies before the place, what the other sees behind it.
        lambda: nn.Parallel([conv(4, padding=((3, 0),)), conv(3, padding=((0, 2),))]),
        6,
        1,
    ),
    "sides padded by name": (
        lambda: nn.Parallel([conv(5), conv(5, padding="CAUSAL")]),
        2 + 1 + 4,
        1,
    ),
    "even windows padded by name": (
        lambda: nn.Parallel([conv(4, padding="SAME_LOWER"), conv(4)]),
        5,
        1,
    ),
    "sides without a border": (
        lambda: nn.Parallel([conv(6, padding="CIRCULAR"), conv(5, padding="CAUSAL"), conv(2)]),
        4 + 1 + 3,
        1,
    ),
    "transposed sides padded by name": (
        lambda: nn.Parallel(
            [up(4, 2, "SAME_LOWER"), up(3, 2, "CAUSAL"), up(7, 2, "CIRCULAR"), up(5, 2)]
        ),
        None,
        0.5,
    ),
    "strided shortcut": (
        lambda: nn.Residual(conv(3, 2, padding=1), nn.ZeroPadShortcut(1, 1, strides=2)),
        3,
        2,
    ),
    "gate": (lambda: nn.Residual(conv(1), nn.Gate(1, kernel_size=(7,), rngs=nnx.Rngs(0))), 7, 1),
    "around and around": (lambda: nn.Chain([around(), around()]), None, 1),
    "resolutions side by side": (
        lambda: nn.Parallel([around(), nn.Chain([up(3, 2), conv(3, 2)])]),
        None,
        1,
    ),
}


@pytest.mark.every(2)
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", CASES)
def test_receptive_field_is_what_a_gradient_finds(name):
    make, size, stride = CASES[name]
    net = abstract(make)
    found = convjax.cost(net, (1, LENGTH, 1))
    assert (found.total.receptive_field[0], found.total.stride[0]) == measured(net)
    assert found.total.stride == (stride,)
    assert size is None or found.total.receptive_field.tolist() == [size]


def test_random_chains_by_enumeration():
    generator = np.random.default_rng(1)
    widest = 0
    for _ in range(25):
        layers = [tuple(generator.integers((1, 1, 1), (6, 4, 3))) for _ in range(4)]
        layers = [tuple(map(int, layer)) for layer in layers]
        transposed = generator.random(4) < 0.4
        units, steps = [], []
        for (size, stride, dilation), is_up in zip(layers, transposed, strict=True):
            if is_up:
                size = max(size, stride)
                units.append((up, size, stride, "VALID"))
                steps.append((size, 1, 1 - size, stride))
            else:
                units.append((conv, size, stride, dilation, 1))
                steps.append((dilation * (size - 1) + 1, stride, -1, 1))
        net = abstract(lambda units=units: nn.Chain([make(*options) for make, *options in units]))
        found = convjax.cost(net, (1, 4000, 1)).total
        assert found.receptive_field.tolist() == [enumerated(steps)], units
        assert math.isclose(found.stride[0], math.prod(s / u for _, s, _, u in steps))
        widest = max(widest, found.receptive_field[0])
    assert widest > 40


def enumerated(steps):
    """Walk every output's window back through the layers, and return the widest."""
    sizes = []
    for place in range(2 * math.prod(u for *_, u in steps)):
        low = high = place
        for size, stride, start, spread in reversed(steps):
            # Places of the spread input, of which every spread-th one is an input.
            low, high = stride * low + start, stride * high + start + size - 1
            inputs = [i for i in range(low, high + 1) if i % spread == 0]
            low, high = inputs[0] // spread, inputs[-1] // spread
        sizes.append(high - low + 1)
    return max(sizes)


@pytest.mark.usefixtures("quick_compilation")
def test_each_axis_has_a_field_of_its_own():
    def make():
        rngs = nnx.Rngs(0)
        return nn.Chain(
            a=nn.Conv(2, 3, (3, 2), strides=(2, 1), rngs=rngs),
            b=nn.Pool("avg", (1, 3), strides=(1, 2), padding="SAME"),
            c=nn.DepthwiseConv(3, (2, 3), kernel_dilation=(3, 1), rngs=rngs),
        )

    net = abstract(make)
    found = convjax.cost(net, (1, 30, 26, 2)).total
    assert found.receptive_field.tolist() == [3 + 3 * 2, 2 + 2 + 2 * 2]
    assert found.stride == (2, 2)
    graphdef, state = nnx.split(net)
    generator = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(0.5, 1, leaf.shape), leaf.dtype), state
    )
    x = jnp.asarray(generator.normal(size=(1, 30, 26, 2)), jnp.float32)

    def middle(x):
        return nnx.merge(graphdef, state)(x)[0, 7, 6].sum()

    touched = np.asarray(jax.jit(jax.grad(middle))(x)).any((0, 3))
    for axis, places in enumerate(np.nonzero(touched)):
        assert places.max() - places.min() + 1 == found.receptive_field[axis]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.GlobalPool("avg", keepdims=True),
        lambda: nn.SqueezeExcite(1, 1, rank=1, rngs=nnx.Rngs(0)),
        lambda: nn.GroupNorm(1, num_groups=1, rngs=nnx.Rngs(0)),
    ],
    ids=["global pool", "squeeze", "group norm"],
)
def test_what_looks_everywhere_sees_the_whole_image(make):
    net = abstract(lambda: nn.Chain([conv(3, 2), make(), conv(1)]))
    assert seen(net, (1, 12, 1)).all()
    found = convjax.cost(net, (1, 12, 1))
    assert found["0"].receptive_field.tolist() == [3]
    assert found.total.receptive_field.tolist() == [math.inf]
    assert found.total.stride == (math.inf if found.total.output_shape[1] == 1 else 2,)


def test_whatever_follows_a_leaf_that_looks_everywhere_does_so_too():
    def unit(rngs):
        return nn.Chain(conv=conv(3), norm=nn.GroupNorm(1, num_groups=1, rngs=rngs))

    found = convjax.cost(abstract(lambda: nn.Repeat(unit, 3, rngs=nnx.Rngs(0))), (1, 12, 1))
    assert found["*/conv"].receptive_field.tolist() == [[3], [math.inf], [math.inf]]
    assert found["*/conv"].stride == (1,)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_units_of_a_repeat_that_change_resolution_inside(n):
    def repeated():
        body = nn.Repeat(lambda rngs: around(), n, rngs=nnx.Rngs(0))
        return nn.Chain(stem=conv(3, 2), body=body)

    def chained():
        return nn.Chain(stem=conv(3, 2), body=nn.Chain([around() for _ in range(n)]))

    found, expected = (convjax.cost(abstract(make), (1, LENGTH, 1)) for make in (repeated, chained))
    for i, (name, _) in itertools.product(range(n), abstract(around).items()):
        path = f"body/{i}/{name}"
        assert found[path].receptive_field.tolist() == expected[path].receptive_field.tolist()
    assert found.total.receptive_field.tolist() == expected.total.receptive_field.tolist()
    assert found.total.stride == expected.total.stride == (2,)


def test_a_stride_on_a_single_place():
    net = abstract(lambda: nn.Repeat(lambda rngs: conv(3, 2), 3, rngs=nnx.Rngs(0)))
    found = convjax.cost(net, (1, 1, 1))
    assert found["*"].receptive_field.tolist() == [[3], [math.inf], [math.inf]]
    both = abstract(lambda: nn.Residual(conv(3, 2)))
    assert convjax.cost(both, (1, 1, 1)).total.receptive_field.tolist() == [3]


def test_a_vector_has_no_receptive_field():
    found = convjax.cost(abstract(lambda: nn.Dense(3, 4, rngs=nnx.Rngs(0))), (2, 3))
    assert found.total.receptive_field.shape == (0,) and found.total.stride == ()
    assert "field" not in str(found)
