"""What stands on the README pages is true: code runs, outputs are those printed, links lead on.

A page's ``python`` blocks run in their order, in one module, in an empty folder. A ``text`` block
below one shows what it prints: the words are compared exactly, the figures up to two units of
their last digit, since versions of JAX round differently. What cannot run here says so, and why,
in the line above the block: ``<!-- not run: … -->``.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import convjax
from experiments import __main__ as experiments
from tests.nn.conftest import quick_compilation as quick_compilation

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for folder in (".", "convjax/**", "experiments/**", "tests")
    for page in ROOT.glob(f"{folder}/README.md")
)
ROOMS = [page for page in PAGES if page.parent.parent == ROOT / "convjax"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?:e[-+]?\d+)?|(?<![\w.])[-+]?\d+(?![\w.])")
NOT_RUN = re.compile(r"<!-- not run: .+ -->\n$")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
each_room = pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.parent.name)


class Block(NamedTuple):
    language: str
    text: str
    line: int
    run: bool


def blocks(page):
    text = page.read_text()
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        run = NOT_RUN.search(before) is None
        yield Block(found[1], found[2], before.count("\n") + 2, run)


def as_module(page, folder, name):
    """Return an empty module whose source is the page's code, at the page's own lines."""
    lines = [""] * (page.read_text().count("\n") + 1)
    for block in blocks(page):
        if block.language == "python" and block.run:
            code = block.text.splitlines()
            lines[block.line - 1 : block.line - 1 + len(code)] = code
    file = folder / f"{name}.py"
    file.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location(name, file)
    return importlib.util.module_from_spec(spec)


def alike(shown, printed):
    """Whether two figures agree but for two units of the last digit; whole numbers exactly."""
    decimals = [len(f.split("e")[0].partition(".")[2]) for f in (shown, printed)]
    if not any(decimals):
        return shown == printed
    powers = [10.0 ** int(f.partition("e")[2] or 0) for f in (shown, printed)]
    unit = max(powers) * 10.0 ** -max(decimals)
    return abs(float(shown) - float(printed)) <= 2.01 * unit


def assert_printed(shown, printed):
    # Figures of another length move the columns.
    words = [" ".join(FIGURE.sub("#", text).split()) for text in (shown, printed)]
    assert words[0] == words[1], printed
    for figures in zip(*(FIGURE.findall(text) for text in (shown, printed)), strict=True):
        assert alike(*figures), (figures, printed)


@pytest.mark.usefixtures("quick_compilation")
@each_page
def test_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch, capsys):
    name = f"page_{PAGES.index(page)}"
    module = as_module(page, tmp_path, name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    printed = None
    for block in blocks(page):
        if block.language == "python":
            printed = None
            if block.run:
                code = compile("\n" * (block.line - 1) + block.text, module.__file__, "exec")
                exec(code, vars(module))
                printed = capsys.readouterr().out
        elif block.language == "text" and printed is not None:
            assert_printed(block.text, printed)
            printed = None


@each_page
def test_links_and_pictures_are_there(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), target


@each_page
def test_commands_name_experiments(page):
    named = set(re.findall(r"python -m experiments ([a-z][\w-]+)", page.read_text()))
    assert not named or named <= set(experiments.found())


@each_room
def test_a_room_names_all_that_is_public(page):
    room = importlib.import_module(f"convjax.{page.parent.name}")
    names = [name for name in getattr(room, "__all__", vars(room)) if not name.startswith("_")]
    names = [name for name in names if not inspect.ismodule(getattr(room, name))]
    code = " ".join(re.findall(r"`([^`\n]+)`", page.read_text()))
    absent = [name for name in names if not re.search(rf"(?<!\w){name}(?!\w)", code)]
    assert not absent, absent


def test_the_face_fits():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    assert lines.index("```python") < 50


def test_one_version_is_named_everywhere():
    places = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\S+)",
    }
    found = {re.search(e, (ROOT / f).read_text(), re.MULTILINE)[1] for f, e in places.items()}
    assert found == {convjax.__version__}


def test_figures_are_compared_by_their_last_digit():
    assert_printed("rms  0.0518   3 rows", "rms 0.0517 3 rows")
    for shown in ("rms 0.0521 3 rows", "rms 0.0518 4 rows", "norm 0.0518 3 rows"):
        with pytest.raises(AssertionError):
            assert_printed(shown, "rms 0.0518 3 rows")
