"""spectrum: the singular values of the Jacobian from a network's input to its output."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax._check import choice, integer
from convjax._check import key as check_key
from convjax._readable import Readable, Table
from convjax.gradflow import _check as check
from convjax.gradflow import _jacobian
from convjax.gradflow import _plot as drawing
from convjax.gradflow._door import opened, said
from convjax.gradflow._forward import check_forward
from convjax.gradflow._function import as_function, split_streams

METHODS = ("auto", "dense", "lanczos", "hutchinson")
_SMALLER_SIDE = 1024
_ENTRIES = 2**22
_MOMENTS = ("mean_square", "relative_variance")


@dataclasses.dataclass(frozen=True, repr=False)
class Spectrum(Readable):
    """Singular values s of one Jacobian, and moments of s^2.

    Standard errors are those of the probing of this one Jacobian; another random initialization has
    another Jacobian.

    Attributes:
      shape: entries of the output, entries of the input. There are ``min(shape)`` singular values.
      method: how they were found; "lanczos, hutchinson" where both were used.
      singular_values: descending, float64. All of them where ``complete``; by Lanczos the Ritz
        values, whose ends approach the ends of the spectrum from inside; empty by Hutchinson.
      errors: beyond rounding, a singular value lies no farther than this from each.
      mean_square: mean of s^2 over all singular values, zeros included; NaN by Lanczos.
      mean_square_error: its standard error; 0 where it is exact.
      relative_variance: variance of s^2 over its squared mean; NaN by Lanczos.
      relative_variance_error: its standard error; 0 where it is exact.
      tolerance: what is no larger cannot be told from zero in the dtype of the computation.
      mode: how the network was called, in words.
    """

    shape: tuple[int, int]
    method: str
    singular_values: np.ndarray
    errors: np.ndarray
    mean_square: float
    mean_square_error: float
    relative_variance: float
    relative_variance_error: float
    tolerance: float
    mode: str = ""

    @property
    def complete(self) -> bool:
        """Whether ``singular_values`` holds all of them."""
        return len(self.singular_values) == min(self.shape)

    @property
    def largest(self) -> float:
        """The largest singular value; by Lanczos a lower bound, within ``errors[0]``."""
        return float(self.singular_values[0]) if len(self.singular_values) else math.nan

    @property
    def smallest(self) -> float:
        """The smallest singular value; by Lanczos an upper bound, which converges slowly."""
        return float(self.singular_values[-1]) if len(self.singular_values) else math.nan

    @property
    def rank(self) -> int | None:
        """How many singular values exceed the tolerance; None where not all are known."""
        return int(np.sum(self.singular_values > self.tolerance)) if self.complete else None

    @property
    def condition(self) -> float:
        """Largest over smallest; infinity where a singular value is zero; a lower bound by Lanczos.

        A ReLU network at one input has as many zeros as its narrowest place has dead units.
        """
        if self.smallest <= self.tolerance:
            return math.inf
        return self.largest / self.smallest

    @property
    def isometry(self) -> float:
        """Largest size of ln s: 0 for an isometry, infinity where a singular value is zero.

        A lower bound by Lanczos.
        """
        if self.smallest <= self.tolerance:
            return math.inf
        return max(abs(math.log(self.largest)), abs(math.log(self.smallest)))

    def plot(self) -> Any:
        """Draw the singular values in their order, those that can be told from zero.

        Returns:
          The figure, a ``plots.Sheet``; ``plots.save`` writes it.

        Raises:
          ValueError: no singular value was measured.
          MissingPackageError: matplotlib is not installed.
        """
        values = self.singular_values[self.singular_values > self.tolerance]
        if not len(values):
            raise ValueError(
                f"method={self.method!r} measured no singular value to be drawn; 'dense' and "
                "'lanczos' do"
            )
        x = np.arange(1, len(values) + 1)
        title, order = "Singular values of the Jacobian", "from the largest"
        return drawing.curve(title, self.method, x, values, order, "singular value", yscale="log")

    def __repr__(self) -> str:
        rows = (f"{name} {value}" for name, value, _ in self._rows())
        return f"Spectrum({'x'.join(map(str, self.shape))} by {self.method}: {', '.join(rows)})"

    def _as_table(self) -> Table:
        count = len(self.singular_values)
        of = f"{count} of {min(self.shape)} singular values" if count else "moments alone"
        return Table(
            ("of the Jacobian", "", "±"),
            self._rows(),
            below=[
                f"{self.shape[0]} outputs, {self.shape[1]} inputs; {of}, by {self.method}",
                f"{self.tolerance:.3g} and less cannot be told from zero",
                *([self.mode] if self.mode else []),
            ],
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        """Return what is known: name, value, and how sure it is."""
        rows = []
        if len(self.singular_values):
            errors = [f"{error:.2g}" if error else "" for error in self.errors[[0, -1]].tolist()]
            rows.append(("largest", f"{self.largest:.4g}", errors[0]))
            rows.append(("smallest", f"{self.smallest:.4g}", errors[1]))
            bound = "" if self.complete else "at least "
            rows.append(("condition", f"{bound}{self.condition:.4g}", ""))
        if self.rank is not None:
            rows.append(("rank", str(self.rank), ""))
        for name in _MOMENTS:
            value, error = getattr(self, name), getattr(self, f"{name}_error")
            if not math.isnan(value):
                said = f"{name.replace('_', ' ')} of s^2" if "variance" in name else "mean of s^2"
                rows.append((said, f"{value:.4g}", f"{error:.2g}" if error else ""))
        return rows


def spectrum(
    net: nnx.Module,
    x: ArrayLike,
    *,
    train: bool | None = None,
    method: str = "auto",
    steps: int = 64,
    samples: int = 64,
    key: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Spectrum:
    """Measure the singular values of the Jacobian from a network's input to its output.

    Formula: ``J = d vec(net(x)) / d vec(x)``, of the whole of ``x``. For the Jacobian at one input
    give a batch of one. With ``train=False`` several examples make it block diagonal, and its
    singular values are those of all blocks together; with ``train=True`` batch norm couples the
    examples, and only the whole batch has a Jacobian.

    At initialization the mean of s^2 is 1 in networks of equal and large width whose initialisers
    have the gain of ReLU or none. Its relative variance through L layers is 2 L for Gaussian ReLU,
    L for orthogonal ReLU, L for Gaussian linear and 0 for orthogonal linear ones.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, ``(N, *spatial, C)``.
      train: whether norms use the batch's statistics and dropout drops.
      method: ``"dense"`` writes the Jacobian out and finds all singular values; ``"lanczos"`` the
        extreme ones, by Golub and Kahan's bidiagonalisation with full reorthogonalisation;
        ``"hutchinson"`` the moments of s^2 with standard errors, by random signs; the last two
        never hold the matrix. ``"auto"`` is dense up to 1024 singular values in 2^22 entries, and
        beyond that Lanczos and Hutchinson.
      steps: of Lanczos, each a product with J and one with its transpose; it holds as many vectors
        of the size of input and of output. As many as there are singular values give all.
      samples: probes of Hutchinson, each the same two products; at least two.
      key: of the random start and the probes; None means ``jax.random.key(0)``.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced, and every
        product sees the same random numbers.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``Spectrum``, on the host in float64. Compiled on first use, then cached by the network's
      structure; the network is left as it was.

    Raises:
      ValueError: an unknown method; steps below one or samples below two; an input that is not
        floating; a NaN or infinity forward, naming the first unit; a Jacobian that is zero or not
        finite, as where its entries leave the dtype.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, nn
      >>> orthogonal = {"kernel_init": "orthogonal", "use_bias": False, "rngs": nnx.Rngs(0)}
      >>> net = nn.Chain([nn.Dense(6, 6, **orthogonal) for _ in range(9)])
      >>> found = gradflow.spectrum(net, jax.random.normal(jax.random.key(1), (1, 6)), train=False)
      >>> found.shape, bool(found.isometry < 1e-5), bool(found.relative_variance < 1e-5)
      ((6, 6), True, True)

    Reference: Saxe et al. 2013 and Pennington et al. 2017 for dynamical isometry; Golub and Kahan
    1965; Hutchinson 1989.
    """
    x = check.batch(x)
    net, train, rngs = opened(net, x, train, rngs, call)
    method = choice("method", method, METHODS)
    steps, samples = integer("steps", steps, 1), integer("samples", samples)
    if samples < 2:
        raise ValueError(f"samples={samples} must be at least 2: one probe has no standard error")
    key = jax.random.key(jax.device_put(np.uint32(0))) if key is None else check_key("key", key)
    check_forward(net, x, train=train, rngs=rngs, plain=True)
    graphdef, state = nnx.split(net)
    check.held(net, state)
    streams = split_streams(rngs)
    out = jax.eval_shape(as_function(graphdef, (state,), streams, train=train), x)
    shape = (math.prod(out.shape), x.size)
    count = min(shape)
    if method == "auto":
        small = count <= _SMALLER_SIDE and math.prod(shape) <= _ENTRIES
        method = "dense" if small else "lanczos, hutchinson"
    first, second = jax.random.split(key)
    how = {"graphdef": graphdef, "train": train}
    parts = _unmeasured()
    if method == "dense":
        parts = _of_all(np.asarray(_jacobian.dense(state, x, streams, **how)))
    if "lanczos" in method:
        steps = min(steps, count)
        found = _jacobian.bidiagonalise(state, x, streams, first, steps=steps, **how)
        parts |= _of_bidiagonal(found, steps == count)
    if "hutchinson" in method:
        found = _jacobian.probe(state, x, streams, second, samples=samples, **how)
        parts |= _of_probes(found, count)
    largest = max(parts["singular_values"], default=0.0)
    eps = float(jnp.finfo(jnp.result_type(x.dtype, out.dtype)).eps)
    return Spectrum(
        shape, method, **parts, tolerance=max(shape) * eps * float(largest), mode=said(net, train)
    )


def _unmeasured() -> dict[str, Any]:
    moments = (f"{of}{error}" for of in _MOMENTS for error in ("", "_error"))
    return {
        "singular_values": np.zeros(0),
        "errors": np.zeros(0),
        **dict.fromkeys(moments, math.nan),
    }


def _check_in_range(size: float) -> None:
    if not math.isfinite(size) or size == 0:
        raise ValueError(
            f"the Jacobian is {'zero' if size == 0 else 'not finite'}: the network is constant or "
            "undefined at x, or the entries leave the range of the dtype; float64 reaches farther, "
            "and gradflow.profile measures norms at any depth"
        )


def _of_all(matrix: np.ndarray) -> dict[str, Any]:
    matrix = matrix.astype(np.float64)
    size = float(np.abs(matrix).max())
    _check_in_range(size)
    values = np.linalg.svd(matrix / size, compute_uv=False)
    mean = float(np.mean(values**2))
    return {
        "singular_values": values * size,
        "errors": np.zeros(len(values)),
        "mean_square": mean * size**2,
        "mean_square_error": 0.0,
        "relative_variance": float(np.var(values**2)) / mean**2,
        "relative_variance_error": 0.0,
    }


def _of_bidiagonal(found: _jacobian.Bidiagonal, complete: bool) -> dict[str, Any]:
    diagonal, above, rest, scale = (np.asarray(a, np.float64) for a in found)
    _check_in_range(float(np.abs(diagonal).max()))
    left, values, _ = np.linalg.svd(np.diag(diagonal) + np.diag(above, 1))
    errors = np.zeros(len(values)) if complete else rest * np.abs(left[-1])
    return {"singular_values": values * scale, "errors": errors * scale}


def _of_probes(found: _jacobian.Probes, count: int) -> dict[str, Any]:
    """Return mean and relative variance of s^2, by the jackknife where a ratio is biased."""
    once, twice = (2 * np.asarray(a, np.float64) for a in found)
    n = len(once)
    size = once.max()
    _check_in_range(0.0 if np.isneginf(size) else float(1 + abs(size)))
    # Traces of (A^T A / size) and of its square, whatever the size.
    first, second = np.exp(once - size), np.exp(twice - 2 * size)
    whole = count * n * second.sum() / first.sum() ** 2 - 1
    but_one = count * (n - 1) * (second.sum() - second) / (first.sum() - first) ** 2 - 1
    unit = float(np.exp(size)) / count
    return {
        "mean_square": float(first.mean()) * unit,
        "mean_square_error": float(first.std(ddof=1)) / math.sqrt(n) * unit,
        "relative_variance": float(n * whole - (n - 1) * but_one.mean()),
        "relative_variance_error": math.sqrt((n - 1) * float(but_one.var())),
    }
