"""VGG: what the options change, and how its head takes images of every size."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from tests.models.instruments import check_foreseen, check_measured, check_twins, nodes, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)


def tiny(**options):
    small = {"units": (1, 2, 1), "width": 4, "hidden": (6, 8), "num_classes": 5}
    return models.vgg(**{**small, "rngs": nnx.Rngs(3), **options})


def outline(**options):
    return nnx.eval_shape(lambda: tiny(**options))


def test_every_instrument_runs():
    net = tiny()
    check_foreseen(net, IMAGE.shape)
    check_measured(net, IMAGE)
    assert gradflow.paths(
        tiny(shortcut="identity"), IMAGE, cotangent=IMAGE[:, 0, :5, 0], train=True
    )


def test_it_is_plain_and_its_twin_adds_where_the_shape_is_kept():
    check_twins(tiny)
    assert all(unit.shortcut is None for unit in nodes(outline(), nn.Residual).values())
    residual = nodes(outline(shortcut="identity"), nn.Residual)
    assert [path for path, unit in residual.items() if unit.shortcut is not None] == ["stage2/1"]


def test_norms_and_biases():
    assert not nodes(outline(), nn.BatchNorm)
    normed = outline(norm="batch")
    assert len(nodes(normed, nn.BatchNorm)) == 4
    assert shapes(outline()).items() < shapes(normed).items()
    drops = nodes(outline(dropout=0.5), nn.Dropout)
    assert list(drops) == ["head/dropout", "head/dropout2"]


def test_multiply_adds_are_the_paper_s():
    net = nnx.eval_shape(lambda: models.create("vgg19", rngs=nnx.Rngs(0)))
    found = convjax.cost(net, (1, 224, 224, 3))
    assert found.multiply_adds / 1e9 == pytest.approx(19.6, abs=0.06)  # He et al. 2015, figure 3


def test_torchvision_s_matrix_of_the_first_hidden_layer_reads_channel_by_channel():
    net = tiny()
    weights = models.export_weights(net)
    kernel = weights.pop("pre_logits.fc1.weight")
    assert kernel.shape == (6, 16, 7, 7)
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
    names["head.fc"] = "classifier.6"
    theirs = {"classifier.0.weight": kernel.reshape(6, -1)}
    for name, array in weights.items():
        module, _, weight = name.rpartition(".")
        matrix = array.reshape(array.shape[:2]) if module == "pre_logits.fc2" else array
        theirs[f"{names.get(module, module)}.{weight}"] = array if array.ndim == 1 else matrix
    other = tiny(rngs=nnx.Rngs(7))
    assert models.load_weights(other, theirs).renamed == "by torchvision's names"
    np.testing.assert_array_equal(other(IMAGE), net(IMAGE))


def test_two_channels_are_asked_for():
    with pytest.raises(ValueError, match=r"hidden=\(4096,\) has 1 entries; it must have 2"):
        outline(hidden=(4096,))
