"""Networks of other frameworks, read from their programs: structure, names, leaves, values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def promoting():
    """Other people's networks count on what JAX does if nobody forbids it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


class Block(nnx.Module):
    def __init__(self, before, features, rngs):
        self.conv1 = nnx.Conv(before, features, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.drop = nnx.Dropout(0.25, rngs=rngs)
        same = before == features
        self.project = None if same else nnx.Conv(before, features, (1, 1), rngs=rngs)

    def __call__(self, x):
        y = self.drop(self.conv2(jax.nn.gelu(self.norm(self.conv1(x)))))
        return jax.nn.relu((x if self.project is None else self.project(x)) + y)


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.sizes = [4, 6]  # a list, which no compiled function takes for a constant
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(4, size, rngs) for size in self.sizes])
        self.head = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(jnp.tanh(self.stem(x)), (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Excited(nnx.Module):
    def __init__(self, features, rngs):
        self.down = nnx.Linear(features, 2, rngs=rngs)
        self.up = nnx.Linear(2, features, rngs=rngs)

    def __call__(self, x):
        gate = nnx.sigmoid(self.up(nnx.relu(self.down(x.mean((1, 2))))))
        return x * gate[:, None, None, :]


class Mobile(nnx.Module):
    def __init__(self, rngs):
        how = {"use_bias": False, "rngs": rngs}
        self.depthwise = nnx.Conv(4, 4, (3, 3), feature_group_count=4, **how)
        self.norm = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
        self.excite = Excited(4, rngs)
        self.scale = nnx.Param(jnp.arange(1.0, 5.0))

    def __call__(self, x):
        y = nnx.relu6(self.norm(self.depthwise(x)))
        return x + self.scale * self.excite(y)


class UNet(nnx.Module):
    def __init__(self, rngs):
        self.encode = nnx.Conv(4, 3, (3, 3), rngs=rngs)
        self.below = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.rise = nnx.ConvTranspose(5, 3, (2, 2), strides=(2, 2), rngs=rngs)
        self.end = nnx.Conv(6, 2, (3, 3), rngs=rngs)

    def __call__(self, x):
        above = jax.nn.silu(self.encode(x))
        low = self.rise(self.below(nnx.avg_pool(above, (2, 2), strides=(2, 2))))
        return self.end(jnp.concatenate([low, above], -1))


class Attending(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1, 4)
        return x + self.attend(self.norm(x))


class Stacked(nnx.Module):
    def __init__(self, rngs, depth=3):
        make = nnx.vmap(lambda rngs: Mobile(rngs), in_axes=(0,), out_axes=0)
        self.blocks = nnx.split_rngs(splits=depth)(make)(rngs)

    def __call__(self, x):
        step = nnx.scan(lambda x, unit: unit(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return step(x, self.blocks)


class Gated(nnx.Module):
    def __init__(self, rngs):
        self.both = nnx.Linear(4, 8, rngs=rngs)
        self.mixed = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        value, gate = jnp.split(self.both(x), 2, axis=-1)
        return self.mixed(value) * jax.nn.sigmoid(gate)


def image(features, seed=1):
    return jax.random.normal(jax.random.key(seed), (3, 8, 6, features))


LABELS = {
    ResNet: (
        "stem tanh max_pool blocks/0/conv1 blocks/0/norm blocks/0/gelu blocks/0/conv2 "
        "blocks/0/drop blocks/0/add blocks/0/relu blocks/1/conv1 blocks/1/norm blocks/1/gelu "
        "blocks/1/conv2 blocks/1/drop blocks/1/project blocks/1/add blocks/1/relu global_avg_pool "
        "head"
    ),
    Mobile: (
        "depthwise norm relu6 excite/global_avg_pool excite/down excite/relu excite/up excite/mul "
        "scale add"
    ),
    UNet: "encode silu avg_pool below rise concat end",
    Gated: "both split split#2 mixed mul",
    Stacked: (
        "blocks/*/depthwise blocks/*/norm blocks/*/relu6 blocks/*/global_avg_pool "
        "blocks/*/excite/down blocks/*/excite/relu blocks/*/excite/up blocks/*/mul "
        "blocks/*/scale blocks/*/add"
    ),
}


@pytest.mark.parametrize("kind", [ResNet, Mobile, UNet, Attending, Stacked, Gated])
def test_the_expression_computes_what_the_network_does(kind):
    net, x = kind(nnx.Rngs(0)), image(3 if kind is ResNet else 4)
    read = nn.read(net, x)
    np.testing.assert_allclose(read(x), net(x), rtol=1e-6, atol=1e-6)
    if kind in LABELS:
        assert read.labels == tuple(LABELS[kind].split())


def test_leaves_are_recognised_by_what_they_compute():
    kinds = {}
    for kind in (ResNet, Mobile, UNet):
        net = kind(nnx.Rngs(0))
        for _, node, _ in nn.walk(nn.read(net, image(3 if kind is ResNet else 4))):
            kinds[nn.label_of("", node)] = nn.kind_of(node)
    found = {name: kinds[name] for name in ("stem", "tanh", "max_pool", "blocks/0/norm", "head")}
    assert list(found.values()) == ["Conv", "tanh", "Pool", "BatchNorm", "Dense"]
    more = ("blocks/0/drop", "depthwise", "norm", "scale", "rise", "global_avg_pool", "silu")
    assert [kinds[name] for name in more] == [
        "Dropout", "DepthwiseConv", "GroupNorm", "Scale", "ConvTranspose", "GlobalPool", "silu"
    ]  # fmt: skip


def test_the_mode_of_a_norm_is_read_from_the_program():
    net = ResNet(nnx.Rngs(0))
    modes = {}
    for train in (True, False):
        getattr(net, "train" if train else "eval")()
        leaves = [node for _, node, _ in nn.walk(nn.read(net, image(3)))]
        modes[train] = {leaf.mode for leaf in leaves if isinstance(leaf, nn.Segment)} - {""}
    assert modes == {True: {"batch"}, False: {"running"}}


@pytest.mark.parametrize("first", [False, True])
def test_a_function_is_read_with_channels_first_or_last(first):
    layout = ("NCHW", "OIHW", "NCHW") if first else ("NHWC", "HWIO", "NHWC")

    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["conv"]["w"], (2, 1), "SAME", dimension_numbers=layout
        )
        return jnp.maximum(y + p["conv"]["b"].reshape(-1, *(1, 1) * first), 0)

    shape = (5, 4, 3, 2) if first else (3, 2, 4, 5)
    w, b = jax.random.normal(jax.random.key(0), shape), jnp.arange(5.0)
    net = nn.Function(apply, {"conv": {"w": w, "b": b}})
    x = image(4).transpose(0, 3, 1, 2) if first else image(4)
    read = nn.read(net, x)
    assert read.labels == ("conv", "relu") and read.channels_first == first
    np.testing.assert_allclose(read(x), net(x), rtol=1e-6, atol=1e-6)
    assert convjax.cost(net, x.shape).multiply_adds == 3 * 4 * 6 * 5 * 4 * 3 * 2
    assert convjax.cost(net, x.shape)["conv"].receptive_field.tolist() == [3, 2]


def test_a_network_of_the_same_structure_is_not_traced_again():
    traced = []

    def apply(p, x):
        traced.append(1)
        return jnp.sin(x @ p)

    for seed in range(3):
        w = jax.random.normal(jax.random.key(seed), (4, 2))
        read = nn.read(nn.Function(apply, w), jnp.ones((1, 4)))
        np.testing.assert_allclose(read(jnp.ones((1, 4))), jnp.sin(w.sum(0))[None], rtol=1e-6)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("apply", "degree"),
    [
        (lambda p, x: jax.nn.relu(x) @ p, 1),
        (lambda p, x: jnp.maximum(x @ p + 1, 0), None),
        (lambda p, x: (x * x) @ p, 2),
        (lambda p, x: jnp.where(x > 0, x, 0.1 * x), 1),
        (lambda p, x: x / jnp.abs(x).max(), 0),
        (lambda p, x: jnp.tanh(x), None),
        (lambda p, x: x.reshape(-1, 2, 2).max(1), 1),
    ],
)
def test_homogeneity_is_told_from_the_program(apply, degree):
    from convjax._trace import trace
    from convjax.nn._reading._homogeneity import degree as told

    program = trace(apply, jnp.ones((4, 3)), jnp.ones((1, 4)))
    found = told(program.equations, program.inputs[1:], program.outputs[0])
    assert found == degree
    if degree is not None:
        p, x = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([[1.0, -2.0, 3.0, -0.5]])
        scaled = apply(p, 3.0 * x)
        np.testing.assert_allclose(scaled, 3.0**degree * apply(p, x), rtol=1e-5)


class Modes(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    def __call__(self, x, deterministic):
        return self.norm(x, use_running_average=deterministic)


def of(function):
    return nn.Function(function, jnp.ones((4, 2)))


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (of(lambda p, x: (x, x)), {}, r"net returns \(float32\[3, 8, 6, 4\], float32.* one array"),
        (of(lambda p, x: {"y": x}), {}, r"net returns {'y': float32.*net\(x\)\['y'\], say"),
        (of(lambda p, x: None), {}, r"net returns None, and must return one array"),
        (of(lambda p, x: jnp.sign(x @ p)), {}, "by stop_gradient, rounding or comparisons alone"),
        (of(lambda p, x: jax.lax.stop_gradient(x) @ p), {}, "so that every gradient is zero"),
        (of(lambda p, x: x.astype(int)), {}, r"net returns int32\[3, 8, 6, 4\], and must return"),
        (of(lambda p, x: p), {}, "its output does not depend on x"),
        (of(lambda p, x: x @ p.T), {}, r"net=Function cannot be called as net\(x\) .* TypeError"),
        (Modes(), {}, "train=None, and Modes is called with 'deterministic'"),
        (ResNet(nnx.Rngs(0)), {"train": True}, "the call of ResNet takes no mode"),
        (nnx.Dict(a=nnx.Param(1.0)), {}, "net=.* must be a module that can be called"),
    ],
)
def test_what_cannot_be_read_is_refused_by_a_sentence(net, options, message):
    with pytest.raises(ValueError, match=message):
        nn.read(net, image(4), **options)


def test_the_mode_is_passed_as_the_call_names_it():
    read = nn.read(Modes(), image(4), train=True)
    assert read.passed == (("deterministic", False),)
    given = nn.read(Modes(), image(4), call=lambda net, x: net(x, True))
    assert given.passed == () and given[0].mode == "running"


class Cut(nnx.Module):
    """Sums of which no gradient sees one term."""

    def __init__(self):
        self.one = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.two = nnx.Linear(4, 4, rngs=nnx.Rngs(1))

    def __call__(self, x):
        x = x + jax.lax.stop_gradient(self.one(x))
        return 0.3 * x + jax.lax.stop_gradient(0.7 * self.two(x))


def test_a_sum_of_which_no_gradient_sees_one_term_is_no_residual():
    read = nn.read(Cut(), image(4))
    assert not [node for _, node, _ in nn.walk(read) if isinstance(node, nn.Residual)]
    assert {"one", "two"} <= set(read.labels)
    np.testing.assert_allclose(read(image(4)), Cut()(image(4)), rtol=1e-6)


class Tied(nnx.Module):
    """A parameter in two modules, and parameters of the network's own."""

    def __init__(self):
        self.one = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.two = nnx.Linear(4, 4, rngs=nnx.Rngs(1))
        self.two.kernel = self.one.kernel
        self.token = nnx.Param(jnp.ones((1, 1, 6, 4)))
        self.place = nnx.Param(jnp.ones((1, 9, 6, 4)))
        self.weight = nnx.Param(jnp.ones((4, 4)))
        self.bias = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        token = jnp.broadcast_to(self.token[...], (len(x), 1, 6, 4))
        x = jnp.concatenate([token, self.one(x)], 1) + self.place
        return self.two(jnp.sin(x)) @ self.weight + self.bias


def test_what_a_module_does_with_its_own_parameters_is_named_for_them_and_what_is_shared_for_use():
    read = nn.read(Tied(), image(4))
    assert read.labels == ("one", "token", "place", "sin", "two", "weight")
    assert [nn.kind_of(node) for node in read][-1] == "Dense"


def test_a_module_called_input_and_an_array_alone_are_told_from_the_batch_and_the_whole():
    net = nn.Function(
        lambda p, x: jnp.tanh(x @ p["input"]["w"]), {"input": {"w": jnp.ones((4, 2))}}
    )
    assert nn.read(net, image(4)).labels == ("input#2", "tanh")
    assert nn.read(of(lambda p, x: x @ p), image(4)).labels == ("params",)
