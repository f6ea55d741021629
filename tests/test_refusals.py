"""Wrong arguments are refused by a sentence, in a process that does not check annotations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nn.conftest import QUICKLY

ROOT = Path(__file__).parent.parent
ROOMS = sorted(p.stem for p in Path(__file__).with_name("refusals").glob("[a-z]*.py"))
# A process takes longer to begin than most rooms take.
LONG = [["nn"], ["ops"]]
SHORT = [room for room in ROOMS if [room] not in LONG]


@pytest.mark.parametrize("rooms", [*LONG, SHORT], ids=["nn", "ops", "the others"])
def test_wrong_arguments_are_refused_by_a_sentence(rooms):
    done = subprocess.run(
        [sys.executable, "-m", "tests.refusals", *rooms],
        cwd=ROOT,
        env={**os.environ, **QUICKLY, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
