"""Which form is fastest where: the rule behind ``lowering="auto"``.

Measured by ``python -m experiments bench-ops --forms``, which times every form on every
layer of six networks and says how much the rule loses against the best one.
"""

import math
from collections.abc import Callable
from types import ModuleType

import jax
import numpy as np

from convjax.ops._forms import _lax, _product, _shift, _winograd
from convjax.ops._geometry import Geometry

Form = Callable[[jax.Array, jax.Array, Geometry], jax.Array]

FORMS: dict[str, ModuleType] = {
    "lax": _lax,
    "product": _product,
    "shift": _shift,
    "winograd": _winograd,
}


def serving(geometry: Geometry) -> list[str]:
    """Return the names of the forms that can compute a geometry."""
    return [name for name, form in FORMS.items() if name == "lax" or form.serves(geometry)]


def choose(direction: str, geometry: Geometry, batch: int, dtype: np.dtype, platform: str) -> Form:
    """Return the function that computes one of the three, "forward" or a gradient, on a platform.

    A form that is named computes whatever it can, on every platform; what it cannot (a derivative
    may have another geometry than the call that it comes from) is chosen as by "auto".
    """
    named = geometry.lowering
    if named != "auto" and (named == "lax" or FORMS[named].serves(geometry)):
        return getattr(FORMS[named], direction)
    return getattr(_fastest(direction, geometry, batch, dtype, platform), direction)


def _fastest(direction: str, geometry: Geometry, batch: int, dtype: np.dtype, platform: str):
    # A window of 1 is a matrix product for every backend.
    if _product.serves(geometry) and (platform == "cpu" or math.prod(geometry.window) == 1):
        return _product
    if platform != "cpu":
        return _lax
    if _shift.serves(geometry):
        return _shift
    if _winograd.serves(geometry) and dtype.itemsize >= 4 and _pays(direction, geometry):
        return _winograd
    return _lax


def _pays(direction: str, geometry: Geometry) -> bool:
    """Whether fewer products outweigh the transforms, which cost the same for any channels."""
    return min(geometry.in_features, geometry.out_features) >= 48 and geometry.out_spatial[-1] >= 12
