"""bench-ops and bench-forms: the layers, their computations, and PyTorch's process."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import lab, ops
from experiments.benchmarks import _peer, _results, _rows, computations, forms, timing
from experiments.benchmarks import ops as bench_ops
from experiments.benchmarks._rows import Row, Spec

TINY = ["--networks", "digits_stack", "--kinds", "dense", "--batch-size", "1", "--repeats", "1"]
# Answers as torch_peer.py does; what it times is made up, contiguous at half of channels_last.
FAKE = """
import json, sys
print("loading", file=sys.stderr)
print(json.dumps({"torch": "0.0", "threads": 1}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    each = 0.02 if asked["layout"] == "channels_last" else 0.01
    answer = {"seconds": each * asked["count"] * (3 if asked["backward"] else 1)}
    if asked["spec"]["what"] == "refused":
        answer = {"error": "no such thing"}
    if asked["spec"]["what"] == "fatal":
        print("out of memory", file=sys.stderr)
        sys.exit(1)
    print(json.dumps(answer), flush=True)
"""
WHATS = {
    "conv": {"kernel_size": (3, 2), "strides": (2, 1), "padding": (1, 0), "out_features": 6},
    "depthwise": {"what": "conv", "kernel_size": (3, 3), "feature_group_count": 4},
    "dilated": {"what": "conv", "kernel_size": (3, 3), "kernel_dilation": (2, 1)},
    "conv_transpose": {
        "kernel_size": (4, 3),
        "strides": (2, 1),
        "padding": (1, 0),
        "out_features": 6,
    },
    "volume": {"what": "conv", "depth": 5, "kernel_size": (3, 2, 1), "strides": (1, 2, 1)}
    | {"padding": (1, 0, 0), "kernel_dilation": (1, 1, 1)},
    "batch_norm": {},
    "max_pool": {"kernel_size": (3, 3), "strides": (2, 2), "padding": (1, 1)},
    "avg_pool": {"kernel_size": (3, 3), "strides": (1, 1), "padding": (1, 1)},
    "global_avg_pool": {},
    **{name: {"what": "activation", "name": name} for name in ("relu", "relu6", "gelu", "silu")},
}
every_what = pytest.mark.parametrize("name", WHATS)


def small(name):
    size = {"batch": 2, "height": 9, "width": 7, "in_features": 4, "out_features": 4}
    return Spec(**{"what": name, **size, **WHATS[name]})


def test_every_layer_is_read_and_small_images_come_in_larger_batches():
    every = _rows.rows(8, "float32")
    convs = [row for row in every if row.spec.what == "conv"]
    assert len(convs) == 161
    assert {row.spec.kind for row in every} == set(_rows.KINDS) - {"grouped"}
    small_images = {row.network for row in every if row.spec.batch == 64}
    assert small_images == {"cifar_resnet", "digits_stack"}
    assert {row.spec.batch for row in every} == {8, 64}
    assert {f"{row.network} {row.spec.text}" for row in every} >= {
        "resnet50 8x56x56x64 -> 64, 3x3 /1",
        "mobilenetv1_100 8x112x112x64 -> 64, 3x3 /2, 64 groups",
        "resnet50 8x112x112x64, max pool 3x3 /2",
        "inception_v3 8x17x17x768, average pool 3x3 /1",
        "resnet50 8x7x7x2048, global average pool",
        "cifar_resnet 64x32x32x16, batch norm",
        "cifar_resnet 64x32x32x16, gelu",
    }
    assert small("dilated").text == "2x9x7x4 -> 4, 3x3 /1, dilation 2x1"


def test_kinds_of_convolutions():
    def kind(size, groups):
        return Spec("conv", 1, 8, 8, 8, 8, kernel_size=size, feature_group_count=groups).kind

    assert kind((3, 3), 8) == "depthwise" and kind((3, 3), 2) == "grouped"
    assert kind((1, 1), 1) == "pointwise" and kind((1, 3), 1) == "dense"


@every_what
def test_output_flops_and_bytes_are_those_of_the_arrays(name):
    spec = small(name)
    arguments = jax.eval_shape(lambda: computations.inputs(spec))
    y = jax.eval_shape(computations.by_convjax(spec), *arguments)
    assert y.size == 2 * np.prod(spec.output_size) * spec.out_features
    arrays = arguments[:1] if spec.what == "batch_norm" else arguments
    assert spec.bytes(False) == 4 * (y.size + sum(a.size for a in arrays))
    assert spec.bytes(True) == 2 * spec.bytes(False)
    products = 0
    if spec.is_convolution:  # those of its transpose, where it is one
        places = arguments[0] if spec.what == "conv_transpose" else y
        products = math.prod(places.shape[:-1]) * arguments[1].size
    assert spec.flops(False) == 2 * products
    assert spec.flops(True) == 3 * spec.flops(False)


@pytest.mark.parametrize("name", ["conv", "depthwise", "dilated", "conv_transpose", "volume"])
def test_convjax_and_lax_are_given_the_same_to_do(name):
    spec = small(name)
    arguments = computations.inputs(spec)
    for backward in (False, True):
        ours, theirs = (
            jax.tree.leaves(computations.compiled(by(spec), arguments, backward)())
            for by in (computations.by_convjax, computations.by_lax)
        )
        assert len(ours) == (3 if backward else 1)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_machine_is_measured_and_the_bound_is_the_longer_of_memory_and_arithmetic():
    measured = computations.machine("float32", repeats=1)
    assert 1e8 < measured["bytes_per_s"] < 1e13
    assert 1e8 < measured["flops_per_s"] < 1e15
    spec = small("conv")
    slow_memory = {"bytes_per_s": 1.0, "flops_per_s": 1e12}
    slow_arithmetic = {"bytes_per_s": 1e12, "flops_per_s": 1.0}
    assert computations.bound(spec, True, slow_memory) == spec.bytes(True)
    assert computations.bound(spec, False, slow_arithmetic) == spec.flops(False)


def test_a_result_takes_medians_and_the_faster_layout():
    samples = {"convjax": [3.0, 1.0, 2.0], "channels_last": [1.0], "contiguous": [0.5, 0.5, 9.0]}
    row = Row("net", 1, small("conv"))
    both = {"f": samples, "fb": {"convjax": [6.0]}}
    result = bench_ops.result(row, both, {"f": 1.0, "fb": 3.0})
    assert result["seconds"]["f"] == {"convjax": 2.0, "lax": None, "torch": 0.5}
    assert _results.ratio(result, "f", "convjax", "torch") == 4
    assert _results.ratio(result, "fb", "convjax", "torch") is None
    assert _results.worst(result, "torch") == 4 and _results.worst(result, "lax") == 0
    assert _results.of_bound(result, "f") == 0.5


def test_convjax_alone(bench, tmp_path):
    kept, printed = bench("ops", *TINY, "--versus", "--all")
    assert "digits_stack 8x8x8x16 -> 16, 3x3 /1" in printed.out
    assert "[2/2]" in printed.err
    assert [row["spec"]["in_features"] for row in kept["rows"]] == [16, 32]
    for row in kept["rows"]:
        assert row["seconds"]["fb"]["convjax"] > 0 and row["seconds"]["f"]["torch"] is None
        assert row["bound_seconds"]["fb"] > 0
    assert "device_kind" in kept["environment"] and kept["environment"]["torch"] is None
    assert kept["config"]["batch_size"] == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench_ops.json"]


def test_against_lax_and_a_peer(bench, interpreter, tmp_path):
    kept, printed = bench("ops", *TINY, "--torch-python", interpreter(FAKE))
    assert "Geometric means" in printed.out and "Worst against PyTorch" in printed.out
    assert max(map(len, printed.out.splitlines()[:-3])) <= 130
    for row in kept["rows"]:
        assert row["seconds"]["f"]["torch"] == pytest.approx(0.01)
        assert row["seconds"]["fb"]["torch"] == pytest.approx(0.03)
        assert row["seconds"]["fb"]["lax"] > 0
        assert set(row["samples"]["f"]) == {"convjax", "lax", "channels_last", "contiguous"}
    assert kept["environment"]["torch"] == {"torch": "0.0", "threads": 1}
    assert (tmp_path / "out/bench_ops.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "No such file"),
        ("import sys; sys.exit('ModuleNotFoundError: no torch')", "no torch"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('hello')", "hello"),
        ("print([1])", "[1]"),
    ],
)
def test_an_interpreter_that_will_not_do_is_refused_before_anything_is_measured(
    script, why, interpreter, tmp_path, refused, monkeypatch
):
    monkeypatch.setattr(bench_ops, "machine", lambda *_: pytest.fail("measured"))
    python = str(tmp_path / "missing") if script is None else interpreter(script)
    text = refused("ops", *TINY, "--torch-python", python)
    assert "give --torch-python the path" in text and python in text
    assert why in text


def test_without_pytorch_there_is_one_line_and_no_peer(monkeypatch, capsys):
    monkeypatch.setattr(_peer.importlib.util, "find_spec", lambda name: None)
    with _peer.torch_peer(None) as peer:
        assert peer is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "--torch-python" in line
    with _peer.torch_peer(None, wanted=False) as peer:
        assert peer is None
    assert not capsys.readouterr().err


def test_a_peer_hands_on_refusals_and_its_last_words(interpreter):
    with _peer.torch_peer(interpreter(FAKE)) as peer:
        with pytest.raises(lab.UsageError, match="no such thing"):
            peer.timers({"what": "refused"}, False)["contiguous"](1)
        assert peer.timers({"what": "conv"}, True)["contiguous"](2) == pytest.approx(0.06)
        for _ in range(2):
            with pytest.raises(lab.UsageError, match="out of memory"):
                peer.timers({"what": "fatal"}, False)["contiguous"](1)


def test_a_peer_that_stays_is_ended(interpreter, monkeypatch):
    monkeypatch.setattr(_peer, "GRACE_S", 0.2)
    with _peer.torch_peer(interpreter(FAKE + "import time; time.sleep(60)")) as peer:
        process = peer.process
    assert process.returncode is not None and process.returncode < 0


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("ops", ["--networks", "resnet5"], "did you mean 'resnet50'"),
        ("ops", ["--networks", "digits_stack", "--kinds", "pointwise"], "none of these networks"),
        ("ops", ["--batch-size", "0"], "batch_size=0 must be at least 1"),
        ("ops", ["--lowering", "nonsense"], "lowering"),
        ("forms", ["--networks", "resnet5"], "did you mean 'resnet50'"),
    ],
)
def test_what_cannot_be_measured_is_refused(name, options, told, refused):
    assert told in refused(name, *options)


@every_what
@pytest.mark.parametrize("layout", _peer.LAYOUTS)
def test_pytorch_is_given_the_same_to_do(name, layout):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_peer

    spec = small(name)
    as_told = json.loads(json.dumps(vars(spec)))
    tensors = torch_peer.inputs(as_told, layout)
    y = torch_peer.function_of(as_told)(*tensors)
    cotangent = torch_peer.torch.randn_like(y)
    gradients = torch_peer.torch.autograd.grad(y, tensors, cotangent)
    transposed = spec.what == "conv_transpose"
    arrays = [to_jax(t, kernel=i == 1, transposed=transposed) for i, t in enumerate(tensors)]
    ours, pull = jax.vjp(computations.by_convjax(spec), *arrays)
    np.testing.assert_allclose(ours, to_jax(y), atol=1e-5)
    pulled = pull(to_jax(cotangent))
    for i, (mine, theirs) in enumerate(zip(pulled, gradients, strict=True)):
        right = to_jax(theirs, kernel=i == 1, transposed=transposed)
        np.testing.assert_allclose(mine, right, atol=1e-4)


def to_jax(tensor, *, kernel=False, transposed=False):
    """Channels last, as convjax has images and kernels."""
    array = tensor.detach().numpy()
    if array.ndim < 4:
        return jnp.asarray(array)
    spatial = range(2, array.ndim)
    if kernel and transposed:  # whose window PyTorch has turned round
        array = np.flip(array.transpose(*spatial, 0, 1), range(array.ndim - 2))
    elif kernel:
        array = array.transpose(*spatial, 1, 0)
    else:
        array = array.transpose(0, *spatial, 1)
    return jnp.asarray(array)


def test_pytorch_times_itself_in_a_process_of_its_own():
    pytest.importorskip("torch")
    with _peer.torch_peer(sys.executable) as peer:
        assert peer.versions["threads"] >= 1
        for name in ("conv", "batch_norm", "gelu"):
            for backward in (False, True):
                timers = peer.timers(vars(small(name)), backward)
                samples = timing.alternate({}, repeats=1, min_seconds=1e-4, elsewhere=timers)
                assert all(0 < s < 10 for of_one in samples.values() for s in of_one)
        network = {"name": "resnet_56", "batch": 2, "size": 8, "learning_rate": 0.1, "momentum": 0}
        timers = peer.timers({"what": "network", "seed": 0, **network}, True)
        assert 0 < timers["contiguous"](1) < 60
        with pytest.raises(lab.UsageError, match="nonsense"):
            peer.timers(vars(small("conv")) | {"what": "nonsense"}, False)["contiguous"](1)


@pytest.mark.parametrize(
    ("groups", "able"),
    [(1, {"auto", "lax", "taps", "winograd"}), (4, {"auto", "lax", "shift"})],
    ids=["dense", "depthwise"],
)
def test_the_forms_measured_are_those_that_serve(groups, able):
    window = {"kernel_size": (3, 3), "padding": (1, 1), "feature_group_count": groups}
    spec = Spec("conv", 2, 6, 5, 4, 4, **window)
    found = {name for name in ops.LOWERINGS if forms.serves(spec, name)}
    assert found - {"onednn"} == able  # which not every machine has


def test_each_direction_is_one_of_the_three():
    spec = Spec("conv", 2, 6, 5, 4, 4, kernel_size=(3, 3), padding=(1, 1))
    x, kernel = computations.inputs(spec)
    g = jax.random.normal(jax.random.key(2), x.shape)
    forward, to_x, to_kernel = (
        way(computations.by_convjax(spec, "lax"), x, kernel, g) for way in forms.DIRECTIONS.values()
    )
    products = [jnp.vdot(a, b) for a, b in ((forward, g), (x, *to_x), (kernel, *to_kernel))]
    np.testing.assert_allclose(products, [products[0]] * 3, rtol=1e-4)


def test_forms_says_what_auto_loses(bench):
    options = ["--networks", "digits_stack", "--kinds", "depthwise", "--batch-size", "1"]
    kept, printed = bench("forms", *options, "--repeats", "1")
    assert [row["direction"] for row in kept["rows"]] == list(forms.DIRECTIONS)
    for row in kept["rows"]:
        assert set(row["seconds"]) - {"onednn"} == {"auto", "lax", "shift"}
        assert row["loss"] == row["seconds"]["auto"] / min(row["seconds"].values())
    assert "auto / fastest" in printed.out
