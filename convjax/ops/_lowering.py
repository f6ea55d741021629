"""How the form of a convolution is named: per call, or for a whole block of code."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from convjax.ops import _shapes
from convjax.ops._forms import _choose
from convjax.ops._geometry import Geometry

LOWERINGS = ("auto", *_choose.FORMS)

# A context of JAX's own, because its value is part of what a jitted function is cached under.
_context = jax.make_user_context("auto")


@contextlib.contextmanager
def default_lowering(name: str) -> Iterator[None]:
    """Compute every convolution traced in a block by the form of this name, where it can.

    A call that names its own form is not affected. A convolution that the form cannot compute (a
    1x1 in a block of "shift", say) is computed as by "auto". Functions that are jitted are traced
    anew for every name that they are called under.

    Args:
        name: "auto", or a form as `conv` describes them: "lax", "onednn", "product", "shift",
            "taps", "winograd".

    Raises:
        ValueError: if there is no form of that name.

    Example:
        >>> import jax
        >>> from convjax import ops
        >>> x, kernel = jax.numpy.ones((1, 8, 8, 3)), jax.numpy.ones((3, 3, 1, 3))
        >>> with ops.default_lowering("lax"):
        ...     reference = ops.depthwise_conv(x, kernel)
        >>> bool(jax.numpy.allclose(ops.depthwise_conv(x, kernel), reference))
        True
    """
    _shapes.check_name("default_lowering", "name", name, LOWERINGS)
    with _context(name):
        yield


def of_block() -> str:
    """Return the name that `default_lowering` was called with around here, or "auto"."""
    return _context.value


def resolve(op: str, lowering: str | None, geometry: Geometry, dtype: np.dtype) -> str:
    """Return the name of the form that a call is to be computed by.

    Raises:
        ValueError: if the name is unknown, or the call named a form that cannot serve it.
    """
    if lowering is None:
        return of_block()
    _shapes.check_name(op, "lowering", lowering, LOWERINGS)
    if lowering == "auto":
        return lowering
    able = _choose.serving(geometry, dtype) if lowering != "lax" else ["lax"]
    if lowering not in able:
        raise ValueError(
            f"{op}: lowering={lowering!r} serves {_choose.FORMS[lowering].SERVES}; this call has "
            f"window {geometry.window}, strides {geometry.strides}, dilation {geometry.dilation}, "
            f"{geometry.groups} groups of {geometry.in_features} channels, dtype {dtype.name} and "
            f"precision {geometry.precision}, which "
            f"{' or '.join(map(repr, ['auto', *able]))} can serve"
        )
    return lowering
