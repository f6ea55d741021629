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
from convjax import _check, data, gradflow, lab, models, nn
from convjax.lab.inspect._own import is_own, own

EXPECTED = tuple(
    f"{of}_{what}"
    for of, size in (("activation", "log_rms"), ("gradient", "log_norm"))
    for what in (size, "scatter", "slack")
)
SCORES = ("activation_z", "gradient_z")
DEPTH = 2
NORMS = {"batch": "the batch's statistics", "running": "running statistics"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for."""

    name: str = ""
    """The network: a name that models.list() knows, or one of your own, as package.module:name or
    path/to/file.py:name, of what it returns or is."""
    input: str | None = None
    """Shape of the batch of a network of your own, as it takes it: 8,32,32,3 or 8,3,32,32."""
    trained: bool = False
    """A network of your own comes with trained weights, of which theory says nothing."""
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
    depth: int | None = None
    """How far down units are shown in the tables, 1 for those of the network itself; without it 2,
    and all units of a network of your own."""
    seed: int = 0
    """Of fresh weights, of noise, and of the choice of images."""

    @property
    def fresh(self) -> bool:
        """Whether weights are as they were initialized."""
        return self.weights is None and not self.trained


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
            f"{', '.join(models.list())}; or one of your own, as path/to/file.py:name."
        )
    if is_own(request.name):
        return _own(request)
    _refuse(request, "input", "trained", why="models.create makes that network")
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
    request = dataclasses.replace(request, depth=request.depth or DEPTH)
    return Subject(request, net, images, labels, train, cost, remarks)


def _own(request: Request) -> Subject:
    """Return a network of the user's, as it is read, and its batch."""
    given = ("weights", "reference", "num_classes", "size", "batch")
    _refuse(request, *given, why=f"{request.name} makes the network, and --input says its batch")
    images, found, pictured = _own_batch(request)
    x = jax.ShapeDtypeStruct(images.shape, images.dtype)
    made = own(request.name, x, train=request.train, seed=request.seed)
    rngs = nnx.Rngs(request.seed)
    net = nn.read(made.net, x, train=made.mode, rngs=rngs)
    leaves = [leaf for _, leaf, _ in nn.walk(net) if isinstance(leaf, nn.Segment)]
    modes = dict.fromkeys(NORMS[leaf.mode] for leaf in leaves if leaf.mode)
    cost = convjax.cost(net, images.shape)
    labels, gradient = _labels(request, found, cost.total.output_shape[-1])
    weights = "trained" if request.trained else "taken as freshly initialized, without --trained"
    remarks = (
        f"{made.words}; weights {weights}",
        f"batch: {pictured}",
        f"called as {net.words}" + (f"; norms on {' and '.join(modes)}" if modes else ""),
        f"gradient: {gradient}",
    )
    return Subject(request, net, images, labels, NORMS["batch"] in modes, cost, remarks)


def _own_batch(request: Request) -> tuple[np.ndarray, data.ImageFolder | None, str]:
    """Return images in the shape that was said, and what they are."""
    words = (request.input or "").replace("x", ",").split(",")
    try:
        shape = _check.integers("input", [int(word) for word in words if word.strip()], least=1)
    except ValueError:
        shape = ()
    if len(shape) < 2:
        given = f"--input {request.input} is no shape" if request.input else "--input is missing"
        raise lab.UsageError(
            f"{given}; give that of the batch which {request.name} takes, such as --input "
            "8,32,32,3 for images (N, H, W, C), or 8,3,32,32 for (N, C, H, W)."
        )
    if request.images is None:
        images = data.gaussian(shape[0], shape[1:], seed=request.seed)[0]
        return images, None, f"unit Gaussian noise of the shape {shape}"
    count, *one = shape
    if len(one) != 3 or sorted(one)[0] != 3 or sorted(one)[1] != sorted(one)[2]:
        raise lab.UsageError(
            f"--input {request.input}: pictures of a folder are square and have 3 channels, such "
            "as 8,32,32,3 or 8,3,32,32."
        )
    side, seed = max(one), request.seed
    found = lab.pictures(request.images, "resnet50", size=side, limit=count, seed=seed)
    images = found.images if one[-1] == 3 else np.moveaxis(found.images, -1, 1)
    return images, found, f"{request.images}: {found}, normalised as for ImageNet"


def _refuse(request: Request, *options: str, why: str) -> None:
    """Refuse options that have no effect."""
    for option in options:
        if getattr(request, option) != getattr(Request(), option):
            name = f"--{option.replace('_', '-')}"
            raise lab.UsageError(f"{name} has no effect: {why}; leave {name} out.")


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
    if request.fresh:
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
    ``fresh``, the ``threshold`` of z, the ``first`` unit that departs, and the ``cause``; what
    theory's ``coverage`` lacks, and what was ``hidden`` from the measurement, in words.
    """
    profile = _profiled(what)
    rows = profile.table()
    paths = rows["path"].tolist()
    layers = lab.layers(profile)["path"].tolist()
    if not layers:  # no leaf that was recognised as one
        held = [path for path, unit in profile.items() if unit.parameters]
        layers = [path for path in paths if path in held]
    rows["position"] = np.array([layers.index(p) if p in layers else -1 for p in paths])
    depth = what.request.depth or np.inf
    rows["shown"] = np.array([path.count("/") < depth for path in paths])
    fresh = what.request.fresh
    rows |= _joined(what.cost.table(), paths, apart="kind")
    rows = lab.beside(rows, **dict.fromkeys((*_expected(), *SCORES), np.nan))
    same: dict[str, Any] = {"threshold": np.nan, "first": "", "cause": "", "coverage": ""}
    if fresh:
        prediction = gradflow.predict(what.net, what.images, train=what.train)
        try:
            comparison = gradflow.compare(profile, prediction, net=what.net)
        except ValueError as error:  # there is no unit of which theory knows anything
            same["coverage"], fresh = str(error), False
    if fresh:
        found, scores = prediction.table(), comparison.table()
        theory = {new: found[old] for new, old in _expected().items()} | {"path": found["path"]}
        rows |= _joined(theory, paths)
        rows |= _joined({name: scores[name] for name in ("path", *SCORES)}, paths)
        first = comparison.first
        named = "" if first is None else first or "(the whole)"
        same |= {"threshold": comparison.threshold, "first": named, "cause": comparison.cause}
        same["coverage"] = comparison.coverage
    opaque = ", ".join(profile.opaque[:3]) + ", …" * (len(profile.opaque) > 3)
    hidden = f"not seen through, measured from outside: {opaque}" if opaque else ""
    return lab.beside(rows, fresh=fresh, hidden=hidden, **same)


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
