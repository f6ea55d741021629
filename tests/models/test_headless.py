"""Networks with num_classes=0: what they give, load and save, and what is measured of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models
from convjax.models._create import _ENTRIES
from tests.models import golden
from tests.models.parity.weights import digest
from tests.models.test_references import names, shapes_of
from tests.models.test_torchvision import renamed

pytestmark = pytest.mark.usefixtures("quick_compilation")

TIMM = json.loads((golden.PARITY / "headless.json").read_text())
ONE_OF_EACH = {entry.build: name for name, entry in reversed(_ENTRIES.items())}.values()
SLOW = {
    *("densenet121", "efficientnetv2_s", "ghostnet_050", "mnasnet_050", "vgg11"),
    *("fcn_resnet50", "unet", "regnetx_002", "xception41", "repvgg_a0", "shufflenet_v2_x0_5"),
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "legacy_xception",
}


def zeros(net):
    """What a file of the network holds, without the memory that it would take."""
    return {key: np.broadcast_to(np.float32(0), s) for key, s in shapes_of(net).items()}


@pytest.mark.parametrize("name", names(TIMM))
def test_keys_and_shapes_are_timm_s_without_classes(name):
    assert digest(shapes_of(golden.abstract(name, num_classes=0))) == TIMM[name]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ONE_OF_EACH]
)
def test_a_file_loads_with_and_without_its_classifier(name):
    torch = golden.abstract(name)
    for reference in ("torch", "keras"):
        if torch.family.keys[reference] is None:
            continue
        whole = torch if reference == "torch" else golden.abstract(name, reference=reference)
        net = golden.abstract(name, reference=reference, num_classes=0)
        arrays, own = zeros(whole), shapes_of(net)
        removed = {key: array for key, array in arrays.items() if key in own}
        report = models.load_weights(net, arrays)
        assert report.count == len(own) and report.missing == report.misshapen == ()
        assert {*report.unexpected} == {*arrays} - {*own} and report.unexpected
        assert models.load_weights(net, removed) == (len(own), (), (), (), "")
        with pytest.raises(ValueError, match="Only the head differs: allow='head/\\*' keeps"):
            models.load_weights(whole, removed)
        models.load_weights(whole, removed, allow="head/*")
        with pytest.raises(ValueError, match="1 unexpected: other"):
            models.load_weights(net, {**arrays, "other": np.ones(2)})
        shape = nnx.eval_shape(lambda net: net(jnp.ones((2, 96, 80, 3))), net).shape
        cost = convjax.cost(net, (2, 96, 80, 3))
        assert (
            len(shape) == (4 if name in ("fcn_resnet50", "unet") else 2)
            and cost.parameters < convjax.cost(whole, (2, 96, 80, 3)).parameters
        )


def test_torchvision_s_classifier_is_passed_over():
    net = golden.abstract("mobilenetv2_035", num_classes=0)
    arrays = renamed(golden.abstract("mobilenetv2_035"))
    report = models.load_weights(net, arrays)
    assert {*report.unexpected} == {"classifier.1.weight", "classifier.1.bias"}
    assert report.renamed == "by torchvision's names"


def test_it_gives_what_the_classifier_would_take_and_is_measured_and_saved(tmp_path):
    pytest.importorskip("safetensors")
    whole = models.resnet_cifar(8, width=2, order="pre", rngs=nnx.Rngs(0))
    net = models.resnet_cifar(8, width=2, order="pre", num_classes=0, rngs=nnx.Rngs(1))
    models.load_weights(net, models.export_weights(whole))
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    np.testing.assert_array_equal(net(x), models.headless(whole)(x))
    measured = gradflow.profile(net, x, cotangent=jax.random.key(1), train=False)
    predicted = gradflow.predict(net, x.shape, train=False)
    assert measured["head"].gradient.norm > 0 and predicted is not None
    models.save(net, tmp_path / "a.safetensors")
    again = models.resnet_cifar(8, width=2, order="pre", num_classes=0, rngs=nnx.Rngs(2))
    assert models.load_weights(again, tmp_path / "a.safetensors").unexpected == ()
    np.testing.assert_array_equal(again(x), net(x))
    with pytest.raises(ValueError, match="does not end in the classifier head/dense"):
        models.headless(net)


def test_auxiliary_heads_need_classes():
    for make in (models.inception_v1, models.inception_v3):
        with pytest.raises(ValueError, match="auxiliary heads classify, and num_classes=0"):
            nnx.eval_shape(lambda make=make: make(num_classes=0, auxiliary=True, rngs=nnx.Rngs(0)))
