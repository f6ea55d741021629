"""Training: losses, recipes, steps, and who watches."""

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from convjax import data, nn, train
from convjax._check import MissingFileError, MissingPackageError, WrongTypeError

NET = nn.Chain({"pool": nn.GlobalPool("avg"), "dense": nn.Dense(1, 3, rngs=nnx.Rngs(0))})
IMAGES = np.zeros((6, 2, 2, 1), np.float32)
LABELS = np.arange(6) % 3
SOURCE = data.resident(IMAGES, LABELS, batch_size=2)
RECIPE = train.Recipe(steps=1, dispatch=1)
FOLDER = Path(tempfile.mkdtemp())
ROW = {"kind": "train", "step": 0, "loss": 1.0}
NAN, INF = float("nan"), float("inf")


def written(content):
    path = FOLDER / f"{abs(hash(content))}.jsonl"
    path.write_bytes(content)
    return path


def recipe(**given):
    return lambda: train.Recipe(**given)


def fit(**given):
    return lambda: train.fit(**{"net": NET, "source": SOURCE, "recipe": RECIPE, **given})


def evaluate(*given, **more):
    return lambda: train.evaluate(NET, *given, **more)


def is_a(kinds, call):
    """Whether the call raises an error that is of all of these types."""

    def raised():
        try:
            call()
        except Exception as error:
            return all(isinstance(error, kind) for kind in kinds)

    return raised


def without(package, call):
    def missing():
        with mock.patch.dict(sys.modules, {package: None}):
            return call()

    return missing


def piped():
    path = FOLDER / "pipe"
    if not path.exists():
        os.mkfifo(path)
    return train.JsonLines(path)


def plainly():
    """NumPy's numbers are stored as Python's."""
    made = train.Recipe(
        steps=np.int64(9),
        seed=np.uint8(3),
        learning_rate=np.float32(0.5),
        clip=np.int32(2),
        schedule="steps",
        boundaries=np.array([3, 5]),
        options={"momentum": np.float64(0.5), "nesterov": np.bool_(True)},
        weight_decay=0,
    )
    kinds = [type(getattr(made, name)) for name in ("steps", "seed", "learning_rate", "clip")]
    return (
        kinds == [int, int, float, float]
        and made.boundaries == (3, 5)
        and type(made.boundaries[0]) is int
        and repr(made.options) == "{'momentum': 0.5, 'nesterov': True}"
        and repr(made.weight_decay) == "0.0"
    )


def recorded():
    """JSON lines take NumPy's numbers and the rows of a run as they are."""
    lines = train.JsonLines(FOLDER / "numpy.jsonl")
    lines.begin(np.int64(0), 2, 1)
    lines.record([{**ROW, "loss": np.float32(0.5)}], train.Pace(1.0, 1.0))
    lines.record([{**ROW, "loss": np.float32(NAN), "step": 1}], train.Pace(1.0, 1.0))
    lines.end()
    first, second = (row["loss"] for row in train.read_rows(lines.path))
    return first == 0.5 and second != second


LOSSES = {
    "a list of labels": (
        lambda: train.cross_entropy(jnp.zeros((2, 3)), [99, 0]),
        r"^labels=\[99, 0\] \(list\)",
    ),
    "a list of logits": (lambda: train.accuracy([[0.0]], LABELS), r"^logits=\[\[0\.0\]\] \(list\)"),
    "logits of one axis": (lambda: train.accuracy(jnp.zeros(3), LABELS), "^logits has the shape"),
    "no example": (
        lambda: train.cross_entropy(jnp.zeros((0, 3)), jnp.zeros(0, int)),
        r"^logits are float32 of the shape \(0, 3\)",
    ),
    "complex logits": (
        lambda: train.cross_entropy(jnp.zeros((1, 3), complex), jnp.zeros(1, int)),
        "^logits are complex64",
    ),
    "probabilities of other classes": (
        lambda: train.accuracy(jnp.zeros((1, 3)), jnp.full((1, 4), 0.25)),
        r"^labels have shape \(1, 4\)",
    ),
    "NumPy's float64 and int64": (
        lambda: train.cross_entropy(np.zeros((6, 3)), LABELS) > 1,
        None,
    ),
    "smoothing": (
        lambda: train.cross_entropy(jnp.zeros((1, 3)), jnp.zeros(1, int), smoothing=NAN),
        "^smoothing=nan must be finite",
    ),
    "test as a source": (evaluate(SOURCE), r"^test=.*Resident\) must be a pair"),
    "test of three": (evaluate((IMAGES, LABELS, 1)), "^test=.*must be a pair"),
    "test of lists": (evaluate(([1], [0])), r"^test\[0\]=\[1\] \(list\)"),
    "test of labels of no axis": (evaluate((IMAGES, np.array(1))), r"labels of the shape \(\)"),
    "test that takes arguments": (evaluate(lambda x: x), "^test=.*a function of no argument"),
    "test that yields no pairs": (evaluate(lambda: [IMAGES]), r"^test\(\)\[0\]=.*must be a pair"),
    "test that returns nothing": (evaluate(lambda: None), r"^test\(\)=None"),
    "batch_size": (evaluate((IMAGES, LABELS), batch_size=0), "^batch_size=0 must be at least 1"),
    "a half batch_size": (evaluate((IMAGES, LABELS), batch_size=1.5), r"^batch_size=1\.5"),
    "net": (lambda: train.evaluate(len, (IMAGES, LABELS)), "^net=.*must be a network"),
    "labels of floats": (evaluate((IMAGES, LABELS / 2)), "must be whole numbers"),
}

RECIPES = {
    "NumPy's": (plainly, None),
    "steps of NaN": (recipe(steps=NAN), r"^steps=nan \(float\) must be an integer"),
    "half steps": (recipe(steps=1.5), r"^steps=1\.5"),
    "steps that are true": (recipe(steps=True), "^steps=True"),
    "more steps than int32": (recipe(steps=2**31), "^steps=2147483648 must be at most"),
    "seed of None": (recipe(seed=None), r"^seed=None \(NoneType\)"),
    "negative seed": (recipe(seed=-1), "^seed=-1 must be at least 0"),
    "a seed that JAX would cut": (recipe(seed=2**32), "^seed=4294967296 must be at most"),
    "learning_rate of NaN": (recipe(learning_rate=NAN), "^learning_rate=nan must be finite"),
    "infinite learning_rate": (recipe(learning_rate=INF), "^learning_rate=inf must be finite"),
    "negative learning_rate": (recipe(learning_rate=-0.1), r"^learning_rate=-0\.1 must be at"),
    "learning_rate in words": (recipe(learning_rate="0.1"), r"^learning_rate='0\.1' \(str\)"),
    "factor of NaN": (recipe(factor=NAN), "^factor=nan"),
    "negative factor": (recipe(factor=-1), "^factor=-1 must be at least 0"),
    "warmup_from of NaN": (recipe(warmup_from=NAN), "^warmup_from=nan"),
    "weight_decay of NaN": (recipe(weight_decay=NAN), "^weight_decay=nan"),
    "clip of NaN": (recipe(clip=NAN), "^clip=nan must be finite"),
    "label_smoothing of NaN": (recipe(label_smoothing=NAN), "^label_smoothing=nan"),
    "average of NaN": (recipe(average=NAN), "^average=nan"),
    "half watch": (recipe(watch=0.5), r"^watch=0\.5"),
    "half accumulate": (recipe(accumulate=2.0), r"^accumulate=2\.0"),
    "optimiser itself": (recipe(optimiser=optax.sgd), r"^optimiser=.*\(function\) must be one of"),
    "precision itself": (recipe(precision=jnp.bfloat16), "^precision=.*must be one of"),
    "half boundaries": (recipe(boundaries=(1.5,)), r"^boundaries\[0\]=1\.5"),
    "negative boundaries": (recipe(boundaries=(-1,)), r"^boundaries\[0\]=-1"),
    "boundaries of one": (recipe(boundaries=3), r"^boundaries=3 \(int\)"),
    "options that are none": (recipe(options=0.9), r"^options=0\.9 \(float\)"),
    "an unknown option": (recipe(options={"momentun": 0.9}), "sgd does not take 'momentun'"),
    "a second rate": (recipe(options={"learning_rate": 1}), "sgd does not take 'learning_rate'"),
    "momentum of NaN": (recipe(options={"momentum": NAN}), r"^options\['momentum'\]=nan"),
    "momentum in words": (recipe(options={"momentum": "0.9"}), r"^options\['momentum'\]='0\.9'"),
    "nesterov of 1": (recipe(options={"nesterov": 1}), r"^options\['nesterov'\]=1"),
    "options of another optimiser": (
        lambda: train.Recipe(optimiser="adam").options == {},
        None,
    ),
    "warmup": (recipe(steps=3, warmup=3), "^warmup=3 must be less than steps=3"),
    "schedule_of": (lambda: train.schedule_of({"steps": 3}), "^recipe=.*must be a train.Recipe"),
    "optimiser_of": (lambda: train.optimiser_of(NET, None), "^recipe=None"),
    "optimiser_of no network": (lambda: train.optimiser_of(None, RECIPE), "^net=None"),
    "decayed": (lambda: train.decayed({}), r"^net=\{\} \(dict\)"),
}

STEPS = {
    "start": (lambda: train.start(NET, "sgd"), r"^recipe='sgd' \(str\)"),
    "start by a class": (lambda: train.start(nn.Chain, RECIPE), "^net=<class"),
    "start with a name": (lambda: train.start(NET, RECIPE, optimiser="sgd"), "^optimiser='sgd'"),
    "start with a function": (
        lambda: train.start(NET, RECIPE, optimiser=optax.sgd),
        "^optimiser=.*must be an optax transformation",
    ),
    "make_step": (lambda: train.make_step(NET, 3), "^recipe=3"),
    "make_step of an axis": (lambda: train.make_step(NET, RECIPE, axis_name=0), "^axis_name=0"),
    "make_dispatch": (lambda: train.make_dispatch(NET, IMAGES, RECIPE), "^source=.*ndarray"),
    "a class of sources": (
        lambda: train.make_dispatch(NET, data.Resident, RECIPE),
        "^source=<class",
    ),
    "make_dispatch on devices": (
        lambda: train.make_dispatch(NET, SOURCE, RECIPE, mesh=jax.devices()),
        "^mesh=.*must be a jax.sharding.Mesh",
    ),
    "a mesh of other axes": (
        lambda: train.make_dispatch(
            NET, SOURCE, RECIPE, mesh=Mesh(np.array(jax.devices()[:1]), ("x",))
        ),
        "^mesh has the axes",
    ),
    "fit": (fit(net=3), "^net=3"),
    "fit of what cannot be called": (
        fit(net=nnx.Dict(a=nnx.Param(IMAGES))),
        "^net=.* must be a net",
    ),
    "fit by a call of no kind": (fit(call=3), r"^call=3 \(int\)"),
    "evaluated by a call of no kind": (evaluate((IMAGES, LABELS), call=3), r"^call=3 \(int\)"),
    "fit on arrays": (fit(source=(IMAGES, LABELS)), "^source="),
    "fit by a dictionary": (fit(recipe={}), "^recipe={}"),
    "optimiser": (fit(optimiser="adam"), "^optimiser='adam'"),
    "a class of observers": (fit(observers=[train.ProgressBar]), r"^observers\[0\]=<class"),
    "observers that are none": (fit(observers=[print]), r"^observers\[0\]=.*must be an observer"),
    "devices by name": (fit(devices="cpu"), "^devices='cpu'"),
    "half a device": (fit(devices=1.5), r"^devices=1\.5"),
    "devices that are true": (fit(devices=True), "^devices=True"),
    "devices of numbers": (fit(devices=[0]), r"^devices\[0\]=0"),
    "no device": (fit(devices=0), "^devices=0 must lie between"),
    "folder": (fit(folder=3), "^folder=3"),
    "test": (fit(test=IMAGES), "^test=.*must be a pair"),
    "a test of other labels": (fit(test=(IMAGES, LABELS - 1)), r"^test labels\[0\]=-1 is no class"),
    "a test of other images": (fit(test=(np.zeros((6, 2, 2, 5)), LABELS)), "5"),
    "by_path": (lambda: train.by_path([]), r"^found=\[\] \(list\)"),
    "by_path of arrays": (lambda: train.by_path({"signal": IMAGES}), r"^found\['signal'\]="),
    "by_path of repeats": (
        lambda: train.by_path({"signal": {"a/*": np.zeros(())}}),
        r"^found\['signal'\]\['a/\*'\] has the shape",
    ),
    "by_path of nothing": (lambda: train.by_path({}) == {}, None),
    "distributed": (lambda: train.distributed(1234, processes=2, process=0), "^address=1234"),
    "a port": (
        lambda: train.distributed("localhost:99999", processes=2, process=0),
        "^address='localhost:99999'",
    ),
    "half processes": (
        lambda: train.distributed("localhost:1", processes=1.5, process=0),
        r"^processes=1\.5",
    ),
    "timeout": (lambda: train.distributed(timeout="300"), "^timeout='300'"),
    "heartbeat": (lambda: train.distributed(heartbeat=0), "^heartbeat=0 must be at least 1"),
}

ROWS = {
    "step_columns": (lambda: train.step_columns(ROW), "^rows=.*must be rows"),
    "step_columns of numbers": (lambda: train.step_columns([1]), r"^rows\[0\]=1"),
    "step_columns of a kind": (lambda: train.step_columns([ROW], "tran"), "^kind='tran'"),
    "layer_columns": (lambda: train.layer_columns(3), "^rows=3"),
    "layer_columns without steps": (
        lambda: train.layer_columns([{"kind": "train"}]),
        r"^rows\[0\]=.* lacks 'step'",
    ),
    "ProgressBar": (lambda: train.ProgressBar(3), "^name=3"),
    "begin": (lambda: train.ProgressBar().begin(0, 1.5, 1), r"^stop=1\.5"),
    "record": (lambda: train.ProgressBar().record([1], train.Pace(1, 1)), r"^rows\[0\]=1"),
    "pace": (lambda: train.ProgressBar().record([ROW], 3), "^pace=3"),
    "TensorBoard": (lambda: train.TensorBoard(3), "^folder=3"),
    "TensorBoard in a file": (lambda: train.TensorBoard(written(b"")), "^folder=.*is a file"),
    "TensorBoard below a file": (
        lambda: train.TensorBoard(written(b"") / "a" / "b"),
        "^folder=.*lies below .*which is no folder",
    ),
    "TensorBoard not begun": (
        lambda: train.TensorBoard(FOLDER).record([ROW], train.Pace(1, 1)),
        "call begin before record",
    ),
    "JsonLines": (lambda: train.JsonLines(3), "^path=3"),
    "JsonLines in a folder": (lambda: train.JsonLines(FOLDER), "^path=.*is no regular file"),
    "JsonLines below a file": (
        lambda: train.JsonLines(written(b"") / "a" / "b"),
        "^path=.*lies below .*which is no folder",
    ),
    "JsonLines in a pipe": (piped, "^path=.*is no regular file"),
    "JsonLines not begun": (
        lambda: train.JsonLines(FOLDER / "x").record([ROW], train.Pace(1, 1)),
        "call begin before record",
    ),
    "JsonLines of NumPy's": (recorded, None),
    "read_rows": (lambda: train.read_rows(None), "^path=None"),
    "read_rows of a folder": (lambda: train.read_rows(FOLDER), "^path=.*is a folder"),
    "a damaged row": (
        lambda: train.read_rows(written(b'{"kind": "train", "step": 0}\n{"kind": "tr\n')),
        "line 2, is not a row",
    ),
    "a missing file": (
        is_a((MissingFileError, FileNotFoundError, ValueError), lambda: train.read_rows("none")),
        None,
    ),
    "a missing package": (
        is_a(
            (MissingPackageError, ImportError, ValueError),
            without("tensorboardX.proto.event_pb2", lambda: train.TensorBoard(FOLDER)),
        ),
        None,
    ),
    "a wrong type": (is_a((WrongTypeError, TypeError, ValueError), recipe(steps="9")), None),
}

LOSSES_AND_STEPS = {**LOSSES, **RECIPES, **STEPS, **ROWS}
assert len(LOSSES_AND_STEPS) == sum(map(len, (LOSSES, RECIPES, STEPS, ROWS)))
