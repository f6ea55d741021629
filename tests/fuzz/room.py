"""The calls of a room: which there are, and how each ended."""

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.fuzz import judge
from tests.fuzz.kinds import Kind


class Call(NamedTuple):
    """A public callable, the kinds of its arguments, and what messages may call those."""

    function: Callable[..., Any]
    kinds: dict[str, Kind]
    alias: Mapping[str, tuple[str, ...]]


def call(function: Callable[..., Any], alias: Mapping[str, Any] = {}, /, **kinds: Kind) -> Call:
    """Return a call; ``alias`` gives an argument's other names."""
    return Call(function, kinds, alias)


class Attempt(NamedTuple):
    """One malformed call."""

    name: str
    argument: str
    label: str
    how: str

    def __str__(self) -> str:
        return f"{self.name}({self.argument}: {self.label})"


class Room:
    """Makes calls of one room, and remembers what the valid ones return."""

    def __init__(self, calls: Mapping[str, Call], accepted: Mapping[str, str]):
        self.calls = calls
        self.accepted = accepted
        self._returned: dict[str, judge.Outcome] = {}

    def attempts(self, source: random.Random) -> list[list[Attempt]]:
        """Return the malformed calls of every callable, in an order that is drawn."""
        found = []
        for name, one in self.calls.items():
            some = [
                Attempt(name, argument, label, how)
                for argument, kind in one.kinds.items()
                for how in ("bad", "same", "nan")
                for label in getattr(kind, how)
            ]
            source.shuffle(some)
            found.append(some)
        return found

    def problem(self, attempt: Attempt) -> str | None:
        """Make a malformed call, and return what is wrong with its end."""
        one = self.calls[attempt.name]
        value = getattr(one.kinds[attempt.argument], attempt.how)[attempt.label]
        given = {name: kind.valid for name, kind in one.kinds.items()}
        done = judge.outcome(one.function, given | {attempt.argument: value})
        if attempt.how == "same":
            return self._differs(attempt.name, done)
        if done.error is not None:
            names = (attempt.argument, *one.alias.get(attempt.argument, ()))
            return judge.refusal(done.error, names, value)
        if attempt.how == "nan" and judge.holds_nan(done.result):
            return None
        if any(
            key in self.accepted for key in (str(attempt), f"({attempt.argument}: {attempt.label})")
        ):
            return None
        return f"was accepted, and returned {done.result!r:.150}"

    def _differs(self, name: str, done: judge.Outcome) -> str | None:
        if name not in self._returned:
            one = self.calls[name]
            valid = {argument: kind.valid for argument, kind in one.kinds.items()}
            self._returned[name] = judge.outcome(one.function, valid)
        right = self._returned[name]
        if right.error is not None:
            return f"the valid call raised {type(right.error).__name__}: {right.error}"
        if done.error is not None:
            return f"is right, but raised {type(done.error).__name__}: {done.error!s:.300}"
        if not judge.equal(done.result, right.result):
            return f"differs from the plain value: {done.result!r:.150}"
        return None
