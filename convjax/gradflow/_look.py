"""What one sees of a unit's parameters: the statistics by which causes are told apart."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax import nnx

from convjax import nn
from convjax.gradflow._theory._duals import function_of
from convjax.nn import initializers

ALIKE = 0.5
"""Correlation from which kernels are called alike: independent ones have next to none."""
SURE = 6.0
"""Standard deviations that a fresh kernel's statistics do not reach."""


OUTPUTS = 64
"""Outputs whose kernels are held against each other, at most."""
AGED = 3.0
"""Standard deviations that the half of a fresh network's kernels do not reach."""
BEYOND = 1.2
"""Largest singular value that no fresh kernel has, over the edge of Marchenko and Pastur's law."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What is seen of one unit.

    Attributes:
      kernel: mean square of the kernel's entries; NaN without one.
      expected: the same as its initialiser declares it; NaN where that is not known.
      bias: mean of the bias, and its mean square; zeros without one.
      epsilon: of a norm; NaN elsewhere.
      zero_padded: whether it pads with zeros.
      function: of an activation; None elsewhere.
      dtype: in which it computes; "" where it does not say.
    """

    kernel: float = math.nan
    expected: float = math.nan
    bias: tuple[float, float] = (0.0, 0.0)
    epsilon: float = math.nan
    zero_padded: bool = False
    function: Any = None
    dtype: str = ""


def look_at(net: nnx.Module, path: str) -> Look | None:
    """Return what is seen of the unit at a path; None where a network has no such node."""
    try:
        node: Any = nn.at(net, path)
    except ValueError:
        return None
    kernel, bias = _values(node, "kernel"), _values(node, "bias")
    dtype = getattr(node, "dtype", None)
    found = Look(
        bias=(0.0, 0.0) if bias is None else (float(bias.mean()), float(np.mean(bias**2))),
        epsilon=float(getattr(node, "epsilon", math.nan)),
        zero_padded=_pads(node),
        function=getattr(node, "function", None) if isinstance(node, nn.Activation) else None,
        dtype="" if dtype is None else np.dtype(dtype).name,
    )
    if kernel is None:
        return found
    return dataclasses.replace(
        found,
        kernel=float(np.mean(kernel**2)),
        expected=_declared(node, kernel.shape),
    )


def not_fresh(net: nnx.Module) -> str:
    """Return in words by what weights show that they are no longer as initialised, or ""."""
    norms = run = 0
    found: list[tuple[float, float]] = []
    for _, node, kernel in _kernels(net):
        declared = _declared(node, kernel.shape)
        if kernel.size >= 64 and declared > 0:
            ratio = float(np.mean(kernel**2)) / declared
            found.append((abs(ratio - 1) / math.sqrt(2 / kernel.size), _edge(kernel)))
    for _, node, _ in nn.walk(net):
        if isinstance(node, nn.BatchNorm):
            mean = _values(node, "mean")
            norms, run = norms + 1, run + bool(mean is not None and mean.any())
    said = []
    off, edge = np.median(found, axis=0) if len(found) > 2 else (0.0, 0.0)
    if off > AGED or edge > BEYOND:
        said.append(
            f"mean squares of the {len(found)} kernels are {off:.2g} standard deviations from what "
            f"their initialisers declare, largest singular values {edge:.2f} of chance's (medians)"
        )
    if norms and 2 * run > norms:
        said.append(f"{run} of {norms} norms have running statistics that moved")
    return "; ".join(said)


def is_twice(function: Any, name: str) -> bool | None:
    """Return whether a function is a known one applied twice; None where it is that one."""
    once, z = function_of(name, None).value, np.linspace(-3.0, 3.0, 61)
    found = np.asarray(function(z.astype(np.float32)), float)
    if np.allclose(found, once(z), atol=1e-3):
        return None
    return bool(np.allclose(found, once(once(z)), atol=1e-3))


def _values(node: Any, name: str) -> np.ndarray | None:
    variable = getattr(node, name, None)
    return None if variable is None else np.asarray(variable.get_value(), np.float64)


def _pads(node: Any) -> bool:
    padding = getattr(node, "padding", "VALID")
    if isinstance(padding, str):
        return padding.startswith("SAME") or padding == "CAUSAL"
    return bool(np.any(padding))


def _declared(node: Any, shape: tuple[int, ...]) -> float:
    init = getattr(getattr(node, "origin", None), "kernel_init", None)
    declared = getattr(init, "variance", None)
    return math.nan if declared is None else float(declared(shape))


def _alike(kernel: np.ndarray) -> tuple[float, float]:
    """Return the mean squared cosine of two outputs' kernels, and what it is by chance."""
    rows = kernel.reshape(-1, kernel.shape[-1]).T[:OUTPUTS]
    if len(rows) < 2 or rows.shape[1] < 2:
        return 0.0, 0.0
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    whole = float(np.sum((rows @ rows.T) ** 2))
    return (whole - len(rows)) / (len(rows) * (len(rows) - 1)), 1 / rows.shape[1]


def _edge(kernel: np.ndarray) -> float:
    """Return the largest singular value over that of independent entries of the same size."""
    rows = kernel.reshape(-1, kernel.shape[-1])
    edge = math.sqrt(float(np.mean(rows**2))) * sum(math.sqrt(n) for n in rows.shape)
    vector = np.random.default_rng(0).normal(size=rows.shape[1])
    # Power iterations: what stands out of a law's edge is found soon, and the edge from below.
    for _ in range(20):
        vector = rows.T @ (rows @ vector)
        vector /= max(float(np.linalg.norm(vector)), 1e-300)
    return float(np.linalg.norm(rows @ vector)) / max(edge, 1e-300)


def _kernels(net: nnx.Module) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Yield path, node and kernel of every unit that has one."""
    for path, node, repeats in nn.walk(net):
        kernel = _values(node, "kernel")
        if kernel is None:
            continue
        for index in np.ndindex(*repeats):
            name = path
            for i in index:
                name = name.replace("*", str(i), 1)
            yield name, node, kernel[index]


def dependent(net: nnx.Module) -> dict[str, str]:
    """Return for every unit whose kernel's entries are not independent in what they are not."""
    found: dict[str, str] = {}
    seen: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
    for path, node, kernel in _kernels(net):
        size = float(np.linalg.norm(kernel))
        init = getattr(getattr(node, "origin", None), "kernel_init", None)
        declared = isinstance(init, initializers.Constant | initializers.Dirac)
        if kernel.size < 16 or size == 0 or declared:
            continue
        unit = kernel.ravel() / size
        share, chance = _alike(kernel)
        if kernel.std() < 0.01 * size / math.sqrt(kernel.size):
            found[path] = "all are equal"
        elif share > max(ALIKE, 4 * chance):
            found[path] = f"outputs have equal kernels (mean squared cosine {share:.2f})"
        else:
            for name, other in seen.get(kernel.shape, []):
                cosine = float(unit @ other)
                if abs(cosine) > max(ALIKE, SURE / math.sqrt(kernel.size)):
                    found[path] = f"it is the kernel of {name} (correlation {cosine:.2f})"
                    break
        seen.setdefault(kernel.shape, []).append((path, unit))
    return found
