"""Like: the known leaf that a segment computes."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from convjax._trace import is_variable
from convjax.nn._reading._segment import Work
from convjax.nn._reading._structure import SHAPES

Layout = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Like:
    """The known leaf that a segment computes.

    Attributes:
      kind: the leaf's class, by its name in ``convjax.nn``; an activation's own name.
      fields: its attributes, as far as they are numbers or words.
      kernel: the variable that is the kernel where it is used, or None.
      order: axes of the kernel, in the order of ``(*window, in, out)``; a tuple of axes is one.
      scale: name of the parameter that multiplies each channel, or None.
      bias: name of the parameter that is added to each channel, or None.
      mean: name of the running mean, or None.
      var: name of the running variance, or None.
      value: name of the parameter that each channel is multiplied by, and nothing else, or None.
      statistics: of a norm on running statistics: the variables that are mean and variance.
      mode: of a norm: whether the statistics are ``"batch"`` or ``"running"``.
    """

    kind: str
    fields: tuple[tuple[str, Any], ...] = ()
    kernel: Any = None
    order: Layout = ()
    scale: str | None = None
    bias: str | None = None
    mean: str | None = None
    var: str | None = None
    value: str | None = None
    mode: str = ""
    statistics: tuple[Any, Any] = (None, None)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape, ``(*window, in, out)``."""
        shape = self.kernel.aval.shape
        return tuple(math.prod(shape[axis] for axis in axes) for axes in self.axes)

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """The axes of the kernel that make each axis of ``(*window, in, out)``."""
        return tuple(axes if isinstance(axes, tuple) else (axes,) for axes in self.order)

    @property
    def named(self) -> dict[str, str | None]:
        """The parameters and statistics by what they are for."""
        return {field: getattr(self, field) for field in ("scale", "bias", "mean", "var", "value")}

    def leaf(self, kind: type, **fields: Any) -> Any:
        """Return a leaf of a class, with these attributes and those known, and nothing else.

        Args:
          kind: the class.
          **fields: further attributes.
        """
        return _bare(kind)({**dict(self.fields), **fields})


@functools.cache
def _bare(kind: type) -> Any:
    """Return a class whose leaves are made of their attributes alone."""

    def init(self: Any, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self, name, value)

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def of_outside(equation: Any, work: Work, names: Mapping[Any, str]) -> list[str]:
    """Return the names of what an equation takes from outside, through changes of shape alone."""
    found = []
    for v in equation.invars:
        while is_variable(v) and v in work.made_aside and _only_moves(work.made_aside[v]):
            v = work.made_aside[v].invars[0]
        if is_variable(v) and v in names:
            found.append(names[v])
    return found


def _only_moves(equation: Any) -> bool:
    return equation.primitive.name in SHAPES
