"""Folders of classes, listed: no label shifts, and nothing vanishes without a word."""

import os

import numpy as np
import pytest
from PIL import Image

from convjax import data, models
from convjax.data._folder import listed
from tests.nn.conftest import quick_compilation as quick_compilation

PLAIN = {"size": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def touched(root, *names):
    """Make files without content: the reader of names opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root, classes=None, allow_empty=False):
    return listed("path", root, classes, allow_empty)


def labelled(root, **options):
    listing = found(root, **options)
    return dict(zip(listing.files, listing.labels.tolist(), strict=True)), listing.classes


def readers(root, **options):
    """Both readers of folders, which refuse the same with the same words."""
    return [
        lambda: data.image_folder(root, **PLAIN, **options),
        lambda: data.stream(root, batch_size=1, **PLAIN, **options),
    ]


def refused(root, match, **options):
    for reader in readers(root, **options):
        with pytest.raises(ValueError, match=match):
            reader()


def test_an_empty_class_shifts_no_label(tmp_path):
    touched(tmp_path, "a/1.png", "c/1.png", "b/readme.txt")
    refused(tmp_path, "the folder 'b' is a class without a picture; .*allow_empty=True")
    assert labelled(tmp_path, allow_empty=True) == ({"a/1.png": 0, "c/1.png": 2}, ("a", "b", "c"))
    # Named, they are all there is to it: a folder beside them that holds no picture is none.
    assert labelled(tmp_path, classes=["c", "a"]) == ({"a/1.png": 1, "c/1.png": 0}, ("c", "a"))
    refused(tmp_path, "the folder 'b' is a class without", classes=["a", "b", "c"])
    refused(tmp_path, "do not name the folder 'c'", classes=["a", "d"])
    refused(tmp_path, r"classes=\('a', 'a'\) must be different", classes=("a", "a"))
    touched(tmp_path / "flat", "1.png")
    refused(tmp_path / "flat", r"flat' holds no class folder of classes=\('x',\)", classes=["x"])


@pytest.mark.parametrize(
    "names, told",
    [
        (("train", "val"), "holds train and val; give one of them"),
        (("Train", "Test"), "holds Test and Train;"),
        (("train", "validation", "car"), "holds train and validation;"),
        (("train",), "holds train;"),
        (("test", "val"), "holds test and val;"),
    ],
)
def test_splits_are_no_classes(names, told, tmp_path):
    touched(tmp_path, *(f"{name}/a/1.png" for name in names))
    refused(tmp_path, told)
    assert found(tmp_path, classes=list(names)).classes == names


def test_a_class_may_be_called_train(tmp_path):
    touched(tmp_path, "car/1.png", "train/1.png")
    assert found(tmp_path).classes == ("car", "train")


def test_links_are_followed_and_named_where_they_are_not(tmp_path):
    root = tmp_path / "root"
    touched(tmp_path, "far/1.png", "far/deep/2.png", "other/3.png")
    touched(root, "a/0.png")
    (root / "a/within").symlink_to(tmp_path / "far")
    (root / "b").symlink_to(tmp_path / "other")
    (root / "a/up").symlink_to(root / "a")
    (root / "a/out").symlink_to(root)
    (root / "a/nowhere").symlink_to(tmp_path / "none")
    (root / "a/self").symlink_to(root / "a/self")
    files, classes = labelled(root)
    assert classes == ("a", "b")
    expected = ["a/0.png", "a/within/1.png", "a/within/deep/2.png", "b/3.png"]
    assert files == dict(zip(expected, [0, 0, 0, 1], strict=True))
    skipped = found(root).skipped
    assert sorted(skipped) == ["a/nowhere", "a/out", "a/self", "a/up"]
    assert skipped["a/out"] == skipped["a/up"] == "a link to a folder around it"
    assert "leads nowhere: No such file" in skipped["a/nowhere"]
    assert "leads nowhere: Too many" in skipped["a/self"]
    (root / "aa").symlink_to(tmp_path / "none")
    refused(root, "'aa' is a link that leads nowhere: No such file")


def test_names_that_are_not_utf_8_are_left_out_and_named(tmp_path):
    touched(tmp_path, "a/1.png")
    odd = os.fsdecode(b"\xff")
    touched(tmp_path, f"a/{odd}.png")
    listing = found(tmp_path)
    assert listing.files == ("a/1.png",)
    assert listing.skipped == {"a/\\udcff.png": "its path is not in UTF-8"}
    touched(tmp_path, f"{odd}/1.png")
    refused(tmp_path, r"the folder '\\+udcff' is not named in UTF-8")


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    touched(tmp_path, "a/1.png", "a/closed/1.png")
    whole = os.scandir

    def scandir(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return whole(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(tmp_path, "closed' cannot be read: Permission denied")


def test_what_is_no_folder_is_refused(tmp_path):
    for reader in readers(tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="none' does not exist"):
            reader()
    touched(tmp_path, "file")
    refused(tmp_path / "file", "file' is a file; it must be a folder")


def test_both_readers_have_one_order_and_name_what_they_passed_over(tmp_path):
    # As paths, "a-b/1.png" comes before "a/1.png"; as classes, "a" before "a-b".
    for i, name in enumerate(("a/1.png", "a-b/1.png", "a/2.PNG", "loose.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(tmp_path / name)
    touched(tmp_path, "a/notes.txt")
    arrays, stream = (reader() for reader in readers(tmp_path, crop=1.0))
    assert arrays.files == stream.pictures.files == ("a/1.png", "a/2.PNG", "a-b/1.png")
    assert arrays.labels.tolist() == stream.pictures.labels.tolist() == [0, 0, 1]
    assert arrays.skipped == stream.skipped == (("loose.png", "outside the class folders"),)
    assert arrays.others == stream.others == ((".txt", 1),)
    images, labels = zip(*stream.once(), strict=True)
    np.testing.assert_allclose(np.concatenate(images), arrays.images, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(labels), arrays.labels)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("reference", ["torch", "keras"])
def test_the_readers_take_how_a_network_s_pictures_are_prepared(reference, tmp_path):
    """Against the words of the preprocessing, by hand: whole pictures of one colour each."""
    how = models.preprocessing("resnet50", reference=reference)
    colours = {"a": (10, 100, 200), "b": (255, 0, 51)}
    for name, colour in colours.items():
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (9, 11), colour).save(tmp_path / name / f"{i}.png")
    how_small = {**how, "size": 5}
    assert set(how_small) == {"size", "crop", "interpolation", "mean", "std", "order"}
    expected = (np.array(list(colours.values())) / 255 - how.mean) / how.std
    if reference == "keras":  # Caffe's: channels the other way round, means of bytes, no division
        expected = np.array([[200, 100, 10], [51, 0, 255]]) - (103.939, 116.779, 123.68)
    whole = data.image_folder(tmp_path, **how_small)
    assert whole.images.shape == (4, 5, 5, 3)
    np.testing.assert_allclose(whole.images[::2, 2, 3], expected, rtol=1e-4, atol=1e-4)
    train, test = data.image_splits(tmp_path, share=0.5, **how_small)
    for part in (train, test):
        np.testing.assert_allclose(part.images[:, 2, 3], expected, rtol=1e-4, atol=1e-4)
    with data.stream(tmp_path, batch_size=4, **how_small) as source:
        (images, _), *_ = source.once()
        inputs = source.inputs(0, 1)
    np.testing.assert_allclose(images[::2, 2, 3], expected, rtol=1e-4, atol=1e-4)
    first = inputs["images"][0, 0, 2, 3].tolist()
    assert first == list(colours["ab"[inputs["labels"][0, 0]]])[:: -1 if how.order == "BGR" else 1]
    assert data.image_folder(tmp_path, limit=1, **how).images.shape == (1, how.size, how.size, 3)


def test_how_pictures_are_prepared_is_a_tuple_still():
    how = models.preprocessing("resnet50")
    assert how[0] == how["size"] == how.size == 224
    assert how[3:5] == (how.mean, how.std) and len(how) == 8
    assert how._replace(size=8).size == 8 and tuple(how) == tuple(how[i] for i in range(8))


def test_a_table_of_annotations_names_the_classes(tmp_path):
    touched(tmp_path, "images/b.jpg", "images/a.jpg", "images/c.jpg", "images/x.jpg")
    lines = ["b.jpg\tdog\t0\t0\t9\t9", "a.jpg\tdog", "c.jpg\tcat", "d.jpg\tcat"]
    (tmp_path / "val_annotations.txt").write_text("\n".join(lines))
    listed = found(tmp_path)
    assert (listed.classes, listed.labels.tolist()) == (("cat", "dog"), [0, 1, 1])
    assert listed.files == ("images/c.jpg", "images/a.jpg", "images/b.jpg")
    assert listed.skipped == {
        "images/d.jpg": "it is not there",
        "images/x.jpg": "val_annotations.txt does not name it",
    }
    assert found(tmp_path, classes=("dog", "cat")).labels.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"do not name the folder 'cat'"):
        found(tmp_path, classes=("dog", "cow"))
    assert found(tmp_path, classes=("cow", "dog", "cat")).labels.tolist() == [2, 1, 1]
    (tmp_path / "val_annotations.txt").write_text("a.jpg\tdog\nb.jpg dog\n")
    with pytest.raises(ValueError, match=r"line 2: 'b\.jpg dog' is no file and class"):
        found(tmp_path)
