"""predict: what activations and gradients theory expects at every unit, at initialization."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from convjax._check import choice, instance, integers, wrong_type
from convjax._readable import Readable, Table, on_trunk, whole
from convjax.gradflow import _check as check
from convjax.gradflow import _plot as drawing
from convjax.gradflow._door import channels_last, is_written, opened, said
from convjax.gradflow._theory import _combine as _combine
from convjax.gradflow._theory import _elementwise as _elementwise
from convjax.gradflow._theory import _linear as _linear
from convjax.gradflow._theory import _norms as _norms
from convjax.gradflow._theory import _pools as _pools
from convjax.gradflow._theory import _read as _read
from convjax.gradflow._theory import _run
from convjax.gradflow._theory._run import Facts, Row, Scope
from convjax.gradflow._theory._sites import chosen_sites, exactly, reach_of
from convjax.gradflow._theory._state import Cotangent, Doubt, Pairs, Signal

PERCENT = re.compile(r"(\d+)%")

NODES = 6
"""Nodes for each class of pairs of sites, where a batch is given."""


@dataclasses.dataclass(frozen=True, repr=False)
class Expected:
    """What theory expects of one unit. All logarithms are natural, and of norms, not of squares.

    Attributes:
      path: the unit's path, with numbers for the units of repeats, as in a profile's table.
      kind: the node's type, or an activation's name.
      activation_log_rms: of the output.
      activation_scatter: standard deviation of that over random initializations.
      activation_slack: how far theory's approximations, all that come before, may be off, roughly;
        infinite beyond a leaf that it knows nothing of.
      gradient_log_norm: of the loss's gradient with respect to the output, relative to the
        network's output.
      gradient_scatter: standard deviation of that.
      gradient_slack: as for the activation, of all that comes after.
      activation_gain: log RMS of the output less that of the unit's input.
      activation_gain_scatter: standard deviation of that over random initializations.
      activation_gain_slack: how far theory's approximations may be off, roughly; infinite where it
        knows nothing.
      gradient_gain: log norm of what the unit hands back less that of what it receives.
      gradient_gain_scatter: standard deviation of that.
      gradient_gain_slack: as for the activation.
      input: path of the unit whose output is this one's input, or None.
      handed: path and measure (``"gradient"``, ``"branch_gradient"`` or ``"shortcut_gradient"``)
        of a profile that hold what this unit hands back, or None where nothing measures it.
      kernel_variance: mean square of a kernel's entry, as theory used it; NaN without a kernel.
      groups: groups of the convolution; 1 elsewhere.
      border: share of an even image's energy that zero padding leaves (or would leave, where the
        padding is another); 1 elsewhere.
      note: what theory leaves open here, or what a reader should know; or "".
      biased: whether there is a bias beside the kernel.
    """

    path: str
    kind: str
    activation_log_rms: float
    activation_scatter: float
    activation_slack: float
    gradient_log_norm: float
    gradient_scatter: float
    gradient_slack: float
    activation_gain: float
    activation_gain_scatter: float
    activation_gain_slack: float
    gradient_gain: float
    gradient_gain_scatter: float
    gradient_gain_slack: float
    input: str | None
    handed: tuple[str, str] | None
    kernel_variance: float
    groups: int
    border: float
    note: str
    biased: bool = False

    def __repr__(self) -> str:
        said = [
            *(
                f"{name} {value or 'unknown'}"
                for name, value in zip(SHOWN, _cells(self), strict=True)
            ),
            *([self.note] if self.note else []),
        ]
        return f"Expected({whole(self.path)}, {self.kind}: {', '.join(said)})"


@dataclasses.dataclass(frozen=True, repr=False)
class Prediction(Readable):
    """What theory expects of a network: one ``Expected`` for every unit, in a profile's order.

    Attributes:
      units: children before parents.
      batch_size: examples in the batch.
      train: whether norms use the batch's statistics.
      unknown: paths of the leaves that theory has nothing to say of.
      mode: how the network was called, in words.
    """

    units: tuple[Expected, ...]
    batch_size: int
    train: bool
    unknown: tuple[str, ...]
    mode: str = ""

    def __getitem__(self, path: str) -> Expected:
        """Return what is expected of the unit at a path; the root's is empty."""
        instance("path", path, str, "a unit's path")
        for unit in self.units:
            if unit.path == path:
                return unit
        known = ", ".join(unit.path for unit in self.units[:12])
        raise KeyError(f"{path!r} is not in the prediction; it begins with {known}")

    def table(self) -> dict[str, np.ndarray]:
        """Return the fields of every unit as columns; ``handed`` as a path alone."""
        names = [field.name for field in dataclasses.fields(Expected)]
        columns = {name: [getattr(unit, name) for unit in self.units] for name in names}
        columns["handed"] = ["" if h is None else "/".join(h) for h in columns["handed"]]
        columns["input"] = ["" if i is None else i for i in columns["input"]]
        return {name: np.array(values) for name, values in columns.items()}

    def plot(self) -> Any:
        """Draw what is expected along the trunk, in bands of two standard deviations and slack.

        Returns:
          The figure, a ``plots.Sheet``; ``Profile.plot(prediction)`` puts a measurement over it.

        Raises:
          MissingPackageError: matplotlib is not installed.
        """
        return drawing.of_prediction(self)

    def __repr__(self) -> str:
        unknown = f", {len(self.unknown)} unknown" if self.unknown else ""
        mode = f"batch of {self.batch_size}, {self.mode or f'train={self.train}'}"
        return f"Prediction({len(self.units)} units{unknown}, {mode})"

    def _as_table(self) -> Table:
        units = self.units
        paths, kinds = [u.path for u in units], [u.kind for u in units]
        mode = f"batch of {self.batch_size}, {self.mode or f'train={self.train}'}"
        return Table(
            ("unit", "kind", *SHOWN),
            [(whole(u.path), u.kind, *_cells(u)) for u in units],
            left=2,
            spare=("kind",),
            main=on_trunk(paths, kinds),
            kept=[i for i, path in enumerate(paths) if path in self.unknown],
            below=[
                *(f"worth knowing: {remark}" for remark in remarks(units)),
                "expected ± standard deviation over random initializations; gradient relative to "
                f"the output's; {mode}",
                *coverage(self),
            ],
        )


def coverage(prediction: Prediction) -> list[str]:
    """Return the sentence on what theory covers, if it does not cover every unit."""
    if not prediction.unknown:
        return []
    total = len(prediction.units)
    shown = ", ".join(map(whole, prediction.unknown[:3]))
    more = f" and {len(prediction.unknown) - 3} more" if len(prediction.unknown) > 3 else ""
    known = total - len(prediction.unknown)
    return [f"theory covers {known} of {total} units; not: {shown}{more}"]


def remarks(units: Sequence[Expected]) -> list[str]:
    """Return every note once, with the units that bear it; of percentages, the range."""
    bearers: dict[str, list[Expected]] = {}
    for unit in units:
        if unit.note:
            bearers.setdefault(PERCENT.sub("%", unit.note), []).append(unit)
    found = []
    for note, (first, *more) in bearers.items():
        shares = [int(share) for unit in (first, *more) for share in PERCENT.findall(unit.note)]
        least, most = min(shares, default=0), max(shares, default=0)
        note = note.replace("%", f"{least}%" if least == most else f"{least} to {most}%")
        others = f" and {len(more)} more" if more else ""
        found.append(f"{note} ({whole(first.path)}{others})")
    return found


def predict(
    net: nnx.Module,
    x: Any,
    *,
    train: bool | None = None,
    cotangent: Any = None,
    kernels: str = "declared",
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Prediction:
    """Predict how large activations and gradients are at initialization, unit by unit.

    An interpreter over the same expression that ``profile`` measures. It carries, in place of
    arrays, what mean-field theory needs of them: the mean square at every place, the correlations
    between places and between examples, and the same of the cotangents on the way back; and the
    relative variance that a finite width leaves. Padding and strides act on the maps of mean
    squares exactly. No weights are sampled and no array of the network's size is touched, so that
    the cost depends on the number of nodes alone.

    Args:
      net: any node of ``convjax.nn``; parameters need not be there (``nnx.eval_shape``).
      x: the batch, ``(N, *spatial, C)``, whose correlations are then used; or its shape, which
        means independent standard normal entries.
      train: whether norms use the batch's statistics and dropout drops, as in ``profile``.
      cotangent: gradient with respect to the output, an array; None is a unit Gaussian one.
      kernels: ``"declared"`` takes each kernel's variance from its initialiser, which holds at
        initialization, and measures it where the initialiser does not say; ``"measured"`` takes the
        mean square of the kernel's values. Neither describes a trained network: what learning does
        is in products of weights of several layers, which no variance holds.
      rngs: source of random numbers that a network's call asks for.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``Prediction``; ``gradflow.compare`` holds it against a ``Profile``.

    Raises:
      ValueError: an input without batch and channels, an unknown choice of kernels, values that are
        not finite, in the batch or in the network.

    Example:
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> plain = {"shortcut": "none", "norm": "batch", "padding": "CIRCULAR"}
      >>> net = models.deep_stack(20, 64, rngs=nnx.Rngs(0), **plain)
      >>> found = gradflow.predict(net, (32, 8, 8, 64), train=True)
      >>> round(found["5"].gradient_gain, 2)  # two layers of batch norm and ReLU
      0.38

    Reference: Schoenholz et al., Deep Information Propagation, 2016; Yang et al., A Mean Field
    Theory of Batch Normalization, 2019; Hanin, Which Neural Net Architectures Give Rise to
    Exploding and Vanishing Gradients?, 2018, for the scatter.
    """
    kernels = choice("kernels", kernels, ("declared", "measured"))
    given = _given(x)
    abstract = jax.ShapeDtypeStruct(given, np.float32) if isinstance(given, tuple) else x
    if call is None and train and is_written(net) and rngs is None:
        rngs = nnx.Rngs(0)  # theory asks for no numbers, but units may
    net, train, _ = opened(net, abstract, train, rngs, call)
    signal = _signal(channels_last(net, given))
    scope = Scope(train, kernels, [], {}, {})
    after, back = _run.visit(net, signal, scope)
    output = _output_cotangent(cotangent, after, net)
    back(output)
    base = output.log_energy(after.batch)
    rows = [row for row in scope.rows if row.shown is not None]
    names: dict[Any, Any] = {row.path: row.shown for row in scope.rows}
    units = tuple(_expected(row, base, scope.facts.get(row.path, Facts()), names) for row in rows)
    for unit in units:
        if math.isnan(unit.activation_log_rms) or unit.activation_log_rms == math.inf:
            raise ValueError(
                f"theory expects NaN or infinity at unit {unit.path or '(the whole)'!r}: a value "
                "that the network declares or holds there is not finite"
            )
    found = (names[path] for path, facts in scope.facts.items() if facts.unknown)
    unknown = tuple(name for name in found if name is not None)
    return Prediction(units, signal.batch, train, unknown, said(net, train))


def _given(x: Any) -> Any:
    """Return the shape that was given, or the batch in float64."""
    if isinstance(x, jax.ShapeDtypeStruct):
        x = x.shape
    if isinstance(x, tuple | list):
        shape = integers("x", x)
        _check(shape)
        return shape
    expected = "a batch of NumPy or JAX, or its shape"
    instance("x", x, (np.ndarray, jax.Array), expected)
    if isinstance(x, Tracer):
        wrong_type("x", x, f"{expected}; while JAX traces, give the shape")
    values = check.numbers("x", x)
    _check(values.shape)
    if not np.isfinite(values).all():
        raise ValueError("x holds a NaN or an infinity; theory needs a batch of finite numbers")
    return values


def _signal(given: Any) -> Signal:
    """Return what is expected of a batch, or of independent normal entries in a shape."""
    if isinstance(given, tuple):
        pairs = Pairs(1)
        pair, ones = np.zeros((1, pairs.count)), np.ones((1, *given[1:-1]))
        alike = 1 / given[-1]
        start = (given[0], (given[-1],), 0.0, ones, pair, np.zeros(1), alike, 0.0, pairs)
        return Signal(*start, laws=(None,))
    sites = chosen_sites(len(given), given.shape[1:-1])
    return Signal(
        len(given),
        (given.shape[-1],),
        log=0.0,
        overlap=0.0,
        latent=0.0,
        pairs=Pairs(NODES),
        reach=reach_of(given, sites),
        laws=(None,),
        **exactly(given, Pairs(NODES)),
    )


def _check(shape: Sequence[int]) -> None:
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"x has shape {tuple(shape)}; expected (batch, *spatial, channels)")


def _output_cotangent(cotangent: Any, after: Signal, net: nnx.Module) -> Cotangent:
    segments = len(after.features)
    if cotangent is None:
        pair = np.zeros((segments, after.pairs.count))
        return Cotangent(
            after.features, 0.0, np.ones_like(after.energy), pair, 1 / sum(after.features)
        )
    instance(
        "cotangent", cotangent, (np.ndarray, jax.Array), "None, or an array of the output's shape"
    )
    values = channels_last(net, check.numbers("cotangent", cotangent))
    if not np.isfinite(values).all():
        raise ValueError("cotangent holds a NaN or an infinity")
    shape = (after.batch, *after.spatial, sum(after.features))
    if values.shape != shape:
        raise ValueError(f"cotangent has shape {values.shape}, the output {shape}")
    known = exactly(values, after.pairs)
    whole = Cotangent((shape[-1],), 0.0, known["energy"], known["pair"], 0.0)
    return whole.regrouped(after.features)


def _expected(row: Row, base: float, facts: Facts, names: Mapping[Any, Any]) -> Expected:
    """Turn expectations of squared norms into those of logarithms of norms.

    Squared norms scatter log-normally: the logarithm lies half its variance lower on average.
    """
    batch = row.signal.batch
    after = _typical(row.signal.log_energy, row.signal.total)
    before = _typical(row.before.log_energy, row.before.total)
    gradient = gain = scatter = slack = math.nan
    if row.cotangent is not None and row.handed is not None:
        got = row.cotangent.log_energy(batch)
        total = row.cotangent.doubt(row.cotangent.total, row.signal)
        gradient = _typical(_less(got, base), total)
        gain = _typical(_less(row.handed.log_energy(batch), got), row.gradient_doubt)
        scatter = _deviation(total)
        slack = total.slack / 2
    return Expected(
        path=str(row.shown),
        kind=row.kind,
        activation_log_rms=after,
        activation_scatter=_deviation(row.signal.total),
        activation_slack=row.signal.total.slack / 2,
        gradient_log_norm=gradient,
        gradient_scatter=scatter,
        gradient_slack=slack,
        activation_gain=_less(after, before),
        activation_gain_scatter=_deviation(row.activation_doubt),
        activation_gain_slack=row.activation_doubt.slack / 2,
        gradient_gain=gain,
        gradient_gain_scatter=_deviation(row.gradient_doubt),
        gradient_gain_slack=row.gradient_doubt.slack / 2,
        input=names.get(row.source.activation, row.source.activation),
        handed=_handed(row.source.gradient, names),
        kernel_variance=facts.kernel_variance,
        groups=facts.groups,
        border=facts.border,
        note=facts.note,
        biased=facts.biased,
    )


def _handed(place: tuple[str, str] | None, names: Mapping[Any, Any]) -> tuple[str, str] | None:
    """Return where a gradient is handed to, by the name that results show; None for no row."""
    if place is None:
        return None
    path = names.get(place[0], place[0])
    return None if path is None else (path, place[1])


def _less(log: float, other: float) -> float:
    """Return the difference of two logarithms; of nothing over nothing it is NaN."""
    return math.nan if other == -math.inf else float(log) - float(other)


def _typical(log_square: float, doubt: Doubt) -> float:
    return float(0.5 * (log_square - 0.5 * doubt.variance))


def _deviation(doubt: Doubt) -> float:
    return 0.5 * math.sqrt(max(doubt.variance + doubt.again, 0.0))


SHOWN = ("log rms", "log gradient", "its gain")


def _cells(unit: Expected) -> list[str]:
    """Return what tables show of a unit; nothing where theory knows nothing."""
    return [
        _with(unit.activation_log_rms, unit.activation_scatter, unit.activation_slack),
        _with(unit.gradient_log_norm, unit.gradient_scatter, unit.gradient_slack),
        _with(unit.gradient_gain, unit.gradient_gain_scatter, unit.gradient_gain_slack),
    ]


def _with(value: float, scatter: float, slack: float) -> str:
    if math.isnan(value) or not math.isfinite(slack):
        return ""
    return f"{round(value, 3) + 0.0:.3f} ± {scatter:.3f}"  # no minus before zero
