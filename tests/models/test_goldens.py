"""Every family against PyTorch: logits, loss, and the gradient of every parameter."""

import jax.numpy as jnp
import pytest

from tests.models import golden

OTHERS = {"references", "headless", "mobilenet_v2_real"}
FILES = sorted(path.stem for path in golden.PARITY.glob("*.json") if path.stem not in OTHERS)
# Convolutions in float32 take other forms; a network in six holds them, and one that rounding
# has carried farther than a fixed tolerance allowed.
FLOAT32 = {*FILES[::6], "regnety_002"}
# On running statistics a norm is one factor and one term a channel: the gradients of a sixth.
RUNNING = {*FILES[3::6]}
# One post- and one pre-activation, small enough for the quick tests.
QUICK = {"resnet18", "resnetv2_18"}


def cases():
    for file in FILES:
        modes = [(jnp.float64, False), (jnp.float64, True)]
        if file in FLOAT32:
            modes.append((jnp.float32, True))  # the forms of both modes are the same
        for dtype, train in modes:
            quick = file in QUICK and (dtype, train) == (jnp.float64, True)
            marks = () if quick else pytest.mark.slow
            mode = "train" if train else "eval"
            yield pytest.param(
                file, dtype, train, marks=marks, id=f"{file}-{dtype.__name__}-{mode}"
            )


@pytest.mark.parametrize("file, dtype, train", list(cases()))
def test_logits_and_every_gradient_norm(file, dtype, train, request):
    if dtype == jnp.float64:
        request.getfixturevalue("x64")
    if dtype == jnp.float64 or file not in QUICK:  # these are compiled in earnest
        request.getfixturevalue("quick_compilation")
    found = golden.golden(file)
    name = file.partition("-")[0]
    net = golden.loaded(file, name, dtype, **found.get("options", {}))
    golden.check(net, file, dtype, train, gradients=train or file in RUNNING)


@pytest.mark.later
def test_the_check_can_fail(x64, quick_compilation):
    """One epsilon of one norm shows: 1e-4 for 1e-5."""
    net = golden.loaded("resnet18", "resnet18", jnp.float64)
    net.stage4[1].branch.norm2.epsilon = 1e-4
    with pytest.raises(AssertionError):
        golden.check(net, "resnet18", jnp.float64, False)
