"""Sets that live on the device: order, standardisation, and shares of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import data
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(11)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def bytes_of(count=23, height=6, width=4, classes=5, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return images, random.integers(0, classes, count)


def at(inputs, step):
    return {name: array[step] for name, array in inputs.items()}


def batch_of(source, step, key=KEY):
    return jax.jit(source.batch)(source.arrays, at(source.inputs(step, 1), 0), key)


def test_every_epoch_is_a_permutation_of_its_own():
    source = data.resident(*bytes_of(24), batch_size=6, mean=MEAN, std=STD, seed=2)
    epochs = [source.inputs(4 * epoch, 4)["index"].ravel().tolist() for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert len(set(map(tuple, epochs))) == 3
    other = data.resident(*bytes_of(24), batch_size=6, mean=MEAN, std=STD, seed=3)
    assert other.inputs(0, 4)["index"].ravel().tolist() != epochs[0]


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_the_order_does_not_depend_on_the_length_of_a_dispatch(cut):
    source = data.resident(
        *bytes_of(), batch_size=5, mean=MEAN, std=STD, augment=data.Augment(mixup=1.0)
    )
    whole = source.inputs(0, 10)
    parts = source.inputs(0, cut), source.inputs(cut, 10 - cut)
    assert set(whole) == {"index", "place", "partner"}
    for name, array in whole.items():
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]))
    expected = [data.batch_indices(23, 5, seed=0, step=step) for step in range(10)]
    np.testing.assert_array_equal(whole["index"], expected)
    np.testing.assert_array_equal(whole["partner"], whole["index"][:, ::-1])


def test_what_is_returned_of_the_order_may_be_written_to():
    first = data.batch_indices(10, 5, seed=0, step=1)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(data.batch_indices(10, 5, seed=0, step=1), kept)


def test_bytes_stay_bytes_and_are_standardised_within_the_step():
    images, labels = bytes_of()
    source = data.resident(images, labels, batch_size=5, mean=MEAN, std=STD, classes=9)
    assert source.arrays["images"].dtype == jnp.uint8
    assert (source.count, source.batch_size, source.classes) == (23, 5, 9)
    x, y = batch_of(source, 6)
    chosen = data.batch_indices(23, 5, seed=0, step=6)
    np.testing.assert_allclose(x, (images[chosen] / 255 - MEAN) / STD, atol=2e-6)
    np.testing.assert_array_equal(y, labels[chosen])
    assert (x.dtype, y.dtype) == (jnp.float32, jnp.int32)


def test_floats_come_as_they_are_or_standardised_by_pixel():
    images, labels = bytes_of()
    images = images.astype(np.float32)
    chosen = data.batch_indices(23, 5, seed=0, step=2)
    plain = data.resident(images, labels, batch_size=5)
    np.testing.assert_array_equal(batch_of(plain, 2)[0], images[chosen])
    mean, std = images.mean(0), images.std(0)
    by_pixel = data.resident(images, labels, batch_size=5, mean=mean, std=std)
    expected = (images[chosen] - mean) / std
    np.testing.assert_allclose(batch_of(by_pixel, 2)[0], expected, rtol=1e-5, atol=1e-5)


def test_floats_of_numpy_s_default_kind_become_float32():
    images, labels = bytes_of()
    wide = images / 255
    source = data.resident(wide, labels, batch_size=5)
    assert source.arrays["images"].dtype == jnp.float32
    np.testing.assert_array_equal(source.arrays["images"], wide.astype(np.float32))
    np.testing.assert_allclose(data.moments(wide)[0], data.moments(images)[0], rtol=1e-12)
    with pytest.raises(ValueError, match="images hold NaN or infinity; they must be finite in fl"):
        data.resident(wide * 1e300, labels, batch_size=5)


def test_padding_is_zero_after_the_mean_is_out():
    images = np.full((4, 3, 5, 3), 255, np.uint8)
    source = data.resident(
        images, np.arange(4), batch_size=4, mean=MEAN, std=STD, augment=data.Augment(crop=2)
    )
    x = np.asarray(batch_of(source, 0)[0])
    full = np.float32((1 - np.array(MEAN)) / STD)
    padding = (x == 0).all(-1)
    assert padding.any() and not padding.all()
    np.testing.assert_allclose(x[~padding], np.broadcast_to(full, x[~padding].shape), rtol=1e-5)


def test_the_batch_in_two_shares_gives_the_same_rows():
    source = data.resident(
        *bytes_of(), batch_size=8, mean=MEAN, std=STD, augment=data.Augment(2, True, 2, 0.7)
    )
    inputs = at(source.inputs(4, 1), 0)
    batch = jax.jit(source.batch)
    whole = batch(source.arrays, inputs, KEY)
    halves = [
        batch(source.arrays, {name: a[part] for name, a in inputs.items()}, KEY)
        for part in (slice(4), slice(4, None))
    ]
    for one, *parts in zip(whole, *halves, strict=True):
        np.testing.assert_allclose(one, np.concatenate(parts), atol=1e-6)


def test_mixup_mixes_each_with_its_mirror_as_it_was_augmented():
    images, labels = bytes_of()
    settings = {"batch_size": 8, "mean": MEAN, "std": STD, "seed": 4}
    plain = data.resident(images, labels, augment=data.Augment(1, True, 2), **settings)
    mixed = data.resident(images, labels, augment=data.Augment(1, True, 2, 1.0), **settings)
    (x, y), (mx, my) = batch_of(plain, 1), batch_of(mixed, 1)
    x, y, mx, my = map(np.asarray, (x, y, mx, my))
    hot = np.eye(5)[y]
    shares = []
    for place in range(8):
        mirror = 7 - place
        # The weight follows from the image, by least squares.
        apart = (x[place] - x[mirror]).ravel().astype(np.float64)
        share = apart @ (mx[place] - x[mirror]).ravel() / (apart @ apart)
        shares.append(share)
        expected = share * x[place] + (1 - share) * x[mirror]
        np.testing.assert_allclose(mx[place], expected, atol=1e-5)
        np.testing.assert_allclose(
            my[place], share * hot[place] + (1 - share) * hot[mirror], atol=1e-5
        )
    assert my.dtype == np.float32
    assert len(np.unique(np.round(shares, 4))) == 8


def test_a_key_and_a_step_are_all_that_the_batch_depends_on():
    source = data.resident(
        *bytes_of(), batch_size=8, mean=MEAN, std=STD, augment=data.Augment(1, True)
    )
    first, again = batch_of(source, 3), batch_of(source, 3)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], batch_of(source, 3, jax.random.key(12))[0])


def test_once_is_every_example_in_order_standardised_and_not_augmented():
    images, labels = bytes_of()
    source = data.resident(
        images, labels, batch_size=10, mean=MEAN, std=STD, augment=data.Augment(2, True, 2, 1.0)
    )
    for _ in range(2):
        x, y = zip(*source.once(), strict=True)
        assert [len(part) for part in y] == [10, 10, 3]
        np.testing.assert_allclose(np.concatenate(x), (images / 255 - MEAN) / STD, atol=2e-6)
        np.testing.assert_array_equal(np.concatenate(y), labels)


BAD_FLOAT = np.full((23, 6, 4, 3), np.inf, np.float32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": np.zeros((23, 6, 4), np.uint8)}, r"uint8 of the shape \(23, 6, 4\)"),
        ({"images": np.zeros((23, 6, 4, 3), int)}, "images are int64"),
        ({"images": BAD_FLOAT}, "images hold NaN or infinity"),
        ({"labels": np.zeros(22, int)}, r"labels have the shape \(22,\)"),
        ({"labels": np.zeros(23)}, "labels are float64"),
        ({"labels": np.arange(23) - 1}, r"labels\[0\]=-1 must lie in 0 to 2147483646; 1 of"),
        ({"classes": 4, "labels": np.arange(23)}, r"labels\[4\]=4 must lie in 0 to 3; 19 of 23"),
        ({"batch_size": 24}, "batch_size=24 must lie between 1 and the 23"),
        ({"seed": -1}, "seed=-1"),
        ({"mean": None}, "mean=None"),
        ({"std": None}, "std=None"),
        ({"std": (1.0, 0.0, 1.0)}, "must be positive"),
        ({"std": 1e-60}, "std=.* must be positive, within the range of float32"),
        ({"std": 1e60}, "std=.* must be positive, within the range of float32"),
        ({"std": np.nan}, "std=nan must be finite"),
        ({"mean": (125.3, 123.0, 113.9)}, r"mean=\[125.3, .* of uint8 images must lie in \[0, 1\]"),
        ({"classes": 0}, "classes=0 must be at least 1"),
        ({"mean": (0.1, 0.2)}, r"mean of the shape \(2,\)"),
    ],
)
def test_what_cannot_be_is_refused(changes, match):
    images, labels = bytes_of()
    settings = {"images": images, "labels": labels, "batch_size": 5, "mean": MEAN, "std": STD}
    with pytest.raises(ValueError, match=match):
        data.resident(**{**settings, **changes})


@pytest.mark.parametrize(("first", "steps"), [(0, 0), (-1, 2)])
def test_steps_that_cannot_be_are_refused(first, steps):
    source = data.resident(*bytes_of(), batch_size=5, mean=MEAN, std=STD)
    with pytest.raises(
        ValueError, match=r"(steps=0 must be at least 1|first=-1 must be at least 0)"
    ):
        source.inputs(first, steps)


def test_moments_are_those_of_all_pixels():
    images, _ = bytes_of(600)
    mean, std = data.moments(images)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12)
    floats = images.astype(np.float32)
    np.testing.assert_allclose(data.moments(floats)[0], 255 * pixels.mean(0), rtol=1e-12)
    with pytest.raises(ValueError, match="shape"):
        data.moments(images[:0])
