"""The question of inspect: its options, and the network and batch that they name."""

import dataclasses
from collections.abc import Sequence

from convjax import lab, models
from convjax.lab.inspect._own import is_own
from convjax.lab.inspect._subject import Request, measured, subject

KEEPS = False


@dataclasses.dataclass(frozen=True)
class Config(Request, lab.CommandOptions):
    """Options; the name may stand first, without its --name."""


def cells(config: Config) -> list[Request]:
    """Return what is asked for; a ValueError names an option out of its range."""
    given = [o for o in ("batch", "size", "num_classes", "depth") if getattr(config, o) is not None]
    lab.check_least(config, **dict.fromkeys(given, 1))
    return [lab.cell_of(Request, config)]


def measure(request: Request) -> lab.Columns:
    """Print what a network costs; return one row for every unit, in forward order.

    Raises:
      ValueError: an unknown name (with the nearest), weights that do not fit, no image to be read.
    """
    what = subject(request)
    shown = lab.console()
    shown.print("\n".join(what.remarks), soft_wrap=True)
    shown.print(f"\n{what.cost.text(what.request.depth)}\n", soft_wrap=True)
    return measured(what)


def in_full(argv: Sequence[str]) -> list[str]:
    """Return the command line with a name that stands first, and bare --train, written out."""
    words = list(argv)
    # A name that stands last, and is no option's value, is the network's as well.
    last = words[-1] if words else ""
    named = last in models.list() or (is_own(last) and not last.startswith("-"))
    if named and not words[-2:][0].startswith("-"):
        words.insert(0, words.pop())
    if words and not words[0].startswith("-"):
        words[:0] = ["--name"]
    full = []
    for word, following in zip(words, [*words[1:], "-"], strict=False):
        bare = word == "--train" and following.startswith("-")
        full += {"--no-train": ["--train", "False"]}.get(word, [word, "True"] if bare else [word])
    return full
