"""What initialisers are made and called with, in its plain form."""

import dataclasses
from typing import Any

from jax.typing import DTypeLike

from convjax import _check


def store(init: Any, **values: Any) -> None:
    """Store values in a dataclass that is frozen."""
    for name, value in values.items():
        object.__setattr__(init, name, value)


def groups_of(init: Any) -> dict[str, int]:
    """Return the groups that an initialiser was made with, by their name."""
    groups = _check.integer("feature_group_count", init.feature_group_count, 1)
    return {"feature_group_count": groups}


def asked(shape: Any, dtype: Any) -> tuple[tuple[int, ...], DTypeLike]:
    """Return the shape and dtype that an initialiser is called with."""
    return _check.integers("shape", shape, least=0), _check.dtype("dtype", dtype)


@dataclasses.dataclass(frozen=True)
class WithGain:
    """An initialiser whose values are those of a fixed or orthogonal matrix, times a gain."""

    gain: float = 1.0
    feature_group_count: int = 1

    def __post_init__(self):
        store(self, gain=_check.number("gain", self.gain), **groups_of(self))
