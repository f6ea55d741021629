import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, lab, study
from convjax.lab import _run
from experiments import __main__ as entry
from experiments import _classifier, _growth_table, gradient_norms
from experiments._classifier import Cell, Training
from tests.nn.conftest import QUICKLY

TINY = ["--depths", "8", "--seeds", "1", "--steps", "1", "--widths", "4", "--batch-size", "16"]
TINY += ["--runner", "here"]
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
    line = r"^\[\d/4\] norm=\w+ shortcut=\w+ width=4 depth=8: .* (left|done)$"
    assert len(re.findall(line, done.stderr, re.M)) == 4
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
    assert {"jax", "jaxlib", "flax", "convjax", "platform"} <= set(metadata["environments"][0])
    assert metadata["cells"] == 4


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
    real, calls = gradient_norms.compile_programs, []

    def stopping(kind, *args, **options):
        calls.append(kind.shortcut)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(kind, *args, **options)

    monkeypatch.setattr(gradient_norms, "compile_programs", stopping)
    argv = ["gradient-norms", *TINY, "--norms", "none", "--out", str(tmp_path)]
    assert entry.main(argv) == 130
    assert "interrupted: 1 of 2 cells are kept" in said(capsys)
    assert entry.main(argv) == 0
    assert calls == ["none", "identity", "identity"]
    columns, _ = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert columns["shortcut"].tolist() == ["none"] * 10 + ["identity"] * 10
    assert (tmp_path / "gradient_norms.png").exists()


def test_networks_that_differ_by_initialiser_share_their_programs():
    _classifier._measure_and_train.cache_clear()
    how = {"batch": (4, 8, 8, 1), "steps": 0}
    he, lecun = (
        _classifier.compile_programs(cell(norm="none", init=init), Training(0.1, 0.9, 1.0), **how)
        for init in ("he", "lecun")
    )
    assert he.measure is lecun.measure
    first, second = (p.draw(jax.random.key(0))[0]["stem"]["kernel"][...].std() for p in (he, lecun))
    np.testing.assert_allclose(first / second, np.sqrt(2), rtol=1e-5)
    groups = {
        gradient_norms.group(one)
        for one in gradient_norms.cells(
            gradient_norms.Config(inits=("he", "lecun"), depths=(8, 10), norms=("none",))
        )
    }
    assert len(groups) == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--depths", "9"],
            r"depth 9 cannot be built: .* 6, 8, 10, …; the nearest would be 8 or 10",
        ),
        (["--depths", "4"], r"depth 4 cannot be built: .* the nearest would be 6\."),
        (["--norms", "btach"], r"norm: name='btach' is not known; did you mean 'batch'"),
        (["--shortcuts", "residual"], r"shortcut='residual' is not known"),
        (
            ["--activations", "rely"],
            r"Activation: function='rely' is not known; did you mean 'relu'",
        ),
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
    monkeypatch.setattr(_run, "run_config", lambda _, config, argv: seen.append(config) or 0)
    argv = ["gradient-norms", "--config", str(file), "--norms", "none", "layer"]
    assert entry.main(argv) == 0
    config = seen[0]
    assert (config.depths, config.batch_size, config.norms) == ((8,), 16, ("none", "layer"))
    assert config.learning_rate == 1.0
    assert config.steps == gradient_norms.Config().steps


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
    command = [sys.executable, "-m", "experiments", "gradient-norms", "--runner", "here"]
    command += ["--platform", "tpu"]
    without = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=without)
    assert done.returncode == 2
    assert re.search("^error: platform 'tpu' was asked for, but JAX finds no such", done.stderr)


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


def planted(wrong=None, **changes):
    """Return columns of four kinds of networks that do what they must, but for one of them."""
    position = np.arange(28)
    laws = {
        ("none", "none"): 0.06 * position,
        ("none", "identity"): -0.3 * position,
        ("batch", "none"): -0.32 * position,
        ("batch", "identity"): -np.log1p(position),
    }
    blocks = []
    for (norm, shortcut), step in itertools.product(laws, (0, 10)):
        log = laws[norm, shortcut] * (0.5 if step else 1.0)
        if wrong == (norm, shortcut, step):
            log = changes["law"](position)
        made = dataclasses.asdict(cell(norm=norm, shortcut=shortcut, width=8, depth=56))
        made |= {"seed": 0, "step": step, "failure": "", "position": position}
        made |= {"gradient_log_norm": log} | {k: v for k, v in changes.items() if k in made}
        blocks.append({name: np.broadcast_to(value, (28,)) for name, value in made.items()})
    return lab.joined(blocks)


@pytest.mark.parametrize(
    ("wrong", "law", "failing"),
    [
        (None, None, []),
        (("none", "none", 0), lambda x: -0.06 * x, [0]),
        (("none", "none", 0), lambda x: 2 * np.log1p(x), [0]),
        (("none", "identity", 0), lambda x: -2 * np.log1p(x), [1]),
        (("none", "identity", 10), lambda x: -0.31 * x, [5]),
        (("batch", "none", 0), lambda x: 0.1 * x, [2, 4]),
        (("batch", "identity", 0), lambda x: -0.1 * x, [3]),
        (("batch", "identity", 0), lambda x: -3.0 * np.log1p(x), [4]),
        (("batch", "identity", 10), lambda x: -0.9 * x, []),
    ],
)
def test_what_is_wrong_fails(wrong, law, failing):
    criteria = lab.experiment(gradient_norms).judge(planted(wrong, law=law))
    assert [i for i, c in enumerate(criteria) if not c.holds] == failing
    assert len(criteria) == 6


def test_what_cannot_be_judged_is_left_out():
    assert lab.experiment(gradient_norms).judge(planted(depth=38)) == []
    assert lab.experiment(gradient_norms).judge(planted(width=4)) == []
    assert lab.experiment(gradient_norms).judge(planted(activation="tanh")) == []
    whole = planted()
    plain = {name: column[whole["norm"] == "none"] for name, column in whole.items()}
    assert len(lab.experiment(gradient_norms).judge(plain)) == 3
    failed = lab.experiment(gradient_norms).judge(planted(failure="NaN or infinite"))
    assert [c.holds for c in failed] == [False] * 5


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
    assert "interrupted" in err and not out
    assert len(list((tmp_path / "cells").glob("*.parquet"))) > 0
