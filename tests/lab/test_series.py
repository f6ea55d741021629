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


def test_means_bring_their_theory_and_whiskers_of_standard_errors():
    each = [lab.Mean("He", VALUES[:, place], 7.0 - place) for place in (0, 1)]
    one = lab.series("He", [3, 5], each, errors=2.0)
    error = 2 * VALUES.std(0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([one.y, one.expected], [[7, 4], [7, 6]])
    np.testing.assert_allclose([one.low, one.high], [one.y - error, one.y + error])
    same = lab.series("He", [3, 5], lab.Mean("He", VALUES, 7.0), errors=2.0, positive=True)
    np.testing.assert_allclose([same.low, same.high, same.expected], [[0.7, 0.4], one.high, [7, 7]])


def test_the_worst_of_several_is_judged_and_named():
    means = [lab.Mean(place, VALUES[:, place], expected) for place, expected in ((0, 8), (1, 5))]
    (one,) = lab.worst(lambda kind: f"place {kind}", means, relative=0.19)
    assert (one.claim, one.measured, one.holds) == ("place 1 (worst of 2)", "4", False)
    (two,) = lab.worst("place {}".format, means[:1], errors=0.1)
    assert (two.claim, two.expected) == ("place 0", f"8 ± {0.1 * means[0].error:.4g} (0.1 s.e.)")
    assert lab.worst(str, [], errors=3) == []


def test_a_declared_table_shows_attributes_with_numbers_to_the_right():
    columns = [("kind", "kind"), ("s.e.", "error:.2f"), ("at", "kind.imag:+.1%"), ("mean", "mean")]
    rows = [lab.Mean(1j, VALUES[:, 0], 7.0), lab.Mean(None, VALUES[:, 0], 7.0)]
    table = lab.formatted_table("Gain", rows, *columns)
    shown = [list(column.cells) for column in table.columns]
    assert shown == [["1j", ""], ["4.58", "4.58"], ["+100.0%", ""], ["7.0", "7.0"]]
    assert [column.justify for column in table.columns] == ["left", "right", "right", "right"]
