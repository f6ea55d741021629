"""features and freeze of networks of other frameworks, by the labels that nn.read shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from convjax import models, nn, train
from tests.foreign import linen_networks, nnx_networks
from tests.foreign.arrays import normal
from tests.train.conftest import Indexed

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def default_promotion():
    """Networks of others promote types and ranks as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_features_of_nnx_are_the_modules_outputs(mode):
    """Their outputs are caught by swapped classes."""
    net, options = nnx_networks.made("bottleneck", True)
    before = jax.tree.map(np.array, nnx.state(net))
    x = normal(nnx_networks.NETWORKS["bottleneck"].shape)
    paths = ["stem", "layer1/layers/0/conv2", "layer1/layers/0/shortcut/layers/1", "head"]
    found = jax.jit(lambda x: models.features(net, x, [*paths, "layer2/*/1/add"], train=mode))(x)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, nnx.state(net)))

    @jax.jit
    def by_hand(x):
        tape = nnx_networks._Tape(None)
        copy = nnx.clone(net)
        (copy.train if mode else copy.eval)()
        nnx_networks._watched(copy, tape)
        copy(x, **options)
        return tape.outputs

    expected = by_hand(x)
    assert set(found) == {*paths, "layer2/layers/1/add"}
    for path in paths:
        np.testing.assert_allclose(found[path], expected[path], 1e-5, 1e-5, err_msg=path)
    last = jax.nn.relu(found["layer2/layers/1/add"])
    np.testing.assert_allclose(last, expected["layer2/layers/1"], 1e-5, 1e-5)


def test_features_of_linen_are_the_modules_outputs():
    module, variables, _ = linen_networks.made("small", False)
    x = normal(linen_networks.SHAPE)

    def apply(v, x, deterministic):
        return module.apply(v, x, deterministic=deterministic)

    outputs = {}

    def watch(run, args, kwargs, context):
        y = run(*args, **kwargs)
        outputs["/".join(context.module.path)] = y
        return y

    with linen.intercept_methods(watch):
        module.apply(variables, x)
    found = models.features(nn.Function(apply, variables), x, "*")
    same = [label for label in found if label in outputs]
    assert same == ["Conv_0", "Conv_1", "Dense_0", "Dense_1"]
    for label in same:
        np.testing.assert_allclose(found[label], outputs[label], 1e-5, 1e-5)


class Net(nnx.Module):
    """Units whose order is not that of their names."""

    def __init__(self, *, rngs):
        self.stem = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.middle = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, train):
        x = nnx.relu(self.norm(self.stem(x), use_running_average=not train))
        x = x + self.bn(self.middle(x), use_running_average=not train)
        return self.dense(x.mean((1, 2)))


X = jax.ShapeDtypeStruct((2, 5, 4, 2), jnp.float32)
FRONT = {"stem", "norm"}


def held(net):
    flat = nnx.to_flat_state(nnx.state(net))
    return {"/".join(map(str, path)): np.array(v[...]) for path, v in flat}


@pytest.mark.parametrize(
    ("how", "frozen"),
    [
        ({"up_to": "stem", "x": X}, {"stem"}),
        ({"up_to": "relu", "x": X}, FRONT),
        ({"up_to": "add", "x": X}, {*FRONT, "middle", "bn"}),
        ({"paths": ["norm", "middle/kernel"]}, {"norm", "middle"}),
    ],
)
def test_units_are_frozen_by_label_or_path(how, frozen):
    split = models.freeze(Net(rngs=nnx.Rngs(0)), **how)
    words = dict(split.labels.words)
    assert {path[0] for path, word in words.items() if word == "frozen"} == frozen
    assert {path[0] for path in split.statistics} == frozen & {"norm", "bn"}
    assert (words["middle", "bias"] == "frozen") == ("middle" in frozen and "paths" not in how)


@pytest.mark.parametrize("statistics", ["frozen", "moving"])
def test_what_is_frozen_stays_in_fit_and_the_rest_moves(statistics):
    images = np.random.default_rng(0).normal(size=(8, 5, 4, 2)).astype(np.float32)
    source = Indexed(images, np.arange(8, dtype=np.int32) % 3, batch_size=8)
    net = Net(rngs=nnx.Rngs(0))
    split = models.freeze(net, "relu", x=X, statistics=statistics)
    recipe = train.Recipe(steps=2, dispatch=2, watch=1, weight_decay=0.1)
    fitted = train.fit(net, source, recipe, frozen=split)
    before, after = held(net), held(fitted.net)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    of_norm = {"norm/mean", "norm/var"} if statistics == "moving" else set()
    expected = {path for path in before if path.split("/")[0] not in FRONT} | of_norm
    assert moved == expected
    layers = fitted.rows[0]["layers"]
    assert set(layers["stem/kernel"]) == {"weight"} and "gradient" in layers["dense/kernel"]
    assert type(fitted.net.norm) is nnx.BatchNorm
    # Evaluation in front: the loss is that of the back on what the front gives.
    plain = nnx.clone(net)
    x = images[source.inputs(0, 1)[0]]
    x = plain.norm(plain.stem(x), use_running_average=statistics == "frozen")
    x = nnx.relu(x)
    x = x + plain.bn(plain.middle(x), use_running_average=False)
    logits = jax.nn.log_softmax(plain.dense(x.mean((1, 2))))
    loss = -jnp.mean(logits[jnp.arange(8), (np.arange(8) % 3)[source.inputs(0, 1)[0]]])
    assert fitted.rows[0]["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_what_no_unit_is_called_is_refused():
    net = Net(rngs=nnx.Rngs(0))
    x = jnp.ones(X.shape)
    with pytest.raises(ValueError, match="up_to='relu' needs x, a batch or what has its shape"):
        models.freeze(net, "relu")
    with pytest.raises(ValueError, match="up_to: unit='rellu' is not known; did you mean 'relu'"):
        models.freeze(net, "rellu", x=x)
    with pytest.raises(ValueError, match="paths: module or parameter='stemm' is not known"):
        models.freeze(net, paths="stemm")
    with pytest.raises(ValueError, match="paths: unit='stemm' is not known; did you mean 'stem'"):
        models.features(net, x, "stemm")
    with pytest.raises(ValueError, match="'stem' is asked for twice, the second time by 's\\*'"):
        models.features(net, x, ["stem", "s*"])
    deep, _ = nnx_networks.made("bottleneck", False)
    with pytest.raises(ValueError, match="'layer1' is no unit, but holds some: layer1/layers/0/c"):
        models.features(deep, normal((2, 16, 12, 3)), "layer1")
