import functools
import importlib
import itertools
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from convjax import study

COUNT = itertools.count()
ROOT = Path(__file__).parents[2]

MAIN = '''
    """Measures."""

    import dataclasses
    import functools
    import math as m
    from typing import TYPE_CHECKING

    import PKG.deep.inner
    from PKG import helpers, shown
    from PKG.helpers import renamed as other

    if TYPE_CHECKING:
        from PKG.typed import Anything

    FACTOR = 2
    TABLE = {"a": 1}
    TABLE["b"] = 2


    def decorate(function):
        return function


    class Base:
        def size(self):
            return 3


    @dataclasses.dataclass(frozen=True)
    class Inside:
        width: int = 8

        def area(self):
            return self.width**2


    @dataclasses.dataclass(frozen=True)
    class Config(Base):
        """Says what."""

        depth: int = 8
        inside: Inside = Inside()

        def network(self):
            return [self.depth]


    @decorate
    def measure(config: "Anything"):
        """Return numbers."""
        from PKG import lazy

        table = [helpers.norm(FACTOR * x) for x in config.network()]
        name = f"{m.pi:.{FACTOR}f}{{}} {table!r}"
        return {"x": table, "y": TABLE, "z": other(name), "w": lazy.late(), **deep()}


    def deep():
        return {"v": PKG.deep.inner.bottom(), "k": by_key(1)}


    by_key = lambda key: key + 1


    def unrelated():
        return shown.draw(1)


    def draw(columns):
        return shown.draw(columns)


    def table(columns):
        return shown.draw(columns, "title")


    @functools.cache
    def cached(config):
        return FACTOR


    def maker():
        def inner(config):
            return FACTOR

        return inner


    def several(config, scale):
        return FACTOR * scale


    if __name__ == "__main__":
        print("a script")
'''
FILES = {
    "__init__": "",
    "main": MAIN,
    "helpers": """
        from . import lower
        from .names import *
        from .deep import inner as beneath


        def norm(x):
            # of one number
            return lower.absolute(x) if x else back(x)


        def back(x):
            return norm(starred(x - 1))


        def renamed(x):
            return x, beneath.bottom


        def alone(x):
            return 1
    """,
    "lower": "import math\n\n\ndef absolute(x):\n    return math.fabs(x)\n",
    "names": "def starred(x):\n    return x\n",
    "lazy": "def late():\n    return 4\n\n\ndef later():\n    return 5\n",
    "typed": "Anything = int\n",
    "shown": "def draw(*columns):\n    return 'title'\n",
    "deep/__init__": "",
    "deep/inner": """
        from ..lower import absolute
        from .. import registers


        def bottom():
            return absolute(registers.KNOWN)


        def top():
            return 7
    """,
    "registers": """
        KNOWN = {}


        def register(name):
            KNOWN[name] = len(name)


        for one in ("a", "bb"):
            register(one)
    """,
}


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Write the package anew, with changes, and import its main module."""

    def built(*changes):
        forget()
        root = tmp_path / str(next(COUNT))
        files = {path: textwrap.dedent(text) for path, text in FILES.items()}
        for path, old, new in changes:
            assert old in files[path]
            files[path] = files[path].replace(old, new)
        for path, text in files.items():
            place = root / "measured" / f"{path}.py"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text.replace("PKG", "measured"))
        monkeypatch.syspath_prepend(str(root))
        return importlib.import_module("measured.main")

    yield built
    forget()


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "measured"]:
        del sys.modules[name]


def version_of(module):
    return study.version(module.measure, module.Config())


CHANGES = {
    "the function": ("main", '"w": lazy.late()', '"w": lazy.late() + 1'),
    "a constant that it reads": ("main", "FACTOR = 2", "FACTOR = 3"),
    "an entry made later": ("main", 'TABLE["b"] = 2', 'TABLE["b"] = 3'),
    "a helper in another module": ("helpers", "if x else", "if x > 1 else"),
    "a helper's helper, in a cycle": ("helpers", "x - 1", "x - 2"),
    "by a relative import": ("lower", "math.fabs(x)", "math.fabs(x) + 1"),
    "under another name": ("helpers", "return x, beneath", "return x, x, beneath"),
    "by a star": ("names", "return x", "return -x"),
    "imported inside of the function": ("lazy", "return 4", "return 44"),
    "by a dotted import": ("deep/inner", "absolute(registers", "abs(registers"),
    "two dots above": ("registers", "KNOWN = {}", "KNOWN = {1: 2}"),
    "what runs when that is imported": ("registers", '("a", "bb")', '("a", "bbb")'),
    "a lambda": ("main", "key + 1", "key + 2"),
    "a decorator": ("main", "return function", "return function or 1"),
    "a method of the configuration": ("main", "[self.depth]", "[self.depth, 1]"),
    "a default of the configuration": ("main", "depth: int = 8", "depth: int = 9"),
    "a method of a configuration inside": ("main", "self.width**2", "self.width**3"),
    "a base class": ("main", "return 3", "return 33"),
    "a package of others": ("main", "import math as m", "import cmath as m"),
    "an f-string": ("main", "{table!r}", "{table!s}"),
    "which function is meant": ("main", "import renamed as other", "import alone as other"),
}
NO_CHANGES = {
    "a docstring": ("main", "Return numbers.", "Return other numbers."),
    "a class's docstring": ("main", '"""Says what."""\n', ""),
    "a comment": ("helpers", "# of one number", "# of one"),
    "layout": ("main", "FACTOR * x", "(\n        FACTOR *\n x )"),
    "quotes": ("main", 'f"{m.pi:.{FACTOR}f}{{}} {table!r}"', "f'{m.pi:.{FACTOR}f}{{}} {table!r}'"),
    "an annotation": ("main", 'config: "Anything"', "config: object"),
    "a field's annotation": ("main", "depth: int", "depth: float"),
    "a result's annotation": ("helpers", "def norm(x):", "def norm(x) -> float:"),
    "what type checkers import": ("typed", "int", "float"),
    "an unrelated function of the file": ("main", "shown.draw(1)", "shown.draw(2)"),
    "a function called as a local variable": ("main", '"title")', '"other title")'),
    "an unrelated function elsewhere": ("helpers", "return 1", "return 2"),
    "an unrelated lazy one": ("lazy", "return 5", "return 6"),
    "an unrelated deep one": ("deep/inner", "return 7", "return 8"),
    "drawing": ("shown", "'title'", "'another'"),
    "what a script does": ("main", "a script", "the script"),
    "an import's form": ("helpers", "from . import lower", "import PKG.lower as lower"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_changes_with(build, change):
    assert version_of(build(change)) != version_of(build())


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_it_does_not_change_with(build, change):
    assert version_of(build(change)) == version_of(build())


def test_it_is_the_same_for_good(build):
    # A change of this number measures every study anew: never by accident.
    assert version_of(build()) == "92b4fdb28d14d3c1"


@pytest.mark.parametrize("other", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_another_python_reads_the_same(other):
    """What is read of a file; the library's own are as long and as varied as any."""
    if other == f"python3.{sys.version_info.minor}" or shutil.which(other) is None:
        pytest.skip("not here")
    files = [*sorted((ROOT / "convjax").rglob("*.py"))[::4], Path(__file__)]
    code = "import sys; from _source import statements; print([[(s.text, sorted(s.uses), "
    code += "sorted(s.binds), s.runs, sorted(s.imports.items())) for s in statements("
    code += "open(f).read(), 'a.b', package=False)] for f in sys.argv[1:]])"
    found = [
        subprocess.run(
            [python, "-c", code, *map(str, files)],
            cwd=ROOT / "convjax" / "study",
            env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        for python in (sys.executable, shutil.which(other))
    ]
    if found[1].returncode:
        pytest.skip(f"{other} does not run here")
    assert found[0].stdout == found[1].stdout != ""


def test_decorated_bound_and_inner_functions_are_their_definitions(build):
    def versions(main):
        return [
            study.version(one)
            for one in (
                main.cached,
                main.maker(),
                main.by_key,
                functools.partial(main.several, scale=2),
                functools.partial(main.several, scale=3),
                main.Config.network,
            )
        ]

    before = versions(build())
    assert len(set(before)) == len(before)
    changes = {
        ("main", "FACTOR = 2", "FACTOR = 3"): [0, 1, 3, 4],
        ("main", "key + 1", "key + 2"): [2],
        ("main", "[self.depth]", "[0]"): [5],
    }
    for change, those in changes.items():
        after = versions(build(change))
        assert [i for i, one in enumerate(after) if one != before[i]] == those


def test_a_jitted_function_is_its_definition():
    import jax

    assert study.version(jax.jit(plain)) == study.version(plain)


def plain(config):
    return config


def by_closure(value):
    def measure(config):
        return value if config else measure(True)

    return measure


def by_default(value):
    def measure(config, value=value):
        return value

    return measure


class Holder:
    def __init__(self, value):
        self.value = value

    def measure(self, config):
        return self.value


@pytest.mark.parametrize("make", [by_closure, by_default, lambda value: Holder(value).measure])
def test_what_a_function_holds_is_part_of_it(make):
    """The results of ``by_closure(2)`` are none of ``by_closure(3)``."""
    values = [2, 3, [2, "a"], plain, by_closure(2), by_closure(3), study, int, len]
    versions = [study.version(make(value)) for value in values]
    assert len(set(versions)) == len(values)
    assert versions == [study.version(make(value)) for value in values]
    with pytest.raises(TypeError, match=r"function=.*measure holds .*<object.*give version='1'"):
        study.version(make(object()))


def test_a_lambda_without_a_name_is_refused():
    found = []
    line = "\n" * 9999 + "found.append(lambda config: config)"
    exec(compile(line, __file__, "exec"), {"found": found, "__name__": __name__})
    with pytest.raises(ValueError, match=r"lambda in .*define a function with def, or give versi"):
        study.version(found[0])


class Called:
    def __call__(self, config):
        return config


def test_what_is_no_function_of_a_module_is_refused():
    with pytest.raises(TypeError, match=r"function=.*Called.* must be a function of a module"):
        study.version(Called())
    with pytest.raises(TypeError, match="is not data"):
        study.version(functools.partial(plain, object()))
    scope = {"__name__": "nowhere"}
    exec("def typed(config): pass", scope)
    with pytest.raises(
        ValueError, match=r"source of 'typed' is in no file, .*notebook; .*give version='1'"
    ):
        study.version(scope["typed"])


def test_a_script_is_read_as_a_module_is(tmp_path, monkeypatch):
    script = tmp_path / "measured.py"
    script.write_text("FACTOR = 2\n\n\ndef measure(config):\n    return FACTOR\n")
    run = runpy.run_path(str(script), run_name="__main__")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    module = importlib.import_module("measured")
    assert run["measure"].__module__ == "__main__"
    assert study.version(run["measure"]) == study.version(module.measure)
    forget()


def test_the_library_counts_by_whole_modules():
    one, other = study.keep_memory, study.keeping_memory
    assert study.version(one) == study.version(other) != study.version(study.groups)


def test_the_front_of_the_library_leads_to_what_it_names(tmp_path, monkeypatch):
    def version_by(line, name):
        (tmp_path / name).mkdir()
        text = f"{line}\n\n\ndef measure(config):\n    return convjax.cost(config)\n"
        (tmp_path / name / "measured.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / name))
        forget()
        return study.version(importlib.import_module("measured").measure)

    nothing = version_by("convjax = print", "a")
    front = version_by("import convjax", "b")
    room = version_by("import convjax._cost as convjax", "c")
    assert nothing != front == room
    forget()
