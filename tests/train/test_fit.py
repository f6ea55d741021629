"""The loop: where it cuts, how it resumes, what it says, and how it stops."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convjax import data, nn, train
from convjax.train._fit import spans
from tests.nn.conftest import compiling_quickly
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import Indexed, small

RECIPE = train.Recipe(
    steps=11,
    dispatch=3,
    learning_rate=0.05,
    watch=2,
    average=0.9,
    test_every=4,
    checkpoint_every=5,
)


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compile quickly; what is compared to the bit is compiled alike."""
    with compiling_quickly():
        yield


class Kept:
    """Keeps all that it is told; stops the run before a step."""

    def __init__(self, stop_at=None):
        self.rows, self.calls, self.stop_at = [], [], stop_at

    def begin(self, first, stop, batch_size):
        self.calls.append(("begin", first, stop, batch_size))

    def record(self, rows, pace):
        self.rows += rows
        self.calls.append(("record", len(rows), pace))
        if self.stop_at is not None and any(row["step"] >= self.stop_at for row in rows):
            raise KeyboardInterrupt

    def end(self):
        self.calls.append(("end",))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def untimed(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


@pytest.mark.parametrize("first", [0, 1, 5, 9, 10, 11])
def test_where_a_dispatch_ends_does_not_depend_on_where_a_run_begins(first):
    whole = list(spans(0, RECIPE))
    ends = [end for _, end in whole]
    assert ends == [3, 4, 5, 6, 8, 9, 10, 11]
    assert [begin for begin, _ in whole] == [0, *ends[:-1]]
    assert [end for _, end in spans(first, RECIPE)] == [end for end in ends if end > first]


@pytest.fixture(scope="module")
def module_pictures():
    random = np.random.default_rng(1)
    images = jnp.asarray(random.normal(size=(24, 5, 4, 2)), jnp.float32)
    return images, jnp.asarray(random.integers(0, 3, 24), jnp.int32)


@pytest.fixture(scope="module")
def whole(module_pictures, tmp_path_factory):
    """Return a run without interruption: folder, what it returned, what it said."""
    before = jax.config.jax_numpy_dtype_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    folder, kept = tmp_path_factory.mktemp("whole"), Kept()
    source = Indexed(*module_pictures, batch_size=8)
    fitted = train.fit(
        small(), source, RECIPE, folder=folder, test=module_pictures, observers=[kept]
    )
    jax.config.update("jax_numpy_dtype_promotion", before)
    return folder, fitted, kept


def test_a_run_is_its_steps_one_by_one(module_pictures, whole):
    _, fitted, _ = whole
    source, net = Indexed(*module_pictures, batch_size=8), small()
    step = jax.jit(train.make_step(net, RECIPE))
    state = train.start(net, RECIPE)
    for number in range(RECIPE.steps):
        inputs = source.inputs(number, 1)[0]
        state, metrics = step(state, *source.batch(source.arrays, inputs, None))
        row = [r for r in fitted.rows if (r["kind"], r["step"]) == ("train", number)]
        assert len(row) == 1
        assert row[0]["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        fitted.state.params,
        state.params,
    )


def test_rows_tell_each_step_once_and_the_layers_of_watched_steps(whole):
    folder, fitted, kept = whole
    rows = kept.rows
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(11))
    assert [row["step"] for row in rows if row["kind"] == "test"] == [4, 8, 11]
    watched = [row["step"] for row in rows if "layers" in row]
    assert watched == [0, 2, 4, 6, 8, 10]
    layers = rows[0]["layers"]
    assert set(layers["body/1/branch/conv/kernel"]) == {"gradient", "update", "weight"}
    assert set(layers["body/0/branch/norm"]) == {"mean", "variance"}
    assert set(layers["body/1"]) == {"signal"}
    units = ["input", "stem", "body/0", "body/1", "pool", "dense"]
    assert [path for path in layers if path in units] == units
    assert not math.isfinite(kept.calls[1][2].images_per_second)
    assert kept.calls[2][2].images_per_second > 0
    assert untimed(folder / "metrics.jsonl") == json.loads(json.dumps(rows))
    assert list(fitted.rows) == rows and type(rows[0]["layers"]) is dict
    assert json.loads(json.dumps(fitted.rows, default=dict)) == json.loads(json.dumps(rows))
    same(train.layer_columns(fitted.rows), train.layer_columns(rows))
    assert kept.calls[0] == ("begin", 0, 11, 8) and kept.calls[-1] == ("end",)


def test_the_result_is_the_last_state_as_networks(module_pictures, whole):
    _, fitted, _ = whole
    assert int(fitted.state.step) == 11
    for net, name in ((fitted.net, ""), (fitted.averaged, "average_")):
        found = train.evaluate(net, module_pictures)
        assert found["loss"] == pytest.approx(fitted.test[f"{name}loss"], rel=1e-6)
        assert found["accuracy"] == pytest.approx(fitted.test[f"{name}accuracy"])
    assert fitted.test["loss"] != fitted.test["average_loss"]


@pytest.mark.every(3)
@pytest.mark.parametrize("stop_at", [1, 6, 10])
def test_a_run_that_was_stopped_ends_with_the_same_bits(module_pictures, whole, tmp_path, stop_at):
    folder, fitted, _ = whole
    source = Indexed(*module_pictures, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        train.fit(
            small(),
            source,
            RECIPE,
            folder=tmp_path,
            test=module_pictures,
            observers=[Kept(stop_at)],
        )
    kept = Kept()
    again = train.fit(
        small(), source, RECIPE, folder=tmp_path, test=module_pictures, observers=[kept]
    )
    assert kept.calls[0][1] == {1: 0, 6: 5, 10: 10}[stop_at]
    same(again.state, fitted.state)
    assert again.test == fitted.test
    assert untimed(tmp_path / "metrics.jsonl") == untimed(folder / "metrics.jsonl")


def test_a_finished_run_is_not_run_again(module_pictures, whole):
    folder, fitted, _ = whole
    before = (folder / "metrics.jsonl").read_bytes()
    source = Indexed(*module_pictures, batch_size=8)
    again = train.fit(small(), source, RECIPE, folder=folder, test=module_pictures)
    same(again.state, fitted.state)
    assert again.test == fitted.test and again.rows == ()
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("recipe", "options", "order", "said"),
    [
        (dataclasses.replace(RECIPE, learning_rate=0.5), {}, 0, "learning_rate"),
        (RECIPE, {"norm": "group"}, 0, "network"),
        (RECIPE, {"seed": 1}, 0, "initial values"),
        (RECIPE, {}, 1, "data"),
    ],
)
def test_the_folder_of_another_run_is_refused(module_pictures, whole, recipe, options, order, said):
    folder, _, _ = whole
    source = Indexed(*module_pictures, batch_size=8, seed=order)
    with pytest.raises(ValueError, match=said):
        train.fit(small(**options), source, recipe, folder=folder)


def test_the_network_that_was_given_is_left_as_it_was(source, quick_compilation):
    net = small()
    before = jax.tree.map(np.array, nnx.state(net))
    train.fit(net, source, train.Recipe(steps=2, dispatch=2))
    same(jax.tree.map(np.array, nnx.state(net)), before)


class Poisoned(Indexed):
    """Gives infinite images at one step."""

    def inputs(self, first, steps):
        bad = np.arange(first, first + steps) == self.bad
        return {"index": super().inputs(first, steps), "bad": bad}

    def batch(self, arrays, inputs, key):
        images, labels = super().batch(arrays, inputs["index"], key)
        return jnp.where(inputs["bad"], jnp.inf, images), labels


def test_what_is_not_finite_stops_the_run_and_names_step_unit_and_checkpoint(
    pictures, tmp_path, quick_compilation
):
    source = Poisoned(*pictures, batch_size=8)
    source.bad = first = 7
    kept = Kept()
    recipe = train.Recipe(steps=40, dispatch=4, checkpoint_every=2, learning_rate=0.01)
    with pytest.raises(train.Diverged) as caught:
        train.fit(small(), source, recipe, folder=tmp_path, observers=[kept])
    message = str(caught.value)
    assert f"step {first} is not finite: the activation of unit 'input' is NaN" in message
    assert f"The state before it is checkpoint {first} in" in message
    assert caught.value.step == first == int(caught.value.state.step)
    assert kept.calls[-1] == ("end",)
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        step, state = checkpoints.restore(caught.value.state)
    assert step == first
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


class Spoiling(nn.Node):
    """Makes numbers infinite once its parameter has grown."""

    def __init__(self):
        self.value = nnx.Param(jnp.float32(1.0))

    def __call__(self, x, train=False, rngs=None):
        return x * jnp.where(jnp.abs(self.value[...] - 1) > 1e-3, jnp.inf, self.value[...])


def test_the_unit_where_it_began_is_named(source, quick_compilation):
    net = small()
    spoiled = nn.Chain({**dict(net.items()), "spoiling": Spoiling()})
    with pytest.raises(train.Diverged, match="the activation of unit 'spoiling' is NaN or inf"):
        train.fit(spoiled, source, train.Recipe(steps=9, dispatch=4, learning_rate=0.3))


def test_float16_that_only_skips_is_no_divergence(pictures, quick_compilation):
    source = Indexed(pictures[0] * 1e3, pictures[1], batch_size=8)
    recipe = train.Recipe(steps=3, dispatch=3, precision="float16", learning_rate=1e-4)
    rows = train.fit(small("none"), source, recipe).rows
    assert len(rows) == 3 and rows[0]["skipped"] == 1
    assert rows[1]["scale"] == rows[0]["scale"] / 2


def rate_that_is_infinite_at(step):
    return optax.sgd(lambda count: jnp.where(count == step, jnp.inf, 0.1))


@pytest.mark.parametrize(("bad", "every"), [(3, 0), (1, 2)])
def test_an_update_that_is_not_finite_is_found_though_no_step_follows(
    source, tmp_path, bad, every, quick_compilation
):
    recipe = train.Recipe(steps=4, dispatch=4, checkpoint_every=every)
    optimiser = rate_that_is_infinite_at(bad)
    with pytest.raises(train.Diverged, match=f"step {bad} is not finite: its update") as caught:
        train.fit(small("none"), source, recipe, folder=tmp_path, optimiser=optimiser)
    assert "of a finite loss and gradient. The state before it is checkpoint" in str(caught.value)
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert list(checkpoints.steps) == [bad]
        _, state = checkpoints.restore(caught.value.state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_labels_of_more_classes_than_outputs_are_refused_before_the_first_step(pictures):
    images, labels = pictures
    source = data.resident(np.asarray(images), np.asarray(labels), batch_size=8, classes=10)
    with pytest.raises(ValueError, match=r"source has 10 classes.* up to 9; net returns 3 classes"):
        train.fit(small(), source, train.Recipe(steps=2))


def test_labels_of_a_test_are_refused_before_the_first_step(source, pictures):
    images, labels = pictures
    kept = Kept()
    with pytest.raises(ValueError, match=r"test labels\[5\]=7 is no class: there are 3 classes"):
        train.fit(
            small(),
            source,
            train.Recipe(steps=2),
            test=(images, labels.at[5].set(7)),
            observers=[kept],
        )
    assert not kept.calls


def test_a_source_that_does_not_tell_its_classes_stops_the_run(pictures, quick_compilation):
    source = Indexed(pictures[0], pictures[1] + 1, batch_size=24)
    with pytest.raises(train.Diverged, match=r"step 0 .*=3 is no class: there are 3 classes"):
        train.fit(small("none"), source, train.Recipe(steps=2, dispatch=2))
