"""SqueezeNet and ShuffleNetV2: what goes where, and that every instrument sees it."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import models, nn
from tests.models.instruments import check_foreseen, check_measured, check_twins, nodes, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)


def squeezed(**options):
    small = {"width": 0.125, "num_classes": 5, "rngs": nnx.Rngs(3)}
    return models.squeezenet(**{**small, **options})


def shuffled(**options):
    small = {"widths": (8, 12), "units": (1, 2), "stem": 6, "hidden": 10, "num_classes": 5}
    return models.shufflenet_v2(**{**small, "rngs": nnx.Rngs(3), **options})


def outline(make, **options):
    return nnx.eval_shape(lambda: make(**options))


@pytest.mark.later
@pytest.mark.parametrize("make", [squeezed, shuffled])
def test_every_instrument_runs(make):
    net = make()
    check_foreseen(net, IMAGE.shape)
    check_measured(net, IMAGE)


def test_bypass_is_the_paper_s_and_changes_one_term():
    check_twins(squeezed)
    net = outline(squeezed, version="1.0", shortcut="identity")
    kept = [path for path, node in nodes(net, nn.Residual).items() if node.shortcut]
    assert kept == ["stage1/1", "stage2/0", "stage2/2", "stage3/0"]  # fire 3, 5, 7 and 9


def test_classes_are_the_mean_over_all_places():
    net = squeezed()
    x = net.stage3(net.stage2(net.stage1(net.stem(IMAGE))))
    kernel, bias = (
        np.asarray(a[...]) for a in (net.head.dense.conv.kernel, net.head.dense.conv.bias)
    )
    places = np.maximum(np.asarray(x) @ kernel[0, 0] + bias, 0)
    np.testing.assert_allclose(net(IMAGE), places.mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        squeezed(num_classes=0)(IMAGE), np.asarray(x).mean((1, 2)), rtol=1e-4, atol=1e-5
    )


def test_half_of_the_channels_pass_and_take_turns_with_the_others():
    net = shuffled()
    x = net.stage2[0](net.stage1(net.stem(IMAGE)))
    y = net.stage2[1](x)
    assert x.shape == y.shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(y[..., ::2], x[..., :6])
    through = net.stage2[1].parts.through
    assert through.taken.indices == (6, 7, 8, 9, 10, 11)
    np.testing.assert_allclose(y[..., 1::2], through(x), rtol=1e-5)
    assert {s for p, s in shapes(net).items() if "depthwise" in p and "kernel" in p} == {
        *((3, 3, 1, wide) for wide in (4, 6, 8))
    }
    with pytest.raises(ValueError, match=r"widths=\(8, 9\): 9 is odd"):
        outline(shuffled, widths=(8, 9))


# Multiply-adds of one image of 224 x 224 in millions: Ma et al., table 8; torchvision's page.
@pytest.mark.parametrize(
    "name, millions",
    [
        ("shufflenet_v2_x0_5", 41),
        ("shufflenet_v2_x1_5", 299),
        ("squeezenet1_0", 819),
        ("squeezenet1_1", 349),
    ],
)
def test_multiply_adds(name, millions):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    found = convjax.cost(net, (1, 224, 224, 3)).multiply_adds
    assert found / 1e6 == pytest.approx(millions, rel=0.03)
