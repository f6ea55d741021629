"""Data by name: standardised by what is trained on, split as asked, every picture tested once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from convjax import data
from convjax.data import _find

HOW = {"size": 8, "crop": 0.875, "interpolation": "bilinear", "order": "RGB"}
HOW |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def random_images(count, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 200, (count, 6, 5, 3), np.uint8)
    return images, (np.arange(count) % 3).astype(np.int32)


@pytest.mark.parametrize("by", ["channels", "pixels"])
def test_test_images_are_standardised_by_the_training_images(by):
    images, labels = random_images(9)
    # The same images to train and to test on must come out alike, beside others that must not.
    found = data.sets((images, labels), (images, labels), batch_size=9, by=by)
    unit = images / 255
    expected = unit - unit.mean(0 if by == "pixels" else (0, 1, 2))
    expected = expected if by == "pixels" else expected / unit.std((0, 1, 2))
    held, held_labels = found.test
    np.testing.assert_allclose(held, expected, atol=1e-5)
    inputs = jax.tree.map(lambda a: jnp.asarray(a[0]), found.source.inputs(0, 1))
    x, y = found.source.batch(found.source.arrays, inputs, jax.random.key(0))
    order = inputs["index"]
    np.testing.assert_allclose(x, expected[order], atol=1e-5)
    assert y.tolist() == held_labels[order].tolist()
    shifted = data.sets((images, labels), random_images(4, seed=1), batch_size=9, by=by)
    np.testing.assert_array_equal(shifted.source.arrays["mean"], found.source.arrays["mean"])


def test_a_file_is_split_as_it_says_or_by_share(tmp_path):
    images, labels = random_images(20)
    options = {"batch_size": 4, "share": 0.4}
    split = {"x_train": images, "y_train": labels, "x_test": images[:5], "y_test": labels[:5]}
    np.savez(tmp_path / "a.npz", **split)
    found = data.find("npz", tmp_path / "a.npz", size=7, **options)
    assert (found.source.count, len(found.test[1]), found.shape) == (20, 5, (7, 7, 3))
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    found = data.find("npz", tmp_path / "b.npz", **options)
    assert (found.source.count, len(found.test[1]), found.classes) == (12, 8, 3)


def test_what_is_held_out_follows_from_the_seed():
    first, held = data.hold_out(np.arange(20), np.arange(20) % 3, 0.4)
    assert sorted([*first[0], *held[0]]) == list(range(20)) and len(held[0]) == 8
    assert data.hold_out(np.arange(20), np.arange(20), 8)[1][0].tolist() == held[0].tolist()
    assert data.hold_out(np.arange(20), np.arange(20), 8, seed=1)[1][0].tolist() != held[0].tolist()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of as many colours; 7 pictures to train on, 5 to test on."""
    root = tmp_path_factory.mktemp("pictures")
    for split, counts in (("train", (3, 2, 2)), ("val", (1, 3, 1))):
        for label, count in enumerate(counts):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 16), (80 * label, 10 * i, 0)).save(folder / f"{i}.png")
    return root


def test_a_folder_is_read_with_its_own_split(pictures):
    found = data.find("folder", pictures, how=HOW, batch_size=4)
    assert (found.source.count, found.shape, found.classes) == (7, (8, 8, 3), 3)
    assert sorted(found.test[1].tolist()) == [0, 1, 1, 1, 2]
    assert found.told.endswith("3 classes; 0 files skipped")
    assert repr(found) == f"Sets({found.told!r}, shape=(8, 8, 3), classes=3)"


def test_a_stream_is_tested_on_every_picture_once(pictures, monkeypatch):
    monkeypatch.setattr(_find, "TESTED_TOGETHER", 2)
    with data.find("stream", pictures, how=HOW, batch_size=4, size=6) as found:
        assert (found.source.count, found.shape, found.classes) == (7, (6, 6, 3), 3)
        batches = list(found.test())
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    images, labels = (np.concatenate(one) for one in zip(*batches, strict=True))
    assert sorted(labels.tolist()) == [0, 1, 1, 1, 2]
    # One colour each: red tells the class, green the picture.
    colours = np.round(images[:, 4, 4, :2] * (0.229, 0.224) + (0.485, 0.456), 2)
    assert len(np.unique(colours, axis=0)) == 5
    assert len(set(zip(colours[:, 0].tolist(), labels.tolist(), strict=True))) == 3


def test_how_has_the_defaults_of_image_folder(tmp_path):
    random = np.random.default_rng(0)
    for file in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"):
        (tmp_path / file).parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (20, 16, 3), np.uint8)).save(tmp_path / file)
    how = {n: v for n, v in HOW.items() if n in ("size", "mean", "std")}
    right = data.image_folder(tmp_path / "val", **how).images
    with data.find("stream", tmp_path, how=how, batch_size=2) as found:
        ((images, _),) = found.test()
    np.testing.assert_allclose(images, right, atol=1e-6)
    whole = {**how, "crop": 0.875, "interpolation": "bicubic", "order": "RGB"}
    folders = (data.find("folder", tmp_path, how=one, batch_size=2) for one in (how, whole))
    np.testing.assert_array_equal(*(found.test[0] for found in folders))


def test_an_underscore_is_as_good_as_a_dash(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no train-images.*Fashion-MNIST comes with"):
        data.find("fashion_mnist", tmp_path, batch_size=4)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["folder", "stream"])
def test_pictures_have_the_channels_asked_for(pictures, name, channels):
    with data.find(name, pictures, how=HOW, batch_size=4, channels=channels) as found:
        assert found.shape == (8, 8, channels) and f"8x8x{channels}, " in found.told
        inputs = jax.tree.map(lambda a: jnp.asarray(a[0]), found.source.inputs(0, 1))
        x, _ = found.source.batch(found.source.arrays, inputs, jax.random.key(0))
        assert x.shape == (4, 8, 8, channels)


def tiny(root):
    """Write the layout of Tiny-ImageNet: three classes of 4, 2 to test on, and no labels beside."""
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        lines = []
        for label, name in enumerate(("n03", "n01", "n02")):
            below = f"{name}/images" if split == "train" else "images"
            (root / split / below).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                file = f"{name}_{i}.JPEG" if split == "train" else f"{split}_{3 * i + label}.JPEG"
                colour = (80 * label, 50 * i, 0)
                Image.new("RGB", (20, 16), colour).save(root / split / below / file, quality=95)
                lines.append(f"{file}\t{name}\t0\t0\t62\t62\n")
        if split == "val":
            (root / split / "val_annotations.txt").write_text("".join(lines))
    (root / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t9\t9\n")
    return root


@pytest.mark.parametrize("name", ["folder", "stream"])
def test_tiny_imagenet_is_read_as_it_comes(tmp_path, name):
    how = {**HOW, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with data.find(name, tiny(tmp_path), how=how, batch_size=4) as found:
        assert found.told.count("12 ") == 1 and ", 6 to test on, 8x8x3, 3 classes" in found.told
        batches = [found.test] if name == "folder" else list(found.test())
    images, labels = (np.concatenate(one) for one in zip(*batches, strict=True))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    red = images[:, 4, 4, 0]  # standardised: n01 is the second colour, n02 the third, n03 none
    assert red[4] < red[0] < red[2] and np.ptp(red.reshape(3, 2), axis=1).max() < 0.1


IMAGES, LABELS = random_images(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.find("digit", batch_size=4), "did you mean 'digits'"),
        (lambda: data.find("digits", "here", batch_size=4), "digits come with scikit-learn"),
        (lambda: data.find("npz", batch_size=4), "path=None, name='npz': path must say where"),
        (lambda: data.find("digits", batch_size=4, share=1.0), "^share=1.0 must be"),
        (lambda: data.find("folder", ".", batch_size=4), r"^how=None \(NoneType\) must be what"),
        (lambda: data.find("stream", ".", how=HOW, batch_size=4), "the folders train and val"),
        (lambda: data.find("cifar100", "no", batch_size=4), "must hold train.bin, test.bin, as"),
        (
            lambda: data.sets((IMAGES, LABELS), (IMAGES[:, 1:], LABELS), batch_size=2),
            r"test: images have the shape \(4, 5, 5, 3\)",
        ),
        (
            lambda: data.sets((IMAGES, LABELS), (IMAGES, LABELS), batch_size=2, classes=2),
            "labels to train on go up to 2, of 2 classes",
        ),
        (
            lambda: data.find("digits", batch_size=4, channels=1),
            "channels=1, name='digits': only a folder's pictures are converted",
        ),
        (
            lambda: data.find("stream", ".", how={"size": 8, "mean": (0.5,) * 3}, batch_size=4),
            r"how has no 'std'; it must have size, mean, std, as models\.preprocessing",
        ),
        (
            lambda: data.find("folder", ".", how={**HOW, "means": 1}, batch_size=4),
            "how: key='means' is not known; did you mean 'mean'",
        ),
        (lambda: data.hold_out(IMAGES, LABELS, 4), "held=4: 4 of 4 images cannot be held out"),
        (lambda: data.hold_out(IMAGES, LABELS, float("nan")), "^held=nan must be finite"),
    ],
)
def test_what_cannot_be_found_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
