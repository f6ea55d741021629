"""The options that families share: each with its type, default and meaning, said once."""

import functools
import inspect
import re
import types
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    ParamSpec,
    Required,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, nn
from convjax.nn.initializers import Initializer

P = ParamSpec("P")
R = TypeVar("R")

SHORTCUTS = ("identity", "none", "scaled", "gated")


# What stands beside a type is the option's default.
class LayerOptions(TypedDict, total=False):
    """How the layers of a network are made: options of every family.

    Attributes:
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
      activation: a name in ``nn.ACTIVATIONS``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.
    """

    norm: Annotated[str, "batch"]
    activation: Annotated[str, "relu"]
    init: Annotated[str | Initializer, "he"]
    dtype: Annotated[DTypeLike | None, None]
    param_dtype: Annotated[DTypeLike, jnp.float32]
    rngs: Required[nnx.Rngs]


class Options(LayerOptions, total=False):
    """Options of every family of classifiers, those of its layers included.

    Attributes:
      num_classes: outputs of the head; 0 for a network without a classifier, whose outputs are the
        features that the classifier would take.
      in_features: channels of the image.
      dropout: rate before the classifier.
      reference: ``"torch"`` or ``"keras"``: whose details the network follows.
    """

    num_classes: Annotated[int, 1000]
    in_features: Annotated[int, 3]
    dropout: Annotated[float, 0.0]
    reference: Annotated[str, "torch"]


class ShortcutOptions(Options, total=False):
    """Options of every family with shortcuts, those of all classifiers included.

    Attributes:
      shortcut: of units that keep their shape: ``"identity"``, ``"none"``, ``"scaled"`` or
        ``"gated"``.
      shortcut_scale: factor of the scaled shortcut.
    """

    shortcut: Annotated[str, "identity"]
    shortcut_scale: Annotated[float, 0.5]


class ResidualOptions(ShortcutOptions, total=False):
    """Options of every residual family whose units may be skipped, the former ones included.

    Attributes:
      stochastic_depth: rate of the last unit; it grows linearly from 0 at the first.
    """

    stochastic_depth: Annotated[float, 0.0]


class StridedOptions(ResidualOptions, total=False):
    """Options of every residual family whose strides may become dilations, the former included.

    Attributes:
      output_stride: steps of the image between two places of the last features: later strides
        become dilations; None for the network's own.
    """

    output_stride: Annotated[int | None, None]


_rate = functools.partial(_check.number, least=0, below=1)
_BY_NAME: dict[str, Callable[[str, Any], Any]] = {
    "num_classes": functools.partial(_check.integer, least=0),
    "units": lambda name, value: _several(name, _check.integers(name, value, least=1)),
    "kernel_size": lambda name, value: _window(name, value),
    "padding": _check.padding,
    "branch_scales": functools.partial(_check.numbers, length=3),
    "epsilon": functools.partial(_check.number, least=0),
    "dropout": _rate,
    "unit_dropout": _rate,
    "auxiliary_dropout": _rate,
    "stochastic_depth": _rate,
    "norm": lambda name, value: _check.choice(name, value, nn.NORMS),
    "activation": lambda name, value: _check.choice(name, value, nn.ACTIVATIONS),
    "init": lambda name, value: nn.initializers.get(value, argument=name),
    "shortcut": lambda name, value: _shortcut(name, value),
    "dtype": _check.dtype,
    "param_dtype": _check.dtype,
}


def with_options(**defaults: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a family's function, so that it takes the options which families share.

    The function ends in ``**options: Unpack[models.Options]``, or in another of these typed
    dictionaries. It is handed all of them, those that the caller left out by their defaults. Every
    option is brought to its plain form (NumPy's numbers become Python's), or refused by name. The
    function's signature and its help list each option with its default and meaning; an option that
    the function's docstring describes itself is not described twice.

    Args:
      **defaults: the family's own defaults of shared options.

    Returns:
      The decorator.

    Raises:
      ValueError: a default of an option that is not shared, or a function that takes none.

    Example:
      >>> import inspect
      >>> from typing import Unpack
      >>> from flax import nnx
      >>> from convjax import models
      >>> @models.with_options(activation="relu6")
      ... def plain(width: int = 64, **options: Unpack[models.Options]):
      ...     return width, options["activation"], options["norm"]
      >>> plain(32, norm="layer", rngs=nnx.Rngs(0))
      (32, 'relu6', 'layer')
      >>> inspect.signature(plain).parameters["num_classes"].default
      1000
    """

    def decorate(build: Callable[P, R]) -> Callable[P, R]:
        own, options = _apart(build)
        shared = _parameters(options)
        if unknown := set(defaults) - set(shared):
            _check.refuse("option", min(unknown), shared)
        for name, default in defaults.items():
            shared[name] = shared[name].replace(default=default)
        taking = _taking(build, {**own, **shared})
        taking.__doc__ = _unfolded(build.__doc__ or "", options)
        return taking

    return decorate


def called(build: Callable[..., Any]) -> str:
    """Return what messages call a family's function."""
    name = getattr(build, "__name__", type(build).__name__)
    home = getattr(build, "__module__", None) or ""
    return f"models.{name}" if home.startswith("convjax.") else name


def _apart(build: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], type]:
    """Return a function's own parameters, and the typed dictionary of the shared options."""
    *own, last = inspect.signature(build, eval_str=True).parameters.values() or (None,)
    unpacked = get_args(last.annotation) if last else ()
    if not unpacked or not is_typeddict(unpacked[0]):
        raise ValueError(
            f"build={build.__name__} takes no shared options; let its arguments end in "
            "**options: Unpack[models.Options]"
        )
    return {parameter.name: parameter for parameter in own}, unpacked[0]


def _parameters(options: type) -> dict[str, inspect.Parameter]:
    """Return the options of a typed dictionary as parameters, those without a default last."""
    found = {}
    for name, kind in get_type_hints(options, include_extras=True).items():
        default = inspect.Parameter.empty
        if get_origin(kind) is Annotated:
            kind, default = get_args(kind)
        elif get_origin(kind) is Required:
            (kind,) = get_args(kind)
        found[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
        )
    return dict(sorted(found.items(), key=lambda item: item[1].default is inspect.Parameter.empty))


def _taking(build: Callable[P, R], parameters: dict[str, inspect.Parameter]) -> Callable[P, R]:
    """Have a function take its options in their plain forms, or refuse them by name."""
    signature = inspect.signature(build).replace(parameters=list(parameters.values()))

    @functools.wraps(build)
    def taking(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _check.WrongTypeError(f"{called(build)}: {error}") from None
        for name, value in given.arguments.items():
            given.arguments[name] = _plain(parameters[name], value)
        given.apply_defaults()
        return build(*given.args, **given.kwargs)

    taking.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return taking


# One entry of a docstring's list, with the lines that go on with it.
_ENTRY = r"^  ({}):.*\n(?:    .*\n)*"


def _unfolded(text: str, options: type) -> str:
    """Return a docstring in which the entry ``**options`` has become one entry for each option."""
    text = inspect.cleandoc(text) + "\n"
    described = {found[1] for found in re.finditer(_ENTRY.format(r"\w+"), text, re.MULTILINE)}
    entries = "".join(entry for name, entry in _meanings(options).items() if name not in described)
    unfolded, count = re.subn(
        _ENTRY.format(r"\*\*options"), lambda _: entries, text, flags=re.MULTILINE
    )
    return unfolded if count else f"{text}\nArgs:\n{entries}"


def _meanings(options: type) -> dict[str, str]:
    """Return the entries of the options in the docstrings of their typed dictionaries."""
    known = (LayerOptions, Options, ShortcutOptions, ResidualOptions, StridedOptions, options)
    texts = "".join(inspect.cleandoc(each.__doc__ or "") + "\n" for each in known)
    entries = {found[1]: found[0] for found in re.finditer(_ENTRY.format(r"\w+"), texts, re.M)}
    return {name: entries.get(name, f"  {name}:\n") for name in _parameters(options)}


def _plain(parameter: inspect.Parameter, value: Any) -> Any:
    """Return an option in its plain form: by the rule of its name, or of its type."""
    name = parameter.name
    kind = parameter.annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None and types.NoneType in kinds:
        return None
    if name in _BY_NAME and not (name == "kernel_size" and int in kinds):
        return _BY_NAME[name](name, value)
    if bool in kinds:
        return _check.flag(name, value)
    if int in kinds:
        return _check.integer(name, value, 1)
    if float in kinds:
        factor = name in ("width", "depth", "last_width")
        return _check.number(name, value, above=0) if factor else _check.number(name, value)
    return value


def _several(name: str, value: tuple[int, ...]) -> tuple[int, ...]:
    if not value:
        raise ValueError(f"{name} is empty; give the units of every stage")
    return value


def _window(name: str, value: Any) -> tuple[int, ...]:
    size = _check.integers(name, value, least=1)
    if not 1 <= len(size) <= 3:
        raise ValueError(f"{name}={size} has {len(size)} entries; a window has 1 to 3 axes")
    return size


def _shortcut(name: str, value: Any) -> str | nnx.Module:
    return value if isinstance(value, nnx.Module) else _check.choice(name, value, SHORTCUTS)
