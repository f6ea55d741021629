import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import data, lab, models, nn, plots
from convjax.gradflow import _along as features
from convjax.lab import cross_entropy, pick, rules, stack
from convjax.lab.rules import AGAINST, FAILS, FOR, HOLDS, NEITHER, ONLY, OPEN, Evidence
from experiments import __main__ as entry
from experiments import claims, separable
from experiments.claims import Config, networks, parts, shortcuts
from experiments.claims.networks import PLAIN, RESIDUAL, Recipe, classifier
from experiments.separable.parts import Exact
from tests.experiments import convolutions

TINY = Config(depths=(6, 8), norms=("batch",), width=3, seeds=2, steps=4, checks=2, batch_size=8)
DEPTHS, SEEDS, STEPS = (8, 20, 56), 3, 60
CLIP = 0.2


AS_TEXTS_SAY = {
    "logs": {PLAIN: -20.0, RESIDUAL: 1.0},
    "train_loss": {PLAIN: (0.2, 0.3, 0.4), RESIDUAL: (0.15, 0.12, 0.1)},
    "test_accuracy": {PLAIN: 0.8, RESIDUAL: 0.9},
    "gap": {PLAIN: 0.3, RESIDUAL: 0.1},
    "reached": {PLAIN: 40, RESIDUAL: 20},
    "whole_accuracy": {PLAIN: 0.95, RESIDUAL: 0.95},
    "without_accuracy": {PLAIN: 0.2, RESIDUAL: 0.93},
    "correlation": {PLAIN: 0.0, RESIDUAL: 0.6},
    "branch": {PLAIN: 1.0, RESIDUAL: 0.2},
}


def of_convolutions():
    """Return the rows of the planted table of separable."""
    found = convolutions.planted()
    for values in zip(*(column.tolist() for column in found.values()), strict=True):
        topic, *rest = values
        yield claims.row(topic, **dict(zip(list(found)[1:], rest, strict=True)))


def planted(**changes):
    """Make a table in which texts are right; each argument plants another value of shortcuts."""
    values = AS_TEXTS_SAY | {name: AS_TEXTS_SAY[name] | new for name, new in changes.items()}
    rows = list(of_convolutions())
    for twin in (PLAIN, RESIDUAL):
        for seed in range(SEEDS):
            jitter = 1 + 0.01 * (seed - 1)
            _initial(rows, values, twin, seed, jitter)
            for i, depth in enumerate(DEPTHS):
                _trained(rows, values, twin, seed, jitter, i, depth)
    return stack(rows)


def _initial(rows, values, twin, seed, jitter):
    places = np.arange(9)
    end = values["logs"][twin] * jitter
    shape = (places[::-1] / 8, 1 - np.log1p(places) / np.log(9))[twin == RESIDUAL]
    for norm, init in claims.INITIAL:
        at = {"norm": norm, "depth": 56, "seed": seed}
        for place, log in enumerate(end * shape):
            rows.append(claims.row("birth", twin, init, log, number=place, **at))


def _trained(rows, values, twin, seed, jitter, i, depth):
    last = values["train_loss"][twin][i] * jitter
    train = np.geomspace(2.0, last, 4)
    test = train + values["gap"][twin] * jitter
    accuracy = np.linspace(0.1, values["test_accuracy"][twin] * jitter, 4)
    batch = np.where(np.arange(STEPS) < values["reached"][twin] - 5 + seed, 2.3, 0.1)
    tables = {
        ("step", "batch_loss"): batch,
        ("curve", "train_loss"): train,
        ("curve", "test_loss"): test,
        ("curve", "test_accuracy"): accuracy,
        ("curve", "train_accuracy"): accuracy,
        ("looked", "whole_accuracy"): [values["whole_accuracy"][twin]],
    } | {
        ("looked", name): [values[name][twin]] * 3
        for name in ("without_accuracy", "correlation", "branch")
    }
    for norm in ("batch", "none"):
        at = {"norm": norm, "depth": depth, "seed": seed}
        for (kind, name), found in tables.items():
            rows.extend(
                claims.row(kind, twin, name, v, number=n, **at) for n, v in enumerate(found)
            )


SAID = planted()


def test_every_network_and_part_is_a_cell_that_says_which():
    every = claims.cells(Config())
    told = [str(cell) for cell in every]
    assert len(set(every)) == len(set(told)) == 7 + 2 * 2 * 3 + 6
    assert told[0] == "convolutions: counts"
    assert told[7] == "plain, norm batch, 56 layers, trained"
    assert told[-1] == "residual, norm batch, 56 layers, at initialization, he"


def test_where_texts_are_right_they_are_told_so():
    found = {claim.number: claim.verdict for claim in claims.claims(SAID)}
    shortcuts = [f"4{part}" for part in ("a1", "a2", "a3", "a4", "b1", "b2", "b3", "c1", "c2")]
    shortcuts += ["4c3", "4c4", "4d", "4e", "4f"]
    assert list(found)[15:] == shortcuts and {found[number] for number in shortcuts} == {HOLDS}
    assert {number for number in found if found[number] != HOLDS} == {"1b", "2b", "2f", "3f"}
    assert all(criterion.holds for criterion in claims.judge(SAID))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"logs": {PLAIN: 20.0}}, {"4a1": FAILS, "4a2": OPEN, "4a3": HOLDS}),
        ({"logs": {PLAIN: -0.1}}, {"4a1": OPEN, "4a2": OPEN, "4a3": FAILS}),
        ({"logs": {RESIDUAL: 40.0}}, {"4a1": HOLDS, "4a2": FAILS, "4a3": FAILS}),
        ({"train_loss": {PLAIN: (0.4, 0.3, 0.2)}}, {"4b1": FAILS, "4b3": HOLDS}),
        ({"train_loss": {PLAIN: (0.3, 0.3, 0.3)}}, {"4b1": OPEN}),
        ({"train_loss": {RESIDUAL: (0.1, 0.2, 0.3)}}, {"4b2": FAILS}),
        ({"train_loss": {RESIDUAL: (2.3, 2.3, 2.3)}}, {"4b2": OPEN, "4b3": FAILS}),
        (
            {"train_loss": {PLAIN: (0.15, 0.12, 0.4)}},
            {"4b3": f"{ONLY} batch norm, 56 layers or no norm, 56 layers"},
        ),
        ({"correlation": {RESIDUAL: 0.05}}, {"4c1": OPEN}),
        ({"correlation": {PLAIN: 0.9}}, {"4c1": FAILS}),
        ({"branch": {RESIDUAL: 0.8}}, {"4c2": FAILS}),
        ({"without_accuracy": {RESIDUAL: 0.3}}, {"4c3": FAILS, "4c4": HOLDS}),
        ({"without_accuracy": {PLAIN: 0.9}}, {"4c3": HOLDS, "4c4": FAILS}),
        ({"whole_accuracy": {PLAIN: 0.1}}, {"4c3": HOLDS, "4c4": OPEN}),
        ({"whole_accuracy": {RESIDUAL: 0.1}}, {"4c1": OPEN, "4c2": OPEN, "4c3": OPEN}),
        ({"reached": {PLAIN: 15}}, {"4d": FAILS}),
        ({"reached": {PLAIN: 20}}, {"4d": OPEN}),
        ({"reached": {PLAIN: 200}}, {"4d": HOLDS}),
        ({"reached": {PLAIN: 200, RESIDUAL: 200}}, {"4d": OPEN}),
        ({"gap": {PLAIN: 0.02}}, {"4e": FAILS}),
        ({"gap": {PLAIN: 0.11}}, {"4e": OPEN}),
        ({"train_loss": {PLAIN: (2.0, 2.1, 2.2)}}, {"4e": OPEN}),
        ({"test_accuracy": {RESIDUAL: 0.7}}, {"4f": FAILS}),
        ({"test_accuracy": {RESIDUAL: 0.81}}, {"4f": OPEN}),
        ({"test_accuracy": {PLAIN: 0.1, RESIDUAL: 0.2}}, {"4f": OPEN}),
    ],
)
def test_sentences_on_shortcuts_turn_with_their_numbers(change, wanted):
    rows = pick(planted(**change), kind=("birth", "step", "curve", "looked"))
    found = {claim.number: claim.verdict for claim in shortcuts.claims(rows)}
    assert {number: found[number] for number in wanted} == wanted


def test_laws_are_told_apart():
    places = np.arange(9.0)
    straight, curved = 3 * places[::-1], 3 * (np.log(9) - np.log1p(places))
    both = np.tile(straight, (3, 1)), np.tile(curved, (3, 1))
    law = shortcuts._law("", *both)
    assert (law.side, law.shown) == (FOR, "exponential to power law")
    assert shortcuts._law("", *reversed(both)).side == AGAINST
    assert shortcuts._law("", both[0], both[0]).side == AGAINST


def test_the_rule_of_all_verdicts():
    def one(*support, margin=0.0):
        return Evidence("here", np.array(support), "", margin)

    assert one(1.0, 2.0, -0.5).side == FOR and one(-1.0, -2.0, 0.5).side == AGAINST
    assert one(1.0, 2.0, margin=3.0).side == one(-1.0, 1.0).side == one().side == NEITHER
    assert one(1.0, np.nan).side == NEITHER
    yes, no, none, left_out = one(1.0), one(-1.0), one(0.0), one()
    assert rules.decide([yes, yes]) == rules.decide([yes, left_out]) == HOLDS
    assert rules.decide([yes, no]) == rules.decide([yes, none]) == f"{ONLY} here"
    assert rules.decide([no, none]) == rules.decide([no, left_out]) == FAILS
    assert rules.decide([none, left_out]) == rules.decide([]) == OPEN
    assert one(1.0, 2.0, -0.5).agree == pytest.approx(2 / 3) and one().agree == 0
    assert rules.exact("", 0.0).side == FOR and rules.exact("", 1e-9).side == AGAINST
    assert rules.exact("", 1e-9, 1e-8).side == FOR and rules.exact("", 2e-8, 1e-8).side == AGAINST


@pytest.mark.parametrize(
    ("change", "fault", "fallen"),
    [
        ({"whole_accuracy": {PLAIN: 0.1, RESIDUAL: 0.1}}, None, ["from finite numbers"]),
        ({"test_accuracy": {PLAIN: 0.7}}, None, ["8 layers with batch norm trained"]),
        ({}, "train_loss", ["from finite numbers", "are finite"]),
    ],
)
def test_a_run_that_means_nothing_does_not_pass(change, fault, fallen):
    columns = planted(**change)
    if fault:
        here = (columns["quantity"] == fault) & (columns["depth"] == 20)
        columns["value"] = np.where(here, np.nan, columns["value"])
    found = [criterion.claim for criterion in claims.judge(columns) if not criterion.holds]
    assert len(found) == len(fallen), found
    assert all(text in claim for text, claim in zip(fallen, found, strict=True)), found


def test_steps_are_counted_to_the_end_of_the_first_window_that_is_low_enough():
    losses = np.random.default_rng(0).uniform(0.2, 1.2, (4, 60)) * np.linspace(2, 0.6, 60)
    losses[3] = 5.0
    for row, found in zip(losses, shortcuts.steps_to(losses), strict=True):
        low = [end for end in range(10, 61) if row[end - 10 : end].mean() <= 0.5]
        assert found == (low[0] if low else 61)


def test_gaps_are_taken_at_equal_training_loss():
    plain, residual = shortcuts.gaps(SAID, ("batch", 56))
    np.testing.assert_allclose(plain, 0.3 * np.array([0.99, 1.0, 1.01]), rtol=1e-6)
    np.testing.assert_allclose(residual, 0.1 * np.array([0.99, 1.0, 1.01]), rtol=1e-6)


def naive_cka(a, b):
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)

    def cross(p, q):
        return sum((p[:, i] @ q[:, j]) ** 2 for i in range(p.shape[1]) for j in range(q.shape[1]))

    return cross(a, b) / np.sqrt(cross(a, a) * cross(b, b))


def test_features_are_compared_as_in_float64():
    a, noise = np.random.default_rng(1).normal(size=(2, 7, 3, 2, 4)).astype(np.float32)
    b = 1e15 * (a + 0.5 * noise + 3)
    centred = [(x - x.mean(0)).ravel().astype(np.float64) for x in (a, b)]
    np.testing.assert_allclose(features.cosine(a, b), np.corrcoef(*centred)[0, 1], rtol=1e-4)
    np.testing.assert_allclose(features.cka(a, b), naive_cka(a, b), rtol=1e-4)
    turned = a @ np.linalg.qr(noise[0, 0, :, :][[0, 1, 0, 1]] + np.eye(4))[0].astype(np.float32)
    np.testing.assert_allclose(features.cka(a, turned), 1, rtol=1e-4)
    assert abs(features.cosine(a, turned)) < 0.99


@pytest.fixture(scope="module")
def small():
    """Measure little; Optax's cosine multiplies an integer with a float."""
    with pytest.MonkeyPatch.context() as patched, jax.numpy_dtype_promotion("standard"):
        for name, value in (("BATCH", 4), ("SIZE", 5), ("WIDTH", 3)):
            patched.setattr(networks, f"INITIAL_{name}", value)
        patched.setattr(networks, "LOOKED_AT", 20)
        patched.setattr(networks, "CLIP", CLIP)
        yield patched


@pytest.fixture(scope="module")
def tiny(small):
    small.setattr(claims, "INITIAL", (("batch", "he"),))
    small.setattr(separable, "cells", lambda config: [])
    columns = [claims.measure(cell) for cell in claims.cells(TINY)]
    return claims.complete(lab.joined([stack(list(of_convolutions())), *columns]))


@pytest.mark.later
def test_everything_measured_has_its_rows(tiny):
    assert len({len(column) for column in tiny.values()}) == 1
    assert set(tiny["kind"]) >= {"counts", "time", "birth", "step", "curve", "looked", "claim"}
    for depth, units in ((6, 2), (8, 3)):
        for twin in (PLAIN, RESIDUAL):
            where = (twin, ("batch", depth))
            assert shortcuts.found(tiny, "step", *where, "batch_loss").shape == (2, 4)
            assert shortcuts.found(tiny, "curve", *where, "test_loss").shape == (2, 2)
            assert shortcuts.found(tiny, "looked", *where, "without_loss").shape == (2, units)
    initial = shortcuts.found(tiny, "birth", RESIDUAL, ("batch", 8), "he")
    assert initial.shape == (2, 4) and (initial[:, -1] == 0).all()
    assert np.isfinite(tiny["value"][tiny["kind"] != "claim"]).all()
    two = shortcuts.found(tiny, "step", PLAIN, ("batch", 8), "batch_loss")
    assert not np.array_equal(two[0], two[1])
    assert claims.table(tiny).row_count == 29 and len(claims.draw(tiny).axes) == 4


def test_the_verdicts_are_beside_the_numbers():
    rows = pick(claims.complete(SAID), kind="claim")
    assert len(rows["name"]) == sum(len(claim.evidence) for claim in claims.claims(SAID))
    assert (rows["verdict"] != "").all()
    assert rows["verdict"][rows["name"] == "3b it mixes linearly"].tolist() == [HOLDS]


@pytest.fixture(scope="module")
def trained_once(small):
    """Train a residual network for four steps, and keep the state that it is looked into with."""
    kept = {}
    fitting = networks.fitting

    def kept_fitting(graphdef, recipe):
        fit = fitting(graphdef, recipe)

        def kept_fit(params, rest, order, *split):
            kept.update(graphdef=graphdef, start=(params, rest), order=order.reshape(4, 8))
            kept["fitted"] = fit(params, rest, order, *split)
            return kept["fitted"]

        return kept_fit

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks, "fitting", kept_fitting)
        cell = parts.Taught(RESIDUAL, "batch", 8, 3, Recipe(4, 8, 0.1, 2), seeds=1)
        kept["rows"] = claims.measure(cell)
    return kept


def looked(trained_once, name):
    (found,) = shortcuts.found(trained_once["rows"], "looked", RESIDUAL, ("batch", 8), name)
    return found


def test_training_is_gradient_descent_with_momentum_behind_a_clip(trained_once):
    graphdef, order, (params, rest) = (trained_once[n] for n in ("graphdef", "order", "start"))
    moved, moved_rest, losses, checks = trained_once["fitted"]
    seen, unseen = networks.halves()
    expected = [data.batch_indices(len(seen[0]), 8, seed=0, step=step) for step in range(4)]
    np.testing.assert_array_equal(order, expected)

    @jax.jit
    def loss_and_gradients(params, images, labels):
        def loss(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            return cross_entropy(net(images, train=True), labels)

        return jax.value_and_grad(loss)(params)

    weights, tree = jax.tree.flatten(params)
    momentum = [np.zeros_like(w) for w in weights]
    for step, chosen in enumerate(order):
        now = jax.tree.unflatten(tree, weights)
        value, gradients = loss_and_gradients(now, seen[0][chosen], seen[1][chosen])
        np.testing.assert_allclose(losses[step], value, rtol=1e-3)
        gradients = [np.asarray(g) for g in jax.tree.leaves(gradients)]
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
        rate = 0.1 * 0.5 * (1 + np.cos(np.pi * step / 4))
        momentum = [
            0.9 * m + g * min(1, CLIP / norm) for m, g in zip(momentum, gradients, strict=True)
        ]
        weights = [np.asarray(w) - rate * m for w, m in zip(weights, momentum, strict=True)]
        assert norm > CLIP
    for found, expected in zip(jax.tree.leaves(moved), weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    run = jax.jit(lambda images: nnx.merge(graphdef, moved, moved_rest)(images, train=False))
    for part, (images, labels) in (("train", [a[:599] for a in seen]), ("test", unseen)):
        logits = run(images)
        loss = cross_entropy(logits, jnp.asarray(labels))
        np.testing.assert_allclose(checks[f"{part}_loss"][-1], loss, rtol=1e-4)
        right = np.mean(np.asarray(logits).argmax(-1) == labels)
        np.testing.assert_allclose(checks[f"{part}_accuracy"][-1], right, atol=1e-6)
    before, after = (jax.tree.leaves(state) for state in (rest, moved_rest))
    assert not any(np.allclose(a, b) for a, b in zip(before, after, strict=True))


def test_a_lesion_takes_one_unit_out(trained_once):
    params, rest, *_ = trained_once["fitted"]
    (images, labels), _ = networks.halves()
    images, labels = jnp.asarray(images[:20]), jnp.asarray(labels[:20])
    net = nnx.merge(trained_once["graphdef"], params, rest)
    unit = jax.jit(lambda i, x: net["body"][i](x), static_argnums=0)
    head = jax.jit(lambda x: cross_entropy(net["head"](x), labels))
    start = net["stem"](images)
    for skipped in (None, 0, 1, 2):
        x = start
        for i in range(3):
            before, x = x, x if i == skipped else unit(i, x)
            if skipped is None:
                change = np.linalg.norm(x - before) / np.linalg.norm(before)
                np.testing.assert_allclose(looked(trained_once, "branch")[i], change, rtol=1e-4)
                found = np.asarray(features.cosine(start, x))
                correlation = looked(trained_once, "correlation")[i]
                np.testing.assert_allclose(correlation, found, rtol=1e-4)
        whole, without = (looked(trained_once, f"{w}_loss") for w in ("whole", "without"))
        found = whole[0] if skipped is None else without[skipped]
        np.testing.assert_allclose(found, head(x), rtol=1e-4)


def test_the_figure_and_the_table_are_made_from_the_columns_alone():
    figure = claims.draw(SAID)
    assert len(figure.axes) == 4 and all(axes.lines for axes in figure.axes)
    assert claims.table(SAID).row_count == len(claims.claims(SAID)) == 29


def test_gradients_at_initialization_are_those_of_a_backward_pass(small):
    found = networks.at_initialization(RESIDUAL, "none", "lecun", 6, 1)
    key = jax.random.split(jax.random.key(0), 1)[0]
    weights, signal, cotangent = jax.random.split(key, 3)
    options = {"init": "lecun", "convs_per_unit": 2, "padding": "CIRCULAR"}
    net = models.deep_stack(4, 3, **options, rngs=nnx.Rngs(weights)).unrolled()
    x = jax.random.normal(signal, (4, 5, 5, 3))
    g = jax.random.normal(cotangent, x.shape)

    @jax.jit
    def back(x, g):
        between = net["0"](x)
        inner = jax.vjp(net["1"], between)[1](g)[0]
        return g, inner, jax.vjp(net["0"], x)[1](inner)[0]

    logs = [np.log(np.sum(np.square(one))) for one in back(x, g)]
    np.testing.assert_allclose(found[0], np.array(logs[::-1]) - logs[0], atol=1e-4)


def test_the_digits_are_divided_in_two_thirds_and_one():
    (seen, labels), (unseen, others) = networks.halves()
    assert (len(seen), len(labels), len(unseen), len(others)) == (1198, 1198, 599, 599)
    every = np.concatenate([seen, unseen]).reshape(1797, -1)
    expected = data.digits()[0].reshape(1797, -1)
    np.testing.assert_array_equal(np.sort(every.sum(1)), np.sort(expected.sum(1)))
    assert np.ptp(np.bincount(others)) < 30


def test_twins_differ_in_their_shortcuts_alone():
    plain, residual = (
        nnx.eval_shape(lambda t=twin: classifier(t, "batch", 6, 3).network(nnx.Rngs(0)))
        for twin in (PLAIN, RESIDUAL)
    )
    assert plain["body"].unit.shortcut is None
    assert isinstance(residual["body"].unit.shortcut, nn.Identity)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(n))] for n in (plain, residual)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"depths": (8, 9)}, r"depths=\[8, 9\]: 9 cannot be built"),
        ({"depths": (4, 8)}, r"4 cannot be built"),
        ({"depths": (8,)}, r"depths=\[8\] must be two or more, rising"),
        ({"depths": (20, 8)}, "must be two or more, rising"),
        ({"norms": ()}, r"norms=\[\] must hold at least one value"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"batch_size": 1200}, "batch_size=1200 must be at most 1198"),
        ({"checks": 1}, "checks=1 must be at least 2"),
        ({"steps": 12}, "steps=12 must be a multiple of checks=8"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 must be greater than 0"),
        ({"channels": 6}, r"channels=\(6,\) must be multiples of 4"),
        ({"repeats": 0}, "repeats=0 must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_computed(option, message, monkeypatch):
    monkeypatch.setattr(claims, "measure", lambda cell: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        lab.measure_all(lab.experiment(claims), Config(**option))


def test_the_command_line_writes_the_verdicts_and_ends_well(tmp_path, monkeypatch, capsys):
    cell = parts.Convolutions(Exact())
    monkeypatch.setattr(claims, "cells", lambda config: [cell])
    monkeypatch.setattr(claims, "complete", lambda columns: SAID)
    dot = plots.Panel("", "x", "y", [plots.Series("", [1], [1])])
    monkeypatch.setattr(claims, "draw", lambda columns: plots.panels("drawn elsewhere", [dot]))
    assert entry.main(["claims", "--runner", "here", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "not decided here" in told and "Verdict: holds (4 of 4 criteria)" in told
    made = {path.name for path in tmp_path.glob("claims.*")}
    assert made == {f"claims.{end}" for end in ("parquet", "png", "svg")}
