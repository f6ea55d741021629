"""Every signature's types are checked, by what costs little where no shape is said."""

import dataclasses
import inspect
import typing

import jaxtyping
from beartype import beartype

_with_shapes = jaxtyping.jaxtyped


def install():
    """Check annotations of what is imported from here on.

    jaxtyping binds every call's arguments and checks them twice, for the shapes that arguments and
    results have in common. Only one in thirty signatures says a shape: the others are checked by
    beartype alone, which saves a fifth of the whole suite's time.
    """
    jaxtyping.jaxtyped = checking
    jaxtyping.install_import_hook("convjax", "beartype.beartype")


def checking(*, typechecker):
    """Take the place of ``jaxtyping.jaxtyped`` in what the import hook writes."""

    def decorate(one):
        if inspect.isclass(one):
            if dataclasses.is_dataclass(one) and "__init__" in vars(one):
                one.__init__ = decorate(one.__init__)
            return one
        if inspect.isfunction(one) and not any(map(_says_shapes, one.__annotations__.values())):
            return beartype(one)
        return _with_shapes(one, typechecker=typechecker)

    return decorate


def _says_shapes(annotation):
    """Whether an annotation holds one of jaxtyping's, or is a text that is read by jaxtyping."""
    if isinstance(annotation, str | typing.ForwardRef):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    if isinstance(annotation, type(jaxtyping.PyTree)):
        return True
    return any(map(_says_shapes, typing.get_args(annotation)))
