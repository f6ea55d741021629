"""A network of the user's own: imported by its name, made, and called as its framework calls it."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
from flax import linen, nnx

from convjax import _check, _foreign, lab, nn
from convjax.lab._checks import unknown
from convjax.lab._options import calling

GIVEN: dict[str, tuple[str, Callable[[int], Any]]] = {
    "rngs": ("nnx.Rngs({})", nnx.Rngs),
    "key": ("jax.random.key({})", jax.random.key),
    "rng": ("jax.random.key({})", jax.random.key),
    "seed": ("{}", int),
}
"""What a function that makes a network may ask for by name: as it is said, and made of the seed."""

MODES = {"train": True, "training": True, "is_training": True}
MODES |= {"deterministic": False, "use_running_average": False}
"""What the call of a Linen module may name its mode, and its value in training."""

SERVED = (
    "an nnx.Module, nn.Function(apply, params), the pair (apply, params), a Linen module, alone or "
    "as the pair (module, variables), or an Equinox module"
)


class Own(NamedTuple):
    """A network that was made, and how."""

    net: nnx.Module
    words: str  # how it was made, and called where its framework says so
    mode: bool | None  # in which its call is to be read, where that takes one


def is_own(name: str) -> bool:
    """Whether a name is that of a user's module, and not one of ``models``."""
    return ":" in name or name.endswith(".py")


def own(name: str, x: Any, *, train: bool | None, seed: int) -> Own:
    """Return the network that a user's module holds or makes.

    Args:
      name: ``package.module:name``, or ``path/to/file.py:name``.
      x: the batch, or what has its shape and dtype.
      train: the mode of its call.
      seed: of its random numbers.

    Raises:
      UsageError: what cannot be imported, made or taken for a network; of an error in the user's
        code, it shows the lines of that code.
    """
    place, _, what = name.rpartition(":") if ":" in name else (name, "", "")
    module = _imported(place)
    found: Any = module
    for part in what.split("."):
        if not hasattr(found, part):
            raise lab.UsageError(_unheld(module, place, part))
        found = getattr(found, part)
    return _network(*_made(found, name, seed), x, train, seed)


def _unheld(module: ModuleType, place: str, part: str) -> str:
    """Return the sentence that refuses a name which a module does not hold, or none at all."""
    held = [name for name, value in vars(module).items() if _is_of(module, name, value)]
    if not held:
        return f"{place} defines no function, no class and no network."
    if not part:
        return f"say which network of {place}, such as {place}:{held[-1]}; {_choice(held)}"
    return f"{place} holds no {part!r}; {unknown('', part, held).partition('; ')[2]}"


def _choice(names: list[str]) -> str:
    return f"there {'are' if len(names) > 1 else 'is'} {', '.join(names)}."


def _is_of(module: ModuleType, name: str, value: Any) -> bool:
    """Whether a name of a module is one that it defines, and may be a network's."""
    here = getattr(value, "__module__", "") == module.__name__
    return not name.startswith("_") and (
        (here and callable(value)) or isinstance(value, nnx.Module)
    )


def _imported(place: str) -> ModuleType:
    """Import a file, or a module from the current folder."""
    with _telling(place):
        if place.endswith(".py"):
            return lab.load(place)
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if not f"{place}.".startswith(f"{error.name}."):
                raise
            file = Path(*place.split(".")).with_suffix(".py")
            raise lab.UsageError(
                f"there is no module {error.name!r} in {folder}, and none is installed; give "
                f"package.module:name from the folder that holds package, or the file, such as "
                f"path/to/{file.name}:name."
            ) from error


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Say an error of a user's code by the lines of that code, and of a library in a sentence."""
    try:
        with calling(what):
            yield
    except lab.UsageError:
        raise
    except Exception as error:
        said = f"{error}".strip().partition("\n")[0]
        raise lab.UsageError(f"{what}: {type(error).__name__}: {said.rstrip('.')}.") from error


def _made(found: Any, name: str, seed: int) -> tuple[Any, str]:
    """Return what a function makes, or what is made already; and how, in words."""
    if not isinstance(found, type) and (_is_network(found) or not callable(found)):
        return found, name
    parameters = _parameters(found)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    passed = [p.name for p in named if p.name in GIVEN]
    needed = [p for p in parameters if p.default is p.empty and p.name not in passed]
    missing = [p.name for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing:
        raise lab.UsageError(
            f"{name} cannot be called without {', '.join(missing)}; give a function that takes "
            f"nothing, or some of {', '.join(GIVEN)}, and returns the network: "
            f"def make(rngs): return {getattr(found, '__name__', 'Net')}(…)."
        )
    words = ", ".join(f"{p}={GIVEN[p][0].format(seed)}" for p in passed)
    said = f"{name}({words})"
    with _telling(said):
        return found(**{p: GIVEN[p][1](seed) for p in passed}), said


def _parameters(found: Any) -> list[inspect.Parameter]:
    """Return what a function or a class asks for; nothing where that cannot be seen."""
    try:
        if isinstance(found, type):  # its metaclass may stand before it
            return list(inspect.signature(found.__init__).parameters.values())[1:]
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return []


def _is_network(found: Any) -> bool:
    foreign = _foreign.is_linen(found) or _foreign.is_equinox(found) or _foreign.is_haiku(found)
    return isinstance(found, nnx.Module | tuple) or foreign


def _network(found: Any, said: str, x: Any, train: bool | None, seed: int) -> Own:
    """Return what was made as a module of NNX, called as its framework does it."""
    if isinstance(found, nnx.Module):
        if not nn.takes_mode(found):
            _refuse_mode(said, train, "net.train() or net.eval()")
            return Own(found, said, None)
        return Own(found, said, train is not False)
    first, second = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if _foreign.is_linen(first):
        return _linen(first, second, said, x, train, seed)
    if _foreign.is_equinox(first):
        return _equinox(first, second, said, train, seed)
    if second is not None and callable(first) and not callable(second):
        _refuse_mode(said, train, "it in the function")
        return Own(_function(first, second, said), f"{said}, called as apply(params, x)", None)
    advice = _foreign.serves(found)
    raise lab.UsageError(
        f"{said} is {_check.shown(found)}; it must be {SERVED}{f'; {advice}' if advice else ''}."
    )


def _refuse_mode(said: str, train: bool | None, where: str) -> None:
    if train is not None:
        option = "--train" if train else "--no-train"
        raise lab.UsageError(
            f"{option}: the call of {said} takes no mode; leave {option} out, and say {where}."
        )


def _linen(module: Any, variables: Any, said: str, x: Any, train: bool | None, seed: int) -> Own:
    """Return a Linen module as a function of its variables; without them, it is initialized."""
    if module.scope is not None:
        module, variables = module.unbind()
    accepted = inspect.signature(module).parameters
    modes = {n: MODES[n] == (train is not False) for n in accepted if n in MODES}
    if not modes:
        _refuse_mode(said, train, "it in the module")
    streams = {"params": jax.random.key(seed), "dropout": jax.random.key(seed + 1)}
    how = "".join(f", {name}={value}" for name, value in modes.items())
    if variables is None:
        said = f"{said}, initialized by module.init(jax.random.key({seed}), x{how})"
        with _telling(said):
            variables = jax.jit(lambda x: module.init(streams, x, **modes))(x)

    # Every collection may be written to, and what is written is dropped.
    kept = linen.DenyList("params")

    def apply(variables: Any, x: Any) -> Any:
        return module.apply(variables, x, **modes, rngs=streams, mutable=kept)[0]

    return Own(_function(apply, variables, said), f"{said}, called as apply(v, x{how})", None)


def _equinox(module: Any, state: Any, said: str, train: bool | None, seed: int) -> Own:
    """Return an Equinox module as a function of its arrays, mapped over the examples."""
    eqx: Any = sys.modules["equinox"]  # the network brought it
    module = eqx.nn.inference_mode(module, train is False)
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    keyed = "key" in inspect.signature(type(module).__call__).parameters

    def apply(arrays: Any, x: Any) -> Any:
        net = eqx.combine(arrays, rest)
        options = [jax.random.split(jax.random.key(seed), len(x))] if keyed else []

        def one(x, *keys):
            given = {"key": keys[0]} if keys else {}
            if state is None:
                return net(x, **given)
            # Equinox lets nobody use one state twice.
            return net(x, jax.tree.map(lambda leaf: leaf, state), **given)[0]

        return jax.vmap(one, axis_name="batch")(x, *options)

    arguments = ("x", *(["state"] if state is not None else []), *(["key=…"] if keyed else []))
    how = f"called as net({', '.join(arguments)}) on every example, by jax.vmap"
    return Own(_function(apply, arrays, said), f"{said}, {how}", None)


def _function(apply: Callable[[Any, Any], Any], params: Any, said: str) -> nn.Function:
    with lab.refusing(f"{said}: "):
        return nn.Function(apply, params)
