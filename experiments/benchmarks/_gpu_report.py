"""What bench-gpu found, as tables and as a figure."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from rich.table import Table

from convjax import plots
from experiments.benchmarks import _report
from experiments.benchmarks._right import ALLOWED

OTHERS = {"lax": "lax", "torch": "PyTorch"}
TITLES = {
    "right": "The largest error against float64, in units of the largest entry",
    "layers": "Layers (ms), convjax over the other, and the share of the bound",
    "steps": "Training steps (ms), convjax over the other, and the share of the bound",
    "profile": "A gradient profile",
    "deep": "Deep stacks",
}
Row = Mapping[str, Any]


def tables(found: Mapping[str, Any], config: Any) -> Iterator[Table]:
    """Yield what was found: the run, its parts, each part's rows, and what failed."""
    about = {"rehearsal, in small sizes": "yes" if found["rehearsal"] else "no"}
    about["float32 products"] = f"JAX: {_jax_precision()}; PyTorch on a GPU: TF32 allowed"
    versions = found.get("torch") or {"none": ""}
    about["PyTorch"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    for dtype, rates in found["machine"].items():
        flops, moved = rates["flops_per_s"] / 1e12, rates["bytes_per_s"] / 1e9
        about[f"rates, {dtype}"] = (
            f"{_report.number(flops)} TFLOP/s in a large product, "
            f"{_report.number(moved)} GB/s in a large sum"
        )
    device = f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    yield _report.table(device, about.items(), ("", lambda r: r[0]), ("", lambda r: r[1]))
    yield _report.table(
        "Parts",
        found["parts"].items(),
        ("part", lambda item: item[0]),
        ("rows", lambda item: str(item[1]["rows"])),
        ("s", lambda item: item[1]["seconds"]),
        ("ended", lambda item: item[1]["ended"]),
    )
    for name, made in (
        ("right", _right_table),
        ("layers", _layer_table),
        ("steps", functools.partial(_step_table, of_part(found, "PyTorch compiled"))),
        ("profile", _report.comparisons),
        ("deep", _deep_table),
        ("gradient-norms", _verdict_table),
    ):
        if rows := of_part(found, name):
            yield made(TITLES.get(name, name), rows)
    if failed := [row for row in found["rows"] if {"error", "torch_error"} & set(row)]:
        yield _report.table(
            "Errors",
            failed,
            ("row", lambda row: f"{row['part']}: {row['what']}"),
            ("error", lambda row: row.get("error") or row["torch_error"]),
        )


def of_part(found: Mapping[str, Any], name: str) -> list[Row]:
    """Return the rows of a part that were measured."""
    return [row for row in found["rows"] if row["part"] == name and "error" not in row]


def ratio(row: Row, other: str) -> float | None:
    """Return convjax's time over another's, where that was measured."""
    seconds = row["seconds"]
    return seconds["auto"] / seconds[other] if other in seconds else None


def figure(found: Mapping[str, Any]) -> plots.Sheet | None:
    """Draw convjax's time over that of the others, by kind of layer, and for training steps."""
    panels: dict[str, Any] = {}
    for row in of_part(found, "layers") + of_part(found, "steps"):
        if row.get("direction") == "f":
            continue
        kind = row.get("kind") or row["network"]
        ratios = panels.setdefault(row["dtype"], {}).setdefault(kind, {})
        for other, label in OTHERS.items():
            if (one := ratio(row, other)) is not None:
                ratios.setdefault(label, []).append(one)
    return _report.ratios("Layers with gradients, and training steps", panels)


def _jax_precision() -> str:
    named = jax.config.jax_default_matmul_precision  # pyright: ignore
    return named or "the default, TF32 on NVIDIA's cards from Ampere on"


def _times() -> list[_report.Column]:
    """Return the columns of times, of ratios, and of the share of the bound."""
    return [
        *(
            (label, lambda row, name=name: _report.milliseconds(row["seconds"].get(name)))
            for name, label in (("auto", "convjax"), *OTHERS.items())
        ),
        *((f"/ {label}", lambda row, o=o: ratio(row, o)) for o, label in OTHERS.items()),
        ("of bound", lambda row: row["bound_seconds"] / row["seconds"]["auto"]),
    ]


def _right_table(title: str, rows: Sequence[Row]) -> Table:
    return _report.table(
        title,
        rows,
        ("operation", lambda row: row["what"]),
        *(
            (f"{name} ({allowed:g})", lambda row, name=name: f"{row['errors'][name]:.1e}")
            for name, allowed in ALLOWED.items()
        ),
        ("", lambda row: "right" if row["holds"] else "WRONG"),
    )


def _layer_table(title: str, rows: Sequence[Row]) -> Table:
    return _report.table(
        title,
        rows,
        ("layer", lambda row: row["layer"]),
        ("kind", lambda row: row["kind"]),
        ("dtype", lambda row: row["dtype"]),
        ("", lambda row: row["direction"]),
        *_times(),
    )


def _step_table(compiled: Sequence[Row], title: str, rows: Sequence[Row]) -> Table:
    def key(row: Row) -> tuple[str, str]:
        return row["network"], row["dtype"]

    by_compiled = {key(row): row["seconds"]["compiled"] for row in compiled}
    return _report.table(
        title,
        rows,
        ("network", lambda row: row["network"]),
        ("batch", lambda row: "{batch}x{size}x{size}".format(**row)),
        ("dtype", lambda row: row["dtype"]),
        *_times(),
        ("PyTorch compiled", lambda row: _report.milliseconds(by_compiled.get(key(row)))),
    )


def _deep_table(title: str, rows: Sequence[Row]) -> Table:
    return _report.table(
        title,
        rows,
        ("profile", lambda row: row["what"]),
        ("first (s)", lambda row: row["seconds"][0]),
        ("second (s)", lambda row: row["seconds"][1]),
        ("ln of the gradient's growth", lambda row: f"{row['growth']:.1f}"),
    )


def _verdict_table(title: str, rows: Sequence[Row]) -> Table:
    return _report.table(
        title,
        [one for row in rows for one in row.get("criteria", ())],
        ("claim", lambda one: one["claim"]),
        ("measured", lambda one: one["measured"]),
        ("expected", lambda one: one["expected"]),
        ("", lambda one: "holds" if one["holds"] else "FAILS"),
    )
