"""How the gradient fades or explodes across depth, in plain and residual networks.

    python -m experiments gradient-norms

Handwritten digits go through networks of several depths with and without shortcuts, without norm
and with batch norm; the norm of the loss's gradient is measured at the output of every unit, at
initialization and after a few steps of training. Prints a table; writes every number to
``gradient_norms.parquet`` and one figure to ``gradient_norms.png`` and ``.svg``.

Pass, in the deepest networks: at initialization the gradient of plain ones fades, that of residual
ones without norm and of plain ones with batch norm explodes, all three as exponentials rather than
power laws, for most seeds; with shortcuts and batch norm it grows as a power law, and by less than
with either alone; and ten steps of training take growth from residual networks without norm. Judged
are ReLU networks of He's initialisation and dense convolutions, from 40 layers and 8 channels:
narrower or shallower ones scatter too much to tell one law from the other. No tolerance is needed:
what is told apart differs by a sign, by the better of two fits or, at 110 layers, by orders of
magnitude.

Takes about a minute of processor time, more than half of it compilation. For a look at it in a few
seconds: ``--depths 8 --seeds 1 --steps 1``, too shallow to be judged.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable
from typing import Any, Literal

import numpy as np
from flax import nnx

from convjax import data, gradflow, lab, plots, train
from convjax.lab import Classifier, Columns
from experiments.gradient_norms.criteria import judge as judge
from experiments.gradient_norms.growth import AXES
from experiments.gradient_norms.growth import table as table

draw = plots.gradient_norms


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all networks see, and how they are trained."""

    seeds: int = 3
    """How many: 0, 1, …; each has initial values and an order of the data of its own."""
    steps: int = 10
    """Steps of training between the first measurement and the second; 0 leaves that one out."""
    data: Literal["digits", "gaussian"] = "digits"
    """Handwritten digits of 8x8 pixels, or noise of that shape with random labels."""
    batch_size: int = 32
    """Images in a batch, in measuring and in training."""
    learning_rate: float = 0.1
    """Of stochastic gradient descent."""
    momentum: float = 0.9
    """Of the same."""
    clip: float = 1.0
    """Largest norm of the gradient of all parameters in a step of training."""
    everything: bool = False
    """Measure inside the units and in the head too, and parameters; takes about twice as long."""


@dataclasses.dataclass(frozen=True)
class Config(lab.Options, Settings):
    """Options; those that take several values span a grid."""

    depths: tuple[int, ...] = (8, 20, 56, 110)
    """Weighted layers: a stem, pairs of 3x3 convolutions, a dense head; so even numbers from 6."""
    widths: tuple[int, ...] = (8,)
    """Channels."""
    norms: tuple[str, ...] = ("none", "batch")
    """Norms: none, batch, group, layer."""
    shortcuts: tuple[str, ...] = ("none", "identity")
    """Shortcuts: none (the plain network), identity (the residual one), scaled, gated."""
    activations: tuple[str, ...] = ("relu",)
    """Activations: relu, tanh, gelu, and others that convjax.nn.ACTIVATIONS names."""
    inits: tuple[str, ...] = ("he",)
    """Initialisers of the kernels: he, lecun, glorot, and others of convjax.nn.initializers."""
    convs: tuple[Literal["dense", "separable"], ...] = ("dense",)
    """Convolutions of the stack."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks(Settings):
    """Networks of one kind, what they see and how they are trained: a cell of the study."""

    kind: Classifier

    def __str__(self) -> str:
        usual = {"activation": "relu", "init": "he", "conv": "dense"}
        named = {name: getattr(self.kind, name) for name in ("norm", "shortcut", "width", "depth")}
        named |= {k: found for k, v in usual.items() if (found := getattr(self.kind, k)) != v}
        return " ".join(f"{name}={value}" for name, value in named.items())

    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all images, and their labels."""
        return {"digits": data.digits, "gaussian": data.gaussian}[self.data]()

    def all_seeds(self) -> lab.Seeds:
        """Return the networks of every seed."""
        return lab.Seeds(self.kind.network, *self.examples(), batch_size=self.batch_size)

    @property
    def recipe(self) -> train.Recipe:
        """Gradient descent with momentum, behind a clip of the gradient's norm."""
        # Residual networks without norm have gradients like 2^27: no learning rate fits them.
        return train.Recipe(
            steps=self.steps,
            options={"momentum": self.momentum},
            learning_rate=self.learning_rate,
            schedule="constant",
            weight_decay=0.0,
            clip=self.clip,
            dispatch=self.steps,
        )


def cells(config: Config) -> list[Networks]:
    """Return every kind of network of the grid.

    Raises:
      ValueError: an option that cannot be done.
    """
    lab.check_several(config, *(f"{axis}s" for axis in AXES))
    lab.check_least(config, widths=1, seeds=1, steps=0, momentum=0)
    lab.check_positive(config, "learning_rate", "clip")
    lab.check_depths(config.depths)
    values = itertools.product(*(getattr(config, f"{axis}s") for axis in AXES))
    found = [lab.cell_of(Networks, config, kind=Classifier(*one)) for one in values]
    shallow = (dataclasses.replace(one.kind, depth=config.depths[0]) for one in found)
    for kind in dict.fromkeys(shallow):
        nnx.eval_shape(lambda kind=kind: kind.network(nnx.Rngs(0)))
    data.batch_indices(len(found[0].examples()[0]), config.batch_size, seed=0, step=0)
    return found


def group(networks: Networks) -> Hashable:
    """Return the same for networks that one process measures by the same programs."""
    return dataclasses.replace(networks, kind=dataclasses.replace(networks.kind, init="he"))


def measure(networks: Networks) -> Columns:
    """Return the gradient at every place of every seed's network, initially and after training.

    Both measurements see the first batch of a seed's order, which no step has seen.
    """
    seeds, trainer, profile = programs(group(networks))
    if networks.kind.init != "he":
        seeds = networks.all_seeds()
    tables = []
    for seed in range(networks.seeds):
        net = seeds.draw(seed)
        for step in sorted({0, networks.steps}):
            if step and trainer is not None:
                net, _ = trainer.fit(net, seed, first=1)
            found = profile(net, *seeds.batch(seed))
            tables.append(rows(networks, found, seed=seed, step=step))
    return lab.joined(tables)


@functools.lru_cache(maxsize=4)
def programs(networks: Any) -> tuple[lab.Seeds, lab.Trainer | None, Callable[..., Any]]:
    """Compile what draws, trains and measures networks, or find what this process has compiled.

    Once it is drawn, a network does not tell by which initialiser.
    """
    seeds = networks.all_seeds()
    batch = seeds.batch(0)
    size = batch[0].size * networks.kind.width * networks.kind.depth * networks.seeds

    def profile(net, images, labels):
        found = gradflow.profile(net, images, loss=lab.cross_entropy, targets=labels, train=True)
        return found if networks.everything else along_trunk(found)

    trainer = None
    if networks.steps:
        trainer = seeds.trainer(networks.recipe, level=level(3 * networks.steps * size))
    return seeds, trainer, seeds.program(profile, *batch, level=level(2 * size))


def level(size: int) -> int | None:
    """Return LLVM's effort for a program that runs over so many activations in all."""
    # Its highest takes about a second, and saves one for about 30 million activations.
    return 0 if size < 3e7 else None


def along_trunk(profile: gradflow.Profile) -> gradflow.Profile:
    """Return a profile of the input, the stem and the units as wholes.

    Done under ``jit``, what is left out is not computed: half of the compilation goes.
    """
    bare = {"addition": None, "parameters": {}, "parameter_gradients": {}}
    kept = {
        path: dataclasses.replace(profile[path], **bare) for path in ("input", "stem", "body/*")
    }
    return dataclasses.replace(profile, paths=tuple(kept), units=tuple(kept.values()))


def rows(networks: Networks, profile: gradflow.Profile, **place: int) -> Columns:
    """Return the table of a profile, what was measured beside it."""
    try:
        failure = ""
        profile.check()
    except ValueError as error:
        failure = str(error)
    names = ("data", "batch_size", "learning_rate", "momentum", "clip")
    same = dataclasses.asdict(networks.kind) | {name: getattr(networks, name) for name in names}
    table = profile.table()
    # Places of the trunk: the stem's output 0, then the units'; all else is -1.
    trunk = {"stem": 0} | {f"body/{i}": i + 1 for i in range(networks.kind.units)}
    table["position"] = np.array([trunk.get(path, -1) for path in table["path"].tolist()])
    return lab.beside(table, loss=float(profile.loss), failure=failure, **same, **place)
