import collections
import contextlib
import dataclasses
import json
import math
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import nn, ops
from experiments.benchmarks import models, networks
from experiments.benchmarks.models import CASES, Case
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

HERE = Path(models.__file__).parent
# Parameters as timm counts them, and He et al. for ResNet-56 (0.85 million); the name, and the size
# of the image, under which layers.json lists a network's convolutions; activations by the papers.
PUBLISHED = {
    "mobilenet_v1": (4_231_976, "mobilenetv1_100", 224, {"relu6": 27}),
    "mobilenet_v2": (3_504_872, "mobilenetv2_100", 224, {"relu6": 35}),
    "resnet_50": (25_557_032, "resnet50", 224, {"relu": 49}),
    # Two in the stem; one before each separable convolution but the first and the last two, and one
    # after each of those two.
    "xception": (22_855_952, "legacy_xception", 299, {"relu": 2 + 31 + 2}),
    "resnet_56": (853_018, "cifar_resnet", 32, {"relu": 55}),
}
every_network = pytest.mark.parametrize("name", PUBLISHED)


def count(net):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))


def tiny_network(*, rngs):
    plain = {"use_bias": False, "padding": 1, "rngs": rngs}
    return nn.Chain(
        stem=nn.Conv(3, 8, (3, 3), strides=2, **plain),
        norm=nn.BatchNorm(8, rngs=rngs),
        activation=nn.Activation("relu6"),
        deep=nn.DepthwiseConv(8, (3, 3), **plain),
        pool=nn.GlobalPool("avg"),
        head=nn.Dense(8, 10, rngs=rngs),
    )


TINY = Case("tiny", "Tiny", tiny_network, 6, 5)


def split(case):
    return nnx.split(case.build(rngs=nnx.Rngs(0)), nnx.Param, ...)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(CASES, "tiny", TINY)


@every_network
def test_parameters_and_activations_are_those_of_the_published_network(name):
    """No convolution has a bias, and no unit is scanned."""
    assert models.Config().networks == tuple(PUBLISHED)
    net = nnx.eval_shape(lambda: CASES[name].build(rngs=nnx.Rngs(0)))
    parameters, *_, activations = PUBLISHED[name]
    assert count(net) == parameters
    nodes = [visit.node for visit in nn.walk(net)]
    assert not any(isinstance(node, nn.Repeat) for node in nodes)
    convs = [n for n in nodes if isinstance(n, nn.Conv | nn.DepthwiseConv | nn.PointwiseConv)]
    assert convs and all(conv.bias is None for conv in convs)
    assert sum(isinstance(node, nn.Dense) and node.bias is not None for node in nodes) == 1
    found = collections.Counter(node.name for node in nodes if isinstance(node, nn.Activation))
    assert found == activations


@pytest.mark.every(2)
@every_network
def test_convolutions_are_those_of_the_published_network(name, monkeypatch):
    """Window, channels, strides, padding and groups, and the size of the image that each meets."""
    seen = collections.Counter()
    pointwise = ops.pointwise_conv

    def recording(function, depthwise=False):
        def record(x, kernel, *, strides, padding=0, **rest):
            groups = x.shape[-1] if depthwise else rest.get("feature_group_count", 1)
            padding = 0 if padding == "VALID" else padding
            pads = [padding, padding] if isinstance(padding, int) else padding
            sides = [strides, strides, *pads]
            *window, _, out_features = kernel.shape
            seen[(*x.shape[1:], out_features, *window, *sides, groups)] += 1
            if function is not pointwise:
                rest["padding"] = padding
            return function(x, kernel, strides=strides, **rest)

        return record

    monkeypatch.setattr(ops, "conv", recording(ops.conv))
    monkeypatch.setattr(ops, "pointwise_conv", recording(pointwise))
    monkeypatch.setattr(ops, "depthwise_conv", recording(ops.depthwise_conv, depthwise=True))
    _, network, size, _ = PUBLISHED[name]
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    jax.eval_shape(lambda x: CASES[name].build(rngs=nnx.Rngs(0))(x, train=True), image)

    listed = collections.Counter()
    for row in json.loads((HERE / "layers.json").read_text()):
        if row["network"] == network and "what" not in row:
            scalars = ("height", "width", "in_features", "out_features")
            pairs = [*row["kernel_size"], *row["strides"], *row["padding"]]
            entry = (*(row[key] for key in scalars), *pairs, row["feature_group_count"])
            listed[entry] += row["count"]
    if name == "resnet_56":  # the list leaves its stem out
        listed[(32, 32, 3, 16, 3, 3, 1, 1, 1, 1, 1)] += 1
    assert seen == listed


def test_written_out_a_network_computes_the_same():
    @jax.jit
    def run(x):
        net = convjax.models.resnet_cifar(14, width=2, rngs=nnx.Rngs(0))
        chain = networks.written_out(net)
        assert count(chain) == count(net)
        return chain(x, train=True), net(x, train=True)

    ours, right = run(jax.random.normal(jax.random.key(0), (2, 8, 8, 3)))
    np.testing.assert_allclose(ours, right, atol=1e-5)


@pytest.mark.parametrize("lowering", ["auto", "lax"])
def test_a_step_is_momentum_descent_on_the_mean_cross_entropy(lowering):
    """It moves everything, and leaves the start as it was."""
    start = split(TINY)
    graphdef, params, rest = start
    training = models.convjax_training(TINY, start, lowering)
    images, labels = training.batch

    @jax.jit
    def loss(params, rest):
        net = nnx.merge(graphdef, params, rest, copy=True)
        logs = jax.nn.log_softmax(net(images, train=True))
        chosen = logs[jnp.arange(TINY.batch), labels]
        return -chosen.mean(), nnx.state(net, nnx.BatchStat)

    moving, losses = jax.tree.map(jnp.zeros_like, params), []
    for _ in range(3):
        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params, rest)
        moving = jax.tree.map(lambda m, g: models.MOMENTUM * m + g, moving, gradient)
        params = jax.tree.map(lambda p, m: p - models.LEARNING_RATE * m, params, moving)
        state, found = training()
        np.testing.assert_allclose(found, value, rtol=1e-5)
        losses.append(float(found))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    ours, right, before = (jax.tree.leaves(s) for s in (state[:2], (params, rest), start[1:]))
    for one, other, first in zip(ours, right, before, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        assert (np.asarray(one) != np.asarray(first)).any()


def test_the_lowering_is_asked_for_while_the_step_is_traced(monkeypatch):
    asked, seen, conv = [], set(), ops.conv

    @contextlib.contextmanager
    def default_lowering(name):
        asked.append(name)
        yield
        asked.pop()

    def recording(*args, **options):
        seen.add(tuple(asked))
        return conv(*args, **options)

    monkeypatch.setattr(ops, "default_lowering", default_lowering, raising=False)
    monkeypatch.setattr(ops, "conv", recording)
    start = split(TINY)
    for name, expected in (("lax", ("lax",)), ("auto", ("auto",))):
        seen.clear()
        models.convjax_training(TINY, start, name)
        assert seen == {expected}


def test_main_without_anyone_to_compare_with(tiny, bench, tmp_path):
    options = ["--networks", "tiny", "--repeats", "2", "--batch-size", "3", "--versus"]
    kept, printed = bench("models", *options)
    assert "Tiny" in printed.out and "3x6x6" in printed.out
    assert re.search(r"\[1/1\] Tiny: .*done", printed.err)
    (row,) = kept["rows"]
    assert row["network"] == "tiny" and row["batch"] == 3 and row["ratios"] == {}
    assert row["seconds"]["convjax"] == np.median(row["samples"]["convjax"]) > 0
    assert len(row["samples"]["convjax"]) == 2
    assert kept["config"]["repeats"] == 2 and kept["keras"] is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench_models.json"]


# Answers as torch_peer.py does, with times of its own.
PEER = """
import json, sys
print(json.dumps({"torch": "9.9"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    spec = {"what": "network", "name": "tiny", "batch": 5, "size": 6, "seed": 0}
    assert asked["spec"] == {**spec, "learning_rate": 0.001, "momentum": 0.9}
    each = {"contiguous": 40.0, "channels_last": 20.0}[asked["layout"]]
    each = 10.0 if asked.get("compiled") else each
    print(json.dumps({"seconds": asked["count"] * each}), flush=True)
"""


def test_main_takes_the_faster_memory_format_and_draws(tiny, bench, interpreter, tmp_path):
    versus = ["--versus", "torch", "compiled", "--torch-python"]
    options = ["--networks", "tiny", "--repeats", "3", *versus]
    kept, printed = bench("models", *options, interpreter(PEER))
    assert "20000" in printed.out
    (row,) = kept["rows"]
    assert kept["environment"]["torch"] == {"torch": "9.9"}
    assert row["best_of_torch"] == "PyTorch channels_last"
    assert row["seconds"]["PyTorch"] == 20
    ours = row["seconds"]["convjax"]
    assert row["ratios"] == {"PyTorch": ours / 20, "PyTorch compiled": ours / 10}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".png", ".svg"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--networks", "resnet50"], "network 'resnet50' is not known; did you mean 'resnet_50'"),
        (["--networks"], "networks is empty"),
        (["--batch-size", "-1"], "batch_size=-1 must be at least 1"),
        (["--size", "0"], "size=0 must be at least 1"),
        (["--networks", "xception", "--size", "3", "--versus"], "Xception: "),
    ],
)
def test_bad_options_are_refused(options, message, refused):
    assert message in refused("models", *options)


def test_no_keras_and_keras_on_another_backend_are_refused(monkeypatch, refused):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setitem(sys.modules, "keras", None)
    assert "(keras is missing); install keras, or leave keras out" in refused("models")
    config = types.SimpleNamespace(backend=lambda: "tensorflow")
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(config=config))
    assert "(it computes with tensorflow)" in refused("models")


def test_size_and_batch_are_overridden():
    config = models.Config(networks=("resnet_56", "xception", "xception"), size=40)
    assert [(c.name, c.size, c.batch) for c in models.cases(config)] == [
        ("resnet_56", 40, 64),
        ("xception", 40, 8),
    ]
    assert dataclasses.asdict(CASES["xception"])["size"] == 96
