"""What is printed is what was said, and options that would do nothing are refused."""

import dataclasses
import io
import os
import signal
import subprocess
import sys

import pytest

from convjax import command, lab
from convjax.lab import Ticker, _run, console
from experiments import __main__ as entry
from experiments import all as everything
from tests.lab import kernel_size, planted

ODD = "a [/data] of [width] and :smile:"


def test_nothing_that_is_printed_is_taken_for_markup(capsys, monkeypatch):
    console().print(ODD)
    console().print(lab.plain_table(ODD, [ODD], [[ODD]]))
    _run.say(ODD)
    with Ticker(1) as ticker:
        ticker.finish(ODD, ODD)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a bar, as on a terminal
    monkeypatch.setenv("COLUMNS", "200")
    with Ticker(2) as ticker:
        assert ticker.bar is not None
        ticker.begin(ODD)
        ticker.finish(ODD, ODD)
    shown = capsys.readouterr()
    assert shown.out.count(ODD) == 4
    assert shown.err.count(ODD) >= 6


@pytest.mark.parametrize(
    ("runner", "option", "value"),
    [
        *(("local", "address", "a:1"), ("local", "slurm", ("timeout_min=5",))),
        *(
            ("here", "workers", 2),
            ("here", "workers", 0),
            ("here", "address", "a:1"),
            ("ray", "slurm", ("a=b",)),
        ),
        ("slurm", "address", "a:1"),
    ],
)
def test_options_without_effect_are_refused(runner, option, value):
    config = dataclasses.replace(lab.Options(), runner=runner, **{option: value})
    with pytest.raises(
        ValueError, match=f"--{option} has no effect with --runner {runner}; .*take"
    ):
        _run.runner(config)
    lab.check_effect(
        dataclasses.replace(config, **{option: getattr(lab.Options(), option)}), runner
    )


def test_all_of_them_are_asked_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything, "call", lambda argv: pytest.fail("begun"))
    with pytest.raises(SystemExit):
        entry.main(["all", "--address", "a:1", "--out", str(tmp_path)])
    assert "--address has no effect with --runner local" in " ".join(
        capsys.readouterr().err.split()
    )
    config = everything.Config(workers=3)
    assert "--workers" in everything.handed_on(config, "theory")
    assert "--workers" not in everything.handed_on(config, "train")


def dry(out, **changes):
    config = dataclasses.replace(lab.Options(), out=out, dry_run=True, **changes)
    return lab.run_config(planted.EXPERIMENT, config, [])


def test_a_dry_run_refuses_what_the_run_would_and_writes_nothing(tmp_path, capsys):
    with pytest.raises(lab.UsageError, match="workers=0"):
        dry(tmp_path / "new", runner="local", workers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(lab.UsageError, match="file' is a file; choose a folder"):
        dry(tmp_path / "file" / "new")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_text('{"format": 1, "study": "of:others"}')
    with pytest.raises(lab.UsageError, match="holds results of 'of:others', not of"):
        dry(tmp_path / "other")
    assert dry(tmp_path / "new [/a]") == 0
    assert "new [/a]" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


def test_a_dry_run_builds_the_networks_without_values(tmp_path, capsys):
    asked = lab.experiment(kernel_size)
    config = asked.config(sizes=(3, 0), out=tmp_path, dry_run=True)
    with pytest.raises(
        lab.UsageError, match=r"0x0, 16 layers: kernel_size\[0\]=0 must be at least"
    ):
        lab.run_config(asked, config, [])
    assert lab.run_config(asked, dataclasses.replace(config, sizes=(3,)), []) == 0
    assert "1 to do" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["flax", "tyro"])
def test_ctrl_c_during_imports_is_one_line(package, tmp_path):
    (tmp_path / f"{package}.py").write_text(
        "import time; print('importing', flush=True); time.sleep(60)"
    )
    # What runs in the background is deaf to Ctrl-C, and so would be what it starts.
    argv = [sys.executable, "-m", "experiments", "report", "results"]
    listening = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{listening}os.execv({argv[0]!r}, {argv!r})"],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "interrupted\n")
    assert process.returncode == 130


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(command.gc, "set_threshold", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        command.start("experiments.__main__", ["report", str(tmp_path / os.fsdecode(b"caf\xe9"))])
    terminal.flush()
    assert stopped.value.code == 2
    assert b"caf\\udce9" in terminal.buffer.getvalue()
