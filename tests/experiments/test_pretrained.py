"""The profile of pretrained and fresh networks on pictures, against gradients by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from convjax import models, nn
from experiments.transfer import pretrained
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


def small(name, *, rngs, weights=None):
    """Return a network whose weights are twice as large where they are 'given'."""
    conv = nn.Conv(3, 2, (3, 3), rngs=rngs)
    head = nn.Dense(2, 4, rngs=rngs)
    if weights is not None:
        head.kernel[...] = 2 * head.kernel[...]
    return nn.Chain(conv=conv, pool=nn.GlobalPool("avg"), head=head)


def test_layers_are_those_of_the_gradient_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "create", small)
    for i, label in enumerate((3, 0)):
        Image.new("RGB", (9, 8), (90 * i, 200, 30)).save(tmp_path / f"picture_{i}_{label:03}.png")
    found = pretrained.measured("mobilenetv2_100", tmp_path, tmp_path, size=8, seeds=2)
    assert {kind: len(of) for kind, of in found.items()} == {"pretrained": 1, "fresh": 2}
    images = pretrained.lab.pictures(tmp_path, "mobilenetv2_100", size=8).images
    nets = {
        "pretrained": small("", rngs=nnx.Rngs(0), weights=1),
        "fresh": small("", rngs=nnx.Rngs(1)),
    }
    for kind, net in nets.items():
        graphdef, params = nnx.split(net)

        def loss(params, graphdef=graphdef):
            logits = nnx.merge(graphdef, params)(jnp.asarray(images), train=True)
            labels = jnp.array([3, 0])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        gradient = jax.grad(loss)(params)["head"]
        expected = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient)))
        row = found[kind][0]
        assert row["path"].tolist() == ["conv", "head"]
        np.testing.assert_allclose(
            np.exp(row["parameter_gradient_log_norm"][1]), expected, rtol=1e-5
        )
    assert len(pretrained.draw("any", found).axes) == 3
    first, second = pretrained.told(found)
    assert first.startswith("pretrained: along 2 layers") and second.startswith("fresh: along 2")


def test_a_picture_without_a_class_is_refused_by_name(tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "coffee.png")
    with pytest.raises(ValueError, match=r"'coffee\.png' does not end in the number of its class"):
        pretrained.measured("mobilenetv2_100", tmp_path, tmp_path, size=8)
