"""Pictures from a folder: cut where they should be, converted, and skipped where broken."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from convjax import data

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def coordinates(width, height):
    """A picture whose red is x, whose green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x + 7], -1).astype(np.uint8)


def bytes_of(folder, **changes):
    found = data.image_folder(folder, **{"size": 8, "crop": 1.0, **PLAIN, **changes})
    return np.rint(found.images * 255).astype(int), found


@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(32, 41, 2, 6), (32, 43, 2, 8), (41, 32, 6, 2), (57, 32, 14, 2), (32, 32, 2, 2)],
)
def test_the_centre_is_cut_to_the_pixel(tmp_path, width, height, left, top):
    Image.fromarray(coordinates(width, height)).save(tmp_path / "a.png")
    # 28 / 0.875 is 32, the shorter side: nothing is resized.
    pixels, _ = bytes_of(tmp_path, size=28, crop=0.875)
    expected = coordinates(width, height)[top : top + 28, left : left + 28]
    np.testing.assert_array_equal(pixels[0], expected)


def test_the_shorter_side_is_resized_with_antialiasing(tmp_path):
    # Stripes of one pixel: an antialiased half is grey, one that picks pixels is black or white.
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 40))
    Image.fromarray(stripes).save(tmp_path / "a.png")
    smooth, _ = bytes_of(tmp_path, size=32, interpolation="bilinear")
    assert np.abs(smooth - 127.5).max() < 20
    rough, _ = bytes_of(tmp_path, size=32, interpolation="nearest")
    assert set(np.unique(rough)) <= {0, 255}


def test_a_ramp_keeps_its_slope_and_its_centre(tmp_path):
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a.png")
    pixels, _ = bytes_of(tmp_path, size=40, crop=0.8)  # the shorter side becomes 50: half
    expected = 2 * (np.arange(40) + 30 + 0.5) - 0.5
    assert np.abs(pixels[0] - expected[None, :, None]).max() <= 1


def test_brightness_is_scaled_and_standardised(tmp_path):
    Image.new("RGB", (9, 12), (0, 51, 255)).save(tmp_path / "a.png")
    found = data.image_folder(tmp_path, size=8, mean=(0.5, 0.1, 0.2), std=(0.25, 0.1, 0.4))
    np.testing.assert_allclose(found.images[0, 3, 5], [-2.0, 1.0, 2.0], rtol=1e-6)
    assert (found.images.dtype, found.images.shape) == (np.float32, (1, 8, 8, 3))


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    def made(mode, colour):
        return Image.new(mode, (8, 8), colour)

    palette = made("RGB", (10, 200, 30)).quantize()
    palette.info["transparency"] = b"\x00"
    kept = {
        "alpha.png": (made("RGBA", (10, 200, 30, 0)), (10, 200, 30)),
        "bit.png": (made("1", 1), (255, 255, 255)),
        "cmyk.tif": (made("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
        "deep.png": (Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)), (128, 128, 128)),
        "grey.png": (made("L", 77), (77, 77, 77)),
        "grey_alpha.png": (made("LA", (77, 9)), (77, 77, 77)),
        "palette.png": (palette, (10, 200, 30)),
        "plain.BMP": (made("RGB", (10, 200, 30)), (10, 200, 30)),
    }
    for name, (image, _) in kept.items():
        image.save(tmp_path / name)
    pixels, found = bytes_of(tmp_path)
    assert not found.skipped
    assert dict(zip(found.files, map(tuple, pixels[:, 4, 3].tolist()), strict=True)) == {
        name: colour for name, (_, colour) in kept.items()
    }


def test_pictures_become_grey_as_asked(tmp_path):
    colours = coordinates(9, 7) * np.array([20, 30, 11], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([colours, 3 * colours[..., :1]])).save(tmp_path / "b.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "c.png")
    Image.fromarray(257 * colours[..., 1].astype(np.uint16)).save(tmp_path / "d.png")
    pixels, found = bytes_of(tmp_path, size=7, channels=1, mean=(0.0,), std=(1.0,))
    assert found.images.shape == (4, 7, 7, 1)
    middle = colours[:, 1:8]
    grey = middle @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels[:2, ..., 0] - grey).max() <= 0.51  # alpha is dropped
    np.testing.assert_array_equal(pixels[2, ..., 0], middle[..., 0])
    np.testing.assert_array_equal(pixels[3, ..., 0], middle[..., 1])
    of = {"mean": (0.2, 0.3, 0.7), "std": (0.1, 0.3, 0.2)}
    averaged = data.image_folder(tmp_path, size=7, crop=1.0, channels=1, **of).images
    np.testing.assert_allclose(averaged[..., 0], (pixels[..., 0] / 255 - 0.4) / 0.2, atol=1e-5)


def test_pictures_get_an_alpha_as_asked(tmp_path):
    colours = coordinates(9, 7) * np.array([20, 30, 11], np.uint8)
    whole = np.dstack([colours, 255 - colours[..., :1]])
    Image.fromarray(whole).save(tmp_path / "a.png")
    Image.fromarray(colours).save(tmp_path / "b.png")
    Image.new("CMYK", (9, 7), (255, 0, 0, 0)).save(tmp_path / "c.jpg", quality=95)
    palette = Image.new("P", (9, 7), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "d.png", transparency=bytes([255, 128]))
    pixels, found = bytes_of(tmp_path, size=7, channels=4)
    assert found.images.shape == (4, 7, 7, 4) and not found.skipped
    # Where nothing is to be seen there is no colour: it is weighted by alpha.
    seen = whole[:, 1:8, 3] > 8
    assert np.abs(pixels[0] - whole[:, 1:8])[seen].max() <= 12
    np.testing.assert_array_equal(pixels[0, ..., 3], whole[:, 1:8, 3])
    np.testing.assert_array_equal(pixels[1, ..., :3], colours[:, 1:8])
    assert (pixels[1:3, ..., 3] == 255).all() and pixels[2, 0, 0, 0] < 5 < 250 < pixels[2, 0, 0, 1]
    assert pixels[3, 3, 3].tolist() == [10, 20, 30, 128]


def test_an_orientation_in_exif_is_not_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4] = 255
    Image.fromarray(halves).save(tmp_path / "a.jpg", exif=exif.tobytes(), quality=95)
    pixels, _ = bytes_of(tmp_path)
    assert pixels[0, 0].min() > 200 and pixels[0, -1].max() < 50


def spoil(folder):
    """Write one good picture and one of every kind that is not; return the reasons to expect."""
    good = folder / "5_good.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    whole = good.read_bytes()
    (folder / "1_cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2_empty.jpg").write_bytes(b"")
    (folder / "3_text.jpeg").write_text("this is not a picture")
    (folder / "4_program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n")
    Image.fromarray(np.ones((9, 9), np.float32)).save(folder / "6_float.tif")
    Image.fromarray(np.full((9, 9), 70000, np.int32)).save(folder / "7_deep.tif")
    (folder / "8_link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "9_pipe.png")
    return {
        "1_cut.png": "truncated",
        "2_empty.jpg": "empty file",
        "3_text.jpeg": "not a picture of a known format",
        "4_program.jpg": "not a picture of a known format",
        "6_float.tif": "floating point",
        "7_deep.tif": "more than 16 bits",
        "8_link.png": "not a regular file",
        "9_pipe.png": "not a regular file",
    }


def test_what_cannot_be_read_is_skipped_and_named(tmp_path):
    expected = spoil(tmp_path)
    _, found = bytes_of(tmp_path)
    assert found.files == ("5_good.png",)
    assert found.labels is None and found.classes == ()
    assert [file for file, _ in found.skipped] == sorted(expected)
    for file, reason in found.skipped:
        assert expected[file] in reason
    assert str(found).splitlines()[0] == "1 images, 8x8; 8 skipped"
    assert repr(found) == "ImageFolder(1 images, 8x8; 8 skipped)"
    (tmp_path / "5_good.png").unlink()
    with pytest.raises(ValueError, match=r"can be read; skipped 8, the first '1_cut.png': .*trunc"):
        bytes_of(tmp_path)


@pytest.mark.parametrize("most", [300, 120])  # Pillow warns above its limit, raises above twice it
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, most):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    Image.new("RGB", (20, 20)).save(tmp_path / "bomb.png")
    Image.new("RGB", (1, 40)).save(tmp_path / "strip.png")  # 8 pixels wide it has 2560
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    _, found = bytes_of(tmp_path)
    assert found.files == ("small.png",)
    (_, bomb), (_, strip) = found.skipped
    assert "decompression bomb" in bomb
    assert strip == "1x40 pixels would become 8x320"


def picture(path, colour=(1, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def test_class_folders_give_labels_in_sorted_order(tmp_path):
    for name in ("b/2.png", "b/10.png", "a/x.png", "c/deep/er/1.PNG", ".hidden/1.png", "a/.h.png"):
        picture(tmp_path / name)
    for name in ("b/Thumbs.db", "notes.txt", "b/more.TXT", "a/noext"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    picture(tmp_path / "loose.png")
    _, found = bytes_of(tmp_path)
    assert found.classes == ("a", "b", "c")
    assert found.files == ("a/x.png", "b/10.png", "b/2.png", "c/deep/er/1.PNG")
    assert found.labels is not None
    assert (found.labels.dtype, found.labels.tolist()) == (np.int32, [0, 1, 1, 2])
    assert found.skipped == (("loose.png", "outside the class folders"),)
    assert found.others == (("", 1), (".db", 1), (".txt", 2))
    assert str(found).splitlines()[0] == (
        "4 images of 3 classes, 8x8; 1 skipped; files of other extensions: 1 without, 1 .db, 2 .txt"
    )


def test_a_limit_draws_evenly_from_the_classes_and_passes_over_broken_files(tmp_path):
    for i in range(6):
        picture(tmp_path / f"many/{i}.png")
        picture(tmp_path / f"some/{i}.png")
    picture(tmp_path / "one/0.png")
    (tmp_path / "some/0.png").write_bytes(b"")
    drawn = {seed: bytes_of(tmp_path, limit=5, seed=seed)[1] for seed in range(4)}
    for found in drawn.values():
        assert [list(found.labels).count(i) for i in range(3)] == [2, 1, 2]
        assert list(found.files) == sorted(found.files)
    assert len({found.files for found in drawn.values()}) > 1
    assert bytes_of(tmp_path, limit=5, seed=2)[1].files == drawn[2].files
    assert len(bytes_of(tmp_path, limit=99)[1].files) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size=0 must be at least 1"),
        ({"crop": 0.0}, "crop=0.0 must be greater than 0"),
        ({"crop": 1.5}, "crop=1.5 must be greater than 0 and at most 1"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\) has 1 entries; it must have 3"),
        ({"std": (1.0, 0.0, 1.0)}, r"std\[1\]=0.0 must be greater than 0"),
        ({"mean": (123.7, 116.3, 103.5)}, r"mean\[0\]=123.7 must be at least 0 and at most 1"),
        ({"std": (1.0, 1.0, 1e-45)}, r"std=.* must be positive, within the range of float32"),
        ({"std": (1.0, 1e300, 1.0)}, r"std=.* must be positive, within the range of float32"),
        ({"size": 2**14 + 1}, "size=16385 must be at most 16384"),
        ({"order": "rgb"}, "order='rgb' is not known; did you mean 'RGB'|choose from BGR, RGB"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"channels": 2}, r"channels=2 must be 1 \(grey\), 3 \(RGB\) or 4"),
        ({"channels": 1, "mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\) has 2 entries; it must have 1"),
        ({"channels": 4, "std": (0.5,)}, r"std=\(0.5,\) has 1 entries; it must have 4"),
        ({"channels": 1, "order": "BGR"}, "order='BGR' is for 3 channels, and here are 1"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, changes, message):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        bytes_of(tmp_path, **changes)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no picture: no file ends in \.avif, \.bmp"):
        bytes_of(tmp_path)
    with pytest.raises(ValueError, match="nowhere' does not exist"):
        bytes_of(tmp_path / "nowhere")


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install .?convjax\[lab\]"):
        bytes_of(tmp_path)
