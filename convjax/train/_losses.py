"""Losses and scores of a classifier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from convjax import _check

Array = jax.Array | np.ndarray

# How far the probabilities of an example may sum to something else than 1: bfloat16 rounds so.
ROUNDING = 0.02


def cross_entropy(logits: Array, labels: Array, *, smoothing: int | float = 0.0) -> jax.Array:
    """Mean over the batch of the softmax cross-entropy, in float32 or better.

    Under ``jit`` labels cannot be looked at: one that is no class makes the loss NaN.

    Args:
      logits: ``(N, classes)``.
      labels: classes, int ``(N,)``, or their probabilities ``(N, classes)``, as mixup makes them.
      smoothing: share of the probability that is spread evenly over all classes.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: a smoothing outside [0, 1), labels of another shape, and outside of ``jit`` a
        label that is no class or probabilities that are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import train
      >>> round(float(train.cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 3]))), 4)
      1.3863

    Reference: for the smoothing, Szegedy et al., Rethinking the Inception Architecture, 2016.
    """
    smoothing = _check.number("smoothing", smoothing, least=0, below=1)
    logits, labels = checked(logits, labels)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    targets = labels.astype(dtype)
    if labels.ndim == 1:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=dtype)
    targets = jnp.where(valid(labels, logits.shape[-1])[:, None], targets, jnp.nan)
    targets = optax.smooth_labels(targets, smoothing) if smoothing else targets
    return jnp.mean(optax.softmax_cross_entropy(logits.astype(dtype), targets))


def accuracy(logits: Array, labels: Array) -> jax.Array:
    """Share of the batch whose largest logit is the label's.

    An example whose logits hold NaN is not right. Under ``jit`` labels cannot be looked at: one
    that is no class makes the share NaN.

    Args:
      logits: ``(N, classes)``.
      labels: classes, int ``(N,)``, or their probabilities ``(N, classes)``, of which the largest
        counts.

    Returns:
      A scalar, float32.

    Raises:
      ValueError: labels of another shape, and outside of ``jit`` a label that is no class or
        probabilities that are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import train
      >>> float(train.accuracy(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.array([1, 1])))
      0.5
    """
    logits, labels = checked(logits, labels)
    classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
    right = jnp.argmax(logits, axis=-1) == classes
    right &= ~jnp.isnan(logits).any(-1)
    counted = jnp.where(valid(labels, logits.shape[-1]), right.astype(jnp.float32), jnp.nan)
    return jnp.mean(counted)


def checked(logits: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Return logits and labels as arrays that fit each other, and hold classes if it can be seen.

    Raises:
      ValueError: what does not fit.
    """
    logits, labels = _check.array("logits", logits, ndim=2), _check.array("labels", labels)
    if not logits.size or not _real(logits.dtype):
        raise ValueError(
            f"logits are {logits.dtype} of the shape {logits.shape}; they must be real numbers "
            "(N, classes), of at least one example and one class"
        )
    whole = jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == logits.shape[:1]
    if not whole and not (labels.shape == logits.shape and _real(labels.dtype)):
        raise ValueError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; for logits {logits.shape} "
            f"they must be whole numbers {logits.shape[:1]}, or probabilities {logits.shape}"
        )
    if not isinstance(labels, Tracer):
        check_labels("labels", labels, logits.shape[-1])
    # Bytes cannot be compared with the 256th class.
    return logits, labels.astype(jnp.int32) if whole and labels.itemsize < 4 else labels


def check_labels(name: str, labels: Any, classes: int) -> None:
    """Refuse labels of which one is no class, by the label, its place and the number of classes."""
    labels = np.asarray(labels)
    if labels.ndim == 1:
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            raise ValueError(
                f"{name}[{wrong[0]}]={labels[wrong[0]]} is no class: there are {classes} classes, "
                f"0 to {classes - 1}, and {len(wrong)} of {len(labels)} labels are out of range"
            )
        return
    if labels.shape[1:] != (classes,):
        raise ValueError(
            f"{name} have the shape {labels.shape}; probabilities of {classes} classes must have "
            f"({len(labels)}, {classes})"
        )
    wrong = np.flatnonzero(~np.asarray(valid(jnp.asarray(labels), classes)))
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}]={_check.shown(labels[wrong[0]].tolist())} must be probabilities: "
            f"at least 0, with the sum 1"
        )


def valid(labels: jax.Array, classes: int) -> jax.Array:
    """Whether the label of each example is a class, or probabilities of classes."""
    if labels.ndim == 1:
        return (labels >= 0) & (labels < classes)
    sums = jnp.sum(labels.astype(jnp.float32), -1)
    return (labels >= 0).all(-1) & (jnp.abs(sums - 1) <= ROUNDING)


def _real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
