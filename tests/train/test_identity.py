"""What tells one run from another: all that determines the result, and nothing that does not."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from convjax import data, models, nn, train
from convjax.train._described import described
from convjax.train._identity import identity
from tests.train.conftest import small

DRAW = np.random.default_rng(5)
IMAGES = DRAW.normal(size=(12, 5, 4, 2)).astype(np.float32)
LABELS = DRAW.integers(0, 3, 12)
RECIPE = train.Recipe(steps=4)
RATE = 0.25


def resident(images=IMAGES, labels=LABELS, **options):
    return data.resident(images, labels, batch_size=4, **options)


def spoiled(array):
    """The array with its last entry changed."""
    return np.concatenate([array.ravel()[:-1], 1 + array.ravel()[-1:] // 2]).reshape(array.shape)


def run(net=None, source=None, recipe=RECIPE, **options):
    return (net or small(), source or resident(), recipe), options


def scheduled(rate):
    return optax.sgd(lambda step: rate * 0.5**step)


def labelled(up_to):
    kinds = {"trainable": optax.sgd(0.1), "frozen": optax.set_to_zero()}
    return optax.multi_transform(kinds, models.freeze(small(), up_to).labels)


def frozen(*paths, **options):
    return models.freeze(small(), paths=paths, **options)


def epsilon():
    net = small()
    net.body.unit.branch.norm.epsilon = 1e-3
    return net


MOMENTS = {"mean": (0.1, 0.2), "std": (1.0, 2.0)}
PAIRS = {
    "images": lambda: (
        run(),
        run(source=resident(spoiled(IMAGES))),
        r"'data/images' is .float32\[12, 5",
    ),
    "labels": lambda: (run(), run(source=resident(labels=(LABELS + 1) % 3)), "data/labels"),
    "mean": lambda: (
        run(source=resident(**MOMENTS)),
        run(source=resident(**{**MOMENTS, "mean": (0.1, 0.3)})),
        "data/mean",
    ),
    "std": lambda: (
        run(source=resident(**MOMENTS)),
        run(source=resident(**{**MOMENTS, "std": (1.0, 3.0)})),
        "data/scale",
    ),
    "no mean": lambda: (
        run(source=resident(**MOMENTS)),
        run(),
        "'data/mean' is .* there and absent here",
    ),
    "order": lambda: (run(), run(source=resident(seed=1)), "'data/seed' is 0 there and 1 here"),
    "classes": lambda: (
        run(),
        run(source=resident(classes=5)),
        "'data/classes' is 3 there and 5 here",
    ),
    "recipe": lambda: (
        run(),
        run(recipe=train.Recipe(steps=5)),
        "'recipe/steps' is 4 there and 5 here",
    ),
    "rate": lambda: (
        run(optimiser=optax.sgd(0.05)),
        run(optimiser=optax.sgd(5.0)),
        "optimiser/.*step_size' is -0.05 there and -5.0 here",
    ),
    "rate by name": lambda: (
        run(optimiser=optax.sgd(0.05), optimiser_name="slow"),
        run(optimiser=optax.sgd(0.05), optimiser_name="fast"),
        '\'optimiser\' is "slow" there and "fast" here',
    ),
    "another optimiser": lambda: (
        run(optimiser=optax.adam(0.1)),
        run(optimiser=optax.sgd(0.1)),
        "opt",
    ),
    "another state": lambda: (
        run(optimiser=optax.adam(0.1), optimiser_name="mine"),
        run(optimiser=optax.sgd(0.1), optimiser_name="mine"),
        "it has a leaf .optimiser",
    ),
    "an optimiser for the recipe's": lambda: (
        run(),
        run(optimiser=optax.sgd(0.1)),
        "is null there",
    ),
    "what a schedule closes over": lambda: (
        run(optimiser=scheduled(0.1)),
        run(optimiser=scheduled(0.2)),
        "rate' is 0.1 there and 0.2 here",
    ),
    "a schedule's code": lambda: (
        run(optimiser=optax.sgd(lambda step: 0.1 / (1 + step))),
        run(optimiser=optax.sgd(lambda step: 0.2 / (1 + step))),
        "its code",
    ),
    "labels of a split": lambda: (
        run(optimiser=labelled("stem")),
        run(optimiser=labelled("body")),
        '\'optimiser/.*\' is "trainable" there and "frozen" here',
    ),
    "frozen": lambda: (
        run(frozen=frozen("stem")),
        run(frozen=frozen("stem", "body")),
        "frozen/parameters",
    ),
    "nothing frozen": lambda: (
        run(frozen=frozen("stem")),
        run(),
        "'frozen' is .* there and null here",
    ),
    "moving statistics": lambda: (
        run(frozen=frozen("body")),
        run(frozen=frozen("body", statistics="moving")),
        "frozen/statistics",
    ),
    "epsilon": lambda: (
        run(),
        run(epsilon()),
        "network/body/.*epsilon' is 1e-05 there and 0.001 here",
    ),
    "dropout": lambda: (run(small(dropout=0.1)), run(small(dropout=0.2)), "network/dropout/rate"),
    "norm": lambda: (run(), run(small("group")), "network"),
    "initial values": lambda: (run(), run(small(seed=1)), "initial values/.* is .float32"),
}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finish(folder, arguments, options):
    """Put the checkpoint of a finished run into a folder, as it was begun."""
    net, source, recipe = arguments
    chosen = {"optimiser": None, "optimiser_name": None, "frozen": None, **options}
    about = identity(net, source, recipe, None, **chosen)
    del chosen["optimiser_name"]
    with train.Checkpoints(folder / "checkpoints", about=about) as checkpoints:
        checkpoints.save(recipe.steps, train.start(net, recipe, **chosen))


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_that_differs_is_refused_and_its_folder_left_alone(name, tmp_path):
    one, other, why = PAIRS[name]()
    finish(tmp_path, *one)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"step 4 in .* is another run's: .*{why}"):
        train.fit(*other[0], folder=tmp_path, **other[1])
    after = contents(tmp_path)
    assert (tmp_path / "lock") in after.keys() - before.keys()
    assert {path: after[path] for path in before} == before and len(after) == len(before) + 1
    assert train.fit(*one[0], folder=tmp_path, **one[1]).rows == ()


def test_the_same_in_other_objects_is_the_same_run(tmp_path):
    def whole():
        arguments = (
            small(dropout=0.5),
            resident(np.array(IMAGES), **MOMENTS),
            dataclasses.replace(RECIPE, options={"momentum": 0.9}),
        )
        options = {"optimiser": optax.chain(scheduled(0.1), optax.clip(1.0))}
        return arguments, {**options, "frozen": frozen("stem")}

    finish(tmp_path, *whole())
    arguments, options = whole()
    assert train.fit(*arguments, folder=tmp_path, **options).rows == ()


@pytest.mark.parametrize("depth", [0, 20])
def test_a_schedule_is_the_same_after_it_was_used(depth, tmp_path):
    """optax makes a float of the integer that its cosine closes over, at the first call."""
    schedule = optax.cosine_decay_schedule(0.1, 4)
    optimiser = optax.sgd(schedule)
    for _ in range(depth):
        optimiser = optax.masked(optimiser, True)
    finish(tmp_path, *run(optimiser=optimiser))
    before = described(schedule)
    schedule(jnp.array(1))
    assert json.dumps(described(schedule)) != json.dumps(before)
    (net, source, recipe), _ = run()
    assert train.fit(net, source, recipe, folder=tmp_path, optimiser=optimiser).rows == ()


def test_a_run_that_an_earlier_version_wrote_is_refused(tmp_path):
    (net, source, recipe), _ = run()
    about = {"recipe": dataclasses.asdict(recipe), "examples": 12, "batch_size": 4, "data": {}}
    with train.Checkpoints(tmp_path / "checkpoints", about=about) as checkpoints:
        checkpoints.save(4, train.start(net, recipe))
    with pytest.raises(ValueError, match=r"absent there .*earlier version of convjax may not have"):
        train.fit(net, source, recipe, folder=tmp_path)


def devices(net, mesh, **options):
    chosen = {"optimiser": None, "optimiser_name": None, "frozen": None}
    return identity(net, resident(), train.Recipe(**options), mesh, **chosen)["devices"]


class Own(nn.Node):
    """A leaf that convjax does not know."""

    def __call__(self, x, train=False, rngs=None):
        return x


def test_devices_count_where_the_result_depends_on_them():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    assert devices(small(), None) == devices(small(), mesh) == "any"
    assert devices(small(dropout=0.1), None) == "one" != devices(small(dropout=0.1), mesh)
    assert devices(nn.Chain({"none": nn.Dropout(0.0)}), mesh) == "any"
    assert devices(nn.Chain({"own": Own()}), mesh) == 1


def nested(depth):
    found = optax.sgd(0.1)
    for _ in range(depth):
        found = optax.with_extra_args_support(optax.chain(optax.masked(found, lambda p: p)))
    return found


def counted(step, table={1: 0.5}, *, power=2):  # noqa: B006 (a default to be told by)
    return RATE * table[1] ** power + jnp.sin(step)


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


DIFFERENT = {
    "numbers": (0.1, 0.2),
    "a number and its text": (1, "1"),
    "NumPy's numbers": (np.float32(1.5), np.float32(2.5)),
    "arrays": (np.arange(3), np.arange(3) + 1),
    "dtypes": (np.zeros(4, np.int8), np.zeros(1, np.int32)),
    "shapes": (np.zeros((2, 3)), np.zeros((3, 2))),
    "arrays of objects": (np.array([1, "a"], object), np.array([1, "b"], object)),
    "half numbers": (jnp.ones(3, jnp.bfloat16), jnp.zeros(3, jnp.bfloat16)),
    "keys": (jax.random.key(0), jax.random.key(1)),
    "partial": (functools.partial(counted, power=2), functools.partial(counted, power=3)),
    "methods": (Slotted(1).__class__.__init__, Slotted(1).__repr__),
    "slots": (Slotted(0.1), Slotted(0.2)),
    "library functions": (jnp.sin, jnp.cos),
    "variables": (nnx.Param(jnp.zeros(2)), nnx.Param(jnp.ones(2))),
    "under jit": (jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)),
    "sets": ({"a", "b"}, {"a", "c"}),
    "inner functions of a library": (
        optax.MultiSteps(optax.sgd(0.1), 2, use_grad_mean=True),
        optax.MultiSteps(optax.sgd(0.1), 2, use_grad_mean=False),
    ),
    "deep inside": (nested(9), nested(10)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_different_is_described_differently(name):
    one, other = (json.dumps(described(value)) for value in DIFFERENT[name])
    assert one != other and one == json.dumps(described(DIFFERENT[name][0]))


def test_a_function_is_told_by_defaults_globals_and_code(monkeypatch):
    before = described(counted)
    assert before["global RATE"] == 0.25 and before["its keywords"] == {"power": 2}
    monkeypatch.setitem(globals(), "RATE", 0.5)
    assert described(counted) == {**before, "global RATE": 0.5}


def test_a_description_stays_small_and_cycles_end():
    assert len(json.dumps(described(nested(20)))) < 100_000
    ring = {"a": 1}
    ring["self"] = ring
    assert described(ring) == {"a": 1, "self": "1 above"}
    far = ()
    for _ in range(100_000):
        far = (far,)
    with pytest.raises(ValueError, match="too deep to be described"):
        described(far)
