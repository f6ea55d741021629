"""How large is the gradient at the input of a network with shortcuts, by the branches' scale?

    python -m experiments skip-and-scale

Fully connected networks without norm or bias, initialised as He et al. say, dozens of each kind. A
unit is ``x + scale * branch(x)``, its plain twin ``scale * branch(x)``: the same parameters, one
term less. The branch is ReLU, W, or else W, ReLU, W; the scale is 1, L^-1/2, 1/L or 0 for L units.

Theory (``gradflow.oracles.residual_gain``): the energies of branch and shortcut add, so that the
mean of |g_0|^2 / |g_L|^2 is (1 + scale^2 a)^L, with a = 1 for the first branch and 2 for the
second; without the shortcut it is (scale^2 a)^L. For W, ReLU, W this is exact at any width; the
gates of ReLU, W sit on the trunk, and the mean is larger (``residual_width_factor``): at scale 1
and width 256 by 3.6 % at 16 units and 8.2 % at 32.

Pass: for every branch, scale and depth the mean over networks of |g_0|^2 / |g_L|^2 is theory's
within 3 standard errors; with scale 0 it is 1 within 1e-6 in every network. It is the arithmetic
mean that theory speaks of: the typical network, the geometric mean in the table, has less.

Takes somewhat over a minute of processor time. For a look at it in a few seconds:
``--depths 8 --seeds 8``.

Reference: Balduzzi et al., The Shattered Gradients Problem, 2017, for 2^L; Hayou et al., Stable
ResNet, 2021, for the scales.
"""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx

from convjax import lab, nn
from convjax.gradflow import oracles

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

    factor = property(lambda self: SCALES[self.scale](self.units))
    panel = property(lambda self: self.branch)
    exact = property(lambda self: self.factor == 0 and self.shortcut == "identity")

    @property
    def label(self) -> str:
        """What it is called beside others of its branch."""
        return f"scale {self.scale}" if self.shortcut == "identity" else "no shortcut"

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
    def expected(self) -> float:
        """What the mean of |g_0|^2 / |g_L|^2 should be."""
        gain = GAINS[self.branch]
        if self.shortcut == "none":
            return (self.factor**2 * gain) ** self.units
        wide = oracles.residual_gain(self.units, self.factor, gain)
        if self.branch == TWO:
            return wide
        return wide * oracles.residual_width_factor(self.units, self.factor, self.width)


def cells(config: Config) -> list[lab.Ensemble]:
    """Return what is measured, the shallow networks first."""
    lab.check_least(config, depths=1, width=1, batch_size=1, seeds=2)
    lab.check_known(config, scales=SCALES)
    if max(config.depths) > MOST_UNITS:
        raise ValueError(
            f"depths={config.depths}: beyond {MOST_UNITS} units no float64 holds 3^L; choose less"
        )
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
