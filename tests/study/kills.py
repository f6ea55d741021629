"""Studies in processes that are killed; what is found afterwards, as JSON. Run by test_killed.py.

The processes are forks of this one, so that each begins at once; nothing has computed here yet.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from convjax import study
from convjax.study import _job, _run
from convjax.study._parquet import encode
from convjax.study._store import Store

# What it says would start JAX in every process.
_job.environment = lambda: {"time": ""}
_run.POLL = 0.01


class Log:
    """Who measured what to its end: lines of a file, each appended in one piece."""

    def __init__(self, path):
        self.path = path

    def append(self, line):
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def size(self):
        return self.path.stat().st_size if self.path.exists() else 0

    def lines(self):
        return self.path.read_text().splitlines() if self.path.exists() else []


def function(log, seconds):
    def measure(config):
        time.sleep(seconds)
        n = config["n"]
        done = f"{n} {os.getpid()} {time.monotonic_ns()}"
        log.append(done)
        return {"n": np.full(n % 7 + 1, n), "done": np.array([done] * (n % 7 + 1))}

    return measure


def forked(work):
    """Do something in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = int(work() or 0)
    finally:
        os._exit(code)


def ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kept(folder):
    return {path.name: path.read_bytes() for path in (folder / "cells").glob("*.parquet")}


def whole(folder):
    """Read every cell: its key, and who measured it."""
    found = {}
    for path in (folder / "cells").glob("*.parquet"):
        columns, said = study.read_parquet(path)
        n = said["config"]["n"]
        assert path.stem == said["cell"] == study.key({"n": n}, "1")
        assert columns["n"].tolist() == [n] * (n % 7 + 1)
        found[path.stem] = str(columns["done"][0])
    return found


def again_and_again(folder, cells, kills):
    """Kill a study at random instants, then let it end."""
    log, chance = Log(folder / "log"), random.Random(0)
    configs = [{"n": n} for n in range(cells)]
    measure = function(log, 0.0)
    seen, changed, grew, partial = {}, 0, 0, 0
    for _ in range(kills):
        logged = log.size()
        child = forked(lambda: study.run(measure, configs, folder, version="1") and 0)
        while log.size() == logged and not ended(child):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = kept(folder)
        whole(folder)
        changed += sum(now.get(name) != content for name, content in seen.items())
        grew += len(now) > len(seen)
        partial += any((folder / "cells").glob(".*"))
        seen = now
    before = len(seen)
    ran = study.run(measure, configs, folder, version="1")
    after = kept(folder)
    changed += sum(after[name] != content for name, content in seen.items())
    lines = log.lines()
    return {
        "cells": cells,
        "changed": changed,
        "grew": grew,
        "partial": partial,
        "left": [path.name for path in (folder / "cells").glob(".*")],
        "before": before,
        "measured": ran.measured,
        "finished": ran.finished,
        "logged once": all(lines.count(one) == 1 for one in whole(folder).values()),
        "completed": len(lines),
        "rows": study.load(folder).num_rows,
    }


def together(folder, cells, *, kill):
    """Run a study twice at once; kill one of the two in the middle, or not."""
    log = Log(folder / "log")
    configs = [{"n": n} for n in range(cells)]
    measure = function(log, 0.003)

    def one(order):
        ran = study.run(measure, configs[::order], folder, version="1")
        return 0 if ran.finished == cells and ran.measured else 1

    children = [forked(lambda order=order: one(order)) for order in (1, -1)]
    if kill:
        while len(log.lines()) < cells // 3:
            time.sleep(0.001)
        os.kill(children[0], signal.SIGKILL)
    codes = [code_of(child) for child in children]
    lines, found = log.lines(), whole(folder)
    by = [sum(f" {child} " in done for done in found.values()) for child in children]
    counts = {"cells": cells, "completed": len(lines), "finished": len(found)}
    return {"codes": codes, "by": by, **counts}


def locks(folder):
    """Locks in this process and in others."""

    def another(key):
        """Tell whether another process can have a cell."""

        def work():
            with Store(folder, "f") as store:
                return 10 + store.lock(key)

        return code_of(forked(work)) == 11

    with Store(folder, "f") as store:
        found = {"first": store.lock("a"), "again": store.lock("a")}
        found["another"] = another("a")
        with Store(folder, "f") as second:
            found["the second store of this process"] = second.lock("a")
            second.release("a")
            found["the second's own"] = second.lock("b")
            found["another, the second's"] = another("b")
        # Closing any descriptor of a file gives back all of a process's locks on it.
        found["another, once the second is closed"] = another("a")
        found["another, the second's once it is closed"] = another("b")
        ready, end = os.pipe(), os.pipe()

        def holds():
            taken = store.lock("c") + 2 * store.lock("a")
            os.write(ready[1], b"x")
            os.read(end[0], 1)
            return taken

        child = forked(holds)
        os.read(ready[0], 1)
        found["what a fork holds"] = store.lock("c")
        os.write(end[1], b"x")
        codes = [code_of(child)]
        found["what a fork held, once it has ended"] = store.lock("c")
        found["another, once a fork has ended"] = another("a")
        store.release("a")
        found["another, once it is released"] = another("a")
        # A fork does not hold what this process held when it began.
        child = forked(lambda: len(os.read(end[0], 1)) + store.lock("c"))
        store.release("c")
        os.write(end[1], b"x")
        codes.append(code_of(child))
    return found | {"ends": codes}


def main(folder):
    encode({"n": np.arange(1)}, {})  # what that imports, it imports here and not in every process
    found = {}
    for name, work in {
        "again and again": lambda place: again_and_again(place, 160, 30),
        "together": lambda place: together(place, 80, kill=False),
        "one killed": lambda place: together(place, 80, kill=True),
        "locks": locks,
    }.items():
        place = folder / name
        place.mkdir()
        found[name] = work(place)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
