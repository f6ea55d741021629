"""create and list: every network by the name that timm knows it by."""

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from flax import nnx

from convjax import _check
from convjax.models import (
    _convnext,
    _densenet,
    _efficientnet,
    _efficientnet_v2,
    _ghostnet,
    _inception_resnet_v2,
    _inception_v1,
    _inception_v3,
    _inception_v4,
    _mnasnet,
    _mobilenet_v1,
    _mobilenet_v2,
    _mobilenet_v3,
    _mobilenet_v4,
    _regnet,
    _repvgg,
    _resnet,
    _resnet_cifar,
    _resnet_v2,
    _shufflenet_v2,
    _squeezenet,
    _unet,
    _vgg,
    _wide_resnet_cifar,
    _xception,
    _xception_aligned,
)
from convjax.models._network import Network
from convjax.models._options import called
from convjax.models._weights._load import checked_globs, load


class _Entry(NamedTuple):
    build: Callable[..., Network]
    preset: Mapping[str, Any]


_ENTRIES: dict[str, _Entry] = {}
EVERY = "models.list() gives all names"
# What timm or its users called a network before.
_ALIASES = {"xception": "legacy_xception"}


def register(build: Callable[..., Network], variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Let ``models.create`` and ``models.list`` know the networks of a family.

    A function that is registered again, as when a notebook runs a cell twice, replaces its names.

    Args:
      build: the family's function: takes a variant's arguments, the caller's options and ``rngs``,
        and returns a ``models.Network``.
      variants: the arguments of each network by its name; an empty mapping takes the family's names
        out again.

    Raises:
      ValueError: a name that another family has, or an argument that the function does not take.

    Example:
      >>> from typing import Unpack
      >>> from flax import nnx
      >>> from convjax import models, nn
      >>> family = models.Family(
      ...     "plain", torch={"stem/conv{i}": "layers.{i-1}", "head/dense": "classifier"}
      ... )
      >>> @models.with_options(norm="none")
      ... def plain(depth: int, **options: Unpack[models.Options]) -> models.Network:
      ...     style = models.Style.of(options, family)
      ...     stem = style.step((style.in_features, 16), 3, number=1)
      ...     for i in range(2, depth + 1):
      ...         stem |= style.step((16, 16), 3, number=i)
      ...     return style.network({"stem": nn.Chain(stem), "head": style.head(16)})
      >>> models.register(plain, {"plain4": {"depth": 4}, "plain8": {"depth": 8}})
      >>> net = models.create("plain4", num_classes=10, rngs=nnx.Rngs(0))
      >>> models.export_weights(net)["layers.0.weight"].shape  # as torch has it
      (16, 3, 3, 3)
      >>> models.register(plain, {})  # and forget it
    """
    _check.function("build", build, "a family's function")
    _check.instance("variants", variants, Mapping, "a mapping from names to arguments")
    kept = {name: entry for name, entry in _ENTRIES.items() if _home(entry.build) != _home(build)}
    for name, preset in variants.items():
        _check.instance("variants: name", name, str, "a network's name")
        if name in kept or name in _ALIASES:
            raise ValueError(f"variants: {name!r} is the name of another family's network")
        _check.instance(f"variants[{name!r}]", preset, Mapping, "arguments by name")
        _check_options(name, build, preset)
    _ENTRIES.clear()
    _ENTRIES.update(kept)
    _ENTRIES.update({name: _Entry(build, dict(preset)) for name, preset in variants.items()})


def _home(build: Callable[..., Any]) -> tuple[Any, ...]:
    """Return what stays of a function when its definition runs again."""
    return getattr(build, "__module__", None), getattr(build, "__qualname__", build)


def create(
    name: str,
    *,
    weights: str | PathLike[str] | Mapping[str, Any] | None = None,
    allow: str | Sequence[str] = (),
    adapt_input: bool = False,
    use_ema: bool = True,
    rngs: nnx.Rngs,
    **options: Any,
) -> Network:
    """Return a network by name, with random initial weights or those of a file.

    The name stands for a family's function and some of its options; every further one may be given
    too: those that all families share (``models.Options``; ``shortcut`` and ``stochastic_depth``
    where there are residual units; ``output_stride`` where strides may become dilations), and the
    family's own, such as ``width``.

    Args:
      name: one of ``models.list()``: timm's name, or torchvision's ``googlenet``.
      weights: a file, or a mapping, that ``models.load_weights`` takes; None for random values. By
        torchvision's names, batch norms get torchvision's epsilon and momentum where those are not
        timm's, unless ``epsilon`` is given.
      allow: what need not fit in it, as in ``models.load_weights``.
      adapt_input: whether its first kernel for RGB becomes one for ``in_features``, likewise.
      use_ema: whether a moving average in it is taken, likewise.
      rngs: source of the initial values.
      **options: arguments of the family's function.

    Returns:
      The network; ``models.load_weights`` says what it sets, where that matters.

    Raises:
      ValueError: an unknown name or option (the nearest are named), or what the function refuses;
        weights that do not fit.

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
    _check_options(name, build, options)
    net = build(**{**preset, **options}, rngs=rngs)
    _check.instance(f"{called(build)}: result", net, Network, "a models.Network")
    net.name = name
    if weights is not None:
        fresh = "epsilon" not in options
        how = {"adapt_input": adapt_input, "use_ema": use_ema, "fresh": fresh}
        load(net, weights, allow=allow, **how)
    elif checked_globs(allow):
        raise ValueError(f"allow={allow!r} is said of weights, and weights=None gives none")
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
        _check.refuse("pattern", pattern, _ENTRIES, EVERY)
    return found


def known(name: str) -> str:
    """Return a network's name as it stands in the list; refuse one that does not."""
    _check.instance("name", name, str, "a network's name, one of models.list()")
    if not is_known(name):
        _check.refuse("name", name, _ENTRIES, EVERY)
    return _ALIASES.get(name, name)


def takes(name: str, option: str) -> bool:
    """Whether the function of a network's family has an option."""
    return option in inspect.signature(_ENTRIES[known(name)].build).parameters


def is_known(name: str) -> bool:
    """Whether a network of this name is in the list."""
    return _ALIASES.get(name, name) in _ENTRIES


def _check_options(name: str, build: Callable[..., Network], options: Iterable[str]) -> None:
    """Refuse an option that a family's function does not take; name the nearest."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            try:
                _check.refuse("option", option, set(parameters) - {"rngs"})
            except ValueError as error:
                raise ValueError(f"{name} ({called(build)}): {error}") from None


# One line here, and ``VARIANTS`` beside the family's function, are all that a new family needs.
for _build, _variants in (
    (_mobilenet_v1.mobilenet_v1, _mobilenet_v1.VARIANTS),
    (_mobilenet_v2.mobilenet_v2, _mobilenet_v2.VARIANTS),
    (_mobilenet_v3.mobilenet_v3, _mobilenet_v3.VARIANTS),
    (_mobilenet_v4.mobilenet_v4, _mobilenet_v4.VARIANTS),
    (_ghostnet.ghostnet, _ghostnet.VARIANTS),
    (_efficientnet.efficientnet, _efficientnet.VARIANTS),
    (_efficientnet_v2.efficientnet_v2, _efficientnet_v2.VARIANTS),
    (_mnasnet.mnasnet, _mnasnet.VARIANTS),
    (_resnet.resnet, _resnet.VARIANTS),
    (_regnet.regnet, _regnet.VARIANTS),
    (_resnet_v2.resnet_v2, _resnet_v2.VARIANTS),
    (_convnext.convnext, _convnext.VARIANTS),
    (_resnet_cifar.resnet_cifar, _resnet_cifar.VARIANTS),
    (_wide_resnet_cifar.wide_resnet_cifar, _wide_resnet_cifar.VARIANTS),
    (_inception_v1.inception_v1, _inception_v1.VARIANTS),
    (_inception_v3.inception_v3, _inception_v3.VARIANTS),
    (_inception_v4.inception_v4, _inception_v4.VARIANTS),
    (_inception_resnet_v2.inception_resnet_v2, _inception_resnet_v2.VARIANTS),
    (_xception.xception, _xception.VARIANTS),
    (_xception_aligned.xception_aligned, _xception_aligned.VARIANTS),
    (_vgg.vgg, _vgg.VARIANTS),
    (_repvgg.repvgg, _repvgg.VARIANTS),
    (_unet.unet, _unet.VARIANTS),
    (_squeezenet.squeezenet, _squeezenet.VARIANTS),
    (_shufflenet_v2.shufflenet_v2, _shufflenet_v2.VARIANTS),
    (_densenet.densenet, _densenet.VARIANTS),
):
    register(_build, _variants)
