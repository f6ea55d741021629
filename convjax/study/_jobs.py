"""Jobs: the cells of a run that can be had, locked as they are taken."""

import collections
from collections.abc import Iterator, Sequence

from convjax.study._job import Job, over
from convjax.study._store import Store


class Jobs(Iterator[Job]):
    """The jobs of a run, group by group; each is locked as it is taken.

    Args:
      store: where they are locked; jobs with a folder lock themselves, later.
      jobs: all.

    Attributes:
      elsewhere: those that were not to be had, because another runner is at them or was.
    """

    def __init__(self, store: Store, jobs: Sequence[Job]):
        self.elsewhere: list[Job] = []
        self._store = store
        self._left: dict[str, collections.deque[Job]] = {}
        for job in jobs:
            self._left.setdefault(job.group, collections.deque()).append(job)
        self._fresh = collections.deque(self._left)

    def __next__(self) -> Job:
        job = self.take(next(iter(self._left), ""))
        if job is None:
            raise StopIteration
        return job

    def take(self, group: str) -> Job | None:
        """Return a job of this group, or else of one not begun, or of that with most left."""
        while self._left:
            name = self._chosen(group)
            job = self._left[name].popleft()
            if not self._left[name]:
                del self._left[name]
            if self._had(job):
                return job
            self.elsewhere.append(job)
        return None

    def _chosen(self, group: str) -> str:
        if group in self._left:
            return group
        while self._fresh:
            name = self._fresh.popleft()
            if name in self._left:
                return name
        return max(self._left, key=lambda name: len(self._left[name]))

    def _had(self, job: Job) -> bool:
        if not self._store.lock(job.key):
            return False
        # Another runner may have finished it after it had been looked for.
        had = not over(self._store, job)
        if not had or job.folder is not None:
            self._store.release(job.key)
        return had
