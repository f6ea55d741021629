import json
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, study
from experiments import __main__ as entry
from experiments import _classifier, _growth_table, gradient_norms
from experiments._classifier import Cell, Training
from tests.nn.conftest import QUICKLY

TINY = ["--depths", "8", "--seeds", "1", "--steps", "1", "--widths", "4", "--batch-size", "16"]
ONE = [*TINY, "--norms", "none", "--shortcuts", "identity"]


def cell(**changes):
    made = {"norm": "batch", "shortcut": "none", "width": 4, "activation": "relu"}
    return Cell(**made | {"init": "he", "conv": "dense", "depth": 8} | changes)


def said(capsys):
    """Return what stands on stderr, with the line breaks taken out."""
    return " ".join(capsys.readouterr().err.split())


def refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["gradient-norms", *argv])
    assert stop.value.code == 2
    text = said(capsys)
    assert "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Run the smallest grid once, as a user does."""
    out = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-W", "error", "-m", "experiments", "gradient-norms", *TINY]
    done = subprocess.run(
        [*command, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | QUICKLY,
    )
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_run_tells_its_progress_and_prints_a_table(tiny):
    _, done = tiny
    assert (
        len(re.findall(r"^\[\d/4\] norm=\w+ shortcut=\w+: .* (left|done)$", done.stderr, re.M)) == 4
    )
    assert len(re.findall(r"x\d\.\d{3} ", done.stdout)) == 8
    assert max(map(len, done.stdout.splitlines()[:12])) <= 100
    assert "gradient_norms.svg" in done.stdout


def test_the_parquet_holds_every_number_with_its_configuration(tiny):
    out, _ = tiny
    columns, metadata = study.read_parquet(out / "gradient_norms.parquet")
    assert set(gradflow.COLUMNS) < set(columns)
    own = {"seed", "step", "data", "batch_size", "learning_rate", "position", "loss", "failure"}
    assert own | set(gradient_norms.AXES) < set(columns)
    # Two norms, two shortcuts, two steps; input, stem and three units.
    assert len(columns["path"]) == 2 * 2 * 2 * 5
    assert np.isfinite(columns["gradient_log_norm"]).all()
    assert np.isfinite(columns["loss"]).all()
    assert columns["path"][:5].tolist() == ["input", "stem", "body/0", "body/1", "body/2"]
    assert columns["position"][:5].tolist() == [-1, 0, 1, 2, 3]
    assert metadata["config"]["widths"] == [4]
    assert {"jax", "jaxlib", "flax", "convjax", "platform"} <= set(metadata["environment"])


def test_the_figure_is_there(tiny):
    out, _ = tiny
    assert (out / "gradient_norms.png").stat().st_size > 20_000
    assert (out / "gradient_norms.svg").stat().st_size > 5_000


def test_everything_adds_the_insides_of_the_units(tmp_path):
    assert entry.main(["gradient-norms", *ONE, "--everything", "--out", str(tmp_path)]) == 0
    columns, _ = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert "body/2/branch/conv1" in columns["path"]
    conv = columns["path"] == "body/2/branch/conv1"
    assert np.isfinite(columns["parameter_gradient_log_norm"][conv]).all()


def test_the_twins_are_drawn_alike():
    drawn = [cell(shortcut=s).network(nnx.Rngs(3)) for s in ("none", "identity")]
    plain, residual = (nnx.state(net) for net in drawn)
    jax.tree.map(np.testing.assert_array_equal, plain, residual)


def test_the_measurement_is_that_of_gradflow_and_training_lowers_the_loss():
    one = cell(norm="none", shortcut="identity")
    programs = _classifier.compile_programs(
        one, Training(0.1, 0.9, 1.0), batch=(16, 8, 8, 1), steps=10
    )
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 1))
    labels = np.arange(16, dtype=np.int32) % 10
    params, rest = programs.draw(jax.random.key(0))
    measured = programs.measure(params, rest, images, labels)
    net = one.network(nnx.Rngs(jax.random.key(0)))
    direct = gradflow.profile(
        net, images, loss=_classifier.cross_entropy, targets=labels, train=True
    )
    for path in ("stem", "body/0", "body/2"):
        np.testing.assert_allclose(
            measured[path].gradient.log_norm, direct[path].gradient.log_norm, atol=1e-4
        )
    same = [np.stack([a] * 10) for a in (images, labels)]
    trained = programs.train(params, rest, *same)
    assert programs.measure(trained, rest, images, labels).loss < measured.loss


def test_a_cell_that_is_not_finite_is_told_of_and_the_others_go_on(tmp_path, capsys):
    argv = [*TINY, "--norms", "none", "--inits", "zero", "he", "--learning-rate", "1e38"]
    argv += ["--steps", "3", "--clip", "1e30"]
    assert entry.main(["gradient-norms", *argv, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "NaN or infinite" in " ".join(told.out.split())
    columns, _ = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert {"zero", "he"} == set(columns["init"].tolist())
    assert (columns["failure"] == "").any()


def test_what_is_measured_outlives_an_interruption(tmp_path, monkeypatch, capsys):
    real, calls = gradient_norms.measured, []

    def stopping(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(gradient_norms, "measured", stopping)
    argv = [*TINY, "--norms", "none", "--out", str(tmp_path)]
    assert entry.main(["gradient-norms", *argv]) == 130
    told = capsys.readouterr()
    assert "interrupted: 1 of 2 networks are kept" in " ".join(told.err.split())
    assert "x" in told.out
    columns, _ = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert set(columns["shortcut"].tolist()) == {"none"}
    assert (tmp_path / "gradient_norms.png").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--depths", "9"],
            r"depth 9 cannot be built: .* 6, 8, 10, …; the nearest would be 8 or 10",
        ),
        (["--depths", "4"], r"depth 4 cannot be built: .* the nearest would be 6\."),
        (["--norms", "btach"], r"norm='btach' is not known; did you mean 'batch'"),
        (["--shortcuts", "residual"], r"shortcut='residual' is not known"),
        (["--activations", "rely"], r"activation='rely' is not known; did you mean 'relu'"),
        (["--widths", "0"], r"must be at least 1"),
        (["--seeds", "0"], r"seeds = 0 is too small; it must be at least 1"),
        (["--learning-rate", "-1"], r"learning_rate = -1\.0 must be positive"),
        (["--depths", "8", "8"], r"depths = \[8, 8\] names one value twice"),
        (["--norms"], r"norms is empty"),
        (["--batch-size", "5000"], r"batch_size=5000 must lie between 1 and the 1797 examples"),
        (["--dephts", "8"], r"Perhaps you meant: --depths"),
        (["--data", "mnist"], r"'digits', 'gaussian'"),
        (["--config", "missing.toml"], r"cannot read the configuration 'missing.toml'"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(argv, message, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(gradient_norms, "compile_programs", never)
    assert re.search(message, refused([*argv, "--out", str(tmp_path)], capsys))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    told = refused([*ONE, "--out", str(tmp_path / "file" / "x")], capsys)
    assert re.search("cannot write into '.*file/x': Not a directory", told)


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path, monkeypatch):
    file = tmp_path / "study.toml"
    file.write_text('depths = [8]\nbatch-size = 16\nlearning_rate = 1\nnorms = ["batch"]\n')
    seen = []
    monkeypatch.setattr(gradient_norms, "run", lambda c: seen.append(c) or gradient_norms.Results())
    argv = ["gradient-norms", "--config", str(file), "--norms", "none", "layer"]
    assert entry.main(argv) == 0
    config = seen[0]
    assert (config.depths, config.batch_size, config.norms) == ((8,), 16, ("none", "layer"))
    assert config.learning_rate == 1.0
    assert config.steps == gradient_norms.Config().steps
    assert json.dumps(gradient_norms.as_json(config))


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
    assert re.search(message, refused(["--config", str(tmp_path / "study.toml")], capsys))


def test_a_platform_that_is_not_there_is_refused():
    command = [sys.executable, "-m", "experiments", "gradient-norms", "--platform", "tpu"]
    without = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=without)
    assert done.returncode == 2
    assert re.search("^error: platform 'tpu' was asked for, but JAX finds no such", done.stderr)


def test_experiments_are_listed_without_importing_them():
    script = (
        "import sys; from experiments.__main__ import main; main([]); print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert re.search(r"python -m experiments gradient-norms +\w+", done.stdout)
    assert done.stdout.endswith("False\n")


def test_an_unknown_experiment_gets_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["gradient-norm"])
    assert stop.value.code == 2
    assert "did you mean 'gradient-norms'?" in said(capsys)


def test_the_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["gradient-norms", "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for field in gradient_norms.dataclasses.fields(gradient_norms.Config):
        assert f"--{field.name.replace('_', '-')}" in told
    assert "the plain network" in " ".join(told.split())


@pytest.mark.parametrize(
    ("log", "text"),
    [(0.0, "1"), (np.log(0.0123), "0.012"), (np.log(9.96e7), "1.0e+08"), (5000.0, "3.0e+2171"),
     (-np.inf, "0"), (np.inf, "inf"), (np.nan, "")],
)  # fmt: skip
def test_numbers_are_written_at_any_size(log, text):
    assert _growth_table._number(log) == text


def test_the_summary_finds_the_growth_and_its_spread_over_seeds():
    position = np.tile(np.arange(-1, 28), 2)
    seed = np.repeat([0, 1], 29)
    log = np.where(position < 0, 50.0, -0.4 * position * (1 + 0.1 * seed))
    columns = {"depth": np.full(58, 56), "position": position, "seed": seed}
    columns |= {"gradient_log_norm": log, "failure": np.full(58, "")}
    (one,) = _growth_table.summaries(columns, ["depth"], layers_per_unit=2)
    np.testing.assert_allclose(one.factors, np.exp([0.2, 0.22]))
    assert one.law == "exponential"
    np.testing.assert_allclose([one.first, one.last], [0.0, -0.42 * 27])


@pytest.mark.slow
def test_control_c_ends_with_130_and_keeps_the_cells(tmp_path):
    argv = [*TINY, "--depths", "8", "10", "12", "14", "--out", str(tmp_path)]
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
    assert "interrupted" in err
    assert "per layer" in out
    assert len(study.read_parquet(tmp_path / "gradient_norms.parquet")[0]["path"]) > 0
