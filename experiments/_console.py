"""The console of every command: what is printed is what was said, brackets and all."""

from functools import partial

from rich.console import Console


def console(width: int = 110, *, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup.

    Args:
      width: in columns where it is no terminal, wide enough for the tables.
      stderr: whether it writes there.
    """
    # A user's path or message may hold "[/data]" or ":smile:", which are markup elsewhere.
    plain = partial(Console, stderr=stderr, highlight=False, markup=False, emoji=False)
    return shown if (shown := plain()).is_terminal else plain(width=width)
