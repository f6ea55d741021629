import struct
import sys

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from convjax import train

PACE = train.Pace(512.0, 3.0)


def checksum(data):
    """Masked CRC-32C, bit by bit: polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events(path):
    raw = path.read_bytes()
    while raw:
        (length,) = struct.unpack("<Q", raw[:8])
        event = raw[12 : 12 + length]
        assert struct.unpack("<I", raw[8:12])[0] == checksum(raw[:8])
        assert struct.unpack("<I", raw[12 + length : 16 + length])[0] == checksum(event)
        raw = raw[16 + length :]
        yield Event.FromString(event)


def shown(folder):
    """Return what TensorBoard shows of a run: a restart expires what older events say of later."""
    kept = []
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name
        version, *rest = events(path)
        assert version.file_version == "brain.Event:2"
        for event in rest:
            if event.HasField("session_log"):
                assert event.session_log.status == SessionLog.START
                kept = [point for point in kept if point[0] < event.step]
            kept += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return kept


def rows_of(step):
    rng = np.random.default_rng(step)
    loss, gradient, update = rng.random(3).astype(np.float32).tolist()
    row = {"kind": "train", "step": step, "loss": loss, "skipped": step % 2}
    if step % 3 == 0:
        row["layers"] = {"stage2/3": {"gradient": gradient}, "head": {"update": update}}
    rows = [row]
    if step % 4 == 3:
        rows.append({"kind": "test", "step": step + 1, "loss": loss})
    return rows


def expected(kind, stop):
    points = []
    for row in (row for step in range(stop) for row in rows_of(step)):
        if row["kind"] == kind:
            tags = {name: row[name] for name in ("loss", "skipped") if name in row}
            for path, values in row.get("layers", {}).items():
                tags |= {f"{name}/{path}": value for name, value in values.items()}
            points += [(row["step"], tag, value) for tag, value in tags.items()]
    return points


def write(folder, first, stop, *, killed=False):
    board = train.TensorBoard(folder)
    board.begin(first, stop, 32)
    for step in range(first, stop):
        for row in rows_of(step):
            board.record([row], PACE if row["kind"] == "train" else train.Pace(np.nan, np.nan))
    if not killed:
        board.end()
    return board


def test_every_number_is_there_train_and_test_apart(tmp_path):
    write(tmp_path, 0, 9)
    points = shown(tmp_path / "train")
    assert [p for p in points if p[1] != "images_per_second"] == expected("train", 9)
    assert [p for p in points if p[1] == "images_per_second"] == [
        (step, "images_per_second", 512.0) for step in range(9)
    ]
    assert shown(tmp_path / "test") == expected("test", 9)


@pytest.mark.parametrize("checkpoint", [0, 4, 5])
def test_a_killed_and_resumed_run_shows_what_one_run_shows(tmp_path, checkpoint):
    board = write(tmp_path, 0, 8, killed=True)
    write(tmp_path, checkpoint, 12)
    board.end()
    points = [p for p in shown(tmp_path / "train") if p[1] != "images_per_second"]
    assert points == expected("train", 12)
    assert shown(tmp_path / "test") == expected("test", 12)


def test_what_is_not_finite_is_written_as_it_is(tmp_path):
    board = train.TensorBoard(tmp_path)
    board.begin(0, 1, 1)
    values = {"loss": float("nan"), "gradient_norm": float("inf")}
    board.record([{"kind": "train", "step": 0, **values}], train.Pace(np.nan, np.nan))
    board.end()
    found = {tag: value for _, tag, value in shown(tmp_path / "train")}
    np.testing.assert_equal(found, values)


def test_without_tensorboardx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    with pytest.raises(ImportError, match=r"pip install convjax\[tensorboard\]"):
        train.TensorBoard(tmp_path)
