"""``all``: every experiment gets its turn, its folder and the options, and the verdicts add up."""

import subprocess
import sys

import pytest

from experiments import __main__ as entry
from experiments import all as everything

APART = {
    "all": "itself",
    "report": "comes last",
    "cifar": "its data cannot be shipped",
    "inspect": "it needs a network's name",
}


def test_every_experiment_is_run_or_left_out_for_a_reason():
    benchmarks = {name for name in entry.found() if name.startswith("bench-")}
    assert set(everything.NAMES) | set(APART) | benchmarks == set(entry.found())
    assert not set(everything.NAMES) & set(APART)


@pytest.fixture
def calls(monkeypatch):
    made, codes = [], {}

    def call(argv):
        made.append(argv)
        return codes.get(argv[0], 0)

    monkeypatch.setattr(everything, "call", call)
    return made, codes


def test_each_gets_a_folder_of_its_own_and_the_report_comes_last(calls, tmp_path):
    made, _ = calls
    assert everything.main(["--out", str(tmp_path)]) == 0
    assert [argv[0] for argv in made] == [*everything.NAMES, "report"]
    folders = [argv[argv.index("--out") + 1] for argv in made[:-1]]
    assert folders == [str(tmp_path / name) for name in everything.NAMES]
    assert made[-1] == ["report", str(tmp_path)]


def test_options_are_handed_on(calls, tmp_path):
    made, _ = calls
    options = "--only theory --runner slurm --slurm timeout_min=5 a=b --seeds 100 --workers 3"
    assert everything.main([*options.split(), "--retry", "--out", str(tmp_path)]) == 0

    assert made[0][3:] == [
        *["--runner", "slurm", "--workers", "3", "--seeds", "100"],
        *["--slurm", "timeout_min=5", "a=b", "--retry"],
    ]


def test_one_that_fails_does_not_keep_the_others_from_running(calls, tmp_path, capsys):
    made, codes = calls
    codes |= {"theory": 1, "claims": 2}
    assert everything.main(["--out", str(tmp_path)]) == 1
    assert len(made) == len(everything.NAMES) + 1
    said = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines() if " s" in line)
    assert (said["theory"], said["claims"], said["dynamics"]) == ("FAILS", "refused", "holds")


def test_an_interrupted_one_ends_them_all(calls, tmp_path):
    made, codes = calls
    codes["edge-of-chaos"] = 130
    assert everything.main(["--out", str(tmp_path)]) == 130
    assert made[-1][0] == "edge-of-chaos"


def test_an_unknown_one_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        entry.main(["all", "--only", "thoery", "--out", str(tmp_path)])
    assert "'thoery' is not known; did you mean 'theory'" in capsys.readouterr().err


def test_the_plan_of_one_is_listed_by_its_own_process(tmp_path):
    command = [sys.executable, "-m", "experiments", "all", "--dry-run", "--only", "skip-and-scale"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "20 to do" in done.stdout and "W, ReLU, W, no shortcut, 32 units" in done.stdout
    assert not (tmp_path / "skip-and-scale").exists()
