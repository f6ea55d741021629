"""RepVGG: three terms in every unit, and one convolution that computes the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from tests.models.instruments import check_foreseen, check_measured, check_twins, nodes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = np.random.default_rng(0).normal(size=(2, 40, 32, 3))


def tiny(**options):
    small = {"units": (1, 2), "width": 0.125, "last_width": 0.125, "num_classes": 5}
    return models.repvgg(**{**small, "rngs": nnx.Rngs(3), **options})


def outline(**options):
    return nnx.eval_shape(lambda: tiny(**options))


@pytest.mark.later
def test_every_instrument_runs():
    net = tiny()
    check_foreseen(net, IMAGE.shape)
    check_measured(net, jnp.asarray(IMAGE, jnp.float32))


def test_twins_have_the_same_initial_values():
    check_twins(tiny)


def test_a_squeeze_stands_between_sum_and_activation():
    net = outline(squeeze=True)
    assert [*nodes(net, nn.SqueezeExcite)] == [
        *(f"{unit}/squeeze" for unit in ("stem", "stage1/0", "stage2/0", "stage2/1"))
    ]
    assert net.stage2[1].names == ("terms", "squeeze", "activation")
    assert net.stage2[1].squeeze.reduce.kernel.shape[-1] == 1  # 16 channels / 16
    assert net.stage2[1].terms.activation is None


def test_only_units_that_keep_their_shape_have_a_third_term():
    net = outline(stochastic_depth=0.3)
    outer = {p: n for p, n in nodes(net, nn.Residual).items() if "branch" not in p}
    assert [p for p, n in outer.items() if n.shortcut] == ["stage2/1"]
    assert [*nodes(net, nn.StochasticDepth)] == ["stage2/1/branch/drop"]
    grouped = outline(groups=4).stage2
    assert [unit.branch["sum"].branch.conv.kernel.shape[2] for unit in grouped] == [8, 4]
    assert [unit.branch["sum"].shortcut.conv.kernel.shape for unit in grouped] == [
        *((1, 1, 8, 16), (1, 1, 4, 16))
    ]


@pytest.mark.parametrize(
    "options",
    [{"groups": 4}, {"shortcut": "none", "output_stride": 4}, {"norm": "none"}, {"squeeze": True}],
)
def test_merged_computes_the_same(options, x64):
    net = tiny(param_dtype=jnp.float64, **options)
    x = jnp.asarray(IMAGE)
    for _, norm in nodes(net, nn.BatchNorm).items():
        generator = np.random.default_rng(len(norm.mean[...]))
        for array in (norm.mean, norm.var, norm.scale, norm.bias):
            array[...] = jnp.asarray(generator.uniform(0.5, 1.5, array[...].shape))
    before = net(x)
    small = models.merged(net)
    np.testing.assert_allclose(small(x), before, rtol=1e-10)
    np.testing.assert_array_equal(net(x), before)  # it is left as it is
    assert not nodes(small, nn.Residual) and not nodes(small, nn.BatchNorm)
    names = models.export_weights(small)
    squeezes = [name for name in names if ".attn.fc" in name]
    assert len(squeezes) == (4 * 4 if "squeeze" in options else 0)
    assert names["stages.1.1.reparam_conv.weight"].shape[0] == 16
    assert len(names) - len(squeezes) == 2 * 4 + 2


def test_what_cannot_be_merged_is_refused():
    for options, message in (
        ({"norm": "layer"}, "has the norm LayerNorm"),
        ({"shortcut": "scaled"}, "has a shortcut that is"),
    ):
        with pytest.raises(ValueError, match=message):
            models.merged(tiny(**options))
    with pytest.raises(ValueError, match="net=Network is no RepVGG"):
        models.merged(nnx.eval_shape(lambda: models.resnet_cifar(8, rngs=nnx.Rngs(0))))


def test_a_file_of_merged_branches_is_sent_to_a_merged_network():
    net = tiny()
    arrays = models.export_weights(models.merged(net))
    with pytest.raises(
        ValueError, match=r"Its branches are merged already: .* models\.merged\(net\)"
    ):
        models.load_weights(net, arrays)
    assert models.load_weights(models.merged(net), arrays).count == len(arrays)
