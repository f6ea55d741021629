import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

fcntl = pytest.importorskip("fcntl")

HERE = Path(__file__).parent


@pytest.mark.later
def test_nothing_is_lost_done_twice_or_half_written_whoever_is_killed(tmp_path):
    """All of ``kills.py`` in one test, since most of its time is that of importing JAX."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "kills.py"), str(tmp_path)],
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)

    often = found["again and again"]
    # The instants were such that there was something to lose.
    assert often["grew"] > 3 and often["partial"] > 3, often
    assert often["changed"] == 0
    assert often["before"] + often["measured"] == often["finished"] == often["cells"]
    assert often["logged once"]
    assert often["rows"] == sum(n % 7 + 1 for n in range(often["cells"]))
    assert often["left"] == []

    both = found["together"]
    assert both["codes"] == [0, 0]
    assert both["completed"] == both["finished"] == both["cells"]
    assert min(both["by"]) > 0 and sum(both["by"]) == both["cells"]

    one = found["one killed"]
    assert one["codes"] == [-9, 0]
    assert one["finished"] == one["cells"] == sum(one["by"])
    assert min(one["by"]) > 0

    locks = found["locks"]
    assert locks.pop("ends") == [1, 2]
    assert {name for name, could in locks.items() if could} == {
        "first",
        "the second's own",
        "another, the second's once it is closed",
        "what a fork held, once it has ended",
        "another, once it is released",
    }
