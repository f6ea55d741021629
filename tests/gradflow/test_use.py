"""profile as it is used: under transformations, with modules of your own, with bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = (2, 6, 5, 4)
X = np.random.default_rng(0).normal(size=IMAGE).astype(np.float32)


def _profile(net, **options):
    given = {"cotangent": jax.random.key(2), "train": False} | options
    if "loss" in options:
        del given["cotangent"]
    return gradflow.profile(net, jnp.asarray(X), **given)


@pytest.mark.later
def test_survives_jit_and_vmap_over_seeds():
    def one(key):
        return _profile(models.deep_stack(4, 4, rngs=nnx.Rngs(key)))

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(one))(keys)
    table = together.check().table()
    for i in range(3):
        alone = one(keys[i]).table()
        rows = table["replica"] == i
        assert list(table["path"][rows]) == list(alone["path"])
        for name in (
            "gradient_log_norm",
            "parameter_gradient_log_norm",
            "branch_gradient_log_norm",
        ):
            np.testing.assert_allclose(table[name][rows], alone[name], rtol=1e-5, atol=1e-5)
    assert "2: 1/branch/conv2" in str(together)


def test_numbers_pick_one_unit_out_of_a_repeat():
    measured = _profile(models.deep_stack(6, 4, rngs=nnx.Rngs(0)))
    table = measured.table()
    row = list(table["path"]).index("2/branch/conv1")
    picked = measured["2/branch/conv1"]
    np.testing.assert_allclose(picked.gradient.log_norm, table["gradient_log_norm"][row], rtol=1e-5)
    assert measured["*"].gradient.norm.shape == (3,)
    for missing, told in (("*/brnch/conv1", "did you mean '\\*/branch/conv1'.*Its"), ("x", "its")):
        with pytest.raises(KeyError, match=f"is not in the profile; {told} paths are input"):
            measured[missing]
    for missing in ("3/branch/conv1", "branch"):
        with pytest.raises(KeyError, match="is not in the profile"):
            measured[missing]


def test_columns_are_complete_and_rows_in_forward_order():
    table = _profile(models.resnet_cifar(8, in_features=4, width=4, rngs=nnx.Rngs(0))).table()
    assert tuple(table) == gradflow.COLUMNS
    assert len({len(column) for column in table.values()}) == 1
    at = list(table["path"]).index
    assert at("input") < at("stem/conv") < at("stem") < at("stage1/rest/0/branch/conv1")
    assert (
        at("stage1/rest/0") < at("stage1") < at("stage2/first/branch/conv1") < at("head") < at("")
    )
    assert table["parameter_count"][at("stage1/rest/0/branch/conv1")] == 9 * 4 * 4
    whole = table["parameter_gradient_log_norm"][at("")]
    leaves = [i for i, kind in enumerate(table["kind"]) if kind in ("Conv", "BatchNorm", "Dense")]
    parts = np.exp(2 * table["parameter_gradient_log_norm"][leaves])
    np.testing.assert_allclose(np.exp(2 * whole), parts.sum(), rtol=1e-6)


def test_a_combinator_of_ones_own_is_seen_into():
    class Twice(nn.Node):
        """The same unit, applied twice."""

        def __init__(self, unit):
            self.unit = unit

        def __call__(self, x, train=False, rngs=None):
            return self.unit(self.unit(x, train, rngs), train, rngs)

    conv = nn.Conv(4, 4, (3, 3), rngs=nnx.Rngs(0))
    inside = _profile(nn.Chain(twice=Twice(conv)))
    assert inside.paths == ("input", "twice/unit", "twice/unit#2", "twice", "")
    assert inside.opaque == ()
    same = _profile(nn.Chain(a=conv, b=conv))
    np.testing.assert_allclose(
        inside["input"].gradient.norm, same["input"].gradient.norm, rtol=1e-6
    )
    shared = inside["twice/unit"].parameter_gradients["kernel"].norm
    np.testing.assert_allclose(shared, same["a"].parameter_gradients["kernel"].norm, rtol=1e-5)


def test_loss_and_cotangent_exclude_each_other():
    net = nn.Activation("relu")
    with pytest.raises(ValueError, match="one of the two; neither was given"):
        gradflow.profile(net, jnp.asarray(X), train=False)
    with pytest.raises(ValueError, match="one of the two; both were given"):
        gradflow.profile(net, jnp.asarray(X), loss=jnp.sum, cotangent=X, train=False)
    with pytest.raises(ValueError, match="train=None: say train=True"):
        gradflow.profile(net, jnp.asarray(X), loss=jnp.sum)


def test_a_loss_must_be_scalar_and_a_cotangent_fit():
    net = nn.Activation("relu")
    with pytest.raises(ValueError, match=r"loss must return a scalar, not \(2,\); reduce it"):
        _profile(net, loss=lambda y: y.sum((1, 2, 3)))
    with pytest.raises(ValueError, match="loss must return a scalar"):
        _profile(net, loss=lambda y: (y.sum(), y))
    message = re.escape("cotangent has shape (2, 6, 5, 3), the output (2, 6, 5, 4)")
    with pytest.raises(ValueError, match=message):
        _profile(net, cotangent=jnp.zeros((2, 6, 5, 3)))


def test_a_unit_cannot_be_called_as_the_batch_is():
    with pytest.raises(ValueError, match="a unit named 'input' stands at the root"):
        _profile(nn.Chain(input=nn.Identity()))


def test_the_first_unit_that_is_not_finite_is_named():
    def net(**functions):
        return nn.Chain({name: nn.Activation(f) for name, f in functions.items()})

    with pytest.raises(
        ValueError, match=r"the activation of unit 'b' is NaN or infinite: the first"
    ):
        _profile(net(a=jnp.tanh, b=lambda x: jnp.log(x), c=jnp.tanh))
    # Finite forward; backward the cotangent of c passes an infinite slope at b.
    with pytest.raises(ValueError, match=r"the gradient of unit 'a' is NaN or infinite.*backward"):
        _profile(net(a=jax.nn.relu, b=lambda x: jnp.sqrt(x), c=jnp.tanh))


def test_nothing_is_raised_under_a_transformation_until_asked():
    measured = jax.jit(lambda: _profile(nn.Activation(lambda x: jnp.log(x))))()
    with pytest.raises(ValueError, match="the activation of unit"):
        measured.check()


def test_homogeneous_units_are_homogeneous():
    rngs = nnx.Rngs(0)
    nodes = {
        "conv": nn.Conv(4, 4, (3, 3), use_bias=False, rngs=rngs),
        "separable": nn.separable_conv(4, 4, (3, 3), use_bias=False, rngs=rngs),
        "residual": nn.Residual(nn.Activation("relu"), nn.Scale(0.5)),
        "parallel": nn.Parallel(a=nn.Pool("max", (2, 2)), b=nn.Pool("avg", (2, 2))),
        "pad": nn.ZeroPadShortcut(4, 6, strides=2),
        "stack": models.deep_stack(2, 4, rngs=rngs),
        "leaky": nn.Activation("leaky_relu"),
    }
    x = jnp.asarray(X)
    for name, node in nodes.items():
        assert gradflow.homogeneous(node), name
        np.testing.assert_allclose(node(4 * x), 4 * node(x), rtol=1e-5, err_msg=name)
    for node in (
        nn.Conv(4, 4, (3, 3), rngs=rngs),
        nn.BatchNorm(4, rngs=rngs),
        nn.LayerNorm(4, rngs=rngs),
        nn.Activation("tanh"),
        nn.Residual(nn.Activation("relu"), nn.Gate(4, rngs=rngs)),
        nn.Residual(nn.Activation("gelu")),
        nn.Scale(-1.0),
        nn.SqueezeExcite(4, 2, rngs=rngs),
    ):
        assert not gradflow.homogeneous(node), node


def test_growth_tells_an_exponential_from_a_power_law():
    position, noise = np.arange(40), np.random.default_rng(0).normal(size=40) * 0.05
    exponential = gradflow.growth(3 - 0.2 * position + noise)
    assert exponential.law == "exponential" and abs(exponential.rate - 0.2) < 0.005
    power = gradflow.growth(3 - 0.7 * np.log1p(position) + noise)
    assert power.law == "power law" and abs(power.power - 0.7) < 0.05
    assert gradflow.growth(3 + noise / 10).law == "flat"
    infinite = ([1.0, np.inf, 2.0], "log_norms.1.=inf is not finite")
    for bad, message in (([1.0, 2.0], "at least three"), infinite):
        with pytest.raises(ValueError, match=message):
            gradflow.growth(bad)


@pytest.mark.later
def test_jax_switches_change_nothing():
    net = nn.Chain(
        body=nn.Repeat(lambda rngs: nn.Residual(nn.Dense(4, 4, rngs=rngs)), 2, rngs=nnx.Rngs(0)),
        act=nn.Activation("relu"),
    )
    x, key = jnp.asarray(X[:, 0, 0]), jax.random.key(2)

    def measure():
        shared = {"cotangent": key, "train": False}
        return (
            gradflow.profile(net, x, **shared)["input"].gradient,
            gradflow.paths(net, x, **shared).parts,
            gradflow.correlation(net, x, **shared).cosines,
            gradflow.spectrum(net, x, train=False).singular_values,
        )

    plain = measure()
    for switch in (jax.disable_jit(), jax.debug_nans(True), jax.transfer_guard("disallow")):
        with switch:
            found = measure()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain, found)


def test_the_text_says_which_mode_was_asked_for_and_no_more():
    net = nn.Activation("relu")  # without any statistics
    for measured in (_profile(net), gradflow.predict(net, IMAGE, train=False)):
        assert str(measured).endswith("batch of 2, train=False")
