"""One experiment on the page: its question, its figures part by part, its tables."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure

from convjax import plots
from experiments import _outcome
from experiments._outcome import Columns, Experiment
from experiments.report import _figures
from experiments.report._html import Html, join, tag
from experiments.report._tables import printed, table
from experiments.report.found import Measured


def section(measured: Measured, mark: str, facts: Html, home: Path) -> Html:
    """Return everything of one experiment.

    Args:
      measured: its table.
      mark: the section's name within the page.
      facts: its claims, cells and device in one line.
      home: the page's folder, from which links lead.
    """
    experiment = measured.experiment
    question, _, more = (experiment.about if experiment else "").strip().partition("\n")
    if experiment is None:
        shown = tag(
            "p", f"No experiment {measured.name!r} is here to draw it; its claims are above."
        )
    else:
        shown = join(*_parts(measured, experiment, home), *_also(measured, experiment, home))
    return tag(
        "section",
        tag("h2", tag("a", measured.name, href=f"#{mark}")),
        tag("p", question, class_="question") if question else None,
        facts,
        _folded("How it is measured and judged", tag("pre", more.strip("\n"))) if more else None,
        shown,
        _options(measured.about.get("config")),
        id=mark,
        class_="experiment",
    )


def link(path: Path, home: Path) -> str:
    """Return a file's address, seen from the page's folder."""
    return quote(Path(os.path.relpath(path.resolve(), home.resolve())).as_posix())


def _parts(measured: Measured, experiment: Experiment, home: Path) -> list[Html]:
    """Return figure and table of each part; a script makes it a choice where there are several."""
    try:
        parts = _outcome.parts(experiment, measured.columns)
    except ValueError as error:
        return [_refused("The figure", error)]
    made = []
    for name, columns in parts:
        place = _outcome.figure_of(experiment, measured.path.parent, name)
        made.append(
            tag(
                "div",
                _figure(measured, lambda c=columns: experiment.draw(c), place, name, home),
                _table(experiment, columns),
                class_="part",
                data_part=name,
            )
        )
    if len(made) == 1:
        return made
    return [tag("div", *made, class_="parts")]


def _also(measured: Measured, experiment: Experiment, home: Path) -> list[Html]:
    try:
        figures: Mapping[str, Figure] = experiment.also(measured.columns)
    except Exception as error:  # whatever an older file lacks, the rest of the page is made
        return [_refused("Further figures", error)]
    folder = measured.path.parent
    return [
        _figure(measured, lambda f=figure: f, folder / name, name, home)
        for name, figure in figures.items()
    ]


def _figure(measured: Measured, draw: Any, place: Path, name: str, home: Path) -> Html:
    try:
        figure = draw()
        picture = _figures.picture(figure)
    except Exception as error:  # as above
        return _refused("The figure", error)
    png = place.with_name(f"{place.name}.png")
    if not png.exists():
        # Where the folder cannot be written to, the page holds the picture all the same.
        with contextlib.suppress(OSError):
            plots.save(figure, place)
    sheet = figure if isinstance(figure, plots.Sheet) else None
    title = sheet.title if sheet else place.name.replace("_", " ")
    image = tag("img", src=_figures.address(picture, "image/png"), alt=_alt(title, sheet))
    links: list[tuple[str, str, str | None]] = [("Data (Parquet)", link(measured.path, home), None)]
    if sheet:
        address = _figures.address(_figures.table(sheet).encode(), "text/csv")
        links.append(("Data of this figure (CSV)", address, f"{place.name}.csv"))
    if png.exists():
        links.append(("Picture (PNG)", link(png, home), None))
    return tag(
        "figure",
        tag("h3", title, tag("span", f" · {name}", class_="of") if sheet and name else None),
        tag("script", Html(_figures.data(sheet)), type="application/json") if sheet else None,
        _folded("Static picture", image, class_="static", open=True) if sheet else image,
        tag(
            "figcaption",
            _thinned(sheet),
            tag("ul", *(tag("li", tag("a", t, href=h, download=d)) for t, h, d in links)),
            command(measured.command),
        ),
        data_group=measured.name if sheet and name else None,
    )


def command(text: str) -> Html:
    """Return a command that can be copied."""
    button = tag("button", "Copy", type="button", class_="copy", aria_label=f"Copy: {text}")
    return tag("div", tag("code", text), button, class_="command")


def _alt(title: str, sheet: plots.Sheet | None) -> str:
    if sheet is None:
        return title
    panels = "; ".join(f"{one.ylabel} against {one.xlabel} ({one.title})" for one in sheet.panels)
    return f"{title}. Panels: {panels}."


def _thinned(sheet: plots.Sheet | None) -> Html | None:
    longest = _figures.thinned(sheet) if sheet else 0
    if not longest:
        return None
    return tag("p", f"Of up to {longest} points in a series, {_figures.MOST} are on this page.")


def _table(experiment: Experiment, columns: Columns) -> Html:
    try:
        return printed(experiment.table(columns))
    except Exception as error:  # as above
        return _refused("The table", error)


def _refused(what: str, error: Exception) -> Html:
    return tag(
        "p",
        f"{what} cannot be drawn from this file ({type(error).__name__}: {error}): another version "
        "wrote it. The command makes it anew.",
        class_="refused",
    )


def _options(config: Any) -> Html | None:
    if not isinstance(config, Mapping):
        return None
    rows = [(tag("code", name), str(value)) for name, value in config.items()]
    return _folded("Options", table("Options", ("option", "value"), rows))


def _folded(summary: str, inside: Html, **attributes: Any) -> Html:
    return tag("details", tag("summary", summary), inside, **attributes)
