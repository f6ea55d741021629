"""DenseNet: what is put beside what, and that every instrument sees it."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import models, nn
from tests.models.instruments import check_foreseen, check_measured, nodes, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)


def tiny(**options):
    small = {"units": (1, 2), "growth": 4, "num_classes": 5, "rngs": nnx.Rngs(3)}
    return models.densenet(**{**small, **options})


def outline(**options):
    return nnx.eval_shape(lambda: tiny(**options))


@pytest.mark.later
def test_every_instrument_runs():
    net = tiny()
    check_foreseen(net, IMAGE.shape)
    check_measured(net, IMAGE)


def test_every_layer_reads_all_before_it():
    net = tiny()
    x = net.stage1[0](net.stem(IMAGE))
    assert net.stem(IMAGE).shape[-1] == 8 and x.shape[-1] == 12
    np.testing.assert_array_equal(x[..., :8], net.stem(IMAGE))
    np.testing.assert_array_equal(x[..., 8:], net.stage1[0].grown(net.stem(IMAGE)))
    kernels = [unit.grown.conv1.kernel.shape[-2:] for unit in (net.stage2[0], net.stage2[1])]
    assert net.stage1.down.conv.kernel.shape[-2:] == (12, 6)
    assert kernels == [(6, 16), (10, 16)] and "down" not in net.stage2.names


def test_options_change_what_they_say():
    wide = outline(growth=6, bottleneck=2).stage2[1].grown
    assert wide.conv1.kernel.shape[-2:] == (15, 12) and wide.conv2.kernel.shape[-2:] == (12, 6)
    drops = nodes(outline(unit_dropout=0.2), nn.Dropout)
    assert [*drops] == [
        "stage1/0/grown/dropout",
        "stage2/0/grown/dropout",
        "stage2/1/grown/dropout",
    ]
    assert not nodes(outline(norm="none"), nn.BatchNorm)
    assert all("bias" in path or path in shapes(outline()) for path in shapes(outline(norm="none")))


# Billions of multiply-adds of one image of 224 x 224, counted in the paper's code (figure 3).
@pytest.mark.parametrize(
    "name, billions",
    [("densenet121", 2.83), pytest.param("densenet201", 4.29, marks=pytest.mark.slow)],
)
def test_multiply_adds(name, billions):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    found = convjax.cost(net, (1, 224, 224, 3)).multiply_adds
    assert found / 1e9 == pytest.approx(billions, rel=0.02)
