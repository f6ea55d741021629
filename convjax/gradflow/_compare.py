"""compare: a measured profile against what theory expected, unit by unit, with a verdict."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from flax import nnx

from convjax._check import instance, number
from convjax._readable import Readable, Table, whole
from convjax.gradflow import _plot as drawing
from convjax.gradflow._alike import check_alike
from convjax.gradflow._causes import Finding, likely_cause, of_aged, of_dependent
from convjax.gradflow._door import not_seen
from convjax.gradflow._look import Look, dependent, look_at, not_fresh
from convjax.gradflow._lookup import Lookup
from convjax.gradflow._predict import Expected, Prediction, coverage, remarks
from convjax.gradflow._profile import Profile

COMBINATORS = ("Chain", "Residual", "Repeat", "Parallel")
FALSE_ALARMS = 0.01
FARTHEST = 8


@dataclasses.dataclass(frozen=True, repr=False)
class Compared:
    """One unit's gains, measured and expected; logarithms of norms, means over replicas.

    Attributes:
      path: the unit's path.
      kind: the node's type, or an activation's name.
      activation_gain: measured log RMS of the output less that of the input; NaN where the profile
        does not hold the input.
      activation_z: that less its expectation, in standard deviations.
      gradient_gain: measured log norm of what the unit hands back less that of what it receives.
      gradient_z: that less its expectation, in standard deviations.
      expected: what theory expected.
    """

    path: str
    kind: str
    activation_gain: float
    activation_z: float
    gradient_gain: float
    gradient_z: float
    expected: Expected

    def __repr__(self) -> str:
        sides = [
            f"{side} changes by {getattr(self, f'{side}_gain'):.3f} in log norm, theory expects "
            f"{getattr(self.expected, f'{side}_gain'):.3f} (z = {getattr(self, f'{side}_z'):.1f})"
            for side in ("activation", "gradient")
        ]
        return f"Compared({whole(self.path)}, {self.kind}: {'; '.join(sides)})"


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Readable):
    """A profile held against a prediction.

    Attributes:
      units: every unit, in the profile's order.
      threshold: largest |z| that chance explains: over all gains of a network that is as theory
        expects, it is passed once in a hundred networks.
      first: path of the first unit that departs, or None.
      side: ``"activation"`` or ``"gradient"``, whichever departs there; "" where none does.
      cause: the likely cause in words; "" where none is known, or nothing departs.
      remarks: what is as expected, and worth knowing all the same.
      replicas: how many profiles were averaged.
      coverage: how many units theory covers, and which it does not, in words; "" where it covers
        all.
      opaque: units that the measurement does not see through, as ``Profile.opaque``.
      mode: how the measured network was called, in words.
    """

    units: tuple[Compared, ...]
    threshold: float
    first: str | None
    side: str
    cause: str
    remarks: tuple[str, ...]
    replicas: int
    coverage: str = ""
    opaque: tuple[str, ...] = ()
    mode: str = ""

    @property
    def agrees(self) -> bool:
        """Whether no unit departs."""
        return self.first is None

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.first is None:
            return (
                f"as theory expects: largest |z| {self.largest:.1f}, allowed {self.threshold:.1f}, "
                f"over {sum(_departure(unit) >= 0 for unit in self.units)} units"
                + (f"; {self.coverage}" if self.coverage else "")
            )
        unit = self[self.first]
        measured = getattr(unit, f"{self.side}_gain")
        expected = getattr(unit.expected, f"{self.side}_gain")
        z = getattr(unit, f"{self.side}_z")
        return (
            f"departs at {whole(self.first)} ({unit.kind}): its {self.side} changes by "
            f"{measured:+.3f} in log norm, theory expects {expected:+.3f} (z = {z:+.1f}, allowed "
            f"{self.threshold:.1f})"
            + (f"; likely cause: {self.cause}" if self.cause else "; no known cause")
        )

    @property
    def largest(self) -> float:
        """Largest |z| of all."""
        return max(map(_departure, self.units))

    def __getitem__(self, path: str) -> Compared:
        """Return the unit at a path."""
        for unit in self.units:
            if unit.path == path:
                return unit
        raise KeyError(f"{path!r} is not in the comparison")

    def table(self) -> dict[str, np.ndarray]:
        """Return the fields of every unit as columns, with the expected gains beside them."""
        columns: dict[str, list] = {
            name: [getattr(u, name) for u in self.units]
            for name in (
                "path",
                "kind",
                "activation_gain",
                "activation_z",
                "gradient_gain",
                "gradient_z",
            )
        }
        for name in ("activation_gain", "gradient_gain"):
            columns[f"expected_{name}"] = [getattr(u.expected, name) for u in self.units]
        return {name: np.array(values) for name, values in columns.items()}

    def plot(self) -> Any:
        """Draw the z of every unit over the band that chance explains.

        Returns:
          The figure, a ``plots.Sheet``; ``plots.save`` writes it.

        Raises:
          MissingPackageError: matplotlib is not installed.
        """
        return drawing.of_comparison(self)

    def __repr__(self) -> str:
        return f"Comparison({self.verdict})"

    def _as_table(self) -> Table:
        order = sorted(self.units, key=_departure, reverse=True)
        farthest = [u for i, u in enumerate(order) if i < FARTHEST or u.path == self.first]
        departing = sum(_departure(unit) > self.threshold for unit in self.units)
        few = f"the {len(farthest)} farthest of {len(self.units)} units"
        return Table(
            ("farthest from theory", "kind", "activation", "z", "gradient", "z"),
            [
                (
                    whole(u.path),
                    u.kind,
                    _pair(u.activation_gain, u.expected.activation_gain),
                    _number(u.activation_z),
                    _pair(u.gradient_gain, u.expected.gradient_gain),
                    _number(u.gradient_z),
                )
                for u in farthest
            ],
            left=2,
            spare=("kind",),
            above=[self.verdict],
            below=[
                f"gains in log norm, measured / expected; {few}"
                + (f", of which {departing} depart" if departing else ""),
                *(f"worth knowing: {remark}" for remark in self.remarks),
                *([self.coverage] if self.coverage and self.first is not None else []),
                *not_seen(self.opaque),
                *([self.mode] if self.mode else []),
            ],
        )


def compare(
    profile: Profile,
    prediction: Prediction,
    *,
    tolerance: float = 0.02,
    net: nnx.Module | None = None,
) -> Comparison:
    """Hold a measured profile against a prediction, and say where the network first departs.

    Every unit's gain (output over input, forward; handed back over received, backward) is compared
    with its expectation: ``z = (measured - expected) / sqrt(scatter**2 / replicas + slack**2 +
    tolerance**2)``. Gains are local, so that a fault shows where it is, and not everywhere after
    it. Where one departs, the known causes are tried on it: running statistics at initialization,
    another kind of layer than theory was told of, a grouped kernel's wrong fan, a zero-initialised
    branch, underflow, kernels that are no longer what their initialisers made, zero padding. With
    ``net`` its parameters are looked at, too: weights that are not fresh, kernels whose entries are
    not independent (equal, equal outputs, shared), a bias, a norm's epsilon, an activation that is
    applied twice. What no statistic shows has no cause.

    Args:
      profile: a measurement, perhaps vmapped over random initializations.
      prediction: what ``gradflow.predict`` expects; of another network, where that is what the
        profile is to be held against, as long as the paths agree.
      tolerance: what mean-field theory may be off in one leaf's log norm; a combinator's grows with
        the root of the number of its leaves.
      net: the network that was measured, with the weights that it had; it is only looked at, and
        what is seen without a departure is a remark.

    Returns:
      The ``Comparison``; print it.

    Raises:
      ValueError: a profile and a prediction of two networks (their paths differ) or of two sizes
        of batch; a profile that is not finite; no unit that theory knows anything of; a tolerance
        that is negative or not finite.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.deep_stack(12, 24, norm="batch", rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (8, 8, 6, 24))
      >>> measured = gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)
      >>> gradflow.compare(measured, gradflow.predict(net, x, train=True)).agrees
      True
      >>> at_initialization = gradflow.profile(net, x, cotangent=jax.random.key(2), train=False)
      >>> gradflow.compare(at_initialization, gradflow.predict(net, x, train=True)).cause
      'running statistics at initialization: the norm hands its input on as it is'
    """
    instance("profile", profile, Profile, "what gradflow.profile returned")
    instance("prediction", prediction, Prediction, "what gradflow.predict returned")
    tolerance = number("tolerance", tolerance, least=0)
    if net is not None:
        instance("net", net, nnx.Module, "the network that was measured")
    seen = ("", {}) if net is None else (not_fresh(net), dependent(net))
    profile.check()
    measured = Lookup(profile)
    leaves = _leaves(prediction)
    units = tuple(
        _compared(expected, measured, tolerance * math.sqrt(leaves[expected.path]))
        for expected in prediction.units
        if expected.path in measured
    )
    check_alike(profile, measured, prediction, len(units))
    count = sum(not math.isnan(z) for u in units for z in (u.activation_z, u.gradient_z))
    if not count:
        unknown = ", ".join(map(repr, prediction.unknown[:5])) or "any of them"
        raise ValueError(
            f"no unit can be compared, and there is no verdict over nothing: of {unknown} theory "
            "knows nothing; register a rule with gradflow.expected"
        )
    threshold = float(-scipy.special.ndtri(FALSE_ALARMS / 2 / count))
    first, side = _first(units, threshold)
    cause = ""
    if first is not None:
        cause = likely_cause(
            _finding(first, side, measured, tolerance, profile, prediction, units, net, seen)
        )
    return Comparison(
        units,
        threshold,
        None if first is None else first.path,
        side,
        cause,
        (*remarks(prediction.units), *_said(net, prediction, *seen)),
        measured.replicas,
        "".join(coverage(prediction)),
        profile.opaque,
        profile.mode or f"train={profile.train}",
    )


def _leaves(prediction: Prediction) -> dict[str, int]:
    """Return how many leaves there are at and below every path."""
    counts = dict.fromkeys((unit.path for unit in prediction.units), 0)
    for unit in prediction.units:
        if unit.kind in COMBINATORS:
            continue
        path = unit.path
        while path:
            counts[path] = counts.get(path, 0) + 1
            path = path.rpartition("/")[0]
        counts[""] = counts.get("", 0) + 1
    return {path: max(count, 1) for path, count in counts.items()}


def _compared(expected: Expected, measured: Lookup, tolerance: float) -> Compared:
    after = measured.log_rms(expected.path)
    before = (
        np.full(measured.replicas, np.nan)
        if expected.input is None
        else measured.log_rms(expected.input)
    )
    got = measured.log(expected.path, "gradient")
    handed = (
        np.full(measured.replicas, np.nan)
        if expected.handed is None
        else measured.log(*expected.handed)
    )
    activation, gradient = _mean(after, before), _mean(handed, got)
    wide = [
        math.sqrt(scatter**2 / measured.replicas + slack**2 + tolerance**2)
        for scatter, slack in (
            (expected.activation_gain_scatter, expected.activation_gain_slack),
            (expected.gradient_gain_scatter, expected.gradient_gain_slack),
        )
    ]
    return Compared(
        expected.path,
        expected.kind,
        activation,
        _score(activation, expected.activation_gain, wide[0]),
        gradient,
        _score(gradient, expected.gradient_gain, wide[1]),
        expected,
    )


def _mean(after: np.ndarray, before: np.ndarray) -> float:
    """Return the mean difference of logarithms; what was zero before says nothing."""
    with np.errstate(invalid="ignore"):
        gains = after - before
    return float(np.mean(gains)) if not np.isneginf(before).any() else math.nan


def _score(measured: float, expected: float, wide: float) -> float:
    """Return a normal score: squared norms scatter as sums of squares do, skewed when few.

    By Wilson and Hilferty the cube root of such a sum is nearly normal.
    """
    if math.isnan(measured) or math.isnan(expected) or math.isinf(wide):
        return math.nan
    if measured == expected:  # both minus infinity, too
        return 0.0
    off, variance = 2 * (measured - expected), 4 * wide**2
    if variance == 0 or not math.isfinite(off):
        return math.copysign(math.inf, off)
    if variance > 1 or off > 100:
        return off / math.sqrt(variance)
    root = math.exp((off - variance / 2) / 3)
    return 3 * (root - 1 + variance / 9) / math.sqrt(variance)


def _departure(unit: Compared) -> float:
    scores = [abs(z) for z in (unit.activation_z, unit.gradient_z) if not math.isnan(z)]
    return max(scores, default=-1.0)


def _first(units: tuple[Compared, ...], threshold: float) -> tuple[Compared | None, str]:
    """Return the first leaf that departs going forward; else going backward; else a combinator."""
    leaves = [u for u in units if u.kind not in COMBINATORS]
    by_path = {u.path: u for u in units}
    for among in (leaves, list(units)):
        for side, ordered in (("activation", among), ("gradient", among[::-1])):
            for unit in ordered:
                if abs(getattr(unit, f"{side}_z")) > threshold:
                    # A norm undoes what its input is off by: the sum before it is to blame.
                    before = by_path.get(unit.expected.input or "")
                    if before is not None and unit.kind.endswith("Norm"):
                        sound = abs(before.activation_z) <= threshold
                        unit = unit if sound or before.kind != "Residual" else before
                    return unit, side
    return None, ""


def _finding(
    unit: Compared,
    side: str,
    measured: Lookup,
    tolerance: float,
    profile: Profile,
    prediction: Prediction,
    units: Sequence[Compared],
    net: nnx.Module | None,
    seen: tuple[str, dict[str, str]],
) -> Finding:
    expected = unit.expected
    off = getattr(unit, f"{side}_gain") - getattr(expected, f"{side}_gain")
    log_rms = expected.activation_log_rms
    if side == "gradient":
        size = measured.columns["activation_size"][0, measured.rows[unit.path]]
        output = float(np.mean(measured.log("", "gradient")))
        log_rms = expected.gradient_log_norm + output - 0.5 * math.log(max(size, 1))
        log_rms += expected.gradient_gain
    other = _of_another_kind(units, measured)
    look = None if net is None else look_at(net, (other or unit).path)
    variance = measured.kernel_variance(unit.path)
    if look is not None:
        variance = look.kernel
    elif expected.biased and variance > expected.kernel_variance:
        variance = math.nan  # a bias adds to it: of less than expected it is not the cause
    return Finding(
        kind=measured.kinds[(other or unit).path],
        told=(other or unit).kind,
        look=look,
        where=repr(other.path) if other is not None else "it",
        dependent=seen[1].get(unit.path, ""),
        not_fresh=seen[0],
        side=side,
        off=off,
        room=getattr(expected, f"{side}_gain_scatter") * 3 + 2 * tolerance,
        gain=getattr(unit, f"{side}_gain"),
        kernel_variance=variance,
        expected_variance=expected.kernel_variance,
        groups=expected.groups,
        terms=measured.terms(unit.path),
        border=expected.border if _as_if_padded(units, look) else 1.0,
        expected_log_rms=log_rms,
        measured_train=profile.train or "BatchNorm" not in measured.kinds.values(),
        expected_train=prediction.train,
    )


def _said(
    net: nnx.Module | None, prediction: Prediction, aged: str, alike: dict[str, str]
) -> list[str]:
    """Return what is seen of a network, departing or not."""
    if net is None:
        return []
    if aged:
        return [of_aged(aged)]
    said = [
        f"{of_dependent(look, how)} ({whole(path)})"
        for path, how in alike.items()
        if (look := look_at(net, path)) is not None
    ]
    small = [u for u in prediction.units if u.border < 0.98 and not _told_of_padding(u)]
    padded = [u for u in small if (look := look_at(net, u.path)) and look.zero_padded]
    if padded:
        more = f" and {len(padded) - 1} more" * (len(padded) > 1)
        said.append(
            f"zero padding, where theory was told of another ({whole(padded[0].path)}{more})"
        )
    return said


def _of_another_kind(units: Sequence[Compared], measured: Lookup) -> Compared | None:
    """Return the first unit that theory was told to be of another kind, or None."""
    return next((u for u in units if measured.kinds[u.path] != u.kind), None)


def _as_if_padded(units: Sequence[Compared], look: Look | None) -> bool:
    """Return whether all convolutions together look as if padded with zeros, unknown to theory."""
    told = [_told_of_padding(u.expected) for u in units]
    small = [u for u in units if u.expected.border < 0.98 and not math.isnan(u.gradient_gain)]
    if any(told) or not small or (look is not None and not look.zero_padded):
        return False
    off = sum(u.gradient_gain - u.expected.gradient_gain for u in small)
    return 0.5 < off / sum(0.5 * math.log(u.expected.border) for u in small) < 1.5


def _told_of_padding(unit: Expected) -> bool:
    return unit.note.startswith("zero padding")


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _pair(measured: float, expected: float) -> str:
    return "" if math.isnan(measured) else f"{measured:.3f} / {expected:7.3f}"
