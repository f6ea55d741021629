"""What a profile holds of one node."""

import dataclasses

import jax

from convjax.gradflow._norm import Norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Addition:
    """The two sides of a residual's addition, forward and backward.

    Attributes:
      branch: norm of the branch's term.
      shortcut: norm of the shortcut's term.
      branch_gradient: norm of the gradient that the branch hands back to the residual's input.
      shortcut_gradient: norm of what the shortcut hands back. The sum of the two is the gradient
        at the residual's input.
    """

    branch: Norm
    shortcut: Norm
    branch_gradient: Norm
    shortcut_gradient: Norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unit:
    """What was measured of one node; inside a ``Repeat`` every array has an axis per repeat.

    Attributes:
      kind: the node's type, or an activation's name.
      activation: norm of the node's output.
      gradient: norm of the loss's gradient with respect to the node's output.
      parameters: norm of each of the leaf's own parameters; empty for a combinator.
      parameter_gradients: norm of the loss's gradient with respect to each.
      addition: for a residual with a shortcut, the two sides of its addition.
    """

    kind: str = dataclasses.field(metadata={"static": True})
    activation: Norm
    gradient: Norm
    parameters: dict[str, Norm]
    parameter_gradients: dict[str, Norm]
    addition: Addition | None = None

    def of_signals(self) -> list[Norm]:
        """Return the norms of what passes through, parameters left aside."""
        norms = [self.activation, self.gradient]
        if self.addition is not None:
            norms += [getattr(self.addition, f.name) for f in dataclasses.fields(self.addition)]
        return norms

    def of_parameters(self) -> list[Norm]:
        """Return the norms of the parameters and of their gradients."""
        return [*self.parameters.values(), *self.parameter_gradients.values()]
