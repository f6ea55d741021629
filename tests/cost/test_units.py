"""A cost unit by unit: paths, repeats, tables, leaves of your own, and refusals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from convjax._cost import _table
from tests.cost.small import abstract, conv, mixed, written_out


def test_a_repeat_costs_what_its_units_cost_one_by_one():
    repeated = convjax.cost(abstract(mixed), (2, 9, 7, 3)).table()
    unrolled = abstract(lambda rngs: mixed(rngs, repeat=written_out))
    unrolled = convjax.cost(unrolled, (2, 9, 7, 3)).table()
    assert repeated.keys() == unrolled.keys()
    for name in repeated.keys() - {"kind"}:  # a repeat has another kind than a chain
        np.testing.assert_array_equal(repeated[name], unrolled[name], err_msg=name)


def test_paths_shapes_and_parameters_are_those_of_a_profile():
    graphdef, state = nnx.split(abstract(mixed))

    def profile(state, x):
        net = nnx.merge(graphdef, state)
        return gradflow.profile(net, x, loss=jnp.sum, train=False)

    shapes = jax.eval_shape(profile, state, jax.ShapeDtypeStruct((2, 9, 7, 3), jnp.float32))
    profiled = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    found = convjax.cost(nnx.merge(graphdef, state), (2, 9, 7, 3))
    assert found.paths == profiled.paths[1:]  # a profile begins with the input
    profiled = {name: column[1:] for name, column in profiled.table().items()}
    priced = found.table()
    assert priced["path"].tolist() == profiled["path"].tolist()
    assert priced["kind"].tolist() == profiled["kind"].tolist()
    assert priced["parameters"].tolist() == profiled["parameter_count"].tolist()
    sizes = [np.prod([int(n) for n in shape.split("x")]) for shape in priced["output_shape"]]
    assert sizes == profiled["activation_size"].tolist()


class Doubled(nn.Node):
    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 6, rngs=rngs)

    def __call__(self, x, train=False, rngs=None):
        return self.inner(x)


def _looped(x):
    return jax.lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y), x)


def test_a_leaf_without_a_price_is_named_and_its_shapes_are_counted():
    def unit(rngs):
        dense = nn.Dense(6, 3, rngs=rngs)
        return nn.Residual(nn.Chain(a=Doubled(rngs), loop=_looped, b=dense))

    net = abstract(
        lambda rngs: nn.Chain(
            before=conv(rngs, (3, 3), padding="SAME"), own=nn.Repeat(unit, 2, rngs=rngs)
        )
    )
    found = convjax.cost(net, (2, 5, 4, 3))
    assert found.unknown == ("own/*/branch/loop",)
    read = found["own/*/branch/a/inner"]
    assert (read.multiply_adds, read.parameters) == (2 * 5 * 4 * 18, 24)
    own = found["own/*/branch/loop"]
    assert (own.multiply_adds, own.parameters, own.output_shape) == (0, 0, (2, 5, 4, 6))
    assert own.traffic_bytes == 4 * (2 * 5 * 4 * 6 + 2 * 5 * 4 * 6)
    assert np.isnan(own.receptive_field).all() and np.isnan(found.total.stride).all()
    assert found["before"].receptive_field.tolist() == [3, 2]
    whole = found.text(width=None).splitlines()
    assert whole[-1].endswith("no price: own/*/branch/loop")


def test_a_leaf_of_ones_own_is_priced_by_registering():
    class Priced(Doubled):
        pass

    @convjax.cost.register
    def _(node: Priced, x, y):
        window = convjax.Window(size=5, stride=1, start=-2)
        return convjax.Price(multiply_adds=3 * y.size, elementwise=y.size, sees=(window, window))

    net = abstract(lambda rngs: nn.Chain(a=conv(rngs, (3, 3), padding="SAME"), b=Priced(rngs)))
    found = convjax.cost(net, (2, 5, 4, 3))
    assert not found.unknown
    assert (found["b"].multiply_adds, found["b"].flops) == (3 * 240, 7 * 240)
    assert found.total.receptive_field.tolist() == [3 + 4, 2 + 4]


def test_a_combinator_of_ones_own_is_read_or_priced_from_its_children():
    class Twice(nn.Node):
        def __init__(self, unit):
            self.unit = unit

        def __call__(self, x, train=False, rngs=None):
            return self.unit(self.unit(x))

    def make(rngs):
        return nn.Repeat(lambda rngs: Twice(nn.Dense(3, 3, rngs=rngs)), 4, rngs=rngs)

    read = convjax.cost(abstract(make), (2, 3))
    assert read.unknown == () and "*/unit" in read.paths

    @convjax.cost.register
    def _(node: Twice, x, y):
        return convjax.Price(multiply_adds=2 * convjax.cost(node.unit, x.shape).multiply_adds)

    found = convjax.cost(abstract(make), (2, 3))
    assert (found.multiply_adds, found.parameters) == (4 * 2 * 18, 4 * 12)
    assert (read.multiply_adds, read.parameters) == (4 * 2 * 18, 4 * 12)
    assert "*/unit" not in found.paths


def test_one_unit_of_a_repeat_is_picked_by_its_number():
    net = abstract(lambda rngs: models.deep_stack(6, 4, norm="batch", rngs=rngs))
    found = convjax.cost(net, (1, 8, 6, 4))
    assert found["*"].repeats == (3,)
    assert found["*"].receptive_field.tolist() == [[5, 5], [9, 9], [13, 13]]
    assert found["1"].receptive_field.tolist() == [9, 9]
    assert found["2/branch/conv1"].receptive_field.tolist() == [11, 11]
    assert found["1"].multiply_adds * 3 == found.multiply_adds == 6 * 8 * 6 * 9 * 16
    for path in ("3", "x", "1/branch/conv3"):
        with pytest.raises(KeyError, match="branch/conv1"):
            found[path]


def test_the_table_to_be_read():
    net = abstract(lambda rngs: models.resnet_cifar(20, rngs=rngs))
    found = convjax.cost(net, (8, 32, 32, 3))
    lines = found.text(width=None, rows=None).splitlines()
    assert lines[0].split()[:6] == [
        "unit",
        "kind",
        "output",
        "mult-adds",
        "parameters",
        "activations",
    ]
    starred = next(line for line in lines if line.startswith("stage1/rest/*/branch/conv2"))
    assert starred.split()[1:] == [
        *("Conv", "3", "x", "8x32x32x16", "18.9", "M", "2.30", "k", "512", "KiB", "1.01", "MiB"),
        *("35.7", "15", "1"),
    ]
    assert " 324 M " in str(found) and " 270 k " in str(found)
    assert lines[-2].startswith("*:") and "batch 8x32x32x3, float32" in lines[-1]
    assert "324 M multiply-adds, 270 k parameters" in lines[-1]
    short = found.text(1, width=None).splitlines()
    assert [line.split()[0] for line in short[1:-2]] == [
        *("stem", "stage1", "stage2", "stage3", "head")
    ]
    assert len({len(line) for line in short[:-1]}) == 1, "the last column is not aligned"
    assert short[-1] == lines[-1], "there is a star to explain where there is none"


def test_the_table_fits_and_says_what_it_leaves_out():
    found = convjax.cost(abstract(lambda rngs: models.resnet_cifar(20, rngs=rngs)), (8, 32, 32, 3))
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    head = lines[0].split()
    assert {"mult-adds", "parameters", "field"} <= {*head} and "kind" not in head
    assert "left out for width: kind" in str(found)
    assert not any("/branch/" in line for line in lines) and "text(rows=None)" in str(found)
    assert repr(found) == (
        "Cost(8x32x32x3: 324 M multiply-adds, 270 k parameters, 20.3 MiB of activations, "
        "44.6 MiB of traffic)"
    )


@pytest.mark.parametrize(
    "value, text",
    [
        *((0, ""), (7, "7"), (999, "999"), (1000, "1.00 k"), (9994, "9.99 k"), (9996, "10.0 k")),
        *((99_940, "99.9 k"), (99_960, "100 k"), (999_600, "1.00 M"), (4_091_000_000, "4.09 G")),
    ],
)
def test_units_are_readable(value, text):
    assert _table._readable(value, 1000, ("", "k", "M", "G")) == text


def test_leaves_add_up():
    found = convjax.cost(abstract(mixed), (2, 9, 7, 3))
    table = found.table()
    for name in ("multiply_adds", "parameters"):
        assert table[name][table["leaf"]].sum() == getattr(found, name) > 0
    assert table["flops"][table["leaf"]].sum() < found.flops


def test_what_does_not_fit_names_the_unit():
    net = abstract(
        lambda rngs: nn.Chain(
            stem=nn.Conv(3, 8, (3, 3), rngs=rngs),
            body=nn.Repeat(
                lambda rngs: nn.Residual(nn.Chain(norm=nn.BatchNorm(4, rngs=rngs))), 2, rngs=rngs
            ),
        )
    )
    with pytest.raises(
        ValueError, match=r"unit 'body/\*/branch/norm' \(BatchNorm\).*\(1, 5, 4, 8\)"
    ):
        convjax.cost(net, (1, 5, 4, 3))
    with pytest.raises(ValueError, match=r"unit 'stem' \(Conv\).*x has 4 channels"):
        convjax.cost(net, (1, 5, 4, 4))


def test_combinators_refuse_what_the_network_would_refuse():
    half = nn.Pool("max", (2, 2))
    with pytest.raises(ValueError, match=r"unit 'a' \(Residual\).*the branch gives shape"):
        convjax.cost(nn.Chain(a=nn.Residual(half)), (1, 6, 4, 3))
    with pytest.raises(ValueError, match=r"unit 'a' \(Parallel\).*must agree in all axes"):
        convjax.cost(nn.Chain(a=nn.Parallel(b=half, c=nn.Identity())), (1, 6, 4, 3))
    growing = nn.Chain(a=nn.Repeat(lambda rngs: half, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"unit 'a/\*': a repeated unit must keep shape"):
        convjax.cost(growing, (1, 6, 4, 3))


def test_a_batch_stands_for_its_shape():
    net = nn.Dense(3, 2, rngs=nnx.Rngs(0))
    batch = np.random.default_rng(0).normal(size=(5, 3))
    assert convjax.cost(net, batch).table()["path"].tolist() == [""]
    assert convjax.cost(net, batch).multiply_adds == convjax.cost(net, (5, 3)).multiply_adds == 30


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3,), "input_shape=(3,) must be (N, *spatial, C)"),
        ((2, 0, 3), "input_shape[1]=0 must be at least 1"),
        ((-1, 3), "input_shape[0]=-1 must be at least 1"),
    ],
)
def test_an_input_shape_that_is_none_is_refused(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        convjax.cost(nn.Identity(), shape)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="dtype=int32 must be a floating"):
        convjax.cost(nn.Identity(), (2, 3), dtype=jnp.int32)
    with pytest.raises(ValueError, match="depth=0"):
        convjax.cost(nn.Identity(), (2, 3)).text(0)
    with pytest.raises(ValueError, match="sees='everything'"):
        convjax.Price(sees="everything")
