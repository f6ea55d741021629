"""Which cases of a test run, where there are more than there is time for."""

import collections
import zlib


def by_test(items):
    """Return lists of the cases of one test each, in their order."""
    found = collections.defaultdict(list)
    for item in items:
        found[item.nodeid.partition("[")[0]].append(item)
    return [*found.values()]


def leave_for_later(items):
    """Mark most cases of a long sweep: ``every(n)`` keeps each n-th."""
    for cases in by_test(items):
        mark = cases[0].get_closest_marker("every")
        there = [item for item in cases if not item.get_closest_marker("slow")] if mark else []
        for i, item in enumerate(there):
            if i % mark.args[0]:
                item.add_marker("later")


def not_one_in(n, items):
    """Return all but each n-th case of a test, of few cases all but one; its name says which."""
    left = set()
    for cases in by_test(items):
        first = zlib.crc32(cases[0].nodeid.partition("[")[0].encode()) % min(n, len(cases))
        left.update(set(cases) - set(cases[first::n]))
    return [item for item in items if item in left]
