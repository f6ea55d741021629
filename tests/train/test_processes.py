"""Several processes: real ones, on the loopback, each with devices of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from convjax import train
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.one_process import fitted

ROOT = Path(__file__).parents[2]
LIMIT = 300


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(*arguments, devices=1, **environment):
    env = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.train.one_process", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=env | environment, text=True, **pipes)


@contextlib.contextmanager
def together(*processes):
    """Yield every process's exit status, output and errors; none outlives the test."""
    try:
        outputs = [process.communicate(timeout=LIMIT) for process in processes]
        yield [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def results(ended):
    for status, _, errors in ended:
        assert status == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for _, output, _ in ended]


def pair(*arguments, devices=1, each=None):
    """Start two processes that find each other by their arguments; ``each`` has some of its own."""
    common = ("--join", "--address", f"127.0.0.1:{free_port()}", "--processes", 2, *arguments)
    return [
        started(*common, "--process", i, *(each or {}).get(i, ()), devices=devices) for i in (0, 1)
    ]


def logged(folder):
    rows = train.read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def agree(one, other, rtol=1e-5):
    assert [row.keys() for row in one] == [row.keys() for row in other]
    for a, b in zip(one, other, strict=True):
        assert {**a, "kind": 0} == pytest.approx({**b, "kind": 0}, rel=rtol)


@pytest.mark.later
@pytest.mark.usefixtures("quick_compilation")
def test_two_processes_make_the_run_of_one(tmp_path):
    processes = pair("--folder", tmp_path, "--steps", 6)
    alone = fitted(6)
    with together(*processes) as ended:
        found = results(ended)
    assert [(r["process"], r["processes"], r["devices"]) for r in found] == [
        (0, 2, [1, 2]),
        (1, 2, [1, 2]),
    ]
    assert found[0]["rows"] == found[1]["rows"] and found[0]["state"] == found[1]["state"]
    agree(found[0]["rows"], alone.rows)
    for leaf, expected in zip(found[0]["state"], jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    # The first process alone has written, and every row once.
    assert logged(tmp_path) == found[0]["rows"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "6"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what a run of two processes with two devices each ends with, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    with together(*pair("--folder", folder, devices=2)) as ended:
        return results(ended)[0], folder


@pytest.mark.slow
def test_two_processes_of_two_devices_make_the_run_of_one_of_four(whole):
    with together(started("--devices", 4, devices=4)) as ended:
        alone = results(ended)[0]
    agree(whole[0]["rows"], alone["rows"])
    for leaf, expected in zip(whole[0]["state"], alone["state"], strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [0, 1])
def test_if_one_process_dies_the_other_ends_and_the_run_is_taken_up(leaves, whole, tmp_path):
    expected, folder = whole
    last_words = {leaves: ("--leave", 8)}
    with together(*pair("--folder", tmp_path, devices=2, each=last_words)) as ended:
        statuses = [status for status, *_ in ended]
    assert statuses[leaves] == 9 and statuses[1 - leaves] not in (0, 9)
    with together(*pair("--folder", tmp_path, devices=2)) as ended:
        again = results(ended)
    # After step 3 a save was waited for before step 6 was saved.
    assert 3 <= again[0]["rows"][0]["step"] < 12
    assert again[0]["state"] == again[1]["state"] == expected["state"]
    assert logged(tmp_path) == logged(folder) == expected["rows"]


@pytest.mark.slow
def test_sigterm_to_one_process_ends_both_at_one_step_with_a_checkpoint(tmp_path):
    processes = pair("--folder", tmp_path, "--steps", 20_000)
    deadline = time.monotonic() + LIMIT
    while not (tmp_path / "checkpoints/3").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    with together(*processes) as ended:
        assert [status for status, *_ in ended] == [143, 143]
    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"SIGTERM: the checkpoint of step {newest} is in" in ended[0][2]
    assert "SIGTERM: the" not in ended[1][2]


@pytest.mark.slow
def test_slurm_needs_no_arguments():
    """Slurm is what its variables say; the nodes' names are the loopback's."""
    slurm = {"SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    slurm["JAX_COORDINATOR_PORT"] = str(free_port())
    processes = [
        started("--join", "--steps", 2, **slurm, SLURM_PROCID=place, SLURM_LOCALID=place)
        for place in ("0", "1")
    ]
    with together(*processes) as ended:
        found = results(ended)
    assert [(r["process"], r["processes"]) for r in found] == [(0, 2), (1, 2)]
    assert found[0]["rows"] == found[1]["rows"] and len(found[0]["rows"]) == 3


@pytest.mark.slow
def test_devices_that_leave_a_process_out_are_refused():
    with together(*pair("--devices", 1)) as ended:
        for status, _, errors in ended:
            assert status != 0
            assert "ValueError: devices: process 1 has none of the 1; each of the 2" in errors


@pytest.mark.slow
def test_without_a_cluster_and_without_arguments_it_is_refused():
    with together(started("--join")) as ended:
        (status, _, errors) = ended[0]
    assert status == 1
    assert "ValueError: no cluster was detected (Slurm, Open MPI, Kubernetes" in errors
    assert "Give address='host:port', processes=… and process=… in every process" in errors


def test_it_comes_too_late_once_jax_has_begun():
    jax.devices()
    with pytest.raises(RuntimeError, match="must be called before"):
        train.distributed("127.0.0.1:1", processes=1, process=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "host:1"}, "address='host:1' without processes and process: give all three"),
        ({"processes": 2, "process": 0}, "processes=2, process=0 without address"),
        ({"address": "host", "processes": 2, "process": 0}, "address='host' must be 'host:port'"),
        ({"address": ":1", "processes": 2, "process": 0}, "address=':1' must be 'host:port'"),
        ({"address": "host:1", "processes": 0, "process": 0}, "processes=0 must be at least 1"),
        (
            {"address": "host:1", "processes": 2, "process": -1},
            "process=-1 must lie between 0 and 1",
        ),
    ],
)
def test_arguments_that_name_no_run_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        train.distributed(**arguments)
