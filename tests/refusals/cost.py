"""The cost of networks: what is no network, no shape, no count."""

import numpy as np
from flax import nnx

import convjax
from convjax import nn

NET = nn.Chain(a=nn.Conv(3, 4, 3, rngs=nnx.Rngs(0)), b=nn.Activation("relu"))
COST = convjax.cost(NET, (1, 4, 4, 3))

CASES = {
    "NumPy's shape": (
        lambda: (
            convjax.cost(NET, np.array([1, 4, 4, 3]), dtype="float32").flops == COST.flops
            and type(convjax.cost(NET, np.array([1, 4, 4, 3])).input_shape[0]) is int
        ),
        None,
    ),
    "no network": (lambda: convjax.cost("resnet18", (1, 4, 4, 3)), r"^net='resnet18' \(str\)"),
    "a class": (lambda: convjax.cost(nn.Identity, (1, 4)), "^net=<class"),
    "a number for a shape": (lambda: convjax.cost(NET, 4), r"^input_shape=4 \(int\)"),
    "half a place": (lambda: convjax.cost(NET, (1, 4.5, 4, 3)), r"^input_shape\[1\]=4\.5 \(float"),
    "no place": (
        lambda: convjax.cost(NET, (1, 0, 4, 3)),
        r"^input_shape\[1\]=0 must be at least 1",
    ),
    "one axis": (
        lambda: convjax.cost(NET, (3,)),
        r"^input_shape=\(3,\) must be \(N, \*spatial, C\)",
    ),
    "a whole dtype": (lambda: convjax.cost(NET, (1, 4, 4, 3), dtype=int), "^dtype=int64 must be"),
    "no dtype": (lambda: convjax.cost(NET, (1, 4, 4, 3), dtype="half-ish"), "^dtype='half-ish'"),
    "no dtype at all": (lambda: convjax.cost(NET, (1, 4, 4, 3), dtype=None), "^dtype=None"),
    "a number for a path": (lambda: COST[3], r"^path=3 \(int\)"),
    "half a depth": (lambda: COST.text(1.5), r"^depth=1\.5 \(float\)"),
    "no depth": (lambda: COST.text(0), "^depth=0 must be at least 1"),
    "NumPy's depth": (lambda: COST.text(np.int8(1), width=np.int64(80)) == COST.text(1), None),
    "a depth for a width": (lambda: COST.text(width=0), "^width=0 must be at least 40"),
    "half an addition": (
        lambda: convjax.Price(multiply_adds=1.5),
        r"^multiply_adds=1\.5 \(float\)",
    ),
    "less than nothing": (
        lambda: convjax.Price(elementwise=-1),
        "^elementwise=-1 must be at least",
    ),
    "sees nothing": (lambda: convjax.Price(sees=3), r"^sees=3 \(int\)"),
    "sees elsewhere": (lambda: convjax.Price(sees="al"), "^sees='al'.*did you mean 'all'"),
    "sees a number": (lambda: convjax.Price(sees=(3,)), r"^sees\[0\]=3 \(int\)"),
    "passes on a word": (lambda: convjax.Price(passes_on="no"), "^passes_on='no'"),
    "an empty window": (
        lambda: convjax.Price(sees=(convjax.Window(0),)),
        r"^sees\[0\]\.size=0 must be at least 1",
    ),
    "half a window": (
        lambda: convjax.Price(sees=(convjax.Window(3, start=0.5),)),
        r"^sees\[0\]\.start=0\.5 \(float\)",
    ),
}
