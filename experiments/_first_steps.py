"""Networks of early-dynamics, and the first steps of their training, a profile before each."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import gradflow, nn
from experiments._classifier import CLASSES, CONVS_PER_UNIT, Cell, cross_entropy
from experiments._outcome import Columns

PLAIN, TWIN = "plain, batch norm", "residual, batch norm"
HE, SKIPINIT, REZERO, FIXUP = "He", "SkipInit", "ReZero", "Fixup"
NETWORKS = (PLAIN, TWIN, HE, SKIPINIT, REZERO, FIXUP)
SILENT = (SKIPINIT, REZERO, FIXUP)

TRUNK = "trunk"
ROLES = {
    "stem": ("stem", "kernel"),
    "first": ("body/*/branch/conv1", "kernel"),
    "last": ("body/*/branch/conv2", "kernel"),
    "factor": ("body/*/branch/factor", "value"),
    "classifier": ("head/dense", "kernel"),
}
LAYERS = ("first", "last")

# The first step before which a parameter has a gradient; those that are not named have one at once.
# A factor 0 lets none through to its branch until it has moved. Fixup's classifier lets none
# through to anything but itself; then the last convolutions let none through to what is before
# them, and give the factor behind them nothing to scale.
WAKES = {
    SKIPINIT: {"first": 1, "last": 1},
    REZERO: {"first": 1, "last": 1},
    FIXUP: {"stem": 1, "last": 1, "first": 2, "factor": 2},
}
AWAKE = 2
FLOWS, ZERO = "flows", "zero by construction"
VANISHED, UNFORESEEN = "vanished", "unforeseen"


def network(name: str, depth: int, width: int, rngs: nnx.Rngs) -> nn.Chain:
    """Return stem, units with identity shortcuts (but in the plain one) and head."""
    if name in (PLAIN, TWIN):
        shortcut = "none" if name == PLAIN else "identity"
        return Cell("batch", shortcut, width, "relu", "he", "dense", depth).network(rngs)
    units = (depth - 2) // CONVS_PER_UNIT
    zero = nn.initializers.zeros()
    return nn.Chain(
        stem=nn.Conv(1, width, (3, 3), use_bias=False, kernel_init="he", rngs=rngs),
        body=nn.Repeat(lambda rngs: unit(name, width, units, rngs), units, rngs=rngs),
        head=nn.Chain(
            activation=nn.Activation("relu"),
            pool=nn.GlobalPool("avg"),
            dense=nn.Dense(
                width, CLASSES, kernel_init=zero if name == FIXUP else "lecun", rngs=rngs
            ),
        ),
    )


def unit(name: str, width: int, units: int, rngs: nnx.Rngs) -> nn.Residual:
    """Return one of so many units without norm, initialised as the name says."""
    inits: Any = {"conv1": "he", "conv2": "he"}
    if name == FIXUP:
        scale = gradflow.oracles.fixup_scale(units, CONVS_PER_UNIT)
        inits = {"conv1": nn.initializers.VarianceScaling(2 * scale**2), "conv2": "zero"}
    branch: dict[str, nnx.Module] = {}
    for i, (conv, init) in enumerate(inits.items(), 1):
        pair = {
            f"activation{i}": nn.Activation("relu"),
            conv: nn.Conv(width, width, (3, 3), use_bias=False, kernel_init=init, rngs=rngs),
        }
        branch |= dict(reversed(pair.items())) if name == REZERO else pair
    if name in SILENT:
        branch["factor"] = nn.Scale(1.0 if name == FIXUP else 0.0, learnable=True)
    return nn.Residual(nn.Chain(branch))


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is run with one network, compiled.

    Attributes:
      begin: ``begin(key, images) -> (params, rest, state, trunk)``: initial values, the optimiser's
        state, and at birth the log norm of an injected cotangent at every unit.
      step: ``step(params, rest, state, images, labels) -> (params, state, loss, norms)``: a step of
        training; before it, the loss, and by role the norms of a parameter and of its gradient.
    """

    begin: Callable[..., Any]
    step: Callable[..., Any]


def compile_programs(
    name: str, *, depth: int, width: int, batch_size: int, learning_rate: float
) -> Programs:
    """Compile what is run with one network."""

    def make(rngs: nnx.Rngs) -> nn.Chain:
        return network(name, depth, width, rngs)

    graphdef, *_ = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)
    optimiser = optax.sgd(learning_rate)
    if name not in (PLAIN, TWIN):
        optimiser = optax.chain(optax.clip_by_global_norm(1.0), optimiser)

    def begin(key, images):
        net = make(nnx.Rngs(key))
        _, params, rest = nnx.split(net, nnx.Param, ...)
        inject = jax.random.fold_in(key, 1)
        seen = gradflow.profile(net["body"], net["stem"](images), cotangent=inject, train=True)
        trunk = [seen["input"].gradient.log_norm[None], seen["*"].gradient.log_norm]
        return params, rest, optimiser.init(params), jnp.concatenate(trunk)

    def step(params, rest, state, images, labels):
        def loss(params):
            # The moving averages that this drops are read by nothing: every batch norms itself.
            net = nnx.merge(graphdef, params, rest, copy=True)
            return cross_entropy(net(images, train=True), labels)

        net = nnx.merge(graphdef, params, rest, copy=True)
        seen = gradflow.profile(net, images, loss=cross_entropy, targets=labels, train=True)
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        norms = {}
        for role, (path, parameter) in ROLES.items():
            if path in seen.paths:
                here = seen[path]
                norms[role] = here.parameters[parameter], here.parameter_gradients[parameter]
        return optax.apply_updates(params, updates), state, seen.loss, norms

    key = jax.eval_shape(jax.random.key, 0)
    images = jax.ShapeDtypeStruct((batch_size, 8, 8, 1), np.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), np.int32)
    birth = jax.jit(begin).lower(key, images)
    params, rest, state, _ = birth.out_info
    # LLVM takes half a minute to optimise what draws random numbers, for nothing.
    brief: dict[str, Any] = (
        {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    )
    return Programs(
        birth.compile(brief),
        jax.jit(step).lower(params, rest, state, images, labels).compile(),
    )


def trained(
    programs: Programs, key: jax.Array, images: np.ndarray, labels: np.ndarray
) -> Iterator[Columns]:
    """Yield one seed's tables: the trunk at birth, then the parameters before every step."""
    params, rest, state, trunk = programs.begin(key, images[0])
    yield _rows(TRUNK, np.arange(len(trunk)), gradient_log_norm=np.asarray(trunk, np.float64))
    for step, batch in enumerate(zip(images, labels, strict=True)):
        params, state, loss, norms = programs.step(params, rest, state, *batch)
        for role, pair in jax.device_get(norms).items():
            weights, gradients = (np.ravel(norm.log_norm) for norm in pair)
            yield _rows(
                role,
                np.arange(len(weights)),
                step=step,
                loss=float(loss),
                parameter_log_norm=weights,
                parameter_gradient_log_norm=gradients,
            )


def _rows(role: str, position: np.ndarray, step: int = 0, **given: Any) -> Columns:
    names = ("loss", "parameter_log_norm", "parameter_gradient_log_norm", "gradient_log_norm")
    filled: dict[str, Any] = {"role": role, "step": step} | dict.fromkeys(names, np.nan) | given
    table = {name: np.broadcast_to(value, position.shape) for name, value in filled.items()}
    return {"position": position} | table


def states(columns: Columns) -> np.ndarray:
    """Say of every row what its parameter gradient does, and whether its construction says so.

    Returns:
      FLOWS; ZERO by construction; VANISHED where it is zero though nothing makes it so; UNFORESEEN
      where it is not though it should be; nothing for the trunk's rows, which have no parameter.
    """
    zero = np.isneginf(columns["parameter_gradient_log_norm"])
    wakes = [
        WAKES.get(network, {}).get(role, 0)
        for network, role in zip(columns["network"], columns["role"], strict=True)
    ]
    asleep = columns["step"] < np.array(wakes)
    found = np.where(asleep, np.where(zero, ZERO, UNFORESEEN), np.where(zero, VANISHED, FLOWS))
    return np.where(columns["role"] == TRUNK, "", found)
