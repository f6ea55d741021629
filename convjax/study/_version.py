"""version: of the code that a function runs, so that what other code measured is not taken for it.

What counts is found by reading, not by running: of the function's own project the definitions that
it reaches by name, module by module; of convjax every module that these import, whole, since there
one definition reaches others by registering. Comments, docstrings and annotations do not count, nor
do other packages, whose versions stand in ``study.environment``.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LIBRARY = "convjax"
# Where other people's packages lie.
_OTHERS = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]

# A module, and the name of a definition in it; None for all of it.
_Place = tuple[str, str | None]


def version(function: Callable[..., Any], config: Any = None) -> str:
    """Return a hash of the code that a function runs, as far as names lead through its project.

    It changes with the function, with what it calls in its own project, with the class of its
    configuration, and with the modules of convjax that these import. It does not change with
    layout, comments, docstrings or annotations, nor with what stands in the same file unreached.

    Args:
      function: it has a source file. What it gets by other ways than names, such as files, closures
        or code in text, is not seen.
      config: what it will be called with: a dataclass, whose methods it may call; or None.

    Returns:
      Sixteen hexadecimal digits.

    Raises:
      ValueError: the source cannot be found, as of what was typed at a prompt.

    Example:
      >>> from convjax import gradflow, study
      >>> len(study.version(gradflow.profile))
      16
    """
    return _hashed((inspect.unwrap(function), *sorted(_classes(config), key=repr)))


def _classes(config: Any) -> set[type]:
    """Return the classes of a dataclass and of those inside it."""
    if isinstance(config, tuple | list):
        return set().union(*map(_classes, config))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return set()
    inside = (getattr(config, field.name) for field in dataclasses.fields(config))
    return {type(config)}.union(*map(_classes, inside))


@functools.cache
def _hashed(roots: tuple[Any, ...]) -> str:
    modules: dict[str, _Module] = {}
    found: dict[_Place, str] = {}
    waiting: list[_Place] = []
    for root in roots:
        name = root.__module__
        if name not in modules:
            modules[name] = _Module(name, _source_of(root))
        whole = name.partition(".")[0] == _LIBRARY
        waiting.append((name, None if whole else root.__qualname__.partition(".")[0]))
    while waiting:
        place = waiting.pop()
        if place in found:
            continue
        if place[0] not in modules:
            modules[place[0]] = _Module(place[0], _source(place[0]) or "")
        found[place], further = modules[place[0]].reached(place[1])
        waiting += further
    return hashlib.sha256("\n".join(sorted(found.values())).encode()).hexdigest()[:16]


def _source_of(root: Any) -> str:
    try:
        return Path(inspect.getsourcefile(root) or "").read_text(encoding="utf-8")
    except (OSError, TypeError) as error:
        raise ValueError(
            f"the source of {root!r} cannot be found; say its version with version=..."
        ) from error


class _Module:
    """One file: its statements, and which of them bind which name."""

    def __init__(self, name: str, source: str):
        self.name = name
        tree = _bare(ast.parse(source))
        self.statements: list[ast.stmt] = tree.body
        self.binding: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            for bound in _bound(statement):
                self.binding.setdefault(bound, []).append(statement)
        # What runs whenever the module is imported, and binds nothing.
        self.running = [one for one in tree.body if isinstance(one, ast.Expr)]

    def reached(self, name: str | None) -> tuple[str, list[_Place]]:
        """Return the text of a definition, or of all, and the places that it leads to."""
        if name is None:
            here = self.statements
            return _text(here), [place for one in here for place in self._imported(one, None)]
        here = [*self.binding.get(name, ()), *self.running]
        places: list[_Place] = []
        for statement in here:
            places += self._imported(statement, None)
            for used, attributes in _used(statement).items():
                for other in self.binding.get(used, ()):
                    if isinstance(other, ast.Import | ast.ImportFrom):
                        places += self._imported(other, used, attributes)
                    elif other is not statement:
                        places.append((self.name, used))
        return _text(here), places

    def _imported(
        self, statement: ast.stmt, name: str | None, attributes: frozenset[str] = frozenset()
    ) -> Iterator[_Place]:
        """Yield the places that a statement imports under a name; under any, for None."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if name in (None, alias.asname or alias.name.partition(".")[0]):
                        yield from _places(alias.name, attributes)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    if name not in (None, alias.asname or alias.name):
                        continue
                    inner = f"{base}.{alias.name}"
                    if _source(inner) is not None:
                        yield from _places(inner, attributes)
                    else:
                        named = frozenset() if alias.name == "*" else frozenset({alias.name})
                        yield from _places(base, named)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        return ".".join([*parts[: len(parts) - node.level], *filter(None, [node.module])])


def _places(module: str, names: frozenset[str]) -> Iterator[_Place]:
    if _source(module) is None:
        return
    if module.partition(".")[0] == _LIBRARY or not names:
        yield (module, None)
    else:
        yield from ((module, name) for name in sorted(names))


@functools.cache
def _source(module: str) -> str | None:
    """Return the source of a module of the project or the library; None for any other."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    ours = module.partition(".")[0] == _LIBRARY
    if not ours and any(file.is_relative_to(folder) for folder in _OTHERS):
        return None
    return file.read_text(encoding="utf-8")


def _bare(tree: ast.Module) -> ast.Module:
    """Return the tree without docstrings and annotations."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # pyright: ignore
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement at the top of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _used(statement: ast.stmt) -> dict[str, frozenset[str]]:
    """Return the names that a statement reads, each with the attributes; none if it stands alone."""
    dotted: dict[str, set[str]] = {}
    inside: set[int] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted.setdefault(node.value.id, set()).add(node.attr)
            inside.add(id(node.value))
    alone = {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and id(node) not in inside
    }
    found = {name: frozenset(attributes) for name, attributes in dotted.items()}
    return found | dict.fromkeys(alone, frozenset())


def _text(statements: list[ast.stmt]) -> str:
    return "\n".join(ast.dump(one) for one in statements)
