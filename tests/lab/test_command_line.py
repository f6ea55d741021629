"""The command line of a question: options over their file, refusals, interruption, listing."""

import dataclasses
import functools
import re
import signal
import subprocess
import sys
import types

import pytest

from convjax import lab, plots, study
from convjax.lab import _options, _run, commands
from experiments import __main__ as entry
from tests.lab import planted


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options of every kind."""

    depths: tuple[int, ...] = (4, 7)
    """Layers of the plain network."""
    rate: float = 0.5
    """How fast."""
    words: tuple[str, ...] = ("one",)
    """What is said."""


def cells(config):
    return [planted.Cell(depth) for depth in config.depths]


ASKED = dataclasses.replace(planted.EXPERIMENT, config=Config, cells=cells)


def ask(*argv):
    return lab.run(ASKED, argv, ["convjax", "run", "planted.py"])


def refused(capsys, *argv, call=ask):
    with pytest.raises(SystemExit) as stop, lab.speaking_plainly():
        call(*argv)
    assert stop.value.code == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in text
    return text


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path, monkeypatch):
    file = tmp_path / "study.toml"
    file.write_text('depths = [8]\nrate = 1\ntime-limit = 2.5\nwords = ["two"]\n')
    seen = []
    monkeypatch.setattr(_run, "run_config", lambda _, config, argv: seen.append(config) or 0)
    assert ask("--config", str(file), "--words", "three", "four") == 0
    config = seen[0]
    assert (config.depths, config.words, config.time_limit) == ((8,), ("three", "four"), 2.5)
    assert config.rate == 1.0 and isinstance(config.rate, float)
    assert config.workers is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depht = [8]", r"the option 'depht' is not known; did you mean 'depths'"),
        ("depths = ['eight']", r"depths = \['eight'\] is not what that option takes"),
        ("depths = [8", r"is not valid TOML"),
        ("config = 'other.toml'", r"the option 'config' is not known"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(text, message, tmp_path, capsys):
    (tmp_path / "study.toml").write_text(text)
    assert re.search(message, refused(capsys, "--config", str(tmp_path / "study.toml")))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dephts", "8"], "Perhaps you meant: --depths"),
        (["--rate", "nan"], "rate=nan must be a finite number"),
        (["--config", "missing.toml"], "cannot read the configuration 'missing.toml'"),
        (["--out", "FOLDER/file/x"], "cannot write into '.*file/x': Not a directory"),
    ],
)
def test_a_wrong_word_is_refused_in_a_sentence(argv, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    argv = [word.replace("FOLDER", str(tmp_path)) for word in argv]
    assert re.search(message, refused(capsys, *argv, "--runner", "here"))


FIELDS = '"""Why?"""\nimport dataclasses\nfrom convjax import lab\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r'broken0.py", line 1 def f\(: .* error: .*py raised SyntaxError\.'),
        ("1 / 0\n", r"^File \S*broken1.py\S*, line 1, .*error: .*py raised ZeroDivisionError\.$"),
        (f"{FIELDS}class Config:\n    x: int = 0\n", "Config=.* that subclasses lab.Options"),
        (f"{FIELDS}class Config(lab.Options):\n    x: int = 0\n", r"dataclass\(.*\) is missing"),
        (
            f"{FIELDS}@dataclasses.dataclass(frozen=True, kw_only=True)\n"
            "class Config(lab.Options):\n    x: int\n",
            "Config.x needs a default",
        ),
    ],
)
def test_a_mistake_in_the_file_is_its_own_lines_and_a_sentence(
    text, message, request, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    file = tmp_path / f"broken{request.node.callspec.indices['text']}.py"
    file.write_text(text)
    told = refused(capsys, ["run", str(file)], call=commands.main)
    assert re.search(message, told) and "importlib" not in told


def fail(columns):
    raise OverflowError("of mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": lambda config: fail(config)}, "in fail .*of mine error: cells raised Overfl"),
        ({"cells": lambda config: None}, "cells returned None; it must return a list of cells"),
        ({"judge": lambda columns: True}, "judge returned True; it must return a list of crit"),
        ({"judge": fail}, "in fail raise .*: of mine error: .* raised OverflowError; the cells"),
        ({"draw": fail}, r"in fail .*: of mine error: .*; the cells are kept in .* goes on once"),
        ({"table": fail, "draw": lambda columns: plots.panels("x", [])}, "in fail .*cells are ke"),
    ],
)
def test_a_mistake_in_a_function_is_its_own_lines_and_hides_no_verdict(
    changes, message, tmp_path, capsys
):
    asked = dataclasses.replace(ASKED, **changes)
    argv = ["--runner", "here", "--out", str(tmp_path)]
    with pytest.raises(SystemExit), lab.speaking_plainly():
        lab.run(asked, argv, ["x"])
    told = capsys.readouterr()
    assert re.search(message, " ".join(told.err.split())) and "lab/_run" not in told.err
    assert ("Verdict: FAILS (3 of 4" in told.out) == ("draw" in changes)


def test_what_failed_before_is_told_with_the_reason(tmp_path, capsys):
    asked = dataclasses.replace(ASKED, measure=fail)
    for _ in range(2):
        assert lab.run(asked, ["--runner", "here", "--out", str(tmp_path)], ["x"]) == 1
        told = capsys.readouterr().err
        assert "2 of 2 cells failed, the first by OverflowError: of mine" in told
        assert "convjax report" in told and "the others" not in told


@pytest.mark.parametrize("name", ["run", "list"])
def test_help_behind_a_command_is_its_usage(name, capsys):
    assert commands.main([name, "--help"]) == 0
    assert f"convjax {name}" in capsys.readouterr().out
    refused(capsys, ["list", "one", "two"], call=commands.main)


def test_a_platform_that_is_not_there_is_refused(tmp_path, monkeypatch, capsys):
    asked = []
    without = types.SimpleNamespace(
        config=types.SimpleNamespace(update=lambda *of: asked.append(of)),
        devices=lambda: [types.SimpleNamespace(platform="cpu")],
    )
    monkeypatch.setattr(_options, "jax", without)
    told = refused(capsys, "--runner", "here", "--platform", "gpu", "--out", str(tmp_path))
    assert told.startswith("error: platform 'gpu' was asked for, but JAX finds no such")
    assert asked == [("jax_platforms", "cuda"), ("jax_platforms", "rocm")]


def test_experiments_are_listed_without_importing_them():
    script = (
        "import sys; from experiments.__main__ import main; main([]); "
        "print('experiments.theory' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert re.search(r"python -m experiments gradient-norms +\w+", done.stdout)
    assert done.stdout.endswith("False\n")


def test_an_unknown_experiment_gets_the_nearest(capsys):
    told = refused(capsys, ["gradient-norm"], call=entry.main)
    assert "did you mean 'gradient-norms'?" in told


def test_the_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        ask("--help")
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in told
    assert "the plain network" in " ".join(told.split())


CALLS = []


def measure_until_interrupted(cell):
    CALLS.append(cell.depth)
    if len(CALLS) == 2:
        raise KeyboardInterrupt
    return planted.measure(cell)


def test_without_tyro_there_are_defaults_and_no_options(monkeypatch):
    """A machine with an accelerator may have all but the reader of options."""
    monkeypatch.setitem(sys.modules, "tyro", None)
    read = functools.partial(lab.parse, lab.CommandOptions, command="x", about="y")
    default = lab.CommandOptions(platform="cpu")
    assert read([]) == lab.CommandOptions() and read([], default=default) is default
    with pytest.raises(lab.UsageError, match=r"pip install .*, or leave all options"):
        read(["--platform", "cpu"])


def test_what_is_measured_outlives_an_interruption(tmp_path, capsys):
    asked = dataclasses.replace(ASKED, measure=measure_until_interrupted)
    argv, command = ["--runner", "here", "--out", str(tmp_path)], ["planted"]
    assert lab.run(asked, argv, command) == 130
    assert "interrupted: 1 of 2 cells are kept" in " ".join(capsys.readouterr().err.split())
    assert lab.run(asked, argv, command) == 1  # one of its criteria fails
    assert CALLS == [4, 7, 7]
    columns, _ = study.read_parquet(tmp_path / "planted.parquet")
    assert columns["depth"].tolist() == [4] * 4 + [7] * 7
    assert (tmp_path / "planted_depth_4.png").exists()
    capsys.readouterr()
    for depths, told in (((4, 7), ""), ((4,), "replaces the summary of other depths in")):
        _run._tell_replaced(ASKED, Config(out=tmp_path, depths=depths, workers=3))
        said = capsys.readouterr().err
        assert said.startswith(told) and bool(said) == bool(told)


@pytest.mark.slow
def test_control_c_ends_with_130_and_keeps_the_cells(tmp_path):
    argv = ["--depths", "8", "10", "12", "14", "--seeds", "1", "--steps", "1", "--widths", "4"]
    argv += ["--batch-size", "16", "--runner", "here", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", "gradient-norms", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err and not out
    assert len(list((tmp_path / "cells").glob("*.parquet"))) > 0
