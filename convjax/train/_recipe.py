"""Recipe: how to train, as numbers and names that a file can hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from convjax._check import refuse
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


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: with network, data and initial values it determines the run.

    Attributes:
      steps: how many steps to take.
      seed: of what the step itself draws (augmentation, mixup, dropout); the order of the examples
        has the source's seed.
      optimiser: the name of an optax optimiser, in ``train.OPTIMISERS``.
      options: further arguments of that optimiser, such as ``{"momentum": 0.9}``.
      learning_rate: the largest.
      schedule: what becomes of it: ``"constant"``; ``"linear"`` or ``"cosine"``, falling to 0;
        ``"steps"``, multiplied by ``factor`` at each of ``boundaries``.
      boundaries: steps at which ``"steps"`` multiplies.
      factor: by which it multiplies.
      warmup: steps over which the learning rate first rises linearly.
      warmup_from: share of the learning rate at which the warm-up begins.
      weight_decay: how strongly weights are drawn to 0; coupled, as in SGD, unless the optimiser
        has a decay of its own, as AdamW has.
      decayed: ``"kernels"`` leaves norms, biases and scales out; ``"all"`` does not.
      clip: largest global norm of the gradient, or None.
      label_smoothing: share of each label that is spread evenly over all classes.
      accumulate: parts into which a batch is cut; their gradients are averaged, which saves memory.
        Batch norm then sees the parts.
      average: decay of the exponential moving average of the weights; 0 keeps none.
      precision: ``"float32"``, ``"bfloat16"`` (compute; parameters and norms stay float32) or
        ``"float16"`` (the same, with loss scaling).
      remat: what the backward pass computes again inside every ``Repeat``, to save memory:
        ``"none"``, ``"unit"``, ``"sqrt"``; see ``nn.rematerialise``.
      batch_norm: on several devices, ``"synchronised"`` or ``"per_device"`` statistics.
      watch: norms of every layer are logged every so many steps; 0 never does.
      dispatch: steps that one call into the device takes.
      test_every: steps between tests; 0 tests at the end only.
      checkpoint_every: steps between checkpoints; 0 writes one at the end only.

    Raises:
      ValueError: a number out of range, an unknown name.

    Example:
      >>> from convjax import train
      >>> train.Recipe(steps=200, learning_rate=0.2, options={"momentum": 0.9}).schedule
      'cosine'
    """

    steps: int = 1000
    seed: int = 0
    optimiser: str = "sgd"
    options: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"momentum": 0.9, "nesterov": True}
    )
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
        named = {
            "optimiser": OPTIMISERS,
            "schedule": SCHEDULES,
            "decayed": DECAYED,
            "precision": PRECISIONS,
            "remat": REMATS,
            "batch_norm": BATCH_NORMS,
        }
        for name, known in named.items():
            if getattr(self, name) not in known:
                refuse(name, getattr(self, name), known)
        least = {
            **dict.fromkeys(("steps", "accumulate", "dispatch"), 1),
            **dict.fromkeys(("watch", "test_every", "checkpoint_every", "warmup"), 0),
            **dict.fromkeys(("weight_decay", "learning_rate", "warmup_from"), 0),
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {bound}")
        for name in ("label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be positive, or None")
        if (self.schedule == "steps") != bool(self.boundaries):
            raise ValueError(
                f"boundaries={self.boundaries} and schedule={self.schedule!r}: the schedule "
                "'steps', and no other, needs boundaries"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries={self.boundaries} must rise")
