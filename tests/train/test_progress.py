import io
import math
import sys

import pytest

from convjax import train
from convjax.train import _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that advances by what each redraw of rich's costs, and when told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def on_terminal(monkeypatch):
    """Make stderr a terminal, from within the test: before it, capturing takes stderr back."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def row(step, **more):
    return {"kind": "train", "step": step, **more}


def test_elsewhere_a_line_says_how_far_how_well_and_how_long(capsys, clock):
    bar = train.ProgressBar("ResNet-20")
    bar.begin(10, 1000, 128)
    pace = train.Pace(12345.6, 5.2 * 60)
    bar.record([row(10, loss=2.0, accuracy=0.25), row(11, loss=3.0, accuracy=0.5)], pace)
    clock.now += 11
    bar.record([{"kind": "test", "step": 12, "accuracy": 0.9}], train.Pace(math.nan, math.nan))
    bar.end()
    out, err = capsys.readouterr()
    told = "loss 2.5, accuracy 37.5%, {}12,346 images/s, 5 min left"
    assert out == ""
    assert err.splitlines() == [
        f"ResNet-20: step   12/1000: {told.format('')}",
        f"ResNet-20: step   12/1000: {told.format('test 90.0%, ')}",
    ]


def test_lines_come_now_and_then_and_the_last_always(capsys, clock):
    bar = train.ProgressBar()
    bar.begin(0, 12 * 3600, 1)
    for step in range(4, 12 * 3600, 5):
        bar.record([row(step, loss=1.0)], train.Pace(1.0, 12 * 3600 - step - 1.0))
        clock.now += 5
    bar.end()
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    assert steps[:3] == [5, 15, 25]
    assert 100 < len(steps) < 150
    assert lines[-1] == "step 43200/43200: loss 1, 1 images/s"


def test_a_run_without_anything_to_tell_says_so(capsys, clock):
    bar = train.ProgressBar()
    bar.begin(0, 5, 1)
    bar.end()
    assert capsys.readouterr().err == "step 0/5\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    terminal = on_terminal(monkeypatch)
    bar = train.ProgressBar("[plain]")
    bar.begin(0, 200, 32)
    bar.record([row(99, loss=0.125, accuracy=0.5)], train.Pace(2000.0, 42.4))
    bar.end()
    text = terminal.getvalue()
    for part in ("[plain]", "━", "100/200", "loss 0.125, accuracy 50.0%", "2,000 images/s, 42 s"):
        assert part in text


@pytest.mark.parametrize(("cost", "most"), [(0.0001, 10), (0.01, 1)])
def test_it_is_drawn_ten_times_a_second_at_most_and_for_a_hundredth_of_the_time(
    clock, monkeypatch, cost, most
):
    on_terminal(monkeypatch)
    bar = train.ProgressBar()
    bar.begin(0, 10**6, 32)
    drawn = []

    def refresh():
        drawn.append(clock.now)
        clock.now += cost

    monkeypatch.setattr(bar._draw._progress, "refresh", refresh)
    for step in range(5_000):
        bar.record([row(step, loss=1.0)], train.Pace(1.0, 1.0))
        clock.now += 0.001
    assert 0.75 * most * 5 < len(drawn) <= most * 5 + 1
    bar.end()
    assert drawn[-1] > drawn[-2]


def test_on_a_terminal_without_rich_it_says_what_to_install(monkeypatch):
    on_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r"pip install .convjax\[lab\]"):
        train.ProgressBar()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (99.4, "99 s"), (100.0, "2 min"), (5399.0, "90 min"), (5400.0, "1.5 h")],
)
def test_durations_are_told_in_their_unit(seconds, told):
    assert _progress._duration(seconds) == told
