"""The pre-activation families, for large images and for CIFAR: what their options change."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from tests.models import by_hand

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Two units in a stage: one that changes its channels, and one that does not.
TINY = {
    "resnet_v2": {"units": (2, 1, 2), "width": 4},
    "wide_resnet_cifar": {"depth": 16, "widen": 2, "width": 2},
}
IMAGE = np.random.default_rng(0).normal(size=(2, 40, 32, 3)).astype(np.float32)

every_family = pytest.mark.parametrize("family", TINY)


def tiny(family, **options):
    build = getattr(models, family)
    return build(**{**TINY[family], "num_classes": 5, "rngs": nnx.Rngs(3), **options})


def outline(family, **options):
    """The network without its values, which costs no compilation."""
    return nnx.eval_shape(lambda: tiny(family, **options))


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def shapes(net):
    return {path: leaf.shape for path, leaf in parameters(net).items()}


def nodes(net, kind):
    return {path: node for path, node, _ in nn.walk(net) if isinstance(node, kind)}


def last_places(net):
    """Size of what the last stage gives."""
    stages = {n: unit for n, unit in net.items() if n.startswith(("stem", "stage"))}
    graphdef, state = nnx.split(nn.Chain(stages))
    run = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, IMAGE)
    return run.shape[1:3]


def wide_by_hand(p, x):
    """Zagoruyko and Komodakis 2016 on nested dictionaries, with statistics of the batch."""

    def activated(norm, x):
        return jax.nn.relu(by_hand.batch_norm(norm, x))

    x = by_hand.convolve(p["stem"]["conv"], x)
    for s in (1, 2, 3):
        for i, unit in p[f"stage{s}"].items():
            strides = 2 if s > 1 and str(i) == "0" else 1
            norm1 = unit["norm1"] if "residual" in unit else unit["branch"]["norm1"]
            before = activated(norm1, x)
            residual = unit.get("residual", unit)
            branch = residual["branch"]
            y = by_hand.convolve(branch["conv1"], before, strides)
            y = by_hand.convolve(branch["conv2"], activated(branch["norm2"], y))
            if "shortcut" in residual:
                x = by_hand.convolve(residual["shortcut"]["conv"], before, strides)
            x = x + y
    features = activated(p["head"]["norm"], x).mean((1, 2))
    dense = p["head"]["dense"]
    return features @ dense["kernel"] + dense["bias"].reshape(1, -1)


def test_wide_resnets_are_the_paper_s(x64):
    # The first stage keeps its channels, the others do not.
    net = tiny("wide_resnet_cifar", depth=10, widen=1, width=4, param_dtype=jnp.float64)
    p = by_hand.random_parameters(net)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 12, 10, 3)))
    graphdef, state = nnx.split(net)

    @jax.jit
    def both(state, p, x):
        return nnx.merge(graphdef, state)(x, train=True), wide_by_hand(p, x)

    ours, theirs = both(state, p, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


# Table 4 of the paper, in millions.
PAPER = {"wrn16_8_cifar": 11.0, "wrn28_10_cifar": 36.5, "wrn40_4_cifar": 8.9}


@pytest.mark.parametrize("name", PAPER)
def test_parameters_of_wide_resnets(name):
    depth, widen = map(int, re.findall(r"\d+", name))
    n = (depth - 4) // 6
    count, before = 27 * 16, 16
    for wide in (16 * widen, 32 * widen, 64 * widen):
        count += 2 * before + 9 * before * wide + before * wide  # first norm, conv, projection
        count += 2 * wide + 9 * wide**2  # second norm and conv
        count += (n - 1) * (4 * wide + 18 * wide**2)
        before = wide
    count += 2 * before + 10 * before + 10
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    assert sum(np.prod(shape) for shape in shapes(net).values()) == count
    assert round(count / 1e6, 1) == PAPER[name]


def test_bit_standardises_every_kernel_but_the_classifier_s():
    net = outline("resnet_v2", standardize=True, norm="group", stem="zeros")
    kernels = nodes(net, nn.Conv)
    assert not nodes(net, nn.PointwiseConv) and not nodes(net, nn.BatchNorm)
    assert len(kernels) == 1 + 3 * 5 + 3  # the stem, five bottlenecks, three projections
    forms = {(conv.standardize, conv.scaled, conv.epsilon) for conv in kernels.values()}
    assert forms == {(True, False, 1e-8)}
    assert net.stem.pool.zero_pad and not outline("resnet_v2").stem.pool.zero_pad
    tiered = outline("resnet_v2", stem="tiered", width=16).stem
    assert [tiered[f"conv{k}"].kernel.shape[-1] for k in (1, 2, 3)] == [6, 8, 16]


@pytest.mark.parametrize("transition", ["zero_pad", "projection"])
def test_twins_have_the_same_initial_values(transition):
    def initial(shortcut):
        return parameters(tiny("resnet_v2", shortcut=shortcut, transition=transition))

    plain = initial("none")
    for name in ("identity", "gated"):
        other = initial(name)
        more = other.keys() - plain.keys()
        assert bool(more) == (name == "gated" or transition == "projection")
        assert all("shortcut" in path for path in more)
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


@every_family
def test_shortcuts(family):
    for name, kind in (("scaled", nn.Scale), ("gated", nn.Gate), ("none", type(None))):
        units = nodes(outline(family, shortcut=name), nn.Residual)
        assert isinstance(units["stage1/1"].shortcut, kind)
        assert (units["stage1/0/residual"].shortcut is None) == (name == "none")


@every_family
def test_a_projection_reads_the_activation_that_the_branch_reads(family):
    net = outline(family)
    unit = net.stage1[0]
    assert unit.names == ("norm1", "activation1", "residual")
    assert unit.residual.branch.names[0] == "conv1" and unit.residual.shortcut.names == ("conv",)
    kept = nodes(net, nn.Residual)["stage1/1"]
    assert kept.branch.names[:3] == ("norm1", "activation1", "conv1")
    assert isinstance(kept.shortcut, nn.Identity)
    padded = outline(family, transition="zero_pad").stage2[0]
    assert padded.branch.names[0] == "norm1" and isinstance(padded.shortcut, nn.ZeroPadShortcut)
    assert padded.shortcut.strides == 2


@every_family
def test_without_norm_convolutions_have_biases(family):
    net = outline(family, norm="none")
    assert not nodes(net, nn.BatchNorm)
    for path, conv in nodes(net, nn.Conv | nn.PointwiseConv).items():
        assert conv.bias is not None, path
    for path, conv in nodes(outline(family), nn.Conv | nn.PointwiseConv).items():
        assert conv.bias is None, path


@pytest.mark.parametrize("at", ["start", "end"])
def test_output_stride_turns_strides_into_dilations(at):
    plain = outline("resnet_v2", strides_at=at)
    assert last_places(plain) == (3, 2)
    # The 3x3 convolutions of two units, one, and two.
    dilations = {
        ("start", 8): [1, 1, 1, 1, 2],
        ("start", 4): [1, 1, 1, 2, 4],
        ("end", 8): [1, 1, 1, 2, 2],
        ("end", 4): [1, 1, 2, 4, 4],
    }
    for most, places in ((16, (3, 2)), (8, (5, 4)), (4, (10, 8))):
        net = outline("resnet_v2", output_stride=most, strides_at=at)
        assert last_places(net) == places and shapes(net) == shapes(plain)
        found = [n.kernel_dilation for p, n in nodes(net, nn.Conv).items() if p != "stem/conv"]
        assert found == dilations.get((at, most), [1] * 5)


def test_output_stride_of_wide_resnets():
    net = outline("wide_resnet_cifar", output_stride=1)
    assert last_places(net) == (40, 32) and shapes(net) == shapes(outline("wide_resnet_cifar"))
    found = [n.kernel_dilation for p, n in nodes(net.stage3, nn.Conv).items()]
    assert found == [2, 4, 4, 4]
    assert last_places(outline("wide_resnet_cifar")) == (10, 8)


def test_strides_at_the_end_keep_every_other_place():
    net = outline("resnet_v2", strides_at="end")
    assert shapes(net) == shapes(outline("resnet_v2"))
    assert last_places(net) == last_places(outline("resnet_v2"))
    last = net.stage1[1]
    assert last.branch.conv2.strides == 2 and isinstance(last.shortcut, nn.ZeroPadShortcut)
    assert (last.shortcut.strides, last.shortcut.extra) == (2, 0)
    assert {n.strides for n in nodes(net.stage3, nn.Conv).values()} == {1}
    # A stage of one unit strides where it changes its channels.
    assert net.stage2[0].residual.shortcut.conv.strides == 2


def test_keras_has_biases_where_no_norm_follows():
    net = outline("resnet_v2", reference="keras")
    biased = {p for p, n in nodes(net, nn.Conv | nn.PointwiseConv).items() if n.bias is not None}
    ends = ("stem/conv", "conv3", "shortcut/conv")
    assert biased == {p for p in nodes(net, nn.Conv | nn.PointwiseConv) if p.endswith(ends)}
    assert {(n.epsilon, n.momentum) for n in nodes(net, nn.BatchNorm).values()} == {
        (1.001e-5, 0.99)
    }


@every_family
def test_random_layers_stand_where_they_should(family):
    net = outline(family, stochastic_depth=0.4, unit_dropout=0.3, dropout=0.2)
    units = list(nodes(net, nn.Residual).values())
    assert [unit.branch.names[-1] == "drop" for unit in units] == [False] + [True] * (
        len(units) - 1
    )
    found = [unit.branch.drop.rate for unit in units[1:]]
    assert found == pytest.approx([0.4 * i / (len(units) - 1) for i in range(1, len(units))])
    for unit in units:
        names = unit.branch.names
        last = "conv3" if family == "resnet_v2" else "conv2"
        assert names[names.index(last) - 1] == "dropout" and unit.branch.dropout.rate == 0.3
    assert net.head.names[-2:] == ("dropout", "dense") and net.head.dropout.rate == 0.2
    assert not nodes(outline(family), nn.Dropout | nn.StochasticDepth)


def test_random_layers_need_and_follow_rngs():
    net = tiny("wide_resnet_cifar", depth=10, unit_dropout=0.5, stochastic_depth=0.5)
    graphdef, state = nnx.split(net.stage3)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(9, 4, 6, 8)), jnp.float32)

    @jax.jit
    def run(state, seed):
        rngs = nnx.Rngs(dropout=jax.random.key(seed))
        return nnx.merge(graphdef, state)(x, train=True, rngs=rngs)

    same, again, other = (run(state, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert float(jnp.abs(same - other).max()) > 1e-3
    with pytest.raises(ValueError, match="needs rngs"):
        jax.eval_shape(lambda: tiny("resnet_v2", unit_dropout=0.5)(jnp.asarray(IMAGE), train=True))


@every_family
def test_dtypes_reach_every_part(family):
    net = outline(family, dtype=jnp.bfloat16, shortcut="gated")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}
    graphdef, state = nnx.split(net)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, IMAGE)
    assert y.dtype == jnp.bfloat16 and y.shape == (2, 5)
    net = outline(family, param_dtype=jnp.bfloat16, shortcut="gated")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("bfloat16")}


def test_zero_init_silences_every_branch():
    values = parameters(tiny("resnet_v2", units=(2,), zero_init=True))
    silent = [path for path, leaf in values.items() if "kernel" in path and not leaf[...].any()]
    assert len(silent) == 2 and all("conv3" in path for path in silent)


def test_variants_of_the_stem_and_of_the_unit():
    deep = outline("resnet_v2", stem="deep", pooled_shortcut=True, width=8)
    assert deep.stem.names[-2:] == ("conv3", "pool")  # the last norm is the first unit's
    assert [deep.stem[f"conv{k}"].kernel.shape[-1] for k in (1, 2, 3)] == [4, 4, 8]
    assert deep.stage1[0].residual.shortcut.names == ("conv",)
    assert deep.stage2[0].residual.shortcut.names == ("pool", "conv")
    basic = outline("resnet_v2", bottleneck=False)
    assert isinstance(basic.stage1[0], nn.Residual)  # its channels are the stem's
    assert basic.stage3[1].branch.conv2.kernel.shape == (3, 3, 16, 16)
    assert outline("resnet_v2").stage3[1].branch.conv3.kernel.shape == (1, 1, 16, 64)


@every_family
def test_priced_and_predicted(family):
    net = outline(family)
    assert not gradflow.predict(net, IMAGE.shape, train=True).unknown
    assert not convjax.cost(net, IMAGE.shape).unknown


def test_measured():
    net = tiny("resnet_v2", units=(1,)).stage1
    x = np.random.default_rng(1).normal(size=(2, 7, 6, 4)).astype(np.float32)
    measured = gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)
    predicted = gradflow.predict(net, x.shape, train=True)
    assert not measured.opaque
    assert [*measured.paths][1:] == [u.path for u in predicted.units]
    # What comes back to the shared activation is the sum over branch and projection.
    sides = measured["0/residual"].addition
    parts = float(sides.branch_gradient.norm), float(sides.shortcut_gradient.norm)
    shared = float(measured["0/activation1"].gradient.norm)
    assert min(parts) > 0 and abs(parts[0] - parts[1]) < shared < sum(parts)


def test_repr_tells_the_layers():
    text = repr(outline("resnet_v2"))
    assert "residual" in text and "PointwiseConv" in text


V2, WIDE = "resnet_v2", "wide_resnet_cifar"
BOTH = (V2, WIDE)
REFUSALS = [
    ([V2], {"stem": "depe"}, "stem='depe' is not known; did you mean 'deep'"),
    ([V2], {"strides_at": "ende"}, "strides_at='ende' is not known; did you mean 'end'"),
    ([V2], {"reference": "kears"}, "reference='kears' is not known; did you mean 'keras'"),
    ([V2], {"reference": "keras", "stem": "deep"}, "reference='keras' has neither stem='deep' nor"),
    ([V2], {"strides_at": "end", "pooled_shortcut": True}, "give strides_at='start'"),
    ([V2], {"units": (1, 0)}, "units[1]=0 must be at least 1"),
    ([V2], {"output_stride": 2}, "output_stride=2 must be a power of two, at least 4"),
    ([WIDE], {"depth": 27}, "depth=27 is not 6n + 4 with n at least 1; the nearest is 28"),
    ([WIDE], {"depth": 4}, "the nearest is 10"),
    ([WIDE], {"widen": 0}, "widen=0 must be at least 1"),
    (BOTH, {"transition": "padded"}, "transition='padded' is not known"),
    (BOTH, {"shortcut": "gate"}, "shortcut='gate' is not known; did you mean 'gated'"),
    (BOTH, {"shortcut": "none", "stochastic_depth": 0.1}, "give stochastic_depth=0 or another"),
    (BOTH, {"norm": "btach"}, "norm='btach' is not known; did you mean 'batch'"),
    (BOTH, {"activation": "rellu"}, "activation='rellu' is not known; did you mean 'relu'"),
    (BOTH, {"init": "hee"}, "init='hee' is not known; did you mean 'he'"),
    (BOTH, {"unit_dropout": 1.5}, "unit_dropout=1.5 must be at least 0"),
    (BOTH, {"num_classes": -1}, "num_classes=-1 must be at least 0"),
    (BOTH, {"width": 0}, "width=0 must be at least 1"),
]


@pytest.mark.parametrize("families, options, message", REFUSALS, ids=[r[2] for r in REFUSALS])
def test_bad_input_is_refused(families, options, message):
    for family in families:
        with pytest.raises(ValueError, match=re.escape(message)):
            outline(family, **options)
