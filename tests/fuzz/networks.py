"""Malformed calls of ``convjax.models``: networks are outlined, not computed."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import models
from tests.fuzz.kinds import (
    DTYPE,
    FOLDER,
    INIT,
    RNGS,
    Fresh,
    Kind,
    also,
    array,
    but,
    choice,
    file,
    flag,
    integer,
    integers,
    net,
    number,
    optional,
    padding,
    text,
    wrong,
)
from tests.fuzz.room import call


def outlined(make):
    """Return the maker of a network's shapes and dtypes."""

    def outline(rngs, **options):
        if isinstance(rngs, nnx.Rngs):
            return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), **options))
        return make(rngs=rngs, **options)

    return outline


function = Kind(
    "relu", wrong("lambda", "class", misspelt="rellu", seven=7), {"str_": np.str_("relu")}
)
rate = number(0.25, least=0.0, below=1.0)
classes, channels = integer(5, least=0), integer(2, least=1)
factor = number(0.25, above=0.0)
COMMON = {
    "num_classes": classes,
    "in_features": channels,
    "norm": choice("batch"),
    "activation": function,
    "init": INIT,
    "rngs": RNGS,
    "dtype": optional(DTYPE._replace(valid=None, same={})),
    "param_dtype": DTYPE,
}
SHORTCUT = {"shortcut": choice("identity"), "shortcut_scale": number(0.5)}
DROPS = {"dropout": rate, "reference": choice("torch")}
DEPTH = {"stochastic_depth": rate}
stride = Kind(None, wrong("None", minus=-1, zero=0, seven=7), {})
STRIDE = {"output_stride": stride}
units = integers((1, 1, 1, 1), single=False, length=False)
width = integer(4, least=1)


def network(make, **kinds):
    return call(outlined(make), {"paths": ("path",)}, **kinds)


NET = models.resnet_cifar(8, width=2, rngs=nnx.Rngs(0))
REPVGG = models.repvgg((1, 1), width=0.0625, last_width=0.0625, rngs=nnx.Rngs(0))
STATE = models.export_weights(NET)
X = jnp.ones((1, 8, 8, 3))
some = net(Fresh(lambda: NET))
names = Kind(
    "stage1",
    wrong(seven=7, sevens=[7], misspelt="stagge1", nothing=[None]),
    {"list": ["stage1"], "str_": np.str_("stage1")},
)


x = array(X)
# Pixels may be integers.
x = but(x, "integers", "flags")._replace(
    same=x.same | {"integers": np.ones((1, 8, 8, 3), np.int32)}
)


def features(net, x, paths, train, rngs):
    return models.features(net, x, paths, train=train, rngs=rngs)


def freeze(net, up_to, paths, statistics):
    return models.freeze(net, up_to, paths=paths, statistics=statistics).count


models.save(NET, FOLDER / "weights.safetensors")
weights = file(str(FOLDER / "weights.safetensors"))
weights = weights._replace(
    bad={k: v for k, v in weights.bad.items() if k not in ("dict",)}
    | {"empty dict": {}, "values": dict.fromkeys(STATE, "text")},
)
allow = Kind((), wrong("list", "text", seven=7, sevens=[7], nothing=[None]))


def given(kind):
    """An argument that is looked at after files are fetched, or heads are found: not varied."""
    return Kind(kind.valid, {})


def made(**options):
    return NET


numbered = {"stage{i}": "layer{k}"}
rules = optional(Kind({"head/dense": "fc"}, wrong("dict", sevens={"head": 7}, numbered=numbered)))


CALLS = {
    "models.resnet_cifar": network(
        models.resnet_cifar,
        depth=integer(8, least=8),
        width=width,
        transition=choice("zero_pad"),
        branch_scale=number(1.0),
        conv=choice("dense"),
        order=choice("post"),
        padding=padding(1),
        **SHORTCUT,
        **COMMON,
        **DROPS,
    ),
    "models.wide_resnet_cifar": network(
        models.wide_resnet_cifar,
        depth=integer(10, least=10),
        widen=integer(1, least=1),
        width=width,
        transition=choice("projection"),
        unit_dropout=rate,
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.deep_stack": network(
        models.deep_stack,
        depth=integer(2, least=1),
        width=width,
        shortcut=choice("identity"),
        shortcut_scale=number(0.5),
        branch_scale=number(1.0),
        conv=choice("dense"),
        convs_per_unit=integer(2, least=1),
        order=choice("pre"),
        kernel_size=integers((3, 3), single=False),
        padding=padding(),
        use_bias=flag(False),
        **{k: v for k, v in COMMON.items() if k not in ("num_classes", "in_features")},
    ),
    "models.resnet": network(
        models.resnet,
        units=units,
        bottleneck=flag(True),
        width=integer(8, least=1),
        groups=integer(1, least=1),
        group_width=integer(64, least=1),
        stem=choice("7x7"),
        pooled_shortcut=flag(False),
        strides_on=optional(choice(None, "3x3")),
        squeeze=flag(False),
        squeeze_divisor=integer(8, least=1),
        squeeze_activated=flag(False),
        zero_init=flag(False),
        transition=choice("projection"),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.resnet_v2": network(
        models.resnet_v2,
        units=units,
        bottleneck=flag(True),
        width=integer(8, least=1),
        stem=choice("7x7"),
        pooled_shortcut=flag(False),
        strides_at=optional(choice(None, "end")),
        standardize=flag(False),
        zero_init=flag(False),
        transition=choice("projection"),
        unit_dropout=rate,
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.convnext": network(
        models.convnext,
        units=units,
        width=integer(8, least=1),
        kernel_size=integer(7, least=1),
        expansion=integer(4, least=1),
        layer_scale=optional(number(1e-6)),
        response_norm=flag(False),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.efficientnet": network(
        models.efficientnet,
        width=factor,
        depth=factor,
        squeeze=flag(True),
        fixed_ends=flag(False),
        epsilon=optional(number(1e-5, least=0.0)),
        same_padding=flag(False),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.vgg": network(
        models.vgg,
        units=integers((1, 1, 1, 1, 1), single=False),
        width=width,
        hidden=integers((8, 8), single=False, length=False),
        **SHORTCUT,
        **{**COMMON, "norm": choice("none")},
        **DROPS,
    ),
    "models.densenet": network(
        models.densenet,
        units=units,
        growth=width,
        bottleneck=integer(4, least=1),
        unit_dropout=rate,
        **COMMON,
        **DROPS,
    ),
    "models.efficientnet_v2": network(
        models.efficientnet_v2,
        kind=choice("b"),
        width=factor,
        depth=factor,
        squeeze=flag(True),
        epsilon=optional(number(1e-5, least=0.0)),
        same_padding=flag(False),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.mnasnet": network(
        models.mnasnet,
        kind=choice("small"),
        width=factor,
        squeeze=flag(True),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.mobilenet_v4": network(
        models.mobilenet_v4,
        kind=choice("small"),
        width=factor,
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.xception_aligned": network(
        models.xception_aligned,
        middle=integer(1, least=1),
        entry=Kind(
            ((8,), (8,)),
            wrong("list", nothing=[None], seven=7, text="ab", empty=[]),
            {"lists": [[8], [8]]},
        ),
        width=factor,
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.unet": network(models.unet, widths=integers((4, 4), single=False), **COMMON, **DROPS),
    "models.fcn": network(
        models.fcn,
        backbone=choice("resnet18"),
        num_classes=classes,
        hidden=optional(integer(4, least=1)),
        scale=optional(integer(8, least=1)),
        dropout=rate,
        rngs=RNGS,
    ),
    "models.repvgg": network(
        models.repvgg,
        units=units,
        width=factor,
        last_width=factor,
        groups=integer(1, least=1),
        squeeze=flag(False),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.merged": call(models.merged, net=net(Fresh(lambda: REPVGG))),
    "models.squeezenet": network(
        models.squeezenet, version=choice("1.1"), width=factor, **SHORTCUT, **COMMON, **DROPS
    ),
    "models.shufflenet_v2": network(
        models.shufflenet_v2,
        widths=integers((4, 4, 8), single=False),
        units=integers((1, 1, 1), single=False),
        stem=integer(4, least=1),
        hidden=integer(4, least=1),
        **COMMON,
        **DROPS,
    ),
    "models.regnet": network(
        models.regnet,
        depth=integer(3, least=1),
        width=integer(8, least=1),
        slope=number(8.0, least=0.0),
        ratio=number(2.0, above=1.0),
        group_width=integer(4, least=1),
        squeeze=flag(False),
        least=number(0.9, least=0.0, most=1.0),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.ghostnet": network(
        models.ghostnet,
        width=factor,
        squeeze=flag(True),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
    ),
    "models.mobilenet_v1": network(
        models.mobilenet_v1,
        width=factor,
        depth=factor,
        last=flag(False),
        shortcut=choice("none"),
        shortcut_scale=number(0.5),
        **COMMON,
        **DROPS,
        stochastic_depth=number(0.0, least=0.0, below=1.0),
        **STRIDE,
    ),
    "models.mobilenet_v2": network(
        models.mobilenet_v2,
        width=factor,
        depth=factor,
        fixed_ends=flag(False),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.mobilenet_v3": network(
        models.mobilenet_v3,
        kind=choice("small"),
        width=factor,
        squeeze=flag(True),
        epsilon=optional(number(1e-5, least=0.0)),
        same_padding=flag(False),
        **SHORTCUT,
        **{**COMMON, "activation": optional(function)},
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.xception": network(
        models.xception,
        middle=integer(1, least=0),
        width=factor,
        transition=choice("projection"),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
        **STRIDE,
    ),
    "models.inception_v1": network(
        models.inception_v1,
        width=factor,
        window=integer(3, least=1),
        auxiliary=flag(False),
        auxiliary_dropout=rate,
        **COMMON,
        **DROPS,
    ),
    "models.inception_v3": network(
        models.inception_v3, width=factor, auxiliary=flag(False), **COMMON, **DROPS
    ),
    "models.inception_v4": network(
        models.inception_v4,
        units=integers((1, 1, 1), single=False),
        width=factor,
        **COMMON,
        **DROPS,
    ),
    "models.inception_resnet_v2": network(
        models.inception_resnet_v2,
        units=integers((1, 1, 1), single=False),
        width=factor,
        branch_scales=Kind(
            (0.25, 0.5, 0.25),
            wrong("matrix", nothing=[None] * 3, two=(0.5, 0.5), nans=[float("nan")] * 3, seven=7),
            {"list": [0.25, 0.5, 0.25], "array": np.array([0.25, 0.5, 0.25])},
        ),
        **SHORTCUT,
        **COMMON,
        **DROPS,
        **DEPTH,
    ),
    "models.create": network(
        models.create,
        name=choice("resnet18"),
        num_classes=classes,
        width=width,
        in_features=channels,
        rngs=RNGS,
    ),
    "models.list": call(models.list, pattern=text("resnet18")),
    "models.preprocessing": call(
        models.preprocessing, name=choice("resnet18"), reference=choice("torch")
    ),
    "models.from_hub": call(
        models.from_hub,
        repo_id=Kind("timm/nothing", wrong(seven=7, no_name="noname", NUL="a/b\0", empty="")),
        revision=given(text(None)),
        allow=given(allow),
        rngs=given(RNGS),
    ),
    "models.auxiliary_logits": call(
        models.auxiliary_logits, net=some, x=given(array(X)), train=given(flag(False))
    ),
    "models.features": call(
        features,
        {"paths": ("path",)},
        net=some,
        x=x,
        paths=names,
        train=flag(False),
        rngs=optional(RNGS),
    ),
    "models.freeze": call(
        freeze,
        {"up_to": ("path",), "paths": ("path",)},
        net=some,
        up_to=optional(but(choice("stage1"), "empty")),
        paths=Kind((), wrong("list", seven=7, sevens=[7], misspelt="stagge1")),
        statistics=choice("frozen"),
    ),
    "models.headless": call(models.headless, net=some),
    "models.export_weights": call(
        models.export_weights, net=some, tree=optional(Kind(None, wrong("None", seven=7)))
    ),
    "models.load_weights": call(
        lambda net, source, allow, adapt_input, use_ema: (
            models.load_weights(
                net, source, allow=allow, adapt_input=adapt_input, use_ema=use_ema
            ).count
        ),
        {"source": ("file", "weights")},
        net=some,
        source=weights,
        allow=allow,
        adapt_input=flag(False),
        use_ema=flag(False),
    ),
    "models.Family": call(
        models.Family,
        name=also(text("small"), empty=""),
        torch=rules,
        keras=rules,
        torchvision=rules,
        others=optional(Kind({"mine": {"stem": "conv"}}, wrong("dict", sevens={"mine": 7}))),
    ),
    "models.register": call(
        models.register,
        build=Kind(made, wrong("lambda", "class", seven=7)),
        variants=Kind({}, wrong("dict", number={"small": 7}, taken={"resnet18": {}})),
    ),
    "models.save": call(
        models.save, net=some, file=file(FOLDER / "saved.safetensors", missing=False)
    ),
}
EXEMPT = {
    "models.with_options": "takes a family's own defaults: tests/models/test_own_family.py",
    "models.Network": "a base class, which takes nothing itself",
}
ACCEPTED: dict[str, str] = {}
