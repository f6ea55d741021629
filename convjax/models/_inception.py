"""What the Inception networks share: units as tables of branches, and what builds them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from convjax import nn
from convjax.models._style import Side, Style


class Conv(NamedTuple):
    """One convolution with its norm and activation.

    Attributes:
      features: channels out, at width 1.
      side: window; one number for a square.
      strides: steps between outputs.
      valid: whether nothing is padded; else half a window is, on both sides.
    """

    features: int
    side: Side = 1
    strides: int = 1
    valid: bool = False


class Pool(NamedTuple):
    """One pool; without strides it keeps the size, with strides nothing is padded.

    Attributes:
      kind: ``"max"`` or ``"avg"``.
      side: window.
      strides: steps between windows.
      ceil: whether a last window may lie partly beyond the image (PyTorch's ceil mode).
    """

    kind: str
    side: int = 3
    strides: int = 1
    ceil: bool = False

    @property
    def padding(self) -> Any:
        """Return the padding as ``ops.max_pool`` takes it."""
        if self.ceil:  # a window of ``strides`` or one more: it lacks one place at most
            return ((0, 1), (0, 1))
        return self.side // 2 if self.strides == 1 else "VALID"


# A branch's steps, or a stem's; a table among them is branches side by side.
Steps = Sequence[Conv | Pool | Mapping[str, Any]]
Table = Mapping[str, Steps]


# Of all Inception networks. Their paddings are explicit in every reference, and Keras's norms have
# no scale.
INCEPTION: dict[str, Any] = {
    "same": False,
    "epsilon": 1e-3,
    "keras": {"momentum": 0.99, "use_scale": False},
}


@dataclasses.dataclass(frozen=True)
class Builder:
    """Builds units from tables; every method takes the channels in and returns those out beside.

    Attributes:
      style: how every layer is made.
      width: factor on all channel counts.
      count_include_pad: whether padded zeros count in the mean of a pool.
    """

    style: Style
    width: float = 1.0
    count_include_pad: bool = False

    def scaled(self, features: int) -> int:
        """Return a channel count at this width."""
        return max(1, round(features * self.width))

    def steps(self, fan: int, steps: Steps) -> tuple[dict[str, nnx.Module], int]:
        """Return a branch's or stem's parts by name."""
        parts: dict[str, nnx.Module] = {}
        for name, step in _named(steps):
            if isinstance(step, Conv):
                after = self.scaled(step.features)
                parts |= self.style.step(
                    (fan, after),
                    step.side,
                    step.strides,
                    number=name.removeprefix("conv"),
                    padding="VALID" if step.valid else None,
                )
                fan = after
            elif isinstance(step, Pool):
                parts[name] = self.pool(step)
            else:
                parts[name], fan = self.parallel(fan, step)
        return parts, fan

    def pool(self, pool: Pool) -> nn.Pool:
        """Return one pool."""
        return nn.Pool(
            pool.kind,
            (pool.side, pool.side),
            strides=pool.strides,
            padding=pool.padding,
            count_include_pad=self.count_include_pad,
        )

    def parallel(self, fan: int, table: Table) -> tuple[nn.Parallel, int]:
        """Return a table's branches side by side."""
        branches: dict[str, nnx.Module] = {}
        total = 0
        for name, steps in table.items():
            parts, after = self.steps(fan, steps)
            branches[name] = parts["pool"] if set(parts) == {"pool"} else nn.Chain(parts)
            total += after
        return nn.Parallel(branches), total

    def channels(self, table: Table) -> int:
        """Return the channels out of a table each of whose branches ends in a convolution."""
        return sum(self.scaled(steps[-1].features) for steps in table.values())  # pyright: ignore

    def stage(
        self, fan: int, tables: Sequence[Table], *, before: Pool | None = None
    ) -> tuple[nn.Chain, int]:
        """Return units one after the other, behind a pool if there is one."""
        units: dict[str, nnx.Module] = {} if before is None else {"pool": self.pool(before)}
        for i, table in enumerate(tables):
            units[str(i)], fan = self.parallel(fan, table)
        return nn.Chain(units), fan


def check_units(units: Sequence[int]) -> None:
    """Refuse other than three counts of units."""
    if len(units) != 3:
        raise ValueError(f"units={units!r} must be three integers of at least 1, one per stage")


def convolutions(table: Table, path: str) -> Iterator[str]:
    """Yield the paths of a table's convolutions, in the order of the forward pass."""
    for branch, steps in table.items():
        yield from in_steps(steps, nn.join(path, branch))


def in_steps(steps: Steps, path: str) -> Iterator[str]:
    """Yield the paths of the convolutions of a branch or stem, in the order of the pass."""
    for name, step in _named(steps):
        if isinstance(step, Conv):
            yield nn.join(path, name)
        elif isinstance(step, Mapping):
            yield from convolutions(step, nn.join(path, name))


def _named(steps: Steps) -> Iterator[tuple[str, Conv | Pool | Table]]:
    """Yield every step by name: ``conv1``, ``conv2``, …; others have a number if there are more."""
    kinds = [_kind(step) for step in steps]
    for i, (kind, step) in enumerate(zip(kinds, steps, strict=True)):
        alone = kind != "conv" and kinds.count(kind) == 1
        yield kind if alone else f"{kind}{kinds[: i + 1].count(kind)}", step


def _kind(step: Conv | Pool | Table) -> str:
    return "conv" if isinstance(step, Conv) else "pool" if isinstance(step, Pool) else "mixed"
