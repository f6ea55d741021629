import json

import jax
import numpy as np
import pytest

from convjax import ops
from experiments.benchmarks import drop_in

SMALL = drop_in.Config(batch_size=2, size=8, units=2)


@pytest.mark.later
def test_the_argument_changes_no_gradient():
    theirs = drop_in.gradient(SMALL)()
    ours = drop_in.gradient(SMALL, conv_general_dilated=ops.conv_general_dilated)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)


def test_main_tells_how_many_times_as_fast(tmp_path, capsys):
    options = ["--batch-size", "2", "--size", "8", "--units", "1", "--repeats", "1"]
    assert drop_in.main([*options, "--no-keep-memory", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "bench_drop_in.json").read_text())["rows"]
    first, second = row["seconds"].values()
    said = next(line for line in capsys.readouterr().out.splitlines() if "times as fast" in line)
    assert abs(float(said.split()[0]) - first / second) < 0.01 * first / second
