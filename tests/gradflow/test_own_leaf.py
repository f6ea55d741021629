"""A leaf of the user's own: in twenty lines and by public names its cost, theory and profile."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
X = jax.random.normal(jax.random.key(1), (16, 48))
KEY = jax.random.key(2)


class Slope(nn.Node):
    """A rectifier with a learned slope below zero, after a matrix of low rank."""

    def __init__(self, features, rank, slope, rngs):
        self.down = nn.Dense(features, rank, kernel_init="lecun", use_bias=False, rngs=rngs)
        self.up = nn.Dense(rank, features, kernel_init="lecun", use_bias=False, rngs=rngs)
        self.slope = nnx.Param(jnp.asarray(slope))

    def __call__(self, x, train=False, rngs=None):
        y = self.up(self.down(x))
        return jnp.where(y > 0, y, self.slope * y)


def _price(node: Slope, x, y):
    rank = node.down.kernel.shape[-1]
    return convjax.Price(multiply_adds=2 * x.size * rank, elementwise=2 * y.size)


def _expected(node: Slope, signal, scope):
    slope = scope.values(node.slope)
    rectify = nn.Activation(lambda x: jnp.where(x > 0, x, slope * x))
    backs = []
    for known in (node.down, node.up, rectify):
        signal, back = gradflow.expected(known, signal, scope)
        backs.insert(0, back)

    def hand_back(cotangent):
        for back in backs:
            cotangent = back(cotangent)
        return cotangent

    return signal, hand_back


convjax.cost.register(_price)
gradflow.expected.register(_expected)
gradflow.homogeneous.register(Slope)(lambda node: True)


def network(slope=0.2):
    rngs = nnx.Rngs(0)
    return nn.Chain(*(Slope(48, 40, slope, rngs) for _ in range(12)))


def test_its_rules_are_short():
    assert sum(len(inspect.getsource(rule).splitlines()) for rule in (_price, _expected)) <= 20


def test_its_arithmetic_is_counted():
    found = convjax.cost(network(), (16, 48))
    assert found.unknown == ()
    assert found["3"].multiply_adds == 2 * 16 * 48 * 40
    assert found["3"].flops == 2 * found["3"].multiply_adds + 2 * 16 * 48
    assert found["3"].parameters == 2 * 48 * 40 + 1
    node, shape = network()["3"], jax.ShapeDtypeStruct((16, 48), np.dtype("float32"))
    assert convjax.price(node, shape, shape).multiply_adds == found["3"].multiply_adds


def test_theory_and_measurement_agree_and_a_fault_is_found():
    net = network()
    profile = gradflow.profile(net, X, cotangent=KEY, train=False)
    prediction = gradflow.predict(net, X, train=False)
    assert prediction.unknown == () and profile.opaque
    # Every entry keeps its scale in two matrices; half of the squares are times 0.04.
    gain = 0.5 * np.log(0.5 * (1 + 0.2**2))
    assert prediction["5"].activation_gain == pytest.approx(gain, abs=0.02)
    assert gradflow.compare(profile, prediction).agrees
    other = gradflow.predict(network(0.6), X, train=False)
    assert not gradflow.compare(profile, other).agrees


class Odd(nn.Node):
    def __call__(self, x, train=False, rngs=None):
        return x


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda node, signal, scope: signal, "^the rule of Odd in gradflow.expected="),
        (lambda node, signal, scope: (signal, 3), "must be a pair"),
        (
            lambda node, signal, scope: (signal, lambda _: 3),
            "in gradflow.expected hands back=3",
        ),
    ],
)
def test_a_rule_that_gives_something_else_is_named(rule, message):
    gradflow.expected.register(Odd)(rule)
    with pytest.raises(TypeError, match=message):
        gradflow.predict(nn.Chain(odd=Odd()), (2, 3), train=False)


def test_a_price_that_is_none_is_named():
    convjax.cost.register(Odd)(lambda node, x, y: 3)
    with pytest.raises(TypeError, match=r"^the rule of Odd in cost=3 \(int\) must be a conv"):
        convjax.cost(nn.Chain(odd=Odd()), (2, 3))
