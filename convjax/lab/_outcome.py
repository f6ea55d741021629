"""How an experiment ends: numbers on disk, figures, tables, and a verdict from its criteria."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from convjax import plots, study
from convjax.lab._columns import Columns
from convjax.lab._criteria import Criterion
from convjax.lab._experiment import Experiment, criteria, parts
from convjax.lab._tables import console, verdict


def conclude(
    experiment: Experiment, config: Any, columns: Columns, about: Mapping[str, Any]
) -> int:
    """Write the numbers and the figures, print the tables and the verdict.

    Args:
      experiment: whose they are.
      config: the options; ``config.out`` is the folder.
      columns: the numbers of all cells.
      about: what else the file shall say of them.

    Returns:
      The exit code: 0 where every criterion holds, 1 where one does not.

    Example:
      >>> from convjax import lab
      >>> def show(experiment, config):
      ...     return lab.conclude(experiment, config, lab.measure_all(experiment, config), {})
    """
    found = criteria(experiment, columns)
    stem = Path(config.out) / stem_of(experiment)
    metadata = {
        "experiment": experiment.name,
        "about": experiment.about,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "criteria": [dataclasses.asdict(criterion) for criterion in found],
        **about,
    }
    study.write_parquet(stem.with_suffix(".parquet"), columns, metadata)
    shown, written = console(), [str(stem.with_suffix(".parquet"))]
    try:
        for name, part in parts(columns, experiment.apart):
            drawn = figure_of(experiment, Path(config.out), name)
            written += [path.name for path in plots.save(experiment.draw(part), drawn)]
            if name:
                shown.print(f"{name}\n", style="bold")
            shown.print(experiment.table(part))
            shown.print()
        for name, figure in experiment.also(columns).items():
            written += [path.name for path in plots.save(figure, Path(config.out) / name)]
    finally:  # whatever cannot be drawn, what was judged is told
        said = _tell(shown, found)
    shown.print(f"Written: {', '.join(written)}", soft_wrap=True)
    return said


def _tell(shown: Console, found: Sequence[Criterion]) -> int:
    """Print the criteria and the verdict; return the exit code."""
    held = sum(criterion.holds for criterion in found)
    if found:
        shown.print(verdict(found))
        said = "holds" if held == len(found) else "FAILS"
        shown.print(f"\nVerdict: {said} ({held} of {len(found)} criteria)")
    else:
        shown.print("No criteria: theory says nothing of what was asked for here.")
    return 0 if held == len(found) else 1


def stem_of(experiment: Experiment) -> str:
    """Return how the experiment's files are called."""
    return experiment.name.replace("-", "_")


def figure_of(experiment: Experiment, folder: Path, part: str) -> Path:
    """Return where the figure of a part is written, without the ending."""
    words = "".join(f"_{one}" for one in re.findall(r"[\w.+-]+", part))
    return folder / (stem_of(experiment) + words)
