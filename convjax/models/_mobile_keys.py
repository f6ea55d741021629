"""What timm, torchvision and Keras call the weights of the MobileNets and the EfficientNets."""

from collections.abc import Iterator, Sequence

from convjax.models._mobile import Table
from convjax.models._network import Keys

_UNIT = "stage{s}/{i}/branch/"
_THERE = "blocks.{s-1}.{i}."
_ENDS = (
    ("stem/conv", "conv_stem"),
    ("stem/norm", "bn1"),
    ("last/conv", "conv_head"),
    ("last/norm", "bn2"),
    ("head/dense", "classifier"),
)
_SQUEEZE = (
    (f"{_UNIT}squeeze/reduce", f"{_THERE}se.conv_reduce"),
    (f"{_UNIT}squeeze/expand", f"{_THERE}se.conv_expand"),
)
_EXPANDED = (
    (f"{_UNIT}expand/conv", f"{_THERE}conv_pw"),
    (f"{_UNIT}expand/norm", f"{_THERE}bn1"),
    (f"{_UNIT}depthwise/conv", f"{_THERE}conv_dw"),
    (f"{_UNIT}depthwise/norm", f"{_THERE}bn2"),
    (f"{_UNIT}project/conv", f"{_THERE}conv_pwl"),
    (f"{_UNIT}project/norm", f"{_THERE}bn3"),
)
# The units of the first stage expand nothing, and their norms are counted from 1 all the same.
_FIRST = (
    ("stage1/{i}/branch/depthwise/norm", "blocks.0.{i}.bn1"),
    ("stage1/{i}/branch/project/conv", "blocks.0.{i}.conv_pw"),
    ("stage1/{i}/branch/project/norm", "blocks.0.{i}.bn2"),
)
TORCH = Keys((*_FIRST, *_EXPANDED, *_SQUEEZE, *_ENDS))
TORCH_V1 = Keys(
    (
        (f"{_UNIT}depthwise/conv", f"{_THERE}conv_dw"),
        (f"{_UNIT}depthwise/norm", f"{_THERE}bn1"),
        (f"{_UNIT}pointwise/conv", f"{_THERE}conv_pw"),
        (f"{_UNIT}pointwise/norm", f"{_THERE}bn2"),
        *_ENDS,
    )
)

# torchvision has TensorFlow's constants where its weights, or the code, came from there.
_TENSORFLOW = {"epsilon": 1e-3, "momentum": 0.99}


# Parts of a unit, and timm's names of their convolution and norm.
_TORCH_UNITS = {
    ("inverted", False): (("depthwise", "conv_dw", "bn1"), ("project", "conv_pw", "bn2")),
    ("inverted", True): (
        ("expand", "conv_pw", "bn1"),
        ("depthwise", "conv_dw", "bn2"),
        ("project", "conv_pwl", "bn3"),
    ),
    ("fused", False): (("", "conv", "bn1"),),
    ("fused", True): (("expand", "conv_exp", "bn1"), ("project", "conv_pwl", "bn2")),
    ("universal", True): (
        ("start", "dw_start.conv", "dw_start.bn"),
        ("expand", "pw_exp.conv", "pw_exp.bn"),
        ("depthwise", "dw_mid.conv", "dw_mid.bn"),
        ("project", "pw_proj.conv", "pw_proj.bn"),
    ),
}


def torch_of(table: Table) -> Keys:
    """Return timm's names of a network that a table of units of several kinds makes."""
    rules = []
    for s, rows in enumerate(table):
        for i, row in enumerate(rows):
            for part, conv, norm in _TORCH_UNITS[row.kind, bool(row.expansion)]:
                ours = f"stage{s + 1}/{i}/branch/{part}".rstrip("/")
                rules += _pair(ours, f"blocks.{s}.{i}.{conv}", f"blocks.{s}.{i}.{norm}")
    head = (("head/hidden", "conv_head@1x1"), ("head/norm", "norm_head"))
    return Keys((*rules, *_SQUEEZE, *head, *_ENDS))


def torch_v3(stages: int) -> Keys:
    """Return timm's names of a MobileNetV3, to which the last convolution is one stage more."""
    return Keys(
        (
            ("last/conv", f"blocks.{stages}.0.conv"),
            ("last/norm", f"blocks.{stages}.0.bn1"),
            ("head/hidden", "conv_head@1x1"),
            *TORCH.rules,
        )
    )


def torchvision_v2(units: Sequence[int]) -> Keys:
    """Return torchvision's names of a MobileNetV2, which numbers stem, units and end together."""
    rules = []
    for unit, n in _numbered(units):
        there = f"features.{n + 1}.conv"
        # The first unit expands nothing.
        parts = ("depthwise",) if n == 0 else ("expand", "depthwise")
        for k, part in enumerate(parts):
            rules += _pair(f"{unit}/{part}", f"{there}.{k}.0", f"{there}.{k}.1")
        k = len(parts)
        rules += _pair(f"{unit}/project", f"{there}.{k}", f"{there}.{k + 1}")
    return _torchvision(rules, sum(units) + 1, "classifier.1")


def torchvision_v3(units: Sequence[Sequence[tuple[bool, bool]]]) -> Keys:
    """Return torchvision's names of a MobileNetV3.

    Args:
      units: of every stage, whether a unit expands and whether it squeezes.
    """
    kinds = [kind for stage in units for kind in stage]
    rules = []
    for (unit, n), (expands, squeezes) in zip(_numbered([*map(len, units)]), kinds, strict=True):
        parts = {"expand": expands, "depthwise": True, "squeeze": squeezes, "project": True}
        rules += _block(unit, f"features.{n + 1}.block", [p for p, here in parts.items() if here])
    rules.append(("head/hidden", "classifier.0"))
    return _torchvision(rules, len(kinds) + 1, "classifier.3")._replace(**_TENSORFLOW)


def torchvision_of(table: Table) -> Keys:
    """Return torchvision's names of a network that a table of fused and inverted units makes."""
    rules = []
    for s, rows in enumerate(table, 1):
        for i, row in enumerate(rows):
            unit, there = f"stage{s}/{i}/branch", f"features.{s}.{i}.block"
            if row.kind == "fused" and not row.expansion:
                rules += _pair(unit, f"{there}.0.0", f"{there}.0.1")
            elif row.kind == "fused":
                rules += _block(unit, there, ("expand", "project"))
            else:
                rules += _block(unit, there, _PARTS)
    return _torchvision(rules, len(table) + 1, "classifier.1")._replace(epsilon=1e-3)


def torchvision_mnasnet(units: Sequence[int]) -> Keys:
    """Return torchvision's names of a MNASNet, which numbers layers and stages together."""
    rules = [
        *_pair("stem", "layers.0", "layers.1"),
        *_pair("stage1/0/branch/depthwise", "layers.3", "layers.4"),
        *_pair("stage1/0/branch/project", "layers.6", "layers.7"),
    ]
    for s in range(2, len(units) + 1):
        for k, part in enumerate(("expand", "depthwise", "project")):
            there = f"layers.{6 + s}.{{i}}.layers"
            rules += _pair(
                f"stage{s}/{{i}}/branch/{part}", f"{there}.{3 * k}", f"{there}.{3 * k + 1}"
            )
    last = 7 + len(units)
    ends = _pair("last", f"layers.{last}", f"layers.{last + 1}")
    return Keys((*rules, *ends, ("head/dense", "classifier.1")))


def efficientnet_pytorch(units: Sequence[int]) -> Keys:
    """Return the names of the package EfficientNet-PyTorch, which numbers all units together."""
    rules = []
    for unit, n in _numbered(units):
        there = f"_blocks.{n}."
        rules += _pair(f"{unit}/expand", f"{there}_expand_conv", f"{there}_bn0")
        rules += _pair(f"{unit}/depthwise", f"{there}_depthwise_conv", f"{there}_bn1")
        rules += _pair(f"{unit}/project", f"{there}_project_conv", f"{there}_bn2")
        rules.append((f"{unit}/squeeze/reduce", f"{there}_se_reduce"))
        rules.append((f"{unit}/squeeze/expand", f"{there}_se_expand"))
    ends = (*_pair("stem", "_conv_stem", "_bn0"), *_pair("last", "_conv_head", "_bn1"))
    return Keys((*rules, *ends, ("head/dense", "_fc")))


def _torchvision(rules: Sequence[tuple[str, str]], last: int, head: str) -> Keys:
    ends = (
        *_pair("stem", "features.0.0", "features.0.1"),
        *_pair("last", f"features.{last}.0", f"features.{last}.1"),
        ("head/dense", head),
    )
    return Keys((*ends, *rules))


def _pair(ours: str, conv: str, norm: str) -> tuple[tuple[str, str], ...]:
    return ((f"{ours}/conv", conv), (f"{ours}/norm", norm))


def _block(unit: str, there: str, parts: Sequence[str]) -> list[tuple[str, str]]:
    """Return torchvision's rules of a unit whose parts it numbers."""
    rules = []
    for k, part in enumerate(parts):
        if part == "squeeze":
            rules.append((f"{unit}/squeeze/reduce", f"{there}.{k}.fc1"))
            rules.append((f"{unit}/squeeze/expand", f"{there}.{k}.fc2"))
        else:
            rules += _pair(f"{unit}/{part}", f"{there}.{k}.0", f"{there}.{k}.1")
    return rules


def keras_v1(units: Sequence[int]) -> Keys:
    """Return Keras's names of a MobileNet with these counts of units in its stages."""
    rules = [
        rule
        for unit, n in _numbered(units)
        for rule in (
            (f"{unit}/depthwise/conv", f"conv_dw_{n + 1}"),
            (f"{unit}/depthwise/norm", f"conv_dw_{n + 1}_bn"),
            (f"{unit}/pointwise/conv", f"conv_pw_{n + 1}"),
            (f"{unit}/pointwise/norm", f"conv_pw_{n + 1}_bn"),
        )
    ]
    ends = (("stem/conv", "conv1"), ("stem/norm", "conv1_bn"), ("head/dense", "conv_preds@1x1"))
    return Keys((*ends, *rules))


def mlperf_tiny(units: Sequence[int]) -> Keys:
    """Return the names of a MobileNet in MLPerf Tiny, whose layers Keras numbers by itself."""
    rules = [
        rule
        for unit, n in _numbered(units)
        for rule in (
            (f"{unit}/depthwise/conv", f"depthwise_conv2d:{n}"),
            (f"{unit}/depthwise/norm", f"batch_normalization:{2 * n + 1}"),
            (f"{unit}/pointwise/conv", f"conv2d:{n + 1}"),
            (f"{unit}/pointwise/norm", f"batch_normalization:{2 * n + 2}"),
        )
    ]
    ends = (*_pair("stem", "conv2d:0", "batch_normalization:0"), ("head/dense", "dense:0"))
    return Keys((*ends, *rules), keras=True)


def keras_v2(units: Sequence[int]) -> Keys:
    """Return Keras's names of a MobileNetV2 with these counts of units in its stages."""
    rules = [
        rule
        for unit, n in _numbered(units)
        for rule in _inverted(unit, f"block_{n}" if n else "expanded_conv", "BN")
    ]
    ends = (
        ("stem/conv", "Conv1"),
        ("stem/norm", "bn_Conv1"),
        ("last/conv", "Conv_1"),
        ("last/norm", "Conv_1_bn"),
        ("head/dense", "predictions"),
    )
    return Keys((*ends, *rules))


def keras_v3(units: Sequence[int]) -> Keys:
    """Return Keras's names of a MobileNetV3 with these counts of units in its stages."""
    rules = [
        rule
        for unit, n in _numbered(units)
        for rule in _inverted(unit, f"expanded_conv_{n}" if n else "expanded_conv", "bn")
    ]
    ends = (
        ("stem/conv", "conv"),
        ("stem/norm", "conv_bn"),
        ("last/conv", "conv_1"),
        ("last/norm", "conv_1_bn"),
        ("head/hidden", "conv_2@1x1"),
        ("head/dense", "logits@1x1"),
    )
    return Keys((*ends, *rules))


def _inverted(unit: str, there: str, norm: str) -> tuple[tuple[str, str], ...]:
    """Return the rules of one inverted residual unit."""
    return (
        *(
            (f"{unit}/{part}/conv", f"{there}_{part}")
            for part in ("expand", "depthwise", "project")
        ),
        *(
            (f"{unit}/{part}/norm", f"{there}_{part}_{norm}")
            for part in ("expand", "depthwise", "project")
        ),
        (f"{unit}/squeeze/reduce", f"{there}_squeeze_excite_conv"),
        (f"{unit}/squeeze/expand", f"{there}_squeeze_excite_conv_1"),
    )


def _numbered(units: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the branch of every unit with its number in the whole network, from 0."""
    places = ((s, i) for s, count in enumerate(units, 1) for i in range(count))
    return ((f"stage{s}/{i}/branch", n) for n, (s, i) in enumerate(places))


def _lettered(i: int, letter: str) -> tuple[tuple[str, str], ...]:
    """Return the rules of a stage's i-th unit in an EfficientNet."""
    ours, there = f"stage{{s}}/{i}/branch", f"block{{s}}{letter}_"
    return (
        (f"{ours}/expand/conv", f"{there}expand_conv"),
        (f"{ours}/expand/norm", f"{there}expand_bn"),
        (f"{ours}/depthwise/conv", f"{there}dwconv"),
        (f"{ours}/depthwise/norm", f"{there}bn"),
        (f"{ours}/squeeze/reduce", f"{there}se_reduce"),
        (f"{ours}/squeeze/expand", f"{there}se_expand"),
        (f"{ours}/project/conv", f"{there}project_conv"),
        (f"{ours}/project/norm", f"{there}project_bn"),
    )


KERAS_EFFICIENTNET = Keys(
    (
        ("stem/conv", "stem_conv"),
        ("stem/norm", "stem_bn"),
        ("last/conv", "top_conv"),
        ("last/norm", "top_bn"),
        ("head/dense", "predictions"),
        *(rule for i in range(26) for rule in _lettered(i, chr(ord("a") + i))),
    ),
    # The layer that prepares the image.
    optional=("normalization*/*",),
)
_PARTS = ("expand", "depthwise", "squeeze", "project")
TORCHVISION_EFFICIENTNET = _torchvision(
    [
        *_block("stage1/{i}/branch", "features.1.{i}.block", _PARTS[1:]),
        *_block("stage{s}/{i}/branch", "features.{s}.{i}.block", _PARTS),
    ],
    8,
    "classifier.1",
)
TORCHVISION_EFFICIENTNET_B5 = TORCHVISION_EFFICIENTNET._replace(**_TENSORFLOW)
