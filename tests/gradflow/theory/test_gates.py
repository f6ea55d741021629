"""Gates that saturate: what comes back through the few that are neither open nor closed."""

import numpy as np
import pytest

from convjax.gradflow._theory._pools import few_open


@pytest.mark.parametrize(("share", "ratio"), [(0.05, 10.0), (0.01, 1.0), (0.01, 10.0)])
def test_energy_that_comes_back_through_few_gates_is_far_below_its_mean(share, ratio):
    generator, gates = np.random.default_rng(0), 200
    energy = generator.normal(size=(2000, gates)) ** 2
    seen = energy * (generator.random((2000, gates)) < share)
    logs = np.log1p(ratio * seen.mean(1) / share)
    mean, variance = few_open(ratio, (3 / share - 1) / gates)
    assert mean == pytest.approx(logs.mean(), abs=0.12)
    assert variance**0.5 == pytest.approx(logs.std(), rel=0.15)
    assert logs.mean() < np.log1p(ratio) - 0.08
