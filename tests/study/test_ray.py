"""A real cluster of two nodes on the loopback, one of which is killed."""

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from convjax import study
from convjax.study import _ray
from tests.study.cluster_functions import Cell, Counting, gradient, kill, processes, tries_of

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.later,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc"),
]

# Quick to see that a node is gone, without a token in the user's home, and with threads that give
# other bits where cells have them.
SETTINGS = {
    "NPROC": "4",
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_failure_threshold": "2",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
}


def start(*options):
    """Start a node with one core, and return the process that leads it."""
    command = [Path(sys.executable).parent / "ray", "start", "--block", "--disable-usage-stats"]
    command += ["--num-cpus=1", "--object-store-memory=100000000", *options]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen(command, start_new_session=True, **quiet)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(settings):
    """Return the address of a head with one core, and a function that adds such a node."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp"))
        port = free_port()

        def node(*options):
            one = start(*options)
            stack.callback(kill, one)
            return one

        node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        await_port(port)
        yield f"127.0.0.1:{port}", lambda: node(f"--address=127.0.0.1:{port}")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def await_port(port):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("the head does not start")


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@contextlib.contextmanager
def killing(node, marks):
    """Kill a node as soon as it is at a cell; yields the list that will hold its seed."""
    killed, over = [], threading.Event()

    def watch():
        while not killed and not over.wait(0.02):
            for mark in marks.glob("[0-9]*"):
                if mark.read_text().startswith(f"{node.pid} "):
                    killed.append(int(mark.name.partition("-")[0]))
        kill(node)

    killer = threading.Thread(target=watch)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def test_a_node_that_is_killed_loses_no_cell_and_no_bit(cluster, marks, tmp_path):
    address, add = cluster
    second = add()
    cells = [Cell(seed, str(marks), seconds=1.0) for seed in range(6)]
    watch = Counting()
    with killing(second, marks) as killed:
        runner = study.Ray(address, platform="cpu")
        ran = study.run(gradient, cells, str(tmp_path / "ray"), runner=runner, watch=watch)
    assert killed and tries_of(marks)[killed[0]] == 2
    assert (ran.finished, ran.measured, len(ran.failed)) == (6, 6, 0)
    assert watch.dones == dict.fromkeys(cells, 1)
    assert len(list((tmp_path / "ray" / "cells").iterdir())) == 6
    runner = study.Local(1, platform="cpu")
    again = study.run(gradient, cells, str(tmp_path / "local"), runner=runner)
    ours, theirs = (study.results(str(tmp_path / name), ran.keys) for name in ("ray", "local"))
    assert again.keys == ran.keys
    np.testing.assert_array_equal(
        ours["gradient"].view(np.int64), theirs["gradient"].view(np.int64)
    )


def test_a_cell_that_raises_is_not_tried_again_and_one_that_kills_is_given_up(
    cluster, marks, tmp_path
):
    bad = [Cell(0, str(marks), ends="raises"), Cell(1, str(marks), ends="killed")]
    cells = [*bad, *(Cell(seed, str(marks)) for seed in range(2, 5))]
    runner = study.Ray(cluster[0], platform="cpu")
    ran = study.run(gradient, cells, str(tmp_path / "study"), runner=runner)
    assert ran.measured == ran.finished == 3
    assert [ran.failed[key] for key in ran.keys[:2]] == [
        "ValueError: seed 0 will not do",
        "its process ended without a word, 4 times",
    ]
    assert tries_of(marks) == {0: 1, 1: 1 + _ray.RETRIES, 2: 1, 3: 1, 4: 1}


def test_no_more_cells_are_taken_than_asked_for_and_a_closed_run_leaves_the_cluster(cluster, marks):
    taken = []

    def jobs():
        for seed in range(5):
            taken.append(seed)
            cell = Cell(seed, str(marks), seconds=60.0 * (seed > 0))
            yield study.Job(str(seed), gradient, cell, "1")

    running = study.Ray(cluster[0], workers=2, platform="cpu").run(jobs())
    assert next(running).key == "0"
    assert taken == [0, 1]
    with pytest.raises(ValueError, match=r"Ray is connected .* call ray.shutdown\(\) before"):
        next(study.Ray(cluster[0]).run(jobs()))
    running.close()
    cell = Cell(9, str(marks))
    again = study.Ray(cluster[0], platform="cpu").run(iter([study.Job("9", gradient, cell, "1")]))
    assert [done.error for done in again] == [""]


INTERRUPTED = """
import sys
from convjax import study
from tests.study.cluster_functions import Cell, gradient
class Watch(study.Silent):
    def finish(self, config, done):
        print(config.seed, done.error, flush=True)
cells = [Cell(seed, seconds=60.0 * (seed > 0)) for seed in range(3)]
try:
    study.run(gradient, cells, sys.argv[1], runner=study.Ray(workers=1), watch=Watch())
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_cluster_of_our_own_ends_with_ctrl_c_and_what_was_measured_stays(settings, tmp_path):
    driver = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout
        first = driver.stdout.readline()
        driver.send_signal(signal.SIGINT)
        rest, _ = driver.communicate(timeout=120)
        left = processes(driver.pid)
    finally:
        kill(driver)
    assert (first, rest) == ("0 \n", "stopped\n")
    assert left == []
    assert len(list((tmp_path / "cells").iterdir())) == 1


def test_a_cluster_that_cannot_be_reached_is_one_sentence(settings, monkeypatch):
    def refused(address, words):
        jobs = iter([study.Job("0", gradient, Cell(0), "1")])
        with pytest.raises(ValueError, match=f"^address='{address}': {words}"):
            next(study.Ray(address).run(jobs))

    refused(
        f"127.0.0.1:{free_port()}", "no Ray cluster is there; start one with `ray start --head`"
    )
    refused("ray://127.0.0.1:x", "no Ray cluster is there")
    refused("x", "Ray cannot use it: Invalid address format: x")
    monkeypatch.setattr(_ray, "PATIENCE", 1.0)
    with socket.create_server(("", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused(address, "no Ray cluster answers there within 1 s; start one with")
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        study.Ray(workers=0)
    with pytest.raises(ValueError, match="platform='gpus' is not known; did you mean 'gpu'"):
        study.Ray(platform="gpus")
