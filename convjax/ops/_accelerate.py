"""Any JAX function, with the convolutions and pools of this package in place of XLA's."""

import enum
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from convjax import _check, _objects, _trace
from convjax.ops import _recognise, _recognise_pool

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "_convjax_accelerated"


def accelerate(f: F) -> F:
    r"""Return a function that computes what ``f`` does, with convjax's convolutions and pools.

    The program that JAX traces of ``f`` is taken; every ``conv_general_dilated`` in it, in
    whichever layout, and every maximum pool is replaced by that of `convjax.ops`, and so are their
    gradients where ``f`` takes gradients itself. Loops, branches, ``jit``, ``vmap``, ``remat``,
    ``shard_map`` and custom rules of derivatives are entered. The rest of the program is not
    touched. What cannot be served (complex numbers, integers, operands of several dtypes, more
    than three spatial axes, shardings of explicit mesh axes) stays lax's.

    Results are those of ``f`` up to the rounding of sums. The function that is returned may be
    jitted, differentiated and mapped like ``f``.

    Args:
        f: of arrays and pytrees of them, of any framework: a training step, a model's ``apply``,
            a module of Equinox or Flax NNX, a function jitted before. Where it is jitted by
            ``jax.jit``, its static and donated arguments stay what they are. Otherwise arrays are
            its variables, and every other argument (a Python number, say) is a constant, for each
            value of which it is compiled anew; what is changed within an object that is no pytree
            is not seen. As under ``jax.jit``, it is traced once for each shape, and what it closes
            over is constant; under ``jax.disable_jit`` it is called as it is.

    Returns:
        A function of the same signature, which is compiled when it is called. ``f`` itself where
        it was accelerated before.

    Raises:
        ValueError: if ``f`` cannot be called.

    Example:
        >>> import jax
        >>> from convjax import ops
        >>> def loss(kernel, x):
        ...     return (jax.lax.conv(x, kernel, (1, 1), "SAME") ** 2).sum()
        >>> gradient = ops.accelerate(jax.grad(loss))
        >>> gradient(jax.numpy.ones((4, 3, 3, 3)), jax.numpy.ones((2, 3, 8, 8))).shape
        (4, 3, 3, 3)
        >>> "conv_general_dilated[" in str(jax.make_jaxpr(gradient)(
        ...     jax.numpy.ones((4, 3, 3, 3)), jax.numpy.ones((2, 3, 8, 8))))
        False
    """
    if not callable(f):
        _check.wrong_type("accelerate: f", f, "a function")
    if getattr(f, _MARK, False):
        return f
    told = _trace.jit_options(f)
    accelerated = _compiled(f) if told is None else _jitted(*told)
    setattr(accelerated, _MARK, True)
    return accelerated


def _rule(equation: Any, made_by: Callable[[Any], Any]) -> Callable[..., jax.Array] | None:
    match equation.primitive.name:
        case "conv_general_dilated":
            return _recognise.convolution(equation, made_by)
        case "reduce_window_max":
            return _recognise_pool.maximum(equation)
        case "select_and_scatter_add":
            return _recognise_pool.maximum_gradient(equation)
    return None


def _jitted(f: Any, told: dict[str, Any]) -> Any:
    """Return a jitted function jitted again as it was, its program rewritten."""

    @functools.wraps(f)
    def accelerated(*args: Any, **kwargs: Any) -> Any:
        return _trace.evaluate(_rule, f, *args, **kwargs)

    return jax.jit(accelerated, **told)


def _compiled(f: Any) -> Any:
    """Return a function that splits its arguments into arrays and constants, and is compiled."""
    bound = isinstance(f, types.MethodType) and _objects.is_object(f.__self__)
    function, first = (f.__func__, (f.__self__,)) if bound else (f, ())
    plain: dict[Any, bool] = {}  # by the structure of a call, whether it holds no object of NNX

    def run(constants: _Constants, arrays: list[Any]) -> Any:
        return _trace.evaluate(_rule, functools.partial(_call, constants), *arrays)

    run.__name__ = run.__qualname__ = getattr(f, "__name__", type(f).__name__)
    compiled = jax.jit(run, static_argnums=0)

    def accelerated(*args: Any, **kwargs: Any) -> Any:
        call = function, (*first, *args), kwargs
        leaves, tree = jax.tree.flatten(call)
        if tree not in plain:
            plain[tree] = not _Parts.of(call).objects
        if plain[tree] and not any(map(_objects.is_object, leaves)):
            parts = _Parts(tree, leaves)
        else:
            parts = _Parts.of(call)
        returned, changed = compiled(parts.constants, parts.arrays)
        if parts.objects:
            _objects.update(parts.objects, changed)
        return returned.value(parts.objects)

    return functools.update_wrapper(accelerated, f, updated=())


def _call(constants: "_Constants", *arrays: Any) -> tuple["_Result", Any]:
    """Call a function that was taken apart; return its result, and what its objects hold after."""
    (function, args, kwargs), objects = constants.together(arrays)
    result = _Result.of(function(*args, **kwargs), objects)
    if not objects:
        return result, ()
    constant, changed = _objects.apart(objects)
    if constant != constants.objects:
        raise ValueError(
            "accelerate: f changes what its NNX objects consist of, and not their arrays alone; "
            "let it return what is new instead"
        )
    return result, changed


class _Array(enum.Enum):
    """Stands where an array was."""

    HERE = enum.auto()


class _Object(int):
    """Stands where an object was, by its number."""


class _Parts:
    """What a value consists of: arrays, objects that may be changed, and constants."""

    def __init__(self, tree: Any, leaves: Sequence[Any], known: Sequence[Any] = ()):
        self.arrays: list[Any] = []
        self.objects: list[Any] = list(known)
        rest = [self._sorted(leaf) for leaf in leaves]
        constant = None
        if len(self.objects) > len(known):
            constant, arrays = _objects.apart(self.objects[len(known) :])
            self.arrays.append(arrays)
        self.constants = _Constants(tree, rest, constant)

    @classmethod
    def of(cls, value: Any, known: Sequence[Any] = ()) -> "_Parts":
        """Take a value apart; of objects that are known already, their numbers alone are kept."""
        leaves, tree = jax.tree.flatten(value, is_leaf=_stops)
        return cls(tree, leaves, known)

    def _sorted(self, leaf: Any) -> Any:
        if _trace.is_array(leaf) or _objects.is_arrays(leaf):
            self.arrays.append(leaf)
            return _Array.HERE
        if not _objects.is_object(leaf):
            return leaf
        known = [i for i, other in enumerate(self.objects) if other is leaf]
        if not known:
            self.objects.append(leaf)
        return _Object(known[0] if known else len(self.objects) - 1)


def _stops(value: Any) -> bool:
    return _objects.is_object(value) or _objects.is_arrays(value)


class _Constants:
    """Everything of a value that is no array, compared by value where that can be done."""

    def __init__(self, tree: Any, leaves: list[Any], objects: Any = None):
        self.tree, self.leaves, self.objects = tree, leaves, objects
        self.facts = tree, tuple(map(_fact, leaves)), objects

    def __hash__(self) -> int:
        return hash(self.facts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constants) and self.facts == other.facts

    def together(self, arrays: Any, known: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
        """Return the value again, and its objects, those that are known first."""
        given = iter(arrays)
        objects = list(known)
        if self.objects is not None:
            *arrays, last = arrays
            given = iter(arrays)
            objects += _objects.together(self.objects, last)
        leaves = [
            next(given) if leaf is _Array.HERE else objects[leaf] if type(leaf) is _Object else leaf
            for leaf in self.leaves
        ]
        return jax.tree.unflatten(self.tree, leaves), objects


def _fact(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return type(leaf), id(leaf)
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    return type(leaf), repr(leaf) if isinstance(leaf, float | complex) else leaf


@jax.tree_util.register_pytree_node_class
class _Result:
    """What a function returns, whose constants go past the compiler."""

    def __init__(self, arrays: Any, constants: _Constants):
        self.arrays, self.constants = arrays, constants

    @classmethod
    def of(cls, value: Any, objects: Sequence[Any]) -> "_Result":
        parts = _Parts.of(value, objects)
        return cls(parts.arrays, parts.constants)

    def value(self, objects: Sequence[Any]) -> Any:
        """Return the value; an object that was an argument is that very object."""
        return self.constants.together(self.arrays, objects)[0]

    def tree_flatten(self) -> tuple[Any, _Constants]:
        return self.arrays, self.constants

    @classmethod
    def tree_unflatten(cls, constants: _Constants, arrays: Any) -> "_Result":
        return cls(arrays, constants)
