"""Keras applications on the JAX backend: random weights by their names, and the logits they give.

Nothing is initialized: the weights are sampled here, as in ``parity/weights.py``.
"""

import contextlib
import os
import warnings
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models
from tests.models.golden import abstract
from tests.models.parity.weights import batch

# What a weight is called in Keras's legacy .h5 files, and so in those of its applications. Layer
# scales have no name of their own there.
LEGACY = {("DepthwiseConv2D", "kernel"): "depthwise_kernel", ("LayerScale", None): "gamma"}
CLOSE = {"float64": 1e-9, "float32": 1e-4}


def check(app, name, size, dtype="float64", build=(), **options):
    """Load the application's weights into our network of that name, and compare the logits.

    Args:
      app: name in ``keras.applications``.
      name: name in ``models.create``.
      size: height and width of the batch.
      dtype: of both computations.
      build: arguments of the application, as a mapping.
      **options: of ``models.create``, beside ``reference="keras"``.
    """
    with precision(dtype):
        x = batch(2, *size)
        weights, logits = oracle(app, x, dtype, build)
        param_dtype = jnp.dtype(dtype).type
        net = abstract(name, reference="keras", param_dtype=param_dtype, **options)
        report = models.load_weights(net, weights)
        assert not (report.missing or report.unexpected or report.misshapen)
        ours = np.asarray(forward(net, jnp.asarray(x, dtype)))
    rms = np.sqrt(np.mean(np.square(logits)))
    assert np.isfinite(rms) and rms > 0
    np.testing.assert_allclose(ours, logits, rtol=0, atol=CLOSE[dtype] * rms)


def forward(net, x):
    graphdef, state = nnx.split(net)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(x, train=False))(state)


def oracle(app, x, dtype="float64", build=()):
    """``({"layer/weight": array}, logits)`` of an application in evaluation mode, fed with ``x``.

    Layers of preprocessing have weights, but are not run: ``x`` is what they would give.
    """
    keras = imported()
    with quiet(keras, dtype):
        keras.backend.clear_session()
        # Its end would draw every initial value, op by op.
        with keras.StatelessScope(initialize_variables=False):
            model = getattr(keras.applications, app)(
                weights=None, classifier_activation=None, input_shape=x.shape[1:], **dict(build)
            )
            rest = after_preprocessing(keras, model)
            weights = {key: draw(i, key, v) for i, (key, v) in enumerate(named(model))}
            sampled = {
                id(v): array for (_, v), array in zip(named(model), weights.values(), strict=True)
            }
            run = compiled(rest, sampled)
            return weights, np.asarray(run(jnp.asarray(x, dtype)))


def imported():
    """Keras, if it is there; its backend is chosen at the first import."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    return keras


def after_preprocessing(keras, model):
    """The model from where its Rescaling and Normalization layers end."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    fixed = [layer for layer in model.layers if isinstance(layer, kinds)]
    return keras.Model(fixed[-1].output, model.output) if fixed else model


def named(model):
    """Every weight with the name that it has in a legacy file, in the order of the layers."""
    for layer in model._flatten_layers(include_self=False):
        kind = type(layer).__name__
        for weight in layer._trainable_variables + layer._non_trainable_variables:
            name = LEGACY.get((kind, None)) or LEGACY.get((kind, weight.name), weight.name)
            yield f"{layer.name}/{name}", weight


def draw(seed, key, variable):
    """A float64 array: kernels He-scaled by fan-in, scales and variances near 1."""
    shape = tuple(variable.shape)
    z = np.random.RandomState(seed).standard_normal(shape)
    if len(shape) >= 2:
        depthwise = key.endswith("depthwise_kernel")
        return z * np.sqrt(2.0 / np.prod(shape[:-2] if depthwise else shape[:-1]))
    if key.endswith("variance"):
        return 1.0 + 0.2 * np.abs(z)
    return 1.0 + 0.1 * z if key.endswith("gamma") else 0.1 * z


def compiled(model, sampled):
    """The model's logits as one compiled function."""

    def values(variables):
        return [jnp.asarray(sampled.get(id(v), np.zeros(v.shape)), v.dtype) for v in variables]

    state = values(model.trainable_variables), values(model.non_trainable_variables)
    run = jax.jit(lambda state, x: model.stateless_call(*state, x, training=False)[0])
    return lambda x: run(state, x)


@contextlib.contextmanager
def quiet(keras, dtype):
    """Keras promotes silently, warns of what is not ours, and normalises float64 in float32."""
    from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE

    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        with (
            patch.dict(BIT64_TO_BIT32_DTYPE, {"float64": "float64"}),
            warnings.catch_warnings(),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        keras.config.set_floatx(before)


def precision(dtype):
    return jax.enable_x64(dtype == "float64")
