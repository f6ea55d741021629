"""Networks of many styles: what is measured of them is what explicit derivatives say."""

import re
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from tests.foreign.arrays import cotangent_of, norm
from tests.foreign.conftest import default_promotion as default_promotion
from tests.foreign.styles import STYLES
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


def perturbed(net, x, added):
    """Return a network's output with something added to every leaf's, and their shapes by name."""
    shapes = {}

    def watched(self, x, train=False, rngs=None, others=()):
        y = plain(self, x, others=others)
        if jnp.issubdtype(y.dtype, jnp.floating):
            shapes[self._label] = y
            y = y + added.get(self._label, jnp.zeros((), y.dtype))
        return y

    plain = nn.Segment.__call__
    with mock.patch.object(nn.Segment, "__call__", watched):
        return net(x), shapes


def explicit(net, x, cotangent):
    """Return the gradients by every leaf's output and by the input, by perturbations."""
    _, shapes = jax.eval_shape(lambda x: perturbed(net, x, {}), x)
    zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}
    pullback = jax.vjp(lambda added, x: perturbed(net, x, added)[0], zeros, x)[1]
    return pullback(cotangent)


@pytest.mark.every(9)
@pytest.mark.parametrize("name", STYLES)
def test_what_is_measured_is_what_explicit_derivatives_say(name):
    net, x = STYLES[name]()
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    output, pullback = jax.vjp(lambda p, x: nnx.merge(graphdef, p, rest, copy=True)(x), params, x)
    cotangent = cotangent_of(output)
    by_parameter, by_input = pullback(cotangent)

    read = nn.read(net, x)
    single = name != "half_precision"
    near: Any = {"rtol": 2e-5, "atol": 1e-6} if single else {"rtol": 3e-2, "atol": 1e-3}
    np.testing.assert_allclose(read(x), output, **near)
    profile = gradflow.profile(net, x, cotangent=cotangent)
    np.testing.assert_allclose(profile["input"].gradient.norm, norm(by_input), near["rtol"])

    if not any(isinstance(node, nn.Repeat) for _, node, _ in nn.walk(read)):
        by_leaf, _ = explicit(read, x, cotangent)
        floor = 1e-5 * max(map(norm, by_leaf.values()))
        for leaf, gradient in by_leaf.items():
            found = float(profile[leaf].gradient.norm)
            np.testing.assert_allclose(found, norm(gradient), near["rtol"], floor, err_msg=leaf)
    flat = {"/".join(map(str, p)): norm(v[...]) for p, v in nnx.to_flat_state(by_parameter)}
    floor = 1e-5 * max(flat.values())
    found = {
        path_of(label, part, flat): norm(gradient.norm)
        for label, row in profile.items()
        for part, gradient in row.parameter_gradients.items()
    }
    for path, expected in flat.items():
        # What is not used has no row.
        total = found.get(path, 0.0 if expected == 0 else np.nan)
        np.testing.assert_allclose(total, expected, near["rtol"], floor, err_msg=path)


def path_of(label, part, known):
    """Return a parameter's path, of its row and its name there."""
    label = re.sub(r"[*]/|#[0-9]+", "", label)
    parent, _, last = label.rpartition("/")
    paths = (label if last == part else "", f"{label}/{part}", f"{parent}/{part}", part)
    return next(path for path in paths if path in known)
