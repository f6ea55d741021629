"""One experiment on the page: its question, its figures part by part, its tables."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from convjax import plots
from convjax.lab._experiment import Experiment
from convjax.lab._experiment import parts as parts_of
from convjax.lab._outcome import figure_of
from convjax.lab.report import _figures
from convjax.lab.report._html import Html, join, tag
from convjax.lab.report._search import Measured
from convjax.lab.report._tables import printed, table

# Bytes of the largest table that a page holds; a usual one has a tenth of it.
LARGEST = 2_000_000


def section(measured: Measured, mark: str, facts: Html, home: Path) -> Html:
    """Return everything of one experiment, marked so; links lead from the page's folder, home."""
    asked, config = measured.experiment, measured.about.get("config")
    # A verdict stands below the question that it answered, not below what the file asks now.
    about = measured.about.get("about") or (asked.about if asked else "")
    question, _, more = about.strip().partition("\n")
    if asked is None:
        why = f" ({measured.why})" if measured.why else ""
        words = f"No experiment {measured.name!r} is here to draw it{why}; its claims are above."
        shown = tag("p", words)
    else:
        shown = join(
            _tried("The figure", lambda: _choice(_parts(measured, asked, home))),
            _tried("Further figures", lambda: _choice(_also(measured, asked, home))),
        )
    options = None
    if isinstance(config, Mapping):
        rows = [(tag("code", name), str(value)) for name, value in config.items()]
        options = _folded("Options", table("Options", ("option", "value"), rows))
    return tag(
        "section",
        tag("h2", tag("a", measured.name, href=f"#{mark}")),
        tag("p", question, class_="question") if question else None,
        facts,
        _folded("How it is measured and judged", tag("pre", more.strip("\n"))) if more else None,
        shown,
        options,
        id=mark,
        class_="experiment",
    )


def link(path: Path, home: Path) -> str:
    """Return a file's address, seen from the page's folder."""
    return quote(os.fsencode(Path(os.path.relpath(path.resolve(), home.resolve())).as_posix()))


def attached(path: Path, home: Path) -> Html:
    """Return a file to be saved: it lies within the page, or beside it where it is too large.

    A page that is sent alone has what lies within; what does not is said.
    """
    size = path.stat().st_size
    if size <= LARGEST:
        content = _figures.address(path.read_bytes(), "application/vnd.apache.parquet")
        return tag("a", path.name, href=content, download=path.name)
    beside = f" ({size / 1e6:.0f} MB, beside this page and not within)"
    return join(tag("a", path.name, href=link(path, home)), beside)


def _parts(measured: Measured, experiment: Experiment, home: Path) -> Iterator[tuple[str, Html]]:
    """Yield figure and table of each part."""
    for name, columns in parts_of(measured.columns, experiment.apart):
        place = figure_of(experiment, measured.path.parent, name)
        figure = _figure(measured, partial(experiment.draw, columns), place, name, home)
        yield (
            name,
            join(figure, _tried("The table", lambda c=columns: printed(experiment.table(c)))),
        )


def _also(measured: Measured, experiment: Experiment, home: Path) -> Iterator[tuple[str, Html]]:
    """Yield the further figures."""
    for name, figure in experiment.also(measured.columns).items():
        place = measured.path.parent / name
        yield _spaced(name), _figure(measured, lambda f=figure: f, place, "", home)


def _tried(what: str, make: Callable[[], Html]) -> Html:
    """Return what is made; whatever an older file lacks for it, the rest of the page is made."""
    try:
        return make()
    except Exception as error:
        words = (
            f"{what} cannot be drawn from this file ({type(error).__name__}: {error}). If another "
            "version wrote it, the command makes it anew; else the question's file has a mistake."
        )
        return tag("p", words, class_="refused")


def _choice(parts: Iterable[tuple[str, Html]]) -> Html:
    """Return things one after the other, for a script to show one at a time."""
    shown = dict(parts)
    if len(shown) == 1:
        return next(iter(shown.values()))
    made = [tag("div", inside, class_="part", data_part=name) for name, inside in shown.items()]
    return tag("div", *made, class_="parts") if made else Html()


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _figure(measured: Measured, draw: Any, place: Path, part: str, home: Path) -> Html:
    """Return a figure: what the script draws, the picture without it, and what can be saved."""

    def made() -> Html:
        figure = draw()
        sheet = figure if isinstance(figure, plots.Sheet) else None
        title = sheet.title if sheet else _spaced(place.name)
        picture = _figures.address(_figures.picture(figure), "image/png")
        image = tag("img", src=picture, alt=_alt(sheet) if sheet else title)
        saved = [tag("a", "Picture (PNG)", download=f"{place.name}.png", class_="picture")]
        data = thinned = None
        if sheet:
            csv = _figures.address(_figures.table(sheet).encode(), "text/csv")
            words, name = "Data of this figure (CSV)", f"{place.name}.csv"
            saved.insert(0, tag("a", words, href=csv, download=name))
            data = tag("script", Html(_figures.data(sheet)), type="application/json")
            image = _folded("Static picture", image, class_="static", open=True)
            if longest := _figures.thinned(sheet):
                most = f"{_figures.MOST} are on this page."
                thinned = tag("p", f"Of up to {longest} points in a series, {most}")
        lines = tag("ul", *(tag("li", one) for one in saved))
        return tag(
            "figure",
            tag("h3", title, tag("span", f" · {part}", class_="of") if sheet and part else None),
            data,
            image,
            tag("figcaption", thinned, lines, _command(measured.command)),
            # Parts of one experiment are read alike: a series hidden in one is in the others.
            data_group=link(measured.path, home) if data and part else None,
        )

    return _tried("The figure", made)


def _command(text: str) -> Html:
    """Return a command that can be copied."""
    button = tag("button", "Copy", type="button", class_="copy", aria_label=f"Copy: {text}")
    return tag("div", tag("code", text), button, class_="command")


def _alt(sheet: plots.Sheet) -> str:
    panels = "; ".join(f"{one.ylabel} against {one.xlabel} ({one.title})" for one in sheet.panels)
    return f"{sheet.title}. Panels: {panels}."


def _folded(summary: str, inside: Html, **attributes: Any) -> Html:
    return tag("details", tag("summary", summary), inside, **attributes)
