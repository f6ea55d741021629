import json

import pytest

from convjax import lab
from convjax import study as studies
from experiments.benchmarks import study


def test_main_tells_what_a_cell_costs_and_leaves_no_study_behind(tmp_path, capsys, monkeypatch):
    # The runner's processes take seconds to start, and have tests of their own.
    class Local(studies.Here):
        def __init__(self, workers, *, platform):
            self.workers = workers

    monkeypatch.setattr(studies, "Local", Local)
    options = ["--cells", "3", "--repeats", "2", "--workers", "2", "--out", str(tmp_path)]
    assert study.main(options) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bench_study.json"]
    rows = json.loads((tmp_path / "bench_study.json").read_text())["rows"]
    assert {row["what"]: len(row["seconds"]) for row in rows} == {
        "in this process": 2,
        "by the local runner": 2,
        "again, where all is there": 4,
        "read into one table": 4,
    }
    assert {row["what"]: row["target"] for row in rows if row["target"]} == {
        "by the local runner": 0.015,
        "read into one table": 5.0,
    }
    said = capsys.readouterr().out
    assert "A study of 3 cells that do nothing, 2 processes" in said
    assert "0.015 s, 5 ms" in said and "Load of the machine" in said


def test_no_cell_is_refused(tmp_path):
    with pytest.raises(lab.UsageError, match="cells=0 must be at least 1"):
        study.main(["--cells", "0", "--out", str(tmp_path)])
