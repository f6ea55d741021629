"""What timm and torchvision, and Keras, call the weights of the Inception networks."""

from collections.abc import Iterable, Iterator, Sequence

from convjax.models._inception import Conv, Table, convolutions, in_steps
from convjax.models._inception_tables import (
    RESNET_OPENINGS,
    RESNET_UNITS,
    V3_STAGES,
    V3_STEM,
    V4_A,
    V4_B,
    V4_STEM_4A,
    V4_TO_B,
    V4_TO_C,
    v1_stages,
)
from convjax.models._network import Keys

Rules = Iterator[tuple[str, str]]


def _both(ours: str, theirs: str) -> Rules:
    """Yield the rules of one convolution, at ``…conv{number}``, and of its norm."""
    path, _, number = ours.rpartition("conv")
    yield ours, f"{theirs}.conv"
    yield f"{path}norm{number}", f"{theirs}.bn"


def _branches(ours: str, theirs: str, table: Table, *, first: int = 0) -> Rules:
    """Yield the rules of a unit whose branches are numbered there, and their steps from 0."""
    for b, (name, steps) in enumerate(table.items(), first):
        paths = in_steps(steps, f"{ours}/{name}")
        for place, step in enumerate(steps):
            if isinstance(step, Conv):
                within = "" if len(steps) == 1 else f".{place}"
                yield from _both(next(paths), f"{theirs}.branch{b}{within}")


def _in_order(paths: Iterable[str]) -> Rules:
    """Yield the rules of convolutions and norms that Keras numbers as they are made."""
    for n, ours in enumerate(paths):
        path, _, number = ours.rpartition("conv")
        yield ours, f"conv2d:{n}"
        yield f"{path}norm{number}", f"batch_normalization:{n}"


def _v1() -> Rules:
    for k in (1, 2, 3):
        yield from _both(f"stem/conv{k}", f"conv{k}")
    for s, (stage, letters) in enumerate(zip(v1_stages(3), ("ab", "abcde", "ab"), strict=True), 1):
        for i, (table, letter) in enumerate(zip(stage, letters, strict=True)):
            yield from _branches(f"stage{s}/{i}", f"inception{s + 2}{letter}", table, first=1)
    for aux in ("aux1", "aux2"):
        yield from _both(f"auxiliary/{aux}/conv", f"{aux}.conv")
        yield f"auxiliary/{aux}/hidden", f"{aux}.fc1"
        yield f"auxiliary/{aux}/dense", f"{aux}.fc2"
    yield "head/dense", "fc"


V1_TORCH = Keys(tuple(_v1()), optional=("aux1.*", "aux2.*"))

_V3_BRANCHES = {
    "1x1": "branch1x1",
    "3x3": "branch3x3",
    "3x3_3x3": "branch3x3dbl",
    "5x5": "branch5x5",
    "7x7": "branch7x7",
    "7x7_7x7": "branch7x7dbl",
    "7x7_3x3": "branch7x7x3",
    "pool": "branch_pool",
}


def _v3_unit(ours: str, theirs: str, table: Table) -> Rules:
    for name, steps in table.items():
        branch = f"{theirs}.{_V3_BRANCHES[name]}"
        paths = list(in_steps(steps, f"{ours}/{name}"))
        if len(paths) == 1:
            yield from _both(paths[0], branch)
            continue
        mixed = [path for path in paths if "/mixed/" in path]
        plain = [path for path in paths if path not in mixed]
        for k, path in enumerate(plain, 1):
            yield from _both(path, f"{branch}_{k}")
        for letter, path in zip("ab", mixed, strict=False):
            yield from _both(path, f"{branch}_{len(plain) + 1}{letter}")


def _v3() -> Rules:
    names = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
    for k, name in enumerate(names, 1):
        yield from _both(f"stem/conv{k}", f"Conv2d_{name}")
    for s, (stage, letters) in enumerate(zip(V3_STAGES, ("bcd", "abcde", "abc"), strict=True), 1):
        for i, (table, letter) in enumerate(zip(stage, letters, strict=True)):
            yield from _v3_unit(f"stage{s}/{i}", f"Mixed_{s + 4}{letter}", table)
    for k in (1, 2):
        yield from _both(f"auxiliary/aux/conv{k}", f"AuxLogits.conv{k - 1}")
    yield "auxiliary/aux/dense", "AuxLogits.fc"
    yield "head/dense", "fc"


def _v3_convolutions() -> Iterator[str]:
    yield from in_steps(V3_STEM, "stem")
    for s, stage in enumerate(V3_STAGES, 1):
        for i, table in enumerate(stage):
            yield from convolutions(table, f"stage{s}/{i}")


V3_TORCH = Keys(tuple(_v3()), optional=("AuxLogits.*",))
V3_KERAS = Keys((*_in_order(_v3_convolutions()), ("head/dense", "predictions")))


def _v4_c(ours: str, theirs: str) -> Rules:
    """Yield the rules of a unit some of whose branches end in two."""
    yield from _both(f"{ours}/1x1/conv1", f"{theirs}.branch0")
    for b, name, plain in ((1, "3x3", 1), (2, "3x3_3x3", 3)):
        for k in range(plain):
            yield from _both(f"{ours}/{name}/conv{k + 1}", f"{theirs}.branch{b}_{k}")
        for letter, side in zip("ab", ("1x3", "3x1"), strict=True):
            end = f"{theirs}.branch{b}_{plain}{letter}"
            yield from _both(f"{ours}/{name}/mixed/{side}/conv1", end)
    yield from _both(f"{ours}/pool/conv1", f"{theirs}.branch3.1")


def _v4(units: Sequence[int]) -> Rules:
    for k in (1, 2, 3):
        yield from _both(f"stem/conv{k}", f"features.{k - 1}")
    yield from _both("stem/mixed1/3x3/conv1", "features.3.conv")
    yield from _branches("stem/mixed2", "features.4", V4_STEM_4A)
    yield from _both("stem/mixed3/3x3/conv1", "features.5.conv")
    to_b = 6 + units[0]
    to_c = to_b + 1 + units[1]
    yield from _branches("stage1/{i}", "features.{i+6}", V4_A)
    yield from _branches("stage2/0", f"features.{to_b}", V4_TO_B)
    yield from _branches("stage2/{i}", f"features.{{i+{to_b}}}", V4_B)
    yield from _branches("stage3/0", f"features.{to_c}", V4_TO_C)
    yield from _v4_c("stage3/{i}", f"features.{{i+{to_c}}}")
    yield "head/dense", "last_linear"


def v4_torch(units: Sequence[int]) -> Keys:
    """Return timm's names for these counts of units in the stages."""
    return Keys(tuple(_v4(units)))


_RESNET_REPEATS = ("repeat", "repeat_1", "repeat_2")


def _resnet_unit(ours: str, theirs: str, table: Table) -> Rules:
    yield from _branches(f"{ours}/branch/mixed", theirs, table)
    yield f"{ours}/branch/conv", f"{theirs}.conv2d"


def _resnet() -> Rules:
    for k, name in enumerate(("1a", "2a", "2b", "3b", "4a"), 1):
        yield from _both(f"stem/conv{k}", f"conv2d_{name}")
    for s, (name, table) in enumerate(zip(("5b", "6a", "7a"), RESNET_OPENINGS, strict=True), 1):
        yield from _branches(f"stage{s}/0", f"mixed_{name}", table)
    yield from _resnet_unit("stage3/10", "block8", RESNET_UNITS[2])
    for s, (name, table) in enumerate(zip(_RESNET_REPEATS, RESNET_UNITS, strict=True), 1):
        yield from _resnet_unit(f"stage{s}/{{i}}", f"{name}.{{i-1}}", table)
    yield "head/conv", "conv2d_7b.conv"
    yield "head/norm", "conv2d_7b.bn"
    yield "head/dense", "classif"


def _resnet_convolutions(units: Sequence[int]) -> Iterator[str]:
    yield from in_steps(V3_STEM, "stem")
    tables = zip(RESNET_OPENINGS, RESNET_UNITS, units, strict=True)
    for s, (opening, unit, count) in enumerate(tables, 1):
        yield from convolutions(opening, f"stage{s}/0")
        for i in range(1, count + 1):
            yield from convolutions(unit, f"stage{s}/{i}/branch/mixed")


def _resnet_keras(units: Sequence[int]) -> Rules:
    yield from _in_order(_resnet_convolutions(units))
    for s, block in enumerate(("block35", "block17", "block8"), 1):
        yield f"stage{s}/{{i}}/branch/conv", f"{block}_{{i}}_conv"
    yield "head/conv", "conv_7b"
    yield "head/norm", "conv_7b_bn"
    yield "head/dense", "predictions"


RESNET_TORCH = Keys(tuple(_resnet()))


def resnet_keras(units: Sequence[int]) -> Keys:
    """Return Keras's names for these counts of residual units in the stages."""
    return Keys(tuple(_resnet_keras(units)))
