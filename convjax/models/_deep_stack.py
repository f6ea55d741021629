"""deep_stack: one resolution, one width, no stem and no head: the bare object of depth studies."""

import dataclasses
from typing import Any, Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._options import LayerOptions, with_options
from convjax.nn.initializers import Initializer

CONVS = ("dense", "separable")
ORDERS = ("pre", "post")


def shortcut_of(
    name: str | nnx.Module,
    features: int,
    *,
    scale: float,
    rank: int = 2,
    rngs: nnx.Rngs,
    **shared: Any,
) -> str | nnx.Module:
    """Return the shortcut of that name for a unit that keeps its shape; a module stays as it is.

    One key is used whatever the name, so that twins with different shortcuts are alike elsewhere.
    """
    key = rngs.params()
    if not isinstance(name, str):
        return name
    if name == "scaled":
        return nn.Scale(scale)
    if name == "gated":
        return nn.Gate(features, kernel_size=(1,) * rank, rngs=nnx.Rngs(key), **shared)
    return name


def without_gain(init: str | Initializer) -> Initializer:
    """Return He's initialisers without their gain, for a layer that no activation follows."""
    given = nn.initializers.get(init)
    if given in (nn.initializers.he_normal(), nn.initializers.he_uniform()):
        return dataclasses.replace(given, scale=1.0)  # pyright: ignore
    return given


def conv_of(
    kind: str,
    in_features: int,
    out_features: int,
    *,
    kernel_size: tuple[int, ...],
    strides: int = 1,
    padding: Any,
    use_bias: bool,
    init: str | Initializer,
    rngs: nnx.Rngs,
    **shared: Any,
) -> nnx.Module:
    """Return one convolution, dense or depthwise-separable.

    The pair has one activation, so He's gain is given once, by ``init`` to the pointwise part; the
    depthwise part has none (LeCun).
    """
    if kind == "dense":
        return nn.Conv(
            in_features,
            out_features,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            kernel_init=init,
            rngs=rngs,
            **shared,
        )
    deep = without_gain(init)
    return nn.separable_conv(
        in_features,
        out_features,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_init=deep,
        pointwise_init=init,
        rngs=rngs,
        **shared,
    )


@with_options(norm="none")
def deep_stack(
    depth: int,
    width: int,
    *,
    shortcut: str | nnx.Module = "identity",
    shortcut_scale: float = 0.5,
    branch_scale: float = 1.0,
    conv: str = "dense",
    convs_per_unit: int = 2,
    order: str = "pre",
    kernel_size: tuple[int, ...] = (3, 3),
    padding: Any = "SAME",
    use_bias: bool = False,
    **options: Unpack[LayerOptions],
) -> nn.Repeat:
    """Return a stack of equal units at one resolution, ``width`` channels in and out.

    A pre-activation unit is norm, activation, convolution, as often as ``convs_per_unit`` says; a
    post-activation unit is convolution, norm, activation, with the last activation after the sum.
    ``shortcut="none"`` is the plain twin: the same parameters with the same initial values, one
    term less.

    Args:
      depth: convolutions from input to output (a depthwise-separable pair counts as one).
      width: channels everywhere.
      shortcut: ``"identity"``, ``"none"``, ``"scaled"`` (by ``shortcut_scale``), ``"gated"``
        (highway), or a node.
      shortcut_scale: factor of the scaled shortcut.
      branch_scale: factor on every branch.
      conv: ``"dense"`` or ``"separable"``.
      convs_per_unit: convolutions in one branch; must divide ``depth``.
      order: ``"pre"`` or ``"post"``.
      kernel_size: window; its length is the number of spatial axes.
      padding: as in ``ops.conv``; theory is simplest with ``"CIRCULAR"``.
      use_bias: whether convolutions add a bias. Without, and without norm, the stack is positively
        homogeneous, and a profile is finite at any depth.
      **options: those of all layers, see ``models.LayerOptions``.

    Returns:
      A ``Repeat`` of ``depth / convs_per_unit`` residual units.

    Raises:
      ValueError: a depth below one or not divisible, a width below one, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> stack = models.deep_stack(1000, 4, norm="batch", rngs=nnx.Rngs(0))
      >>> len(stack), stack(jnp.ones((2, 5, 3, 4)), train=True).shape
      (500, (2, 5, 3, 4))

    Reference: He et al., Identity Mappings in Deep Residual Networks, 2016, for the two orders.
    """
    _check.choice("conv", conv, CONVS)
    _check.choice("order", order, ORDERS)
    if depth % convs_per_unit:
        raise ValueError(
            f"depth={depth} must be a positive multiple of convs_per_unit={convs_per_unit}"
        )
    given: dict[str, Any] = {**options}
    norm, activation, init = (given[name] for name in ("norm", "activation", "init"))
    shared = {name: given[name] for name in ("dtype", "param_dtype")}

    def step(i: int, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
        parts = {
            "norm": nn.norm(norm, width, rngs=rngs, **shared),
            "activation": nn.Activation(activation),
            "conv": conv_of(
                conv,
                width,
                width,
                kernel_size=kernel_size,
                padding=padding,
                use_bias=use_bias,
                init=init,
                rngs=rngs,
                **shared,
            ),
        }
        if norm == "none":
            del parts["norm"]
        names = ("norm", "activation", "conv") if order == "pre" else ("conv", "norm", "activation")
        last = order == "post" and i == convs_per_unit
        return {
            f"{name}{i}": parts[name]
            for name in names
            if name in parts and not (last and name == "activation")
        }

    def unit(rngs: nnx.Rngs) -> nn.Residual:
        branch: dict[str, nnx.Module] = {}
        for i in range(1, convs_per_unit + 1):
            branch |= step(i, rngs)
        return nn.Residual(
            nn.Chain(branch),
            shortcut_of(
                shortcut,
                width,
                scale=shortcut_scale,
                rank=len(kernel_size),
                rngs=rngs,
                **shared,
            ),
            scale=branch_scale,
            activation=nn.Activation(activation) if order == "post" else None,
        )

    return nn.Repeat(unit, depth // convs_per_unit, rngs=given["rngs"])
