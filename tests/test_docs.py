"""Examples in docstrings run, and everything public is documented."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import is_typeddict

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.nn.conftest import quick_compilation as quick_compilation

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "convjax").rglob("*.py"))
ROOMS = (
    "_cost",
    "ops",
    "nn",
    "nn.initializers",
    "gradflow",
    "gradflow.oracles",
    "models",
    "data",
    "study",
    "plots",
    "train",
    "lab",
)


def doctests():
    """Read the examples from the source: a decorated function would hide its own."""
    parser = doctest.DocTestParser()
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                name = f"{module}.{getattr(node, 'name', '')}"
                test = parser.get_doctest(text or "", {}, name, str(path), node.body[0].lineno - 1)
                if test.examples:
                    yield test


DOCTESTS = list(doctests())
ON_DISK = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def test_no_example_is_overlooked():
    written = sum(len(re.findall(r"^ *>>> ", path.read_text(), re.MULTILINE)) for path in FILES)
    assert sum(len(test.examples) for test in DOCTESTS) == written > 100


@pytest.fixture
def programs_stay_here():
    """What an example says of programs on disk ends with it."""
    before = {name: jax.config.values[name] for name in ON_DISK}
    yield
    if before != {name: jax.config.values[name] for name in ON_DISK}:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.mark.usefixtures("quick_compilation", "programs_stay_here")
@pytest.mark.parametrize("test", DOCTESTS, ids=lambda test: test.name)
def test_examples_run(test):
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert result.attempted == len(test.examples)
    assert not result.failed, "".join(report)


def public():
    """Functions and classes by their one public path."""
    for room in ROOMS:
        module = importlib.import_module(f"convjax.{room}")
        for name, value in vars(module).items():
            home = getattr(value, "__module__", None) or ""
            if (
                not name.startswith("_")
                and (inspect.isfunction(value) or inspect.isclass(value))
                and home.startswith(f"convjax.{room}")
            ):
                yield f"{room}.{name}", value


PUBLIC = dict(public())
everything = pytest.mark.parametrize("name", sorted(PUBLIC))


def arguments(value):
    if is_typeddict(value) or (value.__init__ is object.__init__ and inspect.isclass(value)):
        return []
    parameters = inspect.signature(value).parameters.values()
    return [p.name for p in parameters if p.name not in ("self", "args", "kwargs")]


def is_result(value):
    """Records are shown by the examples of the functions that return them."""
    record = dataclasses.is_dataclass(value) or hasattr(value, "_fields")
    return inspect.isclass(value) and record and "__call__" not in vars(value)


def refuses(value):
    text = inspect.getsource(inspect.unwrap(value))
    return any(word in text for word in ("raise ValueError", "refuse(", "check_features("))


def test_everything_public_is_seen():
    assert {"ops.conv", "nn.Conv", "nn.walk", "nn.initializers.fans"} <= set(PUBLIC)
    assert {"gradflow.profile", "models.resnet_cifar"} <= set(PUBLIC)


@everything
def test_there_is_a_docstring_of_one_line_and_more(name):
    text = inspect.getdoc(PUBLIC[name])
    assert text, "no docstring"
    first, *rest = text.splitlines()
    assert first.endswith((".", ":")) and not (rest and rest[0]), first


@everything
def test_arguments_and_refusals_are_documented(name):
    value, text = PUBLIC[name], inspect.getdoc(PUBLIC[name]) or ""
    if is_result(value) or not arguments(value):
        return
    assert "Args:" in text
    for argument in arguments(value):
        assert re.search(rf"^ +\**{argument}(, \w+)*:", text, re.MULTILINE), argument
    if refuses(value):
        assert "Raises:" in text


@everything
def test_there_is_an_example_wherever_there_is_an_argument(name):
    value = PUBLIC[name]
    if is_result(value) or not arguments(value):
        return
    assert ">>> " in (inspect.getdoc(value) or "")
