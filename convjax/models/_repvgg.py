"""repvgg: 3x3, 1x1 and identity beside each other in training, one 3x3 convolution afterwards."""

from collections.abc import Sequence
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Dilated, Style, skipped

# Units of the stages; multipliers of the first three stages' channels, and of the last one's.
_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
_SIZES = {
    "a0": (_A, 0.75, 2.5),
    "a1": (_A, 1.0, 2.5),
    "a2": (_A, 1.5, 2.75),
    "b0": (_B, 1.0, 2.5),
    "b1": (_B, 2.0, 4.0),
    "b2": (_B, 2.5, 5.0),
    "b3": (_B, 3.0, 5.0),
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"repvgg_{size}": {"units": units, "width": width, "last_width": last}
    for size, (units, width, last) in _SIZES.items()
}
VARIANTS["repvgg_d2se"] = {
    "units": (8, 14, 24, 1),
    "width": 2.5,
    "last_width": 5.0,
    "squeeze": True,
}
VARIANTS |= {f"repvgg_{b}g4": VARIANTS[f"repvgg_{b}"] | {"groups": 4} for b in ("b1", "b2", "b3")}


def _keys() -> dict[str, str]:
    rules = {"head/dense": "head.fc"}
    for unit, there in _UNITS:
        for part, name in (("reduce", "fc1"), ("expand", "fc2")):
            rules[f"{unit}/squeeze/{part}"] = f"{there}.attn.{name}"
    for ours, there in (*_UNITS, *((f"{unit}/terms", there) for unit, there in _UNITS)):
        for term, name in (("branch", "conv_kxk"), ("shortcut", "conv_1x1")):
            for part, leaf in (("conv", "conv"), ("norm", "bn")):
                rules[f"{ours}/branch/sum/{term}/{part}"] = f"{there}.{name}.{leaf}"
        rules[f"{ours}/shortcut/norm"] = f"{there}.identity"
    return rules


_UNITS = (("stem", "stem"), ("stage{s}/{i}", "stages.{s-1}.{i}"))
_KEYS = _keys()
FAMILY = Family("repvgg", torch=_KEYS)
# What timm calls the same network when its branches are one.
FAMILY_MERGED = Family(
    "repvgg_merged",
    torch=_KEYS | {f"{unit}/conv": f"{there}.reparam_conv" for unit, there in _UNITS},
)


@with_options()
def repvgg(
    units: Sequence[int] = (2, 4, 14, 1),
    *,
    width: float = 0.75,
    last_width: float = 2.5,
    groups: int = 1,
    squeeze: bool = False,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a RepVGG as it is trained; ``models.merged`` makes one convolution of every unit.

    A strided unit of at most 64 channels; four stages that each halve the image; global average
    pool and a classifier. A unit is the sum of a 3x3 and a 1x1 convolution, and, where the shape is
    kept, of its input, each behind a norm of its own, and then an activation. ``shortcut="none"``
    leaves that third term out: the plain twin, which keeps the 1x1 convolutions.

    Args:
      units: units of each stage.
      width: multiplier of the channels of all stages but the last: 64, 128 and 256.
      last_width: multiplier of the last stage's 512 channels.
      groups: groups of every second unit's convolutions.
      squeeze: whether squeeze-and-excitation, to a sixteenth of the channels, follows the sum of
        every unit.
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      reference: ``"torch"``.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; of a unit the convolutions are
      ``stage1/1/branch/sum/branch/conv`` (3x3) and ``stage1/1/branch/sum/shortcut/conv`` (1x1),
      and ``stage1/1/shortcut/norm`` is what the input goes through. With ``squeeze`` they are in
      ``stage1/1/terms``.

    Raises:
      ValueError: an unknown name, a size below one, channels that are no multiple of the groups.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.repvgg(rngs=nnx.Rngs(0)))  # A0
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (1512581120, 9108968)

    Reference: Ding et al., RepVGG: Making VGG-style ConvNets Great Again, 2021.
    """
    style = Style.of(options, FAMILY)
    wide = [max(round(64 * 2**s * width), 1) for s in range(len(units) - 1)]
    wide.append(max(round(64 * 2 ** (len(units) - 1) * last_width), 1))
    rates, dilated = style.rates(sum(units)), Dilated(style.output_stride, 2)
    features = min(64, wide[0])
    stages: dict[str, nnx.Module] = {
        "stem": _unit(style, (style.in_features, features), 2, squeeze=squeeze)
    }
    for s, (count, after) in enumerate(zip(units, wide, strict=True), 1):
        strides, before, dilation = dilated(2)
        made = []
        for i in range(count):
            how: dict[str, Any] = {"dilation": dilation}
            if i == 0:
                how = {"strides": strides, "dilation": before}
            grouped = groups if i % 2 else 1
            how |= {"groups": grouped, "rate": next(rates), "squeeze": squeeze}
            made.append(_unit(style, (features, after), **how))
            features = after
        stages[f"stage{s}"] = nn.Chain(made)
    return style.network({**stages, "head": style.head(features)})


def _unit(
    style: Style,
    fan: tuple[int, int],
    strides: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
    rate: float = 0.0,
    squeeze: bool = False,
) -> nnx.Module:
    """Return one unit, at a rate of stochastic depth where its input is one of the terms."""
    if squeeze:
        how = {"dilation": dilation, "groups": groups, "rate": rate}
        terms = _terms(style, fan, strides, None, **how)
        reduced = max(fan[1] // 16, 1)
        excite = nn.SqueezeExcite(fan[1], reduced, rngs=style.rngs, **style.dtypes)
        return nn.Chain(terms=terms, squeeze=excite, activation=style.act())
    return _terms(style, fan, strides, style.act(), dilation=dilation, groups=groups, rate=rate)


def _terms(
    style: Style,
    fan: tuple[int, int],
    strides: int,
    activation: nn.Activation | None,
    *,
    dilation: int,
    groups: int,
    rate: float,
) -> nn.Residual:
    """Return the sum of two or three terms, and an activation where one is given."""
    how: dict[str, Any] = {"strides": strides, "groups": groups, "activation": False}
    both = nn.Residual(style.unit(fan, 3, dilation=dilation, **how), style.unit(fan, 1, **how))
    if fan[0] != fan[1] or strides > 1:
        return nn.Residual(nn.Chain(sum=both), "none", activation=activation)

    def normed(own: Style) -> nnx.Module:
        beside = own.beside(fan[1])
        if beside == "identity":
            return nn.Chain(own.normed("norm", fan[1])) if own.norm != "none" else nn.Identity()
        return beside if isinstance(beside, nnx.Module) else nn.Identity()

    branch = nn.Chain({"sum": both, **skipped(rate)})
    beside = style.across(fan, 1, "projection", normed)
    return nn.Residual(branch, beside, activation=activation)


def merged(net: Network) -> Network:
    """Return a RepVGG with one convolution for every unit, for inference.

    It computes what ``net`` does in evaluation, in a third of the memory and with nothing beside
    anything: kernels are added, the 1x1 one and the identity at the middle of the 3x3 one, each
    multiplied by its norm's scale over the root of the running variance.

    Args:
      net: what ``models.repvgg`` returned; it is left as it is.

    Returns:
      The network of ``conv`` and ``activation`` in the place of every unit (between them the
      ``squeeze`` where there is one), with timm's names of a network that its ``reparameterize``
      has turned.

    Raises:
      ValueError: another network, or one with other norms than batch norm, a scaled or gated
        shortcut.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.repvgg((1, 2), width=0.125, last_width=0.125, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(0), (1, 40, 32, 3))
      >>> small = models.merged(net)
      >>> small.stage2.names, bool(jnp.allclose(net(x), small(x), atol=1e-4))
      (('0', '1'), True)

    Reference: Ding et al., RepVGG: Making VGG-style ConvNets Great Again, 2021.
    """
    if not isinstance(net, nnx.Module):
        _check.wrong_type("net", net, "a network that models.repvgg returned")
    if not isinstance(net, Network) or net.family != FAMILY:
        raise ValueError(f"net={type(net).__name__} is no RepVGG; give what models.repvgg returns")
    net = nnx.clone(net)
    units: dict[str, nnx.Module] = {}
    for name, unit in net.items():
        if name == "stem":
            units[name] = _merged(unit)
        elif name == "head":
            units[name] = unit
        elif isinstance(unit, nn.Chain):
            units[name] = nn.Chain({i: _merged(each) for i, each in unit.items()})
    return Network(units, family=FAMILY_MERGED, reference=net.reference, name=net.name)


def _merged(unit: Any) -> nn.Chain:
    """Return one convolution and the activation, of a unit."""
    if isinstance(unit, nn.Chain):
        conv = _merged(unit["terms"])["conv"]
        return nn.Chain(conv=conv, squeeze=unit["squeeze"], activation=unit["activation"])
    both = unit.branch["sum"]
    conv = both.branch["conv"]
    kernel, bias = _folded(both.branch)
    small, more = _folded(both.shortcut)
    kernel[1, 1] += small[0, 0]
    bias = bias + more
    if unit.shortcut is not None:
        norm = None if isinstance(unit.shortcut, nn.Identity) else _norm_alone(unit.shortcut)
        scale, more = _affine(norm, len(bias))
        channel = np.arange(len(bias))
        kernel[1, 1, channel % kernel.shape[-2], channel] += scale
        bias = bias + more
    dtype = conv.kernel.dtype
    conv.kernel[...] = jnp.asarray(kernel, dtype)
    conv.bias = nnx.data(nnx.Param(jnp.asarray(bias, dtype)))
    parts = {"conv": conv, "activation": unit.activation}
    return nn.Chain({name: part for name, part in parts.items() if part is not None})


def _norm_alone(shortcut: Any) -> nnx.Module:
    if isinstance(shortcut, nn.Chain) and shortcut.names == ("norm",):
        return shortcut["norm"]
    raise ValueError(
        f"net has a shortcut that is {nn.kind_of(shortcut)}; only the identity behind batch norm, "
        "shortcut='identity' or 'none', can be merged"
    )


def _folded(unit: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias, in float64, of a convolution with the norm behind it."""
    kernel, own = _wide(unit["conv"].kernel), unit["conv"].bias
    scale, bias = _affine(unit["norm"] if "norm" in unit.names else None, kernel.shape[-1])
    return kernel * scale, bias if own is None else bias + _wide(own) * scale


def _affine(norm: Any, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a norm multiplies by and adds in evaluation; None for no norm."""
    if norm is None:
        return np.ones(features), np.zeros(features)
    if not isinstance(norm, nn.BatchNorm):
        raise ValueError(
            f"net has the norm {nn.kind_of(norm)}, which depends on its input; only batch norm's "
            "running statistics can be merged into a kernel"
        )
    scale = _wide(norm.scale) / np.sqrt(_wide(norm.var) + norm.epsilon)
    return scale, _wide(norm.bias) - _wide(norm.mean) * scale


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array[...], np.float64)
