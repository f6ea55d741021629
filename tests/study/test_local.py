import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from convjax import study
from convjax.study import _local, _process
from convjax.study._job import Job
from convjax.study._jobs import Jobs
from convjax.study._store import Store
from convjax.study._worker import ending
from tests.study import functions
from tests.study.functions import Cell

ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the processes keep what they compile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return tmp_path / "cache"


def alive(process):
    """Whether a process is there, and not merely waiting for its parent to take note."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def peopled(group):
    """Whether a group of processes has any."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def calls(folder, index):
    path = Path(folder) / f"calls-{index}"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def of_size(cell):
    return cell.size


def by_index(folder, keys):
    table = study.results(folder, keys)
    return {key["index"]: rows for key, rows in study.groups(table, ["index"])}


@pytest.mark.later
def test_a_cell_that_takes_too_long_has_failed_and_its_process_is_replaced(
    cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(_local, "LATE", 0.5)
    kinds = ["trivial", "waits", "stuck", "trivial"]
    cells = [Cell(i, kind=kind, folder=str(tmp_path)) for i, kind in enumerate(kinds)]
    how = {"runner": study.Local(1), "version": "1", "time_limit": 1.0}
    ran = study.run(functions.behaving, cells, tmp_path / "slow", **how)
    error = "TimeLimitError: it took longer than time_limit=1 s"
    assert ran.failed == {ran.keys[1]: error, ran.keys[2]: error} and ran.measured == 2
    first, waits, stuck, last = (calls(tmp_path, i) for i in range(4))
    assert first == waits == stuck != last  # what can be ended in its process is
    traceback = study.read_parquet(tmp_path / "slow" / "failed" / f"{ran.keys[1]}.parquet")[0]
    assert "time.sleep(600)" in traceback["traceback"][0]


@pytest.mark.later
def test_cells_end_exactly_once_whatever_their_processes_do(cache, tmp_path):
    shared = str(tmp_path)
    kinds = ["sums"] * 4 + ["raises", "kills once", "kills", "sums", "exits", "mute"]
    cells = [Cell(i, kind=kind, folder=shared) for i, kind in enumerate(kinds)]
    ran = study.run(functions.behaving, cells, tmp_path / "two", runner=study.Local(2), version="1")
    killed = ran.keys[6]
    assert ran.finished == ran.measured == 6
    assert ran.failed == {
        ran.keys[4]: "ArithmeticError: no such number",
        ran.keys[8]: "SystemExit: 3",
        ran.keys[9]: "MuteError: what it says cannot be read (RuntimeError)",
        killed: "its process was killed by SIGKILL (out of memory?), 2 times",
    }
    assert [len(calls(shared, i)) for i in range(10)] == [1, 1, 1, 1, 1, 2, 2, 1, 1, 1]
    row, about = study.read_parquet(tmp_path / "two" / "failed" / f"{killed}.parquet")
    assert row["error"] == [ran.failed[killed]] and about["config"]["kind"] == "kills"

    good = [one for one in ran.keys if one not in ran.failed]
    found = by_index(tmp_path / "two", good)
    processes = {rows["process"][0] for rows in found.values()}
    assert os.getpid() not in processes and not any(map(alive, processes))
    assert {rows["cores"][0] for rows in found.values()} == {1}
    for index, rows in found.items():
        here = functions.computed(cells[index])["value"]
        np.testing.assert_allclose(rows["value"], here, rtol=2e-4, atol=2e-4)

    # One process, later, which finds the programs of this size on the disk: the same to the bit.
    mixed = [Cell(i, size=size) for i in (0, 1, 7) for size in (37, 11)]
    one = study.Local(1)
    again = study.run(
        functions.computed, mixed, tmp_path / "one", runner=one, version="1", group=of_size
    )
    rows = by_index(tmp_path / "one", again.keys[::2])
    assert [(i, row["place"][0], row["missed"][0]) for i, row in rows.items()] == [
        (0, 1, 0),
        (1, 2, 0),
        (7, 3, 0),
    ]
    assert rows[0]["found"][0] > 0 and len({row["process"][0] for row in rows.values()}) == 1
    for index, row in rows.items():
        np.testing.assert_array_equal(row["value"], found[index]["value"])
    # The programs of the other size it compiled once, for three cells.
    rows = by_index(tmp_path / "one", again.keys[1::2])
    assert [row["place"][0] for row in rows.values()] == [4, 5, 6]
    missed = [row["missed"][0] for row in rows.values()]
    assert missed[0] > 0 and set(missed) == {missed[0]}


SCRIPT = """
    import sys
    from convjax import study
    from tests.study import functions

    def measured_here(cell):
        return functions.behaving(cell)

    if __name__ == "__main__":
        folder, workers = sys.argv[1], int(sys.argv[2])
        kinds = ["trivial"] * 6 + ["waits"] * 2
        cells = [functions.Cell(i, kind=k, folder=folder) for i, k in enumerate(kinds)]
        study.run(measured_here, cells, f"{folder}/study", runner=study.Local(workers))
"""


def started(folder, workers):
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(workers)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.later
def test_ctrl_c_and_a_killed_driver_leave_what_is_finished_and_no_process(cache, tmp_path):
    driver = started(tmp_path, 2)
    kept = tmp_path / "study" / "cells"
    with driver:
        until(lambda: calls(tmp_path, 6) and calls(tmp_path, 7))
        workers = {calls(tmp_path, 6)[0], calls(tmp_path, 7)[0]}
        assert len(workers) == 2 and all(map(alive, workers))
        # The terminal's Ctrl-C goes to all of them.
        os.killpg(driver.pid, signal.SIGINT)
        _, said = driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1 and said.endswith("KeyboardInterrupt\n")
    assert not any(map(alive, workers))
    until(lambda: not peopled(driver.pid), seconds=20)
    assert len(list(kept.glob("*.parquet"))) == 6

    driver = started(tmp_path, 1)
    with driver:
        until(lambda: len(calls(tmp_path, 6)) == 2)
        worker = calls(tmp_path, 6)[1]
        driver.kill()
        until(lambda: not alive(worker), seconds=20)
        driver.communicate(timeout=60)
    assert [len(calls(tmp_path, i)) for i in range(8)] == [1] * 6 + [2, 1]
    until(lambda: not peopled(driver.pid), seconds=20)


def test_jobs_are_taken_group_by_group_then_from_whom_has_most_left(tmp_path):
    def job(i, group):
        return Job(f"{i:040x}", functions.trivial, Cell(i), "1", group)

    def index_of(job):
        return job.config.index

    jobs = [job(i, group) for i, group in enumerate("aaaabbc")]
    with Store(tmp_path, "study") as store:
        mine, yours = Jobs(store, jobs), Jobs(store, jobs)
        taken = [index_of(mine.take(group)) for group in ("", "", "a", "b", "b", "c")]
        assert taken == [0, 4, 1, 5, 6, 2]
        # Nothing is locked before it is taken, and nothing twice.
        assert index_of(next(yours)) == 3 and mine.take("a") is None
        assert [index_of(job) for job in mine.elsewhere] == [3]
        assert next(yours, None) is None and len(yours.elsewhere) == 6
    with Store(tmp_path / "other", "study") as store:
        assert [job.group for job in Jobs(store, jobs[::-1])] == list("cbbaaaa")


def test_what_other_processes_cannot_import_is_refused_at_once(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Inner:
        depth: int = 1

    def local(cell):
        return functions.trivial(cell)

    def refused(function, config):
        folder = tmp_path / function.__name__
        study.run(function, [config], folder, runner=study.Local(1), version="1")

    def prompt(cell):
        return functions.trivial(cell)

    prompt.__module__, prompt.__qualname__ = "__main__", "typed"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
    with pytest.raises(ValueError, match=r"import .*<lambda>: it is a lambda; define.*study.Here"):
        refused(lambda cell: {}, Cell())
    with pytest.raises(ValueError, match="local: it is defined in another function; define it"):
        refused(local, Cell())
    with pytest.raises(ValueError, match=r"typed: it was typed in a notebook .*; define it"):
        refused(prompt, Cell())
    with pytest.raises(ValueError, match=r"the cell .*Inner\(depth=1\) of trivial cannot be sent"):
        refused(functions.trivial, Inner())
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_runs_ends_with_an_error_of_whoever_watches(tmp_path):
    ended = []

    class Runner(study.Here):
        def run(self, jobs):
            try:
                yield from super().run(jobs)
            finally:
                ended.append(len(list(jobs)))

    class Watch(study.Silent):
        def finish(self, config, done):
            raise ArithmeticError

    cells = [Cell(i) for i in range(40)]
    with pytest.raises(ArithmeticError) as error:
        study.run(functions.trivial, cells, tmp_path, runner=Runner(), watch=Watch())
    # As long as the error is held, so is all that its trace leads to.
    assert len(ended) == 1 and ended[0] > 0 and error.value.__traceback__


def test_how_a_process_ended_is_said_in_words():
    assert ending(-9) == "its process was killed by SIGKILL (out of memory?)"
    assert ending(-11) == "its process was killed by SIGSEGV"
    assert ending(3) == "its process ended with exit code 3"


def test_workers_and_platform_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        study.Local(0)
    with pytest.raises(ValueError, match=r"platform='cuda' is not known; .*from cpu, gpu, tpu"):
        study.Local(platform="cuda")
    monkeypatch.setattr(_process, "_plugins", list)
    with pytest.raises(ValueError, match="platform='gpu', but there is no JAX for it here"):
        study.Local(platform="gpu")
    assert study.Local().workers == study.Local(platform="cpu").workers == CORES
    # With an accelerator: one, unless only the processor is asked for.
    monkeypatch.setattr(_process, "_plugins", lambda: ["xla_cuda12"])
    monkeypatch.delenv("JAX_PLATFORMS")
    assert study.Local().workers == study.Local(platform="gpu").workers == 1
    assert study.Local(platform="cpu").workers == CORES
