"""Style: how every layer of one network is made, so that a family's file says only what it is."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from flax import nnx
from jax.typing import DTypeLike

from convjax import nn
from convjax.models._deep_stack import shortcut_of
from convjax.models._network import Family, Network, check_reference
from convjax.nn.initializers import Initializer

Side = int | tuple[int, int]
TRANSITIONS = ("projection", "zero_pad")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """The shared options of one network, and the layers made by them.

    A family's function makes it by ``Style.of``. ``conv``, ``normalise``, ``act``, ``pool`` and
    ``dense`` return one layer; ``step`` returns convolution, norm and activation by name; ``head``
    the classifier behind its pool; ``network`` the whole.

    Args:
      family: the networks that it is one of.
      same: whether padding is SAME; else it is half a window on both sides, as in PyTorch.
      epsilon: of the norms.
      momentum: of batch norm's running statistics.
      use_scale: whether norms have a scale.
      use_bias: whether convolutions have a bias; None means where no norm follows.
      standardize: options of ``nn.Conv``'s weight standardisation; None for none.
      norm, activation, init, dtype, param_dtype, rngs: as in ``models.LayerOptions``.
      num_classes, in_features, dropout, reference: as in ``models.Options``.
      shortcut, shortcut_scale: as in ``models.ShortcutOptions``.
      stochastic_depth: as in ``models.ResidualOptions``.
      output_stride: as in ``models.StridedOptions``.

    Example:
      >>> from typing import Unpack
      >>> from flax import nnx
      >>> from convjax import models, nn
      >>> @models.with_options(num_classes=10)
      ... def shallow(width: int = 8, **options: Unpack[models.Options]):
      ...     style = models.Style.of(options, models.Family("shallow"))
      ...     stem = style.unit((style.in_features, width), 3, 2)
      ...     return style.network({"stem": stem, "head": style.head(width)})
      >>> [visit.path for visit in nn.walk(shallow(norm="none", rngs=nnx.Rngs(0)))][:2]
      ['stem/conv', 'stem/activation']
    """

    family: Family
    same: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    use_scale: bool = True
    use_bias: bool | None = None
    standardize: Mapping[str, Any] | None = None
    norm: str
    activation: str
    init: str | Initializer
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    rngs: nnx.Rngs
    num_classes: int
    in_features: int
    dropout: float
    reference: str
    # Families without shortcuts have none of these.
    shortcut: str = ""
    shortcut_scale: float = 1.0
    stochastic_depth: float = 0.0
    output_stride: int | None = None

    @classmethod
    def of(
        cls,
        options: Mapping[str, object],
        family: Family,
        *,
        keras: Mapping[str, Any] | None = None,
        **details: Any,
    ) -> "Style":
        """Return the style of a network.

        Args:
          options: the shared options, as ``models.with_options`` hands them over.
          family: the networks that it is one of.
          keras: details where the reference is Keras, whose padding is SAME unless they say so.
          **details: details whatever the reference; None for what the reference has.

        Raises:
          ValueError: a reference that does not have this family.
        """
        reference = cast(str, options["reference"])
        check_reference(reference, family)
        details = {name: value for name, value in details.items() if value is not None}
        if reference == "keras":
            details = {"same": True, **(keras or {}), **details}
        return cls(family=family, **cast(dict[str, Any], {**options, **details}))

    def network(
        self,
        units: Mapping[str, nnx.Module],
        *,
        auxiliary: Mapping[str, tuple[str, nnx.Module]] | None = None,
    ) -> Network:
        """Return the network of these units, and of auxiliary heads as ``models.Network`` has.

        Raises:
          ValueError: auxiliary heads where there are no classes.
        """
        if auxiliary and not self.num_classes:
            raise ValueError(
                "auxiliary=True: auxiliary heads classify, and num_classes=0 makes a network "
                "without classes; give auxiliary=False, or a number of classes"
            )
        return Network(units, family=self.family, reference=self.reference, auxiliary=auxiliary)

    @property
    def keras(self) -> bool:
        """Whether the network follows Keras."""
        return self.reference == "keras"

    @property
    def dtypes(self) -> dict[str, Any]:
        """The two dtypes as every leaf takes them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def padding(self, side: Side, dilation: int = 1) -> Any:
        """Return the padding that keeps the size at stride 1, as the reference writes it."""
        if self.same:
            return "SAME"
        return tuple(dilation * (s // 2) for s in _sides(side))

    def conv(
        self,
        fan: tuple[int, int],
        side: Side = 1,
        strides: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        padding: Any = None,
        use_bias: bool | None = None,
        init: str | Initializer | None = None,
    ) -> nnx.Module:
        """Return one convolution: a pointwise, depthwise or general leaf, as its shape says.

        Args:
          fan: channels in and out.
          side: window; one number for a square.
          strides: steps between outputs.
          groups: groups of channels.
          dilation: steps between kernel entries.
          padding: None for what keeps the size at stride 1.
          use_bias: None for what the style says.
          init: None for the style's.
        """
        if use_bias is None:
            use_bias = self.norm == "none" if self.use_bias is None else self.use_bias
        shared = {
            "strides": strides,
            "use_bias": use_bias,
            "kernel_init": self.init if init is None else init,
            "rngs": self.rngs,
            **self.dtypes,
        }
        if _sides(side) == (1, 1) and groups == 1 and not self.standardize:
            return nn.PointwiseConv(*fan, **shared)
        shared["padding"] = self.padding(side, dilation) if padding is None else padding
        shared["kernel_dilation"] = dilation
        if self.standardize:
            shared |= {"standardize": True, **self.standardize}
        elif groups == fan[0] and fan[1] % groups == 0 and groups > 1:
            multiplier = fan[1] // groups
            return nn.DepthwiseConv(fan[0], _sides(side), channel_multiplier=multiplier, **shared)
        return nn.Conv(*fan, _sides(side), feature_group_count=groups, **shared)

    def normalise(self, features: int, *, zero: bool = False, **options: Any) -> nnx.Module:
        """Return the norm; ``zero`` sets its scale to 0, so that its branch starts as nothing."""
        if zero:
            options["scale_init"] = "zero"
        if self.norm == "batch":
            options.setdefault("momentum", self.momentum)
        options = {"epsilon": self.epsilon, "use_scale": self.use_scale, **options}
        return nn.norm(self.norm, features, rngs=self.rngs, **options, **self.dtypes)

    def normed(self, name: str, features: int, **options: Any) -> dict[str, nnx.Module]:
        """Return the norm by name, or nothing where there is none."""
        return {} if self.norm == "none" else {name: self.normalise(features, **options)}

    def act(self, name: str | None = None) -> nn.Activation:
        """Return the activation."""
        return nn.Activation(self.activation if name is None else name)

    def step(
        self,
        fan: tuple[int, int],
        side: Side = 1,
        strides: int = 1,
        *,
        number: str | int = "",
        activation: bool | str = True,
        zero: bool = False,
        **options: Any,
    ) -> dict[str, nnx.Module]:
        """Return convolution, norm and activation by name, each with ``number`` behind it."""
        parts = {f"conv{number}": self.conv(fan, side, strides, **options)}
        parts |= self.normed(f"norm{number}", fan[1], zero=zero)
        if activation:
            parts[f"activation{number}"] = self.act(activation if activation is not True else None)
        return parts

    def unit(self, fan: tuple[int, int], side: Side = 1, strides: int = 1, **options: Any):
        """Return ``step`` as a chain."""
        return nn.Chain(self.step(fan, side, strides, **options))

    def pool(self, kind: str, side: int, strides: int, **options: Any) -> nn.Pool:
        """Return a pool that pads as the style's convolutions do."""
        return nn.Pool(kind, (side, side), strides=strides, padding=self.padding(side), **options)

    def averaged(self, strides: int) -> nn.Pool:
        """Return the mean of 2x2 before a projection (ResNet-D).

        SAME at an odd edge is what PyTorch calls ceil mode; at stride 1 timm pads beforehand, so
        that zeros count.
        """
        return nn.Pool(
            "avg", (2, 2), strides=strides, padding="SAME", count_include_pad=strides == 1
        )

    def beside(self, features: int) -> str | nnx.Module:
        """Return the shortcut of a unit that keeps its shape."""
        return shortcut_of(
            self.shortcut, features, scale=self.shortcut_scale, rngs=self.rngs, **self.dtypes
        )

    def across(
        self,
        fan: tuple[int, int],
        strides: int,
        transition: str,
        projection: Callable[["Style"], nnx.Module] | None = None,
    ) -> str | nnx.Module:
        """Return the shortcut of a unit that changes the shape.

        One key is used whatever it is, so that twins are alike elsewhere.

        Args:
          fan: channels in and out.
          strides: steps between outputs.
          transition: one of ``TRANSITIONS``.
          projection: makes the projection in the style that it is handed; None for a 1x1
            convolution and norm.
        """
        own = dataclasses.replace(self, rngs=nnx.Rngs(self.rngs.params()))
        if self.shortcut == "none":
            return "none"
        if transition == "zero_pad":
            return nn.ZeroPadShortcut(*fan, strides=strides)
        if projection is not None:
            return projection(own)
        return own.unit(fan, 1, strides, activation=False)

    def rates(self, count: int) -> Iterator[float]:
        """Return the rates of stochastic depth of ``count`` units, from 0 to the last unit's.

        Raises:
          ValueError: a rate without shortcuts, which would drop whole examples for good.
        """
        rate = self.stochastic_depth
        if rate and self.shortcut == "none":
            raise ValueError(
                f"stochastic_depth={rate} drops branches, and with shortcut='none' nothing stands "
                "beside them; give stochastic_depth=0 or another shortcut"
            )
        return (rate * i / max(count - 1, 1) for i in range(count))

    def dense(self, fan: tuple[int, int]) -> nn.Dense:
        """Return a classifier."""
        return nn.Dense(*fan, kernel_init="lecun", rngs=self.rngs, **self.dtypes)

    def classifier(self, features: int) -> dict[str, nnx.Module]:
        """Return the classifier by its name ``dense``, or nothing where there are no classes."""
        return {"dense": self.dense((features, self.num_classes))} if self.num_classes else {}

    def head(self, features: int, *, activated: bool = False) -> nn.Chain:
        """Return global average pool, dropout if there is any, and ``classifier``.

        Args:
          features: channels in.
          activated: whether norm and activation come first, as behind pre-activation units.
        """
        first = {**self.normed("norm", features), "activation": self.act()} if activated else {}
        pool = {"pool": nn.GlobalPool("avg")}
        last = self.classifier(features)
        return nn.Chain({**first, **pool, **dropped(self.dropout), **last})


def dropped(rate: float) -> dict[str, nnx.Module]:
    """Return dropout by name, or nothing at rate 0."""
    return {"dropout": nn.Dropout(rate)} if rate else {}


def skipped(rate: float) -> dict[str, nnx.Module]:
    """Return stochastic depth by name, or nothing at rate 0."""
    return {"drop": nn.StochasticDepth(rate)} if rate else {}


class Dilated:
    """Turns strides into dilations once a network's output stride is reached.

    Args:
      output_stride: steps of the image between two places of the last features, or None for all
        of the network's strides.
      reached: strides of the stem.

    Raises:
      ValueError: an output stride that is no power of two or below the stem's.
    """

    def __init__(self, output_stride: int | None, reached: int):
        if output_stride is not None and (
            output_stride < reached or output_stride & (output_stride - 1)
        ):
            raise ValueError(
                f"output_stride={output_stride} must be a power of two, at least {reached} (the "
                "stem's own strides), or None for the network's own"
            )
        self.most = output_stride
        self.reached = reached
        self.dilation = 1

    def __call__(self, strides: int) -> tuple[int, int, int]:
        """Return strides, the first unit's dilation and the others', of a stage of ``strides``."""
        before = self.dilation
        if self.most is not None and self.reached * strides > self.most:
            self.dilation *= strides
            return 1, before, self.dilation
        self.reached *= strides
        return strides, before, self.dilation


def _sides(side: Side) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else side


def divisible(features: int | float, divisor: int = 8, least: int | float = 0.9) -> int:
    """Round channels to a multiple, never below ``least`` of what they were.

    That is the rule of the MobileNets and EfficientNets. Reference: Sandler et al., 2018 (code).
    """
    rounded = max(divisor, int(features + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < least * features else rounded
