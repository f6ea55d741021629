"""The folder of compiled programs has a limit, and what was used last stays."""

import os
import time

from convjax.study import _programs


def written(path, size, used):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (used, used - 1000))
    return path


def test_what_was_used_longest_ago_goes_first(tmp_path):
    now = time.time()
    ages = (300, 100, 500, 200, 400)
    files = [
        written(tmp_path / f"{i}-0123456789ab" / "a-cache", 10, now - age)
        for i, age in enumerate(ages)
    ]
    gone = tmp_path / "0-0123456789ab" / "gone-cache"
    _programs.remove_oldest([*files, gone], 30)
    assert [age for age, path in zip(ages, files, strict=True) if path.exists()] == [300, 100, 200]


def test_the_size_is_looked_at_once_in_an_hour(tmp_path, monkeypatch):
    monkeypatch.setattr(_programs, "LIMIT", 15)
    old = written(tmp_path / "1-0123456789ab" / "a-cache", 10, time.time() - 50)
    other = written(tmp_path / "mine" / "b-cache", 10, time.time() - 90)  # no folder of ours
    new = written(tmp_path / "2-0123456789ab" / "a-cache", 10, time.time())
    _programs._keep_small(tmp_path)
    assert [path.exists() for path in (old, other, new)] == [False, True, True]
    again = written(tmp_path / "1-0123456789ab" / "a-cache", 10, time.time() - 50)
    _programs._keep_small(tmp_path)
    assert again.exists()
    os.utime(tmp_path / "looked", (0, 0))
    _programs._keep_small(tmp_path)
    assert not again.exists()


def test_programs_of_other_threads_and_processors_lie_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NPROC", "1")
    one = _programs.folder()
    assert one.parent == tmp_path and one == _programs.folder()
    monkeypatch.setenv("NPROC", "2")
    assert _programs.folder() != one
    monkeypatch.setenv("NPROC", "1")
    monkeypatch.setattr(_programs, "_processor", lambda: "another")
    assert _programs.folder() != one
