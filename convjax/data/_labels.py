"""Labels are checked where they enter."""

from typing import Any

import numpy as np

from convjax._check import wrong_type


def checked_labels(name: str, labels: Any, count: int, classes: int | None = None) -> np.ndarray:
    """Return labels as int32 ``(count,)``; ``name`` says in an error which labels they are."""
    given = labels
    try:
        labels = np.asarray(labels)
    except Exception:  # of no one shape, known only to a trace, or what its own code raises
        wrong_type(name, given, "an array of whole numbers, 0, 1, …")
    if labels.shape != (count,):
        raise ValueError(f"{name} have the shape {labels.shape}; {count} images need ({count},)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} are {labels.dtype}; they must be whole numbers, 0, 1, …")
    # At most as large as int32 goes, where nothing is said.
    end = 2**31 - 1 if classes is None else classes
    wrong = np.flatnonzero((labels < 0) | (labels >= end))
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}]={labels[wrong[0]]} must lie in 0 to {end - 1}; {len(wrong)} of "
            f"{count} are out of range"
        )
    return labels.astype(np.int32)
