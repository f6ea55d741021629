"""What convolution-audit must show: criteria for padding, depthwise kernels and Jacobians."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from convjax import gradflow, study
from convjax.lab import Columns, Criterion, by_kind, pick, that, within
from experiments._audit import (
    DEPTHWISE,
    GENERIC,
    JACOBIAN,
    LINEAR,
    PADDING,
    Cell,
    Summary,
    fan_bug,
    shares,
    summaries,
)

STANDARD_ERRORS = 3.0
PADDING_TOLERANCE = 0.03
FAN_TOLERANCE = 0.05
FLAGGED = 2.0
SPREAD_TOLERANCE = 0.05


def judge(columns: Columns) -> list[Criterion]:
    """Hold what is left, what a wrong fan does, and the spread of the Jacobian against theory."""
    return [
        *_by_layers(judge_padding, pick(columns, part=PADDING)),
        *_by_layers(judge_depthwise, pick(columns, part=DEPTHWISE)),
        *judge_jacobians(columns),
    ]


def _by_layers(
    judge_one: Callable[[Columns], list[Criterion]], columns: Columns
) -> list[Criterion]:
    """Return the criteria of each depth; where there are several, each says of which."""
    found = [(judge_one(part), of["layers"]) for of, part in study.groups(columns, ["layers"])]
    return [
        dataclasses.replace(one, claim=f"depth {layers}: {one.claim}") if len(found) > 1 else one
        for criteria, layers in found
        for one in criteria
    ]


def judge_padding(columns: Columns) -> list[Criterion]:
    """Return the criteria for the networks with zero padding."""
    close: dict[str, Any] = {"relative": PADDING_TOLERANCE}
    criteria = []
    for row in summaries(columns, PADDING):
        cell, left = row.cell, shares(row.cell)
        name, linear = f"{cell.kind}, {cell.size}x{cell.size}", cell.kind == LINEAR
        many = close if linear else _errors(row.error[-1])
        last = f"{name}: left by {cell.layers} layers"
        criteria += [
            within(f"{name}: left by 1 layer", float(row.share[1]), left[1], **close),
            within(last, float(row.share[-1]), left[-1], **many),
            _twin(name, row),
        ]
        limit = math.log(gradflow.oracles.padding_limit(cell.size))
        # Theory itself must have come to its limit by then.
        if linear and abs(_late(left) / limit - 1) < 0.1 * PADDING_TOLERANCE:
            late = f"{name}: ln of what a late layer leaves"
            criteria.append(within(late, _late(row.share), limit, **close))
    return criteria


def judge_depthwise(columns: Columns) -> list[Criterion]:
    """Return the criteria for depthwise kernels, drawn rightly and wrongly."""
    criteria, off = [], fan_bug(columns)
    for row in summaries(columns, DEPTHWISE):
        kind, name = row.cell.kind, f"separable, {row.cell.kind}"
        if kind != GENERIC:
            left = f"{name}: left by {row.cell.layers} layers"
            share, theory = float(row.share[-1]), shares(row.cell)[-1]
            criteria += [within(left, share, theory, **_errors(row.error[-1])), _twin(name, row)]
        gain = 1 / row.cell.width if kind == GENERIC else 1.0
        layer = f"{name}: gain of a layer"
        criteria.append(within(layer, off[kind], gain, relative=FAN_TOLERANCE))
    flagged = [kind for kind, gain in off.items() if abs(math.log(gain)) > math.log(FLAGGED)]
    claim = "the initialiser that does not know the groups is flagged, no other"
    return [*criteria, that(claim, flagged == [GENERIC], ", ".join(flagged) or "none", GENERIC)]


def judge_jacobians(columns: Columns) -> list[Criterion]:
    """Return the criteria for the relative variance of s^2."""
    return [
        within(
            f"{cell.kind}, {cell.layers} layers: relative variance of s^2",
            float(spread.mean()),
            gradflow.oracles.jacobian_spread(cell.layers, cell.kind),
            relative=SPREAD_TOLERANCE,
        )
        for cell, (spread,) in by_kind(columns, Cell, "relative_variance")
        if cell.part == JACOBIAN
    ]


def _twin(name: str, row: Summary) -> Criterion:
    claim = f"{name}: the same with circular padding"
    return within(claim, float(row.circular[-1]), 1.0, **_errors(row.circular_error[-1]))


def _errors(error: float) -> dict[str, Any]:
    return {"absolute": STANDARD_ERRORS * float(error), "why": f"{STANDARD_ERRORS:g} s.e."}


def _late(share: Any) -> float:
    """Return the logarithm of what a layer leaves, over the last half of the layers."""
    layers = len(share) - 1
    half = layers // 2
    # An estimate by a control variate may be negative; that is no share.
    kept = share[-1] / share[half] if min(share[-1], share[half]) > 0 else math.nan
    return math.log(kept) / (layers - half)
