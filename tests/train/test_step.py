"""One step: against optimisers written out in float64 NumPy, and against itself in other forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convjax import gradflow, nn, train
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import quick_jit, small

pytestmark = pytest.mark.usefixtures("quick_compilation")

BARE = {"schedule": "constant", "weight_decay": 0.0, "options": {}}


def taken(net, recipe, batches, **options):
    """Return the state after a step on each batch, and all metrics."""
    step = quick_jit(train.make_step(net, recipe, **options))
    state = train.start(net, recipe, optimiser=options.get("optimiser"))
    found = []
    for images, labels in batches:
        state, metrics = step(state, jnp.asarray(images), jnp.asarray(labels))
        found.append(jax.device_get(metrics))
    return state, found


def gradients(net, images, labels, smoothing=0.0):
    """Return loss and gradients of the batch by plain means: the naive twin."""
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params):
        logits = nnx.merge(graphdef, params, rest, copy=True)(images, train=True)
        wanted = (
            jnp.eye(logits.shape[-1])[jnp.asarray(labels)] * (1 - smoothing)
            + smoothing / logits.shape[-1]
        )
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * wanted, -1))

    value, grads = quick_jit(jax.value_and_grad(loss))(params)
    return value, nnx.to_pure_dict(grads)


def close(a, b, rtol=1e-5, atol=1e-7):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_sgd_is_its_formula(pictures):
    net, (images, labels) = small("none"), pictures
    recipe = train.Recipe(
        steps=10,
        schedule="constant",
        learning_rate=0.3,
        weight_decay=0.02,
        label_smoothing=0.1,
        options={"momentum": 0.9, "nesterov": True},
    )
    state, found = taken(net, recipe, [(images[:8], labels[:8]), (images[8:15], labels[8:15])])
    twin, velocity = nnx.clone(net), None
    for i, part in enumerate((slice(0, 8), slice(8, 15))):
        loss, grads = gradients(twin, images[part], labels[part], smoothing=0.1)
        assert found[i]["loss"] == pytest.approx(float(loss), rel=1e-5)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        assert found[i]["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        params = nnx.to_pure_dict(nnx.state(twin, nnx.Param))
        mask = train.decayed(net)
        grads = jax.tree.map(lambda g, w, kept: g + 0.02 * w * kept, grads, params, mask)
        velocity = (
            grads if velocity is None else jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        )
        params = jax.tree.map(lambda w, v, g: w - 0.3 * (g + 0.9 * v), params, velocity, grads)
        graphdef, _, rest = nnx.split(twin, nnx.Param, ...)
        twin = nnx.merge(graphdef, nnx.State(params), rest)
    close(state.params, params, rtol=1e-4, atol=1e-6)


def test_clip_shortens_what_the_optimiser_sees_and_not_what_is_logged(pictures):
    net, batch = small("none"), [pictures]
    free = train.Recipe(steps=1, learning_rate=1.0, **BARE)
    clipped = dataclasses.replace(free, clip=0.01)
    before = train.start(net, free).params
    loose, tight = (taken(net, recipe, batch) for recipe in (free, clipped))
    # Two programs: a processor's vector units may sum them in other orders.
    logged = [float(losses[0]["gradient_norm"]) for _, losses in (loose, tight)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-6) and logged[1] > 0.01
    moved = jax.tree.map(jnp.subtract, tight[0].params, before)
    assert optax.tree.norm(moved) == pytest.approx(0.01, rel=1e-4)


def test_parts_of_a_batch_make_the_whole_where_no_norm_couples_them(pictures):
    net = small("group")
    whole = train.Recipe(steps=3, watch=1, **BARE)
    batches = [(pictures[0][i : i + 8], pictures[1][i : i + 8]) for i in (0, 8, 16)]
    one = taken(net, whole, batches)
    parts = taken(net, dataclasses.replace(whole, accumulate=4), batches)
    close(one[0].params, parts[0].params, rtol=1e-4, atol=1e-6)
    close(one[1], parts[1], rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_move_the_running_statistics_one_after_the_other(pictures):
    net, (images, labels) = small(), pictures
    state, _ = taken(net, train.Recipe(steps=1, accumulate=3, **BARE), [(images, labels)])

    def statistics(images):
        twin = nnx.clone(net)
        for i in range(3):
            twin(images[i::3], train=True)
        return nnx.to_pure_dict(nnx.state(twin, nnx.BatchStat))

    close(state.rest, quick_jit(statistics)(images))


def test_a_batch_that_the_parts_do_not_divide_is_refused(pictures):
    recipe = train.Recipe(accumulate=5)
    with pytest.raises(ValueError, match="accumulate=5 must divide the batch of 24"):
        taken(small(), recipe, [pictures])


def test_the_average_follows_parameters_and_statistics(pictures):
    net = small()
    recipe = train.Recipe(steps=3, average=0.3, **BARE)
    state = train.start(net, recipe)
    expected = {"params": state.params, "rest": state.rest}
    step = quick_jit(train.make_step(net, recipe))
    for count in (1, 2, 3):
        state, _ = step(state, *pictures)
        decay = min(0.3, count / (9 + count))
        now = {"params": state.params, "rest": state.rest}
        expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, expected, now)  # noqa: B023
    close(state.average, expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_is_near_and_leaves_float32_what_must_be(pictures, precision):
    net, batches = small(), [pictures] * 4
    full = train.Recipe(steps=4, **BARE)
    exact = taken(net, full, batches)
    mixed = taken(net, dataclasses.replace(full, precision=precision), batches)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((mixed[0].params, mixed[0].rest))}
    assert dtypes == {jnp.dtype("float32")}
    close(exact[1][0]["loss"], mixed[1][0]["loss"], rtol=2e-2)
    close(exact[0].rest, mixed[0].rest, rtol=5e-2, atol=5e-2)
    gaps = [
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(*map(jax.tree.leaves, (mixed[0].params, exact[0].params)), strict=True)
        if b.ndim > 1
    ]
    assert 1e-6 < max(gaps) < 0.05


class Recorded(nn.Node):
    """The identity, which notes the dtypes that it sees."""

    seen: set = set()  # noqa: RUF012

    def __call__(self, x, train=False, rngs=None):
        Recorded.seen.add(str(x.dtype))
        return x


def test_convolutions_compute_in_the_lower_precision_and_norms_do_not(pictures):
    Recorded.seen = set()
    rngs = nnx.Rngs(0)
    net = nn.Chain(
        stem=nn.Conv(2, 3, (3, 3), rngs=rngs),
        behind=Recorded(),
        norm=nn.BatchNorm(3, rngs=rngs),
        pool=nn.GlobalPool("avg"),
        dense=nn.Dense(3, 3, rngs=rngs),
    )
    recipe = train.Recipe(steps=1, precision="bfloat16", **BARE)
    # A variance that bfloat16 would lose in the mean.
    state, _ = taken(net, recipe, [(pictures[0] * 1e-2 + 8, pictures[1])])
    assert Recorded.seen == {"bfloat16"}
    made = jax.lax.conv_general_dilated(
        (pictures[0] * 1e-2 + 8).astype(jnp.bfloat16),
        net["stem"].kernel[...].astype(jnp.bfloat16),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    made = np.asarray(made.astype(jnp.float32), np.float64)
    np.testing.assert_allclose(
        state.rest["norm"]["mean"], 0.1 * made.mean((0, 1, 2)), rtol=1e-2, atol=1e-3
    )


def test_float16_halves_its_scale_and_skips_a_step_that_overflows(pictures):
    net, (images, labels) = small("none"), pictures
    recipe = train.Recipe(steps=3, precision="float16", **BARE)
    step = quick_jit(train.make_step(net, recipe))
    first = train.start(net, recipe)
    huge = dataclasses.replace(first, scale=first.scale | {"value": jnp.float32(2.0**24)})
    state, metrics = step(huge, images * 50, labels)
    assert int(metrics["skipped"]) == 1 and float(state.scale["value"]) == 2.0**23
    close(state.params, first.params, rtol=0, atol=0)
    assert int(state.step) == 1
    state, metrics = step(first, images, labels)
    assert int(metrics["skipped"]) == 0 and int(state.scale["good"]) == 1
    assert float(metrics["gradient_norm"]) == pytest.approx(
        float(optax.tree.norm(gradients(net, images, labels)[1])), rel=1e-2
    )


def test_float16_doubles_its_scale_after_two_thousand_good_steps(pictures):
    recipe = train.Recipe(steps=3, precision="float16", **BARE)
    net = small("none")
    state = train.start(net, recipe)
    state = dataclasses.replace(state, scale=state.scale | {"good": jnp.int32(1999)})
    state, _ = quick_jit(train.make_step(net, recipe))(state, *pictures)
    assert float(state.scale["value"]) == 2.0**16 and int(state.scale["good"]) == 0


def test_dropout_draws_anew_each_step_and_the_same_again(pictures):
    net, batches = small(dropout=0.5), [pictures] * 2
    still = train.Recipe(steps=2, learning_rate=0.0, **BARE)
    first, again = (taken(net, still, batches)[1] for _ in range(2))
    other = taken(net, dataclasses.replace(still, seed=1), batches)[1]
    assert first[0]["loss"] == again[0]["loss"] and first[1]["loss"] == again[1]["loss"]
    assert len({float(f["loss"]) for f in (first[0], first[1], other[0])}) == 3


def test_any_optimiser_of_optax_can_take_the_recipes_place(pictures):
    net = small()
    labels = jax.tree.map_with_path(
        lambda path, _: "frozen" if path[0].key == "stem" else "free", train.decayed(net)
    )
    optimiser = optax.multi_transform(
        {"free": optax.adam(0.1), "frozen": optax.set_to_zero()}, labels
    )
    state, _ = taken(net, train.Recipe(steps=2), [pictures] * 2, optimiser=optimiser)
    before = train.start(net, train.Recipe()).params
    close(state.params["stem"], before["stem"], rtol=0, atol=0)
    assert float(jnp.abs(state.params["dense"]["kernel"] - before["dense"]["kernel"]).max()) > 0.01


@pytest.mark.parametrize(
    ("optimiser", "rates"),
    [
        (optax.adam(1e-3), None),
        (optax.inject_hyperparams(optax.adam)(1e-3), [1e-3, 1e-3]),
        (
            optax.chain(
                optax.clip(1.0),
                optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.5, 0.0, 10)),
            ),
            [0.5, 0.45],
        ),
    ],
    ids=["not known", "a number", "a schedule"],
)
def test_the_learning_rate_that_is_logged_is_the_one_that_was_used(pictures, optimiser, rates):
    _, found = taken(small("none"), train.Recipe(steps=2), [pictures] * 2, optimiser=optimiser)
    if rates is None:
        assert "learning_rate" not in found[0]
    else:
        np.testing.assert_allclose([step["learning_rate"] for step in found], rates, rtol=1e-6)


def test_the_learning_rate_stays_where_float16_skips_a_step(pictures):
    net = small("none")
    recipe = train.Recipe(
        steps=4, precision="float16", schedule="linear", options={}, watch=1, weight_decay=0.0
    )
    step, state = quick_jit(train.make_step(net, recipe)), train.start(net, recipe)
    for count, scale in ((0, 1e5), (0, 1.0), (1, 1.0)):
        state, metrics = step(state, pictures[0] * scale, pictures[1])
        assert bool(metrics["skipped"]) == (scale > 1)
        assert float(metrics["learning_rate"]) == pytest.approx(0.1 * (1 - count / 4))
        if scale == 1:
            layers = metrics["layers"]
            used = layers["update"]["dense/bias"] / layers["gradient"]["dense/bias"]
            assert float(used) == pytest.approx(0.1 * (1 - count / 4), rel=1e-5)


@pytest.mark.parametrize("train_mode", [True, False])
def test_the_tapped_pass_is_the_plain_one(pictures, train_mode):
    net, x = small(), jnp.asarray(pictures[0])
    tokens = gradflow.tokens(gradflow.trunk(net))
    out = quick_jit(lambda x: gradflow.tapped(nnx.clone(net), x, tokens, train=train_mode))(x)
    plain = quick_jit(lambda x: nnx.clone(net)(x, train=train_mode))(x)
    np.testing.assert_array_equal(out, plain)


def test_what_is_watched_are_the_norms_of_what_the_step_did(pictures):
    net, (images, labels) = small(), pictures
    recipe = train.Recipe(
        steps=4,
        watch=2,
        schedule="constant",
        learning_rate=0.2,
        options={"momentum": 0.9},
        clip=0.5,
    )
    step = quick_jit(train.make_step(net, recipe))
    state = train.start(net, recipe)
    for number in range(3):
        before = state
        state, metrics = step(state, images, labels)
        layers = metrics["layers"]
        if number == 1:
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(layers))
            continue
        twin = nnx.merge(
            nnx.graphdef(net), nnx.State(before.params), nnx.State(before.rest), copy=True
        )
        _, grads = gradients(twin, images, labels)
        kernel = grads["body"]["unit"]["branch"]["conv"]["kernel"]
        expected = np.sqrt(np.sum(np.square(kernel), (1, 2, 3, 4)))
        path = "body/*/branch/conv/kernel"
        np.testing.assert_allclose(layers["gradient"][path], expected, rtol=1e-4)
        moved = state.params["stem"]["bias"] - before.params["stem"]["bias"]
        assert layers["update"]["stem/bias"] == pytest.approx(np.linalg.norm(moved), rel=1e-3)
        weight = np.linalg.norm(before.params["dense"]["kernel"])
        assert layers["weight"]["dense/kernel"] == pytest.approx(weight, rel=1e-5)
        norm = state.rest["body"]["unit"]["branch"]["norm"]
        np.testing.assert_allclose(
            layers["mean"]["body/*/branch/norm"],
            np.sqrt(np.mean(np.square(norm["mean"]), -1)),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            layers["variance"]["body/*/branch/norm"], np.mean(norm["var"], -1), rtol=1e-5
        )
        profile = gradflow.profile(
            twin, images, loss=train.cross_entropy, targets=labels, train=True
        )
        assert set(layers["signal"]) == {"input", "stem", "body/*", "pool", "dense"}
        for place, value in layers["signal"].items():
            np.testing.assert_allclose(value, profile[place].gradient.norm, rtol=1e-4)
    rows = train.by_path(jax.tree.map(np.asarray, layers))
    assert rows["body/1/branch/conv/kernel"]["weight"] == float(layers["weight"][path][1])
    assert rows["body/0"] == {"signal": float(layers["signal"]["body/*"][0])}
