"""layerwise and unfreezing: rates, and the begin of training, that differ from stage to stage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from convjax import nn
from convjax._check import flag, instance, integer, number, wrong_type
from convjax.train import _arguments

LARGEST = 2**31 - 1  # steps are counted in int32


def layerwise(
    net: nnx.Module, *, decay: float, units: Sequence[str] | None = None
) -> optax.GradientTransformation:
    """Return discriminative rates: each stage's is that of the stage behind it, times ``decay``.

    It multiplies what an optimiser has made of the gradient, so it stands behind the optimiser:
    ``optax.chain(train.optimiser_of(net, recipe), train.layerwise(net, decay=0.7))``. The last
    stage, the classifier, keeps its rate; one k stages before it has ``decay**k`` of it.

    A stage is a unit of the network's first level that holds a kernel, in forward order, such as
    ``stem``, ``stage1``, …, ``head``; norms between them belong to the stage before.

    Args:
      net: the network, a combinator of ``convjax.nn``; any other with ``units``.
      decay: above 0; 1 changes nothing.
      units: the stages by path, from the input to the output, instead of those of the first level;
        every parameter must be in one of them.

    Returns:
      An optax transformation of updates in the form of ``train.State``'s ``params``, or of a part
      of them, where others are frozen.

    Raises:
      ValueError: a decay out of range, a network without stages, or units that do not hold every
        parameter.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models, train
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> rates = train.layerwise(net, decay=0.5)
      >>> ones = jax.tree.map(jnp.ones_like, nnx.to_pure_dict(nnx.state(net, nnx.Param)))
      >>> scaled, _ = rates.update(ones, rates.init(ones))
      >>> {name: float(jax.tree.leaves(part)[0].max()) for name, part in scaled.items()}
      {'head': 1.0, 'stage1': 0.125, 'stage2': 0.25, 'stage3': 0.5, 'stem': 0.0625}

    Reference: Howard and Ruder, arXiv:1801.06146, section 3.2.
    """
    decay = number("decay", decay, above=0)
    behind = _behind(net, units)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scaled(path: Any, value: Any) -> Any:
            return value * jnp.asarray(decay ** behind[_names(path)], value.dtype)

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class UnfreezingState(NamedTuple):
    """What ``unfreezing`` counts, and the state of the optimiser in it.

    Attributes:
      count: steps that were taken.
      inner: the optimiser's state.
    """

    count: Any
    inner: Any


def unfreezing(
    optimiser: optax.GradientTransformation,
    net: nnx.Module,
    *,
    every: int,
    together: bool = False,
    units: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """Return an optimiser under which training begins at the classifier and goes down by stages.

    The last stage is trained from the first step on, the one before it from step ``every`` on, the
    next from ``2 * every`` on. With ``together`` all others begin at ``every``: a warm head. What
    does not move yet gives the optimiser a gradient of zero, and gets no update, by decay neither.
    Running statistics of batch norms move from the first step on.

    Args:
      optimiser: any optax transformation, such as ``train.optimiser_of(net, recipe)``.
      net: the network, as for ``layerwise``.
      every: steps between the beginnings, at least 1.
      together: whether all stages before the last begin at once.
      units: as for ``layerwise``.

    Returns:
      An optax transformation, for ``train.fit(optimiser=…)``.

    Raises:
      ValueError: steps out of range, or what ``layerwise`` refuses of a network and its units.

    Example:
      >>> from flax import nnx
      >>> from convjax import data, models, train
      >>> net = models.resnet_cifar(8, width=4, in_features=1, rngs=nnx.Rngs(0))
      >>> source = data.resident(*data.digits("train"), batch_size=32)
      >>> recipe = train.Recipe(steps=2)
      >>> slow = train.unfreezing(train.optimiser_of(net, recipe), net, every=2)
      >>> fitted = train.fit(net, source, recipe, optimiser=slow)
      >>> bool((fitted.net.stage3.first.branch.conv1.kernel[...]
      ...       == net.stage3.first.branch.conv1.kernel[...]).all())
      True

    Reference: Howard and Ruder, arXiv:1801.06146, section 3.3.
    """
    kind = "an optax transformation, such as train.optimiser_of(net, recipe)"
    instance("optimiser", optimiser, optax.GradientTransformation, kind)
    every, together = integer("every", every, 1, LARGEST), flag("together", together)
    behind = _behind(net, units)
    if every * max(behind.values()) > LARGEST:
        raise ValueError(f"every={every}: the first stage would begin after step {LARGEST}")

    def moving(count: Any, updates: Any) -> Any:
        def kept(path: Any, value: Any) -> Any:
            stages = behind[_names(path)]
            begin = every * (min(stages, 1) if together else stages)
            return jnp.where(count >= begin, value, jnp.zeros_like(value))

        return jax.tree_util.tree_map_with_path(kept, updates)

    def init(params: Any) -> UnfreezingState:
        return UnfreezingState(jnp.zeros((), jnp.int32), optimiser.init(params))

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        count = state.count
        inner = optax.with_extra_args_support(optimiser)
        updates, held = inner.update(moving(count, updates), state.inner, params, **more)
        return moving(count, updates), UnfreezingState(optax.safe_increment(count), held)

    return optax.GradientTransformationExtraArgs(init, update)


def _behind(net: nnx.Module, units: Any) -> dict[tuple[str, ...], int]:
    """Return by the path of each parameter how many stages are behind its own."""
    _arguments.network(net)
    params = nnx.to_flat_state(nnx.state(net, nnx.Param))
    shapes = {tuple(map(str, path)): value.shape for path, value in params}
    if units is None:
        names = [name for name, _ in nn.children(net)]
        if not names:
            raise ValueError(
                f"net={type(net).__name__} is no combinator of convjax.nn, so the order of its "
                "stages is not known: give units, their paths from the input to the output"
            )
        stages = _stages(names, shapes)
    else:
        stages = [[unit] for unit in _listed(units)]
    places: dict[tuple[str, ...], int] = {}
    for i, stage in enumerate(stages):
        for unit in stage:
            names = tuple(unit.split("/"))
            inside = [path for path in shapes if path[: len(names)] == names]
            if not inside:
                raise ValueError(f"units: {unit!r} holds no parameter of the network")
            places |= dict.fromkeys(inside, len(stages) - 1 - i)
    if not shapes:
        raise ValueError(f"net={type(net).__name__} holds no parameter, and so no stage")
    if left := ["/".join(path) for path in shapes if path not in places]:
        raise ValueError(f"units: {left[0]!r} is in none of them; they must hold every parameter")
    return places


def _stages(names: Sequence[str], shapes: dict[tuple[str, ...], Any]) -> list[list[str]]:
    """Return the units that hold kernels, each with those behind it that hold only vectors."""
    found: list[list[str]] = []
    for name in names:
        held = [shape for path, shape in shapes.items() if path[0] == name]
        if not held:
            continue
        if found and max(map(len, held)) < 2:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def _listed(units: Any) -> list[str]:
    if isinstance(units, str) or not isinstance(units, Sequence) or not units:
        wrong_type("units", units, "paths of the stages from the input to the output, at least one")
    for i, unit in enumerate(units):
        instance(f"units[{i}]", unit, str, "the path of a unit")
    return list(units)


def _names(path: Any) -> tuple[str, ...]:
    """Return a path as a network's state has it, by the keys of dictionaries alone."""
    return tuple(str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey))
