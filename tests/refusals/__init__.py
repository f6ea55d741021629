"""Calls with wrong arguments, as users make them: without the tests' checks of annotations.

Under the tests every signature of convjax is checked by beartype, which refuses a wrong type before
our code sees it. So these calls run in a process that does not check: ``python -m tests.refusals
ROOM`` makes those of one room. A room's module holds ``CASES``: name to ``(call, pattern)``. The
call must raise an error of convjax's whose message the pattern is found in; where the pattern is
None, it must return something true.
"""
