"""What trained classifiers do with their units: features along depth, and lesions."""

from typing import Any

import jax
import jax.numpy as jnp

from convjax import gradflow
from convjax.lab._classifier import cross_entropy


def scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return loss and accuracy."""
    return cross_entropy(logits, labels), jnp.mean(logits.argmax(-1) == labels)


def looked(net: Any, images: Any, labels: Any, *, layers: bool = False) -> dict[str, jax.Array]:
    """Return what ``gradflow.along`` finds, and loss and accuracy of ``gradflow.lesions``."""
    found = gradflow.along(net, images)
    lesions = gradflow.lesions(net, images, lambda logits: scores(logits, labels), layers=layers)
    for name, pair in lesions.items():
        values = map(jnp.atleast_1d, pair)
        found |= dict(zip((f"{name}_loss", f"{name}_accuracy"), values, strict=True))
    return found
