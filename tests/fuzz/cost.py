"""Malformed calls of the cost of a network."""

from flax import nnx

from convjax import _cost, nn
from tests.fuzz.kinds import DTYPE, FUNCTION, integers, net, optional
from tests.fuzz.room import call

DENSE = nn.Dense(3, 2, rngs=nnx.Rngs(0))

CALLS = {
    "_cost.cost": call(
        _cost.cost,
        net=net(nn.Chain([DENSE])),
        input_shape=integers((2, 3), single=False, length=False),
        dtype=DTYPE,
        call=optional(FUNCTION._replace(valid=None)),
    ),
}
EXEMPT = {
    "_cost.price": "what modules of one's own register with; the walk calls it, users do not",
}
ACCEPTED: dict[str, str] = {}
