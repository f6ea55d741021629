"""Malformed calls of ``convjax.nn.initializers``: the makers, and what they make."""

import jax
import jax.numpy as jnp

from convjax.nn import initializers
from tests.fuzz.kinds import DTYPE, INIT, KEY, Kind, choice, integer, integers, number
from tests.fuzz.room import call

groups = integer(1, least=1)
gain = number(1.0)
shape = integers((3, 3, 2, 4), least=0, single=False, length=False)


def made(maker):
    """Return a function that makes an initialiser and applies it."""

    def apply(key, shape, dtype, **options):
        return maker(**options)(key, shape, dtype)

    return apply


drawn = {"key": KEY, "shape": shape, "dtype": DTYPE}
keyless = drawn | {"key": Kind(jax.random.key(0), {})}

CALLS = {
    "nn.initializers.Constant": call(made(initializers.Constant), value=gain, **keyless),
    "nn.initializers.DeltaOrthogonal": call(
        made(initializers.DeltaOrthogonal), gain=gain, feature_group_count=groups, **drawn
    ),
    "nn.initializers.Dirac": call(
        made(initializers.Dirac), gain=gain, feature_group_count=groups, **keyless
    ),
    "nn.initializers.Orthogonal": call(
        made(initializers.Orthogonal), gain=gain, feature_group_count=groups, **drawn
    ),
    "nn.initializers.VarianceScaling": call(
        made(initializers.VarianceScaling),
        scale=number(1.0, above=0.0),
        mode=choice("fan_in"),
        distribution=choice("normal"),
        feature_group_count=groups,
        **drawn,
    ),
    "nn.initializers.fans": call(initializers.fans, shape=shape, feature_group_count=groups),
    "nn.initializers.for_groups": call(
        lambda init, feature_group_count: (
            type(initializers.for_groups(init, feature_group_count)).__name__
        ),
        init=INIT._replace(valid=initializers.he_normal(), same={}),
        feature_group_count=groups,
    ),
    "nn.initializers.get": call(
        lambda init: initializers.get(init)(jax.random.key(0), (2, 3), jnp.float32), init=INIT
    ),
    "nn.initializers.he_normal": call(made(initializers.he_normal), **drawn),
    "nn.initializers.torch_uniform": call(made(initializers.torch_uniform), **drawn),
    "nn.initializers.zeros": call(made(initializers.zeros), **keyless),
}
EXEMPT = {
    f"nn.initializers.{name}": "a maker without arguments, of the same class as he_normal"
    for name in (
        "glorot_normal",
        "glorot_uniform",
        "he_uniform",
        "lecun_normal",
        "lecun_uniform",
        "ones",
    )
}
ACCEPTED: dict[str, str] = {}
