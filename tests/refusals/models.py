"""The zoo: NumPy's numbers are taken, and whatever else is put in the place of an option."""

import functools
import inspect
from typing import Unpack

import numpy as np
from flax import nnx

from convjax import models, nn
from tests.refusals._odd import ODD

SMALL = {
    "convnext": {"units": (1, 1), "width": 4, "kernel_size": 3},
    "deep_stack": {"depth": 4, "width": 4},
    "densenet": {"units": (1, 1), "growth": 4},
    "efficientnet": {"width": 0.25, "depth": 0.5},
    "efficientnet_v2": {"kind": "b", "width": 0.25, "depth": 0.5},
    "ghostnet": {"width": 0.1},
    "inception_resnet_v2": {"units": (1, 1, 1), "width": 0.125},
    "inception_v1": {"width": 0.125},
    "inception_v3": {"width": 0.125},
    "inception_v4": {"units": (1, 1, 1), "width": 0.125},
    "mnasnet": {"kind": "small", "width": 0.25},
    "mobilenet_v1": {"width": 0.25, "depth": 0.5},
    "mobilenet_v2": {"width": 0.25, "depth": 0.5},
    "mobilenet_v3": {"kind": "small", "width": 0.25},
    "mobilenet_v4": {"width": 0.1},
    "regnet": {"depth": 3, "width": 8, "slope": 8.0, "ratio": 2.0},
    "repvgg": {"units": (1, 2), "width": 0.125, "last_width": 0.125},
    "resnet": {"units": (1, 1), "width": 8},
    "resnet_cifar": {"depth": 8, "width": 4},
    "resnet_v2": {"units": (1, 1), "width": 8},
    "shufflenet_v2": {"widths": (4, 8), "units": (1, 2), "stem": 4, "hidden": 8},
    "squeezenet": {"width": 0.125},
    "unet": {"widths": (4, 4)},
    "vgg": {"units": (1, 1), "width": 4, "hidden": (8, 8)},
    "wide_resnet_cifar": {"depth": 10, "widen": 1, "width": 4},
    "xception_aligned": {"middle": 1, "width": 0.0625},
    "xception": {"middle": 1, "width": 0.125},
}
# Families that are outlined quickly; the others take their options by the same code.
QUICK = ("convnext", "deep_stack", "resnet", "resnet_cifar", "resnet_v2", "wide_resnet_cifar")
NET = nnx.eval_shape(lambda: models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0)))
X = np.ones((1, 8, 8, 3))


@models.with_options(norm="none")
def small(width: int, **options: Unpack[models.Options]):
    return width, options["dropout"], options["num_classes"]


def registered(build):
    models.register(build, {"small": {}})
    try:
        return models.create("small", rngs=nnx.Rngs(0))
    finally:
        models.register(build, {})


def fine(name, what):
    """Whether a value is right after all."""
    return what == "minus one half" and name in ("shortcut_scale", "branch_scale", "layer_scale")


def make(family, **changed):
    options = {**SMALL[family], "rngs": nnx.Rngs(0), **changed}
    return getattr(models, family)(**options)


def outlined(family, **changed):
    return nnx.split(nnx.eval_shape(lambda: make(family, **changed)))[0]


def numpyish(value):
    if isinstance(value, tuple):
        return np.array(value)
    kind = np.int64 if isinstance(value, int) else np.float64
    return value if isinstance(value, str) else kind(value)


def equal(family):
    def compare():
        changed = {name: numpyish(value) for name, value in SMALL[family].items()}
        one, other = outlined(family), outlined(family, **changed)
        return one == other and hash(one) == hash(other)

    return compare


def odd_ones():
    for family in SMALL:
        for name in inspect.signature(getattr(models, family)).parameters:
            for what, value in ODD.items():
                if not fine(name, what):
                    call = functools.partial(make, family, **{name: value})
                    yield f"{family}, {name}: {what}", (call, rf"\b{name}\b")


CASES = {
    **{f"{family}: NumPy's numbers": (equal(family), None) for family in QUICK},
    **dict(odd_ones()),
    "no stream of parameters": (
        lambda: models.resnet(rngs=nnx.Rngs(dropout=0)),
        "^rngs has no stream 'params'",
    ),
    "no streams at all": (lambda: models.resnet(), "^models.resnet: .*'rngs'"),
    "an option misspelt": (
        lambda: models.create("resnet18", drop=0.5, rngs=nnx.Rngs(0)),
        "option='drop' is not known; did you mean 'dropout'",
    ),
    "a number for a name": (lambda: models.create(18, rngs=nnx.Rngs(0)), r"^name=18 \(int\)"),
    "a list for a name": (lambda: models.create(["a"], rngs=nnx.Rngs(0)), r"^name=\['a'\] \(list"),
    "a name misspelt": (lambda: models.create("resent18", rngs=nnx.Rngs(0)), "mean 'resnet18"),
    "a seed for streams": (lambda: models.create("resnet18", rngs=0), r"^rngs=0 \(int\)"),
    "no streams": (lambda: models.create("resnet18", rngs=None), "^rngs=None"),
    "classes by name": (
        lambda: models.create("resnet18", num_classes="10", rngs=nnx.Rngs(0)),
        r"^num_classes='10' \(str\)",
    ),
    "a number for a pattern": (lambda: models.list(3), r"^pattern=3 \(int\)"),
    "features of nothing": (lambda: models.features(3, X, "stem"), r"^net=3 \(int\)"),
    "features of a list": (lambda: models.features(NET, [1.0], "stem"), r"^x=\[1\.0\] \(list\)"),
    "a number for a path": (lambda: models.features(NET, X, 3), r"^paths=3 \(int\)"),
    "a number among paths": (lambda: models.features(NET, X, ["stem", 3]), r"^paths\[1\]=3 \(int"),
    "features by a mode": (lambda: models.features(NET, X, "stem", train=1), r"^train=1 \(int\)"),
    "features by a seed": (lambda: models.features(NET, X, "stem", rngs=0), r"^rngs=0 \(int\)"),
    "features of NumPy's image": (
        lambda: (
            models.features(nn.Chain(stem=nn.Conv(3, 4, 3, rngs=nnx.Rngs(0))), X, "stem")[
                "stem"
            ].dtype
            == np.float32
        ),
        None,
    ),
    "a head of nothing": (lambda: models.headless("resnet18"), r"^net='resnet18' \(str\)"),
    "heads of nothing": (
        lambda: models.auxiliary_logits(None, X, train=False),
        "^net=None",
    ),
    "features by a call of no kind": (
        lambda: models.features(NET, X, "stem", call=3),
        r"^call=3 \(int\)",
    ),
    "a split by a batch of no kind": (
        lambda: models.freeze(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), "kernel", x="a"),
        r"^x='a' \(str\)",
    ),
    "a split of nothing": (lambda: models.freeze(3), "^net=3"),
    "a split at a number": (lambda: models.freeze(NET, 3), "^up_to=3"),
    "a split at numbers": (lambda: models.freeze(NET, paths=[3]), "^paths"),
    "pixels of a number": (lambda: models.preprocessing(50), "^name=50"),
    "pixels of no reference": (
        lambda: models.preprocessing("resnet50", reference="tensorflow"),
        "^reference='tensorflow'",
    ),
    "a family by a number": (lambda: models.Family(3), r"^name=3 \(int\)"),
    "rules in a list": (
        lambda: models.Family("small", torch=[("head", "fc")]),
        r"^torch=\[.*\(list\) must be models.Keys, or a mapping",
    ),
    "a number in a rule": (
        lambda: models.Family("small", keras={"head": 3}),
        r"^keras: rule=3 \(int\)",
    ),
    "a family that cannot be called": (lambda: models.register(3, {}), r"^build=3 \(int\)"),
    "variants in a list": (
        lambda: models.register(models.resnet, ["resnet18"]),
        r"^variants=\['resnet18'\] \(list\)",
    ),
    "a variant's arguments in a list": (
        lambda: models.register(small, {"small": [3]}),
        r"^variants\['small'\]=\[3\] \(list\)",
    ),
    "another family's option": (
        lambda: models.with_options(shortcut="none")(small.__wrapped__),
        "^option='shortcut' is not known",
    ),
    "a family of no network": (
        lambda: registered(lambda **options: nn.Identity()),
        r"^<lambda>: result=.*\(Identity\) must be a models.Network",
    ),
    "NumPy's numbers for a family from outside": (
        lambda: small(np.int64(4), dropout=np.float32(0.5), rngs=nnx.Rngs(0)) == (4, 0.5, 1000),
        None,
    ),
    "units of a network": (
        lambda: models.Network([nn.Identity()], family=NET.family),
        r"^units=\[",
    ),
    "a family of a network": (
        lambda: models.Network({"a": nn.Identity()}, family="resnet"),
        r"^family='resnet' \(str\)",
    ),
}
