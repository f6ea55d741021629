"""The folder of compiled programs has a limit, and what was used last stays."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convjax import study
from convjax.study import _programs

# What a script does that keeps its programs: one compilation comes before the line, one after.
SCRIPT = """
import json, sys
import jax
jax.jit(lambda x: x + 1)(1.0)
from convjax import study
folder, limit = sys.argv[1:]
place = study.keep_programs(folder, limit=int(limit))
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))
names = ("cache_misses", "cache_hits")
counts = [events.count(f"/jax/compilation_cache/{name}") for name in names]
print(json.dumps([str(place), *counts]))
"""


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


def told(folder, limit):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), str(limit)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_second_script_compiles_nothing_and_the_limit_is_kept(tmp_path):
    place, missed, found = told(tmp_path, 2**30)
    assert Path(place).parent == tmp_path and missed > 0 and found == 0
    entries = list(Path(place).glob("*-cache"))
    assert len(entries) == missed
    # What is found again stays, and what is older goes: the folder is too large by one file.
    written(tmp_path / "9-0123456789ab" / "old-cache", 10, 0)
    size = sum(entry.stat().st_size for entry in entries)
    assert told(tmp_path, size) == [place, 0, missed]
    assert sorted(tmp_path.glob("*/*-cache")) == sorted(entries)
    # What the process itself writes is limited too.
    told(tmp_path, 1)
    assert not list(tmp_path.glob("*/*-cache"))


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^limit=-1"):
        study.keep_programs(tmp_path, limit=-1)
