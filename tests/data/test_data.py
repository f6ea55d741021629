import sys

import numpy as np
import pytest

from convjax import data


def test_digits_are_standardised_by_the_training_split():
    images, labels = data.digits()
    train, _ = data.digits("train")
    assert images.shape == (1797, 8, 8, 1)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert set(labels.tolist()) == set(range(10))
    assert abs(train.mean()) < 1e-5
    assert abs(train.std() - 1) < 1e-5


def test_the_splits_make_up_the_whole():
    parts = [data.digits(split) for split in ("train", "test")]
    for whole, *halves in zip(data.digits(), *parts, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='val' is not known; choose from test, train"):
        data.digits("val")


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install .?convjax\[lab\]"):
        data.digits()


def test_gaussian_is_reproducible_and_of_unit_variance():
    images, labels = data.gaussian(500, (4, 3, 2), seed=1)
    again, _ = data.gaussian(500, (4, 3, 2), seed=1)
    other, _ = data.gaussian(500, (4, 3, 2), seed=2)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, other)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert abs(images.std() - 1) < 0.05
    with pytest.raises(ValueError, match="count=0"):
        data.gaussian(0)


def test_an_epoch_shows_every_example_once_and_the_next_in_another_order():
    epochs = [
        np.concatenate([data.batch_indices(12, 4, seed=3, step=3 * e + i) for i in range(3)])
        for e in range(2)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    once = data.batch_indices(100, 7, seed=3, step=41)
    data.batch_indices(100, 7, seed=4, step=2)
    np.testing.assert_array_equal(once, data.batch_indices(100, 7, seed=3, step=41))
    assert once.tolist() != data.batch_indices(100, 7, seed=4, step=41).tolist()


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_that_does_not_fit_the_data_is_refused(size):
    with pytest.raises(ValueError, match=f"batch_size={size} must lie between 1 and the 10"):
        data.batch_indices(10, size, seed=0, step=0)
    with pytest.raises(ValueError, match="step=-1"):
        data.batch_indices(10, 5, seed=0, step=-1)
