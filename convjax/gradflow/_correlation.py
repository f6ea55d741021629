"""correlation and line: how alike the gradients at different inputs are (shattering)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax._check import array, integer, wrong_type
from convjax._readable import Readable, Table, known
from convjax._rules import registered
from convjax.gradflow import _check as check
from convjax.gradflow import _plot as drawing
from convjax.gradflow._door import opened, said
from convjax.gradflow._forward import check_forward, is_lost
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._norm import Norm, at_least_float32, measure_stacked
from convjax.gradflow._profile import _traced
from convjax.gradflow._run import Scope, token_paths, visit
from convjax.gradflow._tap import TOKEN, Signal, cut

MATRIX = 10
"""Most inputs of which the correlations are written out."""
LAGS = 17


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Correlation(Readable):
    """Gradients at the N inputs of a batch, compared in pairs: a pytree, for ``jit`` and ``vmap``.

    ``cosines`` and ``norms`` may be used under transformations; the rest is NumPy in float64.

    Attributes:
      cosines: cosine of the angle between the gradients at two inputs, ``(samples, N, N)``; NaN
        where one of them is zero.
      norms: norm of every gradient, ``(samples, N)``.
      train: whether norms used the batch's statistics.
      mode: how the network was called, in words.
    """

    cosines: jax.Array
    norms: Norm
    train: bool = dataclasses.field(metadata={"static": True})
    mode: str = dataclasses.field(default="", metadata={"static": True})

    @property
    def products(self) -> np.ndarray:
        """Mean of ``<g_i, g_j>`` over the samples, ``(N, N)``, relative to the largest gradient."""
        logs = np.asarray(jax.device_get(self.norms).log_norm)
        with np.errstate(invalid="ignore"):
            sizes = np.exp(logs - logs.max(axis=(-2, -1), keepdims=True))
            sizes = sizes[..., :, None] * sizes[..., None, :]
            products = np.asarray(self.cosines, np.float64) * sizes
        return np.where(sizes == 0, 0.0, products).mean(axis=-3)

    @property
    def matrix(self) -> np.ndarray:
        """Correlation of the gradients in pairs, ``(N, N)``, over all samples together.

        ``mean <g_i, g_j> / sqrt(mean |g_i|^2 mean |g_j|^2)``: as in theory, a ratio of means and
        not a mean of cosines. NaN where all gradients at an input are zero.
        """
        products = self.products
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
            return products / size[..., :, None] / size[..., None, :]

    @property
    def mean(self) -> Any:
        """Mean correlation of the gradients at two different inputs."""
        different = ~np.eye(self.cosines.shape[-1], dtype=bool)
        return self.matrix[..., different].mean(axis=-1)

    def check(self) -> "Correlation":
        """Return the result, or raise a ValueError where a gradient is NaN or infinite."""
        logs = np.asarray(jax.device_get(self.norms).log_norm)
        bad = np.isnan(logs) | np.isposinf(logs)
        if bad.any():
            example = int(np.flatnonzero(bad.reshape(-1, bad.shape[-1]).any(axis=0))[0])
            raise ValueError(
                f"the gradient at example {example} is NaN or infinite; gradflow.profile names "
                "the unit where that begins"
            )
        return self

    def __repr__(self) -> str:
        return f"Correlation({self._said()})"

    @property
    def how(self) -> str:
        """How the network was called, or else its mode."""
        return self.mode or f"train={self.train}"

    def _said(self) -> str:
        said = self.how
        if shape := np.shape(self.cosines):
            samples, count = shape[-3:-1]
            said = f"{count} inputs, {samples} cotangent{'s' if samples > 1 else ''}, {said}"
        if known(self.cosines) and known(self.norms.squares):
            means = ", ".join(f"{mean:.3g}" for mean in np.ravel(self.mean)[:4])
            said += f"; mean correlation {means}{', …' if np.size(self.mean) > 4 else ''}"
        return said

    def _as_table(self) -> Table:
        """Return the matrix where it fits, and the spread of its entries where it does not."""
        matrix, count = self.matrix, np.shape(self.cosines)[-1]
        below = [f"correlation of the gradients at two inputs: {self._said()}"]
        if matrix.ndim == 2 and count <= MATRIX:
            heads = ("input", *map(str, range(count)))
            rows = [(str(i), *(f"{c:.2f}" for c in row)) for i, row in enumerate(matrix)]
            return Table(heads, rows, below=below)
        values = matrix[..., ~np.eye(count, dtype=bool)].reshape(-1, count * (count - 1))
        spread = np.quantile(values, (0, 0.05, 0.5, 0.95, 1), axis=-1).T
        return Table(
            ("least", "5 %", "median", "95 %", "largest"),
            [[f"{value:.3f}" for value in row] for row in spread],
            left=0,
            below=below,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Line(Readable):
    """Gradients along a straight line of inputs.

    Attributes:
      correlation: the gradients at its points, compared in pairs.
      length: distance from the first point to the last.
    """

    correlation: Correlation
    length: jax.Array

    @property
    def lags(self) -> np.ndarray:
        """Distances between points that are 0, 1, … points apart."""
        points = self.correlation.cosines.shape[-1]
        return np.asarray(self.length)[..., None] * np.linspace(0.0, 1.0, points)

    @property
    def autocorrelation(self) -> np.ndarray:
        """Autocorrelation of the gradient at every lag: 1 at lag 0; about 0 after it, if white.

        ``sum_i <c_i, c_(i+lag)> / sum_i <c_i, c_i>``, with c the gradient less its mean over the
        line. Fewer points are as far apart as a large lag asks for, and no factor makes up for it.
        """
        products = self.correlation.products
        rows = products - products.mean(axis=-1, keepdims=True)
        centred = rows - rows.mean(axis=-2, keepdims=True)
        points = products.shape[-1]
        sums = [np.trace(centred, offset=k, axis1=-2, axis2=-1) for k in range(points)]
        with np.errstate(invalid="ignore"):
            return np.stack(sums, axis=-1) / np.asarray(sums[0])[..., None]

    def plot(self) -> Any:
        """Draw the autocorrelation by distance; of several lines mean and ends.

        Returns:
          The figure, a ``plots.Sheet``; ``plots.save`` writes it.

        Raises:
          MissingPackageError: matplotlib is not installed.
        """
        lags = self.lags.reshape(-1, self.lags.shape[-1]).mean(axis=0)
        title, name = "Gradients along a line of inputs", "autocorrelation"
        return drawing.curve(title, "line", lags, self.autocorrelation, "distance", name, level=0.0)

    def __repr__(self) -> str:
        points = (np.shape(self.correlation.cosines) or ("?",))[-1]
        length = f", length {float(self.length):.3g}" if _is_number(self.length) else ""
        return f"Line({points} points{length}, {self.correlation.how})"

    def _as_table(self) -> Table:
        """Return the autocorrelation at some lags, of several lines their mean."""
        points = np.shape(self.correlation.cosines)[-1]
        some = np.unique(np.linspace(0, points - 1, min(points, LAGS)).round().astype(int))
        lags, values = (
            a.reshape(-1, points).mean(axis=0) for a in (self.lags, self.autocorrelation)
        )
        lines = np.size(self.length)
        of = f"the mean of {lines} lines" if lines > 1 else "one line"
        return Table(
            ("points apart", "distance", "autocorrelation"),
            [(str(i), f"{lags[i]:.3g}", f"{values[i]:.3f}") for i in some],
            left=0,
            below=[f"{len(some)} of {points} lags of {of}; {self.correlation.how}"],
        )


def _is_number(value: Any) -> bool:
    return known(value) and np.ndim(value) == 0


def correlation(
    net: nnx.Module,
    x: ArrayLike,
    *,
    cotangent: ArrayLike,
    samples: int = 1,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Correlation:
    """Measure how alike the gradients at the inputs of a batch are, in pairs.

    Formula: ``g_i = d/dx_i of sum_n <v, net(x)_n>``, one cotangent v for all examples; the
    correlation of two inputs is ``mean <g_i, g_j> / sqrt(mean |g_i|^2 mean |g_j|^2)``, its means
    over the cotangents drawn. Where it is near 0 the gradient tells little of its neighbourhood:
    it is shattered. The backward pass is renormalised as that of ``profile`` is.

    With ``train=True`` and batch norm every output depends on the whole batch, and ``g_i`` is the
    gradient of all of them. Batch norm takes the mean over the batch out of it, so that unrelated
    gradients correlate by ``-1/(N - 1)``: give a large batch.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, ``(N, *spatial, C)``.
      cotangent: v, of the shape of one example's output; or a PRNG key, from which unit Gaussian
        ones are drawn.
      samples: how many are drawn; one backward pass each, all at once.
      train: whether norms use the batch's statistics and dropout drops; there is no default.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``Correlation``. Compiled on first use, then cached by the network's structure.

    Raises:
      ValueError: fewer than two examples, samples below one, a cotangent of another shape or given
        together with samples, a NaN or infinity forward, naming the first unit, or in the result
        (not checked under a transformation: call ``Correlation.check`` on what comes out).

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> x = jax.random.normal(jax.random.key(0), (4, 1, 1, 64))
      >>> options = {"kernel_size": (1, 1), "convs_per_unit": 1, "rngs": nnx.Rngs(1)}
      >>> plain = models.deep_stack(10, 64, shortcut="none", **options)
      >>> residual = models.deep_stack(10, 64, **options)
      >>> found = [
      ...     gradflow.correlation(net, x, cotangent=jax.random.key(2), samples=8, train=False)
      ...     for net in (plain, residual)
      ... ]
      >>> found[0].matrix.shape, bool(found[0].mean < found[1].mean)
      ((4, 4), True)

    Reference: Balduzzi et al., The Shattered Gradients Problem, 2017.
    """
    x = check.batch(x)
    if x.shape[0] < 2:
        raise ValueError(f"x has shape {x.shape}; pairs need a batch of at least two examples")
    net, train, rngs = opened(net, x, train, rngs, call)
    samples, cotangent = integer("samples", samples, 1), check.array_or_key(cotangent)
    if not check.is_key(cotangent) and samples != 1:
        raise ValueError(
            f"samples={samples} are drawn from a PRNG key, and cotangent is an array; give a key"
        )
    graphdef, state = nnx.split(net)
    check.held(net, state)
    streams = None if rngs is None else nnx.split(rngs)
    arrays = (state, x, cotangent, streams)
    rules = registered(homogeneous)
    found = _measure(*arrays, graphdef=graphdef, samples=samples, train=train, rules=rules)
    found = dataclasses.replace(found, mode=said(net, train))
    if _traced(arrays):
        return found
    check_forward(net, x, train=train, rngs=rngs, plain=False)
    return found.check()


def line(
    net: nnx.Module,
    start: Any,
    end: Any,
    *,
    points: int = 256,
    cotangent: ArrayLike,
    samples: int = 1,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Line:
    """Measure how alike the gradients along a straight line of inputs are, by their distance.

    Formula: ``x_i = start + i / (points - 1) * (end - start)``, all in one batch, whose statistics
    batch norm uses with ``train=True``; then as ``correlation``. Gradients of a shallow network
    resemble brown noise, those of a deep plain one white noise; skips keep them in between.

    A network of ReLU without biases has the same gradient all along a ray from the origin: let the
    line pass beside it.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      start: first input, ``(*spatial, C)``.
      end: last input, of the same shape.
      points: how many inputs, the two ends among them.
      cotangent: as in ``correlation``.
      samples: as in ``correlation``.
      train: as in ``correlation``.
      rngs: as in ``correlation``.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``Line``, whose ``autocorrelation`` is by lag.

    Raises:
      ValueError: ends of different shapes, fewer than three points, and what ``correlation``
        raises.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> start, end = jax.random.normal(jax.random.key(0), (2, 1, 1, 16))
      >>> net = models.deep_stack(4, 16, kernel_size=(1, 1), norm="batch", rngs=nnx.Rngs(1))
      >>> found = gradflow.line(
      ...     net, start, end, points=32, cotangent=jax.random.key(2), train=True
      ... )
      >>> found.autocorrelation.shape, round(float(found.autocorrelation[0]), 3)
      ((32,), 1.0)

    Reference: Balduzzi et al., The Shattered Gradients Problem, 2017, figures 1 and 2.
    """
    points = integer("points", points, 3)
    start, end = array("start", start), array("end", end)
    for name, one in (("start", start), ("end", end)):
        if not jnp.issubdtype(one.dtype, jnp.floating):
            wrong_type(name, one, "one input of floating numbers, in which there are gradients")
    if start.shape != end.shape or not start.ndim:
        raise ValueError(
            f"start has shape {start.shape}, end {end.shape}; both must be one input, without the "
            "axis of the batch"
        )
    place = jnp.linspace(0, 1, points, dtype=start.dtype).reshape((-1,) + (1,) * start.ndim)
    x = start[None] * (1 - place) + end[None] * place
    how = {"train": train, "rngs": rngs, "call": call}
    found = correlation(net, x, cotangent=cotangent, samples=samples, **how)
    wide = at_least_float32(x.dtype)
    return Line(found, jnp.linalg.norm(jnp.ravel((end - start).astype(wide))))


@partial(jax.jit, static_argnames=("graphdef", "samples", "train", "rules"))
def _measure(state, x, cotangent, streams, *, graphdef, samples, train, rules):
    wide = at_least_float32(x.dtype)
    zero = jnp.zeros((), wide)
    repeats = token_paths(nnx.merge(graphdef, state))
    tokens = {path: jnp.zeros((*axes, *TOKEN), wide) for path, axes in repeats.items()}

    def run(signal):
        net = nnx.merge(graphdef, state, copy=True)
        rngs = None if streams is None else nnx.merge(*streams, copy=True)
        scope = Scope(train, True, rngs, tokens, records={}, anchors={}, aliases={})
        return visit(net, cut(signal, tokens["input"], True), scope)

    output, pullback = jax.vjp(run, Signal(x, zero))
    given = _cotangents(cotangent, samples, output.x)

    def gradients(v):
        (found,) = pullback(Signal(jnp.broadcast_to(v, output.x.shape), zero))
        return found

    found = jax.vmap(gradients)(given)
    # The slope of a rectifier at NaN is 0: what is lost forward must show here too.
    lost = jnp.where(is_lost(x, output.x), jnp.nan, 1.0).astype(found.x.dtype)
    found = found._replace(x=found.x * lost)
    rows = found.x.reshape(*found.x.shape[:2], -1).astype(wide)
    norms = measure_stacked(rows, found.exponent[:, None], axes=2)
    units = rows / norms.divisor[..., None] / jnp.sqrt(norms.squares)[..., None]
    cosines = jnp.einsum("sid,sjd->sij", units, units, precision="highest")
    return Correlation(cosines, norms, train)


def _cotangents(cotangent: jax.Array, samples: int, output: jax.Array) -> jax.Array:
    """Return the samples of what stands in for one example's output."""
    shape = output.shape[1:]
    if check.is_key(cotangent):
        return jax.random.normal(cotangent, (samples, *shape), output.dtype)
    if cotangent.shape != shape:
        raise ValueError(
            f"cotangent has shape {cotangent.shape}, the output of one example {shape}; they must "
            "agree"
        )
    return cotangent.astype(output.dtype)[None]
