"""save: one figure as PNG and as SVG."""

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from convjax import _check


def save(figure: Figure, stem: str | os.PathLike, *, dpi: int = 200) -> tuple[Path, Path]:
    """Write a figure to ``stem.png`` and ``stem.svg``.

    The same figure gives the same bytes: no date, no random identifiers.

    Args:
      figure: what to write.
      stem: path without ending; the folder must be there.
      dpi: pixels per inch of the PNG.

    Returns:
      The two paths.

    Raises:
      ValueError: no figure, no name, fewer than one pixel.
      FileNotFoundError: the folder is not there.

    Example:
      >>> import tempfile
      >>> from matplotlib.figure import Figure
      >>> from convjax import plots
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     [path.name for path in plots.save(Figure(), f"{folder}/empty")]
      ['empty.png', 'empty.svg']
    """
    _check.instance("figure", figure, Figure, "a figure of matplotlib")
    stem = _check.path("stem", stem)
    dpi = _check.integer("dpi", dpi, 1)
    if not stem.name:
        raise ValueError(f"stem={str(stem)!r} must end in a file's name, without ending")
    if not stem.parent.is_dir():
        raise _check.MissingFileError(
            f"stem={str(stem)!r}: there is no folder {str(stem.parent)!r}"
        )
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    figure.savefig(png, dpi=dpi)
    with matplotlib.rc_context({"svg.hashsalt": "convjax"}):
        figure.savefig(svg, metadata={"Date": None})
    return png, svg
