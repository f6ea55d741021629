"""The static facts of a convolution, which every form and every derivative of it reads."""

import dataclasses

from convjax.ops import _precision


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a convolution is, shapes too, which a transposed operand cannot tell.

    Attributes:
        spatial: the image's spatial shape.
        window: the kernel's.
        strides: step of the window, one per axis.
        pads: elements added at the low and high side, one pair per axis, none negative.
        dilation: distance between the kernel's entries, one per axis.
        groups: number of groups that the channels are split into.
        in_features: channels of the image.
        out_features: channels of the output.
        precision: of the products, of both operands.
        lowering: the name of the form to compute by, or "auto".
        stacked: whether every array has one more axis in front, and each index its own values.
    """

    spatial: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    in_features: int
    out_features: int
    precision: _precision.Fixed = _precision.DEFAULT
    lowering: str = "auto"
    stacked: bool = False

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.window)

    @property
    def multiplier(self) -> int:
        """Output channels for each input channel."""
        return self.out_features // self.in_features

    @property
    def extents(self) -> tuple[int, ...]:
        """How far the dilated window reaches, one number per axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.window, strict=True))

    @property
    def out_spatial(self) -> tuple[int, ...]:
        """The output's spatial shape."""
        sides = zip(self.spatial, self.pads, self.extents, self.strides, strict=True)
        return tuple((n + low + high - e) // s + 1 for n, (low, high), e, s in sides)

    @property
    def left_over(self) -> tuple[int, ...]:
        """How many padded elements the last window does not reach, one number per axis."""
        sides = zip(self.spatial, self.pads, self.extents, self.strides, strict=True)
        return tuple((n + low + high - e) % s for n, (low, high), e, s in sides)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape (*window, in_features / groups, out_features)."""
        return (*self.window, self.in_features // self.groups, self.out_features)
