import random

from flax import nnx

from convjax import nn
from convjax.train._order import network_order


def network():
    def unit(rngs):
        return nn.Residual(nn.Chain(b=nn.Scale(1.0, learnable=True), a=nn.Activation("relu")))

    return nn.Chain(
        z=nn.Chain(conv=nn.Identity(), act=nn.Identity()),
        body=nn.Repeat(unit, 12, rngs=nnx.Rngs(0)),
        a=nn.Parallel(y=nn.Identity(), x=nn.Identity()),
    )


# As the forward pass meets them; unit 10 comes after unit 9 and not after unit 1.
FORWARD = [
    "z/conv",
    "z/act",
    *(f"body/{i}/branch/{name}" for i in range(12) for name in ("b", "a")),
    "a/y",
    "a/x",
]


def test_paths_in_any_order_are_put_into_the_order_of_the_forward_pass():
    mixed = random.Random(0).sample(FORWARD, len(FORWARD))
    assert mixed != FORWARD
    assert sorted(mixed, key=network_order(network())) == FORWARD


def test_a_unit_comes_before_what_it_holds_and_parameters_stay_in_their_order():
    mixed = ["a/x", "body/2/branch/b/value", "body/2/branch/b/other", "body/10", "body/2"]
    mixed += ["a", "z", "input"]
    expected = ["input", "z", "body/2", "body/2/branch/b/value", "body/2/branch/b/other"]
    expected += ["body/10", "a", "a/x"]
    assert sorted(mixed, key=network_order(network())) == expected
