import dataclasses
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import data, lab, nn, train
from convjax.lab import Seeds, lesions, stack
from experiments import __main__ as entry
from experiments import degradation
from experiments.claims.networks import PLAIN, RESIDUAL
from experiments.degradation import Config, networks
from experiments.degradation import criteria as judged
from experiments.degradation.networks import TWINS

DEPTHS, SEEDS, STEPS = (20, 56), 3, 40
TINY = ("--depths", "8", "14", "--width", "2", "--steps", "5", "--seeds", "2")
TINY += ("--batch-size", "4", "--lesions", "9")


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax's cosine multiplies an integer with a float."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def moved(twin, depth):
    """Return a small network whose running statistics are not those of birth, and a batch."""
    images, labels = data.digits("test")
    make = functools.partial(networks.network, twin, depth, 2)
    net = Seeds(make, images, labels, batch_size=2).draw(3)
    random = np.random.default_rng(0)
    for _, node, _ in nn.walk(net):
        if isinstance(node, nn.BatchNorm):
            for part in (node.mean, node.var, node.scale, node.bias):
                part[...] = jnp.asarray(random.uniform(0.4, 1.5, part.shape), jnp.float32)
    return net, random.normal(size=(7, 8, 6, 1)).astype(np.float32), np.arange(7, dtype=np.int32)


def values(node, i=None):
    """Return a node's arrays by name, those of one repetition where it is repeated."""
    found = {name: np.asarray(leaf[...], np.float64) for name, leaf in nnx.state(node).items()}
    return found if i is None else {name: leaf[i] for name, leaf in found.items()}


def layer(x, conv, norm, i=None):
    """Return what convolution and norm make of x, in NumPy."""
    kernel, moments = values(conv, i)["kernel"], values(norm, i)
    step = conv.strides
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    high, wide = x.shape[1:3]
    y = sum(
        padded[:, a : a + high : step, b : b + wide : step] @ kernel[a, b]
        for a in range(3)
        for b in range(3)
    )
    normed = (y - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
    return normed * moments["scale"] + moments["bias"]


def identity(x, wide):
    """Return every second place, and zeros for the channels that lack."""
    if x.shape[-1] == wide:
        return x
    return np.concatenate([x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], -1)


def by_hand(net, x, unit=None, cut=None):
    """Run the network unit by unit, without one of them or one of its layers."""
    x = start = np.maximum(layer(x, net["stem"]["conv"], net["stem"]["norm"]), 0)
    seen = []
    every = []
    for stage in (net["stage1"], net["stage2"], net["stage3"]):
        for part in stage:
            repeated = isinstance(part, nn.Repeat)
            every += [(part.unit, i) for i in range(part.n)] if repeated else [(part, None)]
    for number, (one, i) in enumerate(every):
        wide = one.branch["conv1"].kernel.shape[-1]
        whole, h = x, x
        for k in (1, 2):
            parts = (one.branch[f"conv{k}"], one.branch[f"norm{k}"], i)
            lacks = cut == 2 * number + k - 1
            whole, h = layer(whole, *parts), identity(h, wide) if lacks else layer(h, *parts)
            if k == 1:
                whole, h = np.maximum(whole, 0), np.maximum(h, 0)
        share = np.linalg.norm(whole) / np.linalg.norm(x)
        beside = 0 if one.shortcut is None else identity(x, wide)
        x = identity(x, wide) if unit == number else np.maximum(h + beside, 0)
        start = identity(start, wide)
        seen.append((start, x, share))
    dense = values(net["head"]["dense"])
    return x.mean((1, 2)) @ dense["kernel"] + dense["bias"], seen


def loss_of(logits, labels):
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])


@pytest.mark.parametrize(
    ("twin", "depth"), [pytest.param(PLAIN, 8, marks=pytest.mark.slow), (RESIDUAL, 14)]
)
def test_lesions_and_features_are_those_of_a_network_run_by_hand(twin, depth):
    net, images, labels = moved(twin, depth)
    units = (depth - 2) // 2
    found = jax.jit(functools.partial(lesions.looked, net, layers=True))(images, labels)
    logits, seen = by_hand(net, images)
    np.testing.assert_allclose(found["whole_loss"][0], loss_of(logits, labels), rtol=1e-4)
    for name, key, count in (("unit", "without", 1), ("cut", "without_layer", 2)):
        losses = found[f"{key}_loss"]
        assert len(set(np.asarray(losses).round(5).tolist())) == len(losses) == count * units
        for i in range(count * units):
            logits = by_hand(net, images, **{name: i})[0]
            np.testing.assert_allclose(losses[i], loss_of(logits, labels), rtol=1e-4)
            right = np.mean(logits.argmax(-1) == labels)
            np.testing.assert_allclose(found[f"{key}_accuracy"][i], right, atol=1e-6)
    for i, (start, x, share) in enumerate(seen):
        a, b = (values.reshape(7, -1) - values.reshape(7, -1).mean(0) for values in (start, x))
        np.testing.assert_allclose(
            found["correlation"][i], (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()),
            atol=1e-5,
        )  # fmt: skip
        products = [values @ values.T for values in (a, b)]
        alike = np.vdot(*products) / np.prod([np.linalg.norm(p) for p in products])
        np.testing.assert_allclose(found["cka"][i], alike, rtol=1e-4)
        np.testing.assert_allclose(found["branch"][i], share, rtol=1e-4)


@pytest.fixture(scope="module")
def small():
    """Compile what trains one small network."""
    images, labels = data.digits("train")
    seeds = Seeds(lambda rngs: networks.network(RESIDUAL, 8, 2, rngs), images, labels, batch_size=4)
    recipe = train.Recipe(steps=5, learning_rate=0.05, dispatch=2)
    return seeds, recipe, seeds.trainer(recipe)


def test_seeds_train_as_fit_does_by_one_program(small):
    seeds, recipe, trainer = small
    net, metrics = trainer.fit(seeds.draw(1), 1)
    fitted = train.fit(seeds.draw(1), seeds.source(1), recipe)
    assert metrics["loss"].tolist() == [row["loss"] for row in fitted.rows]
    ours, theirs = (jax.tree.leaves(nnx.state(one)) for one in (net, fitted.net))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    other = trainer.fit(seeds.draw(2), 2)[1]["loss"]
    assert not np.array_equal(other, metrics["loss"])
    again = trainer.fit(seeds.draw(1), 1, steps=3)[1]["loss"]
    np.testing.assert_array_equal(again, metrics["loss"][:3])
    assert isinstance(trainer.dispatch, jax.stages.Compiled)  # one program for all


def test_the_command_line_trains_looks_and_judges(small, monkeypatch, tmp_path, capsys):
    seeds, _, trainer = small
    made = types.SimpleNamespace(
        graphdef=seeds.graphdef, draw=seeds.draw, trainer=lambda recipe: trainer
    )
    monkeypatch.setattr(networks, "Seeds", lambda *args, **options: made)
    asked = []

    once = functools.cache(functools.partial(networks.trained, RESIDUAL, 8, 2, None))

    def trained(twin, depth, width, recipe, **options):
        asked.append((twin, depth, width, recipe.steps))
        return once(**options)

    monkeypatch.setattr(degradation, "trained", trained)
    given = ["degradation", *TINY, "--runner", "here", "--out", str(tmp_path)]
    assert entry.main(given) == 1
    assert entry.main(given) == 1  # nothing is trained again
    assert sorted(asked) == [(twin, depth, 2, 5) for twin in TWINS for depth in (8, 14)]
    told = capsys.readouterr().out
    assert "plain, 14" in told and "FAILS" in told and " of 12 criteria)" in told
    made = {path.name for path in tmp_path.glob("degradation.*")}
    assert made == {f"degradation.{end}" for end in ("parquet", "png", "svg")}


@pytest.mark.slow
def test_the_whole_experiment_at_a_tiny_size(tmp_path, capsys):
    entry.main(["degradation", *TINY, "--runner", "here", "--out", str(tmp_path)])
    assert " of 12 criteria)" in capsys.readouterr().out


CELL = degradation.cells(Config())[0]
GOOD = {
    "last": {(PLAIN, 20): 0.02, (PLAIN, 56): 1.0, (RESIDUAL, 20): 0.004, (RESIDUAL, 56): 0.003},
    "early": {(PLAIN, 20): 1.0, (PLAIN, 56): 2.0, (RESIDUAL, 20): 0.7, (RESIDUAL, 56): 0.8},
    "whole": {(PLAIN, 56): 0.3},
    "layer": {PLAIN: 0.15, RESIDUAL: 0.8},
    "unit": {PLAIN: 0.1, RESIDUAL: 0.98},
    "turn": 3.0,
    "correlation": {PLAIN: 0.0, RESIDUAL: 0.3},
    "cka": {PLAIN: 0.4, RESIDUAL: 0.6},
}


def planted(depths=DEPTHS, **changes):
    """Make a table that passes; each argument plants other values."""
    values = {
        name: old | changes[name] if isinstance(old, dict) and name in changes
        else changes.get(name, old)
        for name, old in GOOD.items()
    }  # fmt: skip
    rows = []
    for twin in TWINS:
        for depth in depths:
            for seed in range(SEEDS):
                found = _found(values, twin, depth, 1 + 0.02 * (seed - 1))
                cell = dataclasses.replace(CELL, twin=twin, depth=depth)
                rows += degradation.rows(cell, [{}] * seed + [found])
    return stack(rows)


def _found(values, twin, depth, jitter):
    units = (depth - 2) // 2
    loss = np.full(units, 0.1)
    loss[networks.transitions(units)] *= values["turn"]
    layers = np.full(2 * units, values["layer"][twin] * jitter)
    return {
        "batch_loss": jitter * np.r_[
            np.full(STEPS // 2, values["early"][twin, max(20, depth)]),
            np.full(STEPS // 2, values["last"][twin, max(20, depth)]),
        ],
        "whole_loss": np.array([0.1]),
        "whole_accuracy": np.array([values["whole"].get((twin, depth), 1.0)]),
        "test_accuracy": np.array([0.9]),
        "without_loss": loss,
        "without_accuracy": np.full(units, min(1.0, values["unit"][twin] * jitter)),
        "without_layer_loss": np.ones(2 * units),
        "without_layer_accuracy": layers,
        "correlation": np.full(units, values["correlation"][twin]),
        "cka": np.full(units, values["cka"][twin]),
        "branch": np.full(units, 0.4),
    }  # fmt: skip


def test_the_criteria_hold_where_everything_is_as_it_should_be():
    criteria = degradation.judge(planted())
    assert len(criteria) == 12
    assert all(criterion.holds for criterion in criteria), criteria


@pytest.mark.parametrize(
    ("fault", "claims"),
    [
        ({"last": {(PLAIN, 56): 0.025}},
         ["^plain: 56 layers end"]),
        ({"last": {(RESIDUAL, 56): 0.03}}, ["residual: they do not"]),
        ({"last": {(RESIDUAL, 20): 1.0, (RESIDUAL, 56): 1.0}}, ["ends lower than the plain"]),
        ({"early": {(PLAIN, 56): 0.01}}, ["area, plain", "area: what depth adds"]),
        ({"early": {(RESIDUAL, 56): 3.0}}, ["area: what depth adds"]),
        ({"whole": {(RESIDUAL, 20): 0.85}}, ["has trained"]),
        ({"layer": {PLAIN: 0.4}}, ["near chance"]),
        ({"unit": {RESIDUAL: 0.9}}, ["few errors more"]),
        ({"unit": {PLAIN: 0.97}}, ["lose less than plain"]),
        ({"turn": 0.8}, ["a transition costs more"]),
        ({"correlation": {PLAIN: 0.4}}, ["number by number"]),
        ({"cka": {RESIDUAL: 0.3}}, ["kernel alignment"]),
    ],
)  # fmt: skip
def test_a_planted_fault_fails_its_own_criterion(fault, claims):
    fallen = [c.claim for c in degradation.judge(planted(**fault)) if not c.holds]
    assert len(fallen) == len(claims), fallen
    for claim, found in zip(claims, fallen, strict=True):
        assert re.search(claim, found)


def test_of_more_depths_the_ends_are_compared_and_all_are_told():
    columns = planted(depths=(14, 20, 56))
    criteria = degradation.judge(columns)
    assert len(criteria) == 12 and all(criterion.holds for criterion in criteria)
    assert criteria[0].claim == "plain: 56 layers end at a higher training loss than 14"
    assert criteria[-1].expected == "more, at every depth"
    assert degradation.table(columns).row_count == 6
    labels = {line.get_label() for line in degradation.draw(columns).axes[0].lines}
    assert not any("20" in label for label in labels)


def test_a_single_layer_that_is_not_needed_is_seen():
    columns = planted()
    here = (columns["twin"] == PLAIN) & (columns["depth"] == 20)
    here &= (columns["quantity"] == "without_layer_accuracy") & (columns["number"] == 7)
    columns["value"] = np.where(here, 0.5, columns["value"])
    fallen = [c.claim for c in degradation.judge(columns) if not c.holds]
    assert len(fallen) == 1 and "near chance" in fallen[0]


def test_a_transition_is_compared_with_its_neighbours():
    assert networks.transitions(27) == [9, 18] and networks.transitions(3) == [1, 2]
    np.testing.assert_allclose(judged.turn_ratios(planted(turn=2.5)), 2.5)


def test_the_figure_and_the_table_are_made_from_the_columns_alone():
    figure = degradation.draw(planted())
    assert len(figure.axes) == 6 and all(axes.lines for axes in figure.axes)
    printed = degradation.table(planted())
    assert printed.row_count == 4
    cells = [list(column.cells) for column in printed.columns]
    assert cells[0] == ["plain, 20", "plain, 56", "residual, 20", "residual, 56"]
    assert [float(cell) for cell in cells[1]] == [0.02, 1.0, 0.004, 0.003]
    assert float(cells[5][2]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"depths": (20, 57)}, r"depths=\[20, 57\]: 57 is not 6n \+ 2"),
        ({"depths": (2, 20)}, "2 is not 6n"),
        ({"depths": (20, 20)}, "must rise"),
        ({"depths": (20,)}, r"depths=\[20\] must be two or more"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": 1438}, "batch_size=1438 must be at least 2 and at most 1437, the images"),
        ({"lesions": 1}, "lesions=1 must be at least 2"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 must be positive"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_compiled(option, message, monkeypatch):
    monkeypatch.setattr(degradation, "trained", None)
    with pytest.raises(ValueError, match=message):
        lab.measure_all(lab.experiment(degradation), Config(**option))
