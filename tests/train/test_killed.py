"""Training that is killed by SIGKILL, again and again, ends with the bits of training that is not.

Run as a script, this file is the one that trains and kills: it imports everything once and forks a
process for every life of a run, so that a life costs a second and not the time of the imports.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
# After what has been seen of a life it is killed, and the longest random delay from then on (s).
PHASES = {"saving": 0.05, "steps": 0.1, "saved": 0.02, "start": 1.5}


def train_once(folder, cache):
    """One life: take the run up where it is, and write down what it ends with."""
    import jax
    from flax import nnx

    from convjax import data, nn, train

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    rngs = nnx.Rngs(0)
    net = nn.Chain(
        conv=nn.Conv(2, 6, 3, rngs=rngs),
        bn=nn.BatchNorm(6, rngs=rngs),
        relu=nn.Activation("relu"),
        drop=nn.Dropout(0.2),
        pool=nn.GlobalPool(),
        head=nn.Dense(6, 5, rngs=rngs),
    )
    draw = np.random.default_rng(0)
    images = draw.standard_normal((70, 8, 6, 2)).astype(np.float32)
    labels = draw.integers(0, 5, 70)
    augment = data.Augment(crop=1, flip=True, cutout=2)
    source = data.resident(images, labels, batch_size=8, seed=3, augment=augment)
    recipe = train.Recipe(
        steps=300,
        optimiser="adam",
        options={"b1": 0.8},
        learning_rate=0.01,
        average=0.9,
        clip=1.0,
        watch=7,
        dispatch=5,
        test_every=40,
        checkpoint_every=12,
    )
    fitted = train.fit(
        net,
        Recorded(source, folder / "order"),
        recipe,
        folder=folder,
        test=(images[:20], labels[:20]),
        observers=[Marker(folder / "marker")],
    )
    leaves = jax.tree_util.tree_leaves_with_path(fitted.state)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(folder / "final.npz", **arrays)


class Recorded:
    """A source that writes down which inputs each step was given."""

    def __init__(self, source, path):
        self.source, self.path = source, path
        self.count, self.batch_size, self.arrays = source.count, source.batch_size, source.arrays
        self.batch = source.batch

    def inputs(self, first, steps):
        inputs = self.source.inputs(first, steps)
        with self.path.open("a") as file:
            for i in range(steps):
                drawn = b"".join(inputs[name][i].tobytes() for name in sorted(inputs))
                file.write(f"{first + i} {hashlib.sha256(drawn).hexdigest()}\n")
        return inputs


class Marker:
    """An observer: a file that grows with every dispatch, none of which takes no time at all."""

    def __init__(self, path):
        self.path = path

    def begin(self, first, stop, batch_size):
        pass

    def record(self, rows, pace):
        with self.path.open("ab") as file:
            file.write(b".")
        time.sleep(0.003)

    def end(self):
        pass


def seen(folder):
    """What can be seen of a run from outside: its marker, and what lies among the checkpoints."""
    marker = folder / "marker"
    events = {("steps", marker.stat().st_size if marker.exists() else 0)}
    checkpoints = folder / "checkpoints"
    for name in os.listdir(checkpoints) if checkpoints.exists() else ():
        try:
            status = (checkpoints / name).stat()
        except FileNotFoundError:
            continue
        kind = "saved" if name.isdecimal() else name.split(".")[1]
        events.add((kind, name, status.st_ino, status.st_ctime_ns))
    return events


def forked(folder, cache):
    """Start a life in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with (folder / "said").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        train_once(folder, cache)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def live(folder, cache, phase, delay):
    """Start a life and kill it in a phase; return whether it died of that."""
    before = seen(folder)
    pid = forked(folder, cache)
    while phase != "start" and not any(event[0] == phase for event in seen(folder) - before):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.0005)
    else:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, (folder / "said").read_text()
    return False


def kill_and_restart(root, kills, seed):
    """One run left alone, and as many that are killed as it takes for so many kills."""
    draw = np.random.default_rng(seed)
    cache, died, runs = root / "cache", [], 0
    (root / "alone").mkdir(parents=True)
    assert os.waitpid(forked(root / "alone", cache), 0)[1] == 0, (root / "alone/said").read_text()
    while len(died) < kills:
        folder = root / f"killed{runs}"
        folder.mkdir()
        runs += 1
        while len(died) < kills:
            phase = list(PHASES)[len(died) % len(PHASES)]
            if not live(folder, cache, phase, draw.uniform(0, PHASES[phase])):
                break
            left = {event[0] for event in seen(folder)}
            died.append((phase, sorted(left & {"saving", "removed"})))
        else:
            assert os.waitpid(forked(folder, cache), 0)[1] == 0, (folder / "said").read_text()
    print(json.dumps({"runs": runs, "died": died}))


def killed(tmp_path, kills, seed):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(tmp_path / "runs"), str(kills), str(seed)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def measured(folder):
    """The rows of the metrics file, timing aside."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def order(folder):
    """The inputs of every step, of which there must be one version only."""
    lines = {tuple(line.split()) for line in (folder / "order").read_text().splitlines()}
    assert len(dict(lines)) == len(lines)
    return dict(lines)


def check(tmp_path, runs):
    alone = tmp_path / "runs" / "alone"
    rows = measured(alone)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(300))
    assert [row["step"] for row in rows if row["kind"] == "test"] == [*range(40, 300, 40), 300]
    assert rows[0]["loss"] != rows[150]["loss"] and "layers" in rows[0]
    right = np.load(alone / "final.npz")
    assert {name.split("[")[0] for name in right} >= {".step", ".params", ".rest", ".average"}
    assert len(order(alone)) == 300
    for i in range(runs):
        folder = tmp_path / "runs" / f"killed{i}"
        assert measured(folder) == rows
        assert order(folder) == order(alone)
        found = np.load(folder / "final.npz")
        assert list(found) == list(right)
        for name in right:
            assert found[name].dtype == right[name].dtype, name
            assert found[name].tobytes() == right[name].tobytes(), name


@pytest.mark.later
def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path):
    report = killed(tmp_path, 6, 0)
    assert len(report["died"]) == 6
    check(tmp_path, report["runs"])


@pytest.mark.slow
def test_killed_many_times(tmp_path):
    report = killed(tmp_path, 25, 1)
    check(tmp_path, report["runs"])
    assert any("saving" in left for _, left in report["died"])


if __name__ == "__main__":
    import orbax.checkpoint  # noqa: F401 (loaded before the forks)

    from convjax import data, nn, train  # noqa: F401

    kill_and_restart(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
