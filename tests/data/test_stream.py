"""Pictures streamed from a folder: order, cuts and workers, from any step."""

import multiprocessing
import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from convjax import data
from convjax.data._pictures import random_box
from tests.nn.conftest import quick_compilation as quick_compilation

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COUNTS = {"a": 4, "b": 3, "c": 4}
WIDTH, HEIGHT = 60, 40


def write(folder, counts=COUNTS):
    """Write pictures whose red is 4 x, whose green is 6 y, and whose blue says which they are."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    which = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.stack([4 * x, 6 * y, np.full_like(x, 20 * which)], -1).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
            which += 1
    return folder


def streamed(folder, **changes):
    return data.stream(folder, **{"batch_size": 4, "size": 10, "seed": 5, **PLAIN, **changes})


def same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def edges(image):
    """Where a cut was made, from its ramps: left, right (swapped if flipped), top, bottom."""
    red, green = image[..., 0].mean(0), image[..., 1].mean(1)
    found = []
    for ramp, step in ((red, 4), (green, 6)):
        # Far from the borders, where a resized ramp is one.
        slope = (ramp[-3] - ramp[2]) / (len(ramp) - 5)
        centre = (ramp[2:-2].mean() / step) + 0.5
        half = abs(slope) * len(ramp) / step / 2
        found += [centre - half, centre + half]
    return found, red[-1] < red[0]


def test_what_a_run_is_told_by_are_the_files_and_how_they_are_read(tmp_path):
    folder = write(tmp_path / "here", {"a": 2, "b": 1})
    about = streamed(folder, batch_size=2).about
    for name, changes in {
        "seed": {"seed": 6},
        "interpolation": {"interpolation": "bicubic"},
        "crop": {"crop": 0.5},
        "flip": {"flip": False},
        "size": {"size": 9},
        "augment": {"augment": data.Augment(crop=1)},
        "classes": {"classes": ("b", "a")},
        "order": {"order": "BGR"},
    }.items():
        other = streamed(folder, batch_size=2, **changes).about
        assert {key for key in about if about[key] != other[key]} - {"files"} == {name}
    folder = folder.rename(tmp_path / "there")
    assert streamed(folder, batch_size=2).about == about
    with (folder / "a/1.png").open("ab") as file:
        file.write(b"\0")
    longer = streamed(folder, batch_size=2).about
    (folder / "b/0.png").rename(folder / "b/1.png")
    renamed = streamed(folder, batch_size=2).about
    assert len({one["files"] for one in (about, longer, renamed)}) == 3
    source = streamed(folder, batch_size=2)
    (folder / "b/1.png").unlink()
    with pytest.raises(ValueError, match=r"1\.png' cannot be read: No such file"):
        _ = source.about


def test_the_order_is_that_of_the_indices_and_labels_belong_to_their_pictures(tmp_path):
    source = streamed(write(tmp_path))
    assert (source.count, source.classes) == (11, ("a", "b", "c"))
    inputs = source.inputs(0, 7)
    assert inputs["images"].shape == (7, 4, 10, 10, 3)
    expected = np.array([data.batch_indices(11, 4, seed=5, step=step) for step in range(7)])
    np.testing.assert_array_equal(inputs["images"][:, :, 5, 5, 2] / 20, expected)
    np.testing.assert_array_equal(inputs["labels"], np.repeat([0, 1, 2], [4, 3, 4])[expected])
    np.testing.assert_array_equal(inputs["place"], np.tile(np.arange(4), (7, 1)))


def test_any_step_can_be_asked_for_in_any_portions(tmp_path):
    source = streamed(write(tmp_path))
    whole = source.inputs(0, 8)
    for first, steps in [(0, 3), (3, 1), (4, 4), (6, 2), (1, 1)]:
        part = {name: array[first : first + steps] for name, array in whole.items()}
        same(part, source.inputs(first, steps))
    other = streamed(tmp_path, seed=6).inputs(0, 8)
    assert not np.array_equal(other["images"], whole["images"])


def test_random_cuts_have_the_areas_and_aspects_that_were_asked_for(tmp_path):
    images = streamed(write(tmp_path), size=20, crop=(0.3, 0.6)).inputs(0, 40)["images"]
    areas, aspects, flips, corners = [], [], [], []
    for image in images.reshape(-1, 20, 20, 3).astype(float):
        (left, right, top, bottom), flipped = edges(image)
        assert -1 < left < right < WIDTH + 1
        assert -1 < top < bottom < HEIGHT + 1
        areas.append((right - left) * (bottom - top) / (WIDTH * HEIGHT))
        aspects.append((right - left) / (bottom - top))
        flips.append(flipped)
        corners.append((round(left), round(top)))
    assert 0.27 < min(areas) < 0.33 and 0.55 < max(areas) < 0.65
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.45
    assert 0.35 < np.mean(flips) < 0.65
    assert len(set(corners)) > 100


def test_nothing_is_flipped_unless_asked_for(tmp_path):
    images = streamed(write(tmp_path), flip=False).inputs(0, 10)["images"].astype(float)
    assert not any(edges(image)[1] for image in images.reshape(-1, 10, 10, 3))


def test_cuts_lie_inside_and_long_pictures_are_cut_in_the_middle():
    random = np.random.default_rng(0)
    for width, height in random.integers(1, 40, (300, 2)).tolist():
        left, top, right, bottom = random_box(random, width, height, (0.08, 1.0))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    # No cut of nine tenths fits into a strip: as much as an aspect of 4/3 or 3/4 lets in.
    assert random_box(random, 100, 12, (0.9, 1.0)) == (42, 0, 58, 12)
    assert random_box(random, 12, 100, (0.9, 1.0)) == (0, 42, 12, 58)


def test_one_number_cuts_the_centre_as_image_folder_does(tmp_path):
    write(tmp_path)
    settings = {"size": 10, "crop": 0.8, "interpolation": "bicubic", **PLAIN}
    expected = data.image_folder(tmp_path, **settings).images
    found = streamed(tmp_path, batch_size=11, **settings).inputs(0, 1)
    order = data.batch_indices(11, 11, seed=5, step=0)
    np.testing.assert_array_equal(found["images"][0], np.rint(expected[order] * 255))


@pytest.mark.usefixtures("quick_compilation")
def test_bytes_become_a_batch_within_the_step_and_shares_are_those_of_the_whole(tmp_path):
    settings = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    source = streamed(write(tmp_path), augment=data.Augment(mixup=0.5), **settings)
    inputs = {name: array[0] for name, array in source.inputs(3, 1).items()}
    batch, key = jax.jit(source.batch), jax.random.key(2)
    images, labels = batch(source.arrays, inputs, key)
    raw = (inputs["images"] / 255 - settings["mean"]) / settings["std"]
    hot = np.eye(3)[inputs["labels"]]
    for place in range(4):
        apart = (raw[place] - raw[3 - place]).ravel()
        share = apart @ (np.asarray(images[place]) - raw[3 - place]).ravel() / (apart @ apart)
        mixed = share * raw[place] + (1 - share) * raw[3 - place]
        np.testing.assert_allclose(images[place], mixed, atol=1e-4)
        expected = share * hot[place] + (1 - share) * hot[3 - place]
        np.testing.assert_allclose(labels[place], expected, atol=1e-4)
    half = {name: array[2:] for name, array in inputs.items()}
    for whole, part in zip((images, labels), batch(source.arrays, half, key), strict=True):
        np.testing.assert_allclose(whole[2:], part, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_once_is_every_picture_in_order_as_image_folder_has_it(tmp_path, channels):
    settings = {"size": 10, "crop": 0.8, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    settings |= {"channels": channels}
    expected = data.image_folder(write(tmp_path), interpolation="bilinear", **settings)
    source = streamed(tmp_path, **settings)
    for _ in range(2):
        images, labels = zip(*source.once(), strict=True)
        assert [len(part) for part in labels] == [4, 4, 3]
        np.testing.assert_allclose(np.concatenate(images), expected.images, atol=1e-5)
        np.testing.assert_array_equal(np.concatenate(labels), expected.labels)
    cut = streamed(tmp_path, **settings | {"crop": (0.2, 0.9)})
    assert cut.inputs(0, 1)["images"].shape == (1, 4, 10, 10, channels)
    assert ("channels" in cut.about) == (channels != 3)


def test_a_picture_that_cannot_be_read_is_refused_by_name(tmp_path):
    file = write(tmp_path) / "b" / "1.png"
    file.write_bytes(file.read_bytes()[:90])
    source = streamed(tmp_path, batch_size=11)
    match = f"file={re.escape(repr(str(file)))} cannot be read as a picture: .+"
    with pytest.raises(ValueError, match=match):
        source.inputs(0, 1)
    file.write_bytes(b"no picture at all")
    with pytest.raises(ValueError, match=f"{match}known format"):
        source.inputs(0, 1)


def test_a_picture_that_cannot_be_read_is_skipped_named_and_counted(tmp_path):
    whole = streamed(write(tmp_path)).inputs(0, 6)
    (tmp_path / "b" / "1.png").write_bytes(b"no picture at all")
    (tmp_path / "c" / "3.png").write_bytes(b"")
    source = streamed(tmp_path, unreadable="skip")
    found = source.inputs(0, 6)
    assert source.skipped == (
        ("b/1.png", "not a picture of a known format"),
        ("c/3.png", "empty file"),
    )
    # The next file stands in their place: b/2 (6) for b/1 (5), and a/0 (0) for the last, c/3 (10).
    order = np.stack([data.batch_indices(11, 4, seed=5, step=step) for step in range(6)])
    taken = np.where(order == 5, 6, np.where(order == 10, 0, order))
    np.testing.assert_array_equal(found["images"][..., 0, 0, 2], 20 * taken)
    np.testing.assert_array_equal(found["labels"], np.repeat([0, 1, 2], [4, 3, 4])[taken])
    same_place = order == taken
    np.testing.assert_array_equal(found["images"][same_place], whole["images"][same_place])
    # Tested are those that can be read, each once.
    other = streamed(tmp_path, unreadable="skip", crop=0.875)
    assert np.concatenate([labels for _, labels in other.once()]).tolist() == (
        [0] * 4 + [1] * 2 + [2] * 3
    )
    assert len(other.skipped) == 2
    for file in tmp_path.glob("*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"nor can the 10 files behind it: empty file"):
        streamed(tmp_path, unreadable="skip").inputs(0, 1)


@pytest.mark.later
def test_workers_read_what_one_process_would_and_leave_nobody_behind(tmp_path):
    whole = streamed(write(tmp_path)).inputs(0, 9)
    # Taken up at a step that is the second worker's.
    with streamed(tmp_path, workers=2) as source:
        parts = [source.inputs(5, 1), source.inputs(6, 2), source.inputs(8, 1)]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    found = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    same({name: array[5:] for name, array in whole.items()}, found)


@pytest.mark.slow
def test_workers_can_be_sent_to_another_step_and_their_errors_arrive(tmp_path):
    whole = streamed(write(tmp_path)).inputs(0, 9)
    with streamed(tmp_path, workers=2) as source:
        for first, steps in [(4, 2), (1, 3), (7, 1)]:
            part = {name: array[first : first + steps] for name, array in whole.items()}
            same(part, source.inputs(first, steps))
        assert np.concatenate([labels for _, labels in source.once()]).tolist() == (
            [0] * 4 + [1] * 3 + [2] * 4
        )
    assert not multiprocessing.active_children()
    (tmp_path / "c" / "2.png").write_bytes(b"no picture at all")
    source = streamed(tmp_path, workers=2, batch_size=11)
    with pytest.raises(ValueError, match=r"2.png' cannot be read as a picture: .*known format"):
        source.inputs(0, 4)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": 12}, "batch_size=12 must lie between 1 and the 11"),
        ({"workers": -1}, "workers=-1"),
        ({"size": 0}, "size=0"),
        ({"seed": -2}, "seed=-2"),
        ({"crop": (0.5, 0.2)}, r"crop=\(0.5, 0.2\) must be two shares"),
        ({"crop": (0.5,)}, "must be two shares"),
        ({"crop": 1.5}, "crop=1.5"),
        ({"interpolation": "bilinaer"}, "did you mean 'bilinear'"),
        ({"std": (1.0, 0.0, 1.0)}, r"std\[1\]=0.0 must be greater than 0"),
        ({"classes": ("a", "c")}, "do not name the folder 'b'"),
        ({"classes": ("a", "b", "c", "a")}, "must be different"),
        ({"channels": 2}, r"channels=2 must be 1 \(grey\), 3 \(RGB\) or 4"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, match):
    write(tmp_path)
    with pytest.raises(ValueError, match=match):
        streamed(tmp_path, **changes)


@pytest.mark.parametrize(("first", "steps"), [(0, 0), (-1, 1)])
def test_steps_that_cannot_be_are_refused(tmp_path, first, steps):
    with pytest.raises(
        ValueError, match=r"(steps=0 must be at least 1|first=-1 must be at least 0)"
    ):
        streamed(write(tmp_path)).inputs(first, steps)


def test_folders_that_are_none_of_classes_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="none' does not exist"):
        streamed(tmp_path / "none")
    write(tmp_path / "loose", {"": 3})
    with pytest.raises(ValueError, match="loose' holds no class folders"):
        streamed(tmp_path / "loose")
    write(tmp_path / "whole/train")
    write(tmp_path / "whole/val")
    with pytest.raises(ValueError, match="whole' holds train and val; give one of them"):
        streamed(tmp_path / "whole")
    (tmp_path / "whole/val/void").mkdir()
    with pytest.raises(ValueError, match="void' is a class without a picture"):
        streamed(tmp_path / "whole/val")


def test_labels_are_those_of_the_classes_given(tmp_path):
    source = streamed(write(tmp_path), batch_size=11, classes=("c", "x", "b", "a"))
    labels = source.inputs(0, 1)["labels"][0]
    order = data.batch_indices(11, 11, seed=5, step=0)
    np.testing.assert_array_equal(labels, np.repeat([3, 2, 0], [4, 3, 4])[order])
    assert source.classes == ("c", "x", "b", "a")


def test_without_grain_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"pip install convjax\[grain\]"):
        streamed(write(tmp_path))
