"""Random changes of images: every outcome is found among all that NumPy can make by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import data
from tests.nn.conftest import quick_compilation as quick_compilation

KEY = jax.random.key(3)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def pictures(count, height=7, width=5, channels=3, seed=0):
    return np.random.default_rng(seed).standard_normal((count, height, width, channels), np.float32)


def cuts(image, crop):
    """All that a random cut may be: {(down, right, flipped): pixels}, by loops."""
    height, width, _ = image.shape
    found = {}
    for down, right in itertools.product(range(-crop, crop + 1), repeat=2):
        cut = np.zeros_like(image)
        for row, column in itertools.product(range(height), range(width)):
            if 0 <= row + down < height and 0 <= column + right < width:
                cut[row, column] = image[row + down, column + right]
        found[down, right, False] = cut
        found[down, right, True] = cut[:, ::-1]
    return found


def augmented(augment, images, places=None, key=KEY):
    places = np.arange(len(images)) if places is None else places
    return np.asarray(jax.jit(augment)(images, key, places))


def outcome(result, possible):
    (found,) = [name for name, pixels in possible.items() if np.array_equal(pixels, result)]
    return found


def test_every_cut_is_one_of_all_possible_ones_and_all_occur():
    image = pictures(1)[0]
    possible = cuts(image, 2)
    images = np.broadcast_to(image, (1500, *image.shape))
    results = augmented(data.Augment(crop=2, flip=True), images)
    seen = [outcome(result, possible) for result in results]
    counts = np.array([seen.count(name) for name in possible])
    assert len(counts) == 50
    # Chi-squared of 49 degrees: 94 is exceeded once in 10,000.
    assert np.sum((counts - 30) ** 2 / 30) < 94


def test_images_of_a_batch_are_not_confused():
    images = pictures(6, seed=1)
    results = augmented(data.Augment(crop=1, flip=True), images)
    seen = [outcome(r, cuts(i, 1)) for r, i in zip(results, images, strict=True)]
    assert len(set(seen)) > 2


def test_a_crop_larger_than_the_image_and_no_flip():
    image = pictures(1, 3, 2)[0]
    possible = {name: cut for name, cut in cuts(image, 4).items() if not name[2]}
    images = np.broadcast_to(image, (40, *image.shape))
    for result in augmented(data.Augment(crop=4), images):
        assert any(np.array_equal(result, cut) for cut in possible.values())


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_holes_are_squares_around_every_pixel(side):
    height, width = 6, 4
    possible = {}
    for centre in itertools.product(range(height), range(width)):
        hole = np.zeros((height, width), bool)
        for row, column in itertools.product(range(side), repeat=2):
            place = centre[0] - side // 2 + row, centre[1] - side // 2 + column
            if 0 <= place[0] < height and 0 <= place[1] < width:
                hole[place] = True
        possible[centre] = hole
    images = pictures(960, height, width, 2)
    results = augmented(data.Augment(cutout=side), images)
    holes = (results == 0).all(-1)
    np.testing.assert_array_equal(results, np.where(holes[..., None], 0, images))
    seen = [outcome(hole, possible) for hole in holes]
    counts = np.array([seen.count(centre) for centre in possible])
    assert np.sum((counts - 40) ** 2 / 40) < 58  # chi-squared of 23 degrees, once in 10,000


def test_one_change_leaves_the_draws_of_the_others_alone():
    images = pictures(40)
    cut = augmented(data.Augment(crop=2), images)
    both = augmented(data.Augment(crop=2, flip=True), images)
    all_three = augmented(data.Augment(2, True, 3), images)
    same = (both == cut).all((1, 2, 3))
    mirrored = (both == cut[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 5 < same.sum() < 35
    kept = all_three != 0
    np.testing.assert_array_equal(all_three[kept], both[kept])
    assert (~kept & (both != 0)).any((1, 2, 3)).sum() > 30


def test_a_share_of_the_batch_comes_out_as_within_the_whole():
    images, chosen = pictures(8), np.array([6, 1, 3])
    augment = data.Augment(2, True, 2)
    whole = augmented(augment, images)
    np.testing.assert_array_equal(whole[chosen], augmented(augment, images[chosen], chosen))
    assert not np.array_equal(whole[:3], augmented(augment, images[:3], chosen))


@pytest.mark.parametrize("alpha", [0.3, 1])
def test_mixtures_are_convex_with_weights_of_a_beta_distribution(alpha):
    own, other = pictures(2000, 2, 1, 3), pictures(2000, 2, 1, 3, seed=1)
    first, second = np.repeat(np.eye(2, dtype=np.float32)[:, None], 2000, 1)
    mix = jax.jit(data.Augment(mixup=alpha).mix)
    images, labels = mix((own, first), (other, second), KEY, np.arange(2000))
    share = np.asarray(labels)[:, 0].astype(np.float64)
    np.testing.assert_allclose(labels[:, 1], 1 - share, atol=1e-6)
    weight = share[:, None, None, None]
    np.testing.assert_allclose(images, weight * own + (1 - weight) * other, atol=1e-5)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(variance / 2000)
    assert abs(share.var() / variance - 1) < 0.15


def test_the_draws_are_these_whatever_the_version_of_jax():
    image = pictures(1)[0]
    possible = cuts(image, 2)
    images = np.broadcast_to(image, (5, *image.shape))
    results = augmented(data.Augment(crop=2, flip=True), images)
    assert [outcome(result, possible) for result in results] == [
        (-1, -2, False),
        (0, 2, True),
        (-2, 0, True),
        (-2, 0, False),
        (2, 1, False),
    ]


def test_keys_of_the_old_kind_do_as_well():
    images = pictures(4)
    augment = data.Augment(1, True, 2)
    new = augmented(augment, images, key=jax.random.key(5))
    np.testing.assert_array_equal(new, augmented(augment, images, key=jax.random.PRNGKey(5)))


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"crop": -1}, "crop=-1"), ({"cutout": -2}, "cutout=-2"), ({"mixup": float("nan")}, "mixup")],
)
def test_what_cannot_be_is_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        data.Augment(**changes)


def test_other_than_four_axes_are_refused():
    with pytest.raises(ValueError, match=r"^images has the shape \(2, 3, 4\); it must have 4 axes"):
        data.Augment(crop=1)(jnp.zeros((2, 3, 4)), KEY, jnp.arange(2))
