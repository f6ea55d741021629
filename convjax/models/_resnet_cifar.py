"""The residual networks for small images of He et al.: depth 6n + 2, and their plain twins."""

import dataclasses
from typing import Any, Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._deep_stack import CONVS, ORDERS, conv_of
from convjax.models._network import Family, Keys, Network
from convjax.models._options import ShortcutOptions, with_options
from convjax.models._style import TRANSITIONS, Style

# timm has none of these; the names are those that most PyTorch code for them has.
_UNIT = (
    ("branch/conv{k}", "conv{k}"),
    ("branch/norm{k}", "bn{k}"),
    ("branch/conv{k}/depthwise", "conv{k}.0"),
    ("branch/conv{k}/pointwise", "conv{k}.1"),
    ("shortcut/conv", "shortcut.0"),
    ("shortcut/norm", "shortcut.1"),
)
TORCH = Keys(
    (
        ("stem/conv", "conv1"),
        ("stem/norm", "bn1"),
        *((f"stage1/rest/{{i}}/{ours}", f"layer1.{{i}}.{theirs}") for ours, theirs in _UNIT),
        *((f"stage{{s}}/first/{ours}", f"layer{{s}}.0.{theirs}") for ours, theirs in _UNIT),
        *(
            (f"stage{{s}}/rest/{{i}}/{ours}", f"layer{{s}}.{{i+1}}.{theirs}")
            for ours, theirs in _UNIT
        ),
        ("head/norm", "bn2"),
        ("head/dense", "linear"),
    )
)
_KERAS = {"epsilon": 1e-3, "momentum": 0.99, "use_bias": True}


def _keras(units: int, projected: bool) -> Keys:
    """Return the names of Keras's example, whose layers are numbered as they were made."""
    rules = [("stem/conv", "conv2d:0"), ("stem/norm", "batch_normalization:0")]
    conv = norm = 1
    for s in (1, 2, 3):
        for i in range(units):
            place = f"rest/{i}" if s == 1 else "first" if i == 0 else f"rest/{i - 1}"
            for k in (1, 2):
                rules.append((f"stage{s}/{place}/branch/conv{k}", f"conv2d:{conv}"))
                rules.append((f"stage{s}/{place}/branch/norm{k}", f"batch_normalization:{norm}"))
                conv, norm = conv + 1, norm + 1
            if place == "first" and projected:
                rules.append((f"stage{s}/first/shortcut/conv", f"conv2d:{conv}"))
                conv += 1
    return Keys((*rules, ("head/dense", "dense:0")))


VARIANTS = {f"resnet{depth}_cifar": {"depth": depth} for depth in (20, 32, 44, 56, 110, 1202)}


@with_options(num_classes=10)
def resnet_cifar(
    depth: int,
    *,
    width: int = 16,
    transition: str = "zero_pad",
    branch_scale: float = 1.0,
    conv: str = "dense",
    order: str = "post",
    padding: Any = 1,
    **options: Unpack[ShortcutOptions],
) -> Network:
    """Return the CIFAR residual network of He et al. of depth 6n + 2, or its plain twin.

    A 3x3 stem; three stages of n units of two 3x3 convolutions each, with ``width``, 2 ``width``
    and 4 ``width`` channels, halving the image at the start of the second and third; global average
    pool and a dense head. ``shortcut="none"`` takes every shortcut away and leaves all else: with
    ``transition="zero_pad"`` the parameters are the same too.

    Args:
      depth: weighted layers, 6n + 2: 20, 32, 44, 56, 110, 1202 in the paper.
      width: channels of the first stage.
      shortcut: ``"identity"``, ``"none"``, ``"scaled"`` or ``"gated"``, where the shape is kept.
      transition: what stands for the identity where the shape changes: ``"zero_pad"`` (option A of
        the paper, parameter-free) or ``"projection"`` (option B, a 1x1 convolution and norm).
      branch_scale: factor on every branch.
      conv: ``"dense"`` or ``"separable"`` (the stem stays dense).
      order: ``"post"`` (2015: the last activation after the sum) or ``"pre"`` (2016: norm and
        activation before each convolution, and once more before the head).
      padding: of the 3x3 convolutions; 1, as in PyTorch, is the paper's. Keras's is SAME.
      reference: ``"torch"``, or ``"keras"`` for the network of Keras's examples and, at depth 8, of
        MLPerf Tiny, both with ``transition="projection"``: biases, SAME padding, epsilon 1e-3, and
        no norm behind projections.
      **options: those of every family with shortcuts, see ``models.ShortcutOptions``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; in a stage the units whose shape
      is kept are one ``Repeat`` named ``"rest"``, after a ``"first"`` where the shape changes.

    Raises:
      ValueError: a depth that is not 6n + 2, a size below one, an unknown name.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.resnet_cifar(20, rngs=nnx.Rngs(0))
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      269722
      >>> net(jnp.ones((2, 32, 32, 3)), train=True).shape
      (2, 10)

    Reference: He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2; Identity
    Mappings in Deep Residual Networks, 2016.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        near = max(8, round((depth - 2) / 6) * 6 + 2)
        raise ValueError(f"depth={depth} is not 6n + 2 with n at least 1; the nearest is {near}")
    # That of nn.LayerNorm itself.
    own = 1e-6 if options.get("norm") == "layer" else None
    _check.choice("transition", transition, TRANSITIONS)
    _check.choice("conv", conv, CONVS)
    _check.choice("order", order, ORDERS)
    keras = _keras(n, transition == "projection" and options.get("shortcut") != "none")
    family = Family("resnet_cifar", torch=TORCH, keras=keras)
    style = Style.of(options, family, keras=_KERAS, epsilon=own)
    if style.keras and (order, conv) != ("post", "dense"):
        raise ValueError(f"order={order!r}, conv={conv!r}: Keras has order='post', conv='dense'")
    padding = "SAME" if style.keras and padding == 1 else padding
    unit = _Unit(style, transition, branch_scale, conv, order, padding)
    stem: dict[str, nnx.Module] = {
        "conv": style.conv((style.in_features, width), 3, padding=padding)
    }
    if order == "post":
        stem |= {**style.normed("norm", width), "activation": style.act()}
    fans = ((width, width), (width, 2 * width), (2 * width, 4 * width))
    stages = {f"stage{s}": _stage(unit, fan, n) for s, fan in enumerate(fans, 1)}
    head = style.head(4 * width, activated=order == "pre")
    return style.network({"stem": nn.Chain(stem), **stages, "head": head})


@dataclasses.dataclass(frozen=True)
class _Unit:
    """What all units of one network share; ``resnet_cifar`` explains the options."""

    style: Style
    transition: str
    scale: float
    conv: str
    order: str
    padding: Any

    def __call__(self, fan: tuple[int, int], strides: int, rngs: nnx.Rngs) -> nn.Residual:
        """Return one unit, whose initial values come from ``rngs``."""
        style = dataclasses.replace(self.style, rngs=rngs)
        branch = self._step(style, 1, fan, strides) | self._step(style, 2, (fan[1], fan[1]), 1)
        if fan[0] == fan[1] and strides == 1:
            beside = style.beside(fan[1])
        else:
            bare = (lambda own: nn.Chain(conv=own.conv(fan, 1, strides))) if style.keras else None
            beside = style.across(fan, strides, self.transition, bare)
        after = style.act() if self.order == "post" else None
        return nn.Residual(nn.Chain(branch), beside, scale=self.scale, activation=after)

    def _step(
        self, style: Style, number: int, fan: tuple[int, int], strides: int
    ) -> dict[str, nnx.Module]:
        """Return one of the two convolutions, with its norm and activation."""
        conv = conv_of(
            self.conv,
            *fan,
            kernel_size=(3, 3),
            strides=strides,
            padding=self.padding,
            use_bias=style.keras or style.norm == "none",
            init=style.init,
            rngs=style.rngs,
            **style.dtypes,
        )
        before, act = self.order == "pre", {f"activation{number}": style.act()}
        norm = style.normed(f"norm{number}", fan[0] if before else fan[1])
        if before:
            return {**norm, **act, f"conv{number}": conv}
        return {f"conv{number}": conv, **norm, **(act if number == 1 else {})}


def _stage(unit: _Unit, fan: tuple[int, int], count: int) -> nn.Chain:
    """Return units one after the other, of which those that keep the shape are one ``Repeat``."""
    rngs, parts = unit.style.rngs, {}
    if fan[0] != fan[1]:
        parts["first"] = unit(fan, 2, rngs)
    if kept := count - len(parts):
        parts["rest"] = nn.Repeat(lambda rngs: unit((fan[1], fan[1]), 1, rngs), kept, rngs=rngs)
    return nn.Chain(parts)
