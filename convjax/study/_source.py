"""What the source of a module says: its statements as bare text, and the names that they use.

Bare is what is left without comments, layout, docstrings, annotations and what only type checkers
read. The text is written here, since Python's own ways to write a tree change from one to the next.
"""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

# Fields that do not count, or that not every Python has.
_IGNORED = {"annotation", "ctx", "kind", "returns", "type_comment", "type_ignores", "type_params"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

# A module, and a name in it; None for the module itself.
Target = tuple[str, str | None]


@dataclasses.dataclass
class Statement:
    """A statement at the top of a module.

    Attributes:
      text: it, bare.
      lines: the first and the last of its lines.
      binds: the names that it gives something to.
      imports: what it imports, by the name that it has here; ``*`` for all of a module.
      uses: names that it reads from outside, each with the attributes behind it: ``np.linalg.qr``
        is ``("np", "linalg", "qr")``.
      mere_import: whether it is an import and nothing else.
      runs: whether it is no definition, import or assignment, and counts with any of these.
    """

    text: str
    lines: tuple[int, int]
    binds: set[str]
    imports: dict[str, Target]
    uses: set[tuple[str, ...]]
    mere_import: bool
    runs: bool


def statements(source: str, module: str, *, package: bool) -> list[Statement]:
    """Return the statements at the top of a module.

    Args:
      source: its text.
      module: its name.
      package: whether it is a package's ``__init__``.
    """
    return [_read(one, module, package) for one in _bare(ast.parse(source).body, top=True)]


def _read(node: ast.stmt, module: str, package: bool) -> Statement:
    reader = _Reader(module, package)
    reader.write(node)
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
    names = {node.name} if isinstance(node, _DEFINITIONS) else reader.stored | set(reader.imports)
    assigns = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.If | ast.Try)
    return Statement(
        text="".join(reader.parts),
        lines=(first, node.end_lineno or first),
        binds=names,
        imports=reader.imports,
        uses=reader.uses,
        mere_import=isinstance(node, ast.Import | ast.ImportFrom),
        runs=not names or not (assigns or names <= {*reader.imports, getattr(node, "name", "")}),
    )


def _bare(body: Sequence[Any], *, top: bool = False) -> Iterator[Any]:
    """Yield those of a list that count: no docstrings, nothing for type checkers or scripts."""
    for one in body:
        if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
            continue
        if isinstance(one, ast.If) and (_for_types(one.test) or (top and _for_script(one.test))):
            yield from _bare(one.orelse)
            continue
        yield one


def _for_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def _for_script(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and getattr(test.left, "id", "") == "__name__"


class _Reader:
    """Writes one statement, and notes the names on the way."""

    def __init__(self, module: str, package: bool):
        self.parts: list[str] = []
        self.imports: dict[str, Target] = {}
        self.stored: set[str] = set()
        self.uses: set[tuple[str, ...]] = set()
        # Names that belong to the functions and comprehensions around.
        self._inner: list[set[str]] = []
        parts = module.split(".")
        self._package = parts if package else parts[:-1]

    def write(self, node: ast.AST) -> None:
        """Write a node and all below it."""
        kind = type(node)
        if kind is ast.Constant:
            self.parts.append(repr(node.value))  # pyright: ignore
        elif kind is ast.Name or kind is ast.Attribute:
            self._name(node)  # pyright: ignore
        elif kind is ast.JoinedStr:
            self._joined(node)  # pyright: ignore
        elif kind in _FUNCTIONS:
            self._function(node)  # pyright: ignore
        elif kind in _COMPREHENSIONS:
            self._comprehension(node)  # pyright: ignore
        elif kind is ast.Import or kind is ast.ImportFrom:
            # What it leads to counts, not from where.
            self._import(node)  # pyright: ignore
        else:
            if kind is ast.ClassDef:
                self.stored.add(node.name)  # pyright: ignore
            self._fields(node, node._fields)

    def _fields(self, node: ast.AST, names: Sequence[str]) -> None:
        self.parts.append(type(node).__name__ + "(")
        for name in names:
            if name not in _IGNORED:
                self._value(getattr(node, name, None))
                self.parts.append(";")
        self.parts.append(")")

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self.write(value)
        elif isinstance(value, list):
            self.parts.append("[")
            for one in _bare(value):
                self._value(one)
                self.parts.append(",")
            self.parts.append("]")
        else:
            self.parts.append("~" if value is None else repr(value))

    def _name(self, node: ast.Name | ast.Attribute) -> None:
        behind: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            behind.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            chain = (base.id, *reversed(behind))
            self.parts.append(".".join(chain))
            if not any(base.id in names for names in self._inner):
                if not isinstance(node.ctx, ast.Load):
                    self.stored.add(base.id)
                if behind or isinstance(node.ctx, ast.Load):
                    self.uses.add(chain)
        else:
            self.write(base)
            self.parts.append("." + ".".join(reversed(behind)))

    def _joined(self, node: ast.JoinedStr) -> None:
        """Write an f-string; Pythons differ in where they cut the text between its values."""
        self.parts.append("f(")
        text = ""
        for one in node.values:
            if isinstance(one, ast.Constant):
                text += str(one.value)
            else:
                self.parts.append(repr(text))
                self.write(one)
                text = ""
        self.parts.append(repr(text) + ")")

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        """Write a function: what stands before its body is of the scope around it."""
        if not isinstance(node, ast.Lambda):
            self.stored.add(node.name)
        self._fields(node, [name for name in node._fields if name != "body"])
        self._inner.append(_own(node))
        before = set(self.stored)
        self._value(node.body)
        self.stored = before
        self._inner.pop()

    def _comprehension(self, node: ast.AST) -> None:
        generators: list[ast.comprehension] = node.generators  # pyright: ignore
        self.write(generators[0].iter)
        self._inner.append(set().union(*(_stored(one.target) for one in generators)))
        self._fields(node, node._fields)
        self._inner.pop()

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                self.imports[alias.asname or top] = (alias.name if alias.asname else top, None)
            return
        base = node.module or ""
        if node.level:
            around = self._package[: len(self._package) - node.level + 1]
            base = ".".join([*around, *filter(None, [node.module])])
        for alias in node.names:
            self.imports[alias.asname or alias.name] = (base, alias.name)


def _own(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """Return the names that belong to a function: its arguments, and what it assigns."""
    places = function.args
    given = [*places.posonlyargs, *places.args, *places.kwonlyargs, places.vararg, places.kwarg]
    names = {one.arg for one in given if one is not None}
    if isinstance(function, ast.Lambda):
        return names
    others: set[str] = set()
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DEFINITIONS):
            names.add(node.name)
            waiting += node.decorator_list
        elif isinstance(node, ast.Global):
            others.update(node.names)
        elif not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            names |= _stored(node, deep=False)
            waiting += ast.iter_child_nodes(node)
    return names - others


def _stored(node: ast.AST, *, deep: bool = True) -> set[str]:
    """Return the names that a node assigns, or all below it."""
    if deep:
        return set().union(*(_stored(one, deep=False) for one in ast.walk(node)))
    if isinstance(node, ast.Name):
        return set() if isinstance(node.ctx, ast.Load) else {node.id}
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return {node.name} if node.name else set()
    if isinstance(node, ast.MatchMapping):
        return {node.rest} if node.rest else set()
    return set()
