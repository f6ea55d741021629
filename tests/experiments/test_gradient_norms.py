import dataclasses
import itertools
import re

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import data, gradflow, lab, study
from experiments import __main__ as entry
from experiments import gradient_norms
from experiments.gradient_norms import growth

TINY = ["--depths", "8", "--seeds", "1", "--steps", "1", "--widths", "4", "--batch-size", "16"]
TINY += ["--norms", "none", "--runner", "here"]


def cell(**changes):
    made = {"norm": "none", "shortcut": "identity", "width": 4, "activation": "relu"}
    return lab.Classifier(**made | {"init": "he", "conv": "dense", "depth": 8} | changes)


def networks(**changes):
    """Return networks that all tests measure by the same programs."""
    return gradient_norms.Networks(
        **{"kind": cell(), "seeds": 1, "steps": 3, "batch_size": 16} | changes
    )


def test_a_run_tells_its_progress_prints_a_table_and_keeps_every_number(tmp_path, capsys):
    argv = [*TINY, "--norms", "none", "batch", "--shortcuts", "identity"]
    assert entry.main(["gradient-norms", *argv, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    line = r"^\[\d/2\] norm=\w+ shortcut=\w+ width=4 depth=8: .* (left|done)$"
    assert len(re.findall(line, told.err, re.M)) == 2
    assert len(re.findall(r"x\d\.\d{3} ", told.out)) == 4
    assert max(map(len, told.out.splitlines()[:8])) <= 100
    assert "gradient_norms.svg" in told.out
    columns, metadata = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert set(gradflow.COLUMNS) < set(columns)
    own = {"seed", "step", "data", "batch_size", "learning_rate", "position", "loss", "failure"}
    assert own | set(growth.AXES) < set(columns)
    # Two norms, two steps; input, stem and three units.
    assert len(columns["path"]) == 2 * 2 * 5
    assert np.isfinite(columns["gradient_log_norm"]).all()
    assert np.isfinite(columns["loss"]).all()
    assert columns["path"][:5].tolist() == ["input", "stem", "body/0", "body/1", "body/2"]
    assert columns["position"][:5].tolist() == [-1, 0, 1, 2, 3]
    assert metadata["config"]["widths"] == [4] and metadata["cells"] == 2
    assert {"jax", "jaxlib", "flax", "convjax", "platform"} <= set(metadata["environments"][0])
    assert (tmp_path / "gradient_norms.png").stat().st_size > 20_000
    assert (tmp_path / "gradient_norms.svg").stat().st_size > 5_000


def test_data_of_another_name_are_refused(capsys):
    with pytest.raises(SystemExit):
        entry.main(["gradient-norms", "--data", "mnist"])
    assert "'digits', 'gaussian'" in " ".join(capsys.readouterr().err.split())


def test_everything_adds_the_insides_of_the_units():
    columns = gradient_norms.measure(networks(everything=True, steps=0))
    conv = lab.pick(columns, path="body/2/branch/conv1")
    assert conv["path"].size == 1 and np.isfinite(conv["parameter_gradient_log_norm"]).all()


def test_the_twins_are_drawn_alike():
    drawn = [cell(norm="batch", shortcut=s).network(nnx.Rngs(3)) for s in ("none", "identity")]
    plain, residual = (nnx.state(net) for net in drawn)
    jax.tree.map(np.testing.assert_array_equal, plain, residual)


def test_training_takes_the_batches_behind_the_measured_one():
    """By hand: the profile; clip, momentum, and a seed's steps from the second on."""
    seeds, trainer, measured = gradient_norms.programs(networks())
    net = seeds.draw(1)
    trained = trainer.fit(net, 1, first=1)[0]
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def gradient(params, images, labels):
        def loss(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            return lab.cross_entropy(net(images, train=True), labels)

        return jax.value_and_grad(loss)(params)

    first = seeds.batch(1)
    profile, after = (measured(one, *first) for one in (net, trained))
    np.testing.assert_allclose(profile.loss, gradient(params, *first)[0], rtol=1e-5)
    assert after.loss < profile.loss
    whole = jax.jit(
        lambda state, *batch: gradflow.profile(
            nnx.merge(graphdef, *state), batch[0], loss=lab.cross_entropy, targets=batch[1],
            train=True,
        )
    )((params, rest), *first)  # fmt: skip
    for path in ("stem", "body/*"):
        ours, theirs = (one[path].gradient.log_norm for one in (profile, whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)

    way = jax.tree.map(jax.numpy.zeros_like, params)
    images, labels = networks().examples()
    for step in (1, 2, 3):
        chosen = data.batch_indices(len(images), 16, seed=1, step=step)
        _, found = gradient(params, images[chosen], labels[chosen])
        norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(found)))
        share = 1.0 if norm < 1 else float(1 / norm)
        way = jax.tree.map(lambda w, g, share=share: 0.9 * w + share * g, way, found)
        params = jax.tree.map(lambda p, w: p - 0.1 * w, params, way)
    ours = nnx.state(trained, nnx.Param)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, params)


def test_networks_that_differ_by_initialiser_share_their_programs():
    he, lecun = (networks(kind=cell(init=init)) for init in ("he", "lecun"))
    assert gradient_norms.group(he) == gradient_norms.group(lecun)
    # Behind the stem a signal is larger by the square root of 2.
    tables = [lab.pick(gradient_norms.measure(one), path="stem", step=0) for one in (he, lecun)]
    logs = [table["activation_log_norm"][0] for table in tables]
    np.testing.assert_allclose(logs[0] - logs[1], np.log(2) / 2, rtol=1e-5)
    config = gradient_norms.Config(inits=("he", "lecun"), depths=(8, 10), norms=("none",))
    assert len({gradient_norms.group(one) for one in gradient_norms.cells(config)}) == 4


def test_a_cell_that_is_not_finite_is_told_of_and_the_others_go_on(tmp_path, capsys):
    argv = [*TINY, "--shortcuts", "identity", "--inits", "zero", "he"]
    argv += ["--learning-rate", "1e38", "--steps", "3", "--clip", "1e30"]
    assert entry.main(["gradient-norms", *argv, "--out", str(tmp_path)]) == 0
    assert "NaN or infinite" in " ".join(capsys.readouterr().out.split())
    columns, _ = study.read_parquet(tmp_path / "gradient_norms.parquet")
    assert {"zero", "he"} == set(columns["init"].tolist())
    assert (columns["failure"] == "").any()


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
    np.testing.assert_allclose([one.first, one.last, one.grown], [0, -0.42 * 27, 0.42 * 27])


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
        made |= {"seed": 0, "step": step, "failure": ""}
        made |= {name: value for name, value in changes.items() if name in made}
        blocks.append(lab.beside({"position": position, "gradient_log_norm": log}, **made))
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
    criteria = gradient_norms.judge(planted(wrong, law=law))
    assert [i for i, c in enumerate(criteria) if not c.holds] == failing
    assert len(criteria) == 6


def test_what_cannot_be_judged_is_left_out():
    for change in ({"depth": 38}, {"width": 4}, {"activation": "tanh"}):
        assert gradient_norms.judge(planted(**change)) == []
    assert len(gradient_norms.judge(lab.pick(planted(), norm="none"))) == 3
    failed = gradient_norms.judge(planted(failure="NaN or infinite"))
    assert [c.holds for c in failed] == [False] * 5
