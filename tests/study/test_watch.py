"""What a study says of how far it has come."""

import io

import pytest

from convjax import study
from convjax.study import _watch
from convjax.study._job import Done


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(_watch.time, "monotonic", lambda: now[0])
    return now


def tell(stream, clock, seconds, errors=(), total=20, finished=4):
    told = study.Progress(stream)
    told.begin(total, finished, 1)
    for i in range(total - finished - 1):
        clock[0] += seconds
        told.finish(f"cell {i}", Done(str(i), b"", error="Error: [no]" if i in errors else ""))
    return stream.getvalue()


def test_what_is_over_soon_is_not_spoken_of(clock):
    assert tell(io.StringIO(), clock, 0.5) == ""
    assert tell(Terminal(), clock, 0.01) == ""


def test_a_line_now_and_then_where_it_is_no_terminal(clock):
    lines = tell(io.StringIO(), clock, 6.0, errors=[1]).splitlines()
    assert lines == [
        "cell 1 FAILED: Error: [no]",
        "7 of 20 cells, 1 failed, about 78 s left",
        "12 of 20 cells, 1 failed, about 48 s left",
        "17 of 20 cells, 1 failed, about 18 s left",
        "20 of 20 cells, 1 failed, in 90 s",
    ]


def test_one_line_that_changes_on_a_terminal(clock):
    shown = tell(Terminal(), clock, 6.0, errors=[1])
    assert shown.count("\n") == 2  # the failure and the end
    assert shown.count("\r\x1b[K") == 16
    assert shown.endswith("\r\x1b[K20 of 20 cells, 1 failed, in 90 s\n")


def test_many_failures_are_counted(clock):
    assert tell(io.StringIO(), clock, 0.1, errors=range(15)).count("FAILED") == _watch.LISTED


def test_a_study_tells_it_unless_it_is_asked_not_to(tmp_path, capsys):
    def fail(config):
        raise ArithmeticError("[/data]")

    study.run(fail, [{"a": 1}], tmp_path / "a", version="1")
    assert capsys.readouterr().err == "{'a': 1} FAILED: ArithmeticError: [/data]\n"
    study.run(fail, [{"a": 1}], tmp_path / "b", version="1", watch=study.Silent())
    assert capsys.readouterr().err == ""
