"""Any JAX function, with the convolutions and pools of this package in place of XLA's."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

from convjax import _check, _trace
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
            value of which it is compiled anew. As under ``jax.jit``, it is traced once for each
            shape, and what it closes over is constant.

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
    accelerated = _compiled(f) if told is None else _jitted(f, told)
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


class _Constants:
    """Everything of a call that is no array, compared by value where that can be done."""

    def __init__(self, tree: Any, leaves: list[Any]):
        self.tree, self.leaves = tree, leaves
        self.facts = tree, tuple(map(_fact, leaves))

    def __hash__(self) -> int:
        return hash(self.facts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constants) and self.facts == other.facts


def _fact(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return type(leaf), id(leaf)
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    return type(leaf), repr(leaf) if isinstance(leaf, float | complex) else leaf


class _Array(NamedTuple):
    """Stands where an array was."""


def _compiled(f: Any) -> Any:
    """Return a function that splits its arguments into arrays and constants, and is compiled."""

    def run(constants: _Constants, arrays: list[Any]) -> Any:
        given = iter(arrays)
        leaves = [next(given) if leaf is _Array else leaf for leaf in constants.leaves]
        function, args, kwargs = jax.tree.unflatten(constants.tree, leaves)
        return _Result.of(_trace.evaluate(_rule, function, *args, **kwargs))

    run.__name__ = run.__qualname__ = getattr(f, "__name__", type(f).__name__)
    compiled = jax.jit(run, static_argnums=0)

    def accelerated(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((f, args, kwargs))
        arrays = [leaf for leaf in leaves if _trace.is_array(leaf)]
        others = [_Array if _trace.is_array(leaf) else leaf for leaf in leaves]
        return compiled(_Constants(tree, others), arrays).value()

    return functools.update_wrapper(accelerated, f, updated=())


@jax.tree_util.register_pytree_node_class
class _Result:
    """What a function returns, whose constants go past the compiler."""

    def __init__(self, arrays: Any, constants: _Constants):
        self.arrays, self.constants = arrays, constants

    @classmethod
    def of(cls, value: Any) -> "_Result":
        leaves, tree = jax.tree.flatten(value)
        others = [_Array if _trace.is_array(leaf) else leaf for leaf in leaves]
        return cls([leaf for leaf in leaves if _trace.is_array(leaf)], _Constants(tree, others))

    def value(self) -> Any:
        given = iter(self.arrays)
        leaves = [next(given) if leaf is _Array else leaf for leaf in self.constants.leaves]
        return jax.tree.unflatten(self.constants.tree, leaves)

    def tree_flatten(self) -> tuple[Any, _Constants]:
        return self.arrays, self.constants

    @classmethod
    def tree_unflatten(cls, constants: _Constants, arrays: Any) -> "_Result":
        return cls(arrays, constants)
