"""Submitit's executor for one machine: the same pickles, signals and queue again as under Slurm."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from convjax import study
from convjax.study import _slurm
from tests.study.cluster_functions import Cell, Counting, awaited, gradient, kill, tries_of

pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(_slurm, "POLL", 0.05)
    monkeypatch.setattr(_slurm, "LATE", 0.2)
    monkeypatch.setenv("NPROC", "4")  # threads that give other bits where cells have them
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    return study.Slurm(tmp_path / "slurm", ["cluster=local"], workers=4, platform="cpu")


@pytest.mark.later
def test_cells_that_end_in_every_way_are_told_and_kept_once(slurm, marks, tmp_path):
    cells = [
        Cell(0, str(marks)),
        Cell(1, str(marks), ends="raises"),
        Cell(2, str(marks), ends="killed"),
        Cell(3, str(marks), ends="waits"),
    ]
    told = []

    def preempt():
        mark = awaited(marks, 3)
        told.append(mark)
        os.kill(int(mark.read_text().split()[1]), signal.SIGUSR2)

    preempting = threading.Thread(target=preempt)
    preempting.start()
    watch = Counting()
    try:
        ran = study.run(gradient, cells, str(tmp_path / "s"), runner=slurm, watch=watch)
    finally:
        preempting.join()
    assert told and tries_of(marks) == {0: 1, 1: 1, 2: 1, 3: 2}
    assert watch.dones == dict.fromkeys(cells, 1)
    assert (ran.measured, ran.finished, len(ran.failed)) == (2, 2, 2)
    assert ran.failed[ran.keys[1]] == "ValueError: seed 1 will not do"
    assert "its process ended: without a word; its log is" in ran.failed[ran.keys[2]]
    assert {path.stem for path in (tmp_path / "s" / "failed").iterdir()} == set(ran.keys[1:3])
    kept = [ran.keys[0], ran.keys[3]]
    assert {path.stem for path in (tmp_path / "s" / "cells").iterdir()} == set(kept)
    local = study.Local(1, platform="cpu")
    good = [cells[0], cells[3]]
    again = study.run(gradient, good, str(tmp_path / "local"), runner=local)
    ours = study.results(str(tmp_path / "s"), kept)
    theirs = study.results(str(tmp_path / "local"), again.keys)
    np.testing.assert_array_equal(
        ours["gradient"].view(np.int64), theirs["gradient"].view(np.int64)
    )


DRIVER = """
import sys
from convjax import study
from tests.study.cluster_functions import Cell, gradient
marks, folder, logs = sys.argv[1:]
cells = [Cell(seed, marks, ends="asked") for seed in range(2)]
study.run(gradient, cells, folder, runner=study.Slurm(logs, ["cluster=local"], workers=2))
"""


class Asking(Counting):
    """Has the cells that wait end once it is told of another."""

    def __init__(self, marks):
        super().__init__()
        self.marks = marks

    def finish(self, config, done):
        super().finish(config, done)
        (self.marks / "go").touch()


@pytest.mark.later
def test_what_a_killed_driver_left_running_is_not_started_again(slurm, marks, tmp_path):
    folders = [str(marks), str(tmp_path / "s"), str(tmp_path / "slurm")]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *folders], start_new_session=True)
    cells = [Cell(seed, str(marks), ends="asked") for seed in range(2)] + [Cell(2, str(marks))]
    watch = Asking(marks)
    try:
        for seed in range(2):
            awaited(marks, seed)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        ran = study.run(gradient, cells, str(tmp_path / "s"), runner=slurm, watch=watch)
    finally:
        kill(driver)
    assert (ran.finished, ran.measured, len(ran.failed)) == (3, 1, 0)
    assert next(iter(watch.dones)) == cells[2] and watch.dones == dict.fromkeys(cells, 1)
    assert tries_of(marks) == {0: 1, 1: 1, 2: 1}
    assert len(list((tmp_path / "slurm").glob("*_log.out"))) == 3  # none was even begun


@pytest.mark.later
def test_a_closed_run_cancels_its_tasks(slurm, marks, tmp_path):
    folder = str(tmp_path / "s")
    jobs = [
        study.Job(f"{seed:040d}", gradient, cell, "1", folder=folder, of="gradient")
        for seed, cell in enumerate([Cell(0, str(marks)), Cell(1, str(marks), ends="waits")])
    ]
    running = slurm.run(iter(jobs))
    assert next(running).key == jobs[0].key
    process = int(awaited(marks, 1).read_text().split()[1])
    running.close()
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{process}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{process}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["memory=3"],
            "the Slurm option 'memory' is not known; submitit has cpus_per_task, .*mem_gb",
        ),
        (["mem_gb"], "the Slurm option 'mem_gb' must be NAME=VALUE"),
        (
            ["timeout_min=long"],
            "submitit refuses an option: .*timeout_min.* expected type .*int.*long",
        ),
        (["cluster=debug"], "must be cluster=slurm or cluster=local"),
    ],
)
def test_an_option_that_submitit_does_not_take_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        study.Slurm(tmp_path, ["cluster=local", *options])


def test_options_are_read_as_what_they_are(tmp_path):
    words = ["mem_gb=1.5", "slurm_account=007", "slurm_exclusive=true", "slurm_setup=module load x"]
    assert _slurm.read(words) == {
        "mem_gb": 1.5,
        "slurm_account": "007",
        "slurm_exclusive": True,
        "slurm_setup": ["module load x"],
    }
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        study.Slurm(tmp_path, workers=0)


def test_where_there_is_no_slurm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no Slurm here.* cluster=local"):
        study.Slurm(tmp_path)


def test_what_is_typed_in_a_notebook_is_sent_along():
    """As Ray does too: the function itself, not its name."""
    import cloudpickle

    scope = {"__name__": "__main__"}
    exec("def typed(config): return {'n': [config['n']]}", scope)
    task = _slurm.Task(study.Job("0", scope["typed"], {"n": 2}, "1"))
    sent = cloudpickle.dumps(task)
    assert b"typed" in sent
    del scope["typed"]
    assert cloudpickle.loads(sent)().error == ""
