"""Experiments are compiled quickly: their tests look at what is measured, not at how fast."""

import json
import sys

import jax
import pytest

from experiments import __main__ as entry
from tests.nn.conftest import compiling_quickly


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compile quickly, for the fixtures of a whole module as well."""
    with compiling_quickly():
        yield


@pytest.fixture(scope="module")
def promotion():
    """Promote types as the command does: Optax's cosine multiplies an integer with a float."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def bench(tmp_path, capsys):
    """Return what runs a benchmark, and returns what it keeps and what it prints."""

    def run(name, *options):
        out = tmp_path / "out"
        argv = [f"bench-{name}", *options, "--no-keep-memory", "--out", str(out)]
        assert entry.main(argv) == 0
        kept = json.loads((out / f"bench_{name.replace('-', '_')}.json").read_text())
        assert "jax" in kept["environment"] and len(kept["loads"]) == 2
        return kept, capsys.readouterr()

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """Return what runs a benchmark that refuses its options, and returns the sentence."""

    def run(name, *options):
        with pytest.raises(SystemExit) as stop:
            entry.main([f"bench-{name}", *options, "--out", str(tmp_path)])
        assert stop.value.code == 2 and not list(tmp_path.glob("*.json"))
        return " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def interpreter(tmp_path):
    """Return what makes an interpreter that runs a script of the test's, whatever it is told to."""

    def make(script):
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{script}")
        path.chmod(0o755)
        return str(path)

    return make
