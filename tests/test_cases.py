"""Of many cases some run: the test's name decides which, and no test is left out."""

import dataclasses

import pytest

from tests import cases


@dataclasses.dataclass(frozen=True)
class Item:
    nodeid: str


@pytest.mark.parametrize("n", [1, 3, 4])
def test_of_each_test_one_case_in_n_is_kept_and_of_few_cases_one(n):
    sizes = {"a.py::many": 12, "a.py::two": 2, "b.py::one": 1, "c.py::other": 24}
    items = [Item(f"{test}[{i}]") for test, size in sizes.items() for i in range(size)]
    left = cases.not_one_in(n, items)
    kept = cases.by_test([item for item in items if item not in left])
    assert [len(found) for found in kept] == [12 // n, 2 if n == 1 else 1, 1, 24 // n]
    assert cases.not_one_in(n, items) == left
