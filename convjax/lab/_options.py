"""The command line that all experiments share: options, their file, the platform, plain errors."""

import contextlib
import dataclasses
import math
import os
import shutil
import site
import sys
import textwrap
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax

from convjax.lab._checks import unknown

# Files whose lines say nothing of a mistake in a user's: convjax's, and Python's own.
OURS = (
    f"{Path(__file__).parents[1]}{os.sep}",
    f"{Path(os.__file__).parent}{os.sep}",
    *site.getsitepackages(),
    "<",
)


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one sentence that says what can.

    Args:
      sentence: with a full stop.
      where: lines that stand above it, as they are: where an error arose.

    Example:
      >>> from convjax import lab
      >>> print(lab.UsageError("seeds=0 must be at least 1."))
      seeds=0 must be at least 1.
    """

    def __init__(self, sentence: str, where: str = ""):
        super().__init__(sentence)
        self.where = where


@dataclasses.dataclass(frozen=True)
class CommandOptions:
    """What every command takes."""

    out: Path = Path("results")
    """Folder for the results; it is made if it is not there."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to compute; without it, JAX chooses the fastest that there is."""
    config: Path | None = None
    """TOML file whose keys are these options' names; the command line overrides it."""


O = TypeVar("O", bound=CommandOptions)  # noqa: E741
C = TypeVar("C")


@contextlib.contextmanager
def speaking_plainly() -> Iterator[None]:
    """Turn a ``UsageError`` into one wrapped sentence on stderr and exit code 2."""
    try:
        yield
    except UsageError as error:
        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        lines = textwrap.TextWrapper(
            width, initial_indent="error: ", break_long_words=False, break_on_hyphens=False
        )
        print(error.where + lines.fill(str(error)), file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def refusing(what: str = "") -> Iterator[None]:
    """Take a ValueError or ImportError for the user's: the library's messages say what to do.

    Args:
      what: stands before the message.

    Raises:
      UsageError: in place of them.

    Example:
      >>> from convjax import data, lab
      >>> try:
      ...     with lab.refusing("the data: "):
      ...         data.batch_indices(10, 0, seed=0, step=0)
      ... except lab.UsageError as error:
      ...     print(str(error)[:22])
      the data: batch_size=0
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UsageError(f"{what}{error}") from error


@contextlib.contextmanager
def calling(what: str, after: str = "", *, passing: tuple[type[Exception], ...] = ()):
    """Tell an error of the user's own code by the lines of that code, without ours.

    Args:
      what: is called.
      after: stands behind the message.
      passing: errors that are handed on as they are.

    Raises:
      UsageError: in place of them.
    """
    try:
        yield
    except (UsageError, *passing):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [one for one in frames if not one.filename.startswith(OURS)]
        if not own and not isinstance(error, SyntaxError):
            raise
        told = traceback.format_list(own) + traceback.format_exception_only(error)
        sentence = f"{what} raised {type(error).__name__}{after}."
        raise UsageError(sentence, "".join(told)) from error


def parse(
    kind: Callable[..., O],
    argv: Sequence[str],
    *,
    command: str,
    about: str,
    default: O | None = None,
) -> O:
    """Return the options of a command line, over those of the file it names, over the defaults.

    Args:
      kind: the dataclass of the options, a subclass of ``CommandOptions``.
      argv: the words of the command line after the command.
      command: what stands before them, such as ``"convjax run kernel_size.py"``.
      about: what the command does, in a line, for its help.
      default: the options where the command line says nothing; ``kind()`` without it.

    Raises:
      UsageError: a file that cannot be read, a number that is not finite, or options where tyro,
        which reads them, is not installed.
      SystemExit: the command line has what no option takes, or asked for help.

    Example:
      >>> from convjax import lab
      >>> lab.parse(lab.CommandOptions, ["--platform", "cpu"], command="x", about="y").platform
      'cpu'
    """
    start = kind() if default is None else default
    if not argv:
        return start
    cli = _reader()

    def read(default: O) -> O:
        return cli(kind, args=list(argv), prog=command, description=about, default=default)

    options = read(start)
    if options.config is not None:
        options = read(dataclasses.replace(start, **from_file(kind, options.config)))
    check_finite(options)
    return options


def _reader() -> Callable[..., Any]:
    """Return tyro's ``cli``; a machine without tyro runs what needs no options."""
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise UsageError(
            "options are read by tyro, which is missing: pip install 'convjax[lab]', or leave all "
            "options out."
        ) from error
    return tyro.cli


def cell_of(kind: Callable[..., C], config: Any, /, **own: Any) -> C:
    """Return a cell whose fields are those of the options, but for its own.

    Args:
      kind: the cell's dataclass.
      config: the options.
      **own: by field, what is not an option's.

    Example:
      >>> import dataclasses, types
      >>> from convjax import lab
      >>> Cell = dataclasses.make_dataclass("Cell", ["depth", "width"])
      >>> lab.cell_of(Cell, types.SimpleNamespace(depths=(8, 20), width=4), depth=8)
      Cell(depth=8, width=4)
    """
    names = [field.name for field in dataclasses.fields(kind) if field.name not in own]  # pyright: ignore[reportArgumentType]
    return kind(**{name: getattr(config, name) for name in names}, **own)


def check_finite(options: CommandOptions) -> None:
    """Refuse NaN and infinity, which no option means."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise UsageError(f"{field.name}={one} must be a finite number.")


def from_file(kind: Any, path: Path) -> dict[str, Any]:
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


def _typed(kind: Any, name: str, value: Any, path: Path) -> Any:
    """Return a file's value as the command line would have read it."""
    words = [str(v) for v in (value if isinstance(value, list) else [value])]
    try:
        read = _reader()(kind, args=[f"--{name.replace('_', '-')}", *words], console_outputs=False)
    except SystemExit as error:
        default = getattr(kind(), name)
        raise UsageError(
            f"In {str(path)!r}, {name} = {value!r} is not what that option takes; "
            f"its default is {list(default) if isinstance(default, tuple) else default!r}."
        ) from error
    return getattr(read, name)


def use_platform(name: str | None) -> None:
    """Make JAX compute there, or say that it cannot.

    Args:
      name: "cpu", "gpu" or "tpu"; None leaves it to JAX.

    Raises:
      UsageError: there is no such device.

    Example:
      >>> from convjax import lab
      >>> lab.use_platform(None)
    """
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
