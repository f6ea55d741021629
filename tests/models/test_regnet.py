"""RegNet: its stages are the paper's, its options change what they say, instruments see it."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import models, nn
from tests.models.instruments import check_foreseen, check_measured, check_twins, nodes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)


def tiny(**options):
    small = {"depth": 3, "width": 8, "slope": 8.0, "ratio": 2.0, "group_width": 4}
    return models.regnet(**{**small, "num_classes": 5, "rngs": nnx.Rngs(3), **options})


def outline(**options):
    return nnx.eval_shape(lambda: tiny(**options))


def stages(net):
    """Units and channels of every stage."""
    made = [unit for name, unit in net.items() if name.startswith("stage")]
    return [(len(s.names), s[0].branch.conv1.kernel.shape[-1]) for s in made]


@pytest.mark.later
@pytest.mark.parametrize("squeeze", [False, True])
def test_every_instrument_runs(squeeze):
    net = tiny(squeeze=squeeze)
    check_foreseen(net, IMAGE.shape)
    check_measured(net, IMAGE)


def test_twins_have_the_same_initial_values():
    check_twins(lambda **options: tiny(depth=4, squeeze=True, **options))


# Radosavovic et al., figures 15 and 16: depths, widths and channels of a group.
@pytest.mark.parametrize(
    "name, depths, widths, group",
    [
        ("regnetx_002", (1, 1, 4, 7), (24, 56, 152, 368), 8),
        ("regnetx_064", (2, 4, 10, 1), (168, 392, 784, 1624), 56),
        ("regnety_040", (2, 6, 12, 2), (128, 192, 512, 1088), 64),
    ],
)
def test_stages_are_the_paper_s(name, depths, widths, group):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    assert stages(net) == [*zip(depths, widths, strict=True)]
    assert net.stage2[0].branch.conv2.kernel.shape[2] == group
    assert bool(nodes(net, nn.SqueezeExcite)) == name.startswith("regnety")


# Millions of multiply-adds, and of parameters (the same figures).
@pytest.mark.parametrize(
    "name, millions, size", [("regnetx_004", 400, 5.2), ("regnety_016", 1600, 11.2)]
)
def test_multiply_adds(name, millions, size):
    found = convjax.cost(
        nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0))), (1, 224, 224, 3)
    )
    assert found.multiply_adds / 1e6 == pytest.approx(millions, rel=0.03)
    assert found.parameters / 1e6 == pytest.approx(size, abs=0.06)


def test_options_change_what_they_say():
    assert stages(outline()) == [(1, 8), (1, 16), (1, 32)]
    assert stages(outline(width=16, slope=0.0)) == [(3, 16)]
    assert stages(outline(width=16, slope=0.0, group_width=12)) == [(3, 12)]
    assert stages(outline(width=16, slope=0.0, group_width=12, least=0.9)) == [(3, 24)]
    plain = outline(shortcut="none")
    assert not nodes(plain, nn.Identity) and "shortcut/conv" not in "".join(nodes(plain, nn.Conv))
    dilated = outline(output_stride=4)
    assert [n.kernel_dilation for n in nodes(dilated, nn.Conv).values()][-1] == 2
    squeezes = nodes(outline(squeeze=True), nn.SqueezeExcite).values()
    assert [s.reduce.kernel.shape[-1] for s in squeezes] == [8, 2, 4]
    for wrong, said in (("ratio", 1.0), ("slope", -1.0), ("least", 1.5)):
        with pytest.raises(ValueError, match=f"^{wrong}="):
            outline(**{wrong: said})
