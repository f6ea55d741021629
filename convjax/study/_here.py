"""Here: cells measured in this process, one after the other."""

from collections.abc import Generator, Iterator

from convjax.study._job import Done, Job, perform


class Here:
    """Measure in this process, one cell after the other: for debugging, tests and notebooks.

    Functions need no importable name here. The device, its threads and what has been compiled are
    this process's own.

    Example:
      >>> from convjax import study
      >>> study.Here().keeps
      False
    """

    keeps = False

    def run(self, jobs: Iterator[Job]) -> Generator[Done]:
        """Measure each as it is taken."""
        for job in jobs:
            yield perform(job)
