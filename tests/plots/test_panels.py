import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from convjax import plots

X = np.arange(1, 4)


def drawn(*series, **panel):
    """Return the figure of one panel, and its axes."""
    figure = plots.panels("t", [plots.Panel("a", "x", "y", series, **panel)])
    return figure, figure.axes[0]


def kinds(axes):
    every = (LineCollection, PolyCollection)
    return [kind for one in axes.collections for kind in every if isinstance(one, kind)]


def test_a_figure_knows_what_it_shows():
    shown = [plots.Panel("a", "x", "y", [plots.Series("one", X, X)], level=2.0)] * 2
    figure = plots.panels("title", shown)
    assert (figure.title, figure.panels, figure.columns) == ("title", tuple(shown), 2)
    assert not figure.shared


def test_colours_are_by_label_and_those_given_are_taken():
    series = [
        plots.Series("one", X, X),
        plots.Series("two", X, X),
        plots.Series("two", X, 2 * X, colour="#123456"),
        plots.Series("three", X, X),
    ]
    figure, axes = drawn(*series)
    expected = {"one": plots.COLOURS[0], "two": "#123456", "three": plots.COLOURS[2]}
    assert figure.colours == expected
    assert [line.get_color() for line in axes.lines] == [expected[s.label] for s in series]


def test_ends_are_whiskers_or_where_asked_for_a_band():
    ends = {"y": X, "low": X - 0.5, "high": X + 1.0}
    _, axes = drawn(plots.Series("one", X, **ends))
    assert kinds(axes) == [LineCollection]
    segments = np.array(axes.collections[0].get_segments())
    np.testing.assert_allclose(segments[..., 1].T, [X - 0.5, X + 1.0])
    _, axes = drawn(plots.Series("one", X, **ends, shaded=True))
    assert kinds(axes) == [PolyCollection]
    (band,) = axes.collections[0].get_paths()
    corners = {tuple(corner) for corner in band.vertices.tolist()}
    assert {*zip(X, X - 0.5, strict=True), *zip(X, X + 1.0, strict=True)} <= corners


def test_powers_have_a_place_where_no_float_holds_the_numbers():
    figure, axes = drawn(plots.Series("one", X, [-4000.0, 0.0, 2000.0]), yscale="powers")
    figure.draw_without_rendering()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert "$10^{-3000}$" in names and "1" in names
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, 0.5, ["0.5", "1", "2"]),
        (-1, 1, ["0.1", "0.3", "1", "3", "10"]),
        (-3, 2, ["0.001", "0.01", "0.1", "1", "10", "100"]),
        (-0.1, 0.15, ["0.8", "1", "1.2", "1.4"]),
        (-8, 0, ["$10^{-8}$", "$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "1"]),
    ],
)
def test_ticks_of_logarithmic_axes_are_numbers_that_a_person_reads(low, high, expected):
    exponents = np.linspace(low, high, 3)
    numbers = 10.0**exponents
    powers = drawn(plots.Series("one", X, exponents), yscale="powers")
    logs = drawn(plots.Series("one", numbers, numbers), xscale="log", yscale="log")
    for figure, axes in (powers, logs):
        figure.draw_without_rendering()
        axis = [axes.yaxis] if axes is powers[1] else [axes.xaxis, axes.yaxis]
        for one in axis:
            assert [label.get_text() for label in one.get_ticklabels()] == expected
            ends = one.get_view_interval()
            assert all(ends[0] <= place <= ends[1] for place in one.get_ticklocs())
            assert not one.get_ticklabels(minor=True)


def test_what_no_logarithm_shows_has_no_ticks():
    figure, axes = drawn(plots.Series("one", X, [np.nan] * 3), yscale="log")
    figure.draw_without_rendering()
    assert axes.get_yscale() == "log"


def test_a_notebook_shows_a_sheet():
    figure, _ = drawn(plots.Series("one", X, X))
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["y", "expected", "names"])
def test_what_is_not_as_long_as_x_is_refused(name):
    with pytest.raises(ValueError, match=rf"'one': {name} has shape \(2,\), x has \(3,\)"):
        drawn(plots.Series("one", X, **{name: ["1", "2"] if name == "names" else [1.0, 2.0]}))
