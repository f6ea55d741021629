"""Training, given what it cannot take."""

import tempfile
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import data, models, nn, train
from tests.refusals._train_steps import LOSSES_AND_STEPS

NET = nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(1, 3, rngs=nnx.Rngs(0)))
SOURCE = data.resident(np.zeros((4, 2, 2, 1), np.float32), np.array([0, 1, 2, 0]), batch_size=2)
RECIPE = train.Recipe(steps=1, dispatch=1)
SPLIT = models.freeze(NET, "pool")
FOLDER = tempfile.mkdtemp()


def fit(net=NET, source=SOURCE, recipe=RECIPE, **options):
    return lambda: train.fit(net, source, recipe, **options)


def checkpoints(folder=FOLDER, **options):
    return lambda: train.Checkpoints(folder, **options)


def saved(step, state):
    def save():
        with train.Checkpoints(FOLDER) as found:
            found.save(step, state)
        return found.steps

    return save


def restored(like):
    def restore():
        with train.Checkpoints(FOLDER) as found:
            return found.restore(like)

    return restore


LACKING = SimpleNamespace(count=4, batch_size=2, arrays={}, inputs=None)

# Runs: what they are given, their folders, and what is frozen.
RUNS = {
    "NumPy's steps": (saved(np.int64(3), {"w": jnp.zeros(2)}), None),
    "NumPy's keep": (checkpoints(keep=np.int8(3)), None),
    "a folder with NUL": (checkpoints(folder="a\0b"), "^folder='a.*must be a path"),
    "a run's folder with NUL": (fit(folder="a\0b"), "^folder='a.*must be a path"),
    "no network": (fit(net=None), r"^net=None \(NoneType\) must be a network"),
    "a class for a network": (fit(net=nn.Chain), "^net=.* must be a network"),
    "an array for a source": (fit(source=np.zeros(3)), "^source=.* must be a source of batches"),
    "a source without batch": (fit(source=LACKING), "^source=.* must be a source"),
    "an object in a recipe": (
        lambda: train.Recipe(steps=1, optimiser=optax.adam(1e-3)),
        "^optimiser=.*takes an optax object",
    ),
    "a schedule in a recipe": (
        lambda: train.Recipe(steps=1, learning_rate=optax.linear_schedule(0.1, 0, 9)),
        r"^learning_rate=.*a number; .* an optax optimiser with a schedule",
    ),
    "a dictionary for a recipe": (fit(recipe={"steps": 1}), "^recipe=.* must be a train.Recipe"),
    "one observer": (fit(observers=train.ProgressBar()), "^observers=.* must be a sequence"),
    "no observer": (fit(observers=[print]), r"^observers\[0\]=.* must be an observer"),
    "a class for an observer": (fit(observers=[train.ProgressBar]), r"^observers\[0\]="),
    "a name for an optimiser": (fit(optimiser="sgd"), "^optimiser='sgd' .* optax transformation"),
    "an optimiser's function": (fit(optimiser=optax.sgd), "^optimiser=.* optax transformation"),
    "an optimiser's name": (
        fit(optimiser=optax.sgd(0.1), optimiser_name=3),
        r"^optimiser_name=3 \(int\) must be a string",
    ),
    "a name of no optimiser": (fit(optimiser_name="a"), "^optimiser_name='a' is given without"),
    "a path for a split": (fit(frozen="pool"), "^frozen='pool' .* must be what models.freeze ret"),
    "labels for a split": (fit(frozen=SPLIT.labels), "^frozen=.* must be what models.freeze ret"),
    "a number for a folder": (fit(folder=3), r"^folder=3 \(int\) must be a path"),
    "a number to freeze up to": (
        lambda: models.freeze(NET, 3),
        r"^up_to=3 \(int\) must be the path",
    ),
    "numbers to freeze": (lambda: models.freeze(NET, paths=[3]), r"^paths\[0\]=3 \(int\) must be"),
    "nothing to freeze": (lambda: models.freeze(None), r"^net=None \(NoneType\) must be a network"),
    "no word for statistics": (
        lambda: models.freeze(NET, statistics=True),
        r"^statistics=True \(bool\) must be one of 'frozen', 'moving'",
    ),
    "start's split": (
        lambda: train.start(NET, RECIPE, frozen=True),
        r"^frozen=True \(bool\) must be what models.freeze returns",
    ),
    "checkpoints' folder": (checkpoints(None), r"^folder=None \(NoneType\) must be a path"),
    "checkpoints' keep": (checkpoints(keep=1.5), r"^keep=1\.5 \(float\) must be an integer"),
    "checkpoints' keep, none": (checkpoints(keep=0), "^keep=0 must be at least 1"),
    "checkpoints' about": (checkpoints(about=[1]), r"^about=\[1\] \(list\) must be a mapping"),
    "a fraction of a step": (saved(1.0, {}), r"^step=1\.0 \(float\) must be an integer"),
    "a step before the first": (saved(-1, {}), "^step=-1 must be at least 0"),
    "a state of NumPy's": (saved(1, {"w": np.zeros(2)}), r"^state\['w'\]=.* must be a JAX array"),
    "a state of numbers": (saved(1, {"w": 2.0}), r"^state\['w'\]=2\.0 \(float\) must be"),
    "like numbers": (restored({"w": 2.0}), r"^like\['w'\]=2\.0 \(float\) must be an array"),
}

CASES = {**RUNS, **LOSSES_AND_STEPS}

assert len(CASES) == len(RUNS) + len(LOSSES_AND_STEPS)
