"""The page: what was found at a glance, all claims, by what they were measured, each experiment."""

import re
from pathlib import Path
from typing import Any

from convjax.lab.report._html import Html, between, join, tag
from convjax.lab.report._search import Found, Measured, Unfinished
from convjax.lab.report._section import attached, section
from convjax.lab.report._tables import table

# Nothing is loaded from anywhere: what the page shows, it holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
MARK = " · convjax</title>"  # by which a report is known
HEADS = ("claim", "measured", "expected", "verdict")
# What a name leaves out where it becomes a place in the page.
ODD = re.compile(r"[^\w-]+")


def page(found: Found, home: Path) -> str:
    """Return the page of what there is to show, which will lie in the folder ``home``."""
    marks = [f"{ODD.sub('-', one.name)}-{i}" for i, one in enumerate(found.measured, 1)]
    named = list(zip(found.measured, marks, strict=True))
    main = [
        _verdict(found, named),
        *(_unfinished(one) for one in found.unfinished),
        _left_out(found),
        _claims(named),
        _environments(found.measured),
        *(section(one, mark, _facts(one, home), home) for one, mark in named),
    ]
    alone = found.measured[0].name if len(found.measured) == 1 else ""
    title = alone or f"Studies in {found.folder.resolve().name}"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{title}{MARK.removesuffix('</title>')}"),
        tag("style", _asset("style.css")),
    ]
    body = [
        _header(found, named, title),
        tag("main", *main),
        tag("script", _asset("chart.js"), Html("\n"), _asset("page.js")),
    ]
    whole = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _asset(name: str) -> Html:
    return Html((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _header(found: Found, named: list[tuple[Measured, str]], title: str) -> Html:
    cells, machines = _spent(found.measured)
    told = [_count(len(found.measured), "experiment")]
    told += [f"{cells} of measuring"] if cells else []
    told += [f"on {machines}"] if machines else []
    links = [tag("li", tag("a", one.name, href=f"#{mark}")) for one, mark in named]
    return tag(
        "header",
        tag("p", "convjax · report", class_="kind"),
        tag("h1", title),
        tag("p", ", ".join(told), "."),
        tag("nav", tag("ul", *links), aria_label="Experiments") if len(named) > 1 else None,
    )


def _spent(measured: list[Measured]) -> tuple[str, str]:
    """Return how many cells were measured in which time, and by how many machines, if known."""
    cells = sum(int(one.about.get("cells", 0)) for one in measured)
    seconds = duration(sum(float(one.about.get("seconds", 0)) for one in measured))
    hosts = {h for one in measured for e in one.environments for h in e.get("hosts", ())}
    told = f"{_count(cells, 'cell')}, {seconds}" if cells else ""
    return told, _count(len(hosts), "machine") if hosts else ""


def _verdict(found: Found, named: list[tuple[Measured, str]]) -> Html | None:
    """Return the first thing that a reader must know: what does not hold."""
    total = sum(len(one.criteria) for one in found.measured)
    failing = [(one, mark, claim) for one, mark in named for claim in one.failing]
    broken = sum(one.failed for one in found.unfinished)
    cells = f"{_count(broken, 'cell')} failed" if broken else ""
    if not failing:
        held = _mark(True, f"All {total} claims hold" if total > 1 else "One claim, which holds")
        said = between("; ", [held if total else None, cells])
        return tag("p", said, class_="verdict") if said else None
    lines = []
    for one, mark, claim in failing:
        said, measured, expected = (str(claim.get(name, "")) for name in HEADS[:3])
        told = f": {said}: {measured}, expected {expected}"
        lines.append(tag("li", tag("a", one.name, href=f"#{mark}"), told))
    said = between("; ", [_mark(False, _failing(len(failing), total)), cells])
    return tag("div", tag("p", said), tag("ul", *lines), class_="verdict bad")


def _failing(count: int, total: int) -> str:
    return f"{count} of {_count(total, 'claim')} {'FAILS' if count == 1 else 'FAIL'}"


def _mark(holds: bool, words: str) -> Html:
    sign = tag("span", "✓" if holds else "✗", aria_hidden="true")
    return tag("strong", sign, " ", words, class_="holds" if holds else "fails")


def _claims(named: list[tuple[Measured, str]]) -> Html | None:
    """Return one table of all claims, a group of rows for each experiment."""
    if not any(one.criteria for one, _ in named):
        return None
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in HEADS)))
    groups = []
    for one, mark in named:
        counts = f"{len(one.criteria) - len(one.failing)} of {len(one.criteria)} hold"
        title = join(tag("a", one.name, href=f"#{mark}"), tag("span", f" {counts}"))
        group = tag("tr", tag("th", title, colspan=4, scope="rowgroup"), class_="group")
        groups.append(tag("tbody", group, *map(_claim, one.criteria)))
    made = tag("table", head, *groups, class_="claims")
    return tag("section", tag("h2", "Claims"), made, id="claims")


def _claim(claim: dict[str, Any]) -> Html:
    cells = [tag("td", claim.get(name, ""), data_label=name) for name in HEADS[:3]]
    holds = bool(claim.get("holds"))
    verdict = tag("td", _mark(holds, "holds" if holds else "FAILS"), data_label=HEADS[3])
    return tag("tr", *cells, verdict, class_=None if holds else "failing")


def _environments(measured: list[Measured]) -> Html | None:
    """Return by what all was measured, environments that differ in the time alone as one."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for one in measured:
        for entry in one.environments:
            apart = {k: v for k, v in entry.items() if k not in ("time", "cells", "hosts")}
            same = {"cells": one.about.get("cells", 0), "hosts": (), "time": "", **entry}
            alike.setdefault(str(apart), []).append(same)
    if not alike:
        return None
    versions = ("convjax", "python", "jax", "jaxlib", "flax", "numpy")
    heads = ("device", "system", *versions, "cells", "machines", "first cell")
    rows = [
        (
            f"{e.get('device_kind', '')} ({e.get('device_count', 1)} x {e.get('platform', '')})",
            f"{e.get('system', '')} {e.get('machine', '')}",
            *(e.get(name, "") for name in versions),
            sum(one["cells"] for one in same) or "",
            ", ".join(sorted({host for one in same for host in one["hosts"]})),
            min(str(one["time"]) for one in same).replace("T", " ").replace("+00:00", " UTC"),
        )
        for same in alike.values()
        for e in same[:1]
    ]
    made = table("Hardware and versions", heads, rows, [head == "cells" for head in heads])
    return tag("section", tag("h2", "Measured on"), made, id="measured-on")


def _facts(one: Measured, home: Path) -> Html:
    bad, total = len(one.failing), len(one.criteria)
    words = _failing(bad, total) if bad else f"{total} of {_count(total, 'claim')} hold"
    devices = dict.fromkeys(str(e.get("device_kind", "")) for e in one.environments)
    cells, machines = _spent([one])
    told = (cells, f"on {', '.join(devices)}" if any(devices) else "", machines)
    facts = [_mark(not bad, words)] if total else []
    facts += [*(tag("span", fact) for fact in told if fact), attached(one.path, home)]
    return tag("ul", *(tag("li", fact) for fact in facts), class_="facts")


def _unfinished(one: Unfinished) -> Html:
    """Return what is there of a study that is not complete."""
    words = f"{_count(one.finished, 'cell')} finished, {one.failed} failed"
    rest = "its table is below" if one.joined else "no table brings them together yet"
    lines = []
    for config, error, trace in one.failures:
        where = tag("details", tag("summary", "Where"), tag("pre", trace)) if trace else None
        lines.append(tag("li", tag("code", config), tag("p", error), where))
    again = ", and --retry measures failed cells again" if one.failed else ""
    more = one.failed - len(one.failures)
    lines += [tag("li", f"and {more} more, in its folder")] if more else []
    return tag(
        "div",
        tag("p", tag("strong", f"{one.name}: not complete"), f": {words}; {rest}. "),
        tag("p", f"The same command goes on{again}."),
        tag("p", "In the folder ", tag("code", f"{one.folder}/")),
        tag("ul", *lines) if lines else None,
        class_="verdict bad unfinished" if one.failed else "verdict unfinished",
    )


def _left_out(found: Found) -> Html | None:
    if not found.left_out:
        return None
    lines = [tag("li", tag("code", path), f": {why}") for path, why in found.left_out]
    words = f"{_count(len(lines), 'file')} left out"
    return tag("div", tag("p", tag("strong", words)), tag("ul", *lines), class_="verdict")


def duration(seconds: int | float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
