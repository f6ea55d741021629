"""Goldens of PyTorch: what a network of ours must give with the weights that its names make."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import models
from tests.models.parity.weights import batch, make_weights

PARITY = Path(__file__).parent / "parity"
# How far logits and loss, half of the gradient norms, and every one may be away, relative. In
# float32 a few ReLUs of a million fall on the other side of zero, and the gradient norms before
# them move by more than rounding. Which ones do is the processor's choice and the form's, and how
# far they carry is the network's: twice what moving the input's last bits does is allowed on top.
CLOSE = {jnp.float64: (1e-6, 1e-6, 1e-6), jnp.float32: (1e-3, 1e-3, 1e-2)}
LAST_BITS = 16 * 2.0**-23
# Below this a gradient is zero but for rounding: a bias before a norm that takes it out again.
ZERO = {jnp.float64: 1e-9, jnp.float32: 1e-3}


@functools.cache
def golden(file):
    return json.loads((PARITY / f"{file}.json").read_text())


def abstract(name, **options):
    """The network's shapes, without drawing a value."""
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))


def loaded(file, name, dtype, **options):
    net = abstract(name, param_dtype=dtype, **options)
    found = golden(file)
    report = models.load_weights(net, make_weights(found["shapes"]))
    assert not (report.missing or report.unexpected or report.misshapen)
    return net


def runner(net, file, train, gradients=True):
    """Of an input: logits, loss, and gradient norms by torch's names; ``input`` is its own."""
    labels = jnp.asarray(golden(file)["labels"])
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params, x, rest):
        logits = nnx.merge(graphdef, params, rest, copy=True)(x, train=train)
        if logits.ndim == 4:  # scores of every place
            logits = logits[:, ::7, ::5].mean((1, 2))
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels]
        return -chosen.mean(), logits

    both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    compiled = jax.jit(both if gradients else lambda *given: (loss(*given), None))

    def run(x):
        (value, logits), found = compiled(params, x, rest)
        arrays = {}
        if gradients:
            arrays = models.export_weights(net, found[0]) | {"input": found[1]}
        norms = {k: np.linalg.norm(np.asarray(g, np.float64)) for k, g in arrays.items()}
        return np.asarray(logits, np.float64), float(value), norms

    return run


def away(found, right, names):
    """The largest, relative, of what logits and loss are away, and the same of each norm named."""
    (logits, loss, norms), (logits_there, loss_there, norms_there) = found, right
    of_logits = np.abs(logits[:, :10] - logits_there[:, :10]).max() / np.sqrt(np.mean(logits**2))
    each = np.array([abs(norms[k] / norms_there[k] - 1) for k in names])
    return np.maximum(of_logits, abs(loss / loss_there - 1)), each


def check(net, file, dtype, train, gradients=True):
    """Logits, loss and every gradient norm as PyTorch has them."""
    expected = golden(file)["train" if train else "eval"]
    run = runner(net, file, train, gradients)
    x = batch(*golden(file)["input"]).astype(dtype)
    found = logits, _, norms = run(x)
    right = expected["grad_norms"] | {"input": expected["input_grad_norm"]} if gradients else {}
    assert set(norms) == set(right)
    names = [k for k, there in right.items() if there >= 1e-9]
    # How far rounding carries in this network and on this processor.
    slack = np.zeros(3)
    for seed in range(2 if dtype == jnp.float32 else 0):
        signs = np.random.default_rng(seed).choice([-1, 1], x.shape)
        values, of_norms = away(run((x * (1 + signs * LAST_BITS)).astype(dtype)), found, names)
        slack = np.maximum(slack, [2 * values, 2 * np.median(of_norms), 2 * of_norms.max()])
    close, half, each = slack + np.array(CLOSE[dtype])
    there = np.asarray(expected["logits"]), expected["loss"], right
    values, of_norms = away(found, there, names)
    assert values < close
    np.testing.assert_allclose(np.sqrt(np.mean(logits**2)), expected["logits_rms"], rtol=close)
    if not gradients:
        return
    assert np.median(of_norms) < half
    assert of_norms.max() < each, names[of_norms.argmax()]
    assert all(norms[k] < ZERO[dtype] for k in set(right) - set(names))
