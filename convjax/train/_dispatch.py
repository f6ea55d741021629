"""Several steps by one call into the device, on one device or on a mesh of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from convjax import _check, models
from convjax.train import _arguments
from convjax.train._mesh import AXIS
from convjax.train._recipe import Recipe
from convjax.train._source import Source, classes_of
from convjax.train._state import State
from convjax.train._step import keys_of, step_of

Dispatch = Callable[[State, Any, Any, int], tuple[State, dict[str, Any]]]


def make_dispatch(
    net: nnx.Module,
    source: Source,
    recipe: Recipe,
    *,
    optimiser: optax.GradientTransformation | None = None,
    frozen: models.Split | None = None,
    mesh: Mesh | None = None,
    call: Callable[..., Any] | None = None,
) -> Dispatch:
    """Return ``dispatch(state, arrays, inputs, count) -> (state, metrics)``, compiled when called.

    One program serves every count up to the recipe's ``dispatch``, so that a run cut into other
    pieces is the same run, bit for bit. The state is donated.

    Args:
      net: the network; only its structure is used.
      source: gives the batch of each step inside the program.
      recipe: how to train.
      optimiser: any optax transformation, in the place of the recipe's.
      frozen: what ``models.freeze`` returns, or None.
      mesh: devices that share each batch; None is the default device.
      call: how the network is called, if not as its signature says; see ``train.make_step``.

    Returns:
      The function. ``inputs`` have leading axes ``(recipe.dispatch, batch_size)``; metrics have
      the leading axis ``recipe.dispatch``, zeros from ``count`` on.

    Raises:
      ValueError: what is no network, source, recipe or optimiser, a mesh of other axes; when
        called, a network of fewer outputs than the source has classes, and what ``make_step``
        refuses.

    Example:
      >>> from flax import nnx
      >>> from convjax import data, models, train
      >>> net = models.resnet_cifar(8, width=4, in_features=1, rngs=nnx.Rngs(0))
      >>> source = data.resident(*data.digits("train"), batch_size=16)
      >>> recipe = train.Recipe(steps=4, dispatch=4)
      >>> dispatch = train.make_dispatch(net, source, recipe)
      >>> state = train.start(net, recipe)
      >>> state, metrics = dispatch(state, source.arrays, source.inputs(0, 4), 4)
      >>> int(state.step), metrics["loss"].shape
      (4, (4,))
    """
    _arguments.source(source)
    _check.instance("mesh", mesh, (Mesh, type(None)), "a jax.sharding.Mesh, or None")
    if mesh is not None and mesh.axis_names != (AXIS,):
        raise ValueError(f"mesh has the axes {mesh.axis_names}; it must have one, {AXIS!r}")
    step = step_of(
        net,
        recipe,
        optimiser=optimiser,
        frozen=frozen,
        axis_name=None if mesh is None else AXIS,
        call=call,
        classes=classes_of(source),
    )

    def one(state: State, arrays: Any, inputs: Any) -> tuple[State, dict[str, Any]]:
        images, labels = source.batch(arrays, inputs, keys_of(recipe, state.step)[0])
        return step(state, images, labels)

    def many(state: State, arrays: Any, inputs: Any, count: jax.Array):
        def at(i):
            return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, 0, False), inputs)

        def body(i, carry):
            state, metrics = carry
            state, now = one(state, arrays, at(i))
            return state, jax.tree.map(lambda all, new: all.at[i].set(new), metrics, now)

        shapes = jax.eval_shape(one, state, arrays, at(0))[1]
        metrics = jax.tree.map(lambda s: jnp.zeros((recipe.dispatch, *s.shape), s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, metrics))

    if mesh is None:
        return jax.jit(many, donate_argnums=0)
    # Left to jit's partitioner, the step of a small network with a depthwise and a grouped
    # convolution gathers the batch in two places (jax 0.10.1) or four (0.12.0), on four devices;
    # this way in none.
    same, shared = PartitionSpec(), PartitionSpec(None, AXIS)
    sharded = jax.shard_map(
        many, mesh=mesh, in_specs=(same, same, shared, same), out_specs=same, check_vma=False
    )
    return jax.jit(sharded, donate_argnums=0)
