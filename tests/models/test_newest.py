"""One small network of every newer family: theory and cost know every leaf, a profile sees it."""

import jax
import pytest
from flax import nnx

from convjax import models
from tests.models.instruments import check_foreseen, check_measured

pytestmark = pytest.mark.usefixtures("quick_compilation")

# The smallest of a family, and what makes it smaller where all of them are large.
NAMES = {
    "convnext_atto": {},
    "convnextv2_atto": {},
    "densenet121": {"units": (1, 2, 2, 1), "growth": 8},
    "efficientnet_lite0": {},
    "fcn_resnet50": {"width": 16, "units": (1, 1, 1, 1)},
    "ghostnet_050": {},
    "legacy_seresnet18": {},
    "legacy_seresnext26_32x4d": {},
    "mnasnet_small": {},
    "mobilenetv1_100h": {"width": 0.5},
    "mobilenetv4_conv_small_035": {},
    "regnetx_002": {},
    "regnety_002": {},
    "repvgg_a0": {"units": (1, 2, 2, 1)},
    "repvgg_d2se": {"units": (1, 2, 2, 1), "width": 0.5, "last_width": 0.5},
    "resnet10t": {},
    "resnetv2_50t": {"width": 16, "units": (1, 1, 1, 1)},
    "resnetv2_50x1_bit": {"width": 16, "units": (1, 1, 1, 1)},
    "seresnext26t_32x4d": {},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_1": {},
    "tf_efficientnetv2_b0": {},
    "unet": {"widths": (8, 16, 32)},
    "vgg11_bn": {"width": 8, "hidden": (16, 16)},
    "xception41": {"middle": 1, "width": 0.125},
}

# Of families of which no other test measures one; those that compile for a minute are left out.
MEASURED = ("legacy_seresnet18", "resnet10t", "resnetv2_50t", "shufflenet_v2_x0_5")


def made(name):
    return models.create(name, num_classes=5, rngs=nnx.Rngs(0), **NAMES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_theory_and_cost_know_every_leaf(name):
    check_foreseen(nnx.eval_shape(lambda: made(name)), (2, 64, 72, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_a_profile_sees_every_layer_and_paths_add_up(name):
    check_measured(made(name), jax.random.normal(jax.random.key(1), (2, 64, 72, 3)))
