"""mobilenet_v3: inverted residual units found by search, with squeeze-and-excitation."""

from typing import Annotated, Unpack

from convjax import _check, nn
from convjax.models._mobile import MobileUnit, Row, Table, trunk
from convjax.models._mobile_keys import keras_v3, torch_v3, torchvision_v3
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible, dropped

# Features, strides, expansion, side of the window, squeeze-and-excitation, activation.
_LARGE = (
    (Row(16, 1, 0, 3, False, "relu"),),
    (Row(24, 2, 4, 3, False, "relu"), Row(24, 1, 3, 3, False, "relu")),
    (Row(40, 2, 3, 5, True, "relu"), *(Row(40, 1, 3, 5, True, "relu"),) * 2),
    (Row(80, 2, 6, 3), Row(80, 1, 2.5, 3), *(Row(80, 1, 2.3, 3),) * 2),
    (Row(112, 1, 6, 3, True),) * 2,
    (Row(160, 2, 6, 5, True), *(Row(160, 1, 6, 5, True),) * 2),
)
_SMALL = (
    (Row(16, 2, 0, 3, True, "relu"),),
    (Row(24, 2, 72 / 16, 3, False, "relu"), Row(24, 1, 88 / 24, 3, False, "relu")),
    (Row(40, 2, 4, 5, True), *(Row(40, 1, 6, 5, True),) * 2),
    (Row(48, 1, 3, 5, True),) * 2,
    (Row(96, 2, 6, 5, True), *(Row(96, 1, 6, 5, True),) * 2),
)
_TABLES = {"large": _LARGE, "small": _SMALL}
_HIDDEN = {"large": 1280, "small": 1024}
FAMILIES = {
    kind: Family(
        f"mobilenet_v3_{kind}",
        torch=torch_v3(len(table)),
        torchvision=torchvision_v3(
            [[(bool(row.expansion), row.squeeze) for row in rows] for rows in table]
        ),
        keras=keras_v3([len(rows) for rows in table]),
    )
    for kind, table in _TABLES.items()
}

_KERAS = {"epsilon": 1e-3, "momentum": 0.999}
_WIDTHS = {"small": (50, 75, 100), "large": (75, 100)}
VARIANTS = {
    f"mobilenetv3_{kind}_{w:03}": {"kind": kind, "width": w / 100}
    for kind, widths in _WIDTHS.items()
    for w in widths
}
VARIANTS |= {
    f"tf_{name}": {**preset, "same_padding": True, "epsilon": 1e-3}
    for name, preset in VARIANTS.items()
    if preset["width"] >= 0.75
}


class _Options(StridedOptions, total=False):
    activation: Annotated[str | None, None]  # pyright: ignore[reportIncompatibleVariableOverride]


@with_options()
def mobilenet_v3(
    kind: str = "large",
    *,
    width: float = 1.0,
    squeeze: bool = True,
    epsilon: float | None = None,
    same_padding: bool = False,
    **options: Unpack[_Options],
) -> Network:
    """Return a MobileNetV3, large or small.

    A strided 3x3 stem of 16 channels; stages of inverted residual units as a search found them,
    with ReLU in the earlier and hard swish in the later ones, and squeeze-and-excitation with a
    hard sigmoid in some; a 1x1 convolution; and behind the global average pool a hidden layer
    before the classifier. ``shortcut="none"`` is the plain twin, with the same parameters.

    Args:
      kind: ``"large"`` or ``"small"``.
      width: multiplier of the channels; the hidden layer's stay.
      squeeze: whether there is squeeze-and-excitation where the paper has it.
      epsilon: of the norms; None for the reference's.
      activation: a name in ``nn.ACTIVATIONS`` that takes the place of both; None for the paper's.
      same_padding: whether padding is SAME although the reference is ``"torch"`` (timm's ``tf_``).
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"`` or ``"keras"`` (SAME padding, epsilon 1e-3, a stem that keeps its
        width, a hidden layer that grows with widths above 1).
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, last=…, head=…)``; the convolutions of a unit are
      ``stage2/0/branch/expand/conv``, ``…/depthwise/conv`` and ``…/project/conv``.

    Raises:
      ValueError: an unknown name, a multiplier that is not positive, stochastic depth without
        shortcuts.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.mobilenet_v3("small", rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (56510400, 2542856)

    Reference: Howard et al., Searching for MobileNetV3, 2019.
    """
    _check.choice("kind", kind, _TABLES)
    own = options.get("activation")
    style = Style.of(
        options,
        FAMILIES[kind],
        keras=_KERAS,
        activation=own or "hard_swish",
        epsilon=epsilon,
        same=same_padding or None,
    )
    table = _table(kind, width, squeeze, own is None)
    # Keras never scales the stem; timm does from 0.75 on.
    first = 16 if style.keras or width < 0.75 else divisible(16 * width)
    final = table[-1][-1].features
    # Six times the channels before or after rounding, which differs at some widths.
    last = divisible(6 * final if style.keras else 6 * _TABLES[kind][-1][-1].features * width)
    hidden = divisible(_HIDDEN[kind] * width) if style.keras and width > 1 else _HIDDEN[kind]
    unit = MobileUnit(style, squeeze_middle=True, squeeze_activation="relu", gate="hard_sigmoid")
    return style.network(
        {
            "stem": style.unit((style.in_features, first), 3, 2),
            **trunk(unit, first, table),
            "last": style.unit((final, last)),
            "head": _head(style, last, hidden),
        }
    )


def _table(kind: str, width: float, squeeze: bool, own_activations: bool) -> Table:
    """Return the paper's table at a width, perhaps without squeezes or without its activations."""
    return [
        [
            row._replace(
                features=divisible(row.features * width),
                squeeze=row.squeeze and squeeze,
                activation=row.activation if own_activations else "",
            )
            for row in rows
        ]
        for rows in _TABLES[kind]
    ]


def _head(style: Style, last: int, hidden: int) -> nn.Chain:
    """Return pool, hidden layer and classifier; Keras's have no hidden layer without classes."""
    if style.keras and not style.num_classes:
        return style.head(last)
    widen = nn.Dense(last, hidden, kernel_init=style.init, rngs=style.rngs, **style.dtypes)
    return nn.Chain(
        {
            "pool": nn.GlobalPool("avg"),
            "hidden": widen,
            "activation": style.act(),
            **dropped(style.dropout),
            **style.classifier(hidden),
        }
    )
