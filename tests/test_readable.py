"""Tables to be read: what fits stays, and what does not is named."""

from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import _readable
from convjax._readable import Table, as_html, as_text, known, on_trunk, shortened, size

UNITS = [f"stage{i}/{j}/branch/depthwise/conv" for i in range(4) for j in range(30)]
WIDE = Table(
    ("unit", "kind", "finding", "aside"),
    [(path, "DepthwiseConv", f"{i}", "x" * 20) for i, path in enumerate(UNITS)],
    left=2,
    spare=("aside", "kind"),
    below=["a sentence that is longer than a terminal is wide, " * 3],
)


def test_columns_go_by_rank_and_the_finding_stays():
    for width in (120, 80, 60, 40):
        lines = as_text(WIDE, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "finding" in lines[0] and ("left out for width" in "".join(lines)) == (width < 76)
    assert lines[0].split() == ["unit", "finding"]
    assert "left out for width: kind; text" in as_text(WIDE, 72)
    assert as_text(WIDE, None).splitlines()[0].split() == ["unit", "kind", "finding", "aside"]


def test_names_lose_inner_parts_before_they_lose_letters():
    path = "stage1/0/branch/depthwise/conv"
    assert shortened(path, 30) == path
    assert shortened(path, 29) == "stage1/0/…/depthwise/conv"
    assert shortened(path, 20) == "stage1/0/…/conv"
    assert shortened("a" * 50, 20) == "a" * 9 + "…" + "a" * 10
    assert {len(shortened("b" * 30, most)) for most in (20, 21)} == {20, 21}


def test_long_tables_keep_what_matters_and_say_how_much_they_leave_out():
    text = as_text(WIDE, None, 10).splitlines()
    assert [line.split()[2:3] for line in text[1:12]] == [
        *([str(i)] for i in range(5)),
        [],
        *([str(i)] for i in range(115, 120)),
    ]
    assert (
        text[6] == "…"
        and text[-1] == "10 of 120 rows, without the middle; text(rows=None) shows all"
    )
    main = Table(WIDE.heads, WIDE.rows, 2, main=[i % 30 == 0 for i in range(120)], kept=[7])
    text = as_text(main, None, 10).splitlines()
    assert [line.split()[2] for line in text[1:6]] == ["0", "7", "30", "60", "90"]
    assert text[-1].startswith("5 of 120 rows, without units inside branches;")
    heads = [line for line in as_text(WIDE, None, None).splitlines() if "finding" in line]
    assert len(heads) == 3


def test_the_trunk_is_what_the_whole_signal_passes():
    paths = [
        "stem",
        "a/branch/conv",
        "a/branch",
        "a/shortcut",
        "a",
        "b/left/conv",
        "b/left",
        "b",
        "",
    ]
    kinds = ["Conv", "Conv", "Chain", "Identity", "Mine", "Conv", "Chain", "Parallel", "Chain"]
    trunk = [path for path, main in zip(paths, on_trunk(paths, kinds), strict=True) if main]
    assert trunk == ["stem", "a", "b", ""]


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (0.0, "1"),
        (-np.inf, "0"),
        (np.inf, "inf"),
        (np.nan, ""),
        (np.log(0.0234), "0.0234"),
        (1000 * np.log(10) + np.log(2.5), "2.50e+1000"),
        (-1000 * np.log(10) + np.log(2.5), "2.50e-1000"),
    ],
)
def test_numbers_are_written_where_no_float_holds_them(log, text):
    assert size(log) == text


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_notebooks_get_an_escaped_table():
    parsed = Texts()
    parsed.feed(as_html(Table(("a", "b"), [("<script>", "1 & 2")], above=["<b>"], below=["x > y"])))
    assert {"<script>", "1 & 2", "<b>", "x > y"} <= {*parsed.texts}
    assert {*parsed.tags} == {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}


def test_what_is_traced_or_gone_is_not_known():
    array = jnp.ones(3)
    seen = []
    jax.jit(lambda x: seen.append(known(x)))(array)
    assert known(array) and known(np.ones(2)) and not seen[0] and not known(None)
    array.delete()
    assert not known(array)


@pytest.mark.parametrize("options", [{"width": 39}, {"rows": 3}, {"rows": -1}])
def test_a_table_needs_room(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}="):
        as_text(WIDE, **options)


def test_a_result_without_a_table_has_none():
    with pytest.raises(NotImplementedError):
        _readable.Readable().text()
