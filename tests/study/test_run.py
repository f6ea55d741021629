import concurrent.futures
import dataclasses
import functools
import signal
import sys
import threading
import time

import numpy as np
import pytest

from convjax import study
from convjax.study import _run
from convjax.study._job import perform
from convjax.study._parquet import encode
from convjax.study._store import Store
from tests.study import functions

pytest.importorskip("fcntl")


@dataclasses.dataclass(frozen=True)
class Cell:
    depth: int = 2
    seed: int = 0

    def __str__(self):
        return f"depth {self.depth}"


CELLS = study.grid(Cell(), depth=[3, 2, 4, 1])


class Measured:
    """A function that remembers its calls, and does something first."""

    def __init__(self, **first):
        self.calls = []
        self.first = first

    def function(self):
        def measure(cell):
            self.calls.append(cell.depth)
            self.first.get(f"depth{cell.depth}", lambda: None)()
            return {"layer": np.arange(cell.depth), "depth": np.full(cell.depth, cell.depth)}

        return measure


class Told:
    """A watch that remembers."""

    def __init__(self):
        self.begun, self.ends = None, []

    def begin(self, total, finished, failed):
        self.begun = (total, finished, failed)

    def finish(self, config, done):
        self.ends.append((config.depth, done.error, done.table is not None))


def raising(error):
    def act():
        raise error

    return act


def run(measured, folder, cells=CELLS, **options):
    return study.run(measured.function(), cells, folder, version="1", **options)


def test_cells_are_measured_once_and_in_order(tmp_path):
    measured, told = Measured(), Told()
    ran = run(measured, tmp_path / "new" / "folder", watch=told)
    assert measured.calls == [3, 2, 4, 1]
    assert (ran.measured, ran.finished, ran.failed) == (4, 4, {})
    assert ran.keys == tuple(study.key(cell, "1") for cell in CELLS)
    assert told.begun == (4, 0, 0)
    assert told.ends == [(depth, "", True) for depth in (3, 2, 4, 1)]
    again = run(measured, tmp_path / "new" / "folder", watch=told)
    assert measured.calls == [3, 2, 4, 1]
    assert (again.measured, again.finished, again.keys) == (0, 4, ran.keys)
    assert told.begun == (4, 4, 0) and len(told.ends) == 4
    assert study.results(ran.folder, ran.keys)["depth"].tolist() == [3] * 3 + [2] * 2 + [4] * 4 + [
        1
    ]


def test_a_larger_grid_measures_what_is_new_and_another_version_everything(tmp_path):
    measured = Measured()
    run(measured, tmp_path, CELLS[1:3])
    assert run(measured, tmp_path).measured == 2
    assert measured.calls == [2, 4, 3, 1]
    assert study.run(measured.function(), CELLS, tmp_path, version="2").measured == 4
    assert run(measured, tmp_path).measured == 0


def test_without_a_version_it_is_the_codes(tmp_path):
    ran = study.run(depths, CELLS, tmp_path)
    assert ran.keys[0] == study.key(CELLS[0], study.version(depths, CELLS[0]))
    assert study.states(depths, CELLS, tmp_path) == ["finished"] * 4


def depths(cell):
    return {"x": np.full(2, cell.depth)}


def test_arguments_that_are_bound_tell_studies_cells_apart(tmp_path):
    for scale in (2, 3, 2):
        ran = study.run(functools.partial(scaled, scale=scale), CELLS, tmp_path)
        assert study.results(tmp_path, ran.keys)["x"].tolist() == [scale * d for d in (3, 2, 4, 1)]
    assert ran.measured == 0 and study.load(tmp_path).num_rows == 8


def scaled(cell, scale):
    return {"x": np.array([scale * cell.depth])}


def test_what_a_cell_was_measured_by_is_kept_with_it(tmp_path):
    measured = Measured(depth2=lambda: time.sleep(0.02))
    ran = run(measured, tmp_path, CELLS[1:2])
    _, said = study.read_parquet(tmp_path / "cells" / f"{ran.keys[0]}.parquet")
    assert said["config"] == {"depth": 2, "seed": 0}
    assert said["cell"] == ran.keys[0] and said["version"] == "1"
    assert 0.02 <= said["seconds"] < 5
    assert {"jax", "device_kind", "time"} <= set(said["environment"])


def test_cells_that_exit_or_cannot_say_why_have_failed(tmp_path):
    measured = Measured(depth2=lambda: sys.exit("enough"), depth4=raising(functions.MuteError()))
    ran = run(measured, tmp_path)
    errors = ["SystemExit: enough", "MuteError: what it says cannot be read (RuntimeError)"]
    assert list(ran.failed.values()) == errors and ran.finished == 2
    with pytest.raises(KeyboardInterrupt):
        run(Measured(depth3=raising(KeyboardInterrupt())), tmp_path / "mine")


def test_a_cell_may_take_so_long_and_no_longer(tmp_path):
    def swallowing():
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)

    ran = run(Measured(depth2=swallowing), tmp_path, time_limit=0.2)
    assert list(ran.failed.values()) == ["TimeLimitError: it took longer than time_limit=0.2 s"]
    assert ran.finished == 3 and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ran = pool.submit(run, Measured(), tmp_path / "thread", CELLS[:1], time_limit=9).result()
    assert "time_limit=9 needs the main thread" in ran.failed[ran.keys[0]]
    with pytest.raises(ValueError, match="time_limit=0 must be greater than 0"):
        run(Measured(), tmp_path, time_limit=0)


def test_an_answer_of_mended_code_takes_the_place_of_the_failure(tmp_path):
    failing = Measured(depth2=raising(OSError("one")), depth3=raising(OSError("one")))
    for version, asked in (("1", CELLS), ("2", CELLS[:1]), ("3", CELLS[3:])):
        study.run(failing.function(), asked, tmp_path, version=version)
        assert len(list((tmp_path / "failed").glob("*.parquet"))) == 2
    study.run(Measured().function(), CELLS, tmp_path, version="4")
    table = study.load(tmp_path)
    assert table["error"].null_count == table.num_rows


def test_a_failed_cell_is_a_row_and_is_retried_when_asked(tmp_path):
    measured = Measured(depth2=raising(ValueError("two\nis bad")), depth1=raising(KeyError()))
    told = Told()
    ran = run(measured, tmp_path, watch=told)
    errors = {2: "ValueError: two is bad", 1: "KeyError: without a word"}
    assert ran.failed == {ran.keys[1]: errors[2], ran.keys[3]: errors[1]}
    assert (ran.finished, ran.measured) == (2, 2)
    assert told.ends[1] == (2, errors[2], True)
    columns, said = study.read_parquet(tmp_path / "failed" / f"{ran.keys[1]}.parquet")
    assert columns["error"].tolist() == [errors[2]]
    assert "raise error" in columns["traceback"][0] and said["config"]["depth"] == 2

    measured.first.clear()
    ran = run(measured, tmp_path, watch=told)
    assert measured.calls == [3, 2, 4, 1]
    assert told.begun == (4, 2, 2) and list(ran.failed) == [ran.keys[1], ran.keys[3]]

    measured.first["depth1"] = raising(ValueError("still"))
    ran = run(measured, tmp_path, retry=True)
    assert measured.calls == [3, 2, 4, 1, 2, 1]
    assert ran.failed == {ran.keys[3]: "ValueError: still"} and ran.finished == 3
    assert [path.stem for path in (tmp_path / "failed").iterdir()] == [ran.keys[3]]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (None, "TypeError: <lambda> returned None, not columns by name"),
        ({"a": np.arange(2), "b": np.arange(3)}, "ValueError: columns must be equally long, not"),
        ({"a": 1.5}, "ValueError: column 'a' must be an array, not the single value 1.5"),
    ],
)
def test_what_is_no_table_is_a_failure(tmp_path, columns, error):
    ran = study.run(lambda cell: columns, CELLS[:1], tmp_path, version="1")
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(*ran.failed.values())


def test_an_error_that_is_no_text_is_kept(tmp_path):
    measured = Measured(depth3=raising(OSError("file \udcff.npz")))
    assert (
        "file" in study.load(tmp_path, run(measured, tmp_path, CELLS[:1]).keys)["error"][0].as_py()
    )


def test_a_process_that_a_cluster_ends_is_no_failure():
    handler = {"__name__": "submitit.core.job_environment", "sys": sys}
    exec("def act(cell): sys.exit(-1)", handler)
    with pytest.raises(SystemExit):
        perform(study.Job("0", handler["act"], Cell(), "1"))


@pytest.mark.parametrize("place", ["cells", "failed"])
def test_a_damaged_cell_is_put_aside_and_measured_again(tmp_path, place):
    measured = Measured(depth2=raising(ValueError("two")))
    keys = run(measured, tmp_path).keys
    path = tmp_path / place / f"{keys[0 if place == 'cells' else 1]}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name}' cannot be read as a cell .*damaged"):
        study.load(tmp_path)
    assert states(measured, tmp_path).count("to do") == 1
    with pytest.warns(UserWarning, match=f"{path}' is damaged; it is put aside"):
        ran = run(measured, tmp_path)
    assert ran.finished == 3 and measured.calls[4:] == [3 if place == "cells" else 2]
    assert (tmp_path / "damaged" / path.name).read_bytes() == content
    assert study.load(tmp_path, keys).num_rows == 9
    assert run(measured, tmp_path).measured == 0


def states(measured, folder):
    return study.states(measured.function(), CELLS, folder, version="1")


def test_an_interrupted_study_goes_on_where_it_was(tmp_path):
    measured = Measured(depth4=raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(measured, tmp_path)
    assert measured.calls == [3, 2, 4]
    measured.first.clear()
    ran = run(measured, tmp_path)
    assert measured.calls == [3, 2, 4, 4, 1] and (ran.measured, ran.finished) == (2, 4)
    assert list((tmp_path / "failed").iterdir()) == []


def store_of(measured, folder):
    return Store(folder, _run.name_of(measured.function()))


def test_what_another_runner_does_meanwhile_is_not_done_again(tmp_path):
    measured, told = Measured(), Told()
    keys = [study.key(cell, "1") for cell in CELLS]

    def other():
        with store_of(measured, tmp_path) as store:
            about = {"cell": keys[1], "config": {"depth": 2, "seed": 0}, "version": "1"}
            store.keep(keys[1], encode({"depth": np.array([2])}, about))
            row = {"error": np.array(["Error: at the other"]), "traceback": np.array([""])}
            store.keep_failure(keys[2], encode(row, {"cell": keys[2]}))

    measured.first["depth3"] = other
    ran = run(measured, tmp_path, watch=told)
    assert measured.calls == [3, 1]
    assert (ran.measured, ran.finished) == (2, 3)
    assert ran.failed == {keys[2]: "Error: at the other"}
    assert sorted(told.ends) == [
        *((1, "", True), (2, "", False), (3, "", True), (4, "Error: at the other", False))
    ]


@pytest.mark.parametrize("finishes", [True, False])
def test_what_another_runner_is_at_comes_last(tmp_path, monkeypatch, finishes):
    monkeypatch.setattr(_run, "POLL", 0.01)
    measured = Measured()
    key = study.key(CELLS[1], "1")
    other = store_of(measured, tmp_path)
    assert other.lock(key)

    def end():
        time.sleep(0.05)
        if finishes:
            other.keep(key, encode({"depth": np.array([2])}, {"cell": key}))
        other.close()

    ending = threading.Thread(target=end)
    measured.first["depth1"] = ending.start
    ran = run(measured, tmp_path)
    ending.join()
    assert measured.calls == ([3, 4, 1] if finishes else [3, 4, 1, 2])
    assert ran.finished == 4 and ran.measured == len(measured.calls)


class Keeping:
    """A runner whose jobs lock and keep for themselves, one after the other."""

    keeps = True

    def __init__(self):
        self.took = []

    def run(self, jobs):
        for job in list(jobs):  # all of them at once, as a queue takes them
            self.took.append(job.config.depth)
            yield perform(job)


def test_a_runner_that_keeps_by_itself(tmp_path):
    measured, runner = Measured(depth2=raising(ValueError("two"))), Keeping()
    ran = run(measured, tmp_path, runner=runner)
    assert (ran.measured, ran.finished) == (3, 3)
    assert ran.failed == {ran.keys[1]: "ValueError: two"}
    measured.first.clear()
    assert run(measured, tmp_path, runner=runner).measured == 0
    assert run(measured, tmp_path, runner=runner, retry=True).measured == 1
    assert measured.calls == runner.took == [3, 2, 4, 1, 2]
    names = {path.parent.name for path in tmp_path.rglob("*.parquet")}
    assert names == {"cells"}


def test_a_job_that_waited_in_a_queue_looks_again(tmp_path):
    """Between the submission and the beginning of a job another may have done its cell."""
    measured = Measured()

    class Late(Keeping):
        def run(self, jobs):
            waiting = list(jobs)
            run(Measured(), tmp_path, CELLS[:2])
            yield from map(perform, waiting)

    ran = run(measured, tmp_path, runner=Late())
    assert measured.calls == [4, 1] and (ran.measured, ran.finished) == (2, 4)


def test_groups_are_handed_out_together(tmp_path):
    class Here(study.Here):
        def run(self, jobs):
            self.groups = []
            for job in jobs:
                self.groups.append(job.group)
                yield perform(job)

    runner, cells = Here(), study.grid(Cell(), depth=[1, 2], seed=[0, 1])
    run(Measured(), tmp_path, cells, runner=runner, group=lambda cell: cell.seed)
    assert runner.groups == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("cells", "error", "match"),
    [
        ([], ValueError, "configs is empty; give at least one cell"),
        ([Cell(3), Cell(4), Cell(3)], ValueError, r"one cell twice: .*\"depth\":3,\"seed\":0}$"),
        ([Cell(object())], TypeError, r"config.depth = <object .* has no identity"),
    ],
)
def test_bad_cells_are_refused_before_anything_is_written(tmp_path, cells, error, match):
    with pytest.raises(error, match=match):
        run(Measured(), tmp_path / "study", cells)
    assert not (tmp_path / "study").exists()


def test_the_folder_of_another_function_is_refused(tmp_path):
    study.run(depths, CELLS[:1], tmp_path)
    with pytest.raises(
        ValueError, match=r"holds results of '.*:depths', not of '.*:scaled'; choose"
    ):
        study.run(functools.partial(scaled, scale=1), CELLS[:1], tmp_path)
