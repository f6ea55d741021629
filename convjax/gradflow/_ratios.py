"""Ratios of a change to what it changes: updates and gradients beside their parameters."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax import nn
from convjax._check import instance, shown
from convjax._readable import Readable, Table, on_trunk, size
from convjax.gradflow._check import arrays
from convjax.gradflow._own import own_parameters
from convjax.gradflow._profile import Profile
from convjax.gradflow._table import _write_out

LABELS = ("", "zero parameter", "zero change", "zero parameter, zero change")


@dataclasses.dataclass(frozen=True, repr=False)
class Ratios(Readable):
    """Norms of parameters and of what is done to them, by the parameter's path.

    Attributes:
      paths: of the parameters, such as ``"stage1/0/branch/conv1/kernel"``.
      log_change: natural logarithm of the norm of the update or of the gradient, one for each path
        along the last axis; minus infinity for zero.
      log_parameter: the same of the parameter.
    """

    paths: tuple[str, ...]
    log_change: np.ndarray
    log_parameter: np.ndarray

    @property
    def log_ratio(self) -> np.ndarray:
        """Logarithm of change over parameter; NaN where the parameter is zero: see ``labels``."""
        zero = np.isneginf(self.log_parameter)
        return np.where(zero, np.nan, self.log_change - np.where(zero, 0.0, self.log_parameter))

    @property
    def ratio(self) -> np.ndarray:
        """Change over parameter; NaN where the parameter is zero."""
        return np.exp(self.log_ratio)

    @property
    def log_product(self) -> np.ndarray:
        """Logarithm of change times parameter, which a scale-invariant loss leaves as it is."""
        return self.log_change + self.log_parameter

    @property
    def labels(self) -> np.ndarray:
        """Say of each path what is zero there: one of "", "zero parameter", "zero change", both."""
        which = np.isneginf(self.log_parameter) + 2 * np.isneginf(self.log_change)
        return np.array(LABELS, object)[which]

    def __repr__(self) -> str:
        ratios = self.log_ratio[~np.isnan(self.log_ratio)]
        ends = f"; {size(ratios.min())} to {size(ratios.max())}" if ratios.size else ""
        return f"Ratios({len(self.paths)} paths{ends})"

    def _as_table(self) -> Table:
        ratio, labels = self.log_ratio, self.labels
        many = math.prod(ratio.shape[:-1])
        logs = np.sort(ratio.reshape(-1, len(self.paths)), axis=0)[(many - 1) // 2]
        said = [", ".join(filter(None, {*column})) for column in labels.reshape(many, -1).T]
        return Table(
            ("path", "ratio", "zero"),
            list(zip(self.paths, map(size, logs.tolist()), said, strict=True)),
            main=on_trunk(self.paths, [""] * len(self.paths)),
            below=[f"change over parameter{f', median of {many}' if many > 1 else ''}"],
        )

    def by_unit(self) -> "Ratios":
        """Return the same for all the parameters of a unit together, by the unit's path."""
        owners = [path.rpartition("/")[0] for path in self.paths]
        units = list(dict.fromkeys(owners))
        own = [[i for i, owner in enumerate(owners) if owner == unit] for unit in units]

        def joined(logs):
            return np.stack([0.5 * np.logaddexp.reduce(2 * logs[..., i], axis=-1) for i in own], -1)

        return Ratios(tuple(units), joined(self.log_change), joined(self.log_parameter))


def update_ratios(params_before: Any, params_after: Any) -> Ratios:
    """Return ``|dW| / |W|`` of every parameter, W before the update and dW its change.

    Args:
      params_before: a network, whose paths are then those of a profile, with repeats written out;
        or its parameters as ``nnx.State`` or any pytree of arrays, keyed by the path there: a
        pytree does not know its repeats, and stacked parameters count as one.
      params_after: the same after the update.

    Returns:
      ``Ratios``. Parameters that were zero are labelled, and their ratio is NaN.

    Raises:
      ValueError: nothing to compare; parameters of other paths or shapes than before, or with a
        NaN or infinity, naming the first.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import gradflow
      >>> before = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.zeros(1)}
      >>> after = {"kernel": jnp.array([3.0, 4.5]), "bias": jnp.ones(1)}
      >>> found = gradflow.update_ratios(before, after)
      >>> found.paths, found.ratio.round(3).tolist(), found.labels.tolist()
      (('bias', 'kernel'), [nan, 0.1], ['zero parameter', ''])

    Reference: You et al., LARS, 2017, for the ratio as a diagnosis of step sizes.
    """
    before, after = (
        list(_named(name, given))
        for name, given in (("params_before", params_before), ("params_after", params_after))
    )
    if not before:
        raise ValueError(f"params_before={shown(params_before)} holds no parameters")
    if len(before) != len(after):
        raise ValueError(
            f"params_before={shown(params_before)} holds {len(before)} parameters, "
            f"params_after={shown(params_after)} {len(after)}; the two must be alike"
        )
    sizes, changes = [], []
    for (path, old, repeats), (other, new, _) in zip(before, after, strict=True):
        if path != other or np.shape(old) != np.shape(new):
            raise ValueError(
                f"params_after has {other!r} of shape {np.shape(new)} where params_before has "
                f"{path!r} of shape {np.shape(old)}; the two must be alike"
            )
        old, new = (np.asarray(jax.device_get(a)).astype(np.float64) for a in (old, new))
        for name, array in (("params_before", old), ("params_after", new)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a NaN or an infinity in {path!r}")
        sizes.append(_log_norm(old, len(repeats)))
        changes.append(_log_norm(new - old, len(repeats)))
    return _written_out([p for p, _, _ in before], [r for _, _, r in before], changes, sizes)


def relative_gradients(profile: Profile) -> Ratios:
    """Return ``|grad W| / |W|``, and ``|grad W| |W|``, of every parameter of a profiled network.

    The first is the step relative to the parameter per unit of learning rate; the second does not
    change where a norm makes the loss independent of the scale of W, as decay of W then raises its
    gradient.

    Args:
      profile: what ``gradflow.profile`` returned; over replicas, as ``vmap`` makes them, the
        results have their axes in front.

    Returns:
      ``Ratios``, by unit path and parameter name; ``by_unit`` takes a unit's parameters together.
      Parameters that are zero are labelled: biases at initialization, zero-initialised branches.

    Raises:
      ValueError: a profile of a network without parameters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import gradflow, nn
      >>> net = nn.Chain(dense=nn.Dense(3, 2, rngs=nnx.Rngs(0)))
      >>> measured = gradflow.profile(net, jnp.ones((1, 3)), loss=jnp.sum, train=False)
      >>> found = gradflow.relative_gradients(measured)
      >>> found.paths, found.labels.tolist()
      (('dense/bias', 'dense/kernel'), ['zero parameter', ''])

    Reference: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization,
    2021, for the ratio.
    """
    instance("profile", profile, Profile, "what gradflow.profile returned")
    profile = profile.check().unrolled()
    units = jax.device_get(profile.units)
    outer = np.ndim(units[0].activation.squares)
    paths, lengths, changes, sizes = [], [], [], []
    for path, unit in zip(profile.paths, units, strict=True):
        for name in unit.parameters:
            paths.append(nn.join(path, name))
            lengths.append(np.shape(unit.activation.squares)[outer:])
            sizes.append(unit.parameters[name].log_norm)
            changes.append(unit.parameter_gradients[name].log_norm)
    if not paths:
        raise ValueError("profile is of a network without parameters")
    return _written_out(paths, lengths, changes, sizes)


def _named(argument: str, given: Any) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield every parameter's path, its value, and the lengths of the repeats around it."""
    if not isinstance(given, nnx.Module):
        tree = nnx.to_pure_dict(given) if isinstance(given, nnx.State) else given
        arrays(argument, tree)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            yield "/".join(str(_key(part)) for part in path), leaf, ()
        return
    for path, node, repeats in nn.walk(given):
        own = own_parameters(node, [child for _, child in nn.children(node)])
        for name, parameter in own.items():
            yield nn.join(path, name), parameter[...], repeats


def _key(part: Any) -> Any:
    return next(getattr(part, of) for of in ("key", "idx", "name") if hasattr(part, of))


def _log_norm(array: np.ndarray, axes: int) -> Any:
    """Return the log norms over all but the first axes, at any magnitude."""
    flat = array.reshape(*array.shape[:axes], -1)
    largest = np.max(np.abs(flat), axis=-1, initial=0.0, keepdims=True)
    unit = flat / np.where(largest > 0, largest, 1.0)
    with np.errstate(divide="ignore"):
        return np.log(largest[..., 0]) + 0.5 * np.log(np.maximum(np.sum(unit**2, axis=-1), 1.0))


def _written_out(
    paths: Sequence[str],
    lengths: Sequence[tuple[int, ...]],
    changes: Sequence[Any],
    parameters: Sequence[Any],
) -> Ratios:
    """Return the ratios with every unit of a repeat by itself, in forward order."""
    rows = list(_write_out(list(enumerate(paths)), list(lengths), ()))

    def column(logs):
        return np.stack([np.asarray(logs[entry])[(..., *index)] for entry, index, _ in rows], -1)

    return Ratios(tuple(path for _, _, path in rows), column(changes), column(parameters))
