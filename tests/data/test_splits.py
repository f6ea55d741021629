"""A folder of pictures in two parts: as its folders say, or by a share of every class."""

import numpy as np
import pytest
from PIL import Image

from convjax import data

SETTINGS = {"size": 8, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def write(folder, counts):
    """Write pictures of which each has a grey of its own."""
    grey = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            grey += 1
            Image.new("RGB", (10, 9), (grey, grey, grey)).save(folder / name / f"{i}.png")
    return folder


def greys(found):
    return np.rint(found.images[:, 0, 0, 0] * 255).astype(int).tolist()


def test_every_class_gives_its_share_and_every_picture_is_in_one_part(tmp_path):
    write(tmp_path, {"a": 10, "b": 4, "c": 2})
    train, test = data.image_splits(tmp_path, share=0.3, seed=1, **SETTINGS)
    assert [test.labels.tolist().count(label) for label in range(3)] == [3, 1, 1]
    assert sorted(greys(train) + greys(test)) == list(range(1, 17))
    assert sorted(train.files + test.files) == sorted({*train.files, *test.files})
    ends = np.array([10, 14, 16])
    for part in (train, test):
        assert part.labels.tolist() == np.searchsorted(ends, greys(part)).tolist()
        assert part.classes == ("a", "b", "c")
    again = data.image_splits(tmp_path, share=0.3, seed=1, **SETTINGS)[1]
    other = data.image_splits(tmp_path, share=0.3, seed=2, **SETTINGS)[1]
    assert again.files == test.files != other.files


@pytest.mark.parametrize("name", ["test", "val"])
def test_folders_of_their_own_share_the_classes_of_the_training(tmp_path, name):
    write(tmp_path / "train", {"a": 1, "b": 2, "c": 1})
    write(tmp_path / name, {"b": 1, "c": 2})
    train, test = data.image_splits(tmp_path, **SETTINGS)
    assert train.labels.tolist() == [0, 1, 1, 2]
    assert test.labels.tolist() == [1, 2, 2]
    assert test.classes == ("a", "b", "c")
    assert test.files == ("b/0.png", "c/0.png", "c/1.png")


def test_what_cannot_be_split_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"share=1"):
        data.image_splits(tmp_path, share=1.0, **SETTINGS)
    write(tmp_path / "lone", {"a": 3, "b": 1})
    with pytest.raises(ValueError, match="class 'b' has 1 pictures"):
        data.image_splits(tmp_path / "lone", **SETTINGS)
    write(tmp_path / "loose", {"": 2})
    with pytest.raises(ValueError, match="loose' has no class folders"):
        data.image_splits(tmp_path / "loose", **SETTINGS)
    write(tmp_path / "more/train", {"a": 1})
    write(tmp_path / "more/test", {"a": 1, "z": 1})
    with pytest.raises(ValueError, match="test' has a class that train has not: 'z'"):
        data.image_splits(tmp_path / "more", **SETTINGS)
