"""Repeat is the unrolled chain: in its values at birth, its outputs, its draws, its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(4).normal(size=(3, 5, 4, 2)), jnp.float32)


class Noisy(nn.Node):
    """A leaf that draws its parameters from two streams, one of them twice."""

    def __init__(self, rngs):
        self.first = nnx.Param(jax.random.normal(rngs.params(), (2,)))
        self.noise = nnx.Param(jax.random.normal(rngs.noise(), (2,)))
        self.again = nnx.Param(jax.random.normal(rngs.noise(), (2,)))

    def __call__(self, x, train=False, rngs=None):
        value = self.first[...] + self.noise[...] - self.again[...]
        return x * value.reshape((1,) * (x.ndim - 1) + (-1,))


def unit(rngs):
    """A unit with statistics, random numbers and parameters."""
    return nn.Residual(
        nn.Chain(
            norm=nn.BatchNorm(2, rngs=rngs),
            conv=nn.Conv(2, 2, (3, 2), kernel_init="he", rngs=rngs),
            drop=nn.Dropout(0.3),
            depth=nn.StochasticDepth(0.2),
        ),
        scale=0.5,
    )


def nested(rngs):
    return nn.Chain(inner=nn.Repeat(Noisy, 2, rngs=rngs), last=Noisy(rngs))


UNITS = {
    "residual": unit,
    "two streams": Noisy,
    "nested": nested,
    "orthogonal": lambda rngs: nn.Conv(2, 2, 3, kernel_init="orthogonal", rngs=rngs),
    "without parameters": lambda rngs: nn.Activation("tanh"),
}


def values(node):
    return nnx.to_pure_dict(nnx.state(node))


def counts(rngs):
    return nnx.to_pure_dict(nnx.state(rngs, nnx.RngCount))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), a, b)


@pytest.mark.every(2)
@pytest.mark.parametrize("name", sorted(UNITS))
@pytest.mark.parametrize("n", [1, 2, 5])
def test_initial_values_and_what_is_drawn_afterwards_are_those_of_the_chain(name, n):
    streams = {"params": 1, "noise": 2, "default": 3}
    ours, theirs = nnx.Rngs(**streams), nnx.Rngs(**streams)
    for rngs in (ours, theirs):
        rngs.noise()  # what was drawn before must count too
    repeat = nn.Repeat(UNITS[name], n, rngs=ours)
    chain = nn.Chain([UNITS[name](theirs) for _ in range(n)])
    assert len(repeat) == n
    assert_equal(values(repeat.unrolled()), values(chain))
    assert_equal(counts(ours), counts(theirs))
    assert_equal(values(Noisy(ours)), values(Noisy(theirs)))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["residual", "nested"])
def test_outputs_statistics_and_draws_are_those_of_the_chain(name, train):
    repeat = nn.Repeat(UNITS[name], 4, rngs=nnx.Rngs(1, noise=2))
    chain = repeat.unrolled()
    ours, theirs = nnx.Rngs(dropout=7), nnx.Rngs(dropout=7)
    for _ in range(2):  # the second call starts from statistics and streams that have moved
        assert_close(repeat(IMAGE, train=train, rngs=ours), chain(IMAGE, train=train, rngs=theirs))
    assert_close(values(repeat.unrolled()), values(chain))
    assert_equal(counts(ours), counts(theirs))
    assert int(ours.dropout.count[...]) == (16 if train and name == "residual" else 0)


def test_gradients_are_those_of_the_chain():
    def slopes(node):
        graphdef, params, rest = nnx.split(node, nnx.Param, ...)

        def loss(params, x):
            net = nnx.merge(graphdef, params, rest, copy=True)
            return jnp.sum(net(x, train=True, rngs=nnx.Rngs(dropout=7)) ** 3)

        return jax.jit(jax.grad(loss, (0, 1)))(params, IMAGE)

    repeat = nn.Repeat(unit, 4, rngs=nnx.Rngs(1))
    ours, for_input = slopes(repeat)
    theirs, expected = slopes(repeat.unrolled())
    assert_close(for_input, expected)
    for i in range(4):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], nnx.to_pure_dict(ours)["unit"])
        assert_close(own, nnx.to_pure_dict(theirs)[str(i)])


@pytest.mark.parametrize("name", ["residual", "nested"])
def test_unrolling_and_stacking_are_inverse(name):
    repeat = nn.Repeat(UNITS[name], 3, rngs=nnx.Rngs(1, noise=2))
    again = nn.Repeat.stacked(repeat.unrolled())
    assert nnx.split(again)[0] == nnx.split(repeat)[0]
    assert_equal(values(again), values(repeat))


def test_units_that_cannot_be_stacked_are_named():
    def conv(**options):
        return nn.Conv(2, 2, **{"kernel_size": 3, "rngs": nnx.Rngs(0), **options})

    for other in ({"kernel_size": 5}, {"strides": 2}, {"param_dtype": jnp.bfloat16}):
        with pytest.raises(
            ValueError, match=r"unit 'b' differs in structure, shape or dtype .* 'a'"
        ):
            nn.Repeat.stacked(nn.Chain(a=conv(), b=conv(**other)))


def test_units_are_picked_as_copies():
    repeat = nn.Repeat(unit, 3, rngs=nnx.Rngs(1))
    picked, kernels = repeat[-1].branch["conv"], repeat.unit.branch["conv"].kernel[...]
    np.testing.assert_array_equal(picked.kernel[...], kernels[2])
    picked.kernel[...] = 0 * picked.kernel[...]
    np.testing.assert_array_equal(repeat.unit.branch["conv"].kernel[...], kernels)
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"unit {i} of a Repeat of 3"):
            repeat[i]


def test_units_may_hold_keys_of_their_own():
    class Keyed(nn.Node):
        def __init__(self, rngs):
            self.own = rngs.fork()

        def __call__(self, x, train=False, rngs=None):
            return x

    repeat = nn.Repeat(Keyed, 3, rngs=nnx.Rngs(1))
    assert repeat.unit.own.params.key[...].shape == (3,)


def test_a_repeat_is_made_under_jit_and_under_vmap_over_seeds():
    def make(key):
        return values(nn.Repeat(unit, 3, rngs=nnx.Rngs(key)))

    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(make))(keys)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_close(own, make(keys[i]))


def test_a_unit_that_changes_its_input_is_refused():
    for change, message in (
        (lambda rngs: nn.Conv(2, 3, 3, rngs=rngs), r"a unit \(Conv\) makes \(\(3, 5, 4, 3\), .*of"),
        (lambda rngs: nn.Pool("max", (2, 2)), r"\(Pool\) makes \(\(3, 2, 2, 2\), .* shape and dty"),
        (lambda rngs: nn.LayerNorm(2, dtype=jnp.float16, rngs=rngs), "makes .*float16.* keep sha"),
    ):
        with pytest.raises(ValueError, match=f"Repeat: .*{message}"):
            nn.Repeat(change, 3, rngs=nnx.Rngs(0))(IMAGE)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        nn.Repeat(unit, 0, rngs=nnx.Rngs(0))


def test_what_is_compiled_does_not_grow_with_n():
    def size(n):
        def run(x):
            net = nn.Repeat(unit, n, rngs=nnx.Rngs(0))
            return jax.grad(lambda x: jnp.sum(net(x)))(x)

        return len(jax.jit(run).lower(IMAGE).as_text().splitlines())

    assert size(1000) == size(10)


def test_a_network_that_jax_closes_over_is_read_and_not_written():
    repeat, rngs = nn.Repeat(unit, 3, rngs=nnx.Rngs(0)), nnx.Rngs(dropout=7)
    slope = jax.grad(lambda x: jnp.sum(repeat(x, rngs=rngs) ** 3))(IMAGE)
    chain = repeat.unrolled()
    assert_close(slope, jax.grad(lambda x: jnp.sum(chain(x) ** 3))(IMAGE))


def test_an_interpreter_scans_with_a_carry_and_a_slice_for_every_unit():
    repeat = nn.Repeat(Noisy, 4, rngs=nnx.Rngs(1, noise=2))
    factors = jnp.arange(1.0, 5.0)

    def step(unit, carry, rngs, factor):
        x, count = carry
        return (unit(x) * factor, count + 1), jnp.sum(x)

    (y, count), seen = repeat.scan(step, (IMAGE, jnp.asarray(0)), xs=factors)
    assert int(count) == 4 and seen.shape == (4,)
    x, sums = IMAGE, []
    for factor, node in zip(factors, repeat.unrolled(), strict=True):
        sums.append(jnp.sum(x))
        x = node(x) * factor
    assert_close((y, seen), (x, jnp.stack(sums)))
