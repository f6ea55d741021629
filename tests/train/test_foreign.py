"""Networks of other frameworks in fit, against plain loops in each framework's own style."""

import dataclasses
import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from convjax import nn, train
from convjax.train._step import keys_of
from tests.foreign import nnx_networks
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import Indexed, quick_jit

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS = 3
RECIPE = train.Recipe(
    steps=STEPS,
    dispatch=STEPS,
    schedule="constant",
    learning_rate=0.1,
    weight_decay=0.0,
    options={"momentum": 0.9},
)


class Block(nnx.Module):
    def __init__(self, features, *, rngs):
        self.conv = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x, train):
        return nnx.relu(x + self.bn(self.conv(x), use_running_average=not train))


class ByCall(nnx.Module):
    """The mode is passed."""

    def __init__(self, *, rngs):
        self.stem = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(4, rngs=rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, train: bool = False):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, train)
        return self.fc(self.dropout(x.mean((1, 2)), deterministic=not train))


class ByAttribute(nnx.Module):
    """The mode is that of net.train() and net.eval()."""

    def __init__(self, *, rngs):
        self.stem = nnx.Sequential(nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs))
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.stem(x))
        return self.fc(self.dropout(x.mean((1, 2))))


class Given(ByAttribute):
    """Random numbers are passed too."""

    def __call__(self, x, *, rngs):
        x = nnx.gelu(self.stem(x))
        return self.fc(self.dropout(x.mean((1, 2)), rngs=rngs))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        h = linen.Conv(4, (3, 3))(x)
        h = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(h))
        h = linen.Dropout(0.3, deterministic=not train)(h.mean((1, 2)))
        return linen.Dense(3)(h)


class Haiku(hk.Module):
    def __call__(self, x, is_training):
        h = hk.Conv2D(4, 3)(x)
        h = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(h, is_training))
        return hk.Linear(3)(h.mean((1, 2)))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    bn: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(2, 4, 3, padding=1, key=one)
        self.bn = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.head = eqx.nn.Linear(4, 3, key=two)

    def __call__(self, x, state):
        h, state = self.bn(self.conv(jnp.moveaxis(x, -1, 0)), state)
        return self.head(jax.nn.relu(h).mean((1, 2))), state


def loss_of(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batches(source, steps=STEPS):
    for step in range(steps):
        yield source.batch(source.arrays, source.inputs(step, 1)[0], None)


def key_of(step, recipe=RECIPE):
    return keys_of(recipe, jnp.int32(step))[1]


def in_nnx(net, source, **how):
    """Return losses and state of a loop as NNX's documentation has it, and a test in evaluation."""
    net = nnx.clone(net)
    net.train()
    optimiser = nnx.Optimizer(net, optax.sgd(0.1, momentum=0.9, nesterov=False), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimiser, images, labels, key):
        def loss(net):
            rngs = {"rngs": nnx.Rngs(dropout=key)} if isinstance(net, Given) else {}
            return loss_of(net(images, **rngs, **dict.fromkeys(how, True)), labels)

        value, gradients = nnx.value_and_grad(loss)(net)
        optimiser.update(net, gradients)
        return value

    losses = [step(net, optimiser, *batch, key_of(i)) for i, batch in enumerate(batches(source))]
    net.eval()
    rngs = {"rngs": None} if isinstance(net, Given) else {}
    logits = net(source.arrays["images"], **rngs, **dict.fromkeys(how, False))
    return losses, held(net), loss_of(logits, source.arrays["labels"])


def in_optax(apply, params, source, evaluated):
    """Return losses, parameters and statistics of a loop over a pure function, and a test."""
    optimiser = optax.sgd(0.1, momentum=0.9)
    params, statistics = params["params"], {k: v for k, v in params.items() if k != "params"}
    state, losses = optimiser.init(params), []

    @quick_jit
    def step(params, statistics, state, images, labels, key):
        def loss(params):
            logits, updates = apply({"params": params, **statistics}, images, key)
            return loss_of(logits, labels), updates

        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        moves, state = optimiser.update(gradients, state)
        return optax.apply_updates(params, moves), updates, state, value

    for i, batch in enumerate(batches(source)):
        params, statistics, state, value = step(params, statistics, state, *batch, key_of(i))
        losses.append(value)
    after = {"params": params, **statistics}
    logits = evaluated(after, source.arrays["images"])
    return losses, after, loss_of(logits, source.arrays["labels"])


def held(net):
    return {
        "/".join(map(str, path)): variable[...]
        for path, variable in nnx.to_flat_state(nnx.state(net))
        if jnp.issubdtype(variable[...].dtype, jnp.number)
    }


def assert_same(found, expected, rtol=2e-4):
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=rtol, atol=1e-6, err_msg=path)


def assert_fits(fitted, losses, test):
    rows = [row["loss"] for row in fitted.rows if row["kind"] == "train"]
    np.testing.assert_allclose(rows, losses, rtol=1e-5)
    assert fitted.test["loss"] == pytest.approx(float(test), rel=1e-5)


@pytest.fixture
def test_set(source):
    return source.arrays["images"], source.arrays["labels"]


@pytest.mark.parametrize(
    ("kind", "how"),
    [(ByCall, {"train"}), (ByAttribute, set()), (Given, set())],
    ids=["mode by call", "mode by attribute", "random numbers by call"],
)
def test_a_network_of_nnx_is_trained_as_it_is(source, test_set, kind, how):
    net = kind(rngs=nnx.Rngs(0, dropout=1))
    net.eval()  # whatever it was set to before
    before = held(net)
    losses, after, test = in_nnx(net, source, **dict.fromkeys(how))
    fitted = train.fit(net, source, RECIPE, test=test_set)
    assert_fits(fitted, losses, test)
    assert_same(held(fitted.net), after)
    assert_same(held(net), before, 0)
    moved = [path for path in before if not np.array_equal(before[path], after[path])]
    assert any(path.endswith("var") for path in moved)
    assert any(path.endswith("count") for path in moved) == (kind is not Given)
    assert train.evaluate(fitted.net, test_set)["loss"] == pytest.approx(float(test), rel=1e-5)


def linen_net(source):
    module = Linen()
    variables = jax.jit(lambda key, x: module.init(key, x, False))(
        jax.random.key(0), source.arrays["images"][:1]
    )

    def apply(v, x, train, rngs=None):
        keys = None if rngs is None else {"dropout": rngs.dropout()}
        return module.apply(v, x, train, rngs=keys, mutable=["batch_stats"] if train else False)

    def plain(v, x, key):
        keys = {"dropout": nnx.Rngs(key).dropout()}
        return module.apply(v, x, True, rngs=keys, mutable=["batch_stats"])

    return variables, apply, plain, lambda v, x: module.apply(v, x, False)


def haiku_net(source):
    f = hk.transform_with_state(lambda x, is_training: Haiku()(x, is_training))
    init = jax.jit(f.init, static_argnums=2)
    params, state = init(jax.random.key(0), source.arrays["images"][:1], True)

    def apply(v, x, is_training):
        y, state = f.apply(v["params"], v["state"], None, x, is_training)
        return y, {"state": state}

    def evaluated(v, x):
        return f.apply(v["params"], v["state"], None, x, False)[0]

    return {"params": params, "state": state}, apply, lambda v, x, key: apply(v, x, True), evaluated


def equinox_net(source):
    net, state = eqx.nn.make_with_state(Equinox)(jax.random.key(0))
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)

    def run(v, x, inference):
        net = eqx.nn.inference_mode(eqx.combine(v["params"], rest), inference)
        mapped = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return mapped(x, v["state"])

    def apply(v, x, train):
        y, state = run(v, x, not train)
        return y, {"state": state}

    variables = {"params": arrays, "state": state}
    return variables, apply, lambda v, x, key: apply(v, x, True), lambda v, x: run(v, x, True)[0]


@pytest.mark.parametrize("made", [linen_net, haiku_net, equinox_net])
def test_a_function_of_another_framework_is_trained_with_its_statistics(source, test_set, made):
    variables, apply, plain, evaluated = made(source)
    net = nn.Function(apply, variables)
    losses, after, test = in_optax(plain, variables, source, evaluated)
    fitted = train.fit(net, source, RECIPE, test=test_set)
    assert_fits(fitted, losses, test)
    assert_same(held(fitted.net), held(nn.Function(apply, after)))


def test_a_network_of_linen_is_trained_through_the_bridge(source, test_set):
    images = source.arrays["images"]
    net = nnx.bridge.ToNNX(Linen(), rngs=nnx.Rngs(0, dropout=1))
    net = nnx.bridge.lazy_init(net, images[:1], False)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def apply(v, x, key):
        copy = nnx.merge(graphdef, v["params"], v["rest"], copy=True)
        y = copy(x, True, mutable=["batch_stats"])
        return y, {"rest": nnx.split(copy, nnx.Param, ...)[2]}

    def evaluated(v, x):
        return nnx.merge(graphdef, v["params"], v["rest"], copy=True)(x, False)

    variables = {"params": params, "rest": rest}
    losses, after, test = in_optax(apply, variables, source, evaluated)
    fitted = train.fit(net, source, RECIPE, test=test_set)
    assert_fits(fitted, losses, test)
    after = nnx.merge(graphdef, after["params"], after["rest"])
    assert_same(held(fitted.net), held(after))


class Pair(ByCall):
    """Returns its features as well."""

    def __call__(self, x, train: bool):
        return super().__call__(x, train), x


def test_call_says_how_a_network_is_called(source, test_set):
    net = ByCall(rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(net)
    pair = nnx.merge(graphdef, state)
    pair.__class__ = Pair
    run = functools.partial(train.fit, source=source, recipe=RECIPE, test=test_set)
    plain, found = run(net), run(pair, call=lambda net, x, train: net(x, train)[0])
    assert [row["loss"] for row in found.rows] == [row["loss"] for row in plain.rows]
    assert_same(held(found.net), held(plain.net), 0)


class Stopped:
    """Ends a run after a step."""

    def __init__(self, step):
        self.step, self.first = step, None

    def begin(self, first, stop, batch_size):
        self.first = first

    def record(self, rows, pace):
        if any(row["step"] >= self.step for row in rows):
            raise KeyboardInterrupt

    def end(self):
        pass


def of_linen(source):
    variables, apply, *_ = linen_net(source)
    return nn.Function(apply, variables)


LONG = dataclasses.replace(RECIPE, steps=5, dispatch=2, checkpoint_every=2, average=0.9, watch=2)


@pytest.mark.parametrize("made", [lambda source: ByAttribute(rngs=nnx.Rngs(0)), of_linen])
def test_a_run_goes_on_to_the_bit(source, test_set, tmp_path, made):
    """What draws random numbers and what moves is in the checkpoint; another object is no other."""
    run = functools.partial(train.fit, source=source, recipe=LONG, test=test_set)
    whole, stopped = run(made(source)), Stopped(3)
    with pytest.raises(KeyboardInterrupt):
        run(made(source), folder=tmp_path, observers=[stopped])
    observer = Stopped(99)
    again = run(made(source), folder=tmp_path, observers=[observer])
    assert (stopped.first, observer.first) == (0, 2)
    for one, other in zip(*map(jax.tree.leaves, (whole.state, again.state)), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = map(jax.random.key_data, (one, other))
        np.testing.assert_array_equal(one, other)
    assert again.test == whole.test and "average_loss" in again.test


def test_another_network_of_another_framework_is_another_run(source, tmp_path):
    run = functools.partial(train.fit, source=source, recipe=RECIPE, folder=tmp_path)
    run(ByAttribute(rngs=nnx.Rngs(0)))
    evaluated = ByAttribute(rngs=nnx.Rngs(0))
    evaluated.eval()
    assert run(evaluated).rows == ()
    with pytest.raises(ValueError, match="'network/blocks/0/bn' is absent there"):
        run(ByCall(rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="'initial values/"):
        run(ByAttribute(rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match="'call' is absent there"):
        run(ByAttribute(rngs=nnx.Rngs(0)), call=lambda net, x: net(x))


def test_weight_decay_leaves_out_what_there_is_one_of_for_each_channel(source):
    mask = train.decayed(ByCall(rngs=nnx.Rngs(0)))
    assert mask["fc"] == {"kernel": True, "bias": False}
    assert mask["blocks"][0]["bn"] == {"scale": False, "bias": False}
    variables, apply, *_ = haiku_net(source)
    mask = train.decayed(nn.Function(apply, variables))
    kept = {name for name, word in mask.items() if word}
    assert kept == {"haiku/conv2_d/w", "haiku/linear/w"}


def test_half_precision_is_near_single(source):
    def losses(precision):
        recipe = dataclasses.replace(RECIPE, precision=precision)
        return [
            row["loss"] for row in train.fit(ByAttribute(rngs=nnx.Rngs(0)), source, recipe).rows
        ]

    single, half = losses("float32"), losses("bfloat16")
    assert half != single
    np.testing.assert_allclose(half, single, rtol=0.02)


def test_what_cannot_be_done_is_refused(source):
    net = ByCall(rngs=nnx.Rngs(0))
    recipe = dataclasses.replace(RECIPE, remat="unit")
    with pytest.raises(ValueError, match=r"remat='unit': net=ByCall holds no nn.Repeat"):
        train.make_step(net, recipe)
    with pytest.raises(ValueError, match=r"'BatchNorm_0/mean' of net=Function is not an nnx.Batch"):
        train.make_step(of_linen(source), RECIPE, axis_name="data")
    train.make_step(net, RECIPE, axis_name="data")


def test_other_statistics_than_those_that_were_given_are_refused():
    def apply(params, x, train):
        return x * params["params"]["w"], {"sown" if train else "mean": jnp.zeros(())}

    net = nn.Function(apply, {"params": {"w": jnp.ones(())}, "mean": {"m": jnp.ones(())}})
    with pytest.raises(ValueError, match=r"new values of 'sown'; it may return whole .* \('mean'"):
        net(jnp.ones((1, 2)), train=True)
    with pytest.raises(ValueError, match="new values of 'mean', which differs in 'm' from"):
        net(jnp.ones((1, 2)), train=False)


WATCHED = dataclasses.replace(RECIPE, watch=2)


def first_cotangent(net, images, labels):
    """Return the gradient of the first step's loss by the logits."""
    logits = nnx.clone(net)(images, train=True)
    return jax.grad(loss_of)(logits, labels)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_units_are_watched_while_they_learn(source, accumulate):
    """The norms at the trunk are those by perturbations; parts of a batch add up by squares."""
    net, (images, labels) = ByCall(rngs=nnx.Rngs(0)), next(batches(source))
    recipe = dataclasses.replace(WATCHED, accumulate=accumulate)
    plain = train.fit(net, source, dataclasses.replace(recipe, watch=0))
    fitted = train.fit(net, source, recipe)
    assert [row["loss"] for row in fitted.rows] == [
        pytest.approx(row["loss"], rel=1e-5) for row in plain.rows
    ]
    assert_same(held(fitted.net), held(plain.net))
    assert ["layers" in row for row in fitted.rows] == [True, False, True]
    layers = fitted.rows[0]["layers"]
    signal = {path: kinds["signal"] for path, kinds in layers.items() if "signal" in kinds}
    blocks = "blocks/0/add blocks/0/relu blocks/1/add blocks/1/relu"
    assert list(signal) == f"input stem {blocks} global_avg_pool dropout fc".split()
    assert set(layers["blocks/0/conv/kernel"]) == {"gradient", "update", "weight"}
    assert set(layers["blocks/0/bn"]) == {"mean", "variance"}
    order = list(layers)
    assert order.index("stem/kernel") < order.index("blocks/0/conv/kernel")
    assert order.index("blocks/0/bn/scale") < order.index("blocks/0/add")
    if accumulate == 1:
        cotangent = first_cotangent(net, images, labels)
        by_hand = nnx_networks.references(net, images, cotangent, train=True)
        for path in ("stem", "dropout", "fc"):
            assert signal[path] == pytest.approx(by_hand.units[path][1], rel=1e-4), path
        # A block's output is its last ReLU's.
        assert signal["blocks/1/relu"] == pytest.approx(by_hand.units["blocks/1"][1], rel=1e-4)
        for path, norm in by_hand.parameters.items():
            assert layers[path]["gradient"] == pytest.approx(norm, rel=1e-3, abs=1e-5), path


@pytest.mark.parametrize("made", [linen_net, haiku_net, equinox_net])
def test_functions_are_watched(source, made):
    variables, apply, *_ = made(source)
    plain = train.fit(nn.Function(apply, variables), source, RECIPE)
    fitted = train.fit(nn.Function(apply, variables), source, WATCHED)
    assert_same(held(fitted.net), held(plain.net))
    signal = [path for path, kinds in fitted.rows[0]["layers"].items() if "signal" in kinds]
    assert len(signal) >= 6 and signal[0] == "input"


class Scanned(nnx.Module):
    """A loop over stacked layers, each of which is watched."""

    def __init__(self, n, *, rngs):
        @nnx.split_rngs(splits=n)
        @nnx.vmap(in_axes=0, out_axes=0)
        def layers(rngs):
            return nnx.Linear(4, 4, rngs=rngs)

        self.first = nnx.Linear(2, 4, rngs=rngs)
        self.layers = layers(rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return jnp.tanh(layer(x))

        return self.head(run(self.first(x.mean((1, 2))), self.layers))


def test_turns_of_a_loop_are_watched_one_by_one(source):
    net, (images, labels) = Scanned(3, rngs=nnx.Rngs(0)), next(batches(source))
    fitted = train.fit(net, source, WATCHED)
    signal = {
        p: kinds["signal"] for p, kinds in fitted.rows[0]["layers"].items() if "signal" in kinds
    }
    before, turns, last = list(signal)[:3], list(signal)[3:-1], list(signal)[-1]
    assert before == ["input", "global_avg_pool", "first"] and last == "head"
    assert [next(filter(str.isdigit, name.split("/"))) for name in turns] == [*"001122"]

    def rest(x, first):
        for i in range(first, 3):
            layer = jax.tree.map(lambda a, i=i: a[i], nnx.state(net.layers))
            x = jnp.tanh(x @ layer["kernel"][...] + layer["bias"][...][None])
        return loss_of(net.head(x), labels)

    h = net.first(images.mean((1, 2)))
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], nnx.state(net.layers))
        h = jnp.tanh(h @ layer["kernel"][...] + layer["bias"][...][None])
        norm = jnp.linalg.norm(jax.grad(rest)(h, i + 1))
        assert signal[turns[2 * i + 1]] == pytest.approx(float(norm), rel=1e-4)


class Poisoned(Indexed):
    """Gives infinite images at one step."""

    def inputs(self, first, steps):
        return {"index": super().inputs(first, steps), "bad": np.arange(first, first + steps) == 1}

    def batch(self, arrays, inputs, key):
        images, labels = super().batch(arrays, inputs["index"], key)
        return jnp.where(inputs["bad"], jnp.inf, images), labels


def test_where_a_run_broke_is_named(pictures):
    source = Poisoned(*pictures, batch_size=8)
    with pytest.raises(
        train.Diverged, match="step 1 is not finite: the activation of unit 'input'"
    ):
        train.fit(ByCall(rngs=nnx.Rngs(0)), source, RECIPE)
