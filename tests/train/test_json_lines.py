import json
import math
import os
import re

import numpy as np
import pytest

from convjax import train

PACE = train.Pace(1e3, 12.5)


def run(first, stop, seed=0):
    """Yield what the dispatches of a run record: rows of a seed, whatever the first step is."""
    for step in range(first, stop):
        rng = np.random.default_rng([seed, step])
        row = {"kind": "train", "step": step, "loss": float(rng.lognormal()), "rate": 0.1}
        if step % 4 == 0:
            row["layers"] = {
                path: {"gradient": float(g), "update": float(u)}
                for path, (g, u) in zip(
                    ("stem", "a/*/b", "é"), rng.normal(size=(3, 2)), strict=True
                )
            }
        yield [row]
        if step % 8 == 7:
            yield [{"kind": "test", "step": step + 1, "accuracy": float(rng.random())}]


def write(path, first, stop):
    lines = train.JsonLines(path)
    lines.begin(first, stop, 32)
    for rows in run(first, stop):
        lines.record(rows, PACE)
    lines.end()


def trim(path, first):
    lines = train.JsonLines(path)
    lines.begin(first, 24, 32)
    lines.end()


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_numbers_come_back_to_the_bit_and_the_file_is_strict_json(tmp_path):
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 2**64, 2000, dtype=np.uint64).view(np.float64)
    narrow = rng.integers(0, 2**32, 500, dtype=np.uint32).view(np.float32)
    numbers = [*numbers.tolist(), *map(float, narrow[np.isfinite(narrow)]), -0.0, 5e-324]
    numbers += [math.nan, math.inf, -math.inf]
    lines = train.JsonLines(tmp_path / "new" / "metrics.jsonl")
    lines.begin(0, len(numbers), 1)
    lines.record([{"kind": "train", "step": i, "x": x} for i, x in enumerate(numbers)], PACE)
    lines.record([{"kind": "train", "step": 0, "layers": {"a": {"x": [math.nan, 1.0]}}}], PACE)
    lines.end()
    strict(lines.path.read_text())
    *rows, last = train.read_rows(lines.path)
    for x, row in zip(numbers, rows, strict=True):
        assert np.float64(row["x"]).tobytes() == np.float64(x).tobytes() or (
            math.isnan(x) and math.isnan(row["x"])
        )
    assert math.isnan(last["layers"]["a"]["x"][0])


def test_rows_are_with_the_system_after_each_dispatch_and_timed_once(tmp_path):
    lines = train.JsonLines(tmp_path / "metrics.jsonl")
    lines.begin(0, 2, 1)
    lines.record([{"kind": "train", "step": s, "loss": 1.0} for s in range(3)], PACE)
    seen = train.read_rows(lines.path)  # of a file that is still open, never flushed
    assert without_time(seen) == [{"kind": "train", "step": s, "loss": 1.0} for s in range(3)]
    assert [row.get("time", {}).get("images_per_second") for row in seen] == [None, None, 1e3]
    lines.record([{"kind": "test", "step": 3}], train.Pace(math.nan, math.nan))
    assert "images_per_second" not in train.read_rows(lines.path)[-1]["time"]
    lines.end()


@pytest.mark.parametrize("checkpoint", [0, 1, 8, 13, 16, 24])
def test_killed_anywhere_after_a_checkpoint_the_rows_are_those_of_one_run(tmp_path, checkpoint):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    write(whole, 0, 24)
    expected = without_time(train.read_rows(whole))
    raw = whole.read_bytes()
    before = 0  # bytes that were there when the checkpoint was saved
    for line in raw.splitlines(keepends=True):
        row = json.loads(line)
        if row["step"] < checkpoint + (row["kind"] == "test" and checkpoint > 0):
            before += len(line)
    rng = np.random.default_rng(checkpoint)
    for end in [before, len(raw), *rng.integers(before, len(raw) + 1, 12)]:
        cut.write_bytes(raw[:end] + b"\0" * (end % 3))
        write(cut, checkpoint, 24)
        assert without_time(train.read_rows(cut)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.jsonl", "whole.jsonl"]


def test_what_is_kept_keeps_its_bytes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 24)
    raw = path.read_bytes()
    trim(path, 16)
    kept = path.read_bytes()
    assert raw.startswith(kept)
    assert json.loads(kept.splitlines()[-1]).items() >= {"kind": "test", "step": 16}.items()
    assert json.loads(kept.splitlines()[-2])["step"] == 15


def test_a_process_that_dies_while_trimming_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 24)
    raw = path.read_bytes()

    def fail(*_):
        assert path.read_bytes() == raw
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        train.JsonLines(path).begin(8, 24, 32)
    assert path.read_bytes() == raw


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"[1, 2]\n",
        b'{"kind": "train"}\n',
        b'{"kind": "train", "step": 1.5}\n',
        b'{"kind": "train", "step": 0}\n{"kind": "tr\n{"kind": "train", "step": 1}\n',
        b'\xff{"kind": "train", "step": 0}\n',
    ],
)
@pytest.mark.parametrize("first", [0, 5])
def test_garbage_is_refused_by_name_and_left_alone(tmp_path, content, first):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    number = 2 if content.startswith(b'{"kind": "train", "step": 0}') else 1
    message = re.escape(f"{str(path)!r}, line {number}, is not a row")
    with pytest.raises(ValueError, match=message):
        train.JsonLines(path).begin(first, 9, 32)
    with pytest.raises(ValueError, match=message):
        train.read_rows(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("tail", [b"", b"{", b'{"kind": "trai', b'{"kin\0\0', b"\0\0\0"])
def test_a_line_cut_short_at_the_end_is_passed_over(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 0}\n' + tail)
    assert train.read_rows(path) == [{"kind": "train", "step": 0}]
    trim(path, 1)
    assert path.read_bytes() == b'{"kind": "train", "step": 0}\n'


def test_a_last_row_that_lacks_its_end_of_line_alone_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 0}')
    trim(path, 1)
    assert path.read_bytes() == b'{"kind": "train", "step": 0}\n'


def test_columns_hold_what_the_rows_say():
    rows = [row for rows in run(0, 24) for row in rows]
    steps, tests = train.step_columns(rows), train.step_columns(rows, "test")
    layers = train.layer_columns(rows)
    assert steps["step"].tolist() == list(range(24))
    assert steps["loss"].tolist() == [r["loss"] for r in rows if r["kind"] == "train"]
    assert set(steps) == {"step", "loss", "rate"}
    assert tests["step"].tolist() == [8, 16, 24]
    assert layers["path"].tolist() == ["stem", "a/*/b", "é"] * 6
    assert layers["step"].tolist() == [s for s in range(0, 24, 4) for _ in range(3)]
    for step, path, gradient, update in zip(*layers.values(), strict=True):
        values = {"gradient": gradient, "update": update}
        assert (
            next(r for r in rows if r["step"] == step and "layers" in r)["layers"][path] == values
        )


def test_what_a_row_or_layer_lacks_is_nan_and_nothing_is_empty_columns():
    rows = [
        {"kind": "train", "step": 0, "loss": 1.0},
        {"kind": "train", "step": 1, "extra": 2, "layers": {"a": {"x": 1.0}, "b": {"y": 2.0}}},
    ]
    np.testing.assert_array_equal(train.step_columns(rows)["extra"], [np.nan, 2.0])
    np.testing.assert_array_equal(train.layer_columns(rows)["y"], [np.nan, 2.0])
    assert {n: len(c) for n, c in train.layer_columns([]).items()} == {"step": 0, "path": 0}
    assert {n: len(c) for n, c in train.step_columns([]).items()} == {"step": 0}


def test_a_run_from_birth_keeps_nothing_not_even_a_test_at_birth(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "test", "step": 0}\n{"kind": "train", "step": 0}\n')
    trim(path, 0)
    assert path.read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path):
    lines = train.JsonLines(tmp_path / "metrics.jsonl")
    lines.begin(0, 1, 8)
    lines._file.close()
    lines._file = open("/dev/full", "ab")  # noqa: SIM115
    row = {"kind": "train", "step": 0, "loss": 2.5}
    for call in (lambda: lines.record([row], train.Pace(1.0, 0.0)), lines.end):
        with pytest.raises(OSError, match="No space left on device: rows of metrics") as caught:
            call()
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    lines.end()
