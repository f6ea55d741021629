import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from convjax.lab import pick, stack
from experiments import __main__ as entry
from experiments import separable
from experiments.benchmarks.computations import Machine
from experiments.separable import Config, kernels, layers, parts
from experiments.separable import figure as shown
from experiments.separable import results as found
from experiments.separable.layers import (
    DEEP,
    DEEP_SPLIT,
    DIRECTIONS,
    FULL,
    LAYERS,
    NECK,
    PAIR,
    POINT,
    SPLIT,
    Case,
)
from tests.nn.conftest import quick_compilation as quick_compilation

TINY = Config(
    sizes=(6,),
    channels=(8,),
    kernel_sizes=(3,),
    batch_size=2,
    repeats=2,
    width=4,
    epochs=2,
    seeds=1,
)


@pytest.fixture(scope="module")
def tiny():
    """Run with two layers in place of seven, and one network in place of four or five."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    # Optax's Adam raises a float to the power of an integer.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layers, "LAYERS", (FULL, PAIR))
        patched.setattr(parts, "machine", lambda dtype: Machine(1e10, 1e11))
        patched.setattr(separable, "networks", lambda kernel_sizes: [(FULL, kernel_sizes[0])])
        measured = lab.measure_all(lab.experiment(separable), TINY)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_disable_most_optimizations", before)
    return measured


def test_every_topic_has_its_rows(tiny):
    assert len({len(column) for column in tiny.values()}) == 1
    assert np.isfinite(tiny["value"]).all()
    times = pick(tiny, topic="time")
    assert len(times["value"]) == 2 * len(DIRECTIONS) * TINY.repeats
    assert (times["value"] > 0).all()
    assert found.curve(tiny, FULL, "train_loss").shape == (TINY.seeds, TINY.epochs)
    assert len(pick(tiny, topic="accuracy")["value"]) == 3
    for age in ("random", "trained"):
        assert found.kernel_errors(tiny, age, 3, 1).shape == (kernels.BLOCKS,)
    whole = pick(tiny, topic="accuracy", number=3)["value"]
    np.testing.assert_allclose(whole, found.last(tiny, FULL, "test_accuracy"), atol=1e-6)


def test_what_is_exact_is_exact(tiny):
    criteria = separable.judge_exact(tiny)
    assert len(criteria) == 11
    assert all(criterion.holds for criterion in criteria), criteria


def test_training_moves_the_kernels_and_lowers_the_loss(tiny):
    (losses,) = found.curve(tiny, FULL, "train_loss")
    assert losses[-1] < losses[0]
    random, learned = (found.kernel_errors(tiny, age, 3, 1) for age in ("random", "trained"))
    assert not np.allclose(random, learned)


@pytest.mark.parametrize(("channels", "k"), [(8, 3), (12, 5)])
def test_counts_are_those_of_a_loop_over_the_weights(channels, k):
    counts = {}
    for layer in LAYERS:
        at = Case(layer, 7, channels, k)
        counts[layer] = layers.counted(at, 2)
        net = nnx.eval_shape(lambda at=at: layers.network(at))
        weights = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(net)))
        assert counts[layer]["parameters"] == weights
        # Padding keeps every place, so that each weight is used at each of them.
        assert counts[layer]["multiply_adds"] == 2 * 7 * 7 * weights
    assert counts[PAIR]["parameters"] == channels * (k * k + channels)
    assert counts[NECK]["parameters"] == channels**2 // 2 + k * k * channels**2 // 16
    moved = 4 * (2 * 2 * 49 * channels + k * k * channels)
    assert counts[DEEP]["traffic_bytes"] == moved


def test_errors_are_those_of_singular_values():
    kernel = np.random.default_rng(0).normal(size=(5, 3, 2, 4)).astype(np.float32)
    missed = []
    for rank in (1, 2, 3):
        rest = np.zeros_like(kernel)
        for c in range(2):
            for d in range(4):
                left, singular, right = np.linalg.svd(kernel[:, :, c, d].astype(np.float64))
                best = (left[:, :rank] * singular[:rank]) @ right[:rank]
                rest[:, :, c, d] = kernel[:, :, c, d] - best
        missed.append(np.linalg.norm(rest) / np.linalg.norm(kernel))
    np.testing.assert_allclose(kernels.errors(jnp.asarray(kernel)), missed, atol=2e-6)


@pytest.mark.usefixtures("quick_compilation")
def test_only_kernels_with_a_window_are_cut():
    draw = jax.jit(lambda key: nnx.state(kernels.network(PAIR, 4, 3, nnx.Rngs(key)), nnx.Param))
    params = draw(jax.random.key(0))
    cut = kernels.truncated(params, 1)
    assert set(kernels.windows(params)) == {"stem", "depthwise0", "depthwise1", "depthwise2"}
    for name, kernel in kernels.windows(cut).items():
        matrices = np.moveaxis(np.asarray(kernel), (0, 1), (-2, -1))
        assert (np.linalg.matrix_rank(matrices, tol=1e-5) == 1).all(), name
    for name in ("pointwise1", "dense"):
        np.testing.assert_array_equal(cut[name]["kernel"][...], params[name]["kernel"][...])


def test_a_bottleneck_has_a_norm_after_each_convolution():
    net, split = (
        nnx.eval_shape(lambda layer=layer: kernels.network(layer, 8, 3, nnx.Rngs(0)))
        for layer in (NECK, SPLIT)
    )
    assert net.names[3:9] == (
        "reduce0", "reduce0_norm", "reduce0_activation",
        "conv0", "conv0_norm", "conv0_activation",
    )  # fmt: skip
    assert net["conv0"].kernel.shape == (3, 3, 2, 2)
    assert split.names[3:6] == (
        "column0", "row0", "block0_norm"
    )  # fmt: skip


SECONDS = {FULL: 1.0, SPLIT: 2 / 3, DEEP: 0.25, DEEP_SPLIT: 0.4, POINT: 0.2, PAIR: 0.5, NECK: 0.4}


def synthetic(*, weights=1.0, product=0.0, rank=0.5, learned=0.4, noise=0.0, deep=0.25, follow=0.0):
    """Make a table that passes; each argument plants one fault."""
    rows = []
    for channels in (16, 8):
        counts = {FULL: 9 * channels**2, POINT: channels**2, DEEP: 9 * channels}
        counts |= {SPLIT: 6 * channels**2, DEEP_SPLIT: 6 * channels}
        counts |= {PAIR: counts[DEEP] + counts[POINT]}
        counts |= {NECK: channels**2 // 2 + 9 * channels**2 // 16}
        for layer, count in counts.items():
            at = {"size": 14, "channels": channels, "kernel_size": 3}
            rows.append(parts.row("counts", layer, "multiply_adds", count, **at))
            planted = count * (weights if layer == PAIR else 1)
            rows.append(parts.row("counts", layer, "parameters", planted, **at))
            seconds = count if follow else (SECONDS | {DEEP: deep})[layer]
            moved = 10 * channels * (1 + channels * (layer == FULL) / 4)
            rows.append(parts.row("counts", layer, "traffic_bytes", moved, **at))
            for direction in DIRECTIONS if channels == 16 else ():
                for i in range(4):
                    wide = 1 + noise * (i % 2) * (layer == PAIR)
                    time = seconds * wide
                    rows.append(parts.row("time", layer, direction, time, number=i, **at))
    names = ("sobel by hand", "1x1: f(3 x) - 3 f(x)", "1x1: f(x + y) - f(x) - f(y)")
    names += ("1x1: change at other places", "1x1: 32x32x64 to 32x32x128")
    names += ("1x1: two less the one they make", "depthwise: change in other channels")
    rows += [parts.row("machine", f"{what} per second", "", 3e9) for what in ("bytes", "products")]
    rows += [parts.row("exact", name, "", product) for name in names]
    rows += [parts.row("exact", name, "", 1e-7) for name in kernels.ROUNDED]
    rows += [parts.row("exact", name, "", 3.0) for name in kernels.SHOWN]
    for number, share in ((1, 1.0), (2, 0.4), (3, 0.0)):
        for age, error in (("random", rank), ("trained", learned)):
            at = {"kernel_size": 3, "number": number}
            rows.append(parts.row("rank", age, "conv0", error * share, **at))
            rows.append(parts.row("rank", age, "stem", 0.0, **at))
        accuracy = 0.97 - 0.3 * share
        at = {"kernel_size": 3, "number": number}
        rows.append(parts.row("accuracy", FULL, "test_accuracy", accuracy, **at))
    for i, layer in enumerate((FULL, SPLIT, PAIR, NECK)):
        rows.append(parts.row("training", layer, "parameters", 5000 - i, kernel_size=3))
        for epoch in (1, 2, 3):
            at = {"kernel_size": 3, "number": epoch}
            for name, value in (
                ("train_loss", 10.0**-epoch * (1 + 9 * (layer == NECK))),
                ("test_loss", 0.5**epoch * (1 + (layer == NECK))),
                ("test_accuracy", 0.96 - 0.05 * (layer == NECK)),
            ):
                rows.append(parts.row("training", layer, name, value, **at))
    return stack(rows)


def test_the_criteria_hold_where_everything_is_as_it_should_be():
    criteria = separable.judge(synthetic())
    assert len(criteria) == 6 + 10 + 3 + 7
    assert all(criterion.holds for criterion in criteria), criteria


@pytest.mark.parametrize(
    ("fault", "claim", "count"),
    [
        ({"weights": 1.01}, "^pair / full: products and weights", 1),
        ({"product": 1e-3}, "^(Sobel|depthwise|1x1)", 7),
        ({"rank": 0.05}, "no kernel is a column times a row|nearer to rank 1", 2),
        ({"learned": 0.6}, "trained kernels are nearer", 1),
        ({"follow": 1.0, "noise": 3.0}, "^(pair / full: time|depthwise, pointwise, full)", 2),
        ({"deep": 0.1}, "^depthwise, pointwise, full", 1),
    ],
)
def test_a_planted_fault_fails_its_own_criterion(fault, claim, count):
    fallen = [c.claim for c in separable.judge(synthetic(**fault)) if not c.holds]
    assert len(fallen) == count, fallen
    assert all(re.search(claim, one) for one in fallen), fallen


def test_the_answer_on_time_is_told_and_does_not_fail_the_run():
    for follow, answer in ((1.0, "yes"), (0.0, "no")):
        times = separable.judge_times(synthetic(follow=follow, noise=0.1))[:6]
        assert all(criterion.holds for criterion in times)
        assert [c.claim.endswith(f": {answer}") for c in times].count(True) >= 5
    off = found.off_by(synthetic(), DEEP)
    np.testing.assert_allclose(off, (0.25 / 0.2) / (9 / 16))


def test_the_claims_get_their_verdicts():
    told = {claim.text.strip(): claim for claim in shown.claims(synthetic())}
    assert told["depthwise is cheaper than pointwise: products"].verdict == "only if k^2 < C"
    assert told["depthwise is cheaper than pointwise: products"].found == "0.562 to 1.12"
    assert told["in time"].verdict == "fails"
    assert told["and any 3x3 kernel: error of the nearest"].verdict == "only if of rank 1"
    assert told["and trained ones can be cut to it: accuracy"].verdict == "fails"
    assert told["trained split, a network is as good: accuracy"].verdict == "holds"
    assert told["and is as good: accuracy"].verdict == "fails"
    assert told["mixes linearly: off"].verdict == "holds"
    timed = [c.verdict for c in shown.claims(synthetic(follow=1.0)) if "of time" in c.text]
    assert timed == ["holds"] * 5
    wrong = {claim.text.strip(): claim for claim in shown.claims(synthetic(product=2.0))}
    assert wrong["mixes linearly: off"].verdict == "fails"


def test_losses_are_compared_where_training_is_equally_far():
    target, test = found.at_equal_training_loss(synthetic())
    assert target == pytest.approx(0.01)
    # The full network is there after its second epoch, the bottleneck after its third.
    np.testing.assert_allclose(test[FULL], 0.25)
    np.testing.assert_allclose(test[NECK], 0.25)


def test_the_figure_and_the_table_are_made_from_the_columns_alone():
    columns = synthetic()
    figure = separable.draw(columns)
    assert [bool(axes.lines) for axes in figure.axes if axes.get_visible()] == [True] * 5
    printed = separable.table(columns)
    assert printed.row_count == len(list(shown.claims(columns))) > 20
    assert [column.header for column in printed.columns] == ["claim", "said", "found", "verdict"]


def test_every_part_is_a_cell_that_says_which():
    told = [str(cell) for cell in separable.cells(Config())]
    assert told[:3] == ["counts", "what is exact", "times"]
    layers_trained = [FULL, FULL, SPLIT, PAIR, NECK]
    assert [one.split(", ")[1] for one in told[3:]] == layers_trained
    assert len(set(separable.cells(Config()))) == 8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sizes": (56,)}, r"sizes=\(56,\) and channels=\(64, 256\) must be equally many"),
        ({"sizes": ()}, r"sizes=\(\) must name positive numbers"),
        ({"channels": (64, 30)}, r"channels=\(64, 30\) must be multiples of 4"),
        ({"kernel_sizes": (3, 4)}, r"kernel_sizes=\(3, 4\) must be odd, 3 or more"),
        ({"width": 6}, r"width=\(6,\) must be multiples of 4"),
        ({"repeats": 0}, "repeats=0 must be at least 1"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_computed(option, message, monkeypatch):
    monkeypatch.setattr(separable, "measure", lambda cell: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        lab.measure_all(lab.experiment(separable), Config(**option))


def test_the_command_line_says_what_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(separable, "cells", lambda config: [parts.Exact()])
    monkeypatch.setattr(separable, "complete", lambda _: synthetic(learned=0.6), raising=False)
    monkeypatch.setattr(separable, "draw", lambda _: _empty())
    assert entry.main(["separable", "--runner", "here", "--out", str(tmp_path)]) == 1
    assert "FAILS (25 of 26 criteria)" in capsys.readouterr().out


def _empty():
    from matplotlib.figure import Figure

    return Figure()
