import os
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convjax import study


def table(n=3):
    return {"path": np.array(["a"] * n), "norm": np.arange(n, dtype=np.float64), "i": np.arange(n)}


def test_what_is_written_is_read_again(tmp_path):
    columns = table() | {"norm": np.array([0.0, np.nan, -np.inf])}
    study.write_parquet(tmp_path / "t.parquet", columns, {"config": {"depths": [8, 20]}})
    read, metadata = study.read_parquet(tmp_path / "t.parquet")
    assert list(read) == list(columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(read[name], column)
    assert metadata == {"config": {"depths": [8, 20]}}
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_no_bit_can_change_and_the_numbers_with_it(tmp_path):
    path = tmp_path / "t.parquet"
    columns = table(5) | {"norm": np.random.default_rng(0).normal(size=5)}
    study.write_parquet(path, columns, {"config": {"depth": 8}})
    content = path.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(content), 31):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            read, said = study.read_parquet(path)
        except (ValueError, OSError):
            refused += 1
            continue
        # The flip took the digest's own name away; all else is as it was.
        assert said == {"config": {"depth": 8}}
        for name, column in columns.items():
            np.testing.assert_array_equal(read[name], column)
    assert refused > 0.9 * 8 * len(content) / 31
    path.write_bytes(content)
    assert study.read_parquet(path)[1] == {"config": {"depth": 8}}


def test_files_of_others_are_read_without_a_digest(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "t.parquet")
    columns, said = study.read_parquet(tmp_path / "t.parquet")
    assert columns["a"].tolist() == [1, 2] and said == {}


def test_columns_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="equally long"):
        study.write_parquet(tmp_path / "t.parquet", {"a": np.arange(2), "b": np.arange(3)}, {})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    study.write_parquet(tmp_path / "t.parquet", table(), {})
    before = (tmp_path / "t.parquet").read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        study.write_parquet(tmp_path / "t.parquet", table(5), {})
    assert (tmp_path / "t.parquet").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_writer_killed_before_the_exchange_leaves_the_old_file_whole(tmp_path):
    study.write_parquet(tmp_path / "t.parquet", table(), {})
    script = f"""
        import os, signal, numpy as np
        from convjax import study
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        study.write_parquet({str(tmp_path / "t.parquet")!r}, {{"i": np.arange(9)}}, {{}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode < 0
    assert len(study.read_parquet(tmp_path / "t.parquet")[0]["i"]) == 3


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write into '.*file/results'"):
        study.check_writable(tmp_path / "file" / "results")


def test_the_probe_leaves_nothing(tmp_path):
    assert list(study.check_writable(tmp_path / "a" / "b").iterdir()) == []


def test_groups_keep_the_order_and_all_columns():
    columns = {"a": np.array(["y", "x", "y"]), "b": np.array([1, 1, 2]), "c": np.arange(3)}
    found = list(study.groups(columns, ["a"]))
    assert [key for key, _ in found] == [{"a": "y"}, {"a": "x"}]
    assert found[0][1]["c"].tolist() == [0, 2]
    assert len(list(study.groups(columns, ["a", "b"]))) == 3
    with pytest.raises(ValueError, match="by='d' is not a column; there are a, b, c"):
        list(study.groups(columns, ["d"]))


def test_the_environment_names_versions_and_device():
    found = study.environment()
    assert {"python", "jax", "jaxlib", "flax", "convjax", "platform", "device_kind"} <= set(found)
