"""How large is the gradient at the input of a network with shortcuts, by the branches' scale?

    python -m experiments skip-and-scale

Fully connected networks without norm or bias, initialised as He et al. say, dozens of each kind. A
unit is ``x + scale * branch(x)``, its plain twin ``scale * branch(x)``: the same parameters, one
term less. The branch is ReLU, W, or else W, ReLU, W; the scale is 1, L^-1/2, 1/L or 0 for L units.
A small batch of Gaussian examples goes through each network, a unit Gaussian cotangent g_L comes
back, and |g_l|^2 / |g_L|^2 is measured behind every unit and at the input.

Theory (``gradflow.oracles.residual_gain``): the energies of branch and shortcut add, so that the
mean of |g_0|^2 / |g_L|^2 is (1 + scale^2 a)^L, with a = 1 for the first branch and 2 for the
second. Without the shortcut it is (scale^2 a)^L. For W, ReLU, W this is exact at any width, because
whether a gate is open depends on the sign of fresh weights alone. For ReLU, W it is the limit of
wide networks: its gates sit on the trunk, where a large feature keeps its gate open for units to
come and feeds all others meanwhile. To first order in 1/n the mean is larger by the factor that
``finite_width`` gives: at scale 1 and width 256 by 3.6 % at 16 units and 8.2 % at 32.

Pass: for every branch, scale and depth the mean over networks of |g_0|^2 / |g_L|^2 is theory's
within 3 standard errors, ``finite_width`` included; with scale 0 it is 1 within 1e-6 in every
network. It is the arithmetic mean that theory speaks of. The logarithm scatters, and the typical
network, the geometric mean in the table, has less.

Takes somewhat over a minute of processor time. For a look at it in a few seconds:
``--depths 8 --seeds 8``.

Reference: Balduzzi et al., The Shattered Gradients Problem, 2017, for 2^L; Hayou et al., Stable
ResNet, 2021, for the scales.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from convjax import gradflow, lab, nn

ONE, TWO = "ReLU, W", "W, ReLU, W"
GAINS = {ONE: 1.0, TWO: 2.0}
SCALES: dict[str, Callable[[int], float]] = {
    "1": lambda units: 1.0,
    "L^-1/2": lambda units: units**-0.5,
    "1/L": lambda units: 1 / units,
    "0": lambda units: 0.0,
}
MOST_UNITS = 500


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every branch is measured at every scale and depth."""

    depths: tuple[int, ...] = (8, 32)
    """Residual units."""
    scales: tuple[str, ...] = tuple(SCALES)
    """Factors on the branches: 1, L^-1/2, 1/L, 0. The plain twins have 1."""
    width: int = 256
    """Features of every layer."""
    batch_size: int = 8
    """Examples that go through each network; their gradients are measured together."""
    seeds: int = 64
    """Networks of each kind; twins of one seed have the same weights."""


@dataclasses.dataclass(frozen=True)
class Network:
    """One kind of network: ONE or TWO as branch, identity or none as shortcut."""

    branch: str
    shortcut: str
    scale: str
    units: int
    width: int

    @property
    def factor(self) -> float:
        """The factor on every branch."""
        return SCALES[self.scale](self.units)

    @property
    def label(self) -> str:
        """What it is called beside others of its branch."""
        return f"scale {self.scale}" if self.shortcut == "identity" else "no shortcut"

    @property
    def panel(self) -> str:
        """The branches have a panel each."""
        return self.branch

    def __str__(self) -> str:
        return f"{self.branch}, {self.label}, {self.units} units"

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Return one network."""

        def dense(rngs: nnx.Rngs) -> nn.Dense:
            return nn.Dense(self.width, self.width, kernel_init="he", use_bias=False, rngs=rngs)

        def unit(rngs: nnx.Rngs) -> nn.Residual:
            before = {} if self.branch == ONE else {"first": dense(rngs)}
            branch = nn.Chain({**before, "relu": nn.Activation("relu"), "last": dense(rngs)})
            return nn.Residual(branch, self.shortcut, scale=self.factor)

        return nn.Repeat(unit, self.units, rngs=rngs)

    def signal(self, key: jax.Array, batch_size: int) -> jax.Array:
        """Return the examples."""
        return jax.random.normal(key, (batch_size, self.width))

    @property
    def exact(self) -> bool:
        """Whether the units are the identity."""
        return self.factor == 0 and self.shortcut == "identity"

    @property
    def expected(self) -> float:
        """What the mean of |g_0|^2 / |g_L|^2 should be."""
        gain = GAINS[self.branch]
        if self.shortcut == "none":
            return (self.factor**2 * gain) ** self.units
        wide = gradflow.oracles.residual_gain(self.units, self.factor, gain)
        narrow = self.branch == ONE
        return wide * (finite_width(self.units, self.factor, self.width) if narrow else 1.0)


def finite_width(units: int, scale: float, width: int) -> float:
    """Return the factor by which ``x + scale * W relu(x)`` exceeds the gain of wide networks.

    Formula: ``1 + 2 / (pi n) * (s^2 / (1 + s^2))^2 * sum_m (L - m) (arcsin r_m + r_m sqrt(1 -
    r_m^2))`` for m = 1 … L - 1, with ``r_m = (1 + s^2)^(-m/2)``, the correlation of a trunk's
    feature with what it was m units before. To first order in 1/n, derived here: feature i and its
    derivative change the covariance that all weights of a unit see, by 2/n of their own squares and
    product where the gate is open; what that does to the gate of i itself, units later, is a
    Gaussian integral.

    Args:
      units: residual units initialised as He et al. say, their input Gaussian.
      scale: factor on every branch.
      width: features.
    """
    back = np.arange(1, units)
    r = (1 + scale**2) ** (-back / 2)
    gates = np.arcsin(r) + r * np.sqrt(1 - r**2)
    strength = 2 / (math.pi * width) * (scale**2 / (1 + scale**2)) ** 2
    return 1 + strength * float((units - back) @ gates)


def cells(config: Config) -> list[lab.Ensemble]:
    """Return what is measured, the shallow networks first.

    Raises:
      ValueError: an option that cannot be done.
    """
    lab.check_least(config, depths=1, width=1, batch_size=1, seeds=2)
    if max(config.depths) > MOST_UNITS:
        raise ValueError(
            f"depths={config.depths}: beyond {MOST_UNITS} units no float64 holds 3^L; choose less"
        )
    lab.check_several(config, "scales")
    for scale in config.scales:
        if scale not in SCALES:
            raise ValueError(lab.unknown("scales:", scale, SCALES))
    twins = [*(("identity", scale) for scale in config.scales), ("none", "1")]
    kinds = [
        Network(branch, *twin, units, config.width)
        for units in config.depths
        for branch in GAINS
        for twin in twins
    ]
    return [lab.Ensemble(kind, config.seeds, config.batch_size) for kind in kinds]


measure = lab.measure
judge, draw, table = lab.against_theory(Network)
