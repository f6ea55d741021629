"""The split for transfer learning: labels, filter, and one step of training both ways."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convjax import models, nn
from convjax.models._freeze import freeze

pytestmark = pytest.mark.usefixtures("quick_compilation")

GENERATOR = np.random.default_rng(3)
IMAGE = jnp.asarray(GENERATOR.normal(size=(4, 6, 10, 3)), jnp.float32)
LABELS = jnp.asarray([1, 0, 3, 2])


def small():
    return models.resnet_cifar(14, width=4, num_classes=4, rngs=nnx.Rngs(0))


def outline():
    """The network without its values, which costs no compilation."""
    return nnx.eval_shape(small)


@functools.cache
def made():
    rngs = nnx.Rngs(1)

    def unit(rngs):
        conv = nn.Conv(3, 3, (3, 3), padding="SAME", use_bias=False, rngs=rngs)
        branch = nn.Chain(conv=conv, norm=nn.BatchNorm(3, rngs=rngs))
        return nn.Residual(branch, activation=nn.Activation("tanh"))

    head = nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(3, 4, rngs=rngs))
    stage2 = nn.Chain(first=unit(rngs), rest=nn.Repeat(unit, 2, rngs=rngs))
    return nn.Chain(stage1=unit(rngs), stage2=stage2, head=head)


def tiny():
    """Four units of one shape, with everything that is trained or moves; each time a new copy."""
    return nnx.clone(made())


def leaves(tree):
    """Arrays or labels by path, as text."""
    return {"/".join(map(str, p)): v.get_value() for p, v in nnx.to_flat_state(tree)}


def words(split):
    return {"/".join(map(str, path)): word for path, word in split.labels.words}


def frozen(split):
    """Prefixes of two names under which something is frozen."""
    return {"/".join(p.split("/")[:2]) for p, word in words(split).items() if word == "frozen"}


def numbers(net, prefixes):
    state = leaves(nnx.state(net, nnx.Param))
    return sum(a.size for p, a in state.items() if p.startswith(prefixes))


EVERYTHING = {"stem/conv", "stem/norm", "stage1/rest", "stage2/first", "stage2/rest"}
EVERYTHING |= {"stage3/first", "stage3/rest", "head/dense"}


@pytest.mark.parametrize(
    "up_to, trainable",
    [
        (None, EVERYTHING),
        ("stem/conv", EVERYTHING - {"stem/conv"}),
        ("stage1", EVERYTHING - {"stem/conv", "stem/norm", "stage1/rest"}),
        ("stage2/first", {"stage2/rest", "stage3/first", "stage3/rest", "head/dense"}),
        ("stage3", {"head/dense"}),
        ("stage3/rest", {"head/dense"}),
        ("head/pool", {"head/dense"}),
        ("head", set()),
        ("", set()),
    ],
)
def test_what_comes_before_is_frozen(up_to, trainable):
    net = outline()
    split = freeze(net, up_to)
    assert frozen(split) == EVERYTHING - trainable
    count = numbers(net, tuple(trainable)) if trainable else 0
    assert split.count["trainable"] == count
    assert sum(split.count.values()) == numbers(net, "")


def test_a_path_into_a_branch_freezes_in_forward_order():
    split = freeze(outline(), "stage2/first/branch/conv2")
    inside = {p: w for p, w in words(split).items() if p.startswith("stage2/first")}
    assert inside == {
        "stage2/first/branch/conv1/kernel": "frozen",
        "stage2/first/branch/norm1/bias": "frozen",
        "stage2/first/branch/norm1/scale": "frozen",
        "stage2/first/branch/conv2/kernel": "frozen",
        "stage2/first/branch/norm2/bias": "trainable",
        "stage2/first/branch/norm2/scale": "trainable",
    }


def test_paths_freeze_just_those():
    net = outline()
    assert frozen(freeze(net, paths=("stage2", "stem/norm"))) == {
        *("stage2/first", "stage2/rest", "stem/norm")
    }
    split = freeze(net, paths="stage1")
    assert frozen(split) == {"stage1/rest"}
    assert repr(split) == "Split({frozen:,} frozen, {trainable:,} trainable)".format(**split.count)


def test_labels_have_the_structure_of_the_parameters():
    net = outline()
    split = freeze(net, "stage2")
    state = nnx.state(net, nnx.Param)
    for params in (state, nnx.as_pure(state), nnx.to_pure_dict(state)):
        labels = split.labels(params)
        assert jax.tree.structure(labels) == jax.tree.structure(params)
    assert leaves(split.labels(state)) == words(split)
    assert labels["stem"]["conv"]["kernel"] == "frozen" != labels["head"]["dense"]["kernel"]
    with pytest.raises(ValueError, match="'mean' is no parameter of the network"):
        split.labels({"mean": 1})
    assert freeze(net, "stage2").trainable == split.trainable != freeze(net, "stage1").trainable
    assert hash(freeze(net, "stage2").trainable) == hash(split.trainable)


def test_the_filter_takes_just_the_trainable_parameters():
    net = outline()
    split = freeze(net, "stage2")
    _, trainable, rest = nnx.split(net, split.trainable, ...)
    assert leaves(trainable).keys() == {p for p, w in words(split).items() if w == "trainable"}
    statistics = {p for p in leaves(rest) if p.endswith(("mean", "var"))}
    assert leaves(rest).keys() - statistics == {p for p, w in words(split).items() if w == "frozen"}
    assert len(statistics) == 2 * (1 + 2 + 2 * 4)


def test_shared_variables_stay_if_one_of_their_owners_does():
    shared = nn.Dense(3, 3, rngs=nnx.Rngs(0))
    net = nn.Chain(b=shared, a=shared, c=nn.Dense(3, 2, rngs=nnx.Rngs(1)))
    assert freeze(net, "b").count == {"frozen": 12, "trainable": 8}


def loss(net, x):
    y = net(x, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(y, LABELS).mean()


def step(net, optimiser, *filters):
    """Return parameters and statistics after one step on what the first filter takes."""
    graphdef, params, rest = nnx.split(net, *filters)

    @jax.jit
    def moved(params, rest):
        def total(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            return loss(net, IMAGE), nnx.state(net, nnx.BatchStat)

        gradients, statistics = jax.grad(total, has_aux=True)(params)
        updates, _ = optimiser.update(gradients, optimiser.init(params), params)
        return optax.apply_updates(params, updates), statistics

    nnx.update(net, *moved(params, rest))
    return leaves(nnx.state(net, nnx.Param)), leaves(nnx.state(net, nnx.BatchStat))


def test_one_step_both_ways_moves_the_trainable_part_alone():
    net, twin = tiny(), tiny()
    split = freeze(net, "stage2/first/branch/conv")
    before = leaves(nnx.state(net, nnx.Param))
    kinds = {"trainable": optax.sgd(0.1, momentum=0.9), "frozen": optax.set_to_zero()}
    after, statistics = step(net, optax.multi_transform(kinds, split.labels), nnx.Param, ...)
    other, moved = step(twin, kinds["trainable"], split.trainable, ...)
    assert len(set(words(split).values())) == 2
    for path, word in words(split).items():
        if word == "frozen":
            assert before[path].tobytes() == after[path].tobytes() == other[path].tobytes(), path
        else:
            assert float(jnp.abs(after[path] - before[path]).max()) > 1e-4, path
            np.testing.assert_allclose(other[path], after[path], atol=1e-6, err_msg=path)
    for path, value in statistics.items():
        np.testing.assert_allclose(moved[path], value, rtol=1e-5, atol=1e-6)
        assert float(jnp.abs(value - (0 if path.endswith("mean") else 1)).max()) > 1e-3


def test_the_backward_pass_ends_where_the_trainable_part_begins():
    net = tiny()

    def operations(up_to):
        graphdef, params, rest = nnx.split(net, freeze(net, up_to).trainable, ...)

        def call(params, rest):
            return nnx.merge(graphdef, params, rest, copy=True)(IMAGE).var()

        return jax.jit(jax.grad(call)).lower(params, rest).compile().cost_analysis()["flops"]

    forward = jax.jit(lambda x: net(x).var()).lower(IMAGE).compile().cost_analysis()["flops"]
    head, second, everything = (operations(up_to) for up_to in ("head/pool", "stage1", None))
    assert head < 1.05 * forward
    assert 1.5 * forward < second < 0.9 * everything
    assert everything > 2 * forward


def moved_statistics(call, *networks):
    """Paths of the units whose statistics a call moves; the last network is looked at."""
    graphdef, state = nnx.split(networks)
    before = leaves(nnx.state(networks[-1], nnx.BatchStat))

    @jax.jit
    def run(state):
        networks = nnx.merge(graphdef, state, copy=True)
        y = call(*networks)
        return y, nnx.state(networks[-1], nnx.BatchStat)

    y, after = run(state)
    after = leaves(after)
    return y, {p.split("/")[0] for p in before if not np.array_equal(before[p], after[p])}


def test_frozen_statistics_move_unless_the_front_runs_in_evaluation():
    net = tiny()
    front, back = (nn.Chain({n: net[n] for n in names}) for names in (net.names[:1], net.names[1:]))
    by_hand, moved = moved_statistics(
        lambda front, back, _: back(front(IMAGE), train=True), front, back, net
    )
    assert moved == {"stage2"}
    _, moved = moved_statistics(lambda net: net(IMAGE, train=True), net)
    assert moved == {"stage1", "stage2"}
    assert freeze(net, "stage1", statistics="moving").statistics == frozenset()
    freeze(net, "stage1").keep_statistics(net)
    y, moved = moved_statistics(lambda net: net(IMAGE, train=True), net)
    assert moved == {"stage2"}
    np.testing.assert_allclose(y, by_hand, rtol=1e-5, atol=1e-6)


def test_statistics_of_a_repeat_and_of_shared_norms_stay():
    net = tiny()
    freeze(net, paths="stage2").keep_statistics(net)
    assert moved_statistics(lambda net: net(IMAGE, train=True), net)[1] == {"stage1"}
    shared = nn.BatchNorm(3, rngs=nnx.Rngs(0))
    net = nn.Chain(a=shared, b=shared, c=nn.BatchNorm(3, rngs=nnx.Rngs(0)))
    freeze(net, "a").keep_statistics(net)
    assert moved_statistics(lambda net: net(IMAGE, train=True), net)[1] == {"c"}


class Counting(nn.Node):
    """A leaf with statistics of its own kind."""

    def __init__(self):
        self.seen = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x, train=False, rngs=None):
        return x


def test_statistics_that_cannot_be_kept_are_refused():
    net = nn.Chain(count=Counting(), dense=nn.Dense(3, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"'count/seen' is not an nn\.BatchNorm's"):
        freeze(net, "count").keep_statistics(net)
    freeze(net, "count", statistics="moving").keep_statistics(net)


OPTIMISERS = {
    "all parameters": lambda split, sgd: (
        optax.multi_transform({"trainable": sgd, "frozen": optax.set_to_zero()}, split.labels),
        nnx.Param,
    ),
    "the trainable ones": lambda split, sgd: (sgd, split.trainable),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("way", OPTIMISERS)
def test_nnx_optimizer_takes_the_split(way):
    net, twin = tiny(), tiny()
    split = freeze(net, "stage2/first/branch/conv")
    tx, chosen = OPTIMISERS[way](split, optax.sgd(0.1, momentum=0.9))
    optimiser = nnx.Optimizer(net, tx, wrt=chosen)
    graphdef, state = nnx.split((net, optimiser))

    @jax.jit
    def moved(state):
        net, optimiser = nnx.merge(graphdef, state, copy=True)
        optimiser.update(net, nnx.grad(loss, argnums=nnx.DiffState(0, chosen))(net, IMAGE))
        return nnx.state(net, nnx.Param)

    after = leaves(moved(state))
    # One step of plain descent by hand; momentum is nothing yet.
    graphdef, params, rest = nnx.split(twin, nnx.Param, ...)
    of = jax.jit(jax.grad(lambda p: loss(nnx.merge(graphdef, p, rest, copy=True), IMAGE)))
    gradients, before = leaves(of(params)), leaves(params)
    for path, word in words(split).items():
        rate = 0.0 if word == "frozen" else 0.1
        expected = before[path] - rate * gradients[path]
        np.testing.assert_allclose(after[path], expected, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"up_to": "stage4"}, "path='stage4': no node 'stage4' in"),
        ({"up_to": "stage2/rest/0"}, "up_to='stage2/rest/0' lies inside the Repeat 'stage2/rest'"),
        ({"up_to": "stage1/rest/*"}, "can only be frozen together: 'stage1/rest'"),
        ({"paths": ["stem", "stage1/rest/1/branch"]}, "paths='stage1/rest/1/branch' lies inside"),
        ({"paths": ["nothing"]}, "path='nothing': no node"),
        ({"up_to": "stem", "paths": ["stem"]}, "both given; give one of them"),
        ({"up_to": "stem", "statistics": "kept"}, "statistics='kept' is not known"),
    ],
)
def test_what_cannot_be_frozen_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        freeze(outline(), **options)
