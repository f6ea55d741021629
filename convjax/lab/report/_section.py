"""One experiment on the page: its question, its figures part by part, its tables."""

import os
from collections.abc import Callable, Mapping
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
    experiment = measured.experiment
    # A verdict stands below the question that it answered, not below what the file asks now.
    about = measured.about.get("about") or (experiment.about if experiment else "")
    question, _, more = about.strip().partition("\n")
    if experiment is None:
        why = f" ({measured.why})" if measured.why else ""
        words = f"No experiment {measured.name!r} is here to draw it{why}; its claims are above."
        shown = tag("p", words)
    else:
        shown = join(_parts(measured, experiment, home), _also(measured, experiment, home))
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


def _parts(measured: Measured, experiment: Experiment, home: Path) -> Html:
    """Return figure and table of each part."""

    def made() -> Html:
        folder, shown = measured.path.parent, []
        for name, columns in parts_of(measured.columns, experiment.apart):
            place = figure_of(experiment, folder, name)
            figure = _figure(measured, lambda c=columns: experiment.draw(c), place, name, home)
            table = _tried("The table", lambda c=columns: printed(experiment.table(c)))
            shown.append((name, join(figure, table)))
        return _choice(shown)

    return _tried("The figure", made)


def _also(measured: Measured, experiment: Experiment, home: Path) -> Html:
    """Return the further figures."""

    def made() -> Html:
        folder, figures = measured.path.parent, experiment.also(measured.columns)
        shown = [
            (_spaced(name), _figure(measured, lambda f=figure: f, folder / name, "", home))
            for name, figure in figures.items()
        ]
        return _choice(shown)

    return _tried("Further figures", made)


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


def _choice(shown: list[tuple[str, Html]]) -> Html:
    """Return things one after the other, for a script to show one at a time."""
    if len(shown) == 1:
        return shown[0][1]
    made = [tag("div", inside, class_="part", data_part=name) for name, inside in shown]
    return tag("div", *made, class_="parts") if made else Html()


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _figure(measured: Measured, draw: Any, place: Path, part: str, home: Path) -> Html:
    def made() -> Html:
        figure = draw()
        sheet = figure if isinstance(figure, plots.Sheet) else None
        picture = _figures.address(_figures.picture(figure), "image/png")
        title = sheet.title if sheet else _spaced(place.name)
        image = tag("img", src=picture, alt=_alt(title, sheet))
        saved = [tag("a", "Picture (PNG)", download=f"{place.name}.png", class_="picture")]
        data = None
        if sheet:
            csv = _figures.address(_figures.table(sheet).encode(), "text/csv")
            words, name = "Data of this figure (CSV)", f"{place.name}.csv"
            saved.insert(0, tag("a", words, href=csv, download=name))
            data = tag("script", Html(_figures.data(sheet)), type="application/json")
            image = _folded("Static picture", image, class_="static", open=True)
        lines = tag("ul", *(tag("li", one) for one in saved))
        return tag(
            "figure",
            tag("h3", title, tag("span", f" · {part}", class_="of") if sheet and part else None),
            data,
            image,
            tag("figcaption", _thinned(sheet), lines, command(measured.command)),
            # Parts of one experiment are read alike: a series hidden in one is in the others.
            data_group=link(measured.path, home) if data and part else None,
        )

    return _tried("The figure", made)


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


def _options(config: Any) -> Html | None:
    if not isinstance(config, Mapping):
        return None
    rows = [(tag("code", name), str(value)) for name, value in config.items()]
    return _folded("Options", table("Options", ("option", "value"), rows))


def _folded(summary: str, inside: Html, **attributes: Any) -> Html:
    return tag("details", tag("summary", summary), inside, **attributes)
