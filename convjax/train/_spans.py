"""Spans: where a run is cut into dispatches, tests and checkpoints."""

from collections.abc import Iterator

from convjax.train._recipe import Recipe


def spans(first: int, recipe: Recipe) -> Iterator[tuple[int, int]]:
    """Yield the first step and the one after the last of every dispatch.

    Where one ends is a function of the step alone, whatever the first is.
    """
    while first < recipe.steps:
        ends = [first - first % recipe.dispatch + recipe.dispatch, recipe.steps]
        for every in (recipe.test_every, recipe.checkpoint_every):
            if every:
                ends.append(first - first % every + every)
        yield first, min(ends)
        first = min(ends)


def due(step: int, every: int) -> bool:
    """Tell whether something that is done every so many steps, or never, is done after a step."""
    return bool(every) and step % every == 0
