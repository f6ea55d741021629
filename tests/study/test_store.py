import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convjax import study
from convjax.study import _files
from convjax.study._parquet import encode
from convjax.study._store import Store

pytest.importorskip("fcntl")

SPACE = r"No space left on device; what was measured before is kept there$"


def measure(config):
    return {"n": np.full(config["n"] % 5 + 1, config["n"])}


def cells(count):
    return [{"n": n} for n in range(count)]


def table(n):
    return encode({"n": np.array([n])}, {})


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_result_is_not_put_over_another(tmp_path):
    with Store(tmp_path, "f") as store:
        assert store.keep("a", table(1))
        assert not store.keep("a", table(2))
        assert (store.cells / "a.parquet").read_bytes() == table(1)
        assert store.finished("a") and not store.finished("b")


def test_a_failure_is_put_over_another_and_goes_with_the_result(tmp_path):
    row = {"error": np.array(["first"])}
    with Store(tmp_path, "f") as store:
        store.keep_failure("a", encode(row, {}))
        store.keep_failure("a", encode({"error": np.array(["second"])}, {}))
        assert store.has_failed("a") and store.error("a") == "second"
        store.keep("a", table(1))
        assert not store.has_failed("a") and store.error("a") == ""
        store.keep_failure("a", encode(row, {}))
        # A result stands above a failure.
        assert not store.has_failed("a") and store.error("a") == ""


def test_a_file_system_without_links_keeps_as_well(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with Store(tmp_path, "f") as store:
        assert store.keep("a", table(1)) and not store.keep("a", table(2))
        assert (store.cells / "a.parquet").read_bytes() == table(1)
    assert names(tmp_path) == ["a.parquet", "locks", "study.json"]


def test_what_was_half_written_is_removed_unless_its_writer_lives(tmp_path):
    with Store(tmp_path, "f") as store:
        store.lock("abc")
        dead, alive = (store.cells / f".{key}.parquet.123.partial" for key in ("def", "abc"))
        failed = store.failed / ".def.parquet.456.partial"
        for path in (dead, alive, failed):
            path.write_bytes(b"half")
        with Store(tmp_path, "f") as other:
            other.tidy()
            assert names(tmp_path) == [alive.name, "locks", "study.json"]
    with Store(tmp_path, "f") as store:
        store.tidy()
        assert names(tmp_path) == ["locks", "study.json"]


def test_locks_are_given_back_with_the_store(tmp_path):
    store = Store(tmp_path, "f")
    with Store(tmp_path, "f") as other:
        assert store.lock("a") and not other.lock("a")
        other.release("a")  # not its own
        assert not other.lock("a")
        store.close()
        assert other.lock("a")


def test_stores_leave_no_file_open(tmp_path):
    def count():
        return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0

    before = count()
    for _ in range(3):
        with Store(tmp_path, "f"), Store(tmp_path, "f"):
            pass
    assert count() == before


def test_the_folder_of_another_study_is_refused(tmp_path):
    with Store(tmp_path, "experiments.a:measure"):
        pass
    with pytest.raises(
        ValueError, match=r"holds results of 'experiments.a:m.*', not of 'b:m'; choose"
    ):
        Store(tmp_path, "b:m")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is not what a study writes; is it damaged"),
        ("{", "is not what a study writes"),
        ("[]", "is not what a study writes"),
        ('{"format": 1}', "is not what a study writes"),
        ('{"format": "1", "study": "f"}', "is not what a study writes"),
        ('{"format": 2, "study": "f"}', "was written by a later version of convjax"),
    ],
)
def test_a_damaged_introduction_is_named(tmp_path, content, match):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(ValueError, match=rf"study.json' {match}"):
        Store(tmp_path, "f")


def test_a_folder_that_is_none_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"file' is a file; choose a folder"):
        Store(file, "f")
    with pytest.raises(ValueError, match=r"cannot write into '.*below': Not a directory"):
        Store(file / "below", "f")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_files.tempfile, "TemporaryFile", denied)
    with pytest.raises(ValueError, match=r"cannot write into '.*': Permission denied"):
        Store(tmp_path, "f")


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    import fcntl

    def nolocks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", nolocks)
    with pytest.raises(ValueError, match=r"file system without locks \(No locks available\)"):
        Store(tmp_path, "f")


def test_a_system_without_locks_is_told_and_can_read(tmp_path, monkeypatch):
    keys = study.run(measure, cells(2), tmp_path, version="1").keys
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ImportError, match=r"needs the file locks of POSIX.* run it in WSL"):
        study.run(measure, cells(3), tmp_path, version="1")
    assert study.load(tmp_path, keys).num_rows == 3


def test_a_full_disk_is_one_sentence_and_what_was_kept_stays(tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 4:  # study.json and three cells
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=rf"cannot write into '{tmp_path}': {SPACE}"):
        study.run(measure, cells(20), tmp_path, version="1")
    monkeypatch.undo()
    assert all(name in ("locks", "study.json") or name[0] != "." for name in names(tmp_path))
    kept = set(study.load(tmp_path)["n"].to_pylist())
    assert len(kept) == 3
    ran = study.run(measure, cells(20), tmp_path, version="1")
    assert ran.measured == 17 and ran.finished == 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    folder = small_disk / "study"
    for _ in range(2):  # and once more, when it is full from the beginning
        with pytest.raises(ValueError, match=r"cannot write into '.*': No space left on device"):
            study.run(measure, cells(99), folder, version="1")
    kept = {n for n in study.load(folder)["n"].to_pylist() if n is not None}
    assert 5 < len(kept) < 99
    assert list(folder.rglob(".*")) == []
    grow = ["mount", "-o", "remount,size=4m", str(small_disk)]
    subprocess.run(grow, check=True)
    ran = study.run(measure, cells(99), folder, version="1")
    assert ran.measured == 99 - len(kept) and ran.finished == 99
    assert json.loads((folder / "study.json").read_text())["format"] == 1
