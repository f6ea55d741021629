"""Does the gradient of a plain network depend on the size of its kernels?

Plain stacks of He-initialised circular convolutions with ReLU. He's gain is 1 whatever the window.
Pass: for each window the mean of |g_0|^2 / |g_L|^2 over networks is 1 within 3 standard errors.
"""

import dataclasses

import jax

from convjax import lab, models


@dataclasses.dataclass(frozen=True)
class Plain:
    """Plain networks of one kernel size."""

    size: int
    """Height and width of the kernels."""
    depth: int
    """Layers."""
    width: int = 16
    """Channels."""

    expected = 1.0

    @property
    def label(self):
        return f"{self.size}x{self.size}"

    def __str__(self):
        return f"{self.label}, {self.depth} layers"

    def network(self, rngs):
        return models.deep_stack(
            self.depth, self.width, kernel_size=(self.size, self.size), shortcut="none",
            convs_per_unit=1, padding="CIRCULAR", rngs=rngs,
        )  # fmt: skip

    def signal(self, key, batch_size):
        return jax.random.normal(key, (batch_size, 8, 8, self.width))


Config = lab.ensembles(
    Plain, sizes=(3, 5, 7), depths=(16,), seeds=32, batch_size=4, apart=("depth",)
)
