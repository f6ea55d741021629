"""The figure of ``bench-models``: bars of convjax's time over that of the others."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from experiments.benchmarks._report import COLOURS, legend_above, number, rows_of_ratios

BAND = 0.78
"""Share of a network's height that its bars fill."""


def bars(ratios: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a group of bars for each network, from 1 to the ratio, on a logarithmic axis.

    A bar to the left of 1 is a step that convjax takes in less time.

    Args:
      ratios: the time of convjax over that of another, by network and by the other's name.

    Returns:
      The figure.
    """
    others = list(dict.fromkeys(name for found in ratios.values() for name in found))
    figure = Figure(
        figsize=(6.4, 1.3 + (0.2 + 0.21 * len(others)) * len(ratios)), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.set_xscale("log")
    thick = BAND / max(len(others), 1)
    for j, name in enumerate(others):
        places = [
            (i + thick * (j + 0.5) - BAND / 2, found[name])
            for i, found in enumerate(ratios.values())
            if name in found
        ]
        heights, values = [height for height, _ in places], [value for _, value in places]
        drawn = axes.barh(
            heights,
            [value - 1 for value in values],
            0.85 * thick,
            left=1,
            color=COLOURS[name],
            label=name,
        )
        axes.bar_label(drawn, [number(value, 3) for value in values], padding=2, fontsize=7)
    axes.axvline(1, color="0.4", linewidth=0.8)
    axes.margins(x=0.12)
    rows_of_ratios(axes, list(ratios), numticks=8)
    axes.set_xlabel("time of convjax / time of the other", fontsize=9)
    legend_above(figure, "A training step", max(len(others), 1))
    return figure
