"""preprocessing: how images are prepared for each network's published weights."""

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

from convjax._check import choice, instance, integers, number, numbers
from convjax.models._create import known
from convjax.models._from_hub import timm_config
from convjax.models._network import REFERENCES
from convjax.models._weights._hub import name_of

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class Preprocessing(NamedTuple):
    """How an image becomes a network's input: resize, crop the centre, standardise.

    ``data.image_folder``, ``data.image_splits`` and ``data.stream`` take it as it is:
    ``image_folder(path, **how)`` hands over the first six, and
    ``image_folder(path, **{**how, "size": how.test_size})`` another size.

    Attributes:
      size: side of the square image, in pixels.
      crop: side of the crop over the shorter side that the image is resized to first.
      interpolation: ``"bicubic"`` or ``"bilinear"``.
      mean: of the channels red, green, blue, taken from values in [0, 1].
      std: that each channel is divided by, likewise.
      order: of the channels of the result, ``"RGB"`` or ``"BGR"``.
      test_size: a size at which the weights do better, if there is one.
      test_crop: the crop that belongs to it.
    """

    size: int
    crop: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "RGB"
    test_size: int | None = None
    test_crop: float | None = None

    def keys(self) -> tuple[str, ...]:
        """Return the names of what the readers of pictures take, for ``**``."""
        return self._fields[:6]

    def __getitem__(self, key: Any) -> Any:
        """Return a field by its name, or by its place as any tuple does."""
        return getattr(self, key) if isinstance(key, str) else tuple.__getitem__(self, key)


class _Row(NamedTuple):
    names: str  # globs
    size: int
    crop: float
    interpolation: str = "bicubic"
    colours: tuple[Any, Any] = _IMAGENET
    test: tuple[int | None, float | None] = (None, None)


# Of timm's default weights (1.0.31) and torchvision's; the first row with a glob that fits.
_TORCH = (
    _Row("*_cifar", 32, 1.0, colours=_CIFAR),
    _Row("resnet101d resnet152d", 256, 0.95, test=(320, 1.0)),
    _Row("resnet18 resnet34 resnet50 resnet101 resnet152", 224, 0.95, test=(288, 1.0)),
    _Row("seresnet50 resnext50_32x4d resnext101_64x4d", 224, 0.95, test=(288, 1.0)),
    _Row("convnext_nano convnext_tiny convnext_small", 224, 0.95, test=(288, 1.0)),
    _Row("resnet10t resnet14t", 176, 0.875, test=(224, 0.95)),
    _Row("resnet26t", 256, 0.94, test=(320, 1.0)),
    _Row("seresnext101_32x4d seresnext101_64x4d", 224, 0.875),
    _Row("seresnext101*_32x8d", 224, 0.95, test=(288, 1.0)),
    _Row("seresnext* resnet26 resnet50t", 224, 0.875, test=(288, 0.95)),
    _Row("legacy_seresnext26_32x4d legacy_seresnet18", 224, 0.875),
    _Row("legacy_seres*", 224, 0.875, "bilinear"),
    _Row("resnet??d seresnet* wide_resnet50_2", 224, 0.875, test=(288, 0.95)),
    _Row("resnext101_* wide_resnet101_2", 224, 0.875, "bilinear"),
    _Row("resnetv2_18* resnetv2_34*", 224, 0.9, colours=_HALF, test=(288, 1.0)),
    _Row("resnetv2_50x1_bit resnetv2_152x2_bit", 224, 0.875, colours=_HALF),
    _Row("resnetv2_152x4_bit", 480, 1.0, "bilinear", _HALF),
    _Row("resnetv2_*_bit", 448, 1.0, "bilinear", _HALF),
    _Row("resnetv2_152* resnetv2_*d resnetv2_50t", 224, 0.875, colours=_HALF),
    _Row("resnetv2_*", 224, 0.95, colours=_HALF, test=(288, 1.0)),
    _Row("mobilenetv1_125", 224, 0.9, colours=_HALF, test=(256, 1.0)),
    _Row("mobilenetv1_*", 224, 0.875, colours=_HALF, test=(256, 0.95)),
    _Row("mobilenetv3_large_075", 224, 0.875, "bilinear"),
    _Row("mobilenetv2_* mobilenetv3_*", 224, 0.875),
    _Row("tf_mobilenetv3_*", 224, 0.875, "bilinear", _HALF),
    _Row("efficientnet_b0 tf_efficientnet_b0", 224, 0.875),
    _Row("efficientnet_b1", 240, 0.9, colours=_HALF, test=(288, 1.0)),
    _Row("efficientnet_b2", 256, 0.875, test=(288, 1.0)),
    _Row("efficientnet_b3", 288, 0.875, test=(320, 1.0)),
    _Row("efficientnet_b4", 320, 0.875, test=(384, 1.0)),
    _Row("efficientnet_b5", 448, 1.0),
    _Row("tf_efficientnet_b1", 240, 0.882),
    _Row("tf_efficientnet_b2", 260, 0.89),
    _Row("tf_efficientnet_b3", 300, 0.904),
    _Row("tf_efficientnet_b4", 380, 0.922),
    _Row("tf_efficientnet_b5", 456, 0.934),
    _Row("efficientnet_b6 tf_efficientnet_b6", 528, 0.942),
    _Row("efficientnet_b7 tf_efficientnet_b7", 600, 0.949),
    _Row("convnext*_atto convnext*_femto convnext*_pico", 224, 0.875, test=(288, 0.95)),
    _Row("convnextv2_huge", 384, 1.0),
    _Row("convnextv2_small", 224, 0.875),
    _Row("convnext*", 224, 0.875, test=(288, 1.0)),
    _Row("regnety_640 regnety_1280 regnety_2560", 384, 1.0),
    _Row("regnety_032 regnety_040 regnety_064 regnety_080", 224, 0.95, test=(288, 1.0)),
    _Row("regnety_120 regnety_160", 224, 0.95, test=(288, 1.0)),
    _Row("regnet*_tv regnetx_008 regnetx_016 regnetx_032 regnetx_080", 224, 0.965),
    _Row("regnetx_160 regnet?_320 regnety_004 regnety_016", 224, 0.965),
    _Row("regnet*", 224, 0.875),
    _Row("xception65", 299, 0.94, colours=_HALF),
    _Row("xception41 xception71", 299, 0.903, colours=_HALF),
    _Row("legacy_xception inception_resnet_v2", 299, 0.8975, colours=_HALF),
    _Row("inception_v4", 299, 0.875, colours=_HALF),
    # Their weights come from networks that turn the usual mean and deviation into these inside.
    _Row("inception_v3", 299, 0.874269005848, "bilinear", _HALF),
    _Row("googlenet", 224, 0.875, "bilinear", _HALF),
    _Row("shufflenet_v2_x1_5 shufflenet_v2_x2_0", 224, 224 / 232, "bilinear"),
    _Row("fcn_* unet", 520, 1.0, "bilinear"),
    _Row("repvgg_d2se", 320, 1.0, "bilinear"),
    _Row("repvgg_*", 224, 0.875, "bilinear"),
    _Row("squeezenet* shufflenet*", 224, 0.875, "bilinear"),
    _Row("vgg*", 224, 0.875, "bilinear"),
    _Row("efficientnet_lite0", 224, 0.875),
    _Row("efficientnet_lite1", 240, 0.882),
    _Row("efficientnet_lite2", 260, 0.89),
    _Row("efficientnet_lite3", 300, 0.904),
    _Row("efficientnet_lite4", 380, 0.922),
    _Row("tf_efficientnet_lite0", 224, 0.875, colours=_HALF),
    _Row("tf_efficientnet_lite1", 240, 0.882, colours=_HALF),
    _Row("tf_efficientnet_lite2", 260, 0.89, colours=_HALF),
    _Row("tf_efficientnet_lite3", 300, 0.904, "bilinear", _HALF),
    _Row("tf_efficientnet_lite4", 380, 0.92, "bilinear", _HALF),
    _Row("efficientnetv2_s", 288, 1.0, test=(384, None)),
    _Row("efficientnetv2_m", 320, 1.0, test=(416, None)),
    _Row("efficientnetv2_l", 384, 1.0, test=(480, None)),
    _Row("efficientnetv2_xl", 384, 1.0, test=(512, None)),
    _Row("tf_efficientnetv2_s", 300, 1.0, colours=_HALF, test=(384, None)),
    _Row("tf_efficientnetv2_m tf_efficientnetv2_l", 384, 1.0, colours=_HALF, test=(480, None)),
    _Row("tf_efficientnetv2_xl", 384, 1.0, colours=_HALF, test=(512, None)),
    _Row("tf_efficientnetv2_b0", 192, 0.875, test=(224, None)),
    _Row("tf_efficientnetv2_b1", 192, 0.882, test=(240, None)),
    _Row("tf_efficientnetv2_b2", 208, 0.89, test=(260, None)),
    _Row("tf_efficientnetv2_b3", 240, 0.9, colours=_HALF, test=(300, None)),
    _Row("mnasnet_* semnasnet_* ghostnet_*", 224, 0.875),
    _Row("densenet121", 224, 0.875, test=(288, 0.95)),
    _Row("densenet*", 224, 0.875),
    _Row("mobilenetv4_conv_small_*", 224, 0.875, colours=_HALF, test=(256, 0.95)),
    _Row("mobilenetv4_conv_small", 224, 0.875, test=(256, 0.95)),
    _Row("mobilenetv4_conv_medium", 256, 0.95, test=(320, 1.0)),
    _Row("mobilenetv4_conv_large", 384, 0.95, test=(448, 1.0)),
)
# Of Keras applications, where resizing is left to the user: the whole image, bilinear, is what the
# documentation shows.
_BGR = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
_KERAS = (
    _Row("resnet50 resnet101 resnet152", 224, 1.0, "bilinear", _BGR),
    _Row("resnetv2_* mobilenet* tf_mobilenet*", 224, 1.0, "bilinear", _HALF),
    _Row("legacy_xception inception_*", 299, 1.0, "bilinear", _HALF),
    *(_Row(f"convnext_{s}", 224, 1.0, "bilinear") for s in ("tiny", "small", "base", "*large")),
    *(
        _Row(f"*efficientnet_b{i}", size, 1.0, "bilinear")
        for i, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    ),
)


def preprocessing(name: str, *, reference: str = "torch") -> Preprocessing:
    """Return how images are prepared for a network's published weights.

    Args:
      name: one of ``models.list()``; or a repository of the hub, such as
        ``"timm/resnet50.tv_in1k"``, whose own constants are fetched.
      reference: whose weights: ``"torch"`` (timm's default ones, or torchvision's) or ``"keras"``.

    Returns:
      Its constants.

    Raises:
      ValueError: an unknown name or reference, or a network of which that reference has no weights.

    Example:
      >>> from convjax import models
      >>> how = models.preprocessing("mobilenetv2_100")
      >>> how.size, how.crop, how.interpolation, how.mean
      (224, 0.875, 'bicubic', (0.485, 0.456, 0.406))
      >>> {**how}["order"]
      'RGB'
    """
    instance("name", name, str, "a network's name, or owner/name of the hub")
    choice("reference", reference, REFERENCES)
    if "/" in name:
        default = preprocessing(name_of(name))
        config = timm_config(name).get("pretrained_cfg", {})
        try:
            config = instance("pretrained_cfg", config, dict, "a mapping")
            return _from_timm(config, default)
        except ValueError as error:
            raise ValueError(f"name={name!r}: in its config.json {error}") from error
    name = known(name)
    for row in _TORCH if reference == "torch" else _KERAS:
        if any(fnmatch.fnmatchcase(name, glob) for glob in row.names.split()):
            order = "BGR" if row.colours is _BGR else "RGB"
            return Preprocessing(*row[1:4], *row.colours, order, *row.test)
    raise ValueError(f"name={name!r}: {reference} has no weights of it, and so no preprocessing")


def _from_timm(config: Mapping[str, Any], default: Preprocessing) -> Preprocessing:
    """Read the ``pretrained_cfg`` beside a file of weights; what it lacks is as by default."""
    size, test = (config.get(name) for name in ("input_size", "test_input_size"))
    test_crop = config.get("test_crop_pct")
    return default._replace(
        size=integers("input_size", size, least=1)[-1] if size else default.size,
        crop=number("crop_pct", config.get("crop_pct", default.crop), above=0),
        interpolation=str(config.get("interpolation", default.interpolation)),
        mean=numbers("mean", config.get("mean", default.mean), length=3),
        std=numbers("std", config.get("std", default.std), length=3, above=0),
        test_size=integers("test_input_size", test, least=1)[-1] if test else None,
        test_crop=None if test_crop is None else number("test_crop_pct", test_crop, above=0),
    )
