"""One HTML page of what studies found: ``convjax report FOLDER``."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from convjax.lab._options import refusing
from convjax.lab._tables import console
from convjax.lab.report import _page, _search


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    folder: tyro.conf.Positional[Path]
    """Results of an experiment, or a folder of such folders, such as results."""
    out: Path | None = None
    """The page; without it, report.html in that folder."""


def main(argv: Sequence[str]) -> int:
    """Write the page from the command line and return the exit code."""
    about = "Write one HTML page of what studies found, to be opened from disk."
    typed = "convjax" if Path(sys.argv[0]).stem == "convjax" else "python -m experiments"
    config = tyro.cli(Config, args=list(argv), prog=f"{typed} report", description=about)
    with refusing():
        written = write(config.folder, config.out)
    console().print(f"Written: {written}", soft_wrap=True)
    return 0


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the page of all studies in a folder and in the folders inside, two levels down.

    Args:
      folder: where to look.
      out: the page; None for ``report.html`` in the folder.

    Returns:
      The page's path.

    Raises:
      ValueError: there is no such folder, nothing is in it, or the page cannot be written.
    """
    folder = Path(folder)
    out = folder / "report.html" if out is None else Path(out)
    if out.is_file() and _page.MARK not in out.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(
            f"out={str(out)!r} is a file and no report of convjax; choose another name"
        )
    studies = _search.search(folder)
    made = _page.page(studies, out.parent)
    # A page that is there stays until the new one is whole.
    beside = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(made, encoding="utf-8")
        beside.replace(out)
    except OSError as error:
        raise ValueError(f"cannot write {str(out)!r}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return out
