"""Many devices: what needs them runs in a process of its own, which has eight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(marker, seconds):
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    file = "tests/train/on_eight_devices.py"
    command = [sys.executable, "-m", "pytest", file, "-m", marker, "-n", "0", "-q", "--durations=9"]
    command += ["-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.later
def test_eight_devices():
    run("not slow", 400)


@pytest.mark.slow
def test_eight_devices_at_length():
    run("slow", 1200)
