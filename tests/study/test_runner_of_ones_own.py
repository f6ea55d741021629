"""A runner from public names alone: it performs jobs elsewhere, and loses one."""

import dataclasses
import pickle

import numpy as np

from convjax import study


class Fragile:
    """Measure in this process, and lose the cells that are too heavy for it."""

    keeps = False

    def run(self, jobs):
        """Perform the jobs; jobs and what became of them can be sent elsewhere and back."""
        for job in jobs:
            sent = pickle.loads(pickle.dumps(job))
            if sent.config.heavy:
                yield study.lost(sent, "its machine was lost")
            else:
                yield pickle.loads(pickle.dumps(study.perform(sent)))


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell that is heavy, or not."""

    heavy: bool


def measure(cell):
    """Return a column."""
    return {"x": np.arange(3)}


def test_it_measures_what_can_be_measured_and_tells_what_was_lost(tmp_path):
    assert isinstance(Fragile(), study.Runner)
    cells = [Cell(heavy=True), Cell(heavy=False)]
    ran = study.run(measure, cells, tmp_path, runner=Fragile(), watch=study.Silent())
    assert (ran.finished, ran.measured) == (1, 1)
    assert ran.failed == {ran.keys[0]: "its machine was lost"}
    np.testing.assert_array_equal(study.results(tmp_path, ran.keys[1:])["x"], [0, 1, 2])
