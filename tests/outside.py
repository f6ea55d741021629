"""What a user's type checker sees of the wheel: .ci/run checks a copy of this outside the project.

Types arrive, and a wrong argument is flagged: a comment that silences nothing is an error here.
Run, it writes a module that imports every public name, for the type checker to find them all.
"""

# pyright: basic, reportUnnecessaryTypeIgnoreComment=true

import importlib
from typing import assert_type

import jax
import jax.numpy as jnp
from flax import nnx

import convjax
from convjax import gradflow, models, nn, ops, train

SIDE = "train", "data", "study", "plots", "lab", "lab"
ROOMS = "ops", "nn", "nn.initializers", "gradflow", "gradflow.oracles", "models", *SIDE


def right():
    x = jnp.ones((1, 8, 8, 3))
    conv = assert_type(nn.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), nn.Conv)
    assert_type(ops.conv(x, jnp.ones((3, 3, 3, 4))), jax.Array)
    assert_type(convjax.cost(conv, x.shape), convjax.Cost)
    assert_type(gradflow.profile(conv, x, cotangent=x, train=False), gradflow.Profile)
    assert_type(gradflow.predict(conv, x, train=False), gradflow.Prediction)
    assert_type(models.create("resnet20_cifar", rngs=nnx.Rngs(0)), models.Network)
    assert_type(train.Recipe(steps=1).steps, int)


def wrong():
    nn.Conv("3", 4, (3, 3), rngs=nnx.Rngs(0))  # pyright: ignore[reportArgumentType]
    ops.conv(jnp.ones(3), jnp.ones(3), stride=2)  # pyright: ignore[reportCallIssue]
    gradflow.profiles()  # pyright: ignore[reportAttributeAccessIssue]
    train.Recipe(steps="1")  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    for room in ["convjax", *(f"convjax.{room}" for room in ROOMS)]:
        for name in importlib.import_module(room).__all__:
            print(f"from {room} import {name} as {room.replace('.', '_')}_{name}")
