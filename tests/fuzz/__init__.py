"""A seeded fuzzer: malformed calls of everything public, as users make them.

A module of this package holds the calls of one room: ``CALLS`` gives for every public function and
constructor one valid call, argument by argument, each with the *kind* of value that it takes
(``kinds.py``). A kind knows malformed values, which must be refused, and other writings of a right
value, which must give the same result. ``EXEMPT`` names what is not called, and why; ``ACCEPTED``
what is taken although its kind would refuse it, and why that is right.

``python -m tests.fuzz [ROOM ...] [--calls N] [--seed N]`` makes the calls, in a process that does
not check annotations, and prints those that did not end well, by callable.
"""
