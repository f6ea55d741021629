"""xception_aligned: Xception with strided separable convolutions in the place of its pools."""

from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Dilated, Style, skipped

# Channels of the units of the entry flow, the first of each stage strided; units of the middle.
_ENTRY = ((128,), (256,), (728,))
VARIANTS = {
    "xception41": {"middle": 8},
    "xception65": {"middle": 16},
    "xception71": {"middle": 16, "entry": ((128, 256), (256, 728), (728,))},
}


def _keys(units: Sequence[int]) -> dict[str, str]:
    """Return timm's names, which number the units of all stages together."""
    rules = {"head/dense": "head.fc"}
    for k in (1, 2):
        rules |= {f"stem/conv{k}": f"stem.{k - 1}.conv", f"stem/norm{k}": f"stem.{k - 1}.bn"}
    block = 0
    for s, count in enumerate(units, 1):
        for i in range(count):
            ours, there = f"stage{s}/{i}", f"blocks.{block}"
            for part, name in (("depthwise", "dw"), ("pointwise", "pw")):
                here, module = f"{ours}/branch/conv{{k}}/{part}", f"{there}.stack.conv{{k}}"
                rules[f"{here}/conv"] = f"{module}.conv_{name}"
                rules[f"{here}/norm"] = f"{module}.bn_{name}"
            rules |= {f"{ours}/shortcut/conv": f"{there}.shortcut.conv"}
            rules |= {f"{ours}/shortcut/norm": f"{there}.shortcut.bn"}
            block += 1
    return rules


@with_options()
def xception_aligned(
    middle: int = 8,
    *,
    entry: Sequence[Sequence[int]] = _ENTRY,
    width: float = 1.0,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a modified aligned Xception: no pools, and a norm after every convolution.

    Two 3x3 convolutions; stages whose first unit halves the image by its third depthwise
    convolution; units of the middle flow, which keep their shape, at the end of the third stage; an
    exit unit that halves once more, and three separable convolutions with activations and without a
    shortcut. A unit is three times activation, depthwise 3x3, norm, 1x1, norm. ``shortcut="none"``
    is the plain twin.

    Args:
      middle: units of the middle flow.
      entry: channels of the units of each stage of the entry flow.
      width: factor on all channel counts.
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      reference: ``"torch"``: timm.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; the convolutions of a unit are
      ``stage1/0/branch/conv1/depthwise/conv`` and ``…/pointwise/conv``.

    Raises:
      ValueError: an unknown name, a stage without units, a size below one.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.xception_aligned(rngs=nnx.Rngs(0)))  # 41 layers
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      26969560

    Reference: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation, 2018.
    """
    _check.instance("entry", entry, (tuple, list), "the channels of the units of every stage")
    stages = [_check.integers("entry", stage, least=1) for stage in entry]
    if not stages or not all(stages):
        raise ValueError(f"entry={entry} must have stages, and each of them units")

    def wide(features: int) -> int:
        return max(1, round(features * width))

    last = stages[-1][-1]
    table = [[(wide(f),) * 3 for f in stage] for stage in stages]
    table[-1] += [(wide(last),) * 3] * middle
    table.append([(wide(last), wide(1024), wide(1024)), (wide(1536), wide(1536), wide(2048))])
    family = Family("xception_aligned", torch=_keys([len(stage) for stage in table]))
    style = Style.of(options, family, epsilon=1e-3)
    rates, dilated = style.rates(sum(map(len, table))), Dilated(style.output_stride, 2)
    first, features = wide(32), wide(64)
    stem = style.step((style.in_features, first), 3, 2, number=1)
    units: dict[str, nnx.Module] = {
        "stem": nn.Chain({**stem, **style.step((first, features), 3, number=2)})
    }
    for s, rows in enumerate(table, 1):
        strides, before, dilation = dilated(2)
        made = []
        for i, row in enumerate(rows):
            how = (strides, before) if i == 0 else (1, dilation)
            final = s == len(table) and i == 1
            made.append(_unit(style, (features, *row), *how, next(rates), final))
            features = row[-1]
        units[f"stage{s}"] = nn.Chain(made)
    return style.network({**units, "head": style.head(features)})


def _unit(
    style: Style, fans: tuple[int, ...], strides: int, dilation: int, rate: float, final: bool
) -> nn.Residual:
    """Return one unit; the final one has its activations behind, and no shortcut."""
    branch: dict[str, nnx.Module] = {}
    for k in (1, 2, 3):
        fan = fans[k - 1], fans[k]
        if not final:
            branch[f"activation{k}"] = style.act()
        how = {"groups": fan[0], "dilation": dilation, "activation": final}
        branch[f"conv{k}"] = nn.Chain(
            depthwise=style.unit((fan[0], fan[0]), 3, strides if k == 3 else 1, **how),
            pointwise=style.unit(fan, activation=final),
        )
    if final:
        return nn.Residual(nn.Chain(branch), "none")
    kept = fans[0] == fans[-1] and strides == 1
    beside = style.beside(fans[0])
    if not kept:
        beside = style.across((fans[0], fans[-1]), strides, "projection")
    return nn.Residual(nn.Chain({**branch, **skipped(rate)}), beside)
