import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from convjax import study

pa = pytest.importorskip("pyarrow")


@dataclasses.dataclass(frozen=True)
class Kind:
    depth: int = 3
    scale: float = 0.5
    path: Path | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    kind: Kind
    seed: int = 0
    rates: tuple[float, ...] = (0.1, 0.2)


def profile(cell):
    """Layer by layer; a depth of 13 fails."""
    n = cell.kind.depth
    if n == 13:
        raise ArithmeticError("thirteen\nlayers")
    rows = np.arange(n)
    norm = np.where(rows == 1, np.nan, cell.kind.scale**rows)
    layer = np.array([f"unit{i}" for i in rows])
    return {"layer": layer, "norm": norm, "row": rows, "odd": rows % 2 == 1}


def cells(*depths):
    return [Cell(Kind(depth), seed) for seed, depth in enumerate(depths)]


def along(name, values):
    return [{name: value} for value in values]


def measured(folder, function, configs, version="1"):
    return study.run(function, configs, folder, version=version).keys


def rows(table, *names):
    return [tuple(row.values()) for row in table.select(names).to_pylist()]


def test_every_row_says_of_which_cell_it_is_and_what_was_measured(tmp_path):
    keys = measured(tmp_path, profile, cells(2, 3), "abc")
    table = study.load(tmp_path, keys)
    assert table.column_names == [
        *("cell", "version", "depth", "scale", "path", "seed", "rates"),
        *("layer", "norm", "row", "odd", "seconds", "host", "error", "traceback"),
    ]
    assert rows(table, "cell", "depth", "seed", "layer", "odd") == [
        (keys[0], 2, 0, "unit0", False),
        (keys[0], 2, 0, "unit1", True),
        (keys[1], 3, 1, "unit0", False),
        (keys[1], 3, 1, "unit1", True),
        (keys[1], 3, 1, "unit2", False),
    ]
    assert rows(table, "version", "rates", "error", "path")[0] == ("abc", [0.1, 0.2], None, None)
    np.testing.assert_array_equal(table["norm"].to_numpy(), [1, np.nan, 1, np.nan, 0.25])
    assert table["norm"].null_count == 0
    types = {name: str(table.schema.field(name).type) for name in ("row", "norm", "odd", "layer")}
    assert types == {"row": "int64", "norm": "double", "odd": "bool", "layer": "string"}
    assert table["seconds"].to_numpy().min() > 0


def test_keys_select_and_order(tmp_path):
    keys = measured(tmp_path, profile, cells(1, 2, 3, 4))
    chosen = [keys[3], keys[0]]
    assert study.load(tmp_path, chosen)["depth"].to_pylist() == [4, 4, 4, 4, 1]
    assert study.load(tmp_path)["cell"].unique().to_pylist() == sorted(keys)


def test_a_failed_cell_is_one_row_with_its_configuration_and_the_error(tmp_path):
    keys = measured(tmp_path, profile, cells(2, 13, 1))
    table = study.load(tmp_path, keys)
    assert rows(table, "depth", "row", "layer", "error") == [
        (2, 0, "unit0", None),
        (2, 1, "unit1", None),
        (13, None, None, "ArithmeticError: thirteen layers"),
        (1, 0, "unit0", None),
    ]
    assert "in profile" in table["traceback"][2].as_py()
    assert table["traceback"][0].as_py() is None
    assert table["row"].type == pa.int64()


def test_failed_cells_alone_are_a_table_too(tmp_path):
    keys = measured(tmp_path, profile, cells(13))
    assert rows(study.load(tmp_path, keys), "depth", "error") == [
        (13, "ArithmeticError: thirteen layers")
    ]


def test_the_measured_column_stands_where_a_field_has_its_name(tmp_path):
    def function(config):
        if config["seed"] == 2:
            raise ValueError
        return {"seed": np.arange(config["seed"] + 1) + 0.5}

    keys = measured(tmp_path, function, along("seed", [1, 2]))
    assert study.load(tmp_path, keys)["seed"].to_pylist() == [0.5, 1.5, 2]


def test_a_field_of_another_kind_does_not_turn_numbers_into_text(tmp_path):
    def function(config):
        if config["scale"] == "1/L":
            raise ValueError
        return {"scale": np.array([0.125])}

    keys = measured(tmp_path, function, along("scale", ["1", "1/L"]))
    assert study.load(tmp_path, keys)["scale"].to_pylist() == [0.125, None]


def test_cells_of_older_versions_lack_what_came_later(tmp_path):
    def older(config):
        return {"x": np.array([1, 2]), "gone": np.array(["a", "b"])}

    def newer(config):
        return {"x": np.array([0.5]), "new": np.array([True])}

    newer.__qualname__ = older.__qualname__
    keys = measured(tmp_path, older, [{"depth": 8}], "1")
    keys += measured(tmp_path, newer, [{"depth": 8.5, "norm": "batch"}], "2")
    assert rows(
        study.load(tmp_path, keys), "version", "depth", "norm", "x", "gone", "new", "error"
    ) == [
        ("1", 8.0, None, 1.0, "a", None, None),
        ("1", 8.0, None, 2.0, "b", None, None),
        ("2", 8.5, "batch", 0.5, None, True, None),
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([1, "x"], ["1", "x"]),
        ([True, 2], ["true", "2"]),
        ([None, "x", 2.5], [None, "x", "2.5"]),
        ([(1, 2), (0.5,)], [[1.0, 2.0], [0.5]]),
        ([(1, 2), "all"], ["[1, 2]", "all"]),
        ([2**70, 1], [str(2**70), "1"]),
        ([float("inf"), 1], [float("inf"), 1.0]),
    ],
    ids=str,
)
def test_types_that_meet_are_promoted_or_text(tmp_path, values, expected):
    def function(config):
        return {"x": np.array([0])}

    keys = measured(tmp_path, function, along("field", values))
    assert study.load(tmp_path, keys)["field"].to_pylist() == expected


def test_measured_columns_that_have_nothing_in_common_are_text(tmp_path):
    def function(config):
        return {"x": np.array([config["x"]])}

    keys = measured(tmp_path, function, along("x", [1, 2.5, "low", True]))
    assert study.load(tmp_path, keys)["x"].to_pylist() == ["1", "2.5", "low", "true"]
    assert study.results(tmp_path, keys)["x"].tolist() == ["1", "2.5", "low", "true"]


def test_two_fields_of_one_name_are_told_apart_by_their_paths(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Pair:
        first: Kind
        second: Kind
        depth: int

    def function(config):
        return {"x": np.array([0])}

    keys = measured(tmp_path, function, [Pair(Kind(1), Kind(2), 3)])
    names = ("first.depth", "second.depth", "depth", "first.scale")
    assert rows(study.load(tmp_path, keys), *names) == [(1, 2, 3, 0.5)]


def test_names_that_every_cell_has_are_left_to_it(tmp_path):
    def function(config):
        return {"seconds": np.array([-1.0]), "error": np.array([0.25])}

    keys = measured(tmp_path, function, [{"version": 7}])
    table = study.load(tmp_path, keys)
    assert rows(table, "version", "version_", "seconds_", "error_", "error") == [
        ("1", 7, -1.0, 0.25, None)
    ]
    assert table["seconds"][0].as_py() >= 0


def test_polars_and_pandas_take_it_as_it_is(tmp_path):
    table = study.load(tmp_path, measured(tmp_path, profile, cells(2, 13)))
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(table)
    assert frame.filter(polars.col("error").is_null())["layer"].to_list() == ["unit0", "unit1"]
    pytest.importorskip("pandas")
    assert table.to_pandas()["depth"].tolist() == [2, 2, 13]


def test_results_are_the_functions_own_columns_and_types(tmp_path):
    configs = cells(3, 2)
    keys = measured(tmp_path, profile, configs)
    expected = [profile(config) for config in configs]
    found = study.results(tmp_path, keys)
    assert list(found) == list(expected[0])
    for name, column in found.items():
        whole = np.concatenate([part[name] for part in expected])
        np.testing.assert_array_equal(column, whole)
        assert column.dtype == whole.dtype, name
        column[:1] = column[1:2]  # one may compute in place
    backwards = study.results(tmp_path, keys[::-1])["row"].tolist()
    assert backwards == [0, 1, 0, 1, 2]


def test_a_cell_without_rows_changes_no_type(tmp_path):
    keys = measured(tmp_path, profile, cells(0, 2))
    assert {n: c.dtype.kind for n, c in study.results(tmp_path, keys).items()} == {
        "layer": "U",
        "norm": "f",
        "row": "i",
        "odd": "b",
    }
    assert study.load(tmp_path, keys)["depth"].to_pylist() == [2, 2]


def test_results_of_different_columns_are_refused(tmp_path):
    def function(config):
        return {name: np.arange(2) for name in config["names"]}

    keys = measured(tmp_path, function, along("names", ["ab", "ac"]))
    with pytest.raises(ValueError, match=f"cells {keys[0]} and {keys[1]} .*, a, b and a, c"):
        study.results(tmp_path, keys)


def test_about_sums_up_what_cells_were_measured_by(tmp_path):
    keys = measured(tmp_path, profile, cells(1, 2, 3))
    path = tmp_path / "cells" / f"{keys[2]}.parquet"
    columns, said = study.read_parquet(path)
    said |= {"host": "other", "environment": {**said["environment"], "device_kind": "abacus"}}
    study.write_parquet(path, columns, {**said, "seconds": 100.0})
    found = study.about(tmp_path, keys)
    assert found["cells"] == 3 and 100 < found["seconds"] < 101
    assert [one["cells"] for one in found["environments"]] == [2, 1]
    assert found["environments"][1]["hosts"] == ["other"]
    assert json.loads(json.dumps(found)) == found


def test_states_write_nothing(tmp_path):
    configs = cells(2, 13, 1)
    measured(tmp_path / "s", profile, configs[:2])
    assert study.states(profile, configs, tmp_path / "s", "1") == ["finished", "failed", "to do"]
    assert study.states(profile, configs, tmp_path / "s", "2") == ["to do"] * 3
    study.states(profile, configs, tmp_path / "none", "1")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("cut", [0, 3, 0.5, -1])
def test_a_damaged_cell_is_named(tmp_path, cut):
    (key,) = measured(tmp_path, profile, cells(3))
    path = tmp_path / "cells" / f"{key}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    for read in (study.load, study.results, study.about):
        with pytest.raises(ValueError, match=rf"{key}.parquet' cannot be read as a cell \(.*\)"):
            read(tmp_path, [key])


def test_a_cell_whose_pages_are_damaged_is_named(tmp_path):
    (key,) = measured(tmp_path, profile, cells(3))
    path = tmp_path / "cells" / f"{key}.parquet"
    whole = bytearray(path.read_bytes())
    whole[4:60] = bytes(56)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=f"{key}.parquet' cannot be read as a cell"):
        study.load(tmp_path)


def test_a_flipped_bit_is_refused_by_name_or_changes_no_number(tmp_path):
    (key,) = measured(tmp_path, profile, cells(3))
    path = tmp_path / "cells" / f"{key}.parquet"
    content, rows, refused = path.read_bytes(), str(study.load(tmp_path).to_pydict()), 0
    bits = range(0, 8 * len(content), 8 * len(content) // 300)
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert str(study.load(tmp_path).to_pydict()) == rows
        except ValueError as error:
            assert f"{key}.parquet'" in str(error)
            refused += 1
    assert refused > 0.95 * len(bits)


def test_a_foreign_file_among_the_cells_is_named(tmp_path):
    measured(tmp_path, profile, cells(3))
    (tmp_path / "cells" / ".half.partial").write_bytes(b"")
    assert study.load(tmp_path).num_rows == 3
    foreign = tmp_path / "cells" / "mine.parquet"
    study.write_parquet(foreign, {"a": np.arange(2)}, {})
    with pytest.raises(ValueError, match=r"mine.parquet' is no cell of this study; take it out"):
        study.load(tmp_path)
    foreign.unlink()
    (tmp_path / "cells" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes.txt' is no cell of this study; take it out"):
        study.load(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a study: it has no study.json"):
        study.load(tmp_path)
    with pytest.raises(ValueError, match="is not the folder of a study"):
        study.load(tmp_path / "none")
    (key,) = measured(tmp_path, profile, cells(3))
    with pytest.raises(ValueError, match="has no cell 'abc'"):
        study.load(tmp_path, ["abc"])
    with pytest.raises(ValueError, match="has no result of the cell abc"):
        study.results(tmp_path, ["abc"])
    (tmp_path / "cells" / f"{key}.parquet").unlink()
    for keys in (None, []):
        with pytest.raises(ValueError, match=r"there is no cell to load from the study in '.*'"):
            study.load(tmp_path, keys)
