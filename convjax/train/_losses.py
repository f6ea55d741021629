"""Losses and scores of a classifier."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, smoothing: int | float = 0.0
) -> jax.Array:
    """Mean over the batch of the softmax cross-entropy, in float32 or better.

    Args:
      logits: ``(N, classes)``.
      labels: classes, int ``(N,)``, or their probabilities ``(N, classes)``, as mixup makes them.
      smoothing: share of the probability that is spread evenly over all classes.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: a smoothing outside [0, 1), labels of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import train
      >>> round(float(train.cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 3]))), 4)
      1.3863

    Reference: for the smoothing, Szegedy et al., Rethinking the Inception Architecture, 2016.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} must lie in [0, 1)")
    targets = _probabilities(logits, labels)
    logits = logits.astype(targets.dtype)
    targets = optax.smooth_labels(targets, smoothing) if smoothing else targets
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of the batch whose largest logit is the label's.

    Args:
      logits: ``(N, classes)``.
      labels: classes, int ``(N,)``, or their probabilities ``(N, classes)``, of which the largest
        counts.

    Returns:
      A scalar, float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import train
      >>> float(train.accuracy(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.array([1, 1])))
      0.5
    """
    classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
    right = jnp.argmax(logits, axis=-1) == classes
    return jnp.mean(right.astype(jnp.float32))


def _probabilities(logits: jax.Array, labels: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == logits.shape[:1]:
        return jax.nn.one_hot(labels, logits.shape[-1], dtype=dtype)
    if labels.shape == logits.shape:
        return labels.astype(dtype)
    raise ValueError(
        f"labels have shape {labels.shape} and dtype {labels.dtype}; for logits {logits.shape} "
        f"they must be whole numbers {logits.shape[:1]}, or probabilities {logits.shape}"
    )
