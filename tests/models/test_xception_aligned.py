"""xception_aligned: its units are the paper's, its options change what they say."""

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
    small = {"middle": 1, "entry": ((64,), (96, 128)), "width": 0.125}
    return models.xception_aligned(**{**small, "num_classes": 5, "rngs": nnx.Rngs(3), **options})


def outline(**options):
    return nnx.eval_shape(lambda: tiny(**options))


@pytest.mark.later
def test_every_instrument_runs():
    net = tiny()
    check_foreseen(net, IMAGE.shape)
    check_measured(net, IMAGE)


def test_twins_have_the_same_initial_values():
    check_twins(tiny)


# Chen et al. 2018, figure 4, and what their code calls 41, 65 and 71: sums in the middle flow, and
# in all; and every convolution, the depthwise and the pointwise ones counted apart.
@pytest.mark.parametrize(
    "name, middle, sums, convolutions", [("xception41", 8, 12, 84), ("xception65", 16, 20, 132)]
)
def test_units_are_the_paper_s(name, middle, sums, convolutions):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    assert len([unit for unit in net.stage3 if unit.shortcut is not None]) == 1 + middle
    residuals = nodes(net, nn.Residual).values()
    assert sum(unit.shortcut is not None for unit in residuals) == sums
    kernels = [*nodes(net, nn.DepthwiseConv), *nodes(net, nn.PointwiseConv), *nodes(net, nn.Conv)]
    assert len(kernels) == convolutions
    last = net.stage4[1].branch
    assert last.names == ("conv1", "conv2", "conv3")
    assert [conv.pointwise.conv.kernel.shape[-1] for conv in last] == [1536, 1536, 2048]


# Of the whole image at 299 pixels: what halves it is the third depthwise convolution of a stage.
def test_multiply_adds():
    found = convjax.cost(
        nnx.eval_shape(lambda: models.create("xception41", rngs=nnx.Rngs(0))), (1, 299, 299, 3)
    )
    assert found.multiply_adds / 1e9 == pytest.approx(9.28, rel=0.01)  # timm's page
    assert found.parameters / 1e6 == pytest.approx(26.97, abs=0.01)


def test_options_change_what_they_say():
    net = outline()
    assert [len(net[f"stage{s}"].names) for s in (1, 2, 3)] == [1, 3, 2]
    strides = {path: conv.strides for path, conv in nodes(net, nn.DepthwiseConv).items()}
    strided = [path for path, steps in strides.items() if steps != 1]
    assert strided == [f"stage{s}/0/branch/conv3/depthwise/conv" for s in (1, 2, 3)]
    dilated = nodes(outline(output_stride=4), nn.DepthwiseConv)
    assert {conv.kernel_dilation for conv in dilated.values()} == {1, 2, 4}
    plain = outline(shortcut="none")
    assert all(unit.shortcut is None for unit in nodes(plain, nn.Residual).values())
    dropped = nodes(outline(stochastic_depth=0.3), nn.StochasticDepth)
    assert [*dropped][-1] == "stage3/0/branch/drop"
    for wrong, message in (
        ({"entry": ()}, "must have stages"),
        ({"entry": ((4,), ())}, "must have stages, and each of them units"),
        ({"width": 0.0}, "^width="),
        ({"output_stride": 3}, "^output_stride=3"),
    ):
        with pytest.raises(ValueError, match=message):
            outline(**wrong)
