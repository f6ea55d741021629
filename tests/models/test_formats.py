"""Files of weights: what is read, what is refused and how, and that nothing in them is executed."""

import argparse
import collections
import hashlib
import io
import json
import os
import pathlib
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from convjax.models._weights._formats import read, write_safetensors

safetensors = pytest.importorskip("safetensors.numpy")

GENERATOR = np.random.default_rng(7)


def some(*shape, dtype=np.float32):
    return GENERATOR.normal(size=shape).astype(dtype)


def same(left, right):
    """Names, order, dtypes and bits."""
    assert list(left) == list(right)
    for name, array in left.items():
        other = np.asarray(right[name])
        assert array.dtype == other.dtype and array.shape == other.shape, name
        assert array.tobytes() == other.tobytes(), name


def stored(path, arrays):
    """The format written out by hand: length of the header, header, data."""
    words = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "bool": "BOOL"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        kind = array.dtype
        word = words.get(kind.name, f"{kind.kind.upper()}{8 * kind.itemsize}")
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": word, "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


TYPES = ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "?", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


def test_safetensors_of_every_dtype(tmp_path):
    arrays = {np.dtype(d).name: (9 * some(2, 3)).astype(d) for d in TYPES}
    arrays |= {"scalar": np.asarray(3), "none": some(0, 4)}
    kind, found, where, _ = read(stored(tmp_path / "a.safetensors", arrays))
    same(found, arrays)
    assert kind == "torch" and "a.safetensors" in where


def test_a_mapping_of_numpy_and_jax_arrays(tmp_path):
    arrays = {"b": some(2, 3), "a": jnp.asarray(some(3), jnp.bfloat16), "s": np.float16(2)}
    kind, found, _, _ = read(arrays)
    assert kind is None
    same(found, arrays)


@pytest.mark.parametrize("counter", [{}, {"n_averaged": np.asarray(3)}])
def test_module_is_dropped_where_all_names_bear_it(counter, tmp_path):
    one, two = some(2), some(3)
    whole = {"module.a.weight": one, "module.module.b": two}
    same(read({**counter, **whole}).arrays, {"a.weight": one, "module.b": two})
    path = stored(tmp_path / "a.safetensors", {**counter, **whole})
    same(read(path).arrays, {"a.weight": one, "module.b": two})
    partly = {"module.a": one, "b": two, **counter}
    same(read(partly).arrays, partly)


@pytest.mark.parametrize(
    "mapping, words",
    [
        ({"a": some(2), 3: some(2)}, "key 3 is int"),
        ({"a": None}, "'a' is NoneType, not an array"),
        ({"a": [1.0]}, "'a' is list, not an array"),
        ({"model": {"a": some(2)}}, "'model' is dict, not an array; give the inner mapping"),
        ({"a": np.array(["x"])}, "'a' has dtype <U1"),
        ({"a": np.array([object()])}, "'a' has dtype object"),
    ],
)
def test_what_is_no_array_is_refused(mapping, words):
    with pytest.raises(ValueError, match=words):
        read(mapping)


def page(text):
    return lambda: text


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "words")
    return buffer.getvalue()


def good():
    return safetensors.save({"a": some(4, 5)})


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("empty.safetensors", lambda: b"", "is empty"),
        ("empty.pth", lambda: b"", "is empty"),
        ("short.safetensors", lambda: good()[:5], "holds something unknown, or it is truncated"),
        ("header.safetensors", lambda: good()[:30], "is truncated or damaged"),
        ("cut.safetensors", lambda: good()[:-3], "is truncated or damaged"),
        ("long.safetensors", lambda: good() + b"more", "is truncated or damaged"),
        ("page.pth", page(b"\n<!DOCTYPE html><html>"), "holds an HTML page"),
        ("page.h5", page(b"<HTML><body>"), "holds an HTML page"),
        ("denied.bin", page(b"<?xml version='1.0'?><Error>"), "holds XML"),
        ("a.safetensors", page(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
        ("a.pt", page(b"\x89PNG\r\n\x1a\n...."), "holds a PNG image"),
        ("a.pth", good, "holds safetensors, where .* name it \\*.safetensors"),
        ("a.safetensors", lambda: pickle.dumps({"a": 1}), "a pickle, where .* name it \\*.pth"),
        ("a.h5", zipped, "holds a zip archive, where a .h5 file holds HDF5"),
        ("a.onnx", page(b"\x08\x07"), "unknown extension '.onnx'; known are .safetensors, .pth"),
        ("a.pkl", lambda: pickle.dumps([1]), "unknown extension '.pkl'"),
        (
            "text.pth",
            lambda: b"\x80\x02X\x02\0\0\0\xff\xff.",
            r"damaged \(its text is damaged\); fetch",
        ),
        ("a.ckpt", good, "holds safetensors, where a .ckpt file holds"),
        ("net.keras", zipped, "no archive of Keras 3"),
        ("nothing.safetensors", lambda: safetensors.save({}), "holds no arrays"),
    ],
)
def test_a_foreign_or_broken_file_is_refused_by_name(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(ValueError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_dtype_is_refused_by_the_name_of_its_array(tmp_path):
    path = stored(tmp_path / "a.safetensors", {"odd": np.zeros(2, "u1")})
    path.write_bytes(path.read_bytes().replace(b'"U8"', b'"I9"'))
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        read(path)


def test_an_absent_file_gets_the_nearest_ones(tmp_path):
    for name in ("resnet50.safetensors", "xception.h5", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"does not exist; in that folder there is resnet50\.saf"):
        read(tmp_path / "resnet5.safetensors")
    with pytest.raises(ValueError, match=r"there is resnet50.safetensors or xception.h5$"):
        read(str(tmp_path / "q.pt"))
    with pytest.raises(ValueError, match=r"there is no folder '.*elsewhere'"):
        read(tmp_path / "elsewhere" / "a.safetensors")
    with pytest.raises(ValueError, match=r"is a directory; .*: resnet50.safetensors, xception.h5"):
        read(tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no file of weights"):
        read(tmp_path / "bare" / "a.pt")


def test_an_address_or_a_repository_is_pointed_elsewhere():
    with pytest.raises(ValueError, match="an address is not opened"):
        read("https://example.org/a.safetensors")
    for name in ("timm/resnet50.a1_in1k", "hf_hub:timm/resnet50.a1_in1k"):
        with pytest.raises(ValueError, match=r"models\.from_hub\('"):
            read(name)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = stored(tmp_path / "a.safetensors", {"a": some(2)})

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ValueError, match=r"a\.safetensors' cannot be read: Permission denied"):
        read(path)


@pytest.mark.parametrize(
    "package, name, content, words",
    [
        ("safetensors", "a.safetensors", good, r"pip install convjax\[weights\]"),
        ("h5py", "a.h5", page(b"\x89HDF\r\n\x1a\n"), r"h5py .* pip install convjax\[weights\]"),
    ],
)
def test_a_missing_package_is_named(package, name, content, words, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(content())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=words):
        read(path)


def test_what_is_written_is_read_by_the_library_itself(tmp_path):
    arrays = {"t": some(3, 4).T, "s": np.asarray(5), "h": some(2).astype(ml_dtypes.bfloat16)}
    path = tmp_path / "a.safetensors"
    write_safetensors(path, arrays, {"format": "pt"})
    found = read(path).arrays
    same({k: found[k] for k in arrays}, arrays)
    written = {"t": arrays["t"], "s": arrays["s"]}
    write_safetensors(str(path), written)
    theirs = safetensors.load_file(path)
    same({k: theirs[k] for k in written}, written)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(step, error, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": some(2)})
    before = hashlib.sha256(path.read_bytes()).digest()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    expected = ValueError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_safetensors(path, {"a": some(3)})
    if expected is ValueError:
        assert "cannot be written: No space left" in str(caught.value)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    arrays = {"a": some(2)}
    with pytest.raises(ValueError, match=r"must end in .safetensors, not in '.pth'"):
        write_safetensors(tmp_path / "a.pth", arrays)
    with pytest.raises(ValueError, match="there is no folder"):
        write_safetensors(tmp_path / "none" / "a.safetensors", arrays)
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        write_safetensors(tmp_path / "d.safetensors", arrays)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        write_safetensors(tmp_path / "a.safetensors", arrays)
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


class Malicious:
    """Unpickled by anything that executes pickles, this makes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (exec, (f"open({self.target!r}, 'w').close()",))


def checkpoints(torch, target):
    """The same malice in both of torch.save's formats, and in a bare pickle."""
    content = {"a": torch.zeros(2), "b": Malicious(target)}
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        yield buffer.getvalue()
    yield pickle.dumps({"b": Malicious(target)}, protocol=2)


def test_a_malicious_pickle_is_refused_unexecuted(tmp_path):
    torch = pytest.importorskip("torch")
    target = tmp_path / "executed"
    for i, content in enumerate(checkpoints(torch, target)):
        path = tmp_path / f"evil{i}.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"evil{i}\.pth.*not read because of \w+\.exec"):
            read(path)
        assert not target.exists()
    pickle.loads(content)  # the pickle does what it says, where it is executed
    assert target.exists()


def saved(torch, path, content, **options):
    torch.save(content, path, **options)
    return path


def test_torch_tensors_of_every_dtype(tmp_path):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 5, generator=generator)
    names = ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool")
    tensors = {name: (9 * whole).to(getattr(torch, name)) for name in names}
    tensors |= {
        "view": whole.T[1:],
        "scalar": torch.tensor(4),
        "trained": torch.nn.Parameter(whole),
    }
    old = {k: v for k, v in tensors.items() if k != "float8_e4m3fn"}
    path = saved(torch, tmp_path / "old.pth", old, _use_new_zipfile_serialization=False)
    found = read(path).arrays
    for name, tensor in torch.load(path, weights_only=True).items():
        expected = tensor.detach().to(torch.float64).numpy()
        np.testing.assert_array_equal(found[name].astype(np.float64), expected)
    for source in (saved(torch, tmp_path / "a.pth", tensors), tensors):
        found = read(source).arrays
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert str(tensor.dtype).removeprefix("torch.") == found[name].dtype.name
            expected = tensor.detach().to(torch.float64).numpy()
            np.testing.assert_array_equal(found[name].astype(np.float64), expected)
    assert read(tmp_path / "a.pth").kind == "torch" and read(tensors).kind is None


def test_a_checkpoint_is_unwrapped(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Conv2d(3, 4, (3, 5))
    state = layer.state_dict()
    other = {name: tensor + 1 for name, tensor in state.items()}
    parallel = {"n_averaged": torch.tensor(9)} | {f"module.{k}": v for k, v in state.items()}
    for i, content in enumerate(
        [
            state,
            {"state_dict": state, "epoch": 3, "arch": "resnet50", "best": torch.tensor(0.7)},
            {"model": state, "optimizer": {"state": {0: {"m": torch.ones(3)}}}, "args": None},
            {"model": other, "model_ema": state},
            {"model": other, "state_dict": state},
            {"state_dict": other, "state_dict_ema": state, "version": 2},
            {"state_dict": state, "state_dict_ema": None},
            {"model": other, "model_ema": parallel},
            {"model": {"state_dict": state}},
        ]
    ):
        for new in (True, False) if i < 2 else (True,):
            path = tmp_path / f"{i}.pth.tar"
            found = read(saved(torch, path, content, _use_new_zipfile_serialization=new)).arrays
            same(found, {name: tensor.numpy() for name, tensor in state.items()})


def test_what_scripts_save_beside_the_weights(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    state = torch.nn.Linear(2, 3).state_dict()
    beside = {
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99)),
        "best": np.float64(0.7),
        "top1": np.float32(0.7),
        "epoch": 3,
        "device": torch.device("cpu"),
        "seen": {1, 2},
    }
    for wrapper in ("model_state_dict", "net", "params_ema", "teacher", "state_dict"):
        for ending in ("ckpt", "tar", "pth.tar", "bin"):
            path = saved(torch, tmp_path / f"a.{ending}", {**beside, wrapper: state})
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, "torch", None)  # it is read without PyTorch
                found = read(path).arrays
            same(found, {name: tensor.numpy() for name, tensor in state.items()})


def handmade(path, pickled, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in entries.items():
            archive.writestr(f"a/data/{name}", data)
    return path


# {"w": a tensor of two float32 in storage "0"}: a pickle by hand, so that no PyTorch is needed.
TENSOR = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    b"K%cK%c\x85K\x01\x85\x89}tRs."
)
NUMBERS = np.float32([1, 2]).tobytes()


def test_a_torch_file_by_hand_and_what_it_may_not_claim(tmp_path):
    path = tmp_path / "a.pth"
    found = read(handmade(path, TENSOR % (b"\0", b"\2"), **{"0": NUMBERS})).arrays
    same(found, {"w": np.float32([1, 2])})
    for pickled, data, words in (
        (TENSOR % (b"\1", b"\2"), NUMBERS, "a tensor reaches beyond its storage"),
        (TENSOR % (b"\0", b"\3"), NUMBERS, "a tensor reaches beyond its storage"),
        (TENSOR % (b"\0", b"\2"), NUMBERS[:-1], "a storage of 2 float32 has 7 bytes"),
        ((TENSOR % (b"\0", b"\2"))[:-1], NUMBERS, "is truncated or damaged"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", b"", "numbers more objects than it has bytes"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}(X\1\0\0\0aK\1ub.", b"", "changes a funct"),
        (b"\x80\x02cos\nsystem\n.", b"", r"because of os\.system"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x12OrderedDict.update\x93.", b"", "OrderedDict.update"),
    ):
        with pytest.raises(ValueError, match=words):
            read(handmade(path, pickled, **{"0": data}))
    many = (TENSOR % (b"\0", b"\2")).replace(
        b"K\x02\x85K\x01\x85", b"J\xff\xff\xff\x7f\x85K\x00\x85"
    )
    with pytest.raises(
        ValueError, match=r"declares a tensor .2147483647,., and the file is smaller"
    ):
        read(handmade(path, many, **{"0": NUMBERS}))


def test_a_torch_file_whose_tensors_repeat_a_few_numbers_is_refused(tmp_path):
    one = (TENSOR % (b"\0", b"\2")).replace(b"K\x02\x85K\x01\x85", b"J\0\0\x04\0\x85K\0\x85")
    entry = one[len(b"\x80\x02}") : -len(b"s.")]  # a name and a tensor of 2**18 equal numbers
    path = handmade(tmp_path / "a.pth", b"\x80\x02}" + 40 * (entry + b"s") + b".", **{"0": NUMBERS})
    with pytest.raises(ValueError, match="its tensors declare far more than the file holds"):
        read(path)


class AttributeDict(dict):
    """Lightning's, by the two names that it has there."""


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_s_arrays_and_what_scripts_save_beside_them(protocol, tmp_path, monkeypatch):
    arrays = {"a": some(2, 3).T, "b": some(4).astype(">f8"), "none": some(0, 4)}
    state = np.random.get_state()
    beside = {
        "rng": state,
        "rngs": np.random.default_rng(0).bit_generator.state,
        "confusion": np.eye(3, dtype=np.int64),
        "names": np.array(["cat", "dog"]),
        "word": np.str_("cat"),
        "out": pathlib.Path("/tmp/x"),
        "pure": pathlib.PureWindowsPath("a/b"),
        "logs": collections.defaultdict(list, loss=[1.0]),
        "counts": collections.defaultdict(int, steps=3),
        "hyper_parameters": AttributeDict(rate=0.1),
    }
    right = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    pickled = pickle.dumps(arrays, protocol)
    found = read(handmade(tmp_path / "plain.pth", pickled)).arrays
    assert list(found) == list(arrays)
    for name, array in right.items():
        np.testing.assert_array_equal(found[name], array)
    for module in ("lightning.fabric.utilities.data", "pytorch_lightning.utilities.parsing"):
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            made = type(sys)(".".join(parts[:i]))
            made.__dict__["AttributeDict"] = AttributeDict
            monkeypatch.setitem(sys.modules, made.__name__, made)
        monkeypatch.setattr(AttributeDict, "__module__", module)
        pickled = pickle.dumps({**beside, "state_dict": arrays}, protocol)
        older = pickled.replace(b"numpy._core", b"numpy.core") if protocol < 4 else pickled
        for data in (pickled, older):
            found = read(handmade(tmp_path / "a.pth", data))
            assert found.taken == ("state_dict",) and list(found.arrays) == list(arrays)


def test_a_pickle_s_objects_are_inert(tmp_path):
    for held, words in (
        ({"a": np.array([object])}, r"not read because of numpy\.dtype\('O8'\): it holds more"),
        ({"a": collections.defaultdict(collections.Counter)}, "because of collections.Counter"),
        ({"a": pathlib.Path("/tmp/x")}, "'a' is str, not an array"),
        ({"a": collections.defaultdict(list)}, "'a' is _Default, not an array"),
        ({"a": np.array(["x"])}, "'a' has dtype <U1, which is no number"),
    ):
        with pytest.raises(ValueError, match=words):
            read(handmade(tmp_path / "a.pth", pickle.dumps(held, 2)))
    whole = pickle.dumps({"a": np.float32([1, 2])}, 4)
    for there, other, words in (
        (b"K\x02\x85", b"K\x03\x85", r"an array \(3,\) of float32 has 8 bytes"),
        (
            b"K\x02\x85",
            b"J\xff\xff\xff\x7f\x85",
            r"an array \(2147483647,\) of float32 has 8 bytes",
        ),
        (b"K\x02\x85", b"J\xff\xff\xff\xff\x85", "a NumPy array that is none: it is damaged"),
    ):
        with pytest.raises(ValueError, match=words):
            read(handmade(tmp_path / "a.pth", whole.replace(there, other)))


def test_npz_and_sharded_files(tmp_path):
    arrays = {"a": some(2, 3).T, "b": some(4)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    same(read(tmp_path / "a.npz").arrays, arrays)
    np.savez(tmp_path / "a.npz", a=np.array([object()]))
    with pytest.raises(ValueError, match="'a' has dtype object, not numbers"):
        read(tmp_path / "a.npz")
    for name in arrays:
        stored(tmp_path / f"{name}.safetensors", {name: arrays[name]})
    index = tmp_path / "model.safetensors.index.json"
    places = {name: f"{name}.safetensors" for name in arrays}
    index.write_text(json.dumps({"weight_map": places}))
    same(read(index).arrays, arrays)
    for wrong, words in (
        ({"a": "../a.safetensors"}, "no file of weights beside it"),
        ({**places, "c": "a.safetensors"}, "its shards do not hold c"),
        ({"a": "c.safetensors"}, "does not exist"),
        ({}, "and it has none"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ValueError, match=words):
            read(index)


def test_torch_files_that_are_no_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"a": torch.zeros(2)}

    def refused(content, words):
        with pytest.raises(ValueError, match=words) as caught:
            read(saved(torch, tmp_path / "a.pth", content))
        assert "a.pth" in str(caught.value) and "\n" not in str(caught.value)

    refused([torch.zeros(2)], "holds one list, not a state dict")
    refused(torch.zeros(2), "holds one Tensor")
    refused({"state_dict": state, "head": torch.ones(3)}, "beside its 'state_dict' .* head")
    refused({**state, "epoch": 3}, "'epoch' is int, not an array")
    refused({**state, "inner": state}, "'inner' is dict")
    refused({"a": torch.eye(3).to_sparse()}, r"not read because of torch\._utils\._rebuild_sparse")
    refused(torch.nn.Linear(2, 3), r"torch\.nn\.modules\.linear\.Linear")
    refused({"w": torch.float32}, "'w' is dtype")
    endless = {}
    endless["state_dict"] = endless
    refused(endless, "its 'state_dict' holds itself")
    for new in (True, False):
        path = saved(torch, tmp_path / "cut.pt", state, _use_new_zipfile_serialization=new)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r"cut\.pt' is truncated or damaged"):
            read(path)
    (tmp_path / "z.pth").write_bytes(zipped())
    with pytest.raises(ValueError, match=r"z\.pth.* torch\.save did not write"):
        read(tmp_path / "z.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a TorchScript archive; save"):
        read(tmp_path / "a.pt")


def legacy(h5py, path, layers, *, within=None, chunks=0, version="2.1.6"):
    """Write what Keras 2 wrote: per layer a group, datasets in it by the weight's whole name."""
    with h5py.File(path, "w") as file:
        root = file.create_group(within) if within else file
        root.attrs["keras_version"] = version.encode()
        names = [name.encode() for name in layers]
        if chunks:
            for i, start in enumerate(range(0, len(names), chunks)):
                root.attrs[f"layer_names{i}"] = names[start : start + chunks]
        else:
            root.attrs["layer_names"] = names
        for name in sorted(layers):
            group = root.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight in layers[name]]
            for weight, array in layers[name].items():
                group.create_dataset(weight, data=array)
    return path


@pytest.mark.parametrize("options", [{}, {"within": "model_weights"}, {"chunks": 2}])
def test_keras_layers_in_the_order_of_the_file(options, tmp_path):
    h5py = pytest.importorskip("h5py")
    kernel, bias, scale, half = some(3, 3, 2, 4), some(4), some(4), some(2, 2).astype("f2")
    layers = {
        "zeroth": {},
        "plain": {"plain/kernel:0": kernel, "plain/bias:0": bias},
        "again": {"again_1/kernel:0": half},
        "bare": {"bare_W:0": kernel},
        "block/depthwise": {"block/depthwise/depthwise_kernel:0": kernel},
        "block/depthwise/norm": {"block/depthwise/norm/gamma:0": scale},
        "stem": {"stem_conv/kernel:0": kernel, "stem_norm/gamma": scale},
        "down": {"down/inner/kernel:0": half, "down/inner_1/bias:0": bias},
        "empty": {},
        "a": {"net/a/kernel:0": half, "net/a/moving_mean:0": bias},
    }
    kind, found, where, _ = read(legacy(h5py, tmp_path / "a.h5", layers, **options))
    assert kind == "keras" and "a.h5" in where
    expected = {
        "plain/kernel": kernel,
        "plain/bias": bias,
        "again/kernel": half,
        "bare/bare_W": kernel,
        "block/depthwise/depthwise_kernel": kernel,
        "block/depthwise/norm/gamma": scale,
        "stem_conv/kernel": kernel,
        "stem_norm/gamma": scale,
        "inner/kernel": half,
        "inner_1/bias": bias,
        "a/kernel": half,
        "a/moving_mean": bias,
    }
    same(found, expected)


def keras_3(h5py, file, layers):
    """Write what Keras 3 writes: by class and number, a layer's name and its weights' numbers."""
    with h5py.File(file, "w") as root:
        for place, (name, arrays) in layers.items():
            values = root.create_group(f"{place}/vars")
            values.attrs["name"] = name
            for i, array in enumerate(arrays):
                values.create_dataset(str(i), data=array)
        root.create_dataset("optimizer/vars/0", data=some(2))


def test_keras_3_names_layers_and_numbers_weights(tmp_path):
    h5py = pytest.importorskip("h5py")
    kernel, *four = some(3, 3, 2, 4), some(4), some(4), some(4), some(4)
    layers = {
        "layers/conv2d": ("stem", [kernel, four[0]]),
        "layers/depthwise_conv2d_1": ("depthwise", [kernel]),
        "layers/batch_normalization": ("norm", four),
        "layers/batch_normalization_1": ("bn", four[:3]),
        "layers/re_lu": ("relu", []),
        "layers/mine_2": ("mine", four[:2]),
        "layers/functional/layers/dense": ("inner", [kernel, four[3]]),
        "_layer_checkpoint_dependencies/separable_conv2d": ("separable", [kernel, kernel]),
    }
    moments = {f"norm/{n}": a for n, a in zip(("gamma", "beta"), four[:2], strict=True)}
    moments |= {f"norm/moving_{n}": a for n, a in zip(("mean", "variance"), four[2:], strict=True)}
    expected = moments | {
        "stem/kernel": kernel,
        "stem/bias": four[0],
        "depthwise/depthwise_kernel": kernel,
        "mine/0": four[0],
        "mine/1": four[1],
        "inner/kernel": kernel,
        "inner/bias": four[3],
        "separable/depthwise_kernel": kernel,
        "separable/pointwise_kernel": kernel,
    }
    unscaled = {"bn/beta": four[0], "bn/moving_mean": four[1], "bn/moving_variance": four[2]}
    keras_3(h5py, tmp_path / "a.weights.h5", layers)
    arrays = read(tmp_path / "a.weights.h5").arrays
    same(dict(sorted(arrays.items())), dict(sorted((expected | unscaled).items())))

    # An archive tells whether it is the scale or the bias that is not there.
    buffer = io.BytesIO()
    keras_3(h5py, buffer, layers)
    uncentred = {"bn/gamma": four[0], "bn/moving_mean": four[1], "bn/moving_variance": four[2]}
    for absent, three in (("scale", unscaled), ("center", uncentred)):
        config = {"config": {"layers": [{"config": {"name": "bn", absent: False}}]}}
        with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.weights.h5", buffer.getvalue())
        arrays = read(tmp_path / "a.keras").arrays
        same(dict(sorted(arrays.items())), dict(sorted((expected | three).items())))


def test_hdf5_files_that_are_not_keras_legacy(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"

    def refused(words):
        with pytest.raises(ValueError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=some(3))
    refused(r"an early Keras 3.*model\.save\('weights\.h5'\)")
    with h5py.File(path, "w") as file:
        file["weight"] = some(3)
    refused("not Keras's: no attribute layer_names")
    legacy(h5py, path, {"a": {"a/w:0": some(2), "a_1/w:0": some(2)}})
    refused("two of its weights are named 'a/w'")
    legacy(h5py, path, {"a": {}})
    refused("holds no arrays")
    legacy(h5py, path, {"a": {"a/kernel:0": some(64, 64)}})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("is truncated or damaged")
    legacy(h5py, path, {"a": {"a/kernel:0": some(2)}})
    with h5py.File(path, "a") as file:
        del file["a/a"]
    refused("is truncated or damaged")


@pytest.mark.slow  # Keras alone takes seconds to import
@pytest.mark.filterwarnings("ignore")
def test_files_that_keras_itself_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("h5py")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    inner = keras.Sequential(
        [layers.Conv2D(4, 3, name="in_conv"), layers.BatchNormalization(name="in_norm")], name="seq"
    )
    image = keras.Input((6, 5, 3))
    features = keras.Input((4, 3, 4))
    functional = keras.Model(features, layers.Dense(2, name="in_dense")(features), name="fun")
    separable = layers.SeparableConv2D(4, 3, padding="same", name="sep")
    y = functional(separable(inner(layers.Conv2D(3, 1, name="first")(image))))
    model = keras.Model(image, y)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])

    model.save(tmp_path / "net.h5")
    found = read(tmp_path / "net.h5").arrays
    inside = [model.get_layer("first"), *inner.layers, separable, functional.layers[-1]]
    expected = {
        f"{layer.name}/{weight.name}": np.asarray(weight.value)
        for layer in inside
        for weight in layer.weights
    }
    assert len(expected) == 13
    same(dict(sorted(found.items())), dict(sorted(expected.items())))

    model.save_weights(tmp_path / "net.weights.h5")
    model.save(tmp_path / "net.keras")
    for name in ("net.weights.h5", "net.keras"):
        same(dict(sorted(read(tmp_path / name).arrays.items())), dict(sorted(expected.items())))
