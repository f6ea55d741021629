"""Questions about networks at initialization: everything that follows from one kind of network."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np

from convjax import _check
from convjax.lab import _ratios
from convjax.lab._checks import check_least, check_several
from convjax.lab._ensemble import Ensemble, measure, name_of
from convjax.lab._run import Options

NEEDED = {
    "network": "is called with rngs= and returns one network",
    "signal": "is called with a key and a batch size and returns what goes in",
    "label": "is what it is called beside others",
    "expected": "is what |g_0|^2 / |g_L|^2 should be in the mean",
}
SEEDS = "Networks of each kind; networks of one seed have the same initial values."
BATCH_SIZE = "Examples that go through each network; their gradients are measured together."


def ensembles(
    kind: type, *, seeds: int, batch_size: int = 0, apart: tuple[str, ...] = (), **axes: Any
) -> Any:
    """Return the options of a question about many networks of each kind at initialization.

    Assigned to ``Config``, they make a question of the file: its cells are ensembles of every kind
    that the options name, ``log_ratio`` is measured behind every unit, and the mean of
    |g_0|^2 / |g_L|^2 over networks is held against ``expected`` within three standard errors, and
    drawn and tabled beside it. A file that wants one of this otherwise defines the function itself.

    Args:
      kind: frozen dataclass with ``network(rngs)``, which returns an ``nn.Repeat`` of the units,
        ``signal(key, batch_size)``, and

        - ``expected``, what |g_0|^2 / |g_L|^2 is in the mean: a number, or one for every number of
          units travelled back, starting at none;
        - ``label``, what it is called beside others: kinds of one label are judged together;
        - where they are wanted, ``panel``, the title of the panel that it is drawn in, ``exact``,
          true where every single network must have the ratio 1, and ``measure(key, batch_size)``
          in place of ``signal``; see ``lab.measure``.

        Its fields become options, with the text below each of them as help.
      seeds: networks of each kind.
      batch_size: examples; 0 where that is part of the kind.
      apart: fields by which everything is judged and drawn apart.
      **axes: by the name of a field with an ``s`` behind it, the values that it takes by default.

    Returns:
      A dataclass, a subclass of ``lab.Options``.

    Raises:
      WrongTypeError: no dataclass; an axis that is one value.
      ValueError: a kind without one of these; an axis that is no field, a field without a value;
        apart names no field.

    Example:
      >>> import dataclasses, jax
      >>> from convjax import lab, models
      >>> @dataclasses.dataclass(frozen=True)
      ... class Plain:
      ...     depth: int
      ...     width: int = 8
      ...     label, expected = "plain", 1.0
      ...     def network(self, rngs):
      ...         return models.deep_stack(2 * self.depth, self.width, rngs=rngs)
      ...     def signal(self, key, batch_size):
      ...         return jax.random.normal(key, (batch_size, 4, 4, self.width))
      >>> Config = lab.ensembles(Plain, seeds=4, depths=(2, 3))
      >>> [cell.kind.depth for cell in Config.defaults()["cells"](Config(depths=(5, 6, 7)))]
      [5, 6, 7]
    """
    _check_kind(kind)
    names = {field.name: field for field in dataclasses.fields(kind)}
    for axis in axes:
        if axis.removesuffix("s") not in names or not axis.endswith("s"):
            raise ValueError(
                f"{axis} is no axis: {kind.__name__} has the fields {', '.join(names)}, and an "
                "axis is called like one of them with an s behind it"
            )
        if isinstance(axes[axis], str) or not isinstance(axes[axis], Iterable):
            _check.wrong_type(axis, axes[axis], "several values")
    for i, name in enumerate(_check.strings("apart", apart)):
        _check.choice(f"apart[{i}]", name, names)
    helps, fields = _helps(kind), []
    order = [axis.removesuffix("s") for axis in axes]
    for name in [*order, *(name for name in names if name not in order)]:
        field = names[name]
        several = axes.get(f"{name}s")
        if several is None and field.default is dataclasses.MISSING:
            raise ValueError(f"{kind.__name__}.{name} needs a default, or values: {name}s=…")
        if several is None:
            fields.append(_option(name, field.type, field.default, helps.get(name, "")))
        else:
            every: Any = tuple[field.type, ...]  # pyright: ignore[reportInvalidTypeForm]
            fields.append(_option(f"{name}s", every, tuple(several), helps.get(name, "")))
    fields.append(_option("seeds", int, seeds, SEEDS))
    if batch_size:
        fields.append(_option("batch_size", int, batch_size, BATCH_SIZE))
    made: Any = dataclasses.make_dataclass("Config", fields, bases=(Options,), frozen=True)
    made.defaults = staticmethod(partial(_defaults, kind, tuple(axes), apart))
    return made


def _check_kind(kind: Any) -> None:
    """Refuse a kind of which nothing can be measured or said, before anything is."""
    if not (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
        _check.wrong_type("kind", kind, "a frozen dataclass")
    known = {*dir(kind), *(field.name for field in dataclasses.fields(kind))}
    needed = ("measure",) if "measure" in known else ("network", "signal")
    for name in (*needed, "label", "expected"):
        if name not in known:
            raise ValueError(f"kind={kind.__name__} needs {name}, which {NEEDED[name]}")


def _option(name: str, kind: Any, default: Any, told: str) -> tuple[str, Any, Any]:
    import tyro  # here, because what takes no options runs without it

    return name, Annotated[kind, tyro.conf.arg(help=told)], dataclasses.field(default=default)


def _helps(kind: type) -> dict[str, str]:
    """Return the text below each field; none where the source is not in a file."""
    try:
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found, body = {}, getattr(defined, "body", [])
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            text = getattr(below.value, "value", None)
            if isinstance(text, str) and isinstance(field.target, ast.Name):
                found[field.target.id] = inspect.cleandoc(text)
    return found


def _defaults(kind: type, axes: Sequence[str], apart: tuple[str, ...]) -> dict[str, Any]:
    made = {"cells": partial(cells, kind, axes), "measure": measure, "apart": apart}
    functions = zip(("judge", "draw", "table"), _ratios.against_theory(kind), strict=True)
    return made | dict(functions)


def cells(kind: type, axes: Sequence[str], config: Any) -> list[Ensemble]:
    """Return an ensemble of every kind; the first axis is the outermost.

    Raises:
      ValueError: an option that cannot be done.
    """
    given = {field.name for field in dataclasses.fields(config)}
    check_least(config, seeds=2, **({"batch_size": 1} if "batch_size" in given else {}))
    check_several(config, *axes)
    fields = [field.name for field in dataclasses.fields(kind)]
    same = {name: getattr(config, name) for name in fields if f"{name}s" not in axes}
    made = [
        Ensemble(
            kind(**same, **dict(zip((axis.removesuffix("s") for axis in axes), one, strict=True))),
            config.seeds,
            0 if "batch_size" in fields else getattr(config, "batch_size", 0),
        )
        for one in itertools.product(*(getattr(config, axis) for axis in axes))
    ]
    for cell in made:
        _check_expected(cell.kind)
    return made


def _check_expected(kind: Any) -> None:
    """Refuse an expectation that is no number before hours of measuring."""
    try:
        known = np.asarray(kind.expected, float)
        fits = known.ndim < 2 and np.isfinite(known).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        right = "a finite number, or one for every number of units travelled back"
        _check.wrong_type(f"expected of {name_of(kind)}", kind.expected, right)
