import json

import pytest

from convjax import lab
from experiments.benchmarks import memory


@pytest.mark.slow
def test_main_tells_memory_and_time_of_each_mode(tmp_path, capsys):
    options = ["--depths", "20", "--batch-size", "2", "--timed-batch-size", "1", "--repeats", "1"]
    assert memory.main([*options, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "bench_memory.json").read_text())["rows"]
    assert [row["remat"] for row in rows] == ["none", "unit", "sqrt"]
    none, unit, sqrt = (row["temporary"] for row in rows)
    assert none > 1.5 * unit and unit == sqrt and all(row["seconds"] for row in rows)
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["20", "sqrt", f"{sqrt / 1e6:,.1f}", f"{sqrt / none:.3f}"] in [line[:4] for line in said]


def test_a_depth_that_no_network_has_is_refused(tmp_path):
    with pytest.raises(lab.UsageError, match="depth=21 is not 6n"):
        memory.main(["--depths", "21", "--out", str(tmp_path)])
