"""Pictures of results, by the side room ``convjax.plots``, which the first one loads."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convjax._check import MissingPackageError, wrong_type
from convjax._readable import on_trunk, whole

LN10 = math.log(10)
ALONG = "unit, from input to output"


def of_profile(profile: Any, prediction: Any) -> Any:
    """Draw a profile, over what was expected where that is given."""
    table = profile.table()
    replicas = int(table["replica"].max()) + 1
    count = len(table["path"]) // replicas
    paths, kinds = table["path"][:count].tolist(), table["kind"][:count].tolist()
    half = 0.5 * np.log(np.maximum(table["activation_size"][:count], 1))
    measured = {
        name: table[f"{name}_log_norm"].reshape(replicas, count) - half
        for name in ("activation", "gradient")
    }
    expected = {}
    if prediction is not None:
        rows = _rows(prediction, paths)
        output = table["gradient_log_norm"].reshape(replicas, count)[:, -1].mean()
        expected = {
            "activation": (rows["activation_log_rms"], rows["activation"]),
            "gradient": (rows["gradient_log_norm"] + output - half, rows["gradient"]),
        }
    title = "Activations and gradients along the network"
    return along_trunk(title, "units", paths, kinds, measured, expected)


def _rows(prediction: Any, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what is expected at some paths; NaN where nothing is."""
    if not hasattr(prediction, "units") or not hasattr(prediction, "unknown"):
        wrong_type("prediction", prediction, "what gradflow.predict returned, or None")
    table = prediction.table()
    place = {path: i for i, path in enumerate(table["path"].tolist())}
    if not any(path in place for path in paths):
        raise ValueError(
            f"prediction has none of the profile's units, such as {paths[-2]!r}; predict the "
            "network that was measured"
        )
    table |= _widths(table)
    at = np.array([place.get(path, -1) for path in paths])
    names = ("activation_log_rms", "activation", "gradient_log_norm", "gradient")
    return {name: np.where(at >= 0, table[name][at], np.nan) for name in names}


def _widths(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return how far each logarithm may be off: two standard deviations, and theory's slack."""
    return {
        name: np.hypot(2 * table[f"{name}_scatter"], table[f"{name}_slack"])
        for name in ("activation", "gradient")
    }


def of_prediction(prediction: Any) -> Any:
    """Draw what is expected; the gradient's norm is relative to the output's."""
    table = prediction.table()
    widths = _widths(table)
    return along_trunk(
        "What theory expects along the network",
        "units",
        table["path"].tolist(),
        table["kind"].tolist(),
        {},
        {
            "activation": (table["activation_log_rms"], widths["activation"]),
            "gradient": (table["gradient_log_norm"], widths["gradient"]),
        },
        gradient="norm relative to the output's",
    )


def of_comparison(comparison: Any) -> Any:
    """Draw the z of every unit."""
    table = comparison.table()
    first = None if comparison.first is None else (comparison.side, comparison.first)
    return scores(
        "As theory expects" if first is None else f"Departs at {whole(first[1])}",
        table["path"].tolist(),
        {name: table[f"{name}_z"] for name in ("activation", "gradient")},
        comparison.threshold,
        first,
    )


def along_trunk(
    title: str,
    label: str,
    paths: Sequence[str],
    kinds: Sequence[str],
    measured: dict[str, np.ndarray],
    expected: dict[str, tuple[np.ndarray, np.ndarray]],
    gradient: str = "root mean square",
) -> Any:
    """Draw sizes at the units that the whole signal passes, on logarithmic axes.

    Args:
      title: of the figure.
      label: of the points and lines.
      paths: of all units.
      kinds: of all units.
      measured: natural logarithms by what they are of, each ``(replicas, units)``.
      expected: natural logarithms and how far they may be off, by what they are of, each
        ``(units,)``.
      gradient: what the gradient's axis shows.
    """
    plots = _plots()
    places = _trunk(paths, kinds)
    names = [whole(paths[i]) for i in places]
    panels = []
    for name in {**measured, **expected}:
        arrays: dict[str, Any] = {}
        if name in measured:
            logs = _finite(measured[name][:, places]) / LN10
            arrays["y"] = logs.mean(axis=0)
            if len(logs) > 1:
                arrays |= {"low": logs.min(axis=0), "high": logs.max(axis=0)}
        if name in expected:
            log, off = (_finite(a[places]) / LN10 for a in expected[name])
            arrays |= {
                "expected": log,
                "expected_low": log - off,
                "expected_high": log + off,
            }
        series = plots.Series(label, np.arange(len(places)), names=names, joined=True, **arrays)
        size = gradient if name == "gradient" else "root mean square"
        panels.append(plots.Panel(name, ALONG, size, [series], yscale="powers"))
    return plots.panels(title, panels, columns=2)


def scores(
    title: str,
    paths: Sequence[str],
    z: dict[str, np.ndarray],
    threshold: float,
    first: tuple[str, str] | None,
) -> Any:
    """Draw standard deviations by unit over the band that chance explains, and the first beyond it.

    Args:
      title: of the figure.
      paths: of the units.
      z: by what they are of, each ``(units,)``; infinite ones are drawn at the edge.
      threshold: the largest that chance explains.
      first: which of ``z`` departs first, and the path of the unit; or None.
    """
    plots = _plots()
    x, names = np.arange(len(paths)), [whole(path) for path in paths]
    every = np.abs(np.concatenate(list(z.values())))
    edge = 1.1 * max(threshold, *every[np.isfinite(every)])
    band = {
        "expected": np.zeros(len(x)),
        "expected_low": np.full(len(x), -threshold),
        "expected_high": np.full(len(x), threshold),
    }
    panels = []
    for name, values in z.items():
        clipped = np.clip(values, -edge, edge)
        series = [plots.Series("units", x, clipped, names=names, **band)]
        if first is not None and first[0] == name:
            at = [paths.index(first[1])]
            label = f"first that departs: {whole(first[1])}"
            series.append(plots.Series(label, x[at], clipped[at], names=[whole(first[1])]))
        panels.append(plots.Panel(name, ALONG, "standard deviations from theory", series))
    return plots.panels(title, panels, columns=2)


def curve(
    title: str,
    label: str,
    x: np.ndarray,
    y: np.ndarray,
    xlabel: str,
    ylabel: str,
    **options: Any,
) -> Any:
    """Draw one quantity against another; of several rows of it their mean, least and largest."""
    plots = _plots()
    y = _finite(np.asarray(y, float)).reshape(-1, len(x))
    ends = {"low": y.min(axis=0), "high": y.max(axis=0), "shaded": True} if len(y) > 1 else {}
    series = plots.Series(label, x, y.mean(axis=0), joined=True, **ends)
    return plots.panels(title, [plots.Panel("", xlabel, ylabel, [series], **options)])


def _trunk(paths: Sequence[str], kinds: Sequence[str]) -> list[int]:
    """Return the places of the units on the trunk, those left out that hold others of them."""
    there = [i for i, main in enumerate(on_trunk(paths, kinds)) if main]
    inside = [paths[i] for i in there if paths[i]]
    holding = {above for path in inside for above in _above(path)}
    found = [i for i in there if paths[i] not in holding]
    return found or there


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(len(parts))]


def _finite(values: np.ndarray) -> np.ndarray:
    """Return values; what is not finite has no place in a picture."""
    return np.where(np.isfinite(values), values, np.nan)


def _plots() -> Any:
    try:
        from convjax import plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MissingPackageError(
            "plot() draws with matplotlib, which is not installed: pip install matplotlib"
        ) from error
    return plots
