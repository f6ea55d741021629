"""price: what one leaf computes, and which places of its input an output reads."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from convjax import _check, nn
from convjax._cost._window import Window
from convjax._rules import by_type, of_leaves

SEES = ("place", "all")


@dataclasses.dataclass(frozen=True)
class Price:
    """What ``price`` says of a leaf; shapes, parameters and bytes are read off the leaf itself.

    Attributes:
      multiply_adds: multiplications that are added up, in convolutions and matrix products.
      elementwise: all other floating-point operations, each counted as one.
      sees: which places of the input one place of the output depends on: ``"place"`` (its own
        alone), ``"all"``, or one ``Window`` for each spatial axis.
      passes_on: whether the output is the input's own array, so that nothing is read or written.

    Raises:
      ValueError: a count that is no integer or negative, an unknown word for ``sees``.
    """

    multiply_adds: int = 0
    elementwise: int = 0
    sees: str | tuple[Window, ...] = "place"
    passes_on: bool = False

    def __post_init__(self):
        for name in ("multiply_adds", "elementwise"):
            count = _check.integer(name, getattr(self, name), 0)
            object.__setattr__(self, name, count)
        _check.flag("passes_on", self.passes_on)
        if not isinstance(self.sees, tuple):
            _check.choice("sees", self.sees, SEES)
            return
        windows = (_window(f"sees[{i}]", window) for i, window in enumerate(self.sees))
        object.__setattr__(self, "sees", tuple(windows))


def _window(name: str, window: Any) -> Window:
    """Return a window whose numbers are integers."""
    _check.instance(name, window, Window, "a Window, one for each spatial axis")
    least = {"size": 1, "stride": 1, "start": None, "upsampling": 1}
    numbers = window._asdict().items()
    return Window(**{key: _check.integer(f"{name}.{key}", n, least[key]) for key, n in numbers})


@of_leaves
@by_type
def price(node: Any, x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> Price | None:
    """Say what a leaf computes, from the shapes of its input and output.

    ``convjax.cost`` asks this of every leaf, and ``convjax.cost.register`` adds the rule of a type
    of your own, which then stays one leaf. Without a rule a module of your own is read, and its
    parts are counted.

    Args:
      node: the leaf, on whose type this dispatches; its parameters are shapes without values.
      x: shape and dtype of the input, ``(N, *spatial, C)``.
      y: shape and dtype of the output.

    Returns:
      The price; None where it is not known.

    Example:
      >>> import convjax, jax
      >>> from convjax import nn
      >>> class Cube(nn.Node):
      ...     def __call__(self, x, train=False, rngs=None):
      ...         return x * x * x
      >>> @convjax.cost.register
      ... def _(node: Cube, x, y):
      ...     return convjax.Price(elementwise=2 * y.size)
      >>> shape = jax.ShapeDtypeStruct((1, 5, 4, 3), "float32")
      >>> convjax.price(Cube(), shape, shape).elementwise
      120
    """
    return None


@price.register
def _(node: nn.Conv | nn.DepthwiseConv | nn.PointwiseConv, x, y) -> Price:
    kernel = shape_of(node.kernel)
    if isinstance(node, nn.PointwiseConv):
        how = {"padding": "VALID"}
    else:
        how = {"padding": node.padding, "dilation": node.kernel_dilation}
    sees = _windows(x, y, kernel[:-2], strides=node.strides, **how)
    return _products(node, _places(y) * math.prod(kernel), y, sees)


@price.register
def _(node: nn.ConvTranspose, x, y) -> Price:
    kernel = shape_of(node.kernel)
    rank = len(kernel) - 2
    steps, spread = _spread(node.strides, rank), _spread(node.kernel_dilation, rank)
    extents = [d * (k - 1) + 1 for d, k in zip(spread, kernel[:-2], strict=True)]
    sees = tuple(
        Window(size, 1, -_low_of_transposed(node.padding, i, size, s), s)
        for i, (size, s) in enumerate(zip(extents, steps, strict=True))
    )
    return _products(node, _places(x) * math.prod(kernel), y, sees)


@price.register
def _(node: nn.Dense, x, y) -> Price:
    return _products(node, _places(x) * math.prod(shape_of(node.kernel)), y, "place")


@price.register
def _(node: nn.Gate, x, y) -> Price:
    of_conv = price(node.conv, x, y)
    assert of_conv is not None
    return dataclasses.replace(of_conv, elementwise=of_conv.elementwise + y.size)


@price.register
def _(node: nn.SqueezeExcite, x, y) -> Price:
    inner = [node.reduce, node.expand]
    products = sum(x.shape[0] * math.prod(shape_of(conv.kernel)) for conv in inner)
    # Each of the two adds a bias and applies a function; around them the mean and the product.
    small = sum(2 * x.shape[0] * shape_of(conv.kernel)[-1] for conv in inner)
    return Price(products, small + x.size + y.size, sees="all")


@price.register
def _(node: nn.Pool, x, y) -> Price:
    rank = len(x.shape) - 2
    window = _spread(node.window_shape, rank)
    strides = window if node.strides is None else node.strides
    sees = _windows(x, y, window, strides=strides, padding=node.padding)
    return Price(elementwise=y.size * math.prod(window), sees=sees)


@price.register
def _(node: nn.CellPool, x, y) -> Price:
    same = x.shape == y.shape
    return Price(passes_on=True) if same else Price(elementwise=x.size + y.size, sees="all")


@price.register
def _(node: nn.GlobalPool, x, y) -> Price:
    return Price(elementwise=x.size, sees="all")


@price.register
def _(node: nn.Upsample, x, y) -> Price:
    # Along each axis every value is the mean of two.
    return Price(elementwise=3 * y.size, sees="all")


@price.register
def _(node: nn.Channels, x, y) -> Price:
    return Price()


@price.register
def _(node: nn.ZeroPadShortcut, x, y) -> Price:
    return Price(sees=(Window(stride=node.strides),) * (len(x.shape) - 2))


@price.register
def _(node: nn.BatchNorm, x, y) -> Price:
    return Price(elementwise=2 * y.size)


@price.register
def _(node: nn.LayerNorm, x, y) -> Price:
    return Price(elementwise=7 * y.size)


@price.register
def _(node: nn.GroupNorm, x, y) -> Price:
    return Price(elementwise=7 * y.size, sees="all")


@price.register
def _(node: nn.ResponseNorm, x, y) -> Price:
    return Price(elementwise=4 * y.size, sees="all")


@price.register
def _(node: nn.Scale, x, y) -> Price:
    return Price(elementwise=y.size)


@price.register
def _(node: nn.Activation, x, y) -> Price:
    linear = node.function is nn.ACTIVATIONS["linear"]
    return Price(passes_on=True) if linear else Price(elementwise=y.size)


@price.register
def _(node: nn.Identity, x, y) -> Price:
    return Price(passes_on=True)


@price.register
def _(node: nn.Dropout | nn.StochasticDepth, x, y) -> Price:
    return Price(passes_on=node.rate == 0)


@price.register
def _(node: nn.Segment, x, y) -> Price | None:
    like = node.like
    if like is None:
        return _counted(node, y)
    if like.kind in ("Reshape", "Flatten"):
        return Price(sees="all" if len(x.shape) != len(y.shape) else "place")
    if like.kind == "Activation":
        name = dict(like.fields)["name"]
        return Price(passes_on=True) if name == "linear" else Price(elementwise=y.size)
    counted = _counted(node, y)
    if counted is not None and like.kind == "Dense":
        # The contraction may run over several axes.
        seen = "place" if len(x.shape) == len(y.shape) else "all"
        return Price(counted.multiply_adds, y.size if like.bias else 0, seen)
    if not hasattr(nn, like.kind):
        return counted
    fields: dict[str, Any] = {"bias": like.bias}
    if like.kernel is not None:
        fields["kernel"] = nnx.Variable(jax.ShapeDtypeStruct(like.kernel_shape, x.dtype))
    kind = getattr(nn, like.kind)
    leaf = like.leaf(kind, **fields)
    return price.dispatch(kind)(leaf, *map(node.channels_last, (x, y)))


def _counted(node: nn.Segment, y: Any) -> Price | None:
    """Return what the equations of an unknown leaf compute; None where one runs a program."""
    if any(equation.opaque for equation in node.work.counts):
        return None
    products = sum(equation.multiply_adds for equation in node.work.counts)
    return Price(products, sum(equation.elementwise for equation in node.work.counts), sees="all")


def shape_of(parameter: nnx.Variable) -> tuple[int, ...]:
    """Return a parameter's shape; it may have no values."""
    return tuple(parameter.get_value().shape)


def _places(x: jax.ShapeDtypeStruct) -> int:
    """Return in how many places of how many examples a vector of channels stands."""
    return math.prod(x.shape[:-1])


def _products(node: Any, multiply_adds: int, y, sees) -> Price:
    bias = 0 if node.bias is None else y.size
    return Price(multiply_adds, bias, sees)


def _spread(sizes: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (sizes,) * rank if isinstance(sizes, int) else tuple(sizes)


def _windows(x, y, window, *, strides, padding, dilation: Any = 1) -> tuple[Window, ...]:
    """Return a window for each spatial axis, as ``ops.conv`` places it."""
    rank = len(window)
    found = []
    for i, (k, s, d) in enumerate(
        zip(window, _spread(strides, rank), _spread(dilation, rank), strict=True)
    ):
        size = d * (k - 1) + 1
        # What SAME adds is what the output's own size shows to be missing.
        missing = max((y.shape[1 + i] - 1) * s + size - x.shape[1 + i], 0)
        found.append(Window(size, s, -_low(padding, i, size, missing)))
    return tuple(found)


def _low(padding: Any, axis: int, size: int, missing: int) -> int:
    """Return how many places are added before the first one."""
    if not isinstance(padding, str):
        return _explicit(padding, axis)
    return {
        "SAME": missing // 2,
        "SAME_LOWER": missing - missing // 2,
        "VALID": 0,
        "CAUSAL": size - 1,
        "CIRCULAR": (size - 1) // 2,
        "REFLECT": (size - 1) // 2,
    }[padding]


def _low_of_transposed(padding: Any, axis: int, size: int, stride: int) -> int:
    """Return how many places are added before the first one of the spread input."""
    if not isinstance(padding, str):
        return size - 1 - _explicit(padding, axis)
    overhang = max(size - stride, 0)
    cropped = {"VALID": 0, "CAUSAL": 0, "SAME_LOWER": (overhang + 1) // 2}
    return size - 1 - cropped.get(padding, overhang // 2)


def _explicit(padding: Any, axis: int) -> int:
    """Return the lower side of padding given by numbers."""
    side = padding if isinstance(padding, int) else padding[axis]
    return side if isinstance(side, int) else side[0]
