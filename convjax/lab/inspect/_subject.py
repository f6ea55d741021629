"""The network that is inspected, the batch, and all that is measured and expected of every unit."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import convjax
from convjax import data, gradflow, lab, models
from convjax.lab import Columns, cross_entropy, layers, pictures

PREFIX = "expected_"
EXPECTED = (
    "expected_activation_log_rms",
    "expected_activation_scatter",
    "expected_activation_slack",
    "expected_gradient_log_norm",
    "expected_gradient_scatter",
    "expected_gradient_slack",
)
SCORES = ("activation_z", "gradient_z")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for; each is an option of the command line, and explained there."""

    name: str
    weights: Path | None
    reference: str
    images: Path | None
    batch: int
    size: int | None
    num_classes: int | None
    train: bool | None
    depth: int
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is inspected.

    Attributes:
      request: what was asked for.
      net: the network.
      images: the batch, ``(N, H, W, C)``.
      labels: its classes, where the gradient is that of a loss; else None.
      train: whether norms use the batch's statistics.
      cost: what the network costs on this batch.
      remarks: what was chosen, and why, one sentence each.
    """

    request: Request
    net: Any
    images: np.ndarray
    labels: np.ndarray | None
    train: bool
    cost: Any
    remarks: tuple[str, ...]


def subject(request: Request) -> Subject:
    """Return the network and the batch.

    Raises:
      ValueError: see ``inspect_network.measure``.
    """
    if not request.name:
        raise lab.UsageError(
            "give the name of a network first, such as resnet50; there are "
            f"{', '.join(models.list())}."
        )
    options: dict[str, Any] = {}
    if request.num_classes is not None:
        options["num_classes"] = request.num_classes
    if request.reference != "torch":
        options["reference"] = request.reference

    net = models.create(request.name, rngs=nnx.Rngs(request.seed), **options)
    weighed = f"{request.name}: randomly initialized, seed {request.seed}"
    if request.weights is not None:
        count = models.load_weights(net, request.weights).count
        weighed = f"{request.name}: {count} arrays of {request.weights}"
    images, found = _batch(request)
    cost = convjax.cost(net, images.shape)
    train = request.weights is None if request.train is None else request.train
    labels, gradient = _labels(request, found, cost.total.output_shape[-1])
    pictured = f"batch: {len(images)} images of unit Gaussian noise, {images.shape[1]} pixels wide"
    if found is not None:
        pictured = f"batch: {request.images}: {found}"
    remarks = (weighed, pictured, _mode(request, train), gradient)
    return Subject(request, net, images, labels, train, cost, remarks)


def _batch(request: Request) -> tuple[np.ndarray, data.ImageFolder | None]:
    if request.images is not None:
        found = pictures(
            request.images,
            request.name,
            reference=request.reference,
            size=request.size,
            limit=request.batch,
            seed=request.seed,
        )
        return found.images, found
    how = models.preprocessing(request.name, reference=request.reference)
    side = how.size if request.size is None else request.size
    return data.gaussian(request.batch, (side, side, 3), seed=request.seed)[0], None


def _labels(
    request: Request, found: data.ImageFolder | None, outputs: int
) -> tuple[np.ndarray | None, str]:
    """Return the labels of a loss, if there is to be one, and say what the gradient is of."""
    labels = None if found is None else found.labels
    classes = 0 if found is None else len(found.classes)
    if request.weights is None:
        why = "fresh weights, and theory has it so"
    elif labels is None:
        why = "no class folders"
    elif classes != outputs:
        why = f"{classes} class folders, {outputs} outputs"
    else:
        return labels, "gradient: of the mean cross-entropy with the folders' classes"
    return None, f"gradient: of a unit Gaussian cotangent at the output ({why})"


def _mode(request: Request, train: bool) -> str:
    why = "as asked for"
    if request.train is None:
        fresh, loaded = (
            "running ones normalise nothing at initialization",
            "they belong to the weights",
        )
        why = fresh if train else loaded
    return f"norms: {'batch' if train else 'running'} statistics ({why})"


def measured(what: Subject) -> Columns:
    """Return one row for every unit, in forward order.

    Columns are those of ``Profile.table`` and ``Cost.table``; ``position`` of a layer, -1 of what
    is none; ``shown``, whether the tables show it; what theory expects, ``expected_…``, and how far
    the gains are from it, ``…_z``, NaN where it says nothing; and on every row whether weights are
    ``fresh``, the ``threshold`` of z, the ``first`` unit that departs, and the ``cause``.
    """
    profile = _profiled(what)
    rows = profile.table()
    paths = rows["path"].tolist()
    of_layers = layers(profile)
    place = dict(zip(of_layers["path"].tolist(), of_layers["position"].tolist(), strict=True))
    rows["position"] = np.array([place.get(path, -1) for path in paths])
    rows["shown"] = np.array([path.count("/") < what.request.depth for path in paths])
    costs = what.cost.table()
    rows |= _joined({n: column for n, column in costs.items() if n != "kind"}, paths)
    rows |= _theory(what, profile)
    return rows | {"fresh": np.full(len(paths), what.request.weights is None)}


def _profiled(what: Subject) -> gradflow.Profile:
    graphdef, params, rest = nnx.split(what.net, nnx.Param, ...)

    def measure(params, rest, images, labels):
        return gradflow.profile(
            nnx.merge(graphdef, params, rest, copy=True),
            images,
            loss=None if labels is None else cross_entropy,
            targets=labels,
            cotangent=jax.random.key(what.request.seed) if labels is None else None,
            train=what.train,
            rngs=nnx.Rngs(what.request.seed),
        )

    labels = None if what.labels is None else jnp.asarray(what.labels)
    given = (params, rest, what.images, labels)
    return lab.compiled(measure, *given)(*given)


def _theory(what: Subject, profile: gradflow.Profile) -> Columns:
    """Return what is expected of every unit of a fresh network; of a loaded one, nothing."""
    paths = profile.table()["path"].tolist()
    nothing = {name: np.full(len(paths), np.nan) for name in (*EXPECTED, *SCORES)}
    threshold, first, cause = np.nan, None, ""
    if what.request.weights is None:
        prediction = gradflow.predict(what.net, what.images, train=what.train)
        comparison = gradflow.compare(profile, prediction)
        found = prediction.table()
        expected = {"path": found["path"]} | {n: found[n.removeprefix(PREFIX)] for n in EXPECTED}
        scores = {name: comparison.table()[name] for name in ("path", *SCORES)}
        nothing |= _joined(expected, paths) | _joined(scores, paths)
        threshold, first, cause = comparison.threshold, comparison.first, comparison.cause
    named = "" if first is None else first or "(the whole)"
    same = {"threshold": threshold, "first": named, "cause": cause}
    return nothing | {name: np.full(len(paths), value) for name, value in same.items()}


def _joined(columns: Columns, paths: Sequence[str]) -> Columns:
    """Return columns in the order of these paths; of a path that is not there, nothing."""
    place = {path: i for i, path in enumerate(columns["path"].tolist())}
    missing = {"f": np.nan, "i": 0, "b": False, "O": "", "U": ""}
    joined = {}
    for name, column in columns.items():
        values = [*column.tolist(), missing[column.dtype.kind]]
        joined[name] = np.array([values[place.get(path, -1)] for path in paths])
    return joined | {"path": np.array(paths)}
