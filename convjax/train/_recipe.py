"""Recipe: how to train, as numbers and names that a file can hold."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import optax

from convjax import _check
from convjax.train._precision import PRECISIONS

SCHEDULES = ("constant", "linear", "cosine", "steps")
DECAYED = ("kernels", "all")
BATCH_NORMS = ("synchronised", "per_device")
REMATS = ("none", "unit", "sqrt")
# Names of optax's that make an optimiser of a schedule and nothing else.
OPTIMISERS = (
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "amsgrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "novograd",
    "radam",
    "rmsprop",
    "sgd",
    "sign_sgd",
    "yogi",
)

NAMED = {
    "optimiser": OPTIMISERS,
    "schedule": SCHEDULES,
    "decayed": DECAYED,
    "precision": PRECISIONS,
    "remat": REMATS,
    "batch_norm": BATCH_NORMS,
}
MOMENTUM = {"momentum": 0.9, "nesterov": True}
WHOLE = dict.fromkeys(("steps", "accumulate", "dispatch"), 1) | dict.fromkeys(
    ("watch", "test_every", "checkpoint_every", "warmup"), 0
)
# Steps are counted in int32.
LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: with network, data and initial values it determines the run.

    Attributes:
      steps: how many steps to take.
      seed: of what is random in a step (augmentation, mixup, dropout); the order of the examples
        has the source's seed.
      optimiser: the name of an optax optimiser, in ``train.OPTIMISERS``.
      options: further arguments of that optimiser, such as ``{"momentum": 0.9}``; None becomes
        ``{"momentum": 0.9, "nesterov": True}`` for sgd, and ``{}`` for the others.
      learning_rate: the largest.
      schedule: what becomes of it: ``"constant"``; ``"linear"`` or ``"cosine"``, falling to 0;
        ``"steps"``, multiplied by ``factor`` at each of ``boundaries``.
      boundaries: steps at which ``"steps"`` multiplies.
      factor: by which it multiplies.
      warmup: steps over which the learning rate first rises linearly.
      warmup_from: share of the learning rate at which the warm-up begins.
      weight_decay: how strongly weights are pulled to 0; coupled, as in SGD, unless the optimiser
        has a decay of its own, as AdamW has.
      decayed: ``"kernels"`` leaves norms, biases and scales out; ``"all"`` does not.
      clip: largest global norm of the gradient, or None.
      label_smoothing: share of each label that is spread evenly over all classes.
      accumulate: parts into which a batch is cut; their gradients are averaged, which saves memory.
        Batch norm then sees the parts.
      average: decay of the exponential moving average of the weights; 0 keeps none.
      precision: ``"float32"``, ``"bfloat16"`` (compute; parameters and norms stay float32) or
        ``"float16"`` (the same, with loss scaling). A network of another framework computes with
        all of its parameters in it, those of norms among them.
      remat: what the backward pass computes again inside every ``Repeat``, to save memory:
        ``"none"``, ``"unit"``, ``"sqrt"``; see ``nn.rematerialise``.
      batch_norm: on several devices, ``"synchronised"`` or ``"per_device"`` statistics.
      watch: norms of every layer are logged every so many steps; 0 never does.
      dispatch: steps that one call into the device takes.
      test_every: steps between tests; 0 tests at the end only.
      checkpoint_every: steps between checkpoints; 0 writes one at the end only.

    Raises:
      ValueError: a number out of range or not finite, an unknown name, options that the optimiser
        does not take, a warm-up as long as the run or that reaches a boundary. NumPy's numbers are
        stored as Python's.

    Example:
      >>> from convjax import train
      >>> train.Recipe(steps=200, learning_rate=0.2, options={"momentum": 0.9}).schedule
      'cosine'
    """

    steps: int = 1000
    seed: int = 0
    optimiser: str = "sgd"
    options: Mapping[str, Any] | None = None
    learning_rate: float = 0.1
    schedule: str = "cosine"
    boundaries: tuple[int, ...] = ()
    factor: float = 0.1
    warmup: int = 0
    warmup_from: float = 0.0
    weight_decay: float = 1e-4
    decayed: str = "kernels"
    clip: float | None = None
    label_smoothing: float = 0.0
    accumulate: int = 1
    average: float = 0.0
    precision: str = "float32"
    remat: str = "none"
    batch_norm: str = "synchronised"
    watch: int = 0
    dispatch: int = 20
    test_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self):
        if not isinstance(self.optimiser, str):
            right = "one of train.OPTIMISERS; train.fit(optimiser=…) takes an optax object"
            _check.wrong_type("optimiser", self.optimiser, right)
        if callable(self.learning_rate):
            right = "a number; train.fit(optimiser=…) takes an optax optimiser with a schedule"
            _check.wrong_type("learning_rate", self.learning_rate, right)
        for name, known in NAMED.items():
            self._set(name, _check.choice(name, getattr(self, name), known))
        for name, least in WHOLE.items():
            self._set(name, _check.integer(name, getattr(self, name), least, LARGEST))
        for name in ("weight_decay", "learning_rate", "warmup_from", "factor"):
            self._set(name, _check.number(name, getattr(self, name), least=0))
        for name in ("label_smoothing", "average"):
            self._set(name, _check.number(name, getattr(self, name), least=0, below=1))
        if self.clip is not None:
            self._set("clip", _check.number("clip", self.clip, above=0))
        # Of a larger one JAX keeps the lower half alone.
        self._set("seed", _check.integer("seed", self.seed, 0, 2**32 - 1))
        self._set("boundaries", _check.integers("boundaries", self.boundaries, least=0))
        given = MOMENTUM if self.optimiser == "sgd" else {}
        given = given if self.options is None else self.options
        self._set("options", checked_options(self.optimiser, given))
        if (self.schedule == "steps") != bool(self.boundaries):
            raise ValueError(
                f"boundaries={self.boundaries} and schedule={self.schedule!r}: the schedule "
                "'steps', and no other, needs boundaries"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries={self.boundaries} must rise")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be less than steps={self.steps}")
        if self.boundaries and self.boundaries[0] < self.warmup:
            raise ValueError(f"warmup={self.warmup} reaches the boundary {self.boundaries[0]}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def arguments_of(optimiser: str) -> dict[str, Any]:
    """Return the further arguments of an optimiser of optax's, with their default values."""
    takes = inspect.signature(getattr(optax, optimiser)).parameters
    return {name: taken.default for name, taken in takes.items() if name != "learning_rate"}


def checked_options(optimiser: str, options: Any) -> dict[str, Any]:
    """Return options of an optimiser in their plain form.

    Raises:
      ValueError: options that it does not take, or numbers that are not finite.
    """
    _check.instance("options", options, Mapping, "a mapping, such as {'momentum': 0.9}")
    takes, plain = arguments_of(optimiser), {}
    for option, value in options.items():
        if option not in takes:
            raise ValueError(
                f"options: {optimiser} does not take {option!r}; it takes "
                f"{', '.join(takes) or 'none'}"
            )
        plain[option] = _option(f"options[{option!r}]", option, value, takes[option])
    return plain


def _option(name: str, option: str, value: Any, default: Any) -> Any:
    """Return the value of an option; what it should be is told by its name and default value."""
    if option.endswith(("mask", "dtype")) or (value is None and default is None):
        return value
    if isinstance(default, bool):
        return _check.flag(name, value)
    return _check.number(name, value)
