"""What theory reads off a leaf with a kernel: variance, bias, how rigid it is, and its borders."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from convjax.gradflow._theory._axes import Window, convolution
from convjax.gradflow._theory._run import Scope
from convjax.nn import initializers


def kernel_shape(node: Any, scope: Scope) -> tuple[int, ...]:
    return node.kernel.get_value().shape[len(scope.units) :]


def describe(
    node: Any,
    scope: Scope,
    variance: float,
    spatial: tuple[int, ...],
    sides: Sequence[int],
    groups: int,
) -> None:
    """Say what a comparison needs in order to name a cause."""
    border = 1.0
    if spatial and not centred_only(node):
        padded = convolution(
            spatial,
            sides,
            strides=node.strides,
            padding=node.padding if node.padding not in ("CIRCULAR", "REFLECT") else "SAME",
            dilation=node.kernel_dilation,
        )
        border = float(padded.gather(np.ones((1, *spatial))).mean()) / padded.size
    # A standardised kernel's entries say nothing: they are divided by their own scale.
    variance = math.nan if getattr(node, "standardize", False) else variance
    biased = node.bias is not None
    scope.say(kernel_variance=variance, groups=groups, border=border, biased=biased)
    if border < 0.98 and node.padding not in ("CIRCULAR", "REFLECT"):
        scope.say(note=f"zero padding leaves {border:.0%} of an even image's energy")


def variance_of(node: Any, scope: Scope) -> float:
    """Return the mean square of a kernel's entry, as declared where its initialiser says it."""
    shape = kernel_shape(node, scope)
    init = node.origin.kernel_init
    declared = getattr(init, "variance", None)
    if scope.kernels == "declared":
        if declared is not None:
            return declared(shape)
        if node.origin.groups > 1 and init is not None:
            return _one_group(init, shape, node.origin.groups)
    values = measured_squares(node, scope)
    if values is None:
        scope.say(note="its initialiser does not say its variance: taken to be LeCun's")
        return initializers.lecun_normal().variance(shape)
    return values


@functools.lru_cache(maxsize=64)
def _one_group(init: Any, shape: tuple[int, ...], groups: int) -> float:
    """Return the mean square that an initialiser of another's gives the kernel of one group.

    Of a grouped kernel's shape it would take the wrong fan: it does not know of groups.
    """
    alone = (*shape[:-1], shape[-1] // groups)
    samples = -(-4096 // math.prod(alone))
    keys = jax.random.split(jax.random.key(0), samples)
    kernels = jax.vmap(lambda key: init(key, alone, np.float32))(keys)
    return float(np.mean(np.square(np.asarray(kernels, np.float64))))


def measured_squares(node: Any, scope: Scope) -> float | None:
    """Return the mean square of this unit's kernel; None where it holds no values."""
    kernel = node.kernel.get_value()
    if isinstance(kernel, jax.ShapeDtypeStruct | Tracer):
        return None
    key = -id(node.kernel)
    if key not in scope.arrays:
        axes = tuple(range(len(scope.units), kernel.ndim))
        scope.arrays[key] = np.mean(np.square(np.asarray(kernel, np.float64)), axis=axes)
    return float(scope.arrays[key][scope.units])


def bias_of(node: Any, scope: Scope) -> tuple[float, float]:
    """Return mean and mean square of a bias."""
    if node.bias is None:
        return 0.0, 0.0
    values = scope.values(node.bias)
    if values is not None:
        return float(values.mean()), float((values**2).mean())
    init = node.origin.bias_init
    shape = node.bias.get_value().shape[len(scope.units) :]
    square = init.variance((1, *shape)) if hasattr(init, "variance") else 0.0
    return float(getattr(init, "value", 0.0)), square


def centred_only(node: Any) -> bool:
    init = node.origin.kernel_init
    return isinstance(init, initializers.DeltaOrthogonal | initializers.Dirac)


def rigidity(node: Any, fan_in: int, out: int, window: Window) -> tuple[float, float]:
    """Return how much an orthogonal kernel scatters, forward and back; a Gaussian's is 1, 1."""
    orthogonal = initializers.Orthogonal | initializers.DeltaOrthogonal | initializers.Dirac
    if not isinstance(node.origin.kernel_init, orthogonal):
        return 1.0, 1.0
    if window.size == 1:
        return max(0.0, 1 - out / fan_in), max(0.0, 1 - fan_in / out)
    return max(0.0, 1 - out / (fan_in * window.size)), 1.0
