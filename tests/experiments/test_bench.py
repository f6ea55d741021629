"""Timing, tables and the figure that benchmarks share, and the smaller benchmarks whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from convjax import study as studies
from experiments.benchmarks import _report, accelerate, profile, timing, trained
from tests.nn.conftest import quick_compilation as quick_compilation


def test_functions_take_turns_in_changing_orders_after_one_run_unmeasured():
    log = []

    def timer(name):
        return lambda count: log.append(name) or float(count)

    samples = timing.alternate({}, repeats=4, elsewhere={name: timer(name) for name in "abc"})
    assert "".join(log) == "abc" + "abc" + "bac" + "cab" + "acb"
    assert samples == {name: [1.0] * 4 for name in "abc"}


def test_short_functions_run_until_a_sample_is_long_enough():
    counts = []

    def timer(count):
        counts.append(count)
        return 1e-4 * count

    samples = timing.alternate({}, repeats=3, min_seconds=0.005, elsewhere={"short": timer})
    assert samples["short"] == pytest.approx([1e-4] * 3)
    assert counts[:2] == [1, 1] and len(set(counts[-3:])) == 1
    assert 50 <= counts[-1] <= 100


@pytest.mark.parametrize(("seconds", "rounds"), [(0.9, 7), (1.5, 4), (20.0, 3)])
def test_slow_functions_leave_early_but_not_before_the_third_round(seconds, rounds):
    timers = {"slow": lambda count: seconds * count, "fast": lambda count: 0.1 * count}
    samples = timing.alternate({}, repeats=7, slow_seconds=1.0, elsewhere=timers)
    assert (len(samples["slow"]), len(samples["fast"])) == (rounds, 7)
    assert len(timing.alternate({}, repeats=1, elsewhere=timers)["slow"]) == 1


def test_functions_of_this_process_are_timed_to_their_end():
    calls = []

    def function():
        calls.append(1)
        return jnp.ones(3) * 2

    (seconds,) = timing.alternate({"f": function}, repeats=1, min_seconds=1e-3)["f"]
    assert 0 < seconds < 1
    assert len(calls) >= 2


def test_pairs_are_of_whole_rounds(monkeypatch):
    clock = itertools.cycle([0.0, 2.0, 2.0, 5.0])  # first, second; then second, first
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    found = timing.pairs(lambda: None, lambda: None, 4)
    assert found == [(2.0, 3.0), (3.0, 2.0)] * 2


def test_a_comparison_is_of_one_step_and_its_ratio_a_median_of_ratios():
    row = timing.comparison("a / b", [(6.0, 3.0), (3.0, 3.0), (30.0, 6.0)], 1.5, steps=3)
    assert (row["first_s"], row["second_s"]) == (2.0, 1.0)
    assert (row["ratio"], row["least"], row["most"], row["target"]) == (2.0, 1.0, 5.0, 1.5)


def test_means():
    assert timing.geometric_mean([0.5, None, 8.0]) == pytest.approx(2)
    assert timing.geometric_mean([None]) is None
    assert timing.median([5.0, 1.0, 2.0]) == 2


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.001234, "0.00123"), (1.0, "1.00"), (123.4, "123"), (0, "0")]
)
def test_numbers_have_three_significant_digits(value, text):
    assert _report.number(value) == text


def test_a_table_says_whether_a_target_is_met():
    rows = [
        timing.comparison("", [(ratio, 1.0)], target)
        for ratio, target in ((1.01, 1.03), (1.04, 1.03), (2.0, None))
    ]
    *_, ratios, _, targets = _report.comparisons("title", rows).columns
    assert list(ratios.cells) == ["1.010", "1.040", "2.000"]
    assert list(targets.cells) == ["1.03 met", "1.03 missed", ""]


def test_the_figure_has_a_geometric_mean_and_its_range_for_every_kind_and_framework():
    panels = {
        "forward": {"dense": {"lax": [0.5, 2.0], "PyTorch": [1.0, 4.0]}},
        "both": {"dense": {"PyTorch": [3.0]}, "norm": {"PyTorch": [0.1], "lax": []}},
    }
    figure = _report.ratios("title", panels)
    forward, both = figure.panels
    drawn = {series.label: (*series.low, *series.y, *series.high) for series in forward.series}
    assert drawn == {"PyTorch": (1, 2, 4), "lax": (0.5, 1, 2)}
    assert {series.label: list(series.y) for series in both.series} == {
        "PyTorch": pytest.approx([3.0, 0.1]),
        "lax": [],
    }
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["dense", "norm"]
    assert _report.ratios("title", {"forward": {"dense": {"lax": []}}}) is None


def test_accelerate_tells_how_many_times_as_fast(bench):
    options = ["--networks", "mobilenet_v1", "--batch-size", "2", "--size", "8", "--units", "1"]
    kept, printed = bench("accelerate", *options, "--repeats", "1")
    first, *others = kept["rows"][0]["seconds"].values()
    said = next(line for line in printed.out.splitlines() if "MobileNetV1, Flax" in line)
    told = [float(word) for word in said.split()[-2:]]
    np.testing.assert_allclose(told, [first / other for other in others], rtol=0.01)


@pytest.mark.later
@pytest.mark.parametrize(
    "options", [{"conv_general_dilated": ops.conv_general_dilated}, {"by": ops.accelerate}]
)
@pytest.mark.parametrize("name", ["mobilenet_v1", "resnet_50"])
def test_accelerate_changes_no_gradient(name, options):
    small = accelerate.Config(batch_size=2, size=16, units=2)
    theirs = accelerate.gradient(name, small)()
    ours = accelerate.gradient(name, small, **options)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)


@pytest.mark.slow
def test_memory_tells_memory_and_time_of_each_mode(bench):
    options = ["--depths", "20", "--batch-size", "2", "--timed-batch-size", "1", "--repeats", "1"]
    kept, printed = bench("memory", *options)
    rows = kept["rows"]
    assert [row["remat"] for row in rows] == ["none", "unit", "sqrt"]
    none, unit, sqrt = (row["temporary"] for row in rows)
    assert none > 1.5 * unit and unit == sqrt and all(row["seconds"] for row in rows)
    said = [line.split() for line in printed.out.splitlines()]
    cells = ["20", "sqrt", f"{sqrt / 1e6:,.1f}", _report.number(sqrt / none)]
    assert cells in [line[:4] for line in said]


@pytest.mark.slow
def test_profile_makes_six_comparisons(bench, monkeypatch, quick_compilation):
    monkeypatch.setattr(profile, "FIRST", (("resnet20_cifar", 8), ("resnet20_cifar", 12)))
    options = ["--depth", "8", "--batch-size", "2", "--deep", "6", "--shallow", "4"]
    options += ["--repeats", "1"]
    kept, printed = bench("profile", *options)
    assert len(kept["rows"]) == 6
    assert all(row["what"] in printed.out and row["ratio"] > 0 for row in kept["rows"])


def test_study_tells_what_a_cell_costs_and_leaves_no_study_behind(bench, tmp_path, monkeypatch):
    # The runner's processes take seconds to start, and have tests of their own.
    class Local(studies.Here):
        def __init__(self, workers, *, platform):
            self.workers = workers

    monkeypatch.setattr(studies, "Local", Local)
    kept, printed = bench("study", "--cells", "3", "--repeats", "2", "--workers", "2")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench_study.json"]
    assert {row["what"]: len(row["seconds"]) for row in kept["rows"]} == {
        "in this process": 2,
        "by the local runner": 2,
        "again, where all is there": 4,
        "read into one table": 4,
    }
    assert {row["what"]: row["target"] for row in kept["rows"] if row["target"]} == {
        "by the local runner": 0.015,
        "read into one table": 5.0,
    }
    assert kept["workers"] == 2
    assert "A study of 3 cells that do nothing, 2 processes" in printed.out
    assert "5 ms, 0.015" in printed.out and "Load of the machine" in printed.out


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("accelerate", ["--repeats", "0"], "repeats=0 must be at least 1"),
        ("study", ["--cells", "0"], "cells=0 must be at least 1"),
        ("memory", ["--depths", "21"], "depth=21 is not 6n"),
    ],
)
def test_what_cannot_be_measured_is_refused(refused, name, options, told):
    assert told in refused(name, *options)


def test_theory_is_held_against_sound_networks(bench):
    kept, said = bench("theory", "--networks", "relu grouped", "activation as", "--draws", "3")
    rows = {row["name"]: row for row in kept["rows"]}
    assert set(rows) == {"plain relu grouped", "activation as a branch"}
    for row in kept["rows"]:
        assert row["alarms"] == sum(row["blamed"].values()) <= row["draws"] == 3
    gain = rows["activation as a branch"]["gradient"]
    assert gain["measured"] == pytest.approx(gain["expected"], abs=0.2)
    assert "False alarms of theory" in said.out and "* decides" in said.out


def test_networks_that_are_not_in_the_list(refused):
    assert "networks='nothing' is part of no name" in refused("theory", "--networks", "nothing")


@pytest.mark.later
def test_trained_networks_are_held_against_theory(bench, monkeypatch, quick_compilation):
    some = trained.networks
    monkeypatch.setattr(trained, "networks", lambda config: {"plain": some(config)["plain"]})
    options = ["--depth", "8", "--width", "4", "--steps", "0", "3", "--seeds", "2"]
    kept, printed = bench("trained", *options)
    assert len(kept["rows"]) == 2 * 2 * 2
    assert "plain" in printed.out and "by measured variances" in printed.out
    for row in kept["rows"]:
        assert row["whole"] == pytest.approx(-sum(row["gains"]))
        # Little has been learned, and most of the gain is what theory says.
        assert abs(row["whole"]) < 0.5 and np.median(np.abs(row["gains"])) < 0.03
    losses = [row["loss"] for row in kept["rows"] if row["seed"] == 0]
    assert losses[0] == losses[1] > losses[2] == losses[3]


def test_steps_of_training_must_rise(refused):
    assert "steps=(3, 1) must rise" in refused("trained", "--steps", "3", "1")
