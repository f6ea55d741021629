"""Malformed calls of everything public end with a sentence that names argument and value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import ROOMS, modules
from tests.fuzz.untried import UNTRIED
from tests.test_docs import PUBLIC, arguments, is_result

ROOT = Path(__file__).parent.parent
# The measurements of gradflow follow when their refusals name their arguments.
HELD = ROOMS


def test_everything_public_is_called_or_exempt_for_a_reason():
    called, exempt = set(), set()
    for module in modules().values():
        called |= set(module.CALLS)
        exempt |= set(module.EXEMPT)
        assert all(module.EXEMPT.values())
        assert not set(module.CALLS) & set(module.EXEMPT)
    taking = {name for name, one in PUBLIC.items() if arguments(one)}
    records = {name for name, one in PUBLIC.items() if is_result(one)}
    assert taking - records - called - exempt == set()


def test_every_argument_is_varied_or_exempt_for_a_reason():
    for module in modules().values():
        for name, one in module.CALLS.items():
            varied = {argument for argument, kind in one.kinds.items() if kind.bad}
            left = set(arguments(PUBLIC[name])) - varied
            assert left == set(UNTRIED.get(name, {})), name


@pytest.mark.parametrize("calls", [300, pytest.param(900, marks=pytest.mark.later)])
def test_malformed_calls_are_refused_by_a_sentence_or_right(calls):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *HELD, "--calls", str(calls)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, "\n".join([done.stdout, *done.stderr.splitlines()[-20:]])
