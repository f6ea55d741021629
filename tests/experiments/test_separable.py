import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from convjax.lab import joined, pick
from convjax.lab.rules import FAILS, HOLDS, ONLY, OPEN
from experiments import separable
from experiments.separable import Config, kernels, layers, parts, results, sentences
from experiments.separable.layers import (
    DEEP,
    DIRECTIONS,
    FULL,
    LAYERS,
    NECK,
    PAIR,
    POINT,
    SPLIT,
    Case,
)
from tests.experiments.convolutions import SECONDS, planted
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
        rates = {"bytes_per_s": 1e10, "flops_per_s": 1e11}
        patched.setattr(parts, "machine", lambda dtype: rates)
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
    assert results.curve(tiny, FULL, "train_loss").shape == (TINY.seeds, TINY.epochs)
    assert len(pick(tiny, topic="accuracy")["value"]) == 3
    for age in ("random", "trained"):
        assert results.kernel_errors(tiny, age, 3, 1).shape == (kernels.BLOCKS,)
    whole = pick(tiny, topic="accuracy", number=3)["value"]
    np.testing.assert_allclose(whole, results.last(tiny, FULL, "test_accuracy"), atol=1e-6)


def test_what_is_exact_is_exact(tiny):
    criteria = separable.judge_exact(tiny)
    assert len(criteria) == 11
    assert all(criterion.holds for criterion in criteria), criteria


def test_training_moves_the_kernels_and_lowers_the_loss(tiny):
    (losses,) = results.curve(tiny, FULL, "train_loss")
    assert losses[-1] < losses[0]
    random, learned = (results.kernel_errors(tiny, age, 3, 1) for age in ("random", "trained"))
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


def test_the_criteria_hold_where_everything_is_as_it_should_be():
    criteria = separable.judge(planted(seconds=SECONDS))
    assert len(criteria) == 6 + 10 + 3 + 7
    assert all(criterion.holds for criterion in criteria), criteria


@pytest.mark.parametrize(
    ("fault", "claim", "count"),
    [
        ({"weights": 1.01}, "^pair / full: products and weights", 1),
        ({"off": 1e-3}, "^(Sobel|depthwise|1x1)", 7),
        ({"rank": 0.05}, "no kernel is a column times a row|nearer to rank 1", 2),
        ({"learned": 0.6}, "trained kernels are nearer", 1),
        ({"seconds": None, "noise": 3.0}, "^(pair / full: time|depthwise, pointwise, full)", 2),
        ({"times": {DEEP: 0.04}}, "^depthwise, pointwise, full", 1),
    ],
)
def test_a_planted_fault_fails_its_own_criterion(fault, claim, count):
    columns = planted(**{"seconds": SECONDS, **fault})
    fallen = [c.claim for c in separable.judge(columns) if not c.holds]
    assert len(fallen) == count, fallen
    assert all(re.search(claim, one) for one in fallen), fallen


def test_the_answer_on_time_is_told_and_does_not_fail_the_run():
    for seconds, answer in ((None, "yes"), (SECONDS, "no")):
        times = separable.judge_times(planted(seconds=seconds, noise=0.1))[:6]
        assert all(criterion.holds for criterion in times)
        assert [c.claim.endswith(f": {answer}") for c in times].count(True) >= 5
    off = results.off_by(planted(seconds=SECONDS), DEEP)
    np.testing.assert_allclose(off, (0.25 / 0.2) / (9 / 64))


SAID = planted()


def verdicts(columns):
    return {one.number: one.verdict for one in sentences.sentences(columns)}


def test_where_texts_are_right_they_are_told_so():
    found = verdicts(SAID)
    assert set(found) == {"1a", "1b", "1c", *(f"{n}{c}" for n in "23" for c in "abcdef")}
    others = {"1b", "2b", "2f", "3f"}
    assert {number for number, verdict in found.items() if verdict != HOLDS} == others
    assert found["1b"] == f"{ONLY} a kernel of rank 1 (Sobel)"
    assert found["2b"].startswith(f"{ONLY} products, C = 64, k = 3 or time")
    assert "= 8" not in found["2b"]
    assert found["2f"] == OPEN  # all are equally fast
    assert found["3f"] == FAILS


@pytest.mark.parametrize(
    ("change", "number", "verdict"),
    [
        ({"weights": 1.01}, "2d", FAILS),
        ({"weights": 1.01}, "1a", HOLDS),
        ({"rank": 0.0, "learned": 0.0}, "1b", HOLDS),
        ({"off": 1.0}, "2a", FAILS),
        ({"off": 1.0}, "3a", FAILS),
        ({"off": 1.0}, "3b", FAILS),
        ({"off": 1.0}, "3c", f"{ONLY} with ReLU between they are not"),
        ({"off": 1.0}, "1b", FAILS),
        ({"times": {PAIR: 3.0}}, "2e", FAILS),
        ({"times": {POINT: 2.0, DEEP: 4.0}}, "2f", HOLDS),
        ({"times": {POINT: 0.5, DEEP: 0.25}}, "2f", FAILS),
        ({"neck": 0.9}, "3e", FAILS),
        ({"neck_loss": 0.5}, "3f", HOLDS),
        ({"neck_loss": 0.99}, "3f", OPEN),
        ({"neck_loss": 0.5, "stuck": 1.0}, "3f", OPEN),
    ],
)
def test_sentences_turn_with_their_numbers(change, number, verdict):
    assert verdicts(planted(**change))[number] == verdict


def test_times_at_several_places_are_judged_in_the_mean():
    far = {name: column[SAID["topic"] == "time"] for name, column in SAID.items()}
    slow = np.where(far["name"] == PAIR, 3.0, 1.0)
    counts = pick(SAID, topic="counts", channels=64)
    both = joined([SAID, counts | {"size": counts["size"] * 2}])
    both = joined([both, far | {"size": far["size"] * 2, "value": far["value"] * slow}])
    told = {one.number: one for one in sentences.sentences(both)}
    assert told["2e"].verdict == FAILS and told["1c"].verdict == HOLDS
    assert "forward: 0.13 to 0.38 for 0.13" in told["2e"].shown


def test_kernels_of_rank_1_are_told_from_networks_trained_so():
    cut, apart = sentences.of_trained_kernels(SAID)
    assert (cut.verdict, apart.verdict) == (FAILS, HOLDS)
    assert cut.shown == "at rank 1: 0.67 for 0.97; at rank 2: 0.85 for 0.97"


def test_losses_are_compared_where_training_is_equally_far():
    target, test = results.at_equal_training_loss(SAID)
    assert target == pytest.approx(0.01)
    # The full network is there after its second epoch, the bottleneck after its third.
    np.testing.assert_allclose(test[FULL], 0.11)
    np.testing.assert_allclose(test[NECK], 1.5 * 0.11)


def test_the_figure_and_the_table_are_made_from_the_columns_alone():
    figure = separable.draw(SAID)
    assert [bool(axes.lines) for axes in figure.axes if axes.get_visible()] == [True] * 5
    printed = separable.table(SAID)
    numbers = list(printed.columns[0].cells)
    assert numbers == sorted([*verdicts(SAID), "1d", "1e"])


def test_every_part_is_a_cell_that_says_which():
    told = [str(cell) for cell in separable.cells(Config())]
    assert told[:3] == ["counts", "what is exact", "times"]
    layers_trained = [FULL, FULL, SPLIT, PAIR, NECK]
    assert [one.split(", ")[1] for one in told[3:]] == layers_trained


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sizes": (56,)}, r"sizes=\(56,\) and channels=\(64, 256\) must be equally many"),
        ({"sizes": ()}, r"sizes=\(\) must name positive numbers"),
        ({"sizes": (0, 14)}, r"sizes=\(0, 14\) must name positive numbers"),
        ({"kernel_sizes": ()}, "kernel_sizes=\\[\\] must hold at least one value"),
        ({"kernel_sizes": (1,)}, r"kernel_sizes=\(1,\) must be at least 3"),
        ({"channels": (64, 30)}, r"channels=\(64, 30\) must be multiples of 4"),
        ({"kernel_sizes": (3, 4)}, r"kernel_sizes=\(3, 4\) must be odd"),
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
