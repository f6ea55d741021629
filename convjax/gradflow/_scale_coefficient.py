"""gradient_scale_coefficient: growth of the gradient, with the sizes of the signals divided out."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax._check import integer
from convjax._check import key as check_key
from convjax._readable import Readable, Table, on_trunk, whole
from convjax.gradflow._profile import profile


@dataclasses.dataclass(frozen=True, repr=False)
class GradientScale(Readable):
    """The gradient scale coefficient from every unit's output to the network's output.

    Attributes:
      paths: every unit's path, repeats written out, in the order of ``Profile.table``.
      log_coefficient: natural logarithm of the coefficient, one for each path; minus infinity where
        nothing the unit gives out reaches the output.
      log_error: standard error of that logarithm, from the cotangents' scatter.
    """

    paths: tuple[str, ...]
    log_coefficient: np.ndarray
    log_error: np.ndarray

    def __getitem__(self, path: str) -> float:
        """Return the logarithm of the coefficient at a path."""
        if path not in self.paths:
            raise KeyError(f"{path!r} was not measured; the paths are {', '.join(self.paths)}")
        return float(self.log_coefficient[self.paths.index(path)])

    def __repr__(self) -> str:
        first, *_ = self._rows()
        return f"GradientScale({len(self.paths)} units; log coefficient {first[1]} at the input)"

    def _as_table(self) -> Table:
        return Table(
            ("unit", "log coefficient"),
            self._rows(),
            main=on_trunk(self.paths, [""] * len(self.paths)),
            below=["gradient scale coefficient to the output, ± standard error over cotangents"],
        )

    def _rows(self) -> list[tuple[str, str]]:
        return [
            (whole(path), f"{log:.3f} ± {error:.3f}")
            for path, log, error in zip(
                self.paths, self.log_coefficient, self.log_error, strict=True
            )
        ]


def gradient_scale_coefficient(
    net: nnx.Module,
    x: ArrayLike,
    *,
    key: jax.Array,
    train: bool | None = None,
    samples: int = 8,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> GradientScale:
    """Measure the gradient scale coefficient of every unit, at the price of one pass per sample.

    Formula: ``GSC(k, l) = |J|_qm |f_k| / |f_l|``, with ``f_k`` a unit's output, ``f_l`` the
    network's, ``J = d f_l / d f_k`` and ``|J|_qm = |J|_F / sqrt(size of f_k)``: the quadratic mean
    of ``|J u|`` over unit vectors u. It is the relative change of ``f_l`` for a small relative
    change of ``f_k`` in a random direction: 1 for a map that only scales or rotates, and the same
    after ``f_k`` or ``f_l`` is multiplied by a number. It grows on the way back where gradients
    explode by more than signals shrink.

    A cotangent g drawn from a unit Gaussian and handed back as ``J^T g`` gives ``|J|_F^2`` as
    ``size of f_l`` times the mean of ``|J^T g|^2 / |g|^2``: a ``profile`` each.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``. For
        another l, give the network that ends there.
      x: the batch, ``(N, *spatial, C)``, taken as one vector: with one example this is the
        coefficient at that input.
      train: whether norms use the batch's statistics and dropout drops.
      key: from which the cotangents are drawn.
      samples: how many; at least two, for the standard error.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced, and all
        samples see the same random numbers.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``GradientScale``, for the batch (``"input"``), every unit, those inside branches too, and
      the output, where it is 1.

    Raises:
      ValueError: fewer than two samples; an output of zeros, which has no relative change; what
        ``profile`` refuses.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, nn
      >>> net = nn.Chain(shrink=nn.Scale(1e-3), dense=nn.Dense(8, 8, rngs=nnx.Rngs(0)))
      >>> x = jax.random.normal(jax.random.key(1), (1, 8))
      >>> found = gradflow.gradient_scale_coefficient(net, x, train=False, key=jax.random.key(2))
      >>> found.paths, abs(found["input"] - found["shrink"]) < 1e-5, found[""]
      (('input', 'shrink', 'dense', ''), True, 0.0)

    Reference: Philipp, Song and Carbonell, The Exploding Gradient Problem Demystified, 2017.
    """
    samples, key = integer("samples", samples), check_key("key", key)
    if samples < 2:
        raise ValueError(f"samples={samples} must be at least 2: one has no standard error")
    tables = [
        profile(net, x, cotangent=one, train=train, rngs=rngs, call=call).table()
        for one in jax.random.split(key, samples)
    ]
    table = tables[0]
    log_rms = table["activation_log_norm"] - 0.5 * np.log(np.maximum(table["activation_size"], 1))
    if np.isneginf(log_rms[-1]):
        raise ValueError("the output of net at x is zero: it has no relative change")
    gradients = np.stack([each["gradient_log_norm"] for each in tables])
    # |J|_F^2 |f_k|^2 / (n_k |f_l|^2), sample by sample: n_l turns |f_l| into its root mean square.
    logs = 2 * (gradients - gradients[:, -1:] + log_rms - log_rms[-1])
    largest = logs.max(axis=0)
    relative = np.exp(logs - np.where(np.isneginf(largest), 0.0, largest))
    mean = relative.mean(axis=0)
    error = relative.std(axis=0, ddof=1) / math.sqrt(samples) / np.where(mean > 0, mean, 1.0)
    with np.errstate(divide="ignore"):
        return GradientScale(tuple(table["path"]), 0.5 * (largest + np.log(mean)), 0.5 * error)
