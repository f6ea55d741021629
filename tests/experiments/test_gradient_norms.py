import dataclasses
import itertools
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import data, gradflow, lab, study
from experiments import __main__ as entry
from experiments import gradient_norms
from experiments.gradient_norms import growth
from tests.nn.conftest import QUICKLY

TINY = ["--depths", "8", "--seeds", "1", "--steps", "1", "--widths", "4", "--batch-size", "16"]
TINY += ["--runner", "here"]
ONE = [*TINY, "--norms", "none", "--shortcuts", "identity"]


def cell(**changes):
    made = {"norm": "batch", "shortcut": "none", "width": 4, "activation": "relu"}
    return lab.Classifier(**made | {"init": "he", "conv": "dense", "depth": 8} | changes)


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


def networks(**changes):
    how = {"seeds": 1, "steps": 10, "data": "digits", "batch_size": 16, "everything": False}
    how |= {"learning_rate": 0.1, "momentum": 0.9, "clip": 1.0}
    return gradient_norms.Networks(
        **{"kind": cell(norm="none", shortcut="identity")} | how | changes
    )


def test_the_measurement_is_that_of_gradflow_and_training_lowers_the_loss():
    one = networks()
    seeds, trainer, measured = gradient_norms.programs(one)
    images, labels = one.examples()
    net, first = seeds.draw(0), (images[:16], labels[:16])
    profile = measured(nnx.state(net), *first)
    direct = gradflow.profile(
        one.kind.network(nnx.Rngs(jax.random.key(0))), jax.numpy.asarray(first[0]),
        loss=lab.cross_entropy, targets=first[1], train=True,
    )  # fmt: skip
    for path in ("stem", "body/0", "body/2"):
        np.testing.assert_allclose(
            profile[path].gradient.log_norm, direct[path].gradient.log_norm, atol=1e-4
        )
    trained = trainer.fit(net, 0, first=1)[0]
    assert measured(nnx.state(trained), *first).loss < profile.loss


def test_training_takes_the_batches_behind_the_measured_one():
    """By hand: clip, momentum, and the steps of a seed's order from the second on."""
    one = networks(steps=3)
    seeds, trainer, _ = gradient_norms.programs(one)
    images, labels = one.examples()
    graphdef, params, rest = nnx.split(seeds.draw(1), nnx.Param, ...)
    ours = nnx.state(trainer.fit(seeds.draw(1), 1, first=1)[0], nnx.Param)

    @jax.jit
    def gradient(params, images, labels):
        def loss(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            return lab.cross_entropy(net(images, train=True), labels)

        return jax.grad(loss)(params)

    way = jax.tree.map(jax.numpy.zeros_like, params)
    for step in (1, 2, 3):
        chosen = data.batch_indices(len(images), 16, seed=1, step=step)
        found = gradient(params, images[chosen], labels[chosen])
        norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(found)))
        share = 1.0 if norm < 1 else float(1 / norm)
        way = jax.tree.map(lambda w, g, share=share: 0.9 * w + share * g, way, found)
        params = jax.tree.map(lambda p, w: p - 0.1 * w, params, way)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, params)


def test_a_cell_that_is_not_finite_is_told_of_and_the_others_go_on(tmp_path, capsys):
    argv = [*TINY, "--norms", "none", "--inits", "zero", "he", "--learning-rate", "1e38"]
    argv += ["--steps", "3", "--clip", "1e30"]
    assert entry.main(["gradient-norms", *argv, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "NaN or infinite" in " ".join(told.out.split())
    columns, _ = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert {"zero", "he"} == set(columns["init"].tolist())
    assert (columns["failure"] == "").any()


def test_networks_that_differ_by_initialiser_share_their_programs():
    he, lecun = (networks(kind=cell(norm="none", init=init), steps=0) for init in ("he", "lecun"))
    assert gradient_norms.group(he) == gradient_norms.group(lecun)
    # Behind the stem a signal is larger by the square root of 2.
    tables = [lab.pick(gradient_norms.measure(one), path="stem") for one in (he, lecun)]
    logs = [table["activation_log_norm"][0] for table in tables]
    np.testing.assert_allclose(logs[0] - logs[1], np.log(2) / 2, rtol=1e-5)
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
            r"9 cannot be built; .* 6, 8, 10, …; the nearest would be 8 or 10",
        ),
        (["--depths", "4"], r"depths=\[4\]: 4 cannot be built; .* would be 6"),
        (["--norms", "btach"], r"norm: name='btach' is not known; did you mean 'batch'"),
        (["--shortcuts", "residual"], r"shortcut='residual' is not known"),
        (
            ["--activations", "rely"],
            r"Activation: function='rely' is not known; did you mean 'relu'",
        ),
        (["--widths", "0"], r"must be at least 1"),
        (["--seeds", "0"], r"seeds=0 must be at least 1"),
        (["--learning-rate", "-1"], r"learning_rate=-1\.0 must be greater than 0"),
        (["--depths", "8", "8"], r"depths=\[8, 8\] must hold at least one value, none twice"),
        (["--norms"], r"norms=\[\] must hold at least one value"),
        (["--batch-size", "5000"], r"batch_size=5000 must lie between 1 and the 1797 examples"),
        (["--data", "mnist"], r"'digits', 'gaussian'"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(argv, message, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(gradient_norms, "programs", never)
    assert re.search(message, refused([*argv, "--out", str(tmp_path)], capsys))


@pytest.mark.parametrize(
    ("log", "text"),
    [(0.0, "1"), (np.log(0.0123), "0.012"), (np.log(9.96e7), "1.0e+08"), (5000.0, "3.0e+2171"),
     (-np.inf, "0"), (np.inf, "inf"), (np.nan, "")],
)  # fmt: skip
def test_numbers_are_written_at_any_size(log, text):
    assert growth._number(log) == text


def test_the_summary_finds_the_growth_and_its_spread_over_seeds():
    position = np.tile(np.arange(-1, 28), 2)
    seed = np.repeat([0, 1], 29)
    log = np.where(position < 0, 50.0, -0.4 * position * (1 + 0.1 * seed))
    columns = {"depth": np.full(58, 56), "position": position, "seed": seed}
    columns |= {"gradient_log_norm": log, "failure": np.full(58, "")}
    (one,) = growth.growths(columns, ["depth"])
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
