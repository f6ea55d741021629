"""Networks whose units are of several kinds: EfficientNetV2, MNASNet, MobileNetV4, GhostNet."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from convjax.models._mobile import MobileUnit, Row
from convjax.models._style import Style
from tests.models.instruments import check_foreseen, check_measured, check_twins, nodes, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = {
    "efficientnet_v2": {"kind": "b", "width": 0.1, "depth": 0.2},
    "mnasnet": {"kind": "small", "width": 0.1},
    "mobilenet_v4": {"kind": "medium", "width": 0.05},
    "ghostnet": {"width": 0.1},
}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)
every_family = pytest.mark.parametrize("family", TINY)


def tiny(family, **options):
    build = getattr(models, family)
    return build(**{**TINY[family], "num_classes": 5, "rngs": nnx.Rngs(3), **options})


def outline(family, **options):
    return nnx.eval_shape(lambda: tiny(family, **options))


@every_family
def test_theory_and_cost_know_every_leaf(family):
    check_foreseen(outline(family), IMAGE.shape)


@pytest.mark.slow
@every_family
def test_profile_and_paths_see_every_layer(family):
    """Units of every kind stand in the first two stages."""
    net = tiny(family)
    net = nn.Chain({name: net[name] for name in ("stem", "stage1", "stage2")})
    check_measured(net, IMAGE)
    shape = nnx.eval_shape(lambda net: net(IMAGE), net).shape
    assert gradflow.paths(net, IMAGE, cotangent=jnp.ones(shape), train=True)


@pytest.mark.later
@every_family
def test_twins_have_the_same_initial_values(family):
    check_twins(lambda **options: tiny(family, **options))


@pytest.mark.parametrize("family", [*TINY][:3])
def test_output_stride_turns_strides_into_dilations(family):
    dilated = outline(family, output_stride=8)
    assert shapes(dilated) == shapes(outline(family))
    found = [conv.kernel_dilation for conv in nodes(dilated, nn.DepthwiseConv).values()]
    assert found[-1] >= 2 and found == sorted(found)


@pytest.mark.parametrize("family", [family for family in TINY if family != "mobilenet_v4"])
def test_squeezes_can_be_left_out(family):
    with_them, without = outline(family), outline(family, squeeze=False)
    assert nodes(with_them, nn.SqueezeExcite) and not nodes(without, nn.SqueezeExcite)
    kept = {path: shape for path, shape in shapes(with_them).items() if "squeeze" not in path}
    assert shapes(without) == kept


def unit(row, features=8, **options):
    """One unit of a table, and what its branch is made of."""
    defaults = {"norm": "batch", "activation": "relu", "init": "he", "dtype": None}
    defaults |= {"param_dtype": jnp.float32, "num_classes": 2, "in_features": 3, "dropout": 0.0}
    defaults |= {"reference": "torch", "shortcut": "identity", "rngs": nnx.Rngs(0)}
    style = Style.of({**defaults, **options}, models.Family("units"))
    made = MobileUnit(style)(features, row, row.strides, 1, 0.0)
    return made, [
        path for path, _ in nodes(made, nn.Conv | nn.DepthwiseConv | nn.PointwiseConv).items()
    ]


def test_units_of_every_kind():
    """Figure 2 of EfficientNetV2, figure 4 of MobileNetV4."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 6, 8)), jnp.float32)
    for row, convs in (
        (Row(8, 1, 4), ["expand", "depthwise", "project"]),
        (Row(8, 1, 4, kind="fused"), ["expand", "project"]),
        (Row(8, 1, kind="fused"), [""]),
        (Row(8, 1, 4, 3, kind="universal", start=5), ["start", "expand", "depthwise", "project"]),
        (Row(8, 1, 4, 0, kind="universal", start=5), ["start", "expand", "project"]),
        (Row(8, 1, 4, 0, kind="universal"), ["expand", "project"]),
        (Row(8, 2, 4, 3, kind="universal", start=5), ["start", "expand", "depthwise", "project"]),
        (Row(8, 2, 4, 0, kind="universal", start=5), ["start", "expand", "project"]),
    ):
        made, found = unit(row)
        assert found == [f"branch/{conv}/conv".replace("//", "/") for conv in convs]
        assert (made.shortcut is None) == (row.strides == 2)
        assert made(x).shape == (2, 6 // row.strides, 6 // row.strides, 8)
        strides = {path: conv.strides for path, conv in nodes(made, nn.DepthwiseConv).items()}
        assert all(strides[path] == 1 for path in list(strides)[:-1])
    plain, _ = unit(Row(8, 1, kind="fused", skip=False))
    assert plain.shortcut is None
    # The one convolution of a fused unit is activated before the sum.
    made, _ = unit(Row(8, 1, kind="fused"))
    np.testing.assert_allclose(made(x), x + made.branch(x), rtol=1e-6)
    assert float(made.branch(x).min()) == 0


# Millions of multiply-adds in the papers, and at which size.
PAPERS = {
    "mnasnet_100": (315, 224, 0.01),
    "semnasnet_100": (312, 224, 0.015),
    "mobilenetv4_conv_small": (200, 224, 0.07),
    "mobilenetv4_conv_medium": (1000, 256, 0.1),
    "ghostnet_100": (141, 224, 0.06),
    "efficientnet_lite0": (407, 224, 0.06),
    "tf_efficientnetv2_b0": (720, 224, 0.02),
    "efficientnetv2_s": (8400, 384, 0.01),
}


@pytest.mark.parametrize(
    "name", [n if n == "mnasnet_100" else pytest.param(n, marks=pytest.mark.slow) for n in PAPERS]
)
def test_multiply_adds_are_the_papers(name):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    millions, size, close = PAPERS[name]
    found = convjax.cost(net, (1, size, size, 3))
    assert found.multiply_adds / 1e6 == pytest.approx(millions, rel=close)


def test_ghosts_stand_beside_what_they_are_made_of():
    net = outline("ghostnet")
    modules = nodes(net, nn.Parallel)
    assert len(modules) == 32 and {tuple(m.names) for m in modules.values()} == {("kept", "cheap")}
    assert not any("ghost2" in path for path in nodes(net, nn.Activation))
    plain = outline("ghostnet", shortcut="none")
    assert all(unit.shortcut is None for unit in nodes(plain, nn.Residual).values())


def test_efficientnet_lite_keeps_its_ends():
    lite, wide = (
        nnx.eval_shape(lambda n=name: models.create(n, rngs=nnx.Rngs(0)))
        for name in ("efficientnet_lite4", "efficientnet_b4")
    )
    assert lite.stem.conv.kernel.shape[-1] == 32 and wide.stem.conv.kernel.shape[-1] == 48
    assert lite.last.conv.kernel.shape[-1] == 1280 and wide.last.conv.kernel.shape[-1] == 1792
    assert [len(lite[f"stage{s}"]) for s in (1, 2, 7)] == [1, 4, 1]
    assert not nodes(lite, nn.SqueezeExcite)
    assert {n.name for n in nodes(lite, nn.Activation).values()} == {"relu6"}


def test_names_of_a_package_that_numbers_all_units_together():
    net = tiny("mnasnet")
    rules = {"stem/conv": "first", "head/dense": "last"}
    with pytest.raises(ValueError, match=r"others\['mine'\]: rule 'a\{i\}': 'b\{j\}' has the num"):
        models.Family("mine", others={"mine": {"a{i}": "b{j}"}})
    family = models.Family("mine", torch=rules, others={"mine": {**rules, "head/dense": "end"}})
    units = {"stem": nn.Chain(conv=net.stem.conv), "head": nn.Chain(dense=net.head.dense)}
    mine = models.Network(units, family=family)
    weights = models.export_weights(mine)
    theirs = {name.replace("last", "end"): array for name, array in weights.items()}
    assert models.load_weights(mine, theirs).renamed == "by mine's names"
    assert family.spellings("torch") == ("torch", "mine")
