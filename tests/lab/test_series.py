import numpy as np

from convjax import lab

VALUES = np.array([[1.0, 2.0], [4.0, 8.0], [16.0, 2.0]])


def test_the_middle_is_the_mean_or_the_median_between_the_least_and_the_largest():
    mean = lab.series("He", [3, 5], VALUES, [7.0, 4.0])
    np.testing.assert_allclose([mean.x, mean.y], [[3, 5], [7, 4]])
    np.testing.assert_allclose([mean.low, mean.high, mean.expected], [[1, 2], [16, 8], [7, 4]])
    assert not mean.joined
    median = lab.series("He", [3, 5], VALUES, middle=np.median, joined=True)
    np.testing.assert_allclose(median.y, [4, 2])
    assert median.joined and median.expected is None


def test_of_logarithms_the_mean_is_the_geometric_one():
    found = lab.series("He", [3, 5], np.log(VALUES), np.log([4.0, 3.0]), logs=True)
    np.testing.assert_allclose([found.y, found.expected], [[4, 32 ** (1 / 3)], [4, 3]])
    np.testing.assert_allclose([found.low, found.high], [[1, 2], [16, 8]])
