"""version: of the code that a function runs, so that what other code measured is not taken for it.

What counts is found by reading, not by running: of the function's own project the definitions that
it reaches by name, module by module; of convjax every module that these import, whole, since there
one definition reaches others by registering. Of other packages it counts what is imported from
them; their versions stand in ``study.environment``.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from convjax import _check
from convjax.study._held import held
from convjax.study._identity import canonical
from convjax.study._source import Statement, Target, statements

_LIBRARY = "convjax"
_PICTURES = "convjax.plots"  # no number depends on how it is drawn
_STANDARD = Path(sysconfig.get_path("stdlib"))
_PACKAGES = {"site-packages", "dist-packages"}


def version(function: Callable[..., Any], config: Any = None) -> str:
    """Return a hash of the code that a function runs, as far as names lead through its project.

    It changes with the function, with what it calls in its own project, with the class of its
    configuration, and with the modules of convjax that these import. It does not change with
    layout, comments, docstrings or annotations, nor with what stands in the same file unreached,
    nor from one Python to another.

    Args:
      function: it has a source file. The object of a method counts too, and for a function that
        another one made the values of its closure and its defaults. What it gets by other ways,
        such as files or code in text, is not seen.
      config: what it will be called with: a dataclass, whose methods it may call; or None.

    Returns:
      Sixteen hexadecimal digits.

    Raises:
      WrongTypeError: no function, or one that holds or has bound to it what is not data.
      ValueError: the source cannot be found, as of what was typed at a prompt, or of a lambda that
        has no name.

    Example:
      >>> from convjax import gradflow, study
      >>> len(study.version(gradflow.profile))
      16
    """
    function, bound = plain_function(function)
    code = _hashed(function, frozenset(classes_of(config)))
    bound += held(function)
    return hashlib.sha256(f"{code}\n{bound}".encode()).hexdigest()[:16] if bound else code


def plain_function(function: Callable[..., Any]) -> tuple[Any, str]:
    """Return what decorators and ``functools.partial`` were put around, and what they bind.

    Raises:
      WrongTypeError: as ``version``.
    """
    _check.function("function", function, "a function of a module")
    bound = ""
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        if isinstance(function, functools.partial):
            bound += canonical((function.args, function.keywords))
            function = function.func
        else:
            function = function.__wrapped__
    if not hasattr(function, "__qualname__"):
        _check.wrong_type("function", function, "a function of a module")
    return function, bound


def classes_of(config: Any) -> set[type]:
    """Return the classes of a dataclass and of those inside it."""
    if isinstance(config, tuple | list):
        return set().union(*map(classes_of, config))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return set()
    inside = (getattr(config, field.name) for field in dataclasses.fields(config))
    return {type(config)}.union(*map(classes_of, inside))


@functools.lru_cache(1024)
def _hashed(function: Any, classes: frozenset[type]) -> str:
    for root in (function, *classes):
        _file_of(root)
    tracing = _Tracing({root.__module__.partition(".")[0] for root in (function, *classes)})
    for root in (function, *classes):
        tracing.begin(root)
    return hashlib.sha256("\n".join(sorted(tracing.texts())).encode()).hexdigest()[:16]


class _Tracing:
    """What names lead to, from module to module.

    Args:
      own: packages that count as the project's, wherever they lie.
    """

    def __init__(self, own: set[str]):
        self.own = own | {_LIBRARY}
        self.modules: dict[str, _Module] = {}
        self.files: dict[str, Path | None] = {}
        self.waiting: list[Target] = []

    def begin(self, root: Any) -> None:
        """Begin at a function or class."""
        path = _file_of(root)
        self.modules[root.__module__] = module = _read(path, _name_of(root.__module__))
        name = root.__qualname__.partition(".")[0]
        if name == "<lambda>":
            line = root.__code__.co_firstlineno
            here = [one for one in module.statements if one.lines[0] <= line <= one.lines[1]]
            name = next((min(one.binds) for one in here if one.binds), name)
        if name == "<lambda>":
            raise ValueError(
                f"the source of a lambda in {str(path)!r} cannot be told from what stands around "
                "it; define a function with def, or give version='1', and another each time that "
                "you change it"
            )
        if name not in module.binding:
            raise ValueError(f"{root.__qualname__} is not in {str(path)!r} any more; start anew")
        self.waiting.append((root.__module__, None if _in_library(root.__module__) else name))

    def texts(self) -> set[str]:
        """Return the texts of all that is reached."""
        found: set[str] = set()
        seen: set[Target] = set()
        while self.waiting:
            place = self.waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            name, wanted = place
            module = self.module(name)
            if module is None:
                continue
            here = module.statements
            if wanted is not None:
                here = [*module.binding.get(wanted, ()), *module.running]
                self.waiting += [(star, wanted) for star in module.stars]
            for statement in here:
                found.add(statement.text)
                if _in_library(name):
                    # Every import counts there, used or not: it may be there to register.
                    reached = [(*entry, ()) for entry in statement.imports.items()]
                else:
                    reached = list(self.used(name, module, statement))
                foreign = [entry for entry in reached if not self.follow(*entry[1:])]
                found.update(f"{base} is {target[0]}:{target[1]}" for base, target, _ in foreign)
        return found

    def used(
        self, name: str, module: "_Module", statement: Statement
    ) -> Iterator[tuple[str, Target, tuple[str, ...]]]:
        """Go where the names that a statement uses lead in its module; yield what is imported."""
        for base, *behind in statement.uses:
            for other in (statement, *module.binding.get(base, ())):
                if base in other.imports:
                    yield base, other.imports[base], tuple(behind)
                if other is not statement and not other.mere_import:
                    self.waiting.append((name, base))
            if base not in module.binding:
                self.waiting += [(star, base) for star in module.stars]

    def follow(self, target: Target, behind: tuple[str, ...]) -> bool:
        """Go where an import leads, with the attributes read of it; tell if that is the project."""
        module, name = target
        chain = behind if name is None else (name, *behind)
        while chain and self.located(f"{module}.{chain[0]}"):
            module, chain = f"{module}.{chain[0]}", chain[1:]
        if not self.located(module):
            return False
        if module.startswith(_PICTURES):
            return True
        # The library's own front, and that of the lab, only name what is in their rooms.
        room = _in_library(module) and module not in (_LIBRARY, f"{_LIBRARY}.lab")
        whole = room or not chain or chain[0] == "*"
        self.waiting.append((module, None if whole else chain[0]))
        return True

    def module(self, name: str) -> "_Module | None":
        """Return a module; None if it is not of the project."""
        if name not in self.modules:
            path = self.located(name)
            if path is None:
                return None
            self.modules[name] = _read(path, name)
        return self.modules[name]

    def located(self, name: str) -> Path | None:
        """Return the file of a module; None if it is not of the project."""
        if name not in self.files:
            path = _located(name)
            if path is not None and name.partition(".")[0] not in self.own:
                others = path.is_relative_to(_STANDARD) or _PACKAGES & set(path.parts)
                path = None if others else path
            self.files[name] = path
        return self.files[name]


class _Module:
    """One file: its statements, and which of them bind which name."""

    def __init__(self, path: Path, name: str):
        source = path.read_text(encoding="utf-8")
        self.statements = statements(source, name, package=path.stem == "__init__")
        self.binding: dict[str, list[Statement]] = {}
        for statement in self.statements:
            for bound in statement.binds:
                self.binding.setdefault(bound, []).append(statement)
        self.running = [one for one in self.statements if one.runs]
        self.stars = [one.imports["*"][0] for one in self.binding.get("*", ())]


def _file_of(root: Any) -> Path:
    try:
        path = Path(inspect.getsourcefile(root) or "")
    except TypeError:
        path = Path()
    if not path.is_file() or root.__module__ is None:  # what ``exec`` makes may have none
        raise ValueError(
            f"the source of {getattr(root, '__qualname__', root)!r} is in no file, as that of what "
            "is typed in a notebook; define it in a module, or give version='1', and another each "
            "time that you change it"
        )
    return path


def _read(path: Path, name: str) -> _Module:
    about = os.stat(path)
    return _read_once(path, name, about.st_mtime_ns, about.st_size)


@functools.lru_cache(1024)
def _read_once(path: Path, name: str, *_: int) -> _Module:
    return _Module(path, name)


def _name_of(module: str) -> str:
    """Return the name by which a module's relative imports are understood."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return module if spec is None else spec.name


def _in_library(module: str) -> bool:
    return module.partition(".")[0] == _LIBRARY


def _located(name: str) -> Path | None:
    """Return the file of a module of Python's source, without importing anything."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    found = [Path(spec.origin)] if spec.origin and not rest else []
    for folder in spec.submodule_search_locations or ():
        inside = Path(folder, *rest)
        found += [inside / "__init__.py", inside.parent / f"{inside.name}.py"] if rest else []
    return next((one for one in found if one.suffix == ".py" and one.is_file()), None)
