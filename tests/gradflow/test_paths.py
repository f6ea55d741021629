"""paths against a twin that walks every single path, against theory, and where float32 ends."""

import re
from functools import reduce
from itertools import product
from operator import or_

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import gammaln

from convjax import gradflow, models, nn
from convjax.gradflow import oracles
from tests.gradflow import naive
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = (3, 4, 5, 4)
stop = jax.lax.stop_gradient


def _routes(node, path=""):
    """List (length, {where there is a choice: what is chosen}) of every single path."""
    if isinstance(node, nn.Chain):
        parts = [_routes(unit, f"{path}/{name}") for name, unit in node.items()]
    elif isinstance(node, nn.Parallel):
        parts = [
            [
                (length, {path: i} | rest)
                for i, (name, unit) in enumerate(node.items())
                for length, rest in _routes(unit, f"{path}/{name}")
            ]
        ]
    elif isinstance(node, nn.Residual):
        sides = _routes(node.branch, f"{path}/branch")
        if node.shortcut is not None:
            through = [(length + 1, {path: 0} | rest) for length, rest in sides]
            past = _routes(node.shortcut, f"{path}/shortcut")
            sides = through + [(length, {path: 1} | rest) for length, rest in past]
        parts = [sides]
        if node.activation is not None:
            parts.append(_routes(node.activation, f"{path}/activation"))
    else:
        return [(0, {})]
    return [
        (sum(length for length, _ in combined), reduce(or_, (rest for _, rest in combined)))
        for combined in product(*parts)
    ]


def _run(node, x, weights, path=""):
    """Run a network whose value is whole, and whose gradient flows where the weights are 1."""

    def kept(term, option):
        return stop(term) + weights[path][option] * (term - stop(term))

    if isinstance(node, nn.Chain):
        for name, unit in node.items():
            x = _run(unit, x, weights, f"{path}/{name}")
        return x
    if isinstance(node, nn.Parallel):
        outputs = [_run(u, x, weights, f"{path}/{name}") for name, u in node.items()]
        return jnp.concatenate([kept(y, i) for i, y in enumerate(outputs)], -1)
    if not isinstance(node, nn.Residual):
        return node(x, train=True)
    y = node.scale * _run(node.branch, x, weights, f"{path}/branch")
    if node.shortcut is not None:
        beside = _run(node.shortcut, x, weights, f"{path}/shortcut")
        if isinstance(node.shortcut, nn.Gate):
            y, beside = beside * y, (1 - beside) * x
        y = kept(y, 0) + kept(beside, 1)
    return y if node.activation is None else _run(node.activation, y, weights, f"{path}/activation")


def _single_paths(net, x, cotangent):
    """Return the length and the gradient of every single path, each by a pass of its own.

    Nothing is shared with the measurement: no polynomial, no scan, no rescaling.
    """
    net = naive.unroll(net)
    graphdef, state = nnx.split(net)
    lengths, chosen = zip(*_routes(net), strict=True)
    most = {where: 1 + max(c.get(where, 0) for c in chosen) for where in reduce(or_, chosen)}
    weights = {where: np.zeros((len(chosen), n)) for where, n in most.items()}
    for row, choice in enumerate(chosen):
        for where, option in choice.items():
            weights[where][row, option] = 1

    def gradient(weights, x):
        def run(x):
            return _run(nnx.merge(graphdef, state, copy=True), x, weights)

        return jax.vjp(run, x)[1](cotangent)[0]

    return np.array(lengths), np.asarray(jax.jit(jax.vmap(gradient, (0, None)))(weights, x))


def _stack(depth, **options):
    options = {"convs_per_unit": 1, "param_dtype": jnp.float64} | options
    return models.deep_stack(depth, 4, rngs=nnx.Rngs(3), **options)


def _layers(n, shortcut="identity", seed=0, **options):
    """Residuals around dense layers, which compile faster than convolutions."""

    def unit(rngs):
        dense = nn.Dense(4, 4, param_dtype=jnp.float64, rngs=rngs)
        branch = nn.Chain(act=nn.Activation("gelu"), dense=dense)
        return nn.Residual(branch, shortcut, **options)

    return nn.Repeat(unit, n, rngs=nnx.Rngs(seed))


def _highway():
    gate = nn.Gate(4, param_dtype=jnp.float64, rngs=nnx.Rngs(1))
    return _layers(3, gate, scale=1.7)


def _nested():
    inner = nn.Chain(twice=_layers(2, nn.Scale(0.5)), norm=nn.Activation("tanh"))
    outer = nn.Residual(inner, nn.Scale(0.7), scale=1.3)
    dense = nn.Dense(4, 6, param_dtype=jnp.float64, rngs=nnx.Rngs(4))
    narrow = nn.Chain(own=_layers(1, seed=1), pad=nn.ZeroPadShortcut(4, 6, strides=1))
    project = nn.Residual(dense, narrow)
    plain = nn.Residual(nn.Scale(0.5), "none", scale=0.5, activation=nn.Activation("gelu"))
    beside = nn.Parallel(long=nn.Residual(nn.Activation("tanh")), short=nn.Scale(1.5))
    return nn.Chain(outer=outer, project=project, plain=plain, beside=beside)


# With the number of single paths that each has.
NETS = {
    "residual": (lambda: _stack(5), 32),
    "batch norm, post-activation": (lambda: _stack(3, norm="batch", order="post"), 8),
    "highway": (_highway, 8),
    "nested": (_nested, (4 + 1) * (1 + 2) * 1 * (2 + 1)),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.usefixtures("x64")
def test_equals_the_sum_over_every_single_path(name):
    make, count = NETS[name]
    net = make()
    x = jax.random.normal(jax.random.key(5), IMAGE, jnp.float64)
    shape = jax.eval_shape(lambda x: nnx.clone(net)(x), x).shape
    cotangent = jax.random.normal(jax.random.key(6), shape, jnp.float64)
    lengths, gradients = _single_paths(net, x, cotangent)
    assert len(lengths) == count
    energy = np.array(
        [np.sum(gradients[lengths == k].sum(0) ** 2) for k in range(max(lengths) + 1)]
    )
    whole = np.sum(gradients.sum(0) ** 2)
    found = gradflow.paths(net, x, cotangent=cotangent, train=True)
    assert found.lengths.tolist() == list(range(len(energy)))
    np.testing.assert_allclose(np.exp(found.log_energy), energy, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found.total_log_energy), whole, rtol=1e-9)
    np.testing.assert_allclose(found.coherence, whole / energy.sum(), rtol=1e-9)
    np.testing.assert_allclose(found.energy, energy / energy.sum(), rtol=1e-9)


@pytest.mark.every(2)
@pytest.mark.parametrize("gain", [1.0, 1 / 24])
def test_the_energies_of_wide_networks_are_binomial(gain):
    net = models.deep_stack(
        24, 96, kernel_size=(1, 1), convs_per_unit=1, branch_scale=gain**0.5, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (8, 1, 1, 96))
    found = gradflow.paths(net, x, cotangent=jax.random.key(2), train=False)
    expected = oracles.path_energy([gain] * 24)
    assert abs(found.mean_length / (expected @ np.arange(25)) - 1) < 0.05
    assert 0.5 * np.abs(found.energy - expected).sum() < 0.1
    assert 0.8 < found.coherence < 1.2
    below = np.cumsum(expected)
    for share in (0.05, 0.95):
        assert abs(found.quantile(share) - np.argmax(below >= share)) <= 1
    # The skips alone hand back the cotangent as it is.
    cotangent = np.asarray(jax.random.normal(jax.random.key(2), x.shape), np.float64)
    np.testing.assert_allclose(np.exp(found.log_energy[0]), np.sum(cotangent**2), rtol=1e-5)
    skip = np.sum(cotangent**2) / np.exp(found.log_energy).sum()
    np.testing.assert_allclose(found.skip_share, skip, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-3), (jnp.bfloat16, 8)])
def test_one_thousand_residuals_are_binomial_over_a_thousand_orders_of_magnitude(dtype, tolerance):
    # (1 + a t)^1000 of one number: |g_k| = C(1000, k) |a|^k, and the terms cancel to 0.3^1000.
    a, depth = -0.7, 1000
    net = nn.Repeat(lambda rngs: nn.Residual(nn.Scale(a)), depth, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 3)).astype(dtype)
    found = gradflow.paths(net, x, cotangent=x, train=False)
    k = np.arange(depth + 1)
    rounded = float(jnp.asarray(a, dtype))
    amplitude = gammaln(depth + 1) - gammaln(k + 1) - gammaln(depth - k + 1)
    amplitude += k * np.log(-rounded) + np.log(np.linalg.norm(np.asarray(x, np.float64)))
    assert np.ptp(amplitude) > 850
    np.testing.assert_allclose(found.log_energy, 2 * amplitude, atol=tolerance)
    whole = depth * np.log(1 + rounded) + amplitude[0]
    np.testing.assert_allclose(found.total_log_energy, 2 * whole, atol=tolerance)


def test_activations_beyond_float32_do_not_matter_where_the_network_is_homogeneous():
    def unit(rngs):
        dense = nn.Dense(8, 8, use_bias=False, rngs=rngs)
        return nn.Residual(nn.Chain(act=nn.Activation("relu"), dense=dense), scale=3.0)

    net = nn.Repeat(unit, 400, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 8))
    assert not np.isfinite(net(x)).all()
    found = gradflow.paths(net, x, cotangent=jax.random.key(2), train=True)
    profile = gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)
    norm = jax.device_get(profile["input"].gradient).log_norm
    assert norm > 100
    np.testing.assert_allclose(found.total_log_energy, 2 * norm, atol=1e-2)


def _small(shortcut="identity", scale=1.0, key=0, norm="none"):
    def unit(rngs):
        dense = nn.Dense(4, 4, rngs=rngs)
        branch = nn.Chain(norm=nn.norm(norm, 4, rngs=rngs), act=nn.Activation("tanh"), dense=dense)
        return nn.Residual(branch, shortcut, scale=scale)

    return nn.Repeat(unit, 3, rngs=nnx.Rngs(key))


X = np.random.default_rng(0).normal(size=IMAGE).astype(np.float32)


def _paths(net, **options):
    given = {"cotangent": jax.random.key(2), "train": True} | options
    return gradflow.paths(net, jnp.asarray(X), **given)


def test_survives_jit_and_vmap_over_seeds():
    def one(key):
        return _paths(_small(key=key))

    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(one))(keys).check()
    alone = one(keys[1])
    np.testing.assert_allclose(together.log_energy[1], alone.log_energy, rtol=1e-5)
    np.testing.assert_allclose(together.energy.sum(-1), [1, 1], rtol=1e-6)
    for name in ("mean_length", "coherence", "skip_share", "total_log_energy"):
        np.testing.assert_allclose(getattr(together, name)[1], getattr(alone, name), rtol=1e-4)
    assert together.quantile(0.5).shape == (2,)
    assert str(together).count("mean length") == 2 and str(alone).count("mean length") == 1
    rows = re.findall(r"^ +(\d) +(\S+) +(\S+)$", str(alone), re.MULTILINE)
    assert [int(row[0]) for row in rows] == [0, 1, 2, 3] and float(rows[-1][2]) == 1


def test_a_loss_a_drawn_cotangent_dropout_and_the_network_left_as_it_was():
    net = nn.Chain(
        stack=_small(norm="batch"),
        drop=nn.Residual(nn.StochasticDepth(0.5)),
        head=nn.Dense(4, 2, rngs=nnx.Rngs(0)),
    )
    before = jax.tree.map(np.asarray, nnx.state(net))
    rngs, targets = nnx.Rngs(dropout=4), jnp.asarray(X[..., :2])

    def loss(output, targets):
        return jnp.mean((output - targets) ** 2)

    found = _paths(net, cotangent=None, loss=loss, targets=targets, rngs=rngs)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(net)))
    assert int(rngs.dropout.count[...]) == 0
    graphdef, state = nnx.split(net)

    def whole(x):
        net = nnx.merge(graphdef, state, copy=True)
        return loss(net(x, train=True, rngs=nnx.Rngs(dropout=4)), targets)

    gradient = np.asarray(jax.jit(jax.grad(whole))(jnp.asarray(X)), np.float64)
    np.testing.assert_allclose(found.total_log_energy, np.log(np.sum(gradient**2)), rtol=1e-5)
    assert found.train and found.batch_size == IMAGE[0] and len(found.lengths) == 5


def test_branches_that_are_zero_leave_the_skips_alone():
    found = _paths(nn.Chain([nn.Residual(nn.Scale(0.0)) for _ in range(3)]))
    assert np.isneginf(found.log_energy[1:]).all() and len(found.lengths) == 4
    assert found.skip_share == found.coherence == 1 and found.mean_length == 0
    none = _paths(_small(), cotangent=jnp.zeros(IMAGE))
    assert np.isnan(none.coherence) and np.isneginf(none.total_log_energy)


def test_a_network_without_skips_has_one_length():
    found = _paths(nn.Residual(nn.Activation("tanh"), "none"))
    assert found.lengths.tolist() == [0] and found.coherence == 1


def test_bad_input_is_refused_where_it_enters():
    net = nn.Residual(nn.Activation("tanh"))
    with pytest.raises(ValueError, match="one of the two; neither was given"):
        _paths(net, cotangent=None)
    with pytest.raises(ValueError, match="one of the two; both were given"):
        _paths(net, loss=jnp.sum)
    with pytest.raises(ValueError, match=r"loss must return a scalar, not \(3,\)"):
        _paths(net, cotangent=None, loss=lambda y: y.sum((1, 2, 3)))
    with pytest.raises(ValueError, match=re.escape("cotangent has shape (3, 4, 5, 3)")):
        _paths(net, cotangent=jnp.zeros((3, 4, 5, 3)))
    with pytest.raises(ValueError, match="activation of unit 'branch' is NaN or infinite"):
        _paths(nn.Residual(nn.Activation(lambda x: jnp.sqrt(x))))


def test_residuals_of_a_module_of_ones_own_are_seen():
    class Twice(nn.Node):
        def __init__(self, unit):
            self.unit = unit

        def __call__(self, x, train=False, rngs=None):
            return self.unit(self.unit(x, train, rngs), train, rngs)

    net = nn.Chain(twice=Twice(nn.Residual(nn.Dense(4, 4, rngs=nnx.Rngs(0)))))
    assert _paths(net).lengths.tolist() == [0, 1, 2]
    plain = nn.Residual(nn.Activation("tanh"), "none")
    assert gradflow.paths(
        nn.Chain(twice=Twice(nn.Residual(nn.Scale(2.0)))),
        X,
        cotangent=jax.random.key(2),
        train=True,
        whole=["twice"],
    ).lengths.tolist() == [0]
    assert _paths(nn.Chain(twice=Twice(plain))).lengths.tolist() == [0]


class Own(nn.Node):
    """A module of the user's own, around a function of x and a matrix."""

    def __init__(self, function):
        self.function = function

    def __call__(self, x, train=False, rngs=None):
        return self.function(x, jnp.eye(4, dtype=x.dtype) * 0.5)


def _scanned(unit):
    return lambda x, w: jax.lax.scan(lambda c, _: (unit(c, w), None), x, None, length=3)[0]


def _skip(x, w):
    return x + jnp.tanh(x @ w)


HIDDEN = {
    "skip": _skip,
    "less": lambda x, w: x - jnp.tanh(x @ w),
    "gate": lambda x, w: jax.nn.sigmoid(x) * x + (1 - jax.nn.sigmoid(x)) * (x @ w),
    "elementwise": lambda x, w: x + jnp.tanh(x),
    "jit": jax.jit(_skip),
    "remat": jax.checkpoint(_skip),
    "scan": _scanned(_skip),
    "loop": lambda x, w: jax.lax.fori_loop(0, 3, lambda i, c: _skip(c, w), x),
    "branch": lambda x, w: jax.lax.cond(w[0, 0] > 0, lambda: _skip(x, w), lambda: x),
    "stacked": lambda x, w: jnp.stack([x, x @ w]).sum(0),
    "in place": lambda x, w: x.at[1:].add((x @ w)[:-1]),
}
ONE_PATH = {
    "dense": lambda x, w: jax.nn.relu(x @ w + 1),
    "mish": lambda x, w: x * jnp.tanh(jax.nn.softplus(x)),
    "norm": lambda x, w: (x - x.mean(-1, keepdims=True)) / (1 + x.var(-1, keepdims=True)),
    "circular": lambda x, w: jnp.concatenate([x[:, -1:], x, x[:, :1]], 1)[:, 1:-1] @ w,
    "attention": lambda x, w: jax.nn.softmax(x @ jnp.swapaxes(x, -1, -2)) @ x,
    "squeeze": lambda x, w: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True) @ w),
    "scan": _scanned(lambda c, w: jnp.tanh(c @ w)),
}


# What is one leaf still: entries of one place alone, and what runs a program of its own.
ONE_LEAF = ("elementwise", "scan", "loop", "branch", "stacked", "in place")


@pytest.mark.parametrize("name", HIDDEN)
def test_a_module_with_paths_of_its_own_is_seen_into(name):
    net = nn.Chain(first=nn.Scale(0.5), own=nn.Residual(Own(HIDDEN[name])))
    found = jax.eval_shape(lambda: _paths(net))
    assert found.parts.squares.shape == (2 if name in ONE_LEAF else 3,)


@pytest.mark.parametrize("name", ONE_PATH)
def test_a_module_with_one_path_is_a_leaf(name):
    net = nn.Chain(own=nn.Residual(Own(ONE_PATH[name])))
    assert jax.eval_shape(lambda: _paths(net)).parts.squares.shape == (2,)


def test_an_activation_of_ones_own_is_elementwise_or_named():
    def net(function):
        return nn.Chain(own=nn.Residual(nn.Activation(function)))

    assert len(_paths(net(lambda x: x + jnp.tanh(x))).lengths) == 2
    assert len(_paths(net(lambda x: x + x[::-1])).lengths) == 3


def test_a_network_without_residual_sums_has_nothing_to_take_apart():
    net = nn.Chain(conv=nn.Conv(4, 3, (3, 3), rngs=nnx.Rngs(0)), relu=nn.Activation("relu"))
    x = jax.random.normal(jax.random.key(0), IMAGE)
    found = gradflow.paths(net, x, cotangent=jax.random.key(1), train=False)
    assert found.lengths.tolist() == [0]
    assert "no residual sum" in str(found) and "over the skips" not in str(found)
