"""Auxiliary heads: beside the trunk, with weights of their own, and not in its way."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from convjax.models._inception_v1 import Flatten
from convjax.models._network import Family, Keys
from tests.models.golden import golden
from tests.models.parity.weights import batch, make_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

FAMILY = Family("tiny", torch=Keys((("stem/conv", "conv"), ("head/dense", "fc"))))
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 9, 2)), jnp.float32)


def tiny(auxiliary=True, dropout=0.0, reads="stem"):
    """A stem, a head, and a head that reads the stem."""
    rngs = nnx.Rngs(0)

    def head():
        parts = {"pool": nn.GlobalPool("avg"), "dense": nn.Dense(4, 3, rngs=rngs)}
        return nn.Chain(parts)

    stem = nn.Chain(conv=nn.Conv(2, 4, (3, 3), rngs=rngs), activation=nn.Activation("relu"))
    units = {"stem": stem, "head": head()}
    aside = nn.Chain(norm=nn.BatchNorm(4, rngs=rngs), drop=nn.Dropout(dropout), head=head())
    heads = {"aside": (reads, aside)} if auxiliary else None
    return models.Network(units, family=FAMILY, auxiliary=heads)


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def test_the_heads_run_beside_the_trunk():
    net = tiny()
    logits, heads = models.auxiliary_logits(net, IMAGE, train=False)
    np.testing.assert_array_equal(logits, net(IMAGE))
    np.testing.assert_array_equal(heads["aside"], net.auxiliary["aside"](net.stem(IMAGE)))
    assert list(heads) == ["aside"] and heads["aside"].shape == (3, 3)
    assert float(jnp.abs(heads["aside"] - logits).max()) > 0.1


def test_training_reaches_the_heads():
    net = tiny(dropout=0.5)
    norm = net.auxiliary["aside"].norm
    with pytest.raises(ValueError, match="needs rngs"):
        models.auxiliary_logits(net, IMAGE, train=True)
    models.auxiliary_logits(net, IMAGE, train=True, rngs=nnx.Rngs(1))
    assert float(jnp.abs(norm.mean[...]).max()) > 0


def test_each_loss_reaches_its_own_head_and_the_stem():
    graphdef, params, rest = nnx.split(tiny(), nnx.Param, ...)

    def reached(main, aside):
        def loss(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            logits, heads = models.auxiliary_logits(net, IMAGE, train=False)
            return main * jnp.sum(logits**2) + aside * jnp.sum(heads["aside"] ** 2)

        gradients = nnx.to_flat_state(jax.grad(loss)(params))
        return {path[0] for path, value in gradients if jnp.any(value[...] != 0)}

    assert reached(1.0, 0.0) == {"stem", "head"}
    assert reached(0.0, 1.0) == {"stem", "auxiliary"}


def test_interpreters_see_the_trunk_alone():
    with_heads, without = tiny(), tiny(auxiliary=False)
    assert len(parameters(with_heads)) == len(parameters(without)) + 4
    assert all(
        path[0] == "auxiliary" for path in parameters(with_heads).keys() - parameters(without)
    )
    measured = [
        gradflow.profile(net, IMAGE, cotangent=jax.random.key(0), train=True)
        for net in (with_heads, without)
    ]
    assert measured[0].paths == measured[1].paths and not measured[0].opaque
    for a, b in zip(*map(jax.tree.leaves, measured), strict=True):
        np.testing.assert_array_equal(a, b)
    assert str(convjax.cost(with_heads, IMAGE.shape)) == str(convjax.cost(without, IMAGE.shape))
    expected = [gradflow.predict(net, IMAGE.shape, train=True) for net in (with_heads, without)]
    assert str(expected[0]) == str(expected[1]) and not expected[0].unknown
    graphdef, state = nnx.split(with_heads)
    np.testing.assert_array_equal(nnx.merge(graphdef, state)(IMAGE), without(IMAGE))
    assert "aside" in repr(with_heads)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tiny(auxiliary=False), "net=tiny has no auxiliary heads; inception_v1 and"),
        (lambda: nn.Chain(a=nn.Identity()), "net=Chain has no auxiliary heads"),
    ],
)
def test_a_network_without_heads_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.auxiliary_logits(make(), IMAGE, train=False)


def test_a_head_reads_a_unit_that_is_there():
    with pytest.raises(ValueError, match="no node 'stage1' in Network"):
        tiny(reads="stage1")
    with pytest.raises(ValueError, match="auxiliary=True needs reference='torch'"):
        models.inception_v3(auxiliary=True, reference="keras", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (2, 14, 7, 3), (1, 3, 9, 1), (1, 1, 5, 2)])
def test_cells_are_those_of_an_adaptive_pool(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = np.empty((shape[0], 4, 4, shape[3]))
    for i in range(4):
        for j in range(4):
            rows = slice(i * shape[1] // 4, -((-(i + 1) * shape[1]) // 4))
            columns = slice(j * shape[2] // 4, -((-(j + 1) * shape[2]) // 4))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(nn.CellPool(4)(jnp.asarray(x)), expected, atol=1e-6)
    flat = Flatten()(jnp.asarray(expected, jnp.float32))
    np.testing.assert_allclose(flat, expected.transpose(0, 3, 1, 2).reshape(shape[0], -1))


def network(name, **options):
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "name, with_heads, without, paths",
    [
        ("googlenet", 13004888, 6624904, (("aux1", "stage2/0"), ("aux2", "stage2/3"))),
        ("inception_v3", 27161264, 23834568, (("aux", "stage2/4"),)),
    ],
)
def test_parameters_are_as_many_as_torchvision_has(name, with_heads, without, paths):
    for auxiliary, count in ((True, with_heads), (False, without)):
        net = network(name, auxiliary=auxiliary)
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))]
        assert sum(sizes) == count
        assert net.auxiliary_paths == (paths if auxiliary else ())


def test_weights_of_heads_are_loaded_or_left_out():
    def made(auxiliary):
        options = {"width": 0.02, "num_classes": 3, "auxiliary": auxiliary}
        return models.inception_v1(**options, rngs=nnx.Rngs(0))

    both, trunk = made(True), made(False)
    beside = parameters(both)
    for path, value in parameters(trunk).items():  # the same draws, with heads or without
        np.testing.assert_array_equal(value[...], beside[path][...])
    weights = {name: array + 1 for name, array in models.export_weights(both).items()}
    only = {name: array for name, array in weights.items() if not name.startswith("aux")}
    assert len(weights) == len(only) + 2 * 9
    assert models.load_weights(trunk, weights).count == len(only)
    with pytest.raises(ValueError, match="18 missing: aux"):
        models.load_weights(both, only)
    assert len(models.load_weights(both, only, allow="auxiliary/*").missing) == 18
    assert models.load_weights(both, weights).count == len(weights)
    for name, array in models.export_weights(both).items():
        np.testing.assert_array_equal(array, weights[name])


AUXLOGITS = {
    "AuxLogits.conv0.conv.weight": [128, 768, 1, 1],
    "AuxLogits.conv1.conv.weight": [768, 128, 5, 5],
    **{
        f"AuxLogits.conv{i}.bn.{part}": [features]
        for i, features in ((0, 128), (1, 768))
        for part in ("weight", "bias", "running_mean", "running_var")
    },
    "AuxLogits.fc.weight": [1000, 768],
    "AuxLogits.fc.bias": [1000],
}
# torchvision in float64 with the weights that names make: the first logits, and gradient norms of
# the main cross-entropy plus 0.3 of each head's, on batch statistics.
GOOGLENET = {
    "aux1": [[-0.755604394809, -1.79131528697], [-0.224211658707, 0.165187181774]],
    "aux2": [[-0.38770540694, 0.365126377473], [-2.50363161597, -0.749701630842]],
}
GOOGLENET_GRADIENTS = {
    "aux1.fc1.weight": 6.78680163475519,
    "aux1.conv.conv.weight": 3.3709857894899113,
    "aux2.fc2.bias": 0.21246448723144776,
    "conv1.conv.weight": 233.12115738374445,
}
INCEPTION_V3 = [[0.431425797455, 0.633033725965], [0.449475720766, 0.648749572116]]


def loaded(name, shapes):
    net = network(name, auxiliary=True, param_dtype=jnp.float64)
    models.load_weights(net, make_weights(shapes))
    return net


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_googlenet_has_the_logits_and_gradients_of_torchvision():
    net = loaded("googlenet", golden("googlenet")["shapes"])
    x = jnp.asarray(batch(2, 64, 80))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def gradients(params):
        def loss(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            logits, heads = models.auxiliary_logits(net, x, train=True)
            total = sum(entropy(y) for y in heads.values())
            return entropy(logits) + 0.3 * total, heads

        return jax.grad(loss, has_aux=True)(params)

    def entropy(logits):
        labels = jnp.arange(len(logits)) * 7 % 1000
        return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), labels].mean()

    found, heads = gradients(params)
    for name, expected in GOOGLENET.items():
        np.testing.assert_allclose(heads[name][:, :2], expected, rtol=1e-6)
    exported = models.export_weights(net, found)
    for name, expected in GOOGLENET_GRADIENTS.items():
        np.testing.assert_allclose(np.linalg.norm(exported[name]), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_inception_v3_has_the_auxiliary_logits_of_torchvision():
    net = loaded("inception_v3", {**golden("inception_v3")["shapes"], **AUXLOGITS})
    graphdef, state = nnx.split(net)
    x = jnp.asarray(batch(2, 299, 299))
    run = jax.jit(lambda state: models.auxiliary_logits(nnx.merge(graphdef, state), x, train=False))
    np.testing.assert_allclose(run(state)[1]["aux"][:, :2], INCEPTION_V3, rtol=1e-6)
