"""Faults planted in sound networks, plain and residual: does theory find unit and cause?"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import gradflow, models, nn

WIDTH = 16
RATE = 0.003
SHAPE = (8, 8, 8, WIDTH)

Change = Callable[[Any], None]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
      where: a pattern of the paths that are right.
      cause: a pattern of the causes that are.
      options: of the sound stack that theory is told of.
      change: what is done to one that is initialised.
      other: options that the measured stack has in place of the sound one's.
      train: whether the measurement is on the batch's statistics.
      residual: whether it takes a shortcut to plant it.
    """

    where: str
    cause: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    change: Change = lambda net: None
    other: dict[str, Any] = dataclasses.field(default_factory=dict)
    train: bool = True
    residual: bool = False


def _kernel(change: Callable[[jax.Array], jax.Array]) -> Change:
    """Return a change of the first kernel of the second unit."""

    def changed(net: Any) -> None:
        kernel = net.unit.branch["conv1"].kernel
        kernel[...] = kernel[...].at[1].set(change(kernel[...][1]))

    return changed


def _shared(net: Any) -> None:
    kernel = net.unit.branch["conv1"].kernel
    kernel[...] = jnp.broadcast_to(kernel[...][:1], kernel[...].shape)


def _bias(net: Any) -> None:
    bias = net.unit.branch["conv1"].bias
    bias[...] = bias[...].at[1].set(-8.0)


def _added_again(net: Any) -> None:
    merge = net.unit.merge
    net.unit.merge = lambda branch, shortcut: merge(branch, shortcut) + shortcut


def _epsilon(net: Any) -> None:
    net.unit.branch["norm2"].epsilon = 1.0


def _alike(kernel: jax.Array) -> jax.Array:
    return jnp.broadcast_to(kernel[..., :1], kernel.shape)


def _constant(kernel: jax.Array) -> jax.Array:
    return jnp.full_like(kernel, jnp.sqrt(jnp.mean(kernel**2)))


def _twice(net: Any) -> None:
    for name in ("activation1", "activation2"):
        net.unit.branch[name].function = silu_twice


def _fan(net: Any) -> None:
    kernel = net.unit.branch["conv1"]["depthwise"].kernel
    kernel[...] = kernel[...] / WIDTH**0.5


def _trained(net: Any) -> None:
    """Take some steps towards targets that are random."""
    x, targets = (jax.random.normal(jax.random.key(i), SHAPE) for i in (5, 6))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params: Any) -> jax.Array:
        return jnp.mean((nnx.merge(graphdef, params, rest)(x, train=False) - targets) ** 2)

    def step(params: Any, _: Any) -> Any:
        slopes = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - RATE * jnp.sign(g), params, slopes), None

    nnx.update(net, jax.lax.scan(step, params, None, 100)[0])


def silu_twice(z: jax.Array) -> jax.Array:
    """Return silu of silu."""
    return jax.nn.silu(jax.nn.silu(z))


BATCH = {"norm": "batch"}
NONE = {"norm": "none", "init": "he"}
TINY = nn.initializers.VarianceScaling(2e-10)

FAULTS: dict[str, Fault] = {
    "wrong fan of a depthwise kernel": Fault(
        ".*depthwise", "wrong fan", NONE | {"conv": "separable"}, _fan
    ),
    "missing gain": Fault(".*conv", "kernel's mean square", NONE, other={"init": "lecun"}),
    "one kernel doubled": Fault(
        "1/branch/conv1", "kernel's mean square", BATCH, _kernel(lambda k: 2 * k)
    ),
    "running statistics": Fault(".*(norm|activation)", "running statistics", BATCH, train=False),
    "dead rectifier by bias": Fault(
        "1/branch/conv1", "its bias", NONE | {"use_bias": True}, change=_bias
    ),
    "equal channels": Fault("1/branch/", "equal kernels", BATCH, _kernel(_alike)),
    "shared weights": Fault("[1-3]/branch/conv1", "is the kernel of", BATCH, _shared),
    "doubled activation": Fault(
        ".*activation",
        "applies silu twice",
        NONE | {"activation": "silu"},
        _twice,
    ),
    "constant kernel": Fault("1/branch/conv1", "all are equal", BATCH, _kernel(_constant)),
    "layer norm for batch norm": Fault(".*norm", "is LayerNorm", BATCH, other={"norm": "layer"}),
    "large epsilon": Fault(".*norm2", "epsilon", BATCH, _epsilon),
    "float16 underflow in a branch": Fault(
        "0/branch", "less than float16", NONE | {"init": TINY}, other={"dtype": jnp.float16}
    ),
    "a skip before the norm": Fault(
        ".*shortcut",
        "is Identity, where theory was told of LayerNorm",
        BATCH | {"shortcut": "layer norm"},
        other={"shortcut": "identity"},
        residual=True,
    ),
    "three terms where two were declared": Fault(
        "[0-3]$", "another term", BATCH, _added_again, residual=True
    ),
    "zero padding": Fault(".*conv", "zero padding", NONE, other={"padding": "SAME"}),
    "trained weights": Fault(".*", "not fresh", BATCH, _trained),
}


def found(fault: Fault, seed: int, *, residual: bool) -> gradflow.Comparison:
    """Plant a fault, measure, and hold against what theory expects of the sound network."""
    shortcut = "identity" if residual else "none"
    given = {"padding": "CIRCULAR", "shortcut": shortcut, **fault.options}
    net = _stack(seed, given | fault.other)
    fault.change(net)
    x = jax.random.normal(jax.random.key(0), SHAPE)
    x = x.astype(fault.other.get("dtype", x.dtype))
    cotangent = jax.random.key(100 + seed)
    profile = gradflow.profile(net, x, cotangent=cotangent, train=fault.train)
    told = nnx.eval_shape(lambda: _stack(0, given))
    return gradflow.compare(profile, gradflow.predict(told, jnp.asarray(x), train=True), net=net)


def _stack(seed: int, options: dict[str, Any]) -> nnx.Module:
    if options["shortcut"] == "layer norm":
        norm = nn.LayerNorm(WIDTH, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
        options = options | {"shortcut": norm}
    return models.deep_stack(4, WIDTH, rngs=nnx.Rngs(seed), **options)


def judged(fault: Fault, comparison: gradflow.Comparison) -> tuple[bool, bool, bool]:
    """Return whether the unit is right, the cause is, and a wrong one is named."""
    said = [r for r in comparison.remarks if re.search(fault.cause, r)]
    unit = bool(re.match(fault.where, comparison.first or "")) or bool(said)
    right = bool(re.search(fault.cause, comparison.cause) or said)
    return unit, right, bool(comparison.cause) and not re.search(fault.cause, comparison.cause)
