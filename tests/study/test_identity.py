import dataclasses
import enum
import itertools
import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from convjax import study


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass(frozen=True)
class Kind:
    depth: int = 8
    path: Any = None


@dataclasses.dataclass(frozen=True)
class Twin:
    depth: int = 8
    path: Any = None


@dataclasses.dataclass(frozen=True)
class Cell:
    kind: Any = Kind()
    value: Any = 0


# No two of these are one configuration.
DIFFERENT = [
    *(0, 1, -1, 2**70, 0.0, -0.0, 1.0, 0.1, 0.1 + 0.2, 0.3, 1e-300, float("inf"), float("-inf")),
    *(float("nan"), True, False, None, "", "a", "1", "nan", "NaN", "null", "None", "a,b", '"'),
    *((), (1,), ("1",), ((1,),), (1, 2), (2, 1), ((1, 2),), ((1,), 2), (1, (2,)), ("a", "b")),
    *({}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 2}, {"a": {"b": 2}}, {"a": (1,)}),
    *(Kind(), Kind(9), Kind(path="x"), Kind(path=("x",)), Kind(path=Kind()), Twin(), Twin(9)),
    *(Mode.FAST, Mode.SLOW, Level.LOW, np.float32(0.1), np.dtype("float32"), np.dtype("int8")),
]
# The members of each are one configuration.
EQUAL = [
    [1, np.int64(1), np.int8(1), np.uint32(1)],
    [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5)],
    [True, np.True_],
    ["a", np.str_("a"), Path("a"), PurePosixPath("a")],
    [(1, 2.5, "a"), [1, 2.5, "a"], (np.int64(1), np.float64(2.5), "a")],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
    ["float32", np.dtype("float32"), np.dtype(np.float32)],
    ["FAST", Mode.FAST],
    [float("nan"), -float("nan"), np.nan, np.float32("nan")],
    [Kind(3), dataclasses.replace(Kind(), depth=3)],
]


def test_different_configurations_differ_wherever_they_stand():
    places = [lambda v: v, lambda v: (v,), lambda v: {"x": v}, lambda v: Cell(value=v)]
    for place in [*places, lambda v: Cell(kind=(Kind(path=v),))]:
        found = [study.canonical(place(value)) for value in DIFFERENT]
        for (one, a), (other, b) in itertools.combinations(zip(DIFFERENT, found, strict=True), 2):
            assert a != b, (one, other)


@pytest.mark.parametrize("values", EQUAL, ids=str)
def test_equal_configurations_are_one(values):
    for place in (lambda v: v, lambda v: (0, [v]), lambda v: Cell(value={"a": Kind(path=v)})):
        assert len({study.canonical(place(value)) for value in values}) == 1


def test_the_order_of_fields_and_the_module_of_a_class_do_not_count():
    def made(*names):
        fields = [(name, int, dataclasses.field(default=i)) for i, name in names]
        return dataclasses.make_dataclass("Made", fields, frozen=True)()

    one, other = made((1, "a"), (2, "b")), made((2, "b"), (1, "a"))
    assert study.canonical(one) == study.canonical(other) == '{"a":1,"b":2,"class":"Made"}'


def test_numbers_are_read_back_exactly():
    values = np.random.default_rng(0).normal(size=200) * 10.0 ** np.arange(-100, 100)
    assert json.loads(study.canonical(values.tolist())) == values.tolist()


def test_identities_are_the_same_for_good():
    # A change of these measures every study anew: never by accident.
    cell = Cell(Kind(20, Path("data/a")), (1, 2.5, np.float32(0.1), "ü", Mode.SLOW, float("nan")))
    assert study.canonical(cell) == (
        '{"class":"Cell","kind":{"class":"Kind","depth":20,"path":"data/a"},'
        '"value":[1,2.5,0.10000000149011612,"\\u00fc","SLOW",NaN]}'
    )
    assert study.key(cell, "1") == "f0639be8287bc2831e2a43b83951c9c3ee02e623"


def test_a_key_is_of_the_configuration_and_the_version():
    configs, versions = [Cell(value=1), Cell(value=2)], ["1", "2"]
    keys = {study.key(config, version) for config in configs for version in versions}
    assert len(keys) == 4
    assert all(len(key) == 40 and int(key, 16) for key in keys)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (
            Cell(value=np.arange(3)),
            r"config.value = .*shape \(3,\)> has no identity: a ndarray is not data",
        ),
        (Cell(Kind(path=(1, {2}))), r"config.kind.path\[1\] = \{2\} has no .*: a set is not data"),
        (Cell(value={"f": print}), r"config.value\['f'\] = .* a builtin_function_or_method is not"),
        (Cell(value={1: 2}), r"config.value = \{1: 2\} has no identity: a dict is not data"),
        (Cell(value=1j), "a complex is not data"),
        (Cell(value=Kind), "a type is not data"),
        (Cell(value=np.longdouble(1)), "a longdouble is not data"),
        (Cell(value=np.datetime64("2020")), "is not data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_data_is_refused_where_it_stands(value, match):
    with pytest.raises(TypeError, match=match):
        study.canonical(value)
