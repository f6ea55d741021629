"""Wrong arguments are refused by a sentence, in a process that does not check annotations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted(p.stem for p in Path(__file__).with_name("refusals").glob("[a-z]*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_wrong_arguments_are_refused_by_a_sentence(room):
    done = subprocess.run(
        [sys.executable, "-m", "tests.refusals", room],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
