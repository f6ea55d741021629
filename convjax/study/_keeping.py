"""keeping: results on their way to the disk, several at a time."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from convjax.study._job import Done, keep
from convjax.study._store import Store

# A disk takes about as long to make sure of one file as of several.
AT_ONCE = 16
BRIEF = 0.1  # seconds; after a cell that took longer, nothing is gained by not waiting


def keeping(coming: Iterator[Done], store: Store) -> Iterator[Done]:
    """Keep what comes, and yield each as soon as it is kept, in order.

    However this ends, what has come by then is kept.

    Args:
      coming: what became of jobs.
      store: where their tables are kept, unless they are there already.

    Raises:
      ValueError: the disk is full, or gone.
    """
    under_way: collections.deque[tuple[Future[None], Done]] = collections.deque()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in coming:
            under_way.append((threads.submit(keep, store, done), done))
            waits = done.seconds > BRIEF or len(under_way) >= AT_ONCE
            while under_way and (waits or under_way[0][0].done()):
                yield _kept(*under_way.popleft())
        while under_way:
            yield _kept(*under_way.popleft())


def _kept(keeping: Future[None], done: Done) -> Done:
    keeping.result()
    return done
