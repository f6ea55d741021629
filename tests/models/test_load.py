"""Weights in and out: every array or none, one message for all that does not fit."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from tests.nn.conftest import compiling_quickly

pytestmark = pytest.mark.usefixtures("quick_compilation")


def small(seed=0, **options):
    options = {"num_classes": 5, "width": 8, **options}
    return models.resnet((1, 2, 1, 1), bottleneck=False, rngs=nnx.Rngs(seed), **options)


def state(net):
    return [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(net))]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def donor():
    with compiling_quickly():
        net = small(1)
        return net, models.export_weights(net)


def test_what_is_exported_loads(donor):
    source, arrays = donor
    net = small(2)
    assert not same(state(net), state(source))
    report = models.load_weights(net, arrays)
    assert report == (len(arrays), (), (), (), "")
    assert same(state(net), state(source))


def test_layouts_are_torch_s(donor):
    """Against loops over the indices, and names written out by hand."""
    net, arrays = donor
    kernel = np.asarray(net.stage2[0].branch.conv1.kernel[...])
    for o, i, h, w in ((0, 1, 2, 0), (11, 7, 1, 2)):
        assert arrays["layer2.0.conv1.weight"][o, i, h, w] == kernel[h, w, i, o]
    np.testing.assert_array_equal(arrays["fc.weight"], np.asarray(net.head.dense.kernel[...]).T)
    assert arrays["layer2.0.downsample.1.running_var"].shape == (16,)
    assert arrays["layer2.0.downsample.0.weight"].shape == (16, 8, 1, 1)


def test_gradients_are_exported_by_the_same_names(donor):
    net, arrays = donor
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (2, 40, 36, 3))

    def loss(params):
        return nnx.merge(graphdef, params, rest, copy=True)(x, train=False).std()

    gradients = jax.jit(jax.grad(loss))(params)
    exported = models.export_weights(net, gradients)
    trained = {name for name in arrays if "running" not in name}
    assert set(exported) == trained
    np.testing.assert_array_equal(exported["fc.bias"], gradients["head"]["dense"]["bias"][...])
    other = nnx.eval_shape(lambda: models.resnet_cifar(14, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"holds 'stage1/rest.*give a state of this network"):
        models.export_weights(net, nnx.state(other, nnx.Param))
    gradients["stem"]["norm"]["bias"] = jnp.ones((8, 2))
    with pytest.raises(
        ValueError, match=r"'stem/norm/bias' of the shape \(8, 2\), and it is \(8,\)"
    ):
        models.export_weights(net, gradients)


@pytest.mark.every(2)
@pytest.mark.parametrize("shortcut", ["identity", "gated"])
def test_a_repeat_is_taken_apart(shortcut):
    make = {"depth": 20, "width": 4, "shortcut": shortcut, "transition": "projection"}
    one, other = (models.resnet_cifar(**make, rngs=nnx.Rngs(i)) for i in (0, 1))
    arrays = models.export_weights(one)
    third = np.asarray(one.stage2["rest"].unit.branch.conv1.kernel[...])[1]
    np.testing.assert_array_equal(arrays["layer2.2.conv1.weight"], third.transpose(3, 2, 0, 1))
    models.load_weights(other, arrays)
    assert same(state(one), state(other))
    del arrays["layer2.2.conv1.weight"]
    arrays["layer2.1.conv1.weight"] = 2 * arrays["layer2.1.conv1.weight"]
    models.load_weights(other, arrays, allow="layer2.2.conv1.*")
    kernels = np.asarray(other.stage2["rest"].unit.branch.conv1.kernel[...])
    np.testing.assert_array_equal(kernels[1], third)
    first = np.asarray(one.stage2["rest"].unit.branch.conv1.kernel[...])[0]
    np.testing.assert_array_equal(kernels[0], 2 * first)


def test_values_take_the_network_s_dtype(donor):
    _, arrays = donor
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    net = small(3, param_dtype=jnp.bfloat16)
    models.load_weights(net, half)
    kernel = net.stem.conv.kernel[...]
    assert kernel.dtype == jnp.bfloat16
    right = half["conv1.weight"].transpose(2, 3, 1, 0).astype(jnp.bfloat16)
    np.testing.assert_array_equal(kernel, right)


@pytest.mark.parametrize(
    "dtype, value, words",
    [
        (np.float64, 1e300, r"'bn1.weight' holds 1e\+300, and the largest float32 is 3.4e\+38"),
        (np.float64, -3.5e38, r"'bn1.weight' holds -3\.5e\+38, and"),
        (np.complex64, 1 + 2j, "'bn1.weight' is complex64, and weights are real numbers"),
        (np.bool_, True, "'bn1.weight' is bool, and weights are real numbers"),
        (
            np.int64,
            2**24 + 1,
            "'bn1.weight' holds 16777217, and float32 holds all integers up to 16777216",
        ),
        (np.uint64, 2**64 - 1, "'bn1.weight' holds 18446744073709551615, and float32"),
    ],
)
def test_values_that_the_network_cannot_hold_are_refused(donor, dtype, value, words):
    _, arrays = donor
    wrong = np.ones(arrays["bn1.weight"].shape, dtype)
    wrong[3] = value
    net = small()
    before = state(net)
    with pytest.raises(ValueError, match=f"does not fit .* is unchanged; {words}"):
        models.load_weights(net, {**arrays, "bn1.weight": wrong})
    assert same(state(net), before)


def test_values_that_it_can_hold_are_loaded_as_they_are(donor):
    _, arrays = donor
    net = small()
    given = np.array([np.nan, np.inf, -np.inf, 3.4e38, 1e-300, 0.1, -0.0, 2.0])
    models.load_weights(net, {**arrays, "bn1.weight": given, "bn1.bias": np.arange(-4, 4)})
    scale, bias = np.asarray(net.stem.norm.scale[...]), np.asarray(net.stem.norm.bias[...])
    with np.errstate(under="ignore"):
        np.testing.assert_array_equal(scale, given.astype(np.float32))
    np.testing.assert_array_equal(bias, np.arange(-4, 4))
    half = small(param_dtype=jnp.float16)
    with pytest.raises(ValueError, match=r"holds 70000\.0, and the largest float16 is 6\.55e\+04"):
        models.load_weights(half, {**arrays, "fc.bias": np.full(5, 7e4, np.float32)})


def test_counters_are_passed_over(donor):
    _, arrays = donor
    counted = {**arrays, "bn1.num_batches_tracked": np.array(3)}
    assert models.load_weights(small(), counted).unexpected == ()


def test_all_that_does_not_fit_is_in_one_message(donor):
    _, arrays = donor
    broken = dict(arrays)
    del broken["layer1.0.conv1.weight"], broken["bn1.bias"]
    broken["layer9.weight"] = np.zeros(3)
    broken["fc.bias"] = np.zeros(7)
    net = small()
    before = state(net)
    with pytest.raises(ValueError) as caught:
        models.load_weights(net, broken)
    message = str(caught.value)
    assert "does not fit resnet: the network is unchanged" in message
    assert "2 missing: layer1.0.conv1.weight, bn1.bias" in message
    assert "1 unexpected: layer9.weight" in message
    assert "1 misshapen: fc.bias (7,), not (5,)" in message
    assert same(before, state(net))


def test_a_new_head_is_asked_for(donor):
    source, arrays = donor
    net = small(4, num_classes=3)
    before = state(net)
    with pytest.raises(ValueError, match=r"Only the head differs: allow='head/\*' keeps"):
        models.load_weights(net, arrays)
    assert same(before, state(net))
    own = np.array(net.head.dense.kernel[...])
    report = models.load_weights(net, arrays, allow="head/*")
    assert report.misshapen == ("fc.bias (5,), not (3,)", "fc.weight (5, 64), not (3, 64)")
    np.testing.assert_array_equal(net.head.dense.kernel[...], own)
    np.testing.assert_array_equal(net.stem.conv.kernel[...], source.stem.conv.kernel[...])
    by_their_name = models.load_weights(small(4, num_classes=3), arrays, allow=["fc.*"])
    assert by_their_name == report


def test_a_checkpoint_of_another_width_or_network(donor):
    _, arrays = donor
    with pytest.raises(ValueError, match="the same network at another width"):
        models.load_weights(small(width=16), arrays)
    other = {f"features.{i}.weight": np.zeros((3, 3)) for i in range(20)}
    with pytest.raises(ValueError, match=r"and 12 more.*Nothing fits: it is another network's"):
        models.load_weights(small(), other)


def test_keras_names_ask_for_keras(tmp_path):
    net = small(reference="keras")
    arrays = models.export_weights(net)
    assert arrays["conv2_block1_1_conv/kernel"].shape == (3, 3, 8, 8)
    assert "conv1_bn/moving_variance" in arrays
    models.load_weights(small(5, reference="keras"), arrays)
    with pytest.raises(ValueError, match="create it with reference='keras'"):
        models.load_weights(small(), arrays)
    with pytest.raises(ValueError, match=r"net follows keras; a file for timm needs"):
        models.save(net, tmp_path / "model.safetensors")


def test_files(tmp_path, donor):
    pytest.importorskip("safetensors")
    source, arrays = donor
    file = tmp_path / "model.safetensors"
    models.save(source, file)
    net = small(6)
    assert models.load_weights(net, file).count == len(arrays)
    assert same(state(net), state(source))
    header = json.loads(file.read_bytes()[8:][: struct.unpack("<Q", file.read_bytes()[:8])[0]])
    assert header["__metadata__"]["format"] == "pt"

    before = state(net)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        models.load_weights(net, cut)
    assert same(before, state(net))


def test_only_networks_of_the_zoo_have_names():
    plain = nn.Chain(dense=nn.Dense(3, 2, rngs=nnx.Rngs(0)))
    for call in (models.export_weights, lambda net: models.load_weights(net, {})):
        with pytest.raises(ValueError, match="net=Chain has no names in timm or Keras"):
            call(plain)


def test_a_network_of_shapes_alone_is_filled(donor):
    """No value is initialized, so that a large network takes no longer than its file."""
    source, arrays = donor
    net = nnx.eval_shape(small)
    models.load_weights(net, arrays)
    assert same(state(net), state(source))


@pytest.mark.slow
def test_timm_loads_what_was_saved(tmp_path):
    """The same logits there, to rounding: needs PyTorch, timm and torchvision."""
    torch = pytest.importorskip("torch")
    try:
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        timm = pytest.importorskip("timm")
    except RuntimeError:
        timm = pytest.importorskip("timm")
    net = models.create("resnet18", num_classes=10, rngs=nnx.Rngs(0))
    models.save(net, tmp_path / "model.safetensors")
    theirs = timm.create_model(
        net.name, num_classes=10, checkpoint_path=str(tmp_path / "model.safetensors")
    ).eval()
    x = np.random.default_rng(0).standard_normal((2, 40, 56, 3)).astype(np.float32)
    with torch.no_grad():
        right = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(net(jnp.asarray(x), train=False), right, rtol=0, atol=1e-4)
