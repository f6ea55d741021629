"""What is learned in transfer: classes to pretrain on, classes to transfer to, and the examples."""

import dataclasses
from collections.abc import Sequence

import numpy as np

HELD_OUT = 3
"""Of every class one image in three is for testing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Images ``(N, H, W, C)``, and which of their classes are for what."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    source: tuple[int, ...]
    """Classes to pretrain on; empty where pretrained weights are given."""
    target: tuple[int, ...]
    test: np.ndarray
    """Which images are kept for testing, the same for every seed."""

    def pool(self, of: Sequence[int], *, test: bool = False) -> np.ndarray:
        """Return which images of these classes are for training, or for testing."""
        return np.flatnonzero(np.isin(self.labels, of) & (self.test == test))

    def numbered(self, of: Sequence[int]) -> np.ndarray:
        """Return labels that count these classes from 0; those of all other images are -1."""
        number = np.full(len(self.classes), -1, np.int32)
        number[list(of)] = np.arange(len(of))
        return number[self.labels]

    def shifted(self, most: int, *, border: int) -> np.ndarray:
        """Return the images in a border, off the centre by up to ``most`` pixels along each axis.

        The same images always lie at the same places; the border has the images' least value.
        """
        wide = [(0, 0), (border, border), (border, border), (0, 0)]
        canvases = np.pad(self.images, wide, constant_values=self.images.min())
        moves = np.random.default_rng(0).integers(-most, most, (len(canvases), 2), endpoint=True)
        moved = (np.roll(one, by, (0, 1)) for one, by in zip(canvases, moves, strict=True))
        return np.stack(list(moved))

    def few(self, count: int, *, seed: int) -> np.ndarray:
        """Choose ``count`` images of every target class; a larger choice holds the smaller ones."""
        pools = {one: self.pool([one]) for one in self.target}
        orders = {one: np.random.default_rng([seed, one]) for one in self.target}
        return np.concatenate([orders[one].permutation(pools[one])[:count] for one in pools])


def make(
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    *,
    source: Sequence[str] | None,
    target: Sequence[str],
) -> Task:
    """Divide classes and images; refuse fewer than two classes on a side, and one on both.

    No source named means the first half, and None that nothing is pretrained; no target named means
    all others.
    """
    from_, to = (tuple(map(classes.index, names or ())) for names in (source, target))
    if source is not None and not from_:
        from_ = tuple(i for i in range(len(classes)) if i not in to)
        from_ = from_ if to else from_[: len(classes) // 2]
    to = to or tuple(i for i in range(len(classes)) if i not in from_)
    if both := [classes[i] for i in from_ if i in to]:
        raise ValueError(f"{both[0]!r} is in both pretrain_classes and target_classes")
    for option, found in (("pretrain_classes", from_), ("target_classes", to)):
        if len(found) < 2 and (source is not None or option == "target_classes"):
            named = ", ".join(classes[i] for i in found) or "none"
            every = ", ".join(classes)
            raise ValueError(
                f"{option} needs at least two classes, and has {named}; there are {every}."
            )
    test = np.zeros(len(labels), bool)
    for one in np.unique(labels).tolist():
        of = np.random.default_rng([0, one]).permutation(np.flatnonzero(labels == one))
        test[of[: -(-len(of) // HELD_OUT)]] = True
    return Task(images, labels, classes, from_, to, test)


def check_examples(task: Task, budgets: Sequence[int]) -> None:
    """Refuse a budget that a class does not have."""
    for one in task.target:
        left = len(task.pool([one]))
        if left < max(budgets):
            raise ValueError(
                f"budgets={list(budgets)}: class {task.classes[one]!r} has {left} images left, "
                f"one in {HELD_OUT} being kept for testing; give budgets of at most {left}."
            )


def batches(pool: np.ndarray, steps: int, size: int, longest: int, seed: int) -> np.ndarray:
    """Return the images of every batch, int32 ``(longest, size)``; beyond ``steps`` it is zeros.

    The pool is gone through again and again, each time in another order; a batch may thus hold an
    image twice, where it is larger than the pool.
    """
    random = np.random.default_rng(seed)
    rounds = -(-steps * size // len(pool))
    order = np.concatenate([random.permutation(pool) for _ in range(rounds)])
    filled = np.zeros((longest, size), np.int32)
    filled[:steps] = order[: steps * size].reshape(steps, size)
    return filled
