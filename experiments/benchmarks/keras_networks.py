"""The networks of ``bench-models`` on Keras's JAX backend, in this process.

Those of ``keras.applications`` are Keras's own: their padding is TensorFlow's, and their ResNet-50
is the first version, with biases and its strides on the 1x1 convolutions, so it computes a little
less.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

import jax

from convjax import lab

# Keras's name, the least size of images that it takes, and what is not as by default.
APPLICATIONS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "mobilenet_v1": ("MobileNet", 32, {"dropout": 0.0}),
    "mobilenet_v2": ("MobileNetV2", 32, {}),
    "resnet_50": ("ResNet50", 32, {}),
    "xception": ("Xception", 71, {}),
    "inception_v3": ("InceptionV3", 75, {}),
    "efficientnet_b0": ("EfficientNetB0", 32, {}),
    "convnext_tiny": ("ConvNeXtTiny", 32, {}),
}


def import_keras() -> Any:
    """Import Keras on JAX, or refuse where there is none or it is on another backend already."""
    os.environ["KERAS_BACKEND"] = "jax"
    try:
        keras = importlib.import_module("keras")
        why = f"it computes with {keras.config.backend()}"
    except ModuleNotFoundError as error:
        keras, why = None, f"{error.name} is missing"
    if keras is None or keras.config.backend() != "jax":
        raise lab.UsageError(
            f"Keras cannot be measured on JAX here ({why}); install keras, or leave keras out of "
            "--versus."
        )
    return keras


def check(name: str, size: int) -> None:
    """Refuse what Keras cannot do here, and images that it finds too small for a network."""
    import_keras()
    _, least, _ = APPLICATIONS.get(name, ("", 1, {}))
    if size < least:
        raise ValueError(
            f"Keras's {name} takes images from {least}x{least}, not {size}x{size}; choose a larger "
            "--size, or leave keras out of --versus."
        )


def network(name: str, size: int) -> Any:
    """Return one of ``APPLICATIONS``, or ``"resnet_56"``, that answers with logits."""
    keras = import_keras()
    if name == "resnet_56":
        return resnet_cifar(9, size)
    application, _, others = APPLICATIONS[name]
    options = {"weights": None, "classes": 1000, "classifier_activation": None, **others}
    return getattr(keras.applications, application)(input_shape=(size, size, 3), **options)


def resnet_cifar(n: int, size: int, num_classes: int = 10) -> Any:
    """Return the residual network for CIFAR of depth 6n + 2 (He et al. 2015, section 4.2)."""
    keras = import_keras()
    layers = keras.layers

    def conv(x: Any, features: int, strides: int = 1) -> Any:
        padding = "same"
        if strides != 1:  # as in the paper; "same" would pad on one side only
            x, padding = layers.ZeroPadding2D(1)(x), "valid"
        x = layers.Conv2D(features, 3, strides, padding, use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def unit(x: Any, features: int, strides: int) -> Any:
        y = conv(layers.ReLU()(conv(x, features, strides)), features)
        if extra := features - x.shape[-1]:
            x = x[:, ::strides, ::strides]
            x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra)))
        return layers.ReLU()(y + x)

    images = layers.Input((size, size, 3))
    x = layers.ReLU()(conv(images, 16))
    for features in (16, 32, 64):
        for i in range(n):
            x = unit(x, features, 2 if i == 0 and features > 16 else 1)
    logits = layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, logits)


def training(
    name: str, size: int, learning_rate: float, momentum: float
) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """Return loss, update and state of a ``Training``, by Keras's stateless functions for JAX."""
    keras = import_keras()
    net = network(name, size)
    optimiser = keras.optimizers.SGD(learning_rate, momentum=momentum)
    optimiser.build(net.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        logits, rest = net.stateless_call(params, rest, images, training=True)
        return cross_entropy(labels, logits), rest

    def update(params: Any, gradients: Any, moving: Any) -> tuple[Any, Any]:
        return optimiser.stateless_apply(moving, gradients, params)

    groups = (net.trainable_variables, net.non_trainable_variables, optimiser.variables)
    return loss, update, tuple([v.value for v in variables] for variables in groups)
