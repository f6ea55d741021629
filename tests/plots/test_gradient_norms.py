import struct
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from convjax import plots


def columns(depths=(8, 20), norms=("none", "batch"), steps=(0, 3), seeds=2, rate=0.1, **changes):
    """Return rows as an experiment writes them; the gradient grows by ``rate`` a unit."""
    rows = []
    for norm in norms:
        for shortcut in ("none", "identity"):
            for depth in depths:
                for step in steps:
                    for seed in range(seeds):
                        for position in range(-1, depth // 2):
                            log = 100.0 if position < 0 else -rate * (1 + seed) * position
                            rows.append((norm, shortcut, depth, step, seed, position, log))
    names = ("norm", "shortcut", "depth", "step", "seed", "position", "gradient_log_norm")
    table = {n: np.array(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}
    constants = {"width": 8, "activation": "relu", "init": "he", "conv": "dense"} | changes
    return table | {name: np.full(len(rows), value) for name, value in constants.items()}


def texts(figure):
    return " ".join(
        [t.get_text() for legend in figure.legends for t in legend.get_texts()]
        + [legend.get_title().get_text() for legend in figure.legends]
        + [axes.get_title() for axes in figure.axes]
    )


def test_one_panel_for_each_norm_shortcut_and_step_on_the_same_axes():
    figure = plots.gradient_norms(columns())
    assert len(figure.axes) == 8
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert "plain, no norm" in texts(figure)
    assert "residual, batch norm" in texts(figure)
    assert "depth 8 depth 20" in texts(figure)


def test_a_line_is_the_mean_over_seeds_relative_to_the_last_unit():
    figure = plots.gradient_norms(columns(depths=(8,), norms=("none",), steps=(0,)))
    line = figure.axes[0].lines[-1]
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 4))
    expected = 0.15 * np.arange(3, -1, -1) / np.log(10)
    np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-12)


def test_what_is_not_finite_is_left_out_and_the_rest_drawn():
    table = columns(depths=(8, 20), norms=("none",), steps=(0,))
    bad = (table["depth"] == 20) & (table["position"] >= 0)
    table["gradient_log_norm"] = np.where(bad, np.nan, table["gradient_log_norm"])
    assert [len(axes.lines) for axes in plots.gradient_norms(table).axes] == [2, 2]


def test_of_what_has_no_place_the_first_value_is_drawn_and_named():
    two = [columns(width=8), columns(width=16, rate=9.0)]
    both = {name: np.concatenate([table[name] for table in two]) for name in two[0]}
    figure = plots.gradient_norms(both)
    assert "width 8 only" in texts(figure)
    assert figure.axes[0].get_ylim() == plots.gradient_norms(two[0]).axes[0].get_ylim()


@pytest.mark.parametrize("rate", [0.1, 40.0])
def test_the_files_are_a_picture_and_the_same_each_time(tmp_path, rate):
    figures = [plots.gradient_norms(columns(rate=rate)) for _ in range(2)]
    first = plots.save(figures[0], tmp_path / "first")
    second = plots.save(figures[1], tmp_path / "second")
    png, svg = (path.read_bytes() for path in first)
    assert [path.read_bytes() for path in second] == [png, svg]
    width, height = struct.unpack(">II", png[16:24])
    assert width >= 1500
    assert height >= 700
    assert len(png) > 20_000
    assert ET.fromstring(svg).tag.endswith("svg")


def test_what_is_shown_is_what_is_drawn():
    figure = plots.gradient_norms(columns(depths=(8, 20), norms=("none",)))
    assert figure.shared
    assert [panel.title for panel in figure.panels[::2]] == [
        "plain, no norm, at initialization",
        "plain, no norm, after 3 steps",
    ]
    assert list(figure.colours) == ["depth 8", "depth 20"]
    for panel, axes in zip(figure.panels, figure.axes, strict=True):
        for series, line in zip(panel.series, axes.lines[1:], strict=True):
            np.testing.assert_array_equal(series.y, line.get_ydata())
            assert line.get_color() == figure.colours[series.label]
    first = figure.panels[0].series[0]
    assert list(first.names) == ["the stack's input", "unit 1 of 3", "unit 2 of 3", "unit 3 of 3"]
