"""Modules of the user's own in an expression: they are seen into, and no number is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = nn.initializers.VarianceScaling(1e-9)


class Skip(nn.Node):
    """x + alpha * g(f(x)), with a parameter of its own."""

    def __init__(self, f, g):
        self.f, self.g = f, g
        self.alpha = nnx.Param(jnp.asarray(0.5))

    def __call__(self, x, train=False, rngs=None):
        return x + self.alpha[...] * self.g(self.f(x, train, rngs), train, rngs)


class Twice(nn.Node):
    """The same unit, applied twice."""

    def __init__(self, unit):
        self.unit = unit

    def __call__(self, x, train=False, rngs=None):
        return self.unit(self.unit(x, train, rngs), train, rngs)


def _dense(seed, **options):
    options = {"use_bias": False, "kernel_init": SMALL, "param_dtype": jnp.float64} | options
    return nn.Dense(4, 4, rngs=nnx.Rngs(seed), **options)


def _net():
    inner = nn.Chain(act=nn.Activation("relu"), dense=_dense(2))
    return nn.Chain(
        first=_dense(0),
        skip=Skip(_dense(1), inner),
        twice=Twice(nn.Residual(Skip(_dense(3), _dense(4)))),
        repeat=nn.Repeat(lambda rngs: Skip(_dense(5), _dense(6)), 2, rngs=nnx.Rngs(0)),
        last=_dense(7, use_bias=True),
    )


def _loss(output):
    return jnp.sum(jnp.sin(1 + output) ** 2)


def _parameters(measured):
    """The norms of the parameters' gradients, by their paths in the network."""
    return {
        # A parameter beside modules has a row of its own.
        (path if path.endswith(f"/{name}") else nn.join(path, name)).replace("*", "unit"): norm
        for path, unit in measured.items()
        for name, norm in unit.parameter_gradients.items()
    }


def _plain(net, x):
    """The gradients by input and parameters, in one plain backward pass."""
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    run = jax.grad(lambda p, x: _loss(nnx.merge(graphdef, p, rest)(x)), (0, 1))
    of_params, of_x = jax.jit(run)(params, x)
    flat = {"/".join(map(str, p)): leaf[...] for p, leaf in nnx.to_flat_state(of_params)}
    return flat, of_x


@pytest.mark.usefixtures("x64")
def test_a_child_beside_another_path_is_measured_right():
    net, x = _net(), jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
    of_params, of_x = _plain(net, x)
    measured = gradflow.profile(net, x, loss=_loss, train=False)
    near = {"rtol": 1e-12}
    np.testing.assert_allclose(measured["input"].gradient.norm, jnp.linalg.norm(of_x), **near)
    found = _parameters(measured)
    assert set(found) == set(of_params) and "skip/alpha" in found
    for name, norm in found.items():
        np.testing.assert_allclose(jnp.linalg.norm(norm.norm), jnp.linalg.norm(of_params[name]))
    whole = measured.table()["parameter_gradient_log_norm"][-1]
    every = sum(np.sum(np.square(leaf)) for leaf in of_params.values())
    np.testing.assert_allclose(whole, 0.5 * np.log(every), **near)
    # The plain pass with taps measures the same at every place.
    places = {"input": ()} | {path: repeats for path, _, repeats in nn.walk(net)}
    tokens = gradflow.tokens(places, jnp.float64)
    tapped = jax.jit(jax.grad(lambda t: _loss(gradflow.tapped(net, x, t, train=False))))(tokens)
    for path, unit in measured.items():
        if path in places and "unit/branch" not in path:
            norm = jnp.sqrt(gradflow.squares(tapped[path]))
            np.testing.assert_allclose(norm, unit.gradient.norm, err_msg=path)
    assert list(gradflow.trunk(net)) == ["input", "first", "skip", "twice", "repeat/*", "last"]


@pytest.mark.usefixtures("x64")
def test_gradients_at_single_inputs_are_right_too():
    net, x = _net(), jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
    v = jax.random.normal(jax.random.key(1), (4,), jnp.float64)
    found = gradflow.correlation(net, x, cotangent=v, train=False)
    gradient = jax.grad(lambda x: jnp.sum(net(x) @ v))(x)
    norms = jnp.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(found.norms.norm[0], norms, rtol=1e-12)
    cosines = gradient @ gradient.T / jnp.outer(norms, norms)
    np.testing.assert_allclose(found.cosines[0], cosines, rtol=1e-12)


X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def _profile(net):
    return gradflow.profile(net, X, cotangent=jax.random.key(2), train=False)


def _leaf(seed=0):
    return nn.Dense(4, 4, rngs=nnx.Rngs(seed))


def test_a_leaf_with_a_rule_stays_a_leaf():
    class Later(nn.Node):
        def __init__(self, unit):
            self.unit = unit

        def __call__(self, x, train=False, rngs=None):
            return self.unit(x, train, rngs)

    net = nn.Chain(later=Later(_leaf()))
    assert _profile(net).paths == ("input", "later/unit", "later", "")

    @gradflow.expected.register
    def _(node: Later, signal, scope):
        return gradflow.expected(node.unit, signal, scope)

    measured = _profile(net)
    assert measured.paths == ("input", "later", "") and measured.opaque == ("later",)


def test_a_subclass_with_a_forward_pass_of_its_own_is_not_taken_for_its_class():
    class Around(nn.Chain):
        def __call__(self, x, train=False, rngs=None):
            return x + super().__call__(x, train, rngs)

    class Shifted(nn.Dense):
        def __call__(self, x, train=False, rngs=None):
            return super().__call__(x) + 1

    class Squared(nn.Residual):
        def merge(self, branch, shortcut):
            return branch**2 + shortcut

    bare = nn.Dense(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    for node in (
        Around(a=_leaf()),
        Squared(nn.Scale(2.0)),
        Shifted(4, 4, use_bias=False, rngs=nnx.Rngs(0)),
        nn.Activation(lambda x: x + 1),
    ):
        net = nn.Chain(before=bare, node=node, after=bare)
        measured = _profile(net)
        assert not gradflow.homogeneous(node)
        y, pullback = jax.vjp(lambda x: net(x), jnp.asarray(X))  # noqa: B023
        (of_x,) = pullback(jax.random.normal(jax.random.key(2), y.shape))
        near = {"rtol": 1e-5, "err_msg": type(node).__name__}
        np.testing.assert_allclose(measured["input"].gradient.norm, jnp.linalg.norm(of_x), **near)
        np.testing.assert_allclose(measured[""].activation.norm, jnp.linalg.norm(y), **near)
    assert gradflow.predict(nn.Chain(a=Around(a=_leaf())), (2, 4), train=False).unknown == ()
    assert list(gradflow.trunk(Around(a=_leaf()))) == ["input", ""]


def test_a_function_that_bears_a_known_name_is_not_taken_for_it():
    def relu(x):
        return jax.nn.relu(x) + 1

    assert not gradflow.homogeneous(nn.Activation(relu))
    assert gradflow.homogeneous(nn.Activation(jax.nn.relu))


@pytest.mark.usefixtures("x64")
def test_a_parameter_at_several_places_has_the_gradient_of_all_its_uses():
    def unit(rngs):
        twin = nn.Dense(4, 4, use_bias=False, param_dtype=jnp.float64, rngs=rngs)
        return nn.Chain(a=twin, s=nn.Scale(7.0), b=nn.Residual(twin))

    tied = _dense(0, kernel_init="he", use_bias=True)
    net = nn.Chain(
        a=tied,
        big=nn.Scale(1e3),
        act=nn.Activation("softplus"),
        b=tied,
        small=nn.Scale(1e-4),
        around=nn.Residual(tied),
        repeat=nn.Repeat(unit, 3, rngs=nnx.Rngs(0)),
        skip=Skip(*[_dense(1)] * 2),
    )
    x = jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
    of_params, _ = _plain(net, x)
    measured = gradflow.profile(net, x, loss=_loss, train=False)
    found = _parameters(measured)
    assert set(found) == set(of_params)  # reported once, at the first place, as Flax lists them
    for name, norm in found.items():
        each = norm.norm if norm.norm.ndim else jnp.linalg.norm(norm.norm)
        axes = tuple(range(each.ndim, of_params[name].ndim))
        expected = jnp.sqrt(jnp.sum(of_params[name] ** 2, axis=axes))
        np.testing.assert_allclose(each, expected, rtol=1e-12, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_a_parameter_shared_with_the_inside_of_a_module_has_the_gradient_of_all_its_uses():
    tied = _dense(0, kernel_init="he")
    net = nn.Chain(a=tied, big=nn.Scale(1e3), skip=Skip(tied, _dense(1)))
    x = jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
    of_params, _ = _plain(net, x)
    found = _parameters(gradflow.profile(net, x, loss=_loss, train=False))
    assert set(found) == set(of_params)
    for name, norm in found.items():
        np.testing.assert_allclose(norm.norm, jnp.linalg.norm(of_params[name]), rtol=1e-12)


def test_gradients_that_are_zero_on_the_way_are_zero_and_not_nan():
    # Factors taken out of zeros would be multiplied to infinity by the compiler.
    net = nn.Chain(a=_leaf(), big=nn.Scale(1e3), act=nn.Activation("tanh"), b=_leaf())
    table = gradflow.profile(net, 10 + X, cotangent=X, train=False).table()
    assert np.isneginf(table["gradient_log_norm"][:3]).all()


def test_a_tap_where_nothing_is_measured_is_refused():
    class Closed(nn.Chain):
        def __call__(self, x, train=False, rngs=None):
            return 2 * super().__call__(x, train, rngs)

    def tapped(net, tokens):
        return gradflow.tapped(net, jnp.asarray(X), tokens, train=False)

    zeros, net = gradflow.tokens({"a": (), "a/unit": ()}), nn.Chain(a=Closed(unit=_leaf()))
    with pytest.raises(ValueError, match="'a/unit', which is inside a module that is called as a"):
        tapped(net, {"a/unit": zeros["a/unit"]})
    with pytest.raises(ValueError, match="tokens: path='b' is not known"):
        tapped(net, {"b": zeros["a"]})
    with pytest.raises(ValueError, match=r"tokens\['a'\] has the shape \(2,\)"):
        tapped(net, {"a": jnp.zeros(2)})
