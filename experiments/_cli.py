"""The command line that all experiments share: options, their file, the platform, plain errors."""

import contextlib
import dataclasses
import difflib
import math
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import tyro


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one sentence that says what can."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What every experiment takes."""

    out: Path = Path("results")
    """Folder for the results; it is made if it is not there."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to compute; without it, JAX chooses the fastest that there is."""
    config: Path | None = None
    """TOML file whose keys are these options' names; the command line overrides it."""


O = TypeVar("O", bound=Options)  # noqa: E741


@contextlib.contextmanager
def speaking_plainly() -> Iterator[None]:
    """Turn a usage error into one wrapped sentence on stderr and exit code 2."""
    try:
        yield
    except UsageError as error:
        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        lines = textwrap.TextWrapper(
            width, initial_indent="error: ", break_long_words=False, break_on_hyphens=False
        )
        print(lines.fill(str(error)), file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def refusing(what: str = "") -> Iterator[None]:
    """Take a ValueError or ImportError for the user's: the library's messages say what to do."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UsageError(f"{what}{error}") from error


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses a name, with the nearest right ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? Choose" if near else "choose"
    return f"{what} {name!r} is not known; {hint} from {', '.join(known)}."


def parse(kind: type[O], argv: Sequence[str], *, name: str, about: str) -> O:
    """Return the options of a command line, over those of the file it names, over the defaults."""

    def read(default: O) -> O:
        return tyro.cli(
            kind,
            args=list(argv),
            prog=f"python -m experiments {name}",
            description=about,
            default=default,
        )

    options = read(kind())
    if options.config is not None:
        options = read(dataclasses.replace(kind(), **from_file(kind, options.config)))
    check_finite(options)
    return options


def check_finite(options: Options) -> None:
    """Refuse NaN and infinity, which no option means."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise UsageError(f"{field.name}={one} must be a finite number.")


def from_file(kind: type[Options], path: Path) -> dict[str, Any]:
    """Return the options that a TOML file sets."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read the configuration {str(path)!r}: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} is not valid TOML: {error}.") from error
    names = {field.name for field in dataclasses.fields(kind)} - {"config"}
    found: dict[str, Any] = {}
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name not in names:
            raise UsageError(f"In {str(path)!r}, {unknown('the option', name, names)}")
        found[name] = _typed(kind, name, value, path)
    return found


def _typed(kind: type[Options], name: str, value: Any, path: Path) -> Any:
    """Return a file's value as the command line would have read it."""
    words = [str(v) for v in (value if isinstance(value, list) else [value])]
    try:
        read = tyro.cli(kind, args=[f"--{name.replace('_', '-')}", *words], console_outputs=False)
    except SystemExit as error:
        default = getattr(kind(), name)
        raise UsageError(
            f"In {str(path)!r}, {name} = {value!r} is not what that option takes; "
            f"its default is {list(default) if isinstance(default, tuple) else default!r}."
        ) from error
    return getattr(read, name)


def use_platform(name: str | None) -> None:
    """Make JAX compute there, or say that it cannot."""
    if name is None:
        return
    # JAX's own alias "gpu" asks for every maker's at once, and fails where one is missing.
    for candidate in {"gpu": ("cuda", "rocm")}.get(name, (name,)):
        jax.config.update("jax_platforms", candidate)
        # An AssertionError is how JAX says that no platform at all was found.
        with contextlib.suppress(RuntimeError, AssertionError):
            if jax.devices()[0].platform == name:
                return
    raise UsageError(
        f"platform {name!r} was asked for, but JAX finds no such device here; leave --platform "
        f"out to use what there is, or install the JAX that has it (pip install 'jax[...]')."
    )
