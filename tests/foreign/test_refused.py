"""What is given in place of a network is refused with what would serve, and that advice works.

Under these tests' import hook a wrong type never reaches a measurement, so the sentences are asked
for where they are made.
"""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import convjax
from convjax import _foreign, gradflow, nn
from tests.foreign.odd import Net, x_of
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(x)


LINEN, X = Linen(), np.random.default_rng(0).standard_normal((3, 4), np.float32)
VARIABLES = LINEN.init(jax.random.key(0), X)
EQUINOX = eqx.nn.Linear(4, 2, key=jax.random.key(0))
HAIKU = hk.transform(lambda x: hk.Linear(2)(x))
LAYER = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
PAIR = ((lambda p, x: jnp.tanh(x @ p)), jnp.ones((4, 2)))
STATE = TrainState.create(apply_fn=LINEN.apply, params=VARIABLES["params"], tx=optax.sgd(0.1))


class Model:
    """Stands in for another package's class."""

    def __call__(self, x):
        return x


def like(module):
    return type("Model", (Model,), {"__module__": module})()


def vmapped(arrays, rest):
    return nn.Function(lambda a, x: jax.vmap(eqx.combine(a, rest))(x), arrays)


def unbound(bound):
    module, variables = bound.unbind()
    return nn.Function(lambda v, x: module.apply(v, x), variables)


def of_haiku():
    params = HAIKU.init(jax.random.key(0), X)
    return nn.Function(lambda p, x: HAIKU.apply(p, None, x), params)


# What is given, what the sentence must hold, and the advice as it is followed.
CASES = {
    "a class": (Net, r"its instance is: Net\(…, rngs=nnx.Rngs\(0\)\)", None),
    "Linen without variables": (
        LINEN,
        r"net\.apply\(v, x\), variables\), with variables = net\.init\(key, x\)",
        lambda: nn.Function(lambda v, x: LINEN.apply(v, x), VARIABLES),
    ),
    "Linen bound": (
        LINEN.bind(VARIABLES),
        r"net\.unbind\(\)",
        lambda: unbound(LINEN.bind(VARIABLES)),
    ),
    "Linen and its variables": (
        (LINEN, VARIABLES),
        r"module\.apply\(v, x\), variables\)",
        lambda: nn.Function(lambda v, x: LINEN.apply(v, x), VARIABLES),
    ),
    "Linen's TrainState": (
        STATE,
        r"net\.apply_fn\(\{'params': p\}, x\), net\.params",
        lambda: nn.Function(lambda p, x: STATE.apply_fn({"params": p}, x), STATE.params),
    ),
    "Equinox": (
        EQUINOX,
        r"eqx\.partition\(net, eqx\.is_array\).*jax\.vmap",
        lambda: vmapped(*eqx.partition(EQUINOX, eqx.is_array)),
    ),
    "Equinox in two parts": (
        eqx.partition(EQUINOX, eqx.is_array),
        r"arrays, rest = net, then .*jax\.vmap",
        lambda: vmapped(*eqx.partition(EQUINOX, eqx.is_array)),
    ),
    "Haiku without parameters": (HAIKU, r"net\.apply\(p, None, x\), params\)", of_haiku),
    "Keras": (like("keras.src.models"), r"net\.stateless_call\(p, rest, x\)\[0\]", None),
    "PyTorch": (like("torch.nn.modules"), r"models\.create and load its weights", None),
    "a function and parameters": (
        PAIR,
        r"nn\.Function\(apply, params\)",
        lambda: nn.Function(*PAIR),
    ),
    "parameters alone": (VARIABLES, "parameters alone are no network", None),
    "split": (
        nnx.split(LAYER),
        r"nnx\.merge\(graphdef, state\)",
        lambda: nnx.merge(*nnx.split(LAYER)),
    ),
    "a state": (nnx.state(LAYER), r"nnx\.merge\(graphdef, state\)", None),
    "layers": ([LAYER, jax.nn.relu], r"nnx\.Sequential\(\*layers\)", lambda: nnx.Sequential(LAYER)),
    "a name": ("resnet18", r"models\.create\(name, rngs=nnx\.Rngs\(0\)\)", None),
    "within nnx.jit": (nnx.jit(LAYER), "give the network itself, it is compiled", lambda: LAYER),
    "within jax.jit": (jax.jit(jnp.tanh), r"nn\.Function\(apply, params\), called as", None),
    "a method": (LAYER.__call__, "give the network itself, and call=", lambda: LAYER),
    "a lambda": (lambda x: x, r"nn\.Function\(apply, params\), called as apply", None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_says_what_serves_and_that_is_measured(name):
    given, message, follow = CASES[name]
    with pytest.raises(_foreign._check.WrongTypeError, match=message) as refused:
        _foreign.module("net", given, "a network")
    told = str(refused.value)
    assert told.startswith("net=") and "must be a network; " in told and "\n" not in told
    if follow is not None:
        assert nn.read(follow(), X).labels


def measured(net, x, **options):
    return gradflow.profile(net, x, cotangent=jax.random.key(0), **options)


def test_a_network_without_values_is_priced_and_predicted_and_not_measured():
    net, x = nnx.eval_shape(Net), x_of()
    assert convjax.cost(net, x.shape).parameters == 3 * 27 + 3
    with pytest.raises(ValueError, match=r"net: 'conv/.*' is a shape without values"):
        measured(net, x)


def test_a_network_that_was_donated_is_named():
    net, x = Net(), x_of()
    net.conv.kernel.get_value().delete()
    with pytest.raises(ValueError, match=r"'conv/kernel' was deleted, .* donate_argnums"):
        measured(net, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"call": lambda net: net}, "cannot be called as call.net, x. .*positional arg"),
        ({"call": lambda net, x: None}, "net returns None, and must return one array"),
        ({"call": lambda net, x: (net(x), 1)}, r"net returns \(float32.*call=lambda net, x: net"),
        ({"call": lambda net, x: net(jnp.moveaxis(x, -1, 1))}, "cannot be called .*shape"),
    ],
)
def test_a_call_that_does_not_serve_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        measured(Net(), x_of(), **options)
