"""Every name against its reference: parameters, every key and its shape, preprocessing."""

import json
import math

import jax
import pytest
from flax import nnx

from convjax import models
from convjax.models._weights._keys import key_of, layout_of
from convjax.models._weights._leaves import leaves, values
from tests.models import golden
from tests.models.parity.weights import digest

FOUND = json.loads((golden.PARITY / "references.json").read_text())
TORCH = FOUND["timm"] | FOUND["torchvision"]
KERAS = {
    "MobileNet": "mobilenetv1_100",
    "MobileNetV2": "mobilenetv2_100",
    "MobileNetV3Small": "mobilenetv3_small_100",
    "MobileNetV3Large": "mobilenetv3_large_100",
    "Xception": "legacy_xception",
    "InceptionV3": "inception_v3",
    "InceptionResNetV2": "inception_resnet_v2",
    **{f"ResNet{depth}": f"resnet{depth}" for depth in (50, 101, 152)},
    **{f"ResNet{depth}V2": f"resnetv2_{depth}" for depth in (50, 101, 152)},
    **{f"EfficientNetB{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"ConvNeXt{s}": f"convnext_{s.lower()}" for s in ("Tiny", "Small", "Base", "Large")},
}
# One of a family; the others are the same code with other numbers.
QUICK = {
    *(
        "resnet18",
        "resnet50d",
        "resnetv2_18",
        "mobilenetv1_100",
        "mobilenetv2_050",
        "googlenet_aux",
    ),
    *("mobilenetv3_small_100", "efficientnet_b0", "convnext_tiny", "legacy_xception"),
    *("MobileNetV2", "ResNet50", "ResNet50V2"),
}


def names(known):
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in known]


def shapes_of(net):
    """The reference's name and shape of every array, without an array."""
    state = values(nnx.merge_state(*nnx.state(net, nnx.Param, nnx.BatchStat)))
    found = {}
    for leaf in leaves(net):
        key = key_of(net, leaf)
        shape = state[leaf.address].shape[len(leaf.index) :]
        assert key.name not in found, f"two arrays are called {key.name}"
        found[key.name] = layout_of(leaf, key, net.reference, shape)
    return found


def parameters(net):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))


@pytest.mark.every(2)
@pytest.mark.parametrize("name", names(TORCH))
def test_parameters_keys_and_shapes_are_torch_s(name):
    options = {"auxiliary": True} if name.endswith("_aux") else {}
    net = golden.abstract(name.removesuffix("_aux"), **options)
    shapes = shapes_of(net)
    assert parameters(net) == TORCH[name]["parameters"]
    assert len(shapes) == TORCH[name]["entries"]
    assert digest(shapes) == TORCH[name]["digest"]


@pytest.mark.parametrize("name", names(KERAS))
def test_parameters_are_keras_s(name):
    net = golden.abstract(KERAS[name], reference="keras")
    assert parameters(net) == FOUND["keras"][name]["trainable"]


@pytest.mark.parametrize("name", TORCH)
def test_preprocessing_is_timm_s(name):
    right = TORCH[name]
    how = models.preprocessing(name.removesuffix("_aux"))
    assert [3, how.size, how.size][1:] == right["input_size"]
    assert math.isclose(how.crop, right["crop_pct"])
    assert how.interpolation == right["interpolation"]
    assert [*how.mean] == right["mean"] and [*how.std] == right["std"]
    assert how.test_size == right.get("test_input_size", [None])[0]
    assert how.test_crop == right.get("test_crop_pct")


def test_every_name_has_preprocessing():
    for name in models.list():
        assert models.preprocessing(name).size >= 32
    for name in KERAS.values():
        assert models.preprocessing(name, reference="keras").crop == 1.0


def test_every_reference_is_in_the_zoo():
    assert {n.removesuffix("_aux") for n in TORCH} <= {*models.list()}


# He et al. 2015 (table 6), Zagoruyko and Komodakis 2016 (table 4), in millions; and exactly.
CIFAR = {"resnet20_cifar": 269_722, "resnet56_cifar": 853_018, "wrn28_10_cifar": 36_479_194}


@pytest.mark.parametrize("name", CIFAR)
def test_parameters_of_the_networks_for_cifar(name):
    assert parameters(golden.abstract(name)) == CIFAR[name]
