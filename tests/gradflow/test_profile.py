"""profile against its naive twin, in float64 and in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from tests.gradflow import naive
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = (3, 6, 5, 4)


def _stack(depth=4, **options):
    return lambda rngs, dtype: models.deep_stack(depth, 4, rngs=rngs, param_dtype=dtype, **options)


def _resnet(depth=8, **options):
    return lambda rngs, dtype: models.resnet_cifar(
        depth, in_features=4, width=4, rngs=rngs, param_dtype=dtype, **options
    )


def _inception(rngs, dtype):
    shared = {"rngs": rngs, "param_dtype": dtype}

    def unit(rngs):
        reduced = nn.Chain(
            conv=nn.PointwiseConv(4, 2, rngs=rngs, param_dtype=dtype), tanh=nn.Activation("tanh")
        )
        branches = nn.Parallel(reduced=reduced, pooled=nn.Pool("avg", (3, 3), strides=1, padding=1))
        return nn.Chain(
            branches=branches,
            project=nn.PointwiseConv(6, 4, rngs=rngs, param_dtype=dtype),
            weigh=nn.SqueezeExcite(4, 2, rngs=rngs, param_dtype=dtype),
        )

    return nn.Chain(
        stem=nn.Conv(4, 4, (3, 3), strides=2, **shared),
        twice=nn.Repeat(lambda rngs: nn.Repeat(unit, 2, rngs=rngs), 2, rngs=rngs),
        around=nn.Residual(
            nn.Repeat(unit, 3, rngs=rngs), nn.Scale(0.5, learnable=True, **{"param_dtype": dtype})
        ),
        norm=nn.LayerNorm(4, **shared),
        head=nn.Dense(4, 3, **shared),
    )


NETS = {
    "plain": _stack(shortcut="none"),
    "residual": _stack(shortcut="identity"),
    "residual, biases": _stack(use_bias=True, activation="gelu"),
    "residual, post-activation": _stack(order="post", branch_scale=0.7),
    "residual, batch norm": _stack(norm="batch"),
    "plain, batch norm": _stack(norm="batch", shortcut="none", order="post"),
    "scaled": _stack(shortcut="scaled", norm="layer"),
    "highway": _stack(shortcut="gated", activation="tanh"),
    "separable": _stack(conv="separable", init="orthogonal"),
    "cifar": _resnet(14),
    "cifar, projection": _resnet(transition="projection", norm="none"),
    "cifar, pre-activation": _resnet(order="pre", norm="group"),
    "inception": _inception,
}


def _loss(output):
    return jnp.mean(jnp.log1p(output**2)) + jnp.sum(output) / output.size


@functools.cache
def _twin(make, train):
    # Drawn in float64, so that the twin and the float32 measurement see the same network.
    with jax.enable_x64(True):
        exact = make(nnx.Rngs(3), jnp.float64)
        x = jax.random.normal(jax.random.key(5), IMAGE, jnp.float64)
        return exact, x, naive.profile(exact, x, _loss, train=train)


def _compare(make, dtype, *, train, tolerance):
    exact, x, expected = _twin(make, train)
    with jax.enable_x64(True):
        graphdef, state = nnx.split(exact)
        state = jax.tree.map(lambda a: a.astype(dtype), state)
        net, x = nnx.merge(graphdef, state), x.astype(dtype)
        if dtype == jnp.float64:
            table = gradflow.profile(net, x, loss=_loss, train=train).table()
    if dtype != jnp.float64:
        table = gradflow.profile(net, x, loss=_loss, train=train).table()
    assert list(table["path"]) == list(dict.fromkeys(table["path"]))
    assert set(table["path"]) == set(expected)
    for row, path in enumerate(table["path"]):
        for column, value in expected[path].items():
            measured = table[f"{column}_log_norm"][row]
            assert measured == value or abs(measured - value) < tolerance, (path, column)
        for column in gradflow.COLUMNS:
            if column.endswith("_log_norm") and column[: -len("_log_norm")] not in expected[path]:
                assert np.isnan(table[column][row]), (path, column)
    return table


@pytest.mark.every(3)
@pytest.mark.parametrize("name", NETS)
def test_equals_the_naive_twin_in_float64(name):
    _compare(NETS[name], jnp.float64, train=True, tolerance=1e-10)


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "name", ["plain", "residual, post-activation", "residual, batch norm", "highway"]
)
def test_equals_the_naive_twin_in_float32_to_five_digits(name):
    _compare(NETS[name], jnp.float32, train=True, tolerance=1e-5)


@pytest.mark.parametrize("name", ["residual, batch norm"])
def test_equals_the_naive_twin_on_running_statistics(name):
    _compare(NETS[name], jnp.float64, train=False, tolerance=1e-10)


def _fading(rngs, dtype):
    # Linear: a rectifier's mask flips where rounding differs, and no longer compares.
    init = nn.initializers.VarianceScaling(0.001)
    options = {"shortcut": "none", "activation": "linear", "init": init}
    return models.deep_stack(40, 4, rngs=rngs, param_dtype=dtype, **options)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_norms_that_float32_cannot_hold_equal_those_of_float64(dtype):
    close = 1e-4 if dtype == jnp.float32 else 1e-10
    table = _compare(_fading, dtype, train=False, tolerance=close)
    for measure in ("activation", "gradient", "parameter_gradient"):
        assert np.nanmin(table[f"{measure}_log_norm"]) < 1.3 * np.log(1e-45)


def test_a_cotangent_may_be_given_or_drawn():
    net = models.deep_stack(4, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), IMAGE)
    drawn = gradflow.profile(net, x, cotangent=jax.random.key(2), train=False)
    array = jax.random.normal(jax.random.key(2), IMAGE)
    given = gradflow.profile(net, x, cotangent=array, train=False)
    pulled = jax.vjp(lambda x: net(x), x)[1](array)[0]
    np.testing.assert_allclose(drawn["input"].gradient.norm, jnp.linalg.norm(pulled), rtol=1e-5)
    assert drawn.loss is None
    jax.tree.map(np.testing.assert_array_equal, drawn, given)


def test_a_mean_over_the_batch_is_smaller_than_a_sum_by_the_batch_size():
    net = models.deep_stack(4, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), IMAGE)
    total = gradflow.profile(net, x, loss=lambda y: jnp.sum(y**2), train=False)
    mean = gradflow.profile(net, x, loss=lambda y: jnp.sum(y**2) / y.shape[0], train=False)
    assert total.batch_size == IMAGE[0]
    ratio = np.exp(total.table()["gradient_log_norm"] - mean.table()["gradient_log_norm"])
    np.testing.assert_allclose(ratio, IMAGE[0], rtol=1e-5)


def test_targets_reach_the_loss_and_the_loss_is_returned():
    net = nn.Chain(pool=nn.GlobalPool(), dense=nn.Dense(4, 3, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), IMAGE)

    def loss(output, targets):
        return jnp.mean((output - targets) ** 2)

    targets = jax.random.normal(jax.random.key(2), (3, 3))
    measured = gradflow.profile(net, x, loss=loss, targets=targets, train=False)
    np.testing.assert_allclose(measured.loss, loss(net(x), targets), rtol=1e-5)


def test_the_network_is_left_as_it_was():
    net = models.deep_stack(4, 4, norm="batch", rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(net))
    gradflow.profile(net, jax.random.normal(jax.random.key(1), IMAGE), loss=_loss, train=True)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(net)))


def test_batch_and_running_statistics_at_initialization_are_two_networks():
    net = models.deep_stack(20, 4, shortcut="none", norm="batch", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (16, 6, 5, 4))
    shared = {"cotangent": jax.random.key(2)}
    batch = gradflow.profile(net, x, train=True, **shared)["input"].gradient.log_norm
    running = gradflow.profile(net, x, train=False, **shared)["input"].gradient.log_norm
    assert batch > running + 1


def test_dropout_is_the_same_for_the_same_rngs_which_are_not_advanced():
    net = nn.Repeat(
        lambda rngs: nn.Residual(
            nn.Chain(conv=nn.Conv(4, 4, (3, 3), rngs=rngs), drop=nn.Dropout(0.5))
        ),
        3,
        rngs=nnx.Rngs(0),
    )
    x, rngs = jax.random.normal(jax.random.key(1), IMAGE), nnx.Rngs(dropout=4)
    shared = {"cotangent": jax.random.key(2), "train": True, "rngs": rngs}
    first, second = (gradflow.profile(net, x, **shared) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert int(rngs.dropout.count[...]) == 0
    dropped = net(x, train=True, rngs=nnx.Rngs(dropout=4))
    np.testing.assert_allclose(first["2"].activation.norm, jnp.linalg.norm(dropped), rtol=1e-5)
