"""A small image classifier of any depth: stem, a stack of equal units, head."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import optax
from flax import nnx

from convjax import _check, models, nn

KNOWN = {
    "norm": nn.NORMS,
    "shortcut": ("none", "identity", "scaled", "gated"),
    "activation": nn.ACTIVATIONS,
    "init": nn.initializers.NAMES,
    "conv": ("dense", "separable"),
}


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier of handwritten digits; its fields are the columns that tell kinds apart.

    Attributes:
      norm: none, batch, group, layer.
      shortcut: none (the plain network), identity (the residual one), scaled, gated.
      width: channels.
      activation: as ``nn.Activation`` takes it.
      init: initialiser of the convolutions.
      conv: dense or separable.
      depth: weighted layers, as He et al. count them; see ``check_depths``.

    Raises:
      ValueError: a name that is not known, layers that are no whole units.

    Example:
      >>> from flax import nnx
      >>> from convjax import lab
      >>> kind = lab.Classifier("none", "identity", 4, "relu", "he", "dense", depth=8)
      >>> kind.units, kind.network(nnx.Rngs(0)).names
      (3, ('stem', 'body', 'head'))
    """

    norm: str
    shortcut: str
    width: int
    activation: str
    init: str
    conv: str
    depth: int

    convs_per_unit: ClassVar[int] = 2
    classes: ClassVar[int] = 10

    def __post_init__(self):
        for name, known in KNOWN.items():
            _check.choice(name, getattr(self, name), known)
        unit = self.convs_per_unit
        if _check.integer("depth", self.depth, 2 + unit) % unit != 2 % unit:
            raise ValueError(
                f"depth={self.depth} must be 2, of stem and head, and {unit} for each unit"
            )

    @property
    def units(self) -> int:
        """Units in the stack between stem and head."""
        return (self.depth - 2) // self.convs_per_unit

    def network(self, rngs: nnx.Rngs) -> nn.Chain:
        """Return stem, stack and head."""
        head: dict[str, nnx.Module] = {"activation": nn.Activation(self.activation)}
        if self.norm != "none":
            head = {"norm": nn.norm(self.norm, self.width, rngs=rngs), **head}
        head |= {
            "pool": nn.GlobalPool("avg"),
            "dense": nn.Dense(self.width, self.classes, rngs=rngs),
        }
        return nn.Chain(
            stem=nn.Conv(1, self.width, (3, 3), use_bias=False, kernel_init=self.init, rngs=rngs),
            body=models.deep_stack(
                self.depth - 2,
                self.width,
                shortcut=self.shortcut,
                norm=self.norm,
                activation=self.activation,
                init=self.init,
                conv=self.conv,
                convs_per_unit=self.convs_per_unit,
                rngs=rngs,
            ),
            head=nn.Chain(head),
        )


def check_depths(depths: Sequence[int]) -> None:
    """Refuse depths that no ``Classifier`` has: its layers are a stem, units, and a dense head.

    Args:
      depths: numbers of weighted layers.

    Raises:
      ValueError: it names the depth, and the nearest ones that can be built.

    Example:
      >>> from convjax import lab
      >>> lab.check_depths((8, 20))
    """
    unit = Classifier.convs_per_unit
    # Two positions on the trunk make a line that says nothing: the least stack has two units.
    least = 2 + 2 * unit
    for depth in depths:
        if depth >= least and (depth - 2) % unit == 0:
            continue
        below = max(least, 2 + (depth - 2) // unit * unit)
        near = f"{below} or {below + unit}" if depth > least else f"{least}"
        raise ValueError(
            f"depths={list(depths)}: {depth} cannot be built; a stem, units of {unit} convolutions "
            f"(at least two units) and a dense head make {least}, {least + unit}, "
            f"{least + 2 * unit}, …; the nearest would be {near}"
        )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean over the batch of the softmax cross-entropy: a loss for ``gradflow.profile``.

    Args:
      logits: ``(N, classes)``.
      labels: whole numbers ``(N,)``; they are not checked, as ``train.cross_entropy`` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import lab
      >>> round(float(lab.cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 3]))), 4)
      1.3863
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
