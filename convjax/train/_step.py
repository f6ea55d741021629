"""One step of training: a pure function of state and batch."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from convjax import _check, gradflow, models, nn
from convjax.train import _arguments
from convjax.train._frozen import check_frozen, divided, joined
from convjax.train._losses import accuracy, cross_entropy
from convjax.train._optimiser import injected_rate, optimiser_of, recipe_rate
from convjax.train._precision import all_finite, chosen, next_scale
from convjax.train._recipe import Recipe
from convjax.train._set_up import check_served, is_written, own_keys, set_up
from convjax.train._state import State, assembled, is_floating, parts, state_of
from convjax.train._watch import Names, layers

Step = Callable[[State, jax.Array, jax.Array], tuple[State, dict[str, Any]]]


def make_step(
    net: nnx.Module,
    recipe: Recipe,
    *,
    optimiser: optax.GradientTransformation | None = None,
    frozen: models.Split | None = None,
    axis_name: str | None = None,
    call: Callable[..., Any] | None = None,
) -> Step:
    """Return the step of a recipe: ``step(state, images, labels) -> (state, metrics)``.

    It is pure: ``jit`` it, ``scan`` it, donate the state to it.

    Args:
      net: the network; only its structure is used.
      recipe: how to train.
      optimiser: any optax transformation, in the place of the recipe's.
      frozen: what ``models.freeze`` returns, or None. Frozen parameters get no gradient, and the
        optimiser does not see them; frozen batch norms run in evaluation, unless the split says
        otherwise.
      axis_name: mapped axis over which the batch is spread, as inside ``shard_map``; gradients,
        metrics and running statistics are averaged over it. Dropout and stochastic depth use
        the network's key of the step, folded with the device's place on that axis.
      call: how the network is called, if not as its signature says: ``call(net, x)``, which is
        passed ``train`` and ``rngs`` where it takes them by name; see ``nn.applied``.

    Returns:
      The step. Images are ``(N, H, W, C)``, labels int ``(N,)`` or probabilities ``(N, classes)``.
      The metrics are scalars: ``loss``, ``accuracy``, ``gradient_norm`` (global, before any clip
      and without loss scale), ``learning_rate`` (of another optimiser than the recipe's the one
      that ``optax.inject_hyperparams`` keeps, and else it is absent); with float16 ``scale`` and
      ``skipped``; and, where the recipe watches, ``layers``: by kind and path, the norms of the
      gradient, the update and the weights of every parameter, of the gradient along the trunk
      (``signal``), and of the running statistics. At steps that are not watched they are zeros.

    Raises:
      ValueError: what the recipe asks for and a network of another framework cannot do; when
        called, a batch that ``accumulate`` does not divide, or labels that do not fit; see
        ``train.cross_entropy``.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import data, models, train
      >>> net = models.resnet_cifar(8, width=4, in_features=1, rngs=nnx.Rngs(0))
      >>> recipe = train.Recipe(steps=10, learning_rate=0.05)
      >>> state, step = train.start(net, recipe), jax.jit(train.make_step(net, recipe))
      >>> images, labels = data.digits("test")
      >>> losses = []
      >>> for _ in range(10):
      ...     state, metrics = step(state, images[:32], labels[:32])
      ...     losses.append(float(metrics["loss"]))
      >>> losses[-1] < losses[0]
      True
    """
    kinds = (str, type(None))
    _check.instance("axis_name", axis_name, kinds, "the name of a mapped axis, or None")
    chosen = {"optimiser": optimiser, "frozen": frozen, "axis_name": axis_name, "call": call}
    return step_of(net, recipe, **chosen)


def step_of(
    net: nnx.Module,
    recipe: Recipe,
    *,
    optimiser: optax.GradientTransformation | None,
    frozen: models.Split | None,
    axis_name: str | None,
    call: Callable[..., Any] | None,
    classes: int | None = None,
) -> Step:
    """Return what ``make_step`` does; it refuses a network of fewer outputs than ``classes``."""
    _arguments.check_plan(net, recipe, optimiser)
    rate = recipe_rate(recipe) if optimiser is None else injected_rate
    check_frozen(frozen, net)
    check_served(net, recipe, axis_name)
    call = _arguments.call(call)
    if optimiser is None:
        optimiser = optimiser_of(net, recipe)
    graphdef, *_ = parts(net)
    names = Names(net) if recipe.watch else None
    # Those of a network that is read are known with the batch.
    written = is_written(net, call)
    places = {} if names is None else gradflow.trunk(net) if written else None
    run = _Pass(graphdef, recipe, axis_name, places, classes, frozen, call)

    def step(state: State, images: jax.Array, labels: jax.Array):
        key = keys_of(recipe, state.step)[1]
        scale = jnp.float32(1) if state.scale is None else state.scale["value"]
        (_, found), (gradients, tokens) = run.gradients(state, images, labels, key, scale)
        # A power of two: nothing rounds.
        gradients = jax.tree.map(lambda g: g / scale.astype(g.dtype), gradients)
        with jax.numpy_dtype_promotion("standard"):  # as optax needs, whatever the caller's is
            own, kept = divided(state.params, frozen)
            updates, moved = optimiser.update(gradients, state.optimiser, own)
            params = joined(optax.apply_updates(own, updates), kept)
            learning_rate = rate(state.optimiser, moved)
        after = dataclasses.replace(
            state,
            params=params,
            rest=found["rest"],
            optimiser=moved,
        )
        after = dataclasses.replace(after, average=_averaged(after, state, recipe.average))
        metrics = {
            "loss": found["loss"],
            "accuracy": found["accuracy"],
            "gradient_norm": optax.tree.norm(gradients),
            **learning_rate,
        }
        if names is not None:
            taps = {path: gradflow.squares(t) / scale**2 for path, t in tokens.items()}
            metrics["layers"] = _every(
                recipe.watch,
                state.step,
                lambda names=names: layers(
                    names,
                    params=state.params,
                    rest=after.rest,
                    gradients=gradients,
                    updates=updates,
                    taps=taps,
                ),
            )
        if state.scale is not None:
            finite = all_finite(gradients)
            after = chosen(finite, after, state)
            after = dataclasses.replace(after, scale=next_scale(state.scale, finite))
            metrics |= {"scale": scale, "skipped": jnp.where(finite, 0, 1)}
        return dataclasses.replace(after, step=state.step + 1), metrics

    return step


def keys_of(recipe: Recipe, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the keys of one step: for its batch, and for what is random in the network."""
    of_batch, of_network = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), step))
    return of_batch, of_network


class _Pass:
    """The forward and backward pass of one batch, in parts if the recipe says so."""

    def __init__(
        self,
        graphdef: Any,
        recipe: Recipe,
        axis_name: str | None,
        places: Any,
        classes: int | None,
        frozen: models.Split | None,
        call: Callable[..., Any] | None,
    ):
        self.call = call
        self.graphdef = graphdef
        self.classes = classes
        self.recipe = recipe
        self.axis_name = axis_name
        self.places = places
        self.frozen = frozen

    def gradients(self, state: State, images, labels, key, scale) -> Any:
        """Return ``(scaled loss, found), (gradients, tokens)``, means over all devices."""
        tokens = gradflow.tokens(self._trunk(state, images, key))
        count = self.recipe.accumulate
        own, kept = divided(state.params, self.frozen)
        take = jax.value_and_grad(partial(self._loss, kept), argnums=(0, 1), has_aux=True)
        if self.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
        if count == 1:
            result = take(own, tokens, state.rest, images, labels, key, scale)
        else:
            result = self._in_parts(take, own, state.rest, tokens, images, labels, key, scale)
        if self.axis_name is None:
            return result
        (loss, found), (gradients, tokens) = result
        devices = jax.lax.axis_size(self.axis_name)
        # Squares of the parts of one gradient add up; each part is that of its device's own mean.
        tokens = jax.tree.map(lambda t: jax.lax.psum(t, self.axis_name) / devices**2, tokens)
        rest = found.pop("rest")
        loss, found, gradients = jax.lax.pmean((loss, found, gradients), self.axis_name)
        rest = jax.tree.map(
            lambda a: jax.lax.pmean(a, self.axis_name) if is_floating(a) else a, rest
        )
        return (loss, {**found, "rest": rest}), (gradients, tokens)

    def _trunk(self, state: State, images: jax.Array, key: jax.Array) -> Any:
        """Return the places that are tapped."""
        if self.places is not None:
            return self.places
        net = self._ready(state.params, state.rest)[0]
        shape = (images.shape[0] // self.recipe.accumulate, *images.shape[1:])
        x = jax.ShapeDtypeStruct(shape, _dtype(images, self.recipe))
        return gradflow.trunk(net, x, train=True, rngs=nnx.Rngs(key), call=self.call)

    def _ready(self, params: Any, rest: Any) -> tuple[Any, Any]:
        """Return the network of some values, as the recipe has it, and its keys as they were."""
        net = assembled(self.graphdef, params, rest)
        if self.frozen is not None:
            self.frozen.keep_statistics(net)
        keys = own_keys(net)
        set_up(net, self.recipe, self.axis_name)
        return net, keys

    def _loss(self, kept, params, tokens, rest, images, labels, key, scale):
        net, keys = self._ready(joined(params, kept), rest)
        images = images.astype(_dtype(images, self.recipe))
        logits = self._logits(net, images, tokens, key)
        if self.axis_name is not None:
            nnx.update(net, keys)
        if self.classes is not None and logits.shape[-1] < self.classes:
            raise ValueError(
                f"the source has {self.classes} classes, so its labels go up to "
                f"{self.classes - 1}; net returns {logits.shape[-1]} classes"
            )
        loss = cross_entropy(logits, labels, smoothing=self.recipe.label_smoothing)
        found = {
            "loss": loss,
            "accuracy": accuracy(logits, labels),
            "rest": state_of(net, rest),
        }
        return loss * scale.astype(loss.dtype), found

    def _logits(self, net, images, tokens, key):
        if is_written(net, self.call):
            rngs = nnx.Rngs(dropout=key)
            return gradflow.tapped(net, images, tokens, train=True, rngs=rngs)
        how = {"train": True, "rngs": nnx.Rngs(key), "call": self.call}
        if not tokens:
            return nn.applied(net, images, **how)
        return gradflow.tapped(net, images, tokens, **how)

    def _in_parts(self, take, params, rest, tokens, images, labels, key, scale):
        count = self.recipe.accumulate
        if images.shape[0] % count:
            raise ValueError(
                f"accumulate={count} must divide the batch of {images.shape[0]} on each device"
            )

        def split(a: jax.Array) -> jax.Array:
            # Every count-th example: the same parts, whatever number of devices shares the batch.
            return a.reshape(-1, count, *a.shape[1:]).swapaxes(0, 1)

        def one(carry, part):
            rest, total = carry
            i, images, labels = part
            inner = jax.random.fold_in(key, i)
            result = take(params, tokens, rest, images, labels, inner, scale)
            (loss, found), gradients = result
            rest = found.pop("rest")
            added = jax.tree.map(jnp.add, total, ((loss, found), gradients))
            return (rest, added), None

        shapes = jax.eval_shape(
            lambda *a: take(params, tokens, rest, *a, key, scale),
            split(images)[0],
            split(labels)[0],
        )
        (loss, found), gradients = shapes
        found = {name: value for name, value in found.items() if name != "rest"}
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), ((loss, found), gradients))
        xs = (jnp.arange(count), split(images), split(labels))
        (rest, total), _ = jax.lax.scan(one, (rest, zeros), xs)
        (loss, found), (gradients, received) = jax.tree.map(lambda a: a / count, total)
        # A mean over parts of the batch: squares add up, and each was count times too large.
        received = jax.tree.map(lambda t: t / count, received)
        return (loss, {**found, "rest": rest}), (gradients, received)


def _dtype(images: jax.Array, recipe: Recipe) -> Any:
    if recipe.precision != "float32":
        return recipe.precision
    return images.dtype if images.dtype == jnp.float64 else jnp.float32


def _averaged(after: State, before: State, decay: float) -> Any:
    if before.average is None:
        return None
    # Small at first, so that the initial values are soon forgotten.
    taken = before.step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + taken) / (10 + taken))
    new = {"params": after.params, "rest": after.rest}

    def moved(old: jax.Array, now: jax.Array) -> jax.Array:
        return old + share.astype(old.dtype) * (now - old) if is_floating(old) else now

    return jax.tree.map(moved, before.average, new)


def _every(steps: int, step: jax.Array, take: Callable[[], Any]) -> Any:
    """Return what ``take`` returns at every so many steps, and zeros at the others."""
    if steps == 1:
        return take()
    shapes = jax.eval_shape(take)

    def zeros() -> Any:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(step % steps == 0, take, zeros)
