"""Diverged: where a run became NaN or infinite, found by taking its last steps again."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, models, nn
from convjax.train._checkpoints import Checkpoints
from convjax.train._losses import check_labels, cross_entropy
from convjax.train._precision import lower
from convjax.train._recipe import Recipe
from convjax.train._set_up import is_written
from convjax.train._source import Source
from convjax.train._state import State, assembled
from convjax.train._step import keys_of


class Diverged(ArithmeticError):  # noqa: N818 (it says what happened)
    """A run stopped because its loss or gradient became NaN or infinite.

    Args:
      message: which step, which unit, and which checkpoint stands before it.
      step: steps taken before the one that failed.
      state: the state before that step.

    Attributes:
      step: steps taken before the one that failed.
      state: the state before that step.

    Example:
      >>> from convjax import train
      >>> issubclass(train.Diverged, ArithmeticError)
      True
    """

    def __init__(self, message: str, step: int, state: State):
        super().__init__(message)
        self.step = step
        self.state = state


@dataclasses.dataclass(frozen=True)
class Replay:
    """What it takes to run some steps again: a run is a function of its start."""

    graphdef: Any
    source: Source
    recipe: Recipe
    dispatch: Callable[..., Any]
    arrays: Any
    inputs: Callable[[int, int], Any]
    frozen: models.Split | None = None
    call: Callable[..., Any] | None = None

    def explained(
        self,
        step: int,
        state: State,
        checkpoints: Checkpoints | None,
        made: Sequence[str] = (),
    ) -> Diverged:
        """Return the error that names the first unit of this step that is not finite.

        Args:
          step: the first whose loss or gradient was not finite, or the parameters after it.
          state: that of the run's beginning.
          checkpoints: where a later one may be found, and where the one before the step is kept.
          made: names of the parameters that the step's update made NaN or infinite.
        """
        if checkpoints is not None and (found := checkpoints.restore(state)) is not None:
            state = found[1]
        first = int(state.step)
        while first < step:
            end = min(step, first + self.recipe.dispatch)
            state, _ = self.dispatch(state, self.arrays, self.inputs(first, end), end - first)
            first = end
        kept = ""
        if checkpoints is not None:
            if step not in checkpoints.steps:
                checkpoints.save(step, state)
            kept = f" The state before it is checkpoint {step} in {str(checkpoints.folder)!r}."
        state = jax.device_get(state)
        cause = self._cause(state, made)
        return Diverged(f"step {step} is not finite: {cause.removesuffix('.')}.{kept}", step, state)

    def _cause(self, state: State, made: Sequence[str]) -> str:
        if bad := not_finite(state.params):
            return f"the weights were not when it began, {bad[0]} first."
        if made:
            return f"its update makes {made[0]!r} NaN or infinite, of a finite loss and gradient."
        images, labels = self.batch(state)
        net = assembled(self.graphdef, *jax.tree.map(jnp.asarray, (state.params, state.rest)))
        if self.frozen is not None:
            self.frozen.keep_statistics(net)
        lower(net, self.recipe.precision)
        if self.recipe.precision != "float32":
            images = images.astype(self.recipe.precision)
        shapes = nnx.eval_shape(
            lambda net, x: nn.applied(net, x, train=False, call=self.call), net, images
        )
        outputs = shapes.shape[-1]
        try:
            check_labels("labels", labels, outputs)
        except ValueError as error:
            return f"{error}."
        loss = partial(cross_entropy, smoothing=self.recipe.label_smoothing)
        key = keys_of(self.recipe, jnp.int32(state.step))[1]
        how: dict[str, Any] = {"train": True, "rngs": nnx.Rngs(dropout=key)}
        if not is_written(net, self.call):

            def call(net, x):
                return nn.applied(net, x, train=True, rngs=nnx.Rngs(key), call=self.call)

            how = {"call": call}
        try:
            profile = gradflow.profile(net, images, loss=loss, targets=labels, **how)
        except ValueError as error:
            return str(error)
        if not np.isfinite(profile.loss):
            return f"the loss is {float(profile.loss)}, and every unit before it finite."
        return "every unit is, measured alone; it is their sizes together that leave the range."

    def batch(self, state: State) -> tuple[jax.Array, jax.Array]:
        """Return the batch of this state's step, whole, on one device."""
        step = int(state.step)
        inputs = jax.tree.map(lambda a: jnp.asarray(a[0]), self.source.inputs(step, 1))
        arrays = jax.tree.map(jnp.asarray, self.source.arrays)
        key = keys_of(self.recipe, jnp.int32(step))[0]
        return self.source.batch(arrays, inputs, key)


def not_finite(params: Any) -> list[str]:
    """Return the names of the parameters that hold NaN or infinity."""
    # A copy of each, as ``_host.copies`` makes: of a view the buffer could not be donated.
    return [
        "/".join(str(part.key) for part in path)
        for path, leaf in jax.tree.leaves_with_path(params)
        if not np.isfinite(np.array(leaf)).all()
    ]
