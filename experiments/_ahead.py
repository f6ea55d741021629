"""ahead: prepare the next things in other threads while the present one is used."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    prepare: Callable[[T], R], items: Iterable[T], *, workers: int = 2
) -> Iterator[tuple[T, R]]:
    """Yield ``(item, prepare(item))`` in order, a few of them prepared ahead.

    XLA compiles outside Python's lock, and mostly on one core: two compilations fill two cores.
    """
    executor = ThreadPoolExecutor(workers)
    waiting: collections.deque[tuple[T, Future[R]]] = collections.deque()
    try:
        for item in items:
            waiting.append((item, executor.submit(prepare, item)))
            if len(waiting) > workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
