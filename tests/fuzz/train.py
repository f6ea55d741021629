"""Malformed calls of ``convjax.train``; what trains is refused before a step is taken."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import data, nn, train
from tests.fuzz.kinds import (
    FOLDER,
    Fresh,
    Kind,
    but,
    choice,
    file,
    flag,
    integer,
    integers,
    net,
    number,
    optional,
    place,
    text,
    wrong,
)
from tests.fuzz.room import call


class Small(nn.Node):
    """A network of one layer."""

    def __init__(self):
        self.dense = nn.Dense(3, 3, kernel_init="he", rngs=nnx.Rngs(0))

    def __call__(self, x, train=False, rngs=None):
        """Apply it."""
        return self.dense(x.reshape(x.shape[0], -1))


IMAGES, LABELS = np.zeros((6, 1, 1, 3), np.float32), np.arange(6, dtype=np.int32) % 3
SOURCE = data.resident(IMAGES, LABELS, batch_size=2)
RECIPE = train.Recipe(steps=2)
some = net(Fresh(Small))
source = Kind(SOURCE, wrong(seven=7, itself=data.Resident, pair=(IMAGES, LABELS)))
recipe = Kind(RECIPE, wrong(seven=7, itself=train.Recipe))
optimiser = Kind(None, wrong("None", seven=7, name="sgd", itself=optax.sgd))
frozen = Kind(None, wrong("None", seven=7, name="stage1"))
units = Kind(
    ("dense",),
    wrong(seven=7, word="dense", sevens=[7], other=["conv"], none=()),
    {"list": ["dense"]},
)
logits = Kind(
    jnp.ones((2, 3)),
    wrong("matrix", seven=7, numbers=[[1.0] * 3] * 2, vector=jnp.ones(3), long=jnp.ones((3, 3))),
    {"NumPy's": np.ones((2, 3), np.float32), "doubles": np.ones((2, 3))},
)
labels = Kind(
    np.array([0, 2], np.int32),
    wrong(
        "matrix",
        seven=7,
        numbers=[0, 2],
        long=np.array([0, 1, 2]),
        out=np.array([0, 3]),
        minus=np.array([-1, 0]),
        words=np.array(["a", "b"]),
        floats=np.array([0.0, 1.0]),
    ),
    {"int64": np.array([0, 2]), "uint8": np.array([0, 2], np.uint8), "JAX's": jnp.array([0, 2])},
)
test = Kind(
    (IMAGES, LABELS),
    wrong(
        "lambda",
        "class",
        seven=7,
        images=IMAGES,
        three=(IMAGES,) * 3,
        short=(IMAGES, LABELS[:2]),
        out=(IMAGES, LABELS + 1),
        none=(IMAGES[:0], LABELS[:0]),
        nothing=(None, None),
    ),
)
rows = Kind(
    [{"kind": "train", "step": 0, "loss": 2.5, "layers": {"stem": {"gradient": 0.5}}}],
    wrong("list", seven=7, numbers=[7], nothing=[None], words=["ab"]),
)
found = Kind(
    {"signal": {"a": np.array(0.5)}},
    wrong("dict", seven=7, numbers={"a": 7}, words={"signal": {"a": "b"}}, nothing={"a": None}),
)
places = but(place(str(FOLDER / "run")), "list")
(FOLDER / "rows.jsonl").write_text('{"kind": "train", "step": 0}\n')


def evaluate(net, test, batch_size):
    return train.evaluate(net, test, batch_size=batch_size)


def reciped(function):
    return lambda **options: type(function(**options)).__name__


def distributed(**options):
    return train.distributed(**{"address": "localhost:1", "processes": 1, "process": 0} | options)


CALLS = {
    "train.Recipe": call(
        train.Recipe,
        steps=integer(4, least=1),
        seed=integer(0, least=0),
        optimiser=choice("sgd"),
        options=Kind(
            {}, wrong("None", "dict", "list", seven=7, unknown={"momentun": 0.9}, sevens={7: 7})
        ),
        learning_rate=number(0.5, least=0.0),
        schedule=choice("cosine"),
        boundaries=integers((), single=False, length=False),
        factor=number(0.5, least=0.0),
        warmup=integer(1, least=0),
        warmup_from=number(0.0, least=0.0),
        weight_decay=number(0.5, least=0.0),
        decayed=choice("kernels"),
        clip=optional(number(0.5, above=0.0)),
        label_smoothing=number(0.5, least=0.0, below=1.0),
        accumulate=integer(1, least=1),
        average=number(0.5, least=0.0, below=1.0),
        precision=choice("float32"),
        remat=choice("none"),
        batch_norm=choice("synchronised"),
        watch=integer(1, least=0),
        dispatch=integer(1, least=1),
        test_every=integer(1, least=0),
        checkpoint_every=integer(1, least=0),
    ),
    "train.Checkpoints": call(
        reciped(train.Checkpoints),
        folder=places,
        keep=integer(2, least=1),
        about=optional(Kind(None, wrong("None", "dict", "list", "nested list", seven=7))),
    ),
    "train.JsonLines": call(reciped(train.JsonLines), path=file(FOLDER / "log", missing=False)),
    "train.TensorBoard": call(reciped(train.TensorBoard), folder=places),
    "train.ProgressBar": call(reciped(train.ProgressBar), name=text("run")),
    "train.accuracy": call(train.accuracy, logits=logits, labels=labels),
    "train.cross_entropy": call(
        train.cross_entropy,
        logits=logits._replace(nan={"NaN array": jnp.full((2, 3), jnp.nan)}),
        labels=labels,
        smoothing=number(0.25, least=0.0, below=1.0),
    ),
    "train.by_path": call(train.by_path, found=found),
    "train.decayed": call(train.decayed, net=some),
    "train.distributed": call(
        distributed,
        address=Kind("localhost:1", wrong("None", "text", seven=7)),
        processes=but(integer(1, least=1), "None")._replace(same={}),
        process=but(integer(0, least=0), "None")._replace(same={}),
        timeout=integer(1, least=1)._replace(same={}),
        heartbeat=integer(1, least=1)._replace(same={}),
    ),
    "train.evaluate": call(
        evaluate,
        {"test": ("test labels", "test images", "labels")},
        net=some,
        test=test,
        batch_size=integer(6, least=1),
    ),
    "train.fit": call(
        reciped(train.fit),
        {"test": ("test labels", "test images", "labels")},
        net=some,
        source=source,
        recipe=recipe,
        folder=optional(places._replace(valid=None)),
        test=optional(test._replace(valid=None)),
        observers=Kind((), wrong("list", seven=7, sevens=[7], nothing=[None], name="bar")),
        devices=Kind(None, wrong("None", "list", seven=10**6, minus=-1, zero=0, words=["cpu"])),
        optimiser=optimiser,
        optimiser_name=optional(text(None)),
        frozen=frozen,
    ),
    "train.layer_columns": call(train.layer_columns, {"rows": ("row",)}, rows=rows),
    "train.step_columns": call(
        train.step_columns, {"rows": ("row",)}, rows=rows, kind=text("train")
    ),
    "train.make_dispatch": call(
        reciped(train.make_dispatch),
        net=some,
        source=source,
        recipe=recipe,
        optimiser=optimiser,
        frozen=frozen,
        mesh=Kind(None, wrong("None", seven=7)),
    ),
    "train.make_step": call(
        reciped(train.make_step),
        net=some,
        recipe=recipe,
        optimiser=optimiser,
        frozen=frozen,
        axis_name=optional(text(None)),
    ),
    "train.optimiser_of": call(reciped(train.optimiser_of), net=some, recipe=recipe, frozen=frozen),
    "train.layerwise": call(
        lambda *given, **options: train.layerwise(*given, **options).init({}),
        net=some,
        decay=number(0.5, above=0.0),
        units=optional(units),
    ),
    "train.unfreezing": call(
        lambda *given, **options: train.unfreezing(*given, **options).init({}).count,
        optimiser=Kind(optax.sgd(0.1), wrong(seven=7, name="sgd", itself=optax.sgd)),
        net=some,
        every=integer(2, least=1),
        together=flag(False),
        units=optional(units),
    ),
    "train.schedule_of": call(reciped(train.schedule_of), recipe=recipe),
    "train.start": call(
        reciped(train.start), net=some, recipe=recipe, optimiser=optimiser, frozen=frozen
    ),
    "train.read_rows": call(train.read_rows, path=file(FOLDER / "rows.jsonl")),
}
EXEMPT = {
    "train.Diverged": "an exception, which training raises",
    "train.Observer": "a protocol, which is not constructed",
    "train.Source": "a protocol, which is not constructed",
}
ACCEPTED: dict[str, str] = {}
