"""The networks of bench-models in Keras and PyTorch, where these are installed."""

import importlib.util

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from experiments.benchmarks import keras_networks, networks
from experiments.benchmarks import models as bench
from experiments.benchmarks.models import Case
from tests.experiments.test_bench_models import HERE, PUBLISHED, every_network
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def keras(monkeypatch):
    """Import Keras, which mixes dtypes and ranks."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield pytest.importorskip("keras")


def values(net):
    """A network's convolutions, norms and classifier in forward order, each as its arrays."""
    for _, node, _ in nn.walk(net):
        if isinstance(node, nn.BatchNorm):
            yield [node.scale, node.bias, node.mean, node.var]
        elif hasattr(node, "kernel"):
            yield [node.kernel] if node.bias is None else [node.kernel, node.bias]


def resnet_8(*, rngs):
    return networks.written_out(models.resnet_cifar(8, rngs=rngs))


def at_initialization():
    return nnx.merge(*jax.jit(lambda: nnx.split(resnet_8(rngs=nnx.Rngs(0))))())


@pytest.mark.later
def test_a_step_of_keras_is_a_step_of_ours(keras, monkeypatch):
    ours = at_initialization()
    case = Case("resnet_8", "ResNet-8", resnet_8, 10, 3)
    theirs = keras_networks.resnet_cifar(1, case.size)
    layers = [layer for layer in theirs.layers if layer.weights]
    for layer, arrays in zip(layers, values(ours), strict=True):
        layer.set_weights([np.asarray(array[...]) for array in arrays])
    monkeypatch.setattr(keras_networks, "network", lambda *_: theirs)
    made = keras_networks.training(case.name, case.size, bench.LEARNING_RATE, bench.MOMENTUM)
    other = bench.Training(*made, case)
    right = bench.convjax_training(case, nnx.split(ours, nnx.Param, ...), "auto")
    for _ in range(3):
        np.testing.assert_allclose(other()[1], right()[1], rtol=1e-4)


@pytest.mark.later
def test_keras_has_mobilenet_with_the_same_parameters(keras):
    net = keras_networks.network("mobilenet_v1", 32)
    found = sum(int(np.prod(variable.shape)) for variable in net.trainable_variables)
    assert found == PUBLISHED["mobilenet_v1"][0]
    assert net.output_shape == (None, 1000)


def test_keras_says_which_images_are_too_small(keras, refused):
    said = refused("models", "--networks", "xception", "--size", "70")
    assert "Keras's xception takes images from 71x71, not 70x70" in said


@pytest.fixture
def torch_networks():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_networks", HERE / "torch_networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_resnet_in_torch_is_ours(torch_networks):
    import torch

    ours = at_initialization()
    theirs = torch_networks.resnet_cifar(1)
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)
    layers = [module for module in theirs.modules() if isinstance(module, kinds)]
    names = ("weight", "bias", "running_mean", "running_var")
    for layer, arrays in zip(layers, values(ours), strict=True):
        for name, array in zip(names, arrays, strict=False):
            array = np.array(array[...])
            order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
            getattr(layer, name).data = torch.from_numpy(array.transpose(order).copy())
    images = np.random.default_rng(0).standard_normal((3, 10, 10, 3)).astype(np.float32)
    found = theirs.train()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    right = jax.jit(lambda net, x: net(x, train=True))(ours, images)
    np.testing.assert_allclose(found.detach().numpy(), right, atol=1e-4)


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_torch_takes_a_whole_step(torch_networks, layout, monkeypatch):
    net = torch_networks.resnet_cifar(1)
    monkeypatch.setattr(torch_networks, "network", lambda name: net)
    options = {"name": "resnet_56", "batch": 3, "size": 8, "seed": 0}
    memory_format = getattr(torch_networks.torch, layout)
    step = torch_networks.build(memory_format, **options, learning_rate=0.1, momentum=0.9)
    start = {name: array.clone() for name, array in net.state_dict().items()}
    step()
    for name, array in net.state_dict().items():
        assert (array != start[name]).any(), name


@every_network
def test_torch_has_the_same_parameters(torch_networks, name):
    if name != "resnet_56" and importlib.util.find_spec("timm") is None:
        pytest.skip("no timm")
    net = torch_networks.network(name)
    assert sum(array.numel() for array in net.parameters()) == PUBLISHED[name][0]
