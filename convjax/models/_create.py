"""create and list: every network by the name that timm knows it by."""

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from convjax import _check
from convjax.models import (
    _convnext,
    _efficientnet,
    _inception_resnet_v2,
    _inception_v1,
    _inception_v3,
    _inception_v4,
    _mobilenet_v1,
    _mobilenet_v2,
    _mobilenet_v3,
    _resnet,
    _resnet_cifar,
    _resnet_v2,
    _wide_resnet_cifar,
    _xception,
)
from convjax.models._network import Network


class _Entry(NamedTuple):
    build: Callable[..., Network]
    preset: Mapping[str, Any]


# One line here, and ``VARIANTS`` beside the family's function, are all that a new family needs.
_FAMILIES = (
    (_mobilenet_v1.mobilenet_v1, _mobilenet_v1.VARIANTS),
    (_mobilenet_v2.mobilenet_v2, _mobilenet_v2.VARIANTS),
    (_mobilenet_v3.mobilenet_v3, _mobilenet_v3.VARIANTS),
    (_efficientnet.efficientnet, _efficientnet.VARIANTS),
    (_resnet.resnet, _resnet.VARIANTS),
    (_resnet_v2.resnet_v2, _resnet_v2.VARIANTS),
    (_convnext.convnext, _convnext.VARIANTS),
    (_resnet_cifar.resnet_cifar, _resnet_cifar.VARIANTS),
    (_wide_resnet_cifar.wide_resnet_cifar, _wide_resnet_cifar.VARIANTS),
    (_inception_v1.inception_v1, _inception_v1.VARIANTS),
    (_inception_v3.inception_v3, _inception_v3.VARIANTS),
    (_inception_v4.inception_v4, _inception_v4.VARIANTS),
    (_inception_resnet_v2.inception_resnet_v2, _inception_resnet_v2.VARIANTS),
    (_xception.xception, _xception.VARIANTS),
)
_ENTRIES = {
    name: _Entry(build, preset)
    for build, variants in _FAMILIES
    for name, preset in variants.items()
}
# What timm or its users called a network before.
_ALIASES = {"xception": "legacy_xception"}


def create(name: str, *, rngs: nnx.Rngs, **options: Any) -> Network:
    """Return a network by name, freshly drawn.

    The name stands for a family's function and some of its options; every further one may be given
    too: those that all families share (``num_classes``, ``in_features``, ``norm``, ``activation``,
    ``init``, ``dropout``, ``reference``, ``dtype``, ``param_dtype``; ``shortcut`` and
    ``stochastic_depth`` where there are residual units; ``output_stride`` where strides may become
    dilations; ``width``), and the family's own.

    Args:
      name: one of ``models.list()``: timm's name, or torchvision's ``googlenet``.
      rngs: source of the initial values.
      **options: arguments of the family's function.

    Returns:
      The network; ``models.load_weights`` fills it from a file.

    Raises:
      ValueError: an unknown name or option (the nearest are named), or what the function refuses.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.create("resnet18", num_classes=10, width=8, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((1, 40, 32, 3)), train=False).shape
      (1, 10)
    """
    name = known(name)
    build, preset = _ENTRIES[name]
    accepted = [*inspect.signature(build).parameters]
    for option in options:
        if option not in accepted:
            raise ValueError(_no_option(name, build.__name__, option, accepted))
    net = build(**{**preset, **options}, rngs=rngs)
    net.name = name
    return net


def list(pattern: str = "*") -> tuple[str, ...]:
    """Return the names that ``create`` knows, those of one family together.

    Args:
      pattern: a glob.

    Returns:
      The names that fit it.

    Raises:
      ValueError: no name fits.

    Example:
      >>> from convjax import models
      >>> models.list("resnetv2_*d")
      ('resnetv2_18d', 'resnetv2_34d', 'resnetv2_50d', 'resnetv2_101d', 'resnetv2_152d')
    """
    _check.instance("pattern", pattern, str, "a glob, such as 'resnet*'")
    found = tuple(name for name in _ENTRIES if fnmatch.fnmatchcase(name, pattern))
    if not found:
        _check.refuse("pattern", pattern, _ENTRIES)
    return found


def known(name: str) -> str:
    """Return a network's name as it stands in the list; refuse one that does not."""
    _check.instance("name", name, str, "a network's name, one of models.list()")
    return _check.choice("name", _ALIASES.get(name, name), _ENTRIES)


def _no_option(name: str, function: str, option: str, accepted: Any) -> str:
    try:
        _check.refuse("option", option, set(accepted) - {"rngs"})
    except ValueError as error:
        return f"{name} (models.{function}): {error}"
