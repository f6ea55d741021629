"""How does the gradient of a plain ReLU network shrink with depth, and how far does it scatter?

    python -m experiments plain-gain

Fully connected ReLU networks without norm or bias, of several initialisations and widths, hundreds
of each. One example goes through each network, a unit Gaussian cotangent comes back, and the
squared norm |g|^2 of the gradient is measured before every layer, relative to the cotangent's.

Theory (``gradflow.oracles.relu_gain`` and ``log_spread``): one layer multiplies |g|^2 by
scale/2 in the mean, scale being a weight's variance times its fan-in: 2 for He, 1 for LeCun
(Flax's default, here untruncated), 1/3 for PyTorch's default. At width n that factor has relative
variance 5/n, so ln|g|^2 is about normal, with variance 5L/n after L layers, and falls by 5/(2n) a
layer more than ln(scale/2): the mean of the logarithm is compared, not the logarithm of the mean.

Pass: for each initialisation and width, the slope of ln|g|^2 over all layers is
ln(scale/2) - 5/(2n) within 3 standard errors (of the mean over networks), and the variance of
ln|g|^2 before all layers is 5L/n within 20 %. Both tolerances are set by hand: with a thousand
networks the second is four standard errors wide, and the 5/(2n) that the first must see are ten and
more. Theory is to first order in 1/n, which the default widths are large enough for.

Takes about a minute and a half of processor time. For a look at it in a few seconds:
``--inits he --widths 32 --seeds 200``.

Reference: He et al., Delving Deep into Rectifiers, 2015; Hanin, Which Neural Net Architectures Give
Rise to Exploding and Vanishing Gradients?, 2018.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, lab, models, nn
from convjax.lab import Columns, Criterion, check_least, check_several
from experiments._plain_networks import draw as draw
from experiments._plain_networks import summaries
from experiments._plain_networks import table as table

NETWORKS_AT_ONCE = 50
STANDARD_ERRORS = 3.0
VARIANCE_TOLERANCE = 0.2
# How many networks with a closed layer may be expected: each layer is one in 2^width times.
DEAD = 0.01


APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every initialisation is measured at every width."""

    inits: tuple[str, ...] = ("he", "lecun", "torch")
    """Initialisers with independent entries: he, lecun, torch, glorot, he_uniform, …"""
    widths: tuple[int, ...] = (64, 96, 128)
    """Features of every layer."""
    depths: tuple[int, ...] = (32,)
    """Layers; each depth is judged and shown by itself."""
    seeds: int = 1000
    """Networks of each kind."""
    out: Path = Path("results/plain-gain")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """Many networks of one initialisation, width and depth: a cell of the study."""

    init: str
    width: int
    depth: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.init}, width {self.width}, {self.depth} layers"


def cells(config: Config) -> list[Networks]:
    """Return what is measured.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    return [
        Networks(init, width, depth, config.seeds)
        for depth in config.depths
        for init in config.inits
        for width in config.widths
    ]


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_least(config, depths=1, seeds=3)
    check_several(config, "inits", "widths")
    for name in config.inits:
        if not isinstance(nn.initializers.get(name), nn.initializers.VarianceScaling):
            raise ValueError(
                f"inits={list(config.inits)}: the entries of {name!r} are not independent, which "
                "the theory asks for; choose he, lecun, torch, glorot or one of their uniform forms"
            )
    deepest = max(config.depths)
    narrow = math.ceil(math.log2(deepest * config.seeds / DEAD))
    if min(config.widths) < narrow:
        raise ValueError(
            f"widths={list(config.widths)} must each be at least {narrow}: of {config.seeds} "
            f"narrower networks of {deepest} layers one may have a layer with every gate "
            "closed, and the logarithm of a gradient of 0 has no mean"
        )


def measure(networks: Networks) -> Columns:
    """Return ``log_square``, ln|g|^2 for every network and number of layers travelled back."""
    logs = np.asarray(jax.jit(partial(_log_squares, networks))(_keys(networks)))
    init, width, layers = networks.init, networks.width, np.arange(networks.depth + 1)
    rows = {
        "init": init,
        "scale": nn.initializers.get(init).variance((width, width)) * width,  # pyright: ignore
        "width": width,
        "depth": networks.depth,
        "seed": np.repeat(np.arange(networks.seeds), len(layers)),
        "layers": np.tile(layers, networks.seeds),
        "log_square": logs.ravel(),
    }
    return {name: np.broadcast_to(values, (logs.size,)) for name, values in rows.items()}


def _keys(networks: Networks) -> jax.Array:
    """Return a key for each network: other networks for other initialisers and widths."""
    init = jax.random.key(nn.initializers.NAMES.index(networks.init))
    return jax.random.split(jax.random.fold_in(init, networks.width), networks.seeds)


def _log_squares(networks: Networks, keys: jax.Array) -> jax.Array:
    """Return ln|g|^2 against layers travelled back, 0 for none, a row for each network."""

    def one(key):
        net_key, signal_key = jax.random.split(key)
        net = models.deep_stack(
            networks.depth,
            networks.width,
            shortcut="none",
            convs_per_unit=1,
            kernel_size=(1, 1),
            init=networks.init,
            rngs=nnx.Rngs(net_key),
        )
        # A convolution over one place is a fully connected layer.
        x, cotangent = jax.random.normal(signal_key, (2, 1, 1, 1, networks.width))
        profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
        first, rest = profile["input"].gradient.log_norm, profile["*"].gradient.log_norm
        return 2 * (jnp.append(rest[::-1], first) - rest[-1])

    return jax.lax.map(one, keys, batch_size=NETWORKS_AT_ONCE)


def judge(columns: Columns) -> list[Criterion]:
    """Hold slope and variance of each initialisation, at its worst width, against theory."""
    criteria = []
    rows = summaries(columns)
    for init in dict.fromkeys(row.init for row in rows):
        of_init = [row for row in rows if row.init == init]
        steep = max(of_init, key=lambda row: abs(row.away))
        wide = max(of_init, key=lambda row: abs(row.ratio - 1))
        worst = f" (worst of {len(of_init)})" if len(of_init) > 1 else ""
        criteria += [
            lab.within(
                f"{init}: slope of ln|g|^2 per layer, width {steep.width}{worst}",
                steep.slope,
                steep.expected(steep.depth)[0] / steep.depth,
                absolute=STANDARD_ERRORS * steep.error,
                why=f"{STANDARD_ERRORS:g} s.e.",
            ),
            lab.within(
                f"{init}: variance of ln|g|^2, width {wide.width}{worst}",
                wide.variance,
                wide.expected(wide.depth)[1],
                relative=VARIANCE_TOLERANCE,
            ),
        ]
    return criteria
