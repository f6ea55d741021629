"""Files of NumPy arrays: names, shapes and damage."""

import re

import numpy as np
import pytest

from convjax import data

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
LABELS = RANDOM.integers(0, 6, 7)


def saved(folder, compressed=False, **arrays):
    path = folder / "some.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_images_and_labels_by_their_plain_names(tmp_path, compressed):
    images, labels = data.npz(saved(tmp_path, compressed, images=IMAGES, labels=LABELS))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_as_keras_writes_them(tmp_path):
    x, y = IMAGES[..., 0], LABELS.astype(np.uint8)
    path = saved(tmp_path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2, None])
    images, labels = data.npz(path, "train")
    np.testing.assert_array_equal(images, IMAGES[..., :1])
    images, labels = data.npz(str(path), "test", classes=6)
    assert images.shape == (2, 5, 4, 1)
    assert labels.tolist() == LABELS[:2].tolist()


def test_a_split_that_would_be_read_is_named(tmp_path):
    path = saved(tmp_path, x_train=IMAGES, y_train=LABELS)
    with pytest.raises(ValueError, match=r"x_train, y_train; split='train' takes x_train and y_"):
        data.npz(path)
    assert len(data.npz(path, split="train")[1]) == 7
    with pytest.raises(ValueError, match=r"holds no 'x'; it holds x_train, y_train$"):
        data.npz(path, images="x")


def test_names_by_option_and_floats_as_float32(tmp_path):
    path = saved(tmp_path, a=IMAGES / 7, b=LABELS, labels=LABELS[::-1])
    images, labels = data.npz(path, images="a")
    np.testing.assert_array_equal(images, (IMAGES / 7).astype(np.float32))
    assert labels.tolist() == LABELS[::-1].tolist()
    assert data.npz(path, "test", images="a", labels="b")[1].tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": IMAGES[0, 0]}, r"images have the shape \(4, 3\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images have the shape \(0, 5, 4, 3\)"),
        ({"images": IMAGES.astype(int)}, "images are int64"),
        ({"images": np.where(IMAGES > 250, np.nan, IMAGES)}, "images hold NaN"),
        ({"images": IMAGES.astype(float) * 1e39}, "images hold NaN or infinity"),
        ({"labels": LABELS[1:]}, r"labels have the shape \(6,\); 7 images"),
        ({"labels": LABELS / 2}, "labels are float64"),
        ({"labels": LABELS - 9}, r"labels\[0\]=-\d must lie in 0 to 5"),
        ({"labels": LABELS + 2}, r"labels\[\d\]=\d must lie in 0 to 5; \d of"),
        ({"labels": np.array([{}] * 7)}, "is not an .npz file to be read: .*allow_pickle"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_arrays_that_cannot_be_are_refused_with_the_name_of_the_file(tmp_path, changes, match):
    path = saved(tmp_path, **{"images": IMAGES, "labels": LABELS, **changes})
    with pytest.raises(ValueError, match=f"{re.escape(repr(str(path)))}.*{match}"):
        data.npz(path, classes=6)


def test_a_name_that_is_not_held_is_refused_with_those_that_are(tmp_path):
    path = saved(tmp_path, x=IMAGES, labels=LABELS)
    with pytest.raises(ValueError, match=r"some.npz' holds no 'images'; it holds labels, x"):
        data.npz(path)
    with pytest.raises(ValueError, match="split='val'"):
        data.npz(path, "val")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_short_anywhere_is_refused_by_name(tmp_path, compressed):
    path = saved(tmp_path, compressed, images=IMAGES, labels=LABELS)
    content = path.read_bytes()
    for size in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"some.npz' is not an .npz file"):
            data.npz(path)


def test_a_byte_that_has_changed_is_noticed(tmp_path):
    path = saved(tmp_path, images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[content.find(IMAGES.tobytes()) + 200] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some.npz' is not an .npz file to be read: .*CRC"):
        data.npz(path)


def test_files_of_another_kind_are_refused_by_name(tmp_path):
    np.save(tmp_path / "one.npy", IMAGES)
    (tmp_path / "text.npz").write_text("images, labels")
    for name in ("one.npy", "text.npz"):
        with pytest.raises(ValueError, match=f"{name}' is not an .npz file"):
            data.npz(tmp_path / name)
    with pytest.raises(ValueError, match=r"none.npz' does not exist; give an .npz file"):
        data.npz(tmp_path / "none.npz")
