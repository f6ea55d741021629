import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import data, lab, nn
from convjax.lab import lesions
from experiments import __main__ as entry
from experiments import degradation
from experiments.degradation import networks
from experiments.degradation.criteria import turn_ratios
from experiments.degradation.networks import PLAIN, RESIDUAL, TWINS, Cell, transitions
from tests.experiments.by_hand import convolve

DEPTHS, SEEDS, STEPS = (20, 56), 3, 40
TINY = {"width": 2, "steps": 5, "seeds": 2, "batch_size": 4, "lesions": 9}


pytestmark = pytest.mark.usefixtures("promotion")


def moved(twin, depth):
    """Return a small network whose running statistics are not the initial ones, and a batch."""
    make = Cell(twin=twin, depth=depth, width=2).network
    net = lab.Seeds(make, *data.digits("test"), batch_size=2).draw(3)
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
    y = convolve(x, kernel, circular=False)[:, :: conv.strides, :: conv.strides]
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


def test_a_cell_is_trained_looked_into_and_told_of():
    columns = degradation.measure(Cell(twin=RESIDUAL, depth=8, **TINY))
    counts = {"batch_loss": 5, "test_accuracy": 1, "correlation": 3, "cka": 3, "branch": 3}
    counts |= {f"{of}_{what}": n for of, n in (("whole", 1), ("without", 3), ("without_layer", 6))
               for what in ("loss", "accuracy")}  # fmt: skip
    for quantity, count in counts.items():
        rows = lab.pick(columns, quantity=quantity, twin=RESIDUAL, depth=8)
        found = lab.array(rows, "value", "seed", "number")
        assert found.shape == (2, count) and np.isfinite(found).all()
    assert set(columns["quantity"].tolist()) == set(counts)
    losses = lab.array(lab.pick(columns, quantity="batch_loss"), "value", "seed", "number")
    assert not np.array_equal(*losses)
    both = [lab.beside(columns, twin=twin, depth=depth) for twin in TWINS for depth in (8, 14)]
    assert len(degradation.judge(lab.joined(both))) == 12


def test_fashion_mnist_is_standardised_by_what_is_learned(monkeypatch):
    random = np.random.default_rng(0)
    both = {"train": random.integers(20, 90, (12, 28, 28, 1), np.uint8)}
    both["test"] = random.integers(0, 256, (5, 28, 28, 1), np.uint8)
    monkeypatch.setattr(
        networks.data,
        "fashion_mnist",
        lambda path, split: (both[split], np.arange(len(both[split]))),
    )
    (train, labels), (test, _) = networks.sets(networks.Settings(data="fashion-mnist"))
    assert (train.dtype, test.dtype, labels.tolist()) == (np.float32, np.float32, [*range(12)])
    mean, std = both["train"].mean(), both["train"].std()
    for found, given in ((train, both["train"]), (test, both["test"])):
        np.testing.assert_allclose(found, (given - mean) / std, rtol=1e-4, atol=1e-5)


def test_figure_and_criteria_are_those_of_what_was_learned():
    columns = planted(whole={(RESIDUAL, 20): 0.85})
    fashion = {**columns, "data": np.full(len(columns["data"]), networks.FASHION)}
    for given, title, count in ((columns, "the digits", 1), (fashion, "Fashion-MNIST", 0)):
        assert title in degradation.draw(given).title
        assert sum(not criterion.holds for criterion in degradation.judge(given)) == count


@pytest.mark.slow
def test_the_whole_experiment_at_a_tiny_size(tmp_path, capsys):
    given = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    given += ["--depths", "8", "14", "--runner", "here", "--out", str(tmp_path)]
    for _ in range(2):  # nothing is trained again
        assert entry.main(["degradation", *given]) == 1
    told = capsys.readouterr().out
    assert "plain, 14" in told and "FAILS" in told and " of 12 criteria)" in told
    made = {path.name for path in tmp_path.glob("degradation.*")}
    assert made == {f"degradation.{end}" for end in ("parquet", "png", "svg")}


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
    jitters = [1 + 0.02 * (seed - 1) for seed in range(SEEDS)]
    return lab.joined(
        [
            degradation.table_of(
                Cell(twin=twin, depth=depth), [_found(values, twin, depth, j) for j in jitters]
            )
            for twin in TWINS
            for depth in depths
        ]
    )


def _found(values, twin, depth, jitter):
    units = (depth - 2) // 2
    loss = np.full(units, 0.1)
    loss[transitions(units)] *= values["turn"]
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


@pytest.mark.parametrize(
    ("fault", "claims"),
    [
        ({}, []),
        ({"last": {(PLAIN, 56): 0.025}}, ["^plain: 56 layers end"]),
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
    criteria = degradation.judge(planted(**fault))
    fallen = [c.claim for c in criteria if not c.holds]
    assert (len(criteria), len(fallen)) == (12, len(claims)), fallen
    assert all(map(re.search, claims, fallen))


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
    which = {"twin": PLAIN, "depth": 20, "quantity": "without_layer_accuracy", "number": 7}
    here = np.all([columns[name] == value for name, value in which.items()], axis=0)
    columns["value"] = np.where(here, 0.5, columns["value"])
    fallen = [c.claim for c in degradation.judge(columns) if not c.holds]
    assert len(fallen) == 1 and "near chance" in fallen[0]


def test_a_transition_is_compared_with_its_neighbours():
    assert transitions(27) == [9, 18] and transitions(3) == [1, 2]
    np.testing.assert_allclose(turn_ratios(planted(turn=2.5)), 2.5)


def test_the_figure_and_the_table_are_made_from_the_columns_alone():
    figure = degradation.draw(planted())
    assert len(figure.axes) == 6 and all(axes.lines for axes in figure.axes)
    printed = degradation.table(planted())
    assert printed.row_count == 4
    cells = [list(column.cells) for column in printed.columns]
    assert cells[0] == ["plain, 20", "plain, 56", "residual, 20", "residual, 56"]
    assert [float(cell) for cell in cells[1]] == [0.02, 1.0, 0.004, 0.003]
    assert float(cells[5][2]) == pytest.approx(0.2)
