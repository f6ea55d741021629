"""Finding questions: the files of a folder that ask one, and their module, imported by its name."""

import ast
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from convjax import _check
from convjax.lab._experiment import name_of

# Packages whose files are imported as parts of them.
PACKAGES = ("experiments", "convjax")


def questions(folder: str | os.PathLike) -> dict[str, tuple[Path, str]]:
    """Return the questions that stand in a folder, by name: each its file, and what it asks.

    Nothing is imported: a question is a Python file, or a folder with an ``__init__.py``, that
    defines ``Config`` and ``cells``, or a ``Config`` made by ``lab.ensembles``, and has a
    docstring, whose first line is what it asks.

    Args:
      folder: where to look.

    Raises:
      MissingFileError: there is no such folder.

    Example:
      >>> from pathlib import Path
      >>> from convjax import lab
      >>> sorted(lab.questions(Path(lab.__file__).parent))
      ['inspect', 'train']
    """
    found = {}
    for path, module, about in modules(_check.existing_folder("folder", folder)):
        if about and asks(module):
            found[name_of_file(path)] = path, about
    return found


def name_of_file(path: Path) -> str:
    """Return the name of the question that stands in a file."""
    return name_of(home_of(path).name)


def home_of(path: Path) -> Path:
    """Return what a module's file is imported as, without an ending: its folder, or itself."""
    return path.parent if path.stem == "__init__" else path.with_suffix("")


def imported(path: Path) -> ModuleType:
    """Import a module's file, one of a package as a part of it.

    Raises:
      ValueError: it cannot be imported by its name.
    """
    home = home_of(path)
    for package in PACKAGES:
        for folder in at(package):
            if home.is_relative_to(folder):
                return importlib.import_module(".".join([package, *home.relative_to(folder).parts]))
    return load(path)


def at(package: str) -> list[Path]:
    """Return where a package lies: nowhere if it is not installed."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def modules(folder: str | os.PathLike) -> list[tuple[Path, ast.Module, str]]:
    """Return the public modules of a folder: file, tree, and its docstring's first line."""
    places = [path / "__init__.py" if path.is_dir() else path for path in Path(folder).iterdir()]
    read = []
    for path in sorted(places):
        if path.suffix == ".py" and path.is_file() and _public(home_of(path).name):
            try:
                module = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue
            about = (ast.get_docstring(module) or "").strip().partition("\n")[0]
            read.append((path, module, about))
    return read


def _public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def asks(module: ast.Module) -> bool:
    """Tell whether a module asks a question, as far as can be seen without importing it."""
    names = bound(module)
    return "Config" in names and ("cells" in names or isinstance(names["Config"], ast.Assign))


def bound(module: ast.Module) -> dict[str, ast.stmt]:
    """Return the statements at the top of a module by the names that they bind."""
    found: dict[str, ast.stmt] = {}
    for node in module.body:
        names = [getattr(node, "name", "")]
        if isinstance(node, ast.Assign):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
        found |= dict.fromkeys(names, node)
    return found


def load(file: str | os.PathLike) -> ModuleType:
    """Import a file by its name, so that the processes which measure its cells can do so as well.

    Its folder is put on the path of this process, and of those that it starts.

    Args:
      file: of Python, or a folder with an ``__init__.py``.

    Raises:
      MissingFileError: there is no such file.
      ValueError: another module has its name.

    Example:
      >>> import pathlib, tempfile
      >>> from convjax import lab
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = pathlib.Path(folder, "kernel_size_of_mine.py").write_text("SIZES = (3, 5)")
      ...     lab.load(f"{folder}/kernel_size_of_mine.py").SIZES
      (3, 5)
    """
    path = Path(file).resolve()
    if path.is_dir() and (path / "__init__.py").is_file():
        folder, name = path.parent, path.name
    else:
        path = Path(_check.existing_file("file", path))
        folder, name = path.parent, path.stem
    if (path.is_file() and path.suffix != ".py") or not name.isidentifier():
        raise ValueError(
            f"file={str(file)!r} cannot be imported; its name must be letters, digits and "
            "underscores, with .py behind them"
        )
    there = sys.modules.get(name)
    spec = None if there else importlib.util.find_spec(name)
    origin = getattr(there, "__file__", None) or getattr(spec, "origin", None)
    own = {str(path), str(path / "__init__.py")}
    if (there or spec) and str(Path(origin or "").resolve()) not in own:
        raise ValueError(
            f"file={str(file)!r} has the name of another module, {name}; call it otherwise"
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # behind all others: its files hide none of theirs
    others = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*others, str(folder)]))
    return importlib.import_module(name)
