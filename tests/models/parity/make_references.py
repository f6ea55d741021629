"""Write references.json: sizes of the reference networks, and how their inputs are prepared.

    python -m tests.models.parity.make_references torch
    KERAS_BACKEND=jax python -m tests.models.parity.make_references keras

from the root of the repository; each writes its own entries and leaves the others. ``torch`` needs
what ``make_golden.py`` needs, ``keras`` needs Keras (made with 3.15). No weights are made: networks
are built on PyTorch's meta device and in a stateless scope of Keras. What the file holds:

    made_with            the versions of the packages
    timm, torchvision    for each network, with 1000 classes
        parameters           how many numbers are trained
        entries              how many entries the state dict has, batch norm's counters apart
        counters             how many ``num_batches_tracked`` there are beside them
        digest               ``weights.digest`` of {key: shape} of those entries
        hub_id               where timm's default weights are, if on the hub
        num_classes          how many classes those weights have, where not 1000
        input_size           [height, width] that the weights were trained for
        test_input_size      the one to evaluate with, where it is another
        crop_pct             side of the centre crop over the side that the image is resized to
        test_crop_pct        the one at ``test_input_size``, where it is another
        crop_mode            timm's name of the way to crop, where it is not "center"
        interpolation, mean, std
    keras                for each network of Keras applications, with 1000 classes
        trainable            how many numbers are trained
        non_trainable        batch norm's running statistics and constants of the preprocessing

torchvision's GoogLeNet and Inception v3 come with and without the auxiliary classifiers. Their
weights have ``transform_input``: the network itself turns the usual mean and standard deviation
into 0.5 and 0.5. These are what is written here, for a network without that step.
"""

import importlib.metadata
import json
import math
import sys
from typing import Any

from tests.models.parity.compact import HERE, write
from tests.models.parity.weights import digest

RESNETS = (18, 34, 50, 101, 152)
B = range(8)
TIMM = [
    *(f"resnet{depth}" for depth in RESNETS),
    *(f"resnet{depth}d" for depth in RESNETS),
    *(f"resnetv2_{depth}" for depth in RESNETS),
    *(f"resnetv2_{depth}d" for depth in RESNETS),
    *(f"resnetv2_{size}_bit" for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")),
    *("resnetv2_50t", "resnetv2_50d_gn"),
    *(f"seresnet{depth}" for depth in RESNETS),
    *("resnet10t", "resnet14t", "resnet26", "resnet26d", "resnet26t", "resnet50t"),
    *("seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext50_32x4d", "seresnext101_32x4d"),
    *("seresnext101_32x8d", "seresnext101d_32x8d", "seresnext101_64x4d"),
    *(f"legacy_seresnet{depth}" for depth in RESNETS),
    *(f"legacy_seresnext{depth}_32x4d" for depth in (26, 50, 101)),
    *("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *("mobilenetv1_100", "mobilenetv1_125"),
    *(f"mobilenetv2_{width}" for width in ("035", "050", "075", "100", "140", "110d", "120d")),
    *(f"mobilenetv3_small_{width}" for width in ("050", "075", "100")),
    *(f"mobilenetv3_large_{width}" for width in ("075", "100")),
    *(f"tf_mobilenetv3_{size}_{width}" for size in ("small", "large") for width in ("075", "100")),
    *(f"repvgg_{size}" for size in ("a0", "a1", "a2", "b0", "b1", "b2", "b3")),
    *("repvgg_b1g4", "repvgg_b2g4", "repvgg_b3g4", "repvgg_d2se"),
    *(f"regnetx_{size}" for size in ("002", "004", "006", "008", "016", "032", "040", "064")),
    *(f"regnetx_{size}" for size in ("080", "120", "160", "320", "004_tv")),
    *(f"regnety_{size}" for size in ("002", "004", "006", "008", "016", "032", "040", "064")),
    *(f"regnety_{size}" for size in ("080", "120", "160", "320", "640", "1280", "2560")),
    *("regnety_008_tv", "regnety_080_tv"),
    *("legacy_xception", "xception41", "xception65", "xception71"),
    *(f"efficientnet_b{i}" for i in B),
    *(f"tf_efficientnet_b{i}" for i in B),
    *(f"convnext_{size}" for size in ("atto", "femto", "pico", "nano")),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "small")),
    *(f"convnextv2_{size}" for size in ("base", "large", "huge")),
    *("inception_v3", "inception_v4", "inception_resnet_v2"),
    *(f"{tf}efficientnet_lite{i}" for tf in ("", "tf_") for i in range(5)),
    *(f"{tf}efficientnetv2_{size}" for tf in ("", "tf_") for size in ("s", "m", "l", "xl")),
    *(f"tf_efficientnetv2_b{i}" for i in range(4)),
    *(f"{se}mnasnet_{width}" for se in ("", "se") for width in ("050", "075", "100", "140")),
    *("mnasnet_small", "mobilenetv1_100h"),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"mobilenetv4_conv_{size}" for size in ("small", "medium", "large")),
    *("mobilenetv4_conv_small_035", "mobilenetv4_conv_small_050"),
    *("ghostnet_050", "ghostnet_100", "ghostnet_130"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
]
TORCHVISION = {  # name here: the network's function, whether with auxiliary classifiers, or None
    "googlenet": ("googlenet", False),
    "googlenet_aux": ("googlenet", True),
    "inception_v3": ("inception_v3", False),
    "inception_v3_aux": ("inception_v3", True),
    **{name: (name, None) for name in ("squeezenet1_0", "squeezenet1_1")},
    **{name: (name, None) for name in ("fcn_resnet50", "fcn_resnet101")},
    **{f"shufflenet_v2_x{w}": (f"shufflenet_v2_x{w}", None) for w in ("0_5", "1_0", "1_5", "2_0")},
}
KERAS = [
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("Xception", "InceptionV3", "InceptionResNetV2"),
    *(f"ResNet{depth}{version}" for version in ("", "V2") for depth in (50, 101, 152)),
    *(f"EfficientNetB{i}" for i in B),
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large")),
]


def sizes(model):
    state = {k: list(v.shape) for k, v in model.state_dict().items()}
    kept = {k: shape for k, shape in state.items() if not k.endswith("num_batches_tracked")}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "entries": len(kept),
        "counters": len(state) - len(kept),
        "digest": digest(kept),
    }


def of_timm(name):
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    config = config.to_dict()
    resized = config.get("test_input_size")
    found = {
        **sizes(timm.create_model(name)),
        "hub_id": config.get("hf_hub_id"),
        "num_classes": config["num_classes"],
        "input_size": list(config["input_size"][1:]),
        "test_input_size": list(resized[1:]) if resized else None,
        "crop_pct": config["crop_pct"],
        "test_crop_pct": config.get("test_crop_pct"),
        "crop_mode": config["crop_mode"],
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
    usual = {"num_classes": 1000, "crop_mode": "center"}
    return {k: v for k, v in found.items() if v is not None and usual.get(k) != v}


def of_torchvision(function, auxiliary):
    from torchvision import models

    if function.startswith("fcn_"):
        model = getattr(models.segmentation, function)(weights_backbone=None)
        prepare = models.get_model_weights(function)["DEFAULT"].transforms()
        prepare.crop_size = prepare.resize_size
    else:
        options = {} if auxiliary is None else {"aux_logits": auxiliary, "init_weights": False}
        model = getattr(models, function)(**options)
        prepare = models.get_model_weights(function)["IMAGENET1K_V1"].transforms()
    side = prepare.crop_size[0]
    return {
        **sizes(model),
        "input_size": [side, side],
        "crop_pct": side / prepare.resize_size[0],
        "interpolation": prepare.interpolation.value,
        "mean": list(prepare.mean) if auxiliary is None else [0.5, 0.5, 0.5],
        "std": list(prepare.std) if auxiliary is None else [0.5, 0.5, 0.5],
    }


def torch_entries():
    import torch

    from tests.models.parity.make_golden import stub_torchvision_ops

    library = stub_torchvision_ops()
    with torch.device("meta"):
        entries = {
            "timm": {name: of_timm(name) for name in TIMM},
            "torchvision": {name: of_torchvision(*what) for name, what in TORCHVISION.items()},
        }
    del library
    return entries, ("torch", "timm", "torchvision")


def of_keras(name):
    import keras

    model = getattr(keras.applications, name)(weights=None, classes=1000)
    groups = {"trainable": model.trainable_weights, "non_trainable": model.non_trainable_weights}
    return {key: sum(math.prod(w.shape) for w in group) for key, group in groups.items()}


def keras_entries():
    import keras

    # Variables get their values when the scope is left, which takes minutes: it never is.
    keras.StatelessScope().__enter__()
    return {"keras": {name: of_keras(name) for name in KERAS}}, ("keras",)


def main(which):
    file = HERE / "references.json"
    old = json.loads(file.read_text()) if file.exists() else {"made_with": {}}
    entries, packages = {"torch": torch_entries, "keras": keras_entries}[which]()
    versions = {package: importlib.metadata.version(package) for package in packages}
    write(file, {**old, **entries, "made_with": {**old["made_with"], **versions}}, deep=2)


if __name__ == "__main__":
    main(sys.argv[1])
