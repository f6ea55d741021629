"""Malformed and odd modules: which are served, and which are refused in one sentence.

``CASES`` holds, by name, a function that makes ``(net, x, options)``, the arguments of
``gradflow.profile`` besides its cotangent, and what is expected of it: SERVED, or REFUSED with a
pattern that the message must hold.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.foreign.arrays import normal

SHAPE = (2, 5, 4, 3)
SERVED, REFUSED = "served", "refused"


class Case(NamedTuple):
    """How an odd network is made, and what is expected."""

    make: Callable[[], tuple[Any, Any, dict[str, Any]]]
    expected: str
    message: str = ""


CASES: dict[str, Case] = {}


def served(make):
    """Note a case that is measured like any other."""
    CASES[make.__name__] = Case(make, SERVED)
    return make


def refused(message):
    """Note a case that is refused with a message that matches."""

    def note(make):
        CASES[make.__name__] = Case(make, REFUSED, message)
        return make

    return note


class Net(nnx.Module):
    """A convolution and then whatever a case does."""

    def __init__(self, then=None, **attributes):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))
        self.then = then or (lambda y: y)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x):
        return self.then(self.conv(x))


def x_of(shape=SHAPE, dtype=jnp.float32):
    return normal(shape, 3, dtype)


# Outputs.


@refused("tuple|one array")
def output_a_tuple():
    return Net(lambda y: (y, y)), x_of(), {}


@refused("dict|one array")
def output_a_dict():
    return Net(lambda y: {"logits": y}), x_of(), {}


@refused("float|int")
def output_of_integers():
    return Net(lambda y: jnp.argmax(y, -1)), x_of(), {}


@refused("None|one array")
def output_none():
    return Net(lambda y: None), x_of(), {}


@refused("depend")
def output_without_the_input():
    return Net(lambda y: jnp.ones((2, 3))), x_of(), {}


@refused("depend|float|int")
def output_that_is_cut_off():
    return Net(jax.lax.stop_gradient), x_of(), {}


@served
def output_a_scalar():
    return Net(jnp.sum), x_of(), {}


@served
def output_the_input():
    class Same(nnx.Module):
        def __call__(self, x):
            return x

    return Same(), x_of(), {}


# What is given in place of a network.


@refused("__call__|call")
def a_module_without_call():
    class Silent(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))

        def forward(self, x):
            return self.conv(x)

    return Silent(), x_of(), {}


@served
def a_module_without_call_and_how_to_call_it():
    net, x, _ = a_module_without_call()
    return net, x, {"call": lambda net, x: net.forward(x)}


@refused("net")
def a_class():
    return Net, x_of(), {}


@refused("net")
def a_function():
    return lambda x: x, x_of(), {}


@refused("x")
def two_inputs():
    class Two(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))

        def __call__(self, x, context):
            return self.conv(x) + context

    return Two(), x_of(), {}


@served
def two_inputs_and_how_to_call_it():
    net, x, _ = two_inputs()
    context = x_of((2, 5, 4, 3))
    return net, x, {"call": lambda net, x: net(x, context)}


@refused("shape|channels|features")
def wrong_channels():
    return Net(), x_of((2, 5, 4, 7)), {}


# Modes and random numbers.


class Moded(nnx.Module):
    def __init__(self, **options):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))
        self.bn = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x, train):
        return self.bn(self.conv(x), use_running_average=not train)


@refused("train")
def a_mode_is_needed():
    return Moded(), x_of(), {}


@refused("train")
def a_mode_is_given_to_none():
    return Net(), x_of(), {"train": True}


class Dropping(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return self.dropout(self.conv(x), deterministic=False, rngs=rngs)


@refused("rngs")
def random_numbers_are_needed():
    return Dropping(), x_of(), {}


@served
def random_numbers_are_given():
    return Dropping(), x_of(), {"rngs": nnx.Rngs(4)}


@refused("rngs")
def random_numbers_are_required_by_the_call():
    class Required(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))

        def __call__(self, x, rngs):
            return self.conv(x) * jax.random.bernoulli(rngs.dropout(), 0.5, x.shape)

    return Required(), x_of(), {}


@served
def a_dropout_key_inside():
    key = jax.random.key(3)
    return Net(lambda y: y * jax.random.bernoulli(key, 0.5, y.shape)), x_of(), {}


# Attributes.


@dataclasses.dataclass
class Config:
    """Plain, and so without a hash."""

    rate: float = 0.5


@served
def attribute_a_plain_list():
    return Net(sizes=nnx.static([3, 3])), x_of(), {}


@served
def attribute_a_dict():
    return Net(options=nnx.static({"a": [1, 2]})), x_of(), {}


@served
def attribute_a_dataclass():
    return Net(config=Config()), x_of(), {}


@served
def attribute_a_numpy_array():
    return Net(mean=np.arange(3.0)), x_of(), {}


@served
def attribute_a_jax_array():
    net = Net(mean=jnp.arange(3.0))
    return net, x_of(), {"call": lambda net, x: net(x) - net.mean}


@served
def closed_over_arrays():
    weight = normal((3, 3), 9)
    return Net(lambda y: jax.nn.relu(y @ weight)), x_of(), {}


class Shared(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))
        self.again = self.conv

    def __call__(self, x):
        return self.again(jax.nn.relu(self.conv(x)))


@served
def a_shared_module():
    return Shared(), x_of(), {}


@served
def a_shared_parameter():
    class Tied(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.second = nnx.Linear(3, 3, rngs=nnx.Rngs(1))
            self.second.kernel = self.first.kernel

        def __call__(self, x):
            return self.second(jax.nn.tanh(self.first(x)))

    return Tied(), x_of(), {}


@served
def an_unused_parameter():
    return Net(unused=nnx.Linear(3, 3, rngs=nnx.Rngs(2))), x_of(), {}


@served
def no_parameters():
    class Bare(nnx.Module):
        def __call__(self, x):
            return jax.nn.relu(x) + 0.5 * x

    return Bare(), x_of(), {}


# Control flow and rules.


@served
def a_cond():
    return (
        Net(lambda y: jax.lax.cond(jnp.sum(y) > 0, jax.nn.relu, lambda y: 2 * y, y)),
        x_of(),
        {},
    )


@refused("while|reverse")
def a_while_loop():
    def body(state):
        i, y = state
        return i + 1, 0.9 * y

    return (
        Net(lambda y: jax.lax.while_loop(lambda s: s[0] < 3, body, (0, y))[1]),
        x_of(),
        {},
    )


@served
def a_fori_loop():
    return Net(lambda y: jax.lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y), y)), x_of(), {}


@served
def a_scan_over_the_signal():
    def step(carry, row):
        carry = jnp.tanh(carry + row)
        return carry, carry

    return (
        Net(lambda y: jax.lax.scan(step, jnp.zeros((4, 3)), y.reshape(10, 4, 3))[1]),
        x_of(),
        {},
    )


@jax.custom_vjp
def clipped(y):
    return y


clipped.defvjp(lambda y: (y, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@jax.custom_vjp
def doubled_back(y):
    return jnp.tanh(y)


doubled_back.defvjp(lambda y: (jnp.tanh(y), None), lambda _, g: (2 * g,))


@served
def a_rule_of_its_own():
    """Linear in the cotangent, as every derivative is, but not the derivative."""
    return Net(doubled_back), x_of(), {}


@jax.custom_jvp
def softer(y):
    return jnp.where(y > 0, y, 0.0)


softer.defjvp(lambda p, t: (softer(p[0]), t[0] * jax.nn.sigmoid(p[0])))


@served
def a_forward_rule_of_its_own():
    return Net(softer), x_of(), {}


@served
def jit_inside():
    return Net(jax.jit(lambda y: jax.nn.relu(y) + y)), x_of(), {}


@served
def remat_inside():
    return Net(jax.checkpoint(lambda y: jax.nn.relu(jnp.sin(y)))), x_of(), {}


@served
def vmap_inside():
    return Net(jax.vmap(lambda y: jax.nn.softmax(y.reshape(-1)))), x_of(), {}


@served
def a_stopped_part():
    return Net(lambda y: 0.3 * y + jax.lax.stop_gradient(0.7 * y)), x_of(), {}


@served
def a_python_side_effect():
    """State that moves on with every call: the network must be left as it was."""

    class Counting(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))
            self.calls = 0
            self.seen = nnx.BatchStat(jnp.zeros(()))

        def __call__(self, x):
            self.calls += 1
            self.seen[...] = self.seen[...] + 1
            return self.conv(x)

    return Counting(), x_of(), {}


@refused("concret|traced|value|bool")
def python_control_flow_on_values():
    return Net(lambda y: y if y.sum() > 0 else -y), x_of(), {}


@refused("axis|batch")
def an_axis_name_that_is_not_bound():
    net = Net()
    net.bn = nnx.BatchNorm(3, axis_name="batch", rngs=nnx.Rngs(0))
    return net, x_of(), {"call": lambda net, x: net.bn(net.conv(x))}


# Numbers.


@refused("float|int")
def input_of_integers():
    return Net(), jnp.ones(SHAPE, jnp.int32), {}


@refused("complex|float")
def complex_numbers():
    return Net(lambda y: jnp.fft.fft(y)), x_of(), {}


@served
def complex_numbers_inside():
    return Net(lambda y: jnp.abs(jnp.fft.fft(y))), x_of(), {}


@refused("NaN|finite")
def weights_that_are_no_numbers():
    net = Net()
    net.conv.kernel[...] = net.conv.kernel[...] * jnp.nan
    return net, x_of(), {}


@served
def half_precision():
    net = Net()
    net.conv = nnx.Conv(3, 3, (3, 3), dtype=jnp.float16, param_dtype=jnp.float16, rngs=nnx.Rngs(0))
    return net, x_of(dtype=jnp.float16), {}


@refused("empty|batch|0")
def an_empty_batch():
    return Net(), x_of((0, 5, 4, 3)), {}


@refused("x")
def no_array():
    return Net(), "image", {}


def plainly(options):
    """Return how a case is called where it does not say so itself."""

    def call(net, x):
        return net(x, rngs=nnx.Rngs(4)) if "rngs" in options else net(x)

    return call
