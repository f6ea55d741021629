"""The report: what stands on the page, what it holds, and what it tolerates."""

import base64
import csv
import dataclasses
import html
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import matplotlib.image
import numpy as np
import pytest
from rich.console import Group
from rich.table import Table

from convjax import plots, study
from convjax.lab import report
from convjax.lab.report import _figures, _search, _section
from convjax.lab.report._tables import printed
from experiments import __main__ as entry
from tests.lab import planted


@pytest.fixture(autouse=True)
def known(monkeypatch):
    planted.known(monkeypatch)


@pytest.fixture
def change(monkeypatch):
    """Change the planted experiment."""

    def changed(**functions):
        made = dataclasses.replace(planted.EXPERIMENT, **functions)
        monkeypatch.setattr(planted, "EXPERIMENT", made)

    return changed


@pytest.fixture
def quick(change):
    """Draw nothing: for tests of what stands beside the figures."""
    change(draw=lambda columns: plots.Sheet("blank", [], figsize=(1, 1)), also=lambda columns: {})


def text_of(page):
    """What a reader reads, roughly: no scripts, no tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def write(folder):
    return report.write(folder).read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    planted.write(folder / "deep" / "planted")
    with pytest.MonkeyPatch.context() as patch:
        planted.known(patch)
        return folder, write(folder)


def test_it_says_what_was_run_on_what_and_what_came_out(whole):
    text = text_of(whole[1])
    assert "How large are planted numbers?" in text
    assert "1 experiment, 2 cells, 75 s of measuring, on 2 machines." in text
    for word in ("abacus (2 x wood)", "3.13.0", "0.12.0", "one, two", "2026-01-02 03:04:05 UTC"):
        assert word in text, word
    assert text.count(planted.COMMAND) == 3  # of each part, and of the further figure
    assert "They are <drawn> from a generator." in text
    assert "Norms of every layer" in text and "body/6" in text


def test_a_claim_that_fails_stands_first_and_in_the_table(whole):
    page = whole[1]
    text = text_of(page)
    assert "✗ 1 of 4 claims FAILS" in text
    assert text.index("claims FAILS") < text.index("planted : depth 7: the depth of <i>7</i>: 7")
    assert text.index("the depth of <i>7</i>: 7") < text.index("Claims claim measured expected")
    assert "3 of 4 hold" in text
    assert (page.count("✓"), page.count("✗")) == (3, 1 + 1 + 1)
    assert len(re.findall(r'<tr class="failing">', page)) == 1


def test_text_is_escaped_and_scripts_end_where_they_should(whole):
    page = whole[1]
    assert "<b>He" not in page and "<i>4" not in page and "<drawn>" not in page
    assert page.count("</script>") == 3 == page.count("<script")
    shown = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[0])
    assert shown["title"] == "Planted </script> numbers"


def test_every_link_leads_into_the_page_and_every_mark_is_there(whole):
    _, page = whole
    links = re.findall(r'href="([^"]*)"', page)
    files = {unquote(one) for one in links if not one.startswith(("#", "data:"))}
    assert files == set()  # the page can be sent alone
    marks = {one[1:] for one in links if one.startswith("#")}
    assert marks and all(f'id="{mark}"' in page for mark in marks)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)


def test_pictures_are_in_the_page(whole):
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)" alt="([^"]+)"', whole[1])
    assert len(pictures) == 3
    for content, _ in pictures:
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(content)))
        assert min(image.shape[:2]) >= 300 and image.std() > 0.01


def test_the_table_lies_within_the_page(whole):
    folder, page = whole
    ((content, name),) = re.findall(
        r'href="data:[^"]*parquet;base64,([^"]*)" download="(.*?)"', page
    )
    assert name == "planted.parquet"
    assert base64.b64decode(content) == (folder / "deep" / "planted" / name).read_bytes()


def test_a_table_too_large_for_the_page_is_said_to_lie_beside_it(tmp_path, monkeypatch, quick):
    planted.write(tmp_path / "results" / "plan\u00e9d")
    monkeypatch.setattr(_section, "LARGEST", 1000)
    page = report.write(tmp_path / "results", tmp_path / "to send" / "page.html").read_text()
    assert "planted.parquet (0 MB, beside this page and not within)" in text_of(page)
    (to,) = re.findall(r'href="([^#"]*)">planted.parquet', page)
    assert (tmp_path / "to send" / unquote(to)).is_file()


def test_the_csv_holds_the_numbers_of_the_figure(whole):
    first = re.findall(r'href="data:text/csv;base64,([^"]*)" download="([^"]*)"', whole[1])
    assert [name for _, name in first] == ["planted_depth_4.csv", "planted_depth_7.csv"]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(first[1][0]).decode())))
    numbers = planted.measure(planted.Cell(7))
    of = [row for row in rows if row["series"] == planted.LABEL]
    assert {row["panel"] for row in of} == {"norms"}
    assert [row["place"] for row in of] == numbers["path"].tolist()
    for name, column in (("x", "layer"), ("measured", "norm"), ("high", "high")):
        found = [float(row[name]) for row in of]
        np.testing.assert_allclose(found, numbers[column], rtol=1e-6)
    signed = [float(row["measured"]) for row in rows if row["series"] == planted.SIGNED]
    np.testing.assert_allclose(signed, numbers["signed"])
    assert {row["measured"] for row in rows if row["series"] == planted.THEORY} == {""}


def test_the_same_folder_gives_the_same_bytes(whole):
    folder, page = whole
    assert write(folder) == page


def test_a_long_series_is_thinned_with_both_ends_and_the_page_says_so(tmp_path, change):
    x = np.arange(7001)

    def long(columns):
        return plots.panels("long", [plots.Panel("", "", "", [plots.Series("a", x, x + 0.5)])])

    change(draw=long, apart=())
    planted.write(tmp_path / "planted")
    page = write(tmp_path / "planted")
    (series,) = json.loads(re.findall(r'json">(.*?)</script>', page)[0])["panels"][0]["series"]
    assert len(series["x"]) == len(set(series["x"])) == 2000
    assert (series["x"][0], series["x"][-1]) == (0, 7000)
    assert [y - x for x, y in zip(series["x"], series["y"], strict=True)] == [0.5] * 2000
    assert "Of up to 7001 points in a series, 2000 are on this page." in text_of(page)


def test_numbers_that_no_float_holds_are_given_as_exponents():
    sheet = plots.Sheet("t", [plots.Panel("", "", "g", [plots.Series("a", [0], [-4e3])], "linear")])
    powers = dataclasses.replace(sheet.panels[0], yscale="powers")
    assert '"y":[-4000]' in _figures.data(plots.Sheet("t", [powers]))
    assert "log10 of g" in _figures.table(plots.Sheet("t", [powers]))
    assert "log10" not in _figures.table(sheet)


def test_what_is_not_finite_is_no_number_in_json():
    values = [np.nan, np.inf, 0.1 + 0.2]
    panel = plots.Panel("", "", "", [plots.Series("a", [0, 1, 2], values)])
    assert json.loads(_figures.data(plots.Sheet("t", [panel])))["panels"][0]["series"][0]["y"] == [
        *(None, None, 0.3)
    ]


def test_what_older_files_lack_does_not_end_the_report(tmp_path, quick):
    gone = dict.fromkeys(("criteria", "command", "cells", "seconds", "environments", "config"))
    planted.write(tmp_path / "old", **gone, environment=planted.ENVIRONMENT)
    text = text_of(write(tmp_path))
    assert "abacus (2 x wood)" in text
    assert "python -m experiments planted" in text
    assert "Claims" not in text


def test_an_experiment_that_is_not_known_has_its_claims_and_a_sentence(
    tmp_path, monkeypatch, quick
):
    planted.write(tmp_path / "gone", name="gone")
    text = text_of(write(tmp_path))
    assert "No experiment 'gone' is here to draw it" in text
    assert "norms are positive" in text
    monkeypatch.chdir(tmp_path)
    Path("gone.py").write_text("what? no Python")
    assert "'gone' is here to draw it (SyntaxError: invalid syntax" in text_of(write(tmp_path))


def test_a_verdict_stands_below_the_question_that_it_answered(tmp_path, quick):
    planted.write(tmp_path / "planted", about="How small were they?")
    text = text_of(write(tmp_path))
    assert "How small were they?" in text and "How large are planted" not in text


@pytest.mark.parametrize("name", ["draw", "table", "also"])
def test_what_cannot_be_drawn_is_a_sentence(tmp_path, change, name):
    def fail(columns):
        return columns["a column of <later> versions"]

    change(**{name: fail, "apart": ()})
    planted.write(tmp_path / "planted")
    text = text_of(write(tmp_path))
    assert "cannot be drawn from this file (KeyError: 'a column of <later> versions')" in text
    assert ("Norms of every layer" in text) == (name != "table")


def test_columns_that_parts_need_may_be_missing(tmp_path, change, quick):
    planted.write(tmp_path / "planted")
    change(apart=("width",))
    assert "(ValueError: by='width' is not a column" in text_of(write(tmp_path))


def test_several_further_figures_are_a_choice(tmp_path, change, quick):
    several = {name: plots.Sheet(name, [], figsize=(1, 1)) for name in ("at_birth", "later")}
    change(also=lambda columns: several, apart=())
    planted.write(tmp_path / "planted")
    parts = re.findall(r'class="part" data-part="([^"]*)"', write(tmp_path))
    assert parts == ["at birth", "later"]


def test_what_is_no_table_of_an_experiment_is_named_and_the_others_are_shown(tmp_path, quick):
    planted.write(tmp_path / "planted")
    (tmp_path / "planted" / "bad.parquet").write_bytes(b"PAR1 and no more")
    study.write_parquet(tmp_path / "other.parquet", {"a": np.arange(3)}, {"of": "someone"})
    text = text_of(write(tmp_path))
    assert "2 files left out" in text and "bad.parquet : ValueError: path=" in text
    assert "other.parquet : a table, but not of an experiment" in text
    assert "Norms of every layer" in text


ODD = {
    "experiment": 3,
    "criteria": {"claim": "all"},
    "command": ["python"],
    "cells": "two",
    "seconds": None,
    "environments": ["here"],
    "environment": "here",
}


def test_tables_that_say_odd_things_of_themselves_are_named(tmp_path, quick):
    planted.write(tmp_path / "planted")
    odd = [{name: value} for name, value in ODD.items()]
    odd += [{"environments": [{"hosts": "one"}]}, {"environments": [{"cells": "all"}]}]
    odd += [{"criteria": ["all"]}]
    for i, about in enumerate(odd):
        said = {"experiment": "planted", **about}
        study.write_parquet(tmp_path / f"odd{i}.parquet", {"a": np.arange(3)}, said)
    text = text_of(write(tmp_path))
    assert f"{len(odd)} files left out" in text
    assert text.count("what no experiment says") == len(odd)
    assert "Norms of every layer" in text


def test_names_that_are_no_utf8_are_shown_and_linked(tmp_path, monkeypatch, quick):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        planted.write(folder / "planted")
    except OSError:
        pytest.skip("this disk takes no such name")
    (folder / os.fsdecode(b"b\xe4d.parquet")).write_bytes(b"")
    monkeypatch.setattr(_section, "LARGEST", 1000)
    page = report.write(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in page and "b\\udce4d.parquet" in page
    assert 'href="caf%E9/planted/planted.parquet"' in page
    assert report.write(folder).parent == folder


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, quick):
    planted.write(tmp_path / "planted")
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def refused(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    text = text_of(write(tmp_path))
    assert "closed : a folder that cannot be read: Permission denied" in text


def test_a_study_that_is_not_complete_is_listed_with_its_failures(tmp_path, quick):
    cells = [planted.Cell(depth) for depth in (1, 2, 5)]
    study.run(planted.measure, cells, tmp_path / "half", runner=study.Here(), version="1")
    page = write(tmp_path)
    text = text_of(page)
    assert "planted: not complete : 1 cell finished, 2 failed; no table brings them" in text
    assert '{"depth": 1}' in text and '{"depth": 2}' in text
    assert "ArithmeticError: depth 1 <is> too little" in text
    assert "Traceback (most recent call last)" in text
    assert "2 cells failed" in text[: text.index("not complete")]
    assert "✓" not in text
    planted.write(tmp_path / "half" / "joined")
    (tmp_path / "half" / "joined" / "planted.parquet").rename(tmp_path / "half" / "planted.parquet")
    assert "2 failed; its table is below" in text_of(write(tmp_path))


def test_of_many_failures_some_are_listed_and_all_counted(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(_search, "LISTED", 2)
    cells = [planted.Cell(depth) for depth in (-2, -1, 0, 1, 2)]
    study.run(planted.measure, cells, tmp_path / "half", runner=study.Here(), version="1")
    text = text_of(write(tmp_path))
    assert "0 cells finished, 5 failed" in text and "and 3 more, in its folder" in text
    assert text.count("Traceback") == 2


def test_cells_are_not_looked_at_and_nothing_deeper_than_two_levels(tmp_path, quick):
    for place in ("cells", "failed", "a/b/c"):
        planted.write(tmp_path / place)
    (tmp_path / "study.json").write_text('{"format": 1, "study": "tests.lab.planted:measure"}')
    (tmp_path / "failed" / "planted.parquet").unlink()
    text = text_of(write(tmp_path))
    assert "0 experiments" in text
    assert "planted: not complete : 1 cell finished, 0 failed" in text


def test_nothing_there_is_one_sentence_and_no_file(tmp_path, capsys):
    for folder, words in ((tmp_path, "nothing to report in"), (tmp_path / "no", "no folder")):
        with pytest.raises(SystemExit) as stopped:
            entry.main(["report", str(folder)])
        assert stopped.value.code == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_page_goes_where_it_is_asked_to(tmp_path, capsys, quick):
    planted.write(tmp_path / "results" / "planted")
    out = tmp_path / "to send" / "page.html"
    assert entry.main(["report", str(tmp_path / "results"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    assert "Norms of every layer" in out.read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        entry.main(
            ["report", str(tmp_path / "results"), "--out", str(tmp_path / "file" / "a.html")]
        )
    assert "cannot write" in capsys.readouterr().err
    (tmp_path / "base.py").write_text("mine")
    with pytest.raises(ValueError, match=r"base.py' is a file and no report of convjax"):
        report.write(tmp_path / "results", tmp_path / "base.py")
    assert (tmp_path / "base.py").read_text() == "mine"
    report.write(tmp_path / "results", out)  # over a report


def test_tables_of_the_terminal_become_tables_of_the_page():
    made = Table("name", title="A [bold] table")
    made.add_column("number", justify="right")
    made.add_row("[red]a < b", "1.5")
    made.add_row("[0, 1]", "2")
    page = printed(Group(made, "", "and text"))
    assert "<caption>A [bold] table</caption>" in page
    assert '<th scope="col">name</th><th scope="col" class="number">number</th>' in page
    assert '<tr><td>[red]a &lt; b</td><td class="number">1.5</td></tr>' in page
    assert "<td>[0, 1]</td>" in page
    assert page.endswith("</div><p>and text</p>")
    grid = Table.grid()
    grid.add_row(made)
    grid.add_row(made)
    assert printed(grid) == printed(Group(made, made))
