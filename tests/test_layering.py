"""Dependencies point down, and every name has one public path: read from the source itself."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(p for d in ("convjax", "experiments") for p in (ROOT / d).rglob("*.py"))

# room: (rooms that it may know, packages that it may know beside the standard library)
ROOMS = {
    "_check": ("", "jax numpy"),
    "_pickles": ("", ""),
    "_foreign": ("_check", "jax numpy flax"),
    "_interrupt": ("", ""),
    "_objects": ("", "flax"),
    "_room": ("_interrupt", ""),
    "ops": ("_check _objects _trace ops", "jax jaxtyping numpy"),
    "_readable": ("_check", "jax numpy"),
    "_trace": ("_trace", "jax numpy"),
    "_rules": ("", "flax"),
    "nn": ("_check _foreign _rules _trace ops nn", "jax jaxtyping numpy flax"),
    "_cost": ("_check _foreign _readable _rules ops nn _cost", "jax jaxtyping numpy flax"),
    "gradflow": (
        "_check _foreign _readable _rules _trace ops nn gradflow plots",
        "jax jaxtyping numpy scipy flax",
    ),
    "models": (
        "_check _pickles ops nn models",
        "jax jaxtyping numpy flax safetensors h5py torch huggingface_hub ml_dtypes",
    ),
    "train": (
        "_check ops nn _cost cost gradflow models train",
        "jax jaxtyping numpy flax optax orbax chex rich tensorboardX",
    ),
    "data": ("_check _pickles data", "jax numpy sklearn PIL grain absl"),
    "study": ("_check study", "jax numpy pyarrow ray submitit"),
    "plots": ("_check study plots", "numpy matplotlib"),
    "lab": (
        "_check _foreign _room cost gradflow models nn train data study plots lab",
        "jax numpy flax optax matplotlib tyro rich",
    ),
    "command": ("_interrupt", ""),
    "experiments": (
        "ops nn cost gradflow models train data study plots lab command experiments",
        "jax numpy scipy flax optax matplotlib pyarrow sklearn tyro rich",
    ),
    # Run by an interpreter of its own, which need not have JAX.
    "experiments/benchmarks/torch_peer": ("", "numpy torch"),
    "experiments/benchmarks/torch_networks": ("", "torch torchvision timm"),
}
# What a user imports: rooms, and no private folder.
PACKAGES = sorted((ROOT / "convjax").rglob("__init__.py"))
ROOM_FILES = [p for p in PACKAGES if not any(part[0] == "_" for part in p.parts[-3:-1])]
OPEN = [*ROOM_FILES, ROOT / "convjax/nn/initializers.py"]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def room_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if "/".join(parts) in ROOMS:
        return "/".join(parts)
    return parts[0] if parts[0] == "experiments" else parts[1]


def imports(path):
    """Every module or name that a file imports, in full: ``a.b.c``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (  # what is reached through `import convjax`
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "convjax"
        ):
            yield f"convjax.{node.attr}"


def foreign(path):
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - {"convjax", "experiments"} - sys.stdlib_module_names


def own(path):
    """Imports from the repository itself, split at the dots."""
    split = [tuple(name.split(".")) for name in imports(path)]
    return [name for name in split if name[0] in ("convjax", "experiments") and len(name) > 1]


def test_every_room_is_known():
    assert {room_of(path) for path in FILES} - {"__init__"} <= set(ROOMS)


@every_file
def test_arrows_point_down(path):
    if room_of(path) == "__init__":
        assert not foreign(path)
        return
    rooms, packages = (set(names.split()) for names in ROOMS[room_of(path)])
    assert foreign(path) <= packages
    seen = {name[1] if name[0] == "convjax" else name[0] for name in own(path)}
    assert seen - {"__version__", "_room"} <= rooms


@every_file
def test_what_is_private_stays_at_home(path):
    for name in own(path):
        at_home = name[:2] == ("convjax", room_of(path))
        # A question has its own folder, and what is private there is its own.
        at_home = at_home or name[:2] == ("experiments", path.parent.name)
        hidden = [part for part in name[1:] if part.startswith("_") and part != "__version__"]
        ground = (
            "_check",
            "_foreign",
            "_interrupt",
            "_objects",
            "_pickles",
            "_readable",
            "_rules",
            "_trace",
        )
        shared = path.parts[-2] != "experiments" and name[1] in ground
        # A room of one function, which bears the function's name in public.
        shared = shared or (path == ROOT / "convjax/__init__.py" and name[1] == "_cost")
        shared = shared or (name[:2] == ("convjax", "_room") and path in OPEN)
        assert at_home or shared or not hidden, ".".join(name)


def reexported(path):
    """Every name that a package re-exports, in full, from its one form: ``import X as X``."""
    for node in ast.parse(path.read_text()).body[1:]:
        if isinstance(node, ast.ImportFrom):
            (alias,) = node.names
            if alias.name != "_room":
                assert alias.name == alias.asname, f"{path}: {alias.name}"
                assert not alias.name.startswith("_"), f"{path}: {alias.name}"
                yield f"{node.module}.{alias.name}"


def test_every_package_reexports_by_one_form_and_nothing_else():
    for path in PACKAGES:
        list(reexported(path))
        others = [
            n for n in ast.parse(path.read_text()).body[1:] if not isinstance(n, ast.ImportFrom)
        ]
        lines = [ast.unparse(node) for node in others if "__version__" not in ast.unparse(node)]
        assert lines == ["_room.show(globals())"] * (path in ROOM_FILES), path


@pytest.mark.parametrize("path", OPEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_lists_its_public_names_with_a_line_each(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    room = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    if path in ROOM_FILES:
        names = sorted(name.split(".")[-1] for name in reexported(path))
        assert room.__all__ == names and {*names} <= {*dir(room)}
    assert {*room.__all__} <= {*dir(room)}
    hidden = [name for name in dir(room) if name.startswith("_") and not name.startswith("__")]
    assert not hidden
    listing = room.__doc__.partition("Public names:\n")[2]
    entries = re.findall(r"^  (\w+): \S", listing, re.MULTILINE)
    assert entries == room.__all__
    assert max(map(len, listing.splitlines())) <= 76


def test_every_name_is_public_in_one_package_only():
    seen = {}
    for path in PACKAGES:
        for name in reexported(path):
            assert name not in seen, f"{name}: {path} and {seen[name]}"
            seen[name] = path
            room = path.parent.relative_to(ROOT).parts
            assert tuple(name.split("."))[: len(room)] == room, f"{path} exports {name}"


def test_the_library_alone_loads_no_side_room_and_no_package_of_theirs():
    code = (
        "import sys, jax, jaxtyping, flax.nnx; before = set(sys.modules); import convjax; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before}, "
        "*{name for name in sys.modules if name.startswith(('convjax.', 'scipy.'))})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "convjax.nn" in loaded
    side = {"convjax.data", "convjax.study", "convjax.plots", "convjax.lab"}
    heavy = {"matplotlib", "sklearn", "pyarrow", "tyro", "rich", "torch", "tensorflow", "optax"}
    # SciPy's rooms cost as much as JAX itself: each is loaded where it is first used.
    slow = {"scipy.special", "scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.stats"}
    assert not loaded & (side | heavy | slow)
