"""The report in a browser: what it shows when it is pointed at, clicked, and read on a phone."""

import json
import re

import numpy as np
import pytest

from convjax.lab import report
from tests.lab import planted
from tests.lab.chromium import PROGRAM, Chromium

pytestmark = pytest.mark.skipif(not PROGRAM, reason="no Chromium is installed")

RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
NUMBERS = {depth: planted.measure(planted.Cell(depth)) for depth in planted.DEPTHS}
# The panels of the part that is shown.
PANEL = ".part:not([hidden]) .panel"


@pytest.fixture(scope="module")
def browser():
    browser = Chromium()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    planted.write(folder / "planted")
    with pytest.MonkeyPatch.context() as patch:
        planted.known(patch)
        return report.write(folder)


@pytest.fixture
def page(browser, path):
    page = browser.open(path)
    page.run("localStorage.clear()")
    page.visit(path)
    yield page
    assert page.complaints == []
    page.close()


def number(text):
    """Read a number as the page writes it."""
    plain = text.replace("\N{MINUS SIGN}", "-")
    power = re.fullmatch(r"(-?)(?:(.*)·)?10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", plain)
    if power is None:
        return float(plain)
    sign, digits, exponent = power.groups()
    return float(f"{sign}{digits or 1}e{exponent.translate(RAISED)}")


def test_numbers_are_read_as_they_are_written():
    texts = ("\N{MINUS SIGN}0.5", "10⁻¹²", "1.5·10⁶", "100", "\N{MINUS SIGN}10⁵", "10")
    assert [number(text) for text in texts] == [-0.5, 1e-12, 1.5e6, 100, -1e5, 10]


def ticks(page, which, panel):
    """Return values and places of the ticks of an axis that have a name."""
    at = "cx" if which == "x" else "cy"
    found = page.run(
        f"[...document.querySelectorAll('{PANEL}')[{panel}].querySelectorAll('.tick.{which}')]"
        f".map(t => [t.textContent, +t.getAttribute('{at[1]}')])"
    )
    # The names of y stand beside their place, those of x below.
    return np.array([number(text) for text, _ in found]), np.array([place for _, place in found])


def places(page, panel, label):
    """Return where the points of a series are drawn, within the chart."""
    found = page.run(
        f"[...document.querySelectorAll('{PANEL}')[{panel}].querySelectorAll('g.series')]"
        f".filter(g => g.dataset.label === {label!r})"
        ".flatMap(g => [...g.querySelectorAll('circle')])"
        ".map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')])"
    )
    return np.array(found).reshape(-1, 2)


def by_the_ticks(page, panel, which, values, scale):
    """Return where values must lie, from the ticks of the axis alone."""
    seen, at = ticks(page, which, panel)
    assert len(seen) >= 3
    f = np.log10 if scale == "log" else np.asarray
    slope, start = np.polyfit(f(seen), at, 1)
    np.testing.assert_allclose(slope * f(seen) + start, at, atol=0.1)
    return slope * f(np.asarray(values, float)) + start


def test_ticks_are_told_apart_and_say_where_they_are(page):
    rng = np.random.default_rng(0)
    starts = rng.uniform(-30, 30, 40)
    ranges = [(a, a + w) for a, w in zip(starts, 10 ** rng.uniform(-4, 2, 40), strict=True)]
    far = [(-4000.25, -4000.0), (-5000.0, 3000.0), (305.0, 306.5)]
    cases = [("log", True, list(ends)) for ends in [*ranges, *far]]
    cases += [
        ("linear", False, list(ends)) for ends in [*ranges, (1e-9, 3e-9), (-2e7, 1e8), (0, 9)]
    ]
    cases += [("log", False, [10**a, 10**b]) for a, b in ranges]
    found = page.run(f"{json.dumps(cases)}.map(([s, p, ends]) => axisOf(ends, s, p, 6))")
    for (scale, _, ends), axis in zip(cases, found, strict=True):
        at = np.array([tick["at"] for tick in axis["ticks"]])
        names = [tick["text"] for tick in axis["ticks"]]
        assert 2 <= len(at) <= 13, (ends, names)
        assert len(set(names)) == len(names), (ends, names)
        assert (at >= axis["from"] - 1e-9).all() and (at <= axis["to"] + 1e-9).all()
        assert (np.diff(at) > 0).all()
        if scale == "log":
            values = [logarithm(name) for name in names]
        else:
            values = [number(name) for name in names]
        np.testing.assert_allclose(values, at, atol=0.005 * (axis["to"] - axis["from"]) + 1e-4)


def logarithm(text):
    """Read a number as the page writes it, where no float holds it."""
    digits, _, exponent = text.rpartition("10") if text[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹" else (text, "", "")
    return np.log10(float(digits.rstrip("·") or 1)) + int(exponent.translate(RAISED) or 0)


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_points_lie_where_the_axes_say_on_either_scale(page, scale):
    if scale == "linear":
        page.click(f"{PANEL} .axis.y button")
    drawn = places(page, 0, planted.LABEL)
    numbers = NUMBERS[4]
    np.testing.assert_allclose(
        drawn[:, 0], by_the_ticks(page, 0, "x", numbers["layer"], "linear"), atol=0.2
    )
    np.testing.assert_allclose(
        drawn[:, 1], by_the_ticks(page, 0, "y", numbers["norm"], scale), atol=0.2
    )
    assert np.ptp(drawn[:, 1]) > 60
    # The axis is chosen for the other part as well.
    page.click(".chooser button", 1)
    again = by_the_ticks(page, 0, "y", NUMBERS[7]["norm"], scale)
    np.testing.assert_allclose(places(page, 0, planted.LABEL)[:, 1], again, atol=0.2)


def test_what_has_no_place_on_a_logarithmic_axis_is_counted(page):
    def note():
        return page.run(f"document.querySelectorAll('{PANEL} .note')[1].textContent")

    signed = NUMBERS[4]["signed"]
    assert note() == "1 point not shown: no finite number."
    assert len(places(page, 1, planted.SIGNED)) == 3
    page.click(f"{PANEL} .axis.y button", 1)
    positive = (signed > 0).sum()
    assert len(places(page, 1, planted.SIGNED)) == positive
    assert note() == f"{4 - positive} points not shown: 0, negative, or no finite number."
    page.click(f"{PANEL} .axis.y button", 1)
    assert len(places(page, 1, planted.SIGNED)) == 3


def told(page):
    """Return what stands in the box that is shown."""
    return page.run(
        "[...document.querySelectorAll('.tip:not([hidden])')]"
        ".map(t => [t.querySelector('p').textContent,"
        " Object.fromEntries([...t.querySelectorAll('dt')].map(d => "
        "[d.textContent, d.nextElementSibling.textContent]))])"
    )


def corner(page, panel=0):
    """Bring a chart into view and return where it begins."""
    page.middle(f"{PANEL} svg", panel)
    return page.run(
        "(b => [b.x, b.y])("
        f"document.querySelectorAll('{PANEL} svg')[{panel}].getBoundingClientRect())"
    )


def expect_told(page, depth, i):
    (label, said), numbers = told(page)[0], NUMBERS[depth]
    assert len(told(page)) == 1
    assert label == planted.LABEL
    assert said["place"] == f"body/{i}"
    assert number(said["layer"]) == i
    norm, expected = numbers["norm"][i], numbers["expected"][i]
    assert number(said["measured"]) == pytest.approx(norm, rel=1e-3)
    assert number(said["expected"]) == pytest.approx(expected, rel=1e-3)
    # The other series has nothing measured: its line is part of what is said.
    assert number(said[planted.THEORY]) == pytest.approx(2.5 * norm, rel=1e-3)
    for name, ends in (("from, to", (0.5, 3.0)), ("band", (1.0, 2.5))):
        found = [number(one) for one in said[name].split(", ")]
        np.testing.assert_allclose(found, np.array(ends) * norm, rtol=1e-3)


def test_pointing_at_a_layer_says_its_norm_prediction_and_band(page):
    page.click(".chooser button", 1)
    x = by_the_ticks(page, 0, "x", NUMBERS[7]["layer"], "linear")
    y = by_the_ticks(page, 0, "y", NUMBERS[7]["norm"], "log")
    left, top = corner(page)
    assert told(page) == []
    for i in (5, 0, 6):
        page.point(left + x[i] + 2, top + y[i] - 1)
        expect_told(page, 7, i)
    page.point(left + x[6], top - 200)
    assert told(page) == []


def test_the_nearest_point_is_meant(page):
    rng = np.random.default_rng(1)
    points, pointers = rng.uniform(0, 300, (50, 2)), rng.uniform(0, 300, (40, 2))
    drawn = [{"cx": x, "cy": y} for x, y in points.tolist()]
    found = page.run(
        f"{json.dumps(pointers.tolist())}.map(([x, y]) => nearest({json.dumps(drawn)}, x, y).cx)"
    )
    away = ((points[None] - pointers[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(found, points[away.argmin(1), 0])


def test_arrow_keys_go_from_point_to_point(page):
    page.run(f"document.querySelector('{PANEL} svg').focus()")
    for i in range(2):
        page.press("ArrowRight")
        expect_told(page, 4, i)
    page.press("ArrowLeft")
    expect_told(page, 4, 0)
    page.press("Escape")
    assert told(page) == []


def test_a_part_is_chosen_and_the_page_remembers_it(page, path):
    def shown():
        return page.run(
            "[...document.querySelectorAll('.part')]"
            ".filter(p => p.offsetHeight).map(p => p.dataset.part)"
        )

    assert shown() == ["depth 4"]
    assert len(places(page, 0, planted.LABEL)) == 4
    page.click(".chooser button", 1)
    assert shown() == ["depth 7"]
    assert len(places(page, 0, planted.LABEL)) == 7
    assert (
        page.run("document.querySelector('.chooser [aria-pressed=true]').textContent") == "depth 7"
    )
    page.visit(path)
    assert shown() == ["depth 7"]
    assert len(places(page, 0, planted.LABEL)) == 7


def test_the_legend_hides_a_series_and_shows_it_again(page):
    def labels():
        return page.run(
            f"[...document.querySelectorAll('{PANEL} g.series')].map(g => g.dataset.label)"
        )

    every = [planted.LABEL, planted.THEORY, planted.SIGNED]
    assert labels() == every
    legend = ".part:not([hidden]) .legend button"
    assert page.run(f"[...document.querySelectorAll('{legend}')].map(b => b.textContent)") == every
    page.click(legend)
    assert labels() == every[1:]
    assert page.run(f"document.querySelector('{legend}').ariaPressed") == "false"
    page.click(".chooser button", 1)
    assert labels() == every[1:]
    page.click(legend)
    assert labels() == every


def test_nothing_leaves_the_page(page, path):
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.settle()
    assert path.resolve().as_uri() in page.requests
    assert all(one.startswith(("file://", "data:")) for one in page.requests)
    assert {one for one in page.requests if one.startswith("file://")} == {path.resolve().as_uri()}


def test_pictures_are_there_and_folded_away(page):
    found = page.run(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(found) == 3 and min(found) > 400
    shown = page.run("[...document.images].map(i => i.checkVisibility())")
    assert shown == [False, False, True]  # what is no sheet is its picture


def test_a_picture_is_saved_from_the_page(page):
    found = page.run(
        "[...document.querySelectorAll('figure')].map(f => "
        "f.querySelector('a.picture').href === f.querySelector('img').src)"
    )
    assert found == [True] * 3


def test_the_command_is_copied(page):
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.click(".part:not([hidden]) button.copy")
    assert page.run("window.copied") == planted.COMMAND
    assert page.run("document.querySelector('button.copy').textContent") == "Copied"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_all_in_letters_that_can_be_read(browser, path, dark):
    page = browser.open(path, width=360, height=740, dark=dark, touch=True)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= 360
    # Whatever has text of its own and is not in a box that scrolls.
    small = page.run(
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&"
        " [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) &&"
        " parseFloat(getComputedStyle(e).fontSize) < 14).map(e => e.outerHTML.slice(0, 80))"
    )
    assert small == []
    wide = page.run(
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&"
        " !e.closest('.scroll') && e.getBoundingClientRect().right > 360.5)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    x = by_the_ticks(page, 0, "x", NUMBERS[4]["layer"], "linear")
    y = by_the_ticks(page, 0, "y", NUMBERS[4]["norm"], "log")
    left, top = corner(page)
    page.touch(left + x[3], top + y[3])
    expect_told(page, 4, 3)
    edges = page.run(
        "(b => [b.left, b.right])("
        "document.querySelector('.tip:not([hidden])').getBoundingClientRect())"
    )
    assert edges[0] >= 0 and edges[1] <= 360
    light = page.run("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(255, 255, 255)") != dark
    assert page.complaints == []
    page.close()
