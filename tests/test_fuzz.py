"""Malformed calls of everything public end with a sentence that names argument and value."""

from tests.fuzz.__main__ import modules
from tests.test_docs import PUBLIC, arguments, is_result


def test_everything_public_is_called_or_exempt_for_a_reason():
    called, exempt = set(), set()
    for module in modules().values():
        called |= set(module.CALLS)
        exempt |= set(module.EXEMPT)
        assert all(module.EXEMPT.values())
        assert not set(module.CALLS) & set(module.EXEMPT)
    taking = {name for name, one in PUBLIC.items() if arguments(one)}
    records = {name for name, one in PUBLIC.items() if is_result(one)}
    assert taking - records - called - exempt == set()
