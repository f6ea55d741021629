"""U-Net and FCN: scores of every place, by hand, and that every instrument sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from tests.models.instruments import check_foreseen, check_measured, nodes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)


def unet(**options):
    small = {"widths": (4, 6, 8), "num_classes": 5, "rngs": nnx.Rngs(3)}
    return models.unet(**{**small, **options})


def fcn(**options):
    small = {"backbone": "resnet18", "units": (1, 1), "width": 4, "num_classes": 5}
    return models.fcn(**{**small, "rngs": nnx.Rngs(3), **options})


def outline(make, **options):
    return nnx.eval_shape(lambda: make(**options))


@pytest.mark.later
@pytest.mark.parametrize("make", [unet, fcn])
def test_every_instrument_runs(make):
    net = make()
    check_foreseen(net, IMAGE.shape)
    check_measured(net, IMAGE)


def test_what_went_down_stands_beside_what_came_back():
    net = unet(norm="none")

    def twice(chain, x):
        return chain.activation2(chain.conv2(chain.activation1(chain.conv1(x))))

    one = net.across1.below
    two = one.across2.below
    a = twice(net.down1, IMAGE)
    b = twice(one.down2, nn.Pool("max", (2, 2))(a))
    c = twice(two.down3, nn.Pool("max", (2, 2))(b))
    b = twice(one.up2, jnp.concatenate([b, two.enlarge(c)], -1))
    a = twice(net.up1, jnp.concatenate([a, one.enlarge(b)], -1))
    assert net(IMAGE).shape == (2, 40, 32, 5)
    np.testing.assert_allclose(net(IMAGE), net.head.dense(a), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="two sizes or more"):
        outline(unet, widths=(4,))


def test_scores_of_an_fcn_are_enlarged_to_the_image():
    net = fcn()
    x = IMAGE
    for name in ("stem", "stage1", "stage2"):
        x = net[name](x)
    head = net.head
    small = head.dense.conv(head.activation(head.norm(head.conv(x))))
    assert small.shape == (2, 5, 4, 5)
    right = jax.image.resize(small, (2, 40, 32, 5), "linear")
    np.testing.assert_allclose(net(IMAGE), right, rtol=1e-4, atol=1e-5)


def test_an_fcn_stands_on_any_backbone_and_takes_its_options():
    net = nnx.eval_shape(lambda: models.fcn("mobilenetv2_035", norm="group", rngs=nnx.Rngs(0)))
    assert not nodes(net, nn.BatchNorm) and net.head.dense.enlarge.scale == 8
    assert net.family.name.startswith("fcn_mobilenet")
    net = nnx.eval_shape(lambda: models.fcn("vgg11", hidden=7, width=4, rngs=nnx.Rngs(0)))
    assert net.head.conv.kernel.shape[-1] == 7 and net.head.dense.enlarge.scale == 32
    names = models.export_weights(fcn())
    assert "backbone.layer2.0.downsample.0.weight" in names and "classifier.4.bias" in names
    with pytest.raises(ValueError, match="option='widht' is not known"):
        fcn(widht=3)
