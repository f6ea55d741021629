"""load: the cells of a study as one table, or as columns; and what they were measured by."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convjax.study._identity import key
from convjax.study._parquet import read_parquet
from convjax.study._version import version as version_of


def results(folder: str | os.PathLike, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what cells measured, end to end.

    Args:
      folder: of the study.
      keys: of finished cells, as ``study.run`` returns them; in this order.

    Returns:
      Their columns, those alone that the function returned.
    """
    parts = [read_parquet(Path(folder) / "cells" / f"{one}.parquet")[0] for one in keys]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def about(folder: str | os.PathLike, keys: Sequence[str]) -> dict[str, Any]:
    """Return what finished cells were measured by.

    Args:
      folder: of the study.
      keys: of finished cells.

    Returns:
      What JSON can hold: ``"cells"``, how many; ``"seconds"`` that they took in all;
      ``"environments"``, one dictionary as of ``study.environment`` for each that differs in more
      than the time, with ``"cells"`` and ``"hosts"``.
    """
    found: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for one in keys:
        said = read_parquet(Path(folder) / "cells" / f"{one}.parquet")[1]
        seconds += said["seconds"]
        here = {name: value for name, value in said["environment"].items() if name != "time"}
        place = found.setdefault(str(here), {**said["environment"], "cells": 0, "hosts": []})
        place["cells"] += 1
        place["hosts"] = sorted({*place["hosts"], said["host"]})
    return {"cells": len(keys), "seconds": seconds, "environments": list(found.values())}


def states(
    function: Callable[[Any], Any],
    configs: Sequence[Any],
    folder: str | os.PathLike,
    version: str | None = None,
) -> list[str]:
    """Return how each cell stands, and write nothing.

    Args:
      function: that measures.
      configs: the cells.
      folder: of the study; it need not be there.
      version: as of ``study.run``.

    Returns:
      For each cell "finished", "failed" or "to do".
    """
    found = []
    for config in configs:
        one = key(config, version or version_of(function, config))
        if (Path(folder) / "cells" / f"{one}.parquet").exists():
            found.append("finished")
        else:
            failed = (Path(folder) / "failed" / f"{one}.parquet").exists()
            found.append("failed" if failed else "to do")
    return found


def load(folder: str | os.PathLike, keys: Sequence[str] | None = None) -> Any:
    """Return every cell of a study in one tidy table."""
    raise NotImplementedError
