"""What do padding, depthwise kernels, wrong fans and orthogonal kernels do to the gradient?

    python -m experiments convolution-audit

Plain convolutional networks without norm or bias at initialization, a Gaussian image in, a unit
Gaussian cotangent g_L back; the mean over many networks of |g_l|^2 / |g_L|^2 is the energy that is
left.

Zero padding. 3x3 convolutions over 8x8 and 32x32 places: LeCun kernels without activation, He's
with ReLU. At the border part of a window sees zeros, and what would have gone back there is lost
(``gradflow.oracles.padding_gain``): one layer leaves ((3H - 2) / 3H)^2, 0.840 and 0.959; 50 layers
0.0132 and 0.550; at 8x8 each further layer 0.9212. Pass: one layer within 3 %; 50 layers, and at
8x8 the last 25 layers' logarithm, within 3 % for the linear networks, which scatter little; within
3 standard errors for those with ReLU, where the gates of a whole image open and close together and
3 % would take thousands of networks. (At 32x32 fifty layers do not reach the limit, 0.9940.) Every
network has a twin with circular padding and the same kernels, for which theory says 1 exactly: the
control variate that takes out most of the scatter. Pass: the twins' mean is 1 within 3 standard
errors.

Depthwise kernels. Units of ReLU, 3x3 depthwise, 1x1 convolution (variance 1/9 and 2/C), 12 layers
of 32 channels at 8x8: 0.299 is left (``separable_gain``). Pass: within 3 standard errors,
the twins too.

Fans. The depthwise kernels are initialized by fan-out, once by convjax's initialiser, which is told
the groups, once by ``jax.nn.initializers.variance_scaling``, which is not and takes (3, 3, 1, C)
for a kernel with 9 C fans out where it has 9. Pass: with circular padding the gain of a layer is 1
within 5 % with the first and 1/C with the second; what is off by more than a factor of 2 is
flagged, and that is the second alone.

Orthogonal kernels. Singular values s of the Jacobian (``gradflow.spectrum``) through 2, 4 and 6
layers of 256 channels with ReLU over 4x4 places, circular: the relative variance of s^2 is 2 L for
Gaussian kernels, L for delta-orthogonal ones (``jacobian_spread``). Pass: within 5 %, for width and
scatter.

Tolerances without a source are set by hand. Takes somewhat over a minute of processor time. For a
look at it in a few seconds: ``--sizes 8 --widths 16 --padding-images 1 --seeds 8
--jacobian-layers 2 --jacobian-width 16``.

Reference: padding is derived in this project; Xiao et al., Dynamical Isometry and a Mean Field
Theory of CNNs, 2018, for delta-orthogonal kernels; Pennington et al. 2017 for the spread.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, models, nn, plots
from convjax.gradflow import oracles

PADDING, DEPTHWISE, JACOBIAN = "padding", "depthwise", "jacobian"
LINEAR, RELU = "linear", "relu"
FAN_OUT, GENERIC = "fan_out", "JAX's fan_out"
GAUSSIAN, ORTHOGONAL = "gaussian", "orthogonal"
KERNELS: dict[str, Any] = {
    FAN_OUT: nn.initializers.VarianceScaling(1.0, "fan_out"),
    GENERIC: jax.nn.initializers.variance_scaling(1.0, "fan_out", "normal"),
    GAUSSIAN: nn.initializers.VarianceScaling(2.0),
    ORTHOGONAL: nn.initializers.DeltaOrthogonal(2**0.5),
}
DEPTHWISE_SIZE, DEPTHWISE_IMAGES = 8, 4
JACOBIAN_SIZE, PROBES = 4, 32
PADDING_TOLERANCE = 0.03
FAN_TOLERANCE, FLAGGED = 0.05, 2.0
SPREAD_TOLERANCE = 0.05
WHISKERS = 3.0  # standard errors, as many as criteria allow
MEASURES = ("log_zeros", "log_circular", "mean_square", "relative_variance")


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    sizes: tuple[int, ...] = (8, 32)
    """Places along each axis of the networks with zero padding."""
    widths: tuple[int, ...] = (64, 32)
    """Channels of those networks, one for each size."""
    padding_seeds: tuple[int, ...] = (128, 32)
    """How many of them, for each size."""
    padding_images: tuple[int, ...] = (8, 1)
    """Images that go through each of them, for each size."""
    padding_layers: int = 50
    """Layers of those networks."""
    depthwise_width: int = 32
    """Channels of the networks with depthwise kernels."""
    depthwise_layers: int = 12
    """Their units."""
    depthwise_seeds: int = 1000
    """How many of them, for each initialiser of their kernels."""
    jacobian_layers: tuple[int, ...] = (2, 4, 6)
    """Layers of the networks whose Jacobians are looked at."""
    jacobian_width: int = 256
    """Their channels."""
    jacobian_seeds: int = 6
    """How many of them, for each kind and depth."""
    seeds: int | None = None
    """Networks of every kind; without it, each part has as many as the options above say."""
    depths: tuple[int, ...] = ()
    """Layers of the networks with zero padding and with depthwise kernels, one depth after the
    other; without it, each part has as many as the options above say."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """One kind of network."""

    part: str  # PADDING, DEPTHWISE or JACOBIAN
    kind: str  # the activation (LINEAR, RELU), or the kernels' initialiser, a name in KERNELS
    size: int  # places along each of two axes
    width: int
    layers: int
    images: int  # go through each network; their gradients are measured together

    def __str__(self) -> str:
        return f"{self.part}, {self.kind}, {self.size}x{self.size}, {self.layers} layers"

    @property
    def theory(self) -> np.ndarray:
        """What zero padding should leave of the gradient's energy, by layers back."""
        of = oracles.separable_gain if self.part == DEPTHWISE else oracles.padding_gain
        return np.array([of(self.size, layers) for layers in range(self.layers + 1)])

    @property
    def gain(self) -> float:
        """What a layer should make of it with circular padding: no more and no less.

        A generic fan-out initialiser takes a depthwise kernel ``(3, 3, 1, C)`` for one with 9 C
        fans out where it has 9, and makes it 1/C.
        """
        return 1 / self.width if self.kind == GENERIC else 1.0

    def signal(self, key: jax.Array) -> jax.Array:
        """Return what goes in."""
        return jax.random.normal(key, (self.images, self.size, self.size, self.width))

    def network(self, padding: str, rngs: nnx.Rngs) -> nn.Repeat:
        """Initialize one; whatever the padding, its kernels are the same."""
        if self.part == DEPTHWISE:
            inits: Any = {"kernel_init": KERNELS[self.kind], "pointwise_init": "he"}
            options = {"padding": padding, "use_bias": False, **inits}

            def unit(rngs: nnx.Rngs) -> nn.Chain:
                separable = nn.separable_conv(self.width, self.width, (3, 3), rngs=rngs, **options)
                return nn.Chain(relu=nn.Activation("relu"), separable=separable)

            return nn.Repeat(unit, self.layers, rngs=rngs)
        return models.deep_stack(
            self.layers,
            self.width,
            shortcut="none",
            convs_per_unit=1,
            activation="linear" if self.kind == LINEAR else "relu",
            init=KERNELS.get(self.kind, "lecun" if self.kind == LINEAR else "he"),
            padding=padding,
            rngs=rngs,
        )

    def measure(self, key: jax.Array, _: int) -> dict[str, jax.Array]:
        """Measure one network with zero padding, and its twin with circular padding."""
        weights, signal, cotangent = jax.random.split(key, 3)
        x = self.signal(signal)
        return {
            name: lab.log_ratios(self.network(padding, nnx.Rngs(weights)), x, cotangent)
            for name, padding in (("log_zeros", "SAME"), ("log_circular", "CIRCULAR"))
        }


def cells(config: Config) -> list[lab.Ensemble]:
    """Return what is measured; a ValueError names an option that cannot be done."""
    check(config)
    each = zip(config.sizes, config.widths, config.padding_images, strict=True)
    padding = [
        lab.Ensemble(Stack(PADDING, kind, size, width, layers, images), count)
        for (size, width, images), count in zip(each, padding_seeds(config), strict=True)
        for layers in config.depths or (config.padding_layers,)
        for kind in (LINEAR, RELU)
    ]
    width, count = config.depthwise_width, config.seeds or config.depthwise_seeds
    depthwise = [
        lab.Ensemble(Stack(DEPTHWISE, kind, DEPTHWISE_SIZE, width, layers, DEPTHWISE_IMAGES), count)
        for layers in config.depths or (config.depthwise_layers,)
        for kind in (FAN_OUT, GENERIC)
    ]
    width, count = config.jacobian_width, config.seeds or config.jacobian_seeds
    jacobian = [
        lab.Ensemble(Stack(JACOBIAN, kind, JACOBIAN_SIZE, width, layers, 1), count)
        for kind in (GAUSSIAN, ORTHOGONAL)
        for layers in config.jacobian_layers
    ]
    return [*padding, *depthwise, *jacobian]


def padding_seeds(config: Config) -> tuple[int, ...]:
    """Return how many networks with zero padding there are, for each size."""
    return config.padding_seeds if config.seeds is None else (config.seeds,) * len(config.sizes)


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    least = {"depths": 2} if config.depths else {}
    least |= {"seeds": 2} if config.seeds is not None else {}
    least |= {"sizes": 3, "padding_layers": 2}
    least |= {"jacobian_layers": 1, "jacobian_width": 1, "jacobian_seeds": 2}
    least |= {"depthwise_width": 2, "depthwise_layers": 1, "depthwise_seeds": 2}
    lab.check_least(config, **least)
    each = {"widths": 1, "padding_images": 1, "padding_seeds": 2}
    for option, bound in each.items():
        values = padding_seeds(config) if option == "padding_seeds" else getattr(config, option)
        if len(values) != len(config.sizes) or min(values) < bound:
            raise ValueError(
                f"{option}={list(values)} must hold one number of at least {bound} for each of "
                f"sizes={list(config.sizes)}"
            )


def group(networks: lab.Ensemble) -> Hashable:
    """Return what decides the program: Jacobians of both kinds are probed by one."""
    kind = networks.kind
    return dataclasses.replace(kind, kind="") if kind.part == JACOBIAN else kind


def measure(networks: lab.Ensemble) -> lab.Columns:
    """Return energies at every layer, or moments of the Jacobians; NaN where there is none."""
    found = jacobians(networks) if networks.kind.part == JACOBIAN else lab.measure(networks)
    return dict.fromkeys(MEASURES, np.full(len(found["seed"]), np.nan)) | found


def jacobians(networks: lab.Ensemble) -> lab.Columns:
    """Return mean and relative variance of s^2 for every network, at one image each."""
    kind, key = networks.kind, jax.random.key(0)

    def make(key: jax.Array) -> nn.Repeat:
        return kind.network("CIRCULAR", nnx.Rngs(key))

    structure, _ = nnx.split(nnx.eval_shape(make, key))
    # Call by call it would take longer.
    initial = lab.compiled(lambda key: nnx.split(make(key))[1], key, level=2)
    square, spread = [], []
    for seed in range(networks.seeds):
        weights, signal, probes = jax.random.split(jax.random.key(seed), 3)
        net, x = nnx.merge(structure, initial(weights)), kind.signal(signal)
        how: Any = {"method": "hutchinson", "samples": PROBES, "key": probes}
        found = gradflow.spectrum(net, x, train=False, **how)
        square.append([found.mean_square])
        spread.append([found.relative_variance])
    return lab.as_rows(kind, mean_square=np.array(square), relative_variance=np.array(spread))


class Left(NamedTuple):
    """What is left of the gradient's energy in networks of one kind, by layers back from none."""

    kind: Stack
    share: lab.Mean  # of |g|^2 / |g_L|^2 with zero padding
    circular: lab.Mean  # the same with circular padding, the control variate of the other

    @property
    def gain(self) -> float:
        """Of a layer, with circular padding."""
        return float(self.circular.mean[-1] ** (1 / self.kind.layers))


def left(columns: lab.Columns, part: str) -> list[Left]:
    """Return what is left in every kind of network of PADDING or DEPTHWISE."""
    return [
        _left(kind, np.exp(zeros[:, ::-1]), np.exp(circular[:, ::-1]))
        for kind, (zeros, circular) in lab.by_kind(columns, Stack, "log_zeros", "log_circular")
        if kind.part == part
    ]


def _left(kind: Stack, zeros: np.ndarray, circular: np.ndarray) -> Left:
    # What a network has more than others for its kernels' sake, its circular twin has as well.
    apart = circular - circular.mean(0)
    slope = (apart * zeros).sum(0) / np.maximum((apart**2).sum(0), 1e-300)
    # Where the twins' mean is not 1, they are no control: NaN.
    known = np.nan if kind.kind == GENERIC else 1.0
    controlled = zeros - slope * (circular - known)
    gains = kind.gain ** np.arange(kind.layers + 1)
    return Left(kind, lab.Mean(kind, controlled, kind.theory), lab.Mean(kind, circular, gains))


def spreads(columns: lab.Columns, name: str = "relative_variance") -> list[lab.Mean]:
    """Return the relative variance of s^2, or its mean, in networks of every kind of JACOBIAN."""
    return [
        lab.Mean(
            kind,
            values[:, 0],
            1.0 if name == "mean_square" else oracles.jacobian_spread(kind.layers, kind.kind),
        )
        for kind, (values,) in lab.by_kind(columns, Stack, name)
        if kind.part == JACOBIAN
    ]


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold what is left, what a wrong fan does, and the spread of the Jacobian against theory."""
    spread = []
    for row in spreads(columns):
        claim = f"{row.kind.kind}, {row.kind.layers} layers: relative variance of s^2"
        mean = float(row.mean)
        spread.append(lab.within(claim, mean, row.expected, relative=SPREAD_TOLERANCE))
    padding, depthwise = (left(columns, part) for part in (PADDING, DEPTHWISE))
    judged = [*_by_layers(judge_padding, padding), *_by_layers(judge_depthwise, depthwise)]
    return [*judged, *spread]


def _by_layers(
    judge_one: Callable[[list[Left]], list[lab.Criterion]], rows: Sequence[Left]
) -> list[lab.Criterion]:
    """Return the criteria of each depth; where there are several, each says of which."""
    depths = lab.grouped(rows, "kind.layers")
    return [
        dataclasses.replace(one, claim=f"depth {layers}: {one.claim}") if len(depths) > 1 else one
        for layers, ours in depths.items()
        for one in judge_one(ours)
    ]


def judge_padding(rows: list[Left]) -> list[lab.Criterion]:
    """Return the criteria for the networks with zero padding."""
    criteria = []
    for row in rows:
        kind, (share, theory, error) = row.kind, (row.share.mean, row.kind.theory, row.share.error)
        linear, name = kind.kind == LINEAR, f"{kind.kind}, {kind.size}x{kind.size}"
        near = partial(lab.within, relative=PADDING_TOLERANCE)
        held = near if linear else partial(lab.within_errors, error=error[-1])
        criteria += [
            near(f"{name}: left by 1 layer", share[1], theory[1]),
            held(f"{name}: left by {kind.layers} layers", share[-1], theory[-1]),
            _judge_twin(name, row),
        ]
        limit = math.log(oracles.padding_limit(kind.size))
        # Theory itself must have come to its limit by then.
        if linear and abs(_late(theory) / limit - 1) < 0.1 * PADDING_TOLERANCE:
            criteria.append(near(f"{name}: ln of what a late layer leaves", _late(share), limit))
    return criteria


def judge_depthwise(rows: list[Left]) -> list[lab.Criterion]:
    """Return the criteria for depthwise kernels, initialized rightly and wrongly."""
    criteria = []
    for row in rows:
        kind, name = row.kind, f"separable, {row.kind.kind}"
        if kind.kind != GENERIC:
            end = row.share.at(-1)
            claim = f"{name}: left by {kind.layers} layers"
            criteria.append(lab.within_errors(claim, end.mean, end.expected, end.error))
            criteria.append(_judge_twin(name, row))
        claim = f"{name}: gain of a layer"
        criteria.append(lab.within(claim, row.gain, kind.gain, relative=FAN_TOLERANCE))
    flagged = [row.kind.kind for row in rows if abs(math.log(row.gain)) > math.log(FLAGGED)]
    claim = "the initialiser that does not know the groups is flagged, no other"
    return [*criteria, lab.that(claim, flagged == [GENERIC], ", ".join(flagged) or "none", GENERIC)]


def _judge_twin(name: str, row: Left) -> lab.Criterion:
    end = row.circular.at(-1)
    return lab.within_errors(f"{name}: the same with circular padding", end.mean, 1.0, end.error)


def _late(share: np.ndarray) -> float:
    """Return the logarithm of what a layer leaves, over the last half of the layers."""
    layers = len(share) - 1
    half = layers // 2
    # An estimate by a control variate may be negative; that is no share.
    kept = share[-1] / share[half] if min(share[-1], share[half]) > 0 else math.nan
    return math.log(kept) / (layers - half)


def draw(columns: lab.Columns) -> Figure:
    """Draw what is left by layers, the gain of depthwise kernels, and the Jacobian's spread."""
    padding, depthwise = (_deepest(left(columns, part)) for part in (PADDING, DEPTHWISE))
    back, ratio = "layers travelled back", "mean |g_l|² / |g_L|²"
    shown = []
    for size in dict.fromkeys(row.kind.size for row in padding):
        rows = [row for row in [*padding, *depthwise] if row.kind.size == size]
        right = [row for row in rows if row.kind.kind != GENERIC]
        scale = "log" if min(row.kind.theory[-1] for row in rows) < 0.1 else "linear"
        series = [_zeros(row, start) for start, row in enumerate(right)]
        title = f"{size}x{size}, zero padding"
        shown.append(plots.Panel(title, back, ratio, series, yscale=scale))
    circular = []
    for row in depthwise:
        mean, places = row.circular, np.arange(row.kind.layers + 1)
        circular.append(plots.Series(_label(row), places, mean.mean, expected=mean.expected))
    title = "depthwise kernels, circular padding"
    shown.append(plots.Panel(title, back, ratio, circular, yscale="log"))
    series = [
        lab.series(name, [row.kind.layers for row in rows], rows)
        for name, rows in lab.grouped(spreads(columns), "kind.kind").items()
    ]
    title, spread = "singular values s of the Jacobian, ReLU", "relative variance of s²"
    shown.append(plots.Panel(title, "layers", spread, series))
    title = "What convolutions do to the gradient at initialization"
    return plots.panels(title, shown, columns=2)


def _deepest(rows: list[Left]) -> list[Left]:
    """Return those of the most layers: shallower networks would lie on these."""
    most = max(row.kind.layers for row in rows)
    return [row for row in rows if row.kind.layers == most]


def _zeros(row: Left, start: int) -> plots.Series:
    # Every third layer, and other ones for other networks: on one another they would be hidden.
    some = np.arange(start, row.kind.layers + 1, 3)
    return lab.series(_label(row), some, row.share.at(some), errors=WHISKERS, positive=True)


def _label(row: Left) -> str:
    return "separable" if row.kind.kind == FAN_OUT else row.kind.kind


def table(columns: lab.Columns) -> Table:
    """Return everything measured beside theory."""
    rows: list[tuple[str, lab.Mean]] = []
    for row in [*left(columns, PADDING), *left(columns, DEPTHWISE)]:
        most = row.kind.layers
        for layers in (1, most) if row.kind.kind != GENERIC else ():
            plural = "s" if layers > 1 else ""
            rows.append((f"left by {layers} layer{plural}", row.share.at(layers)))
        rows.append((f"the same, circular, {most} layers", row.circular.at(most)))
    for pair in zip(spreads(columns, "mean_square"), spreads(columns), strict=True):
        for what, row in zip(("mean", "spread"), pair, strict=True):
            rows.append((f"{what} of s^2, {row.kind.layers} layers", row))
    lines = []
    for what, row in rows:
        numbers = (float(row.expected), float(row.mean), lab.digits(float(row.error), 2))
        places = f"{row.kind.size}x{row.kind.size}"
        lines.append((row.kind.part, row.kind.kind, places, what, *numbers))
    heads = ("part", "kind", "places", "what", "theory", "mean", "s.e.")
    return lab.plain_table("Means over networks", heads, lines)
