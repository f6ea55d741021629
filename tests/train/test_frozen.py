"""Training with a part frozen: what stays, what moves, and by how much, against a step by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convjax import models, nn, train
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import quick_jit, small

pytestmark = pytest.mark.usefixtures("quick_compilation")

RECIPE = train.Recipe(
    steps=2,
    dispatch=2,
    schedule="constant",
    learning_rate=0.5,
    weight_decay=0.1,
    decayed="all",
    clip=0.01,
    options={"momentum": 0.9},
)


def normed(features=4):
    """Convolution and norm, two repeated units with norms, a norm, and a classifier."""
    net = small()
    rngs = nnx.Rngs(3)
    units = {"stem": net.stem, "first": nn.BatchNorm(features, rngs=rngs), "body": net.body}
    units |= {"last": nn.BatchNorm(features, rngs=rngs), "pool": net.pool, "dense": net.dense}
    return nn.Chain(units)


def values(net):
    return {
        "/".join(map(str, path)): np.array(variable.get_value())
        for path, variable in nnx.to_flat_state(nnx.state(net))
    }


def changed(net, before):
    after = values(net)
    return {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(source, accumulate):
    net = normed()
    split = models.freeze(net, "body")
    recipe = dataclasses.replace(RECIPE, accumulate=accumulate, average=0.9, watch=1)
    fitted = train.fit(net, source, recipe, frozen=split)
    assert changed(fitted.net, values(net)) == {"last", "dense"}
    assert changed(fitted.averaged, values(net)) == {"last", "dense"}
    moments = jax.tree.leaves(fitted.state.optimiser)
    assert sum(leaf.size for leaf in moments if leaf.ndim) == split.count["trainable"]


def test_moving_statistics_move(source):
    net = normed()
    before = values(net)
    split = models.freeze(net, "body", statistics="moving")
    after = values(train.fit(net, source, RECIPE, frozen=split).net)
    statistics = {path for path in before if path.endswith(("mean", "var"))}
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert statistics <= moved and "body/unit/branch/conv/kernel" not in moved


def test_a_step_is_that_of_the_back_on_what_the_front_gives_in_evaluation(pictures):
    net, (images, labels) = normed(), pictures
    step = quick_jit(train.make_step(net, RECIPE, frozen=models.freeze(net, "body")))
    state = train.start(net, RECIPE, frozen=models.freeze(net, "body"))
    state, metrics = step(state, images, labels)
    front = nn.Chain({name: net[name] for name in ("stem", "first", "body")})
    back = nn.Chain({name: net[name] for name in ("last", "pool", "dense")})
    graphdef, params, rest = nnx.split(back, nnx.Param, ...)

    def loss(params, features):
        logits = nnx.merge(graphdef, params, rest, copy=True)(features, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    features = quick_jit(lambda x: front(x, train=False))(images)
    value, gradients = quick_jit(jax.value_and_grad(loss))(params, features)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradients)))
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > RECIPE.clip
    # Clipped, decayed, momentum from nothing: one step of plain descent.
    moved = jax.tree.map(lambda w, g: w - 0.5 * (g * 0.01 / norm + 0.1 * w), params, gradients)
    for path, expected in nnx.to_flat_state(moved):
        found = functools.reduce(lambda tree, name: tree[name], path, state.params)
        np.testing.assert_allclose(found, expected.get_value(), rtol=1e-4, atol=1e-6)


def test_frozen_parameters_cost_no_gradient(source):
    net = normed()
    batch = (jnp.zeros((8, 5, 4, 2)), jnp.zeros(8, jnp.int32))

    def operations(up_to):
        split = models.freeze(net, up_to)
        state = train.start(net, RECIPE, frozen=split)
        step = jax.jit(train.make_step(net, RECIPE, frozen=split))
        return step.lower(state, *batch).compile().cost_analysis()["flops"]

    assert operations("body") < 0.6 * operations(None)


def test_labels_of_a_split_freeze_in_fit(source):
    net = normed()
    split = models.freeze(net, "body")
    kinds = {"trainable": optax.adam(0.1), "frozen": optax.set_to_zero()}
    for frozen, moved in ((None, {"last", "dense", "first", "body"}), (split, {"last", "dense"})):
        optimiser = optax.multi_transform(kinds, split.labels)
        fitted = train.fit(net, source, RECIPE, optimiser=optimiser, frozen=frozen)
        # Without frozen= the statistics of the norms move, and no parameter of theirs.
        assert changed(fitted.net, values(net)) == moved
    before, after = values(net), values(fitted.net)
    assert all(np.array_equal(before[path], after[path]) for path in before if "body" in path)


def test_a_repeat_alone_and_a_shared_layer_stay(pictures, source):
    net = normed()
    fitted = train.fit(net, source, RECIPE, frozen=models.freeze(net, paths="body"))
    assert changed(fitted.net, values(net)) == {"stem", "first", "last", "dense"}
    shared = nn.Chain(norm=nn.BatchNorm(2, rngs=nnx.Rngs(0)), mix=nn.Dense(2, 2, rngs=nnx.Rngs(1)))
    rest = {"pool": nn.GlobalPool("avg"), "dense": nn.Dense(2, 3, rngs=nnx.Rngs(2))}
    net = nn.Chain({"one": shared, "two": shared, **rest})
    fitted = train.fit(net, source, RECIPE, frozen=models.freeze(net, paths="two"))
    assert changed(fitted.net, values(net)) == {"dense"}


def test_rows_of_frozen_layers_have_weights_and_no_gradient(source, tmp_path):
    net = normed()
    recipe = dataclasses.replace(RECIPE, watch=1)
    train.fit(net, source, recipe, frozen=models.freeze(net, "body"), folder=tmp_path)
    layers = train.read_rows(tmp_path / "metrics.jsonl")[0]["layers"]
    assert set(layers["stem/kernel"]) == {"weight"}
    assert set(layers["dense/kernel"]) == {"weight", "gradient", "update"}


def test_splits_that_fit_nothing_are_refused(source):
    net = normed()
    with pytest.raises(ValueError, match="another network's split: 'first/bias' is in one"):
        train.fit(net, source, RECIPE, frozen=models.freeze(small(), "body"))
    with pytest.raises(ValueError, match="every parameter is frozen"):
        train.make_step(net, RECIPE, frozen=models.freeze(net, "dense"))
