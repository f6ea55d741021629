"""The network that is inspected, the batch, and all that is measured and expected of every unit."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import convjax
from convjax import data, gradflow, lab, models

EXPECTED = tuple(
    f"{of}_{what}"
    for of, size in (("activation", "log_rms"), ("gradient", "log_norm"))
    for what in (size, "scatter", "slack")
)
SCORES = ("activation_z", "gradient_z")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for."""

    name: str = ""
    """The network: a name that models.list() knows."""
    weights: Path | None = None
    """File of weights: .safetensors, .pth, or a Keras .h5; without it, they are random."""
    reference: Literal["torch", "keras"] = "torch"
    """Whose details it follows: timm's and torchvision's, or Keras's, as a .h5 file needs."""
    images: Path | None = None
    """Folder of pictures, or of class folders; without it, the batch is noise."""
    batch: int = 8
    """Images, a random choice of the folder."""
    size: int | None = None
    """Their height and width; without it, what models.preprocessing says."""
    num_classes: int | None = None
    """Outputs of the network; without it, as many as its name stands for."""
    train: bool | None = None
    """--train for batch statistics, --no-train for running ones; without it, batch statistics for
    fresh weights, running ones for loaded."""
    depth: int = 2
    """How far down units are shown in the tables, 1 for those of the network itself."""
    seed: int = 0
    """Of fresh weights, of noise, and of the choice of images."""


class Subject(NamedTuple):
    """What is inspected."""

    request: Request
    net: Any
    images: np.ndarray  # (N, H, W, C)
    labels: np.ndarray | None  # their classes, where the gradient is that of a loss
    train: bool  # whether norms use the batch's statistics
    cost: Any  # of the network, on this batch
    remarks: tuple[str, ...]  # what was chosen, and why, one sentence each


def subject(request: Request) -> Subject:
    """Return the network and the batch."""
    if not request.name:
        raise lab.UsageError(
            "give the name of a network first, such as resnet50; there are "
            f"{', '.join(models.list())}."
        )
    classes = request.num_classes
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    options |= {"reference": request.reference} if request.reference != "torch" else {}
    net = models.create(request.name, rngs=nnx.Rngs(request.seed), **options)
    weighed = f"{request.name}: randomly initialized, seed {request.seed}"
    if request.weights is not None:
        count = models.load_weights(net, request.weights).count
        weighed = f"{request.name}: {count} arrays of {request.weights}"
    images, found = _batch(request)
    cost = convjax.cost(net, images.shape)
    train = request.weights is None if request.train is None else request.train
    labels, gradient = _labels(request, found, cost.total.output_shape[-1])
    pictured = f"{request.images}: {found}"
    if found is None:
        pictured = f"{len(images)} images of unit Gaussian noise, {images.shape[1]} pixels wide"
    remarks = (weighed, f"batch: {pictured}", _mode(request, train), f"gradient: {gradient}")
    return Subject(request, net, images, labels, train, cost, remarks)


def _batch(request: Request) -> tuple[np.ndarray, data.ImageFolder | None]:
    if request.images is not None:
        how = {"reference": request.reference, "size": request.size, "seed": request.seed}
        found = lab.pictures(request.images, request.name, limit=request.batch, **how)
        return found.images, found
    how = models.preprocessing(request.name, reference=request.reference)
    side = how.size if request.size is None else request.size
    return data.gaussian(request.batch, (side, side, 3), seed=request.seed)[0], None


def _labels(
    request: Request, found: data.ImageFolder | None, outputs: int
) -> tuple[np.ndarray | None, str]:
    """Return the labels of a loss, if there is to be one, and say what the gradient is of."""
    labels, classes = (None, 0) if found is None else (found.labels, len(found.classes))
    if request.weights is None:
        why = "fresh weights, and theory has it so"
    elif labels is None:
        why = "no class folders"
    elif classes != outputs:
        why = f"{classes} class folders, {outputs} outputs"
    else:
        return labels, "of the mean cross-entropy with the folders' classes"
    return None, f"of a unit Gaussian cotangent at the output ({why})"


def _mode(request: Request, train: bool) -> str:
    why = "as asked for"
    if request.train is None and train:
        why = "running ones normalise nothing at initialization"
    elif request.train is None:
        why = "they belong to the weights"
    return f"norms: {'batch' if train else 'running'} statistics ({why})"


def measured(what: Subject) -> lab.Columns:
    """Return one row for every unit, in forward order.

    Columns are those of ``Profile.table`` and ``Cost.table``; ``position`` of a layer, -1 of what
    is none; ``shown``, whether the tables show it; what theory expects, ``expected_…``, and how far
    the gains are from it, ``…_z``, NaN where it says nothing; and on every row whether weights are
    ``fresh``, the ``threshold`` of z, the ``first`` unit that departs, and the ``cause``.
    """
    profile = _profiled(what)
    rows = profile.table()
    paths = rows["path"].tolist()
    layers = lab.layers(profile)["path"].tolist()
    rows["position"] = np.array([layers.index(p) if p in layers else -1 for p in paths])
    rows["shown"] = np.array([path.count("/") < what.request.depth for path in paths])
    fresh = what.request.weights is None
    rows |= _joined(what.cost.table(), paths, apart="kind")
    rows = lab.beside(rows, **dict.fromkeys((*_expected(), *SCORES), np.nan))
    same: dict[str, Any] = {"fresh": fresh, "threshold": np.nan, "first": "", "cause": ""}
    if fresh:
        prediction = gradflow.predict(what.net, what.images, train=what.train)
        comparison = gradflow.compare(profile, prediction)
        found, scores = prediction.table(), comparison.table()
        theory = {new: found[old] for new, old in _expected().items()} | {"path": found["path"]}
        rows |= _joined(theory, paths)
        rows |= _joined({name: scores[name] for name in ("path", *SCORES)}, paths)
        first = comparison.first
        named = "" if first is None else first or "(the whole)"
        same |= {"threshold": comparison.threshold, "first": named, "cause": comparison.cause}
    return lab.beside(rows, **same)


def _expected() -> dict[str, str]:
    return {f"expected_{name}": name for name in EXPECTED}


def _profiled(what: Subject) -> gradflow.Profile:
    graphdef, params, rest = nnx.split(what.net, nnx.Param, ...)

    def measure(params, rest, images, labels):
        return gradflow.profile(
            nnx.merge(graphdef, params, rest, copy=True),
            images,
            loss=None if labels is None else lab.cross_entropy,
            targets=labels,
            cotangent=jax.random.key(what.request.seed) if labels is None else None,
            train=what.train,
            rngs=nnx.Rngs(what.request.seed),
        )

    labels = None if what.labels is None else jnp.asarray(what.labels)
    given = (params, rest, what.images, labels)
    return lab.compiled(measure, *given)(*given)


def _joined(columns: lab.Columns, paths: Sequence[str], apart: str = "") -> lab.Columns:
    """Return columns in the order of these paths; of a path that is not there, nothing."""
    place = {path: i for i, path in enumerate(columns["path"].tolist())}
    missing = {"f": np.nan, "i": 0, "b": False, "O": "", "U": ""}
    joined = {}
    for name, column in columns.items():
        values = [*column.tolist(), missing[column.dtype.kind]]
        joined[name] = np.array([values[place.get(path, -1)] for path in paths])
    return {n: c for n, c in joined.items() if n != apart} | {"path": np.array(paths)}
