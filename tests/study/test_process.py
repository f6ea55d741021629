import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convjax import study
from convjax.study import _process

ROOT = Path(__file__).parents[2]
CODE = """
import json, os, sys
from glob import glob
from pathlib import Path
from convjax.study import _process

_process.settle(0 if sys.argv[1] == "pinned" else None)
import jax, numpy as np
from tests.study import functions

value = functions.computed(functions.Cell(3))["value"]
folder = jax.config.jax_compilation_cache_dir
print(json.dumps({
    "bits": value.tobytes().hex(),
    "missed": functions.EVENTS.count("/jax/compilation_cache/cache_misses"),
    "found": functions.EVENTS.count("/jax/compilation_cache/cache_hits"),
    "cores": len(os.sched_getaffinity(0)),
    "folder": folder,
    "threads": sum("XLAEigen" in Path(one).read_text() for one in glob("/proc/self/task/*/comm")),
}))
"""


def told(how, environment):
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE, how],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout), run.stderr


@pytest.mark.later
def test_numbers_are_the_same_on_any_core_compiled_or_found_again_or_by_halves(tmp_path):
    shared = _process.variables("cpu") | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first, _ = told("free", shared)
    folder = Path(first["folder"])
    assert folder.is_relative_to(tmp_path / "cache/convjax/compiled")
    assert first["missed"] > 0 and first["found"] == 0
    assert first["cores"] == len(os.sched_getaffinity(0))
    entries = sorted(folder.glob("*-cache"))
    assert len(entries) == first["missed"] and first["threads"] == 1

    second, said = told("pinned", shared)
    assert second["cores"] == 1 and second["missed"] == 0 and second["found"] == first["missed"]
    assert second["bits"] == first["bits"] and said == ""

    # A process that was killed while it wrote leaves half an entry.
    for entry in entries:
        content = entry.read_bytes()
        entry.write_bytes(content[: len(content) // 2])
    third, said = told("free", shared)
    assert third["missed"] == first["missed"] and third["bits"] == first["bits"] and said == ""


def test_variables_name_the_platform_and_one_thread(monkeypatch):
    monkeypatch.setattr(_process, "_plugins", list)
    cpu = _process.variables("cpu")
    assert cpu["JAX_PLATFORMS"] == "cpu" and cpu["NPROC"] == cpu["OPENBLAS_NUM_THREADS"] == "1"
    assert study.keeping_memory().items() <= cpu.items()
    free = _process.variables()
    assert "JAX_PLATFORMS" not in free and free["NPROC"] == "1"
    assert _process.variables("gpu")["JAX_PLATFORMS"] == "cuda"
    assert "NPROC" not in _process.variables("gpu")
    monkeypatch.setattr(_process, "_plugins", lambda: ["rocm7"])
    assert _process.variables("gpu")["JAX_PLATFORMS"] == "rocm"
    assert _process.variables("tpu")["JAX_PLATFORMS"] == "tpu"


@pytest.mark.parametrize(
    "named, asked, plugins, found",
    [
        ("", None, [], False),
        ("", None, ["tpu"], True),
        ("cpu", None, ["tpu"], False),
        ("", "cpu", ["tpu"], False),
        ("cpu", "gpu", ["xla_cuda12"], True),
    ],
)
def test_accelerated(named, asked, plugins, found, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", named)
    monkeypatch.setattr(_process, "_plugins", lambda: plugins)
    assert _process.accelerated(asked) == found
