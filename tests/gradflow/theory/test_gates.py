"""Gates that saturate: what comes back through the few that are neither open nor closed."""

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from convjax.gradflow._theory._pools import few_open
from tests.nn.conftest import quick_compilation as quick_compilation


@pytest.mark.parametrize(("share", "ratio"), [(0.05, 10.0), (0.01, 1.0), (0.01, 10.0)])
def test_energy_that_comes_back_through_few_gates_is_far_below_its_mean(share, ratio):
    generator, gates = np.random.default_rng(0), 200
    energy = generator.normal(size=(2000, gates)) ** 2
    seen = energy * (generator.random((2000, gates)) < share)
    logs = np.log1p(ratio * seen.mean(1) / share)
    mean, variance = few_open(ratio, (3 / share - 1) / gates)
    assert mean == pytest.approx(logs.mean(), abs=0.12)
    assert variance**0.5 == pytest.approx(logs.std(), rel=0.15)
    assert logs.mean() < np.log1p(ratio) - 0.08


def _both(make, x, draws, *, train):
    """Profiles of so many initializations, and what theory expects of them."""

    @jax.jit
    @jax.vmap
    def profiles(key):
        weights, cotangent = jax.random.split(key)
        return gradflow.profile(make(nnx.Rngs(weights)), x, cotangent=cotangent, train=train)

    expected = gradflow.predict(make(nnx.Rngs(0)), np.asarray(x), train=train)
    return profiles(jax.random.split(jax.random.key(1), draws)), expected


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_gates_of_few_squeezed_features_are_large_or_small_together():
    x, width, draws = jax.random.normal(jax.random.key(0), (6, 5, 6, 12)), 20, 120

    def make(rngs):
        def conv(features):
            return nn.Conv(features, width, (3, 3), padding="CIRCULAR", use_bias=False, rngs=rngs)

        excite, norm = nn.SqueezeExcite(width, 3, rngs=rngs), nn.BatchNorm(width, rngs=rngs)
        first = (conv(12), nn.Activation("relu"), conv(width), excite)
        return nn.Chain([*first, norm, nn.Activation("relu"), conv(width)])

    found, expected = _both(make, x, draws, train=True)
    each = [
        gradflow.compare(jax.tree.map(lambda a, i=i: a[i], found), expected) for i in range(draws)
    ]
    for path in "34":
        gains = np.array([one[path].gradient_gain for one in each])
        assert gains.std() == pytest.approx(expected[path].gradient_gain_scatter, rel=0.3)
        assert gains.mean() == pytest.approx(expected[path].gradient_gain, abs=0.03)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("pooled", [False, True])
def test_what_flows_back_through_a_response_norms_sizes_is_counted(pooled):
    x, width, draws = jax.random.normal(jax.random.key(0), (4, 5, 6, 12)), 40, 20

    def make(rngs):
        conv = nn.Conv(12, width, (3, 3), padding="CIRCULAR", use_bias=False, rngs=rngs)
        norm = nn.ResponseNorm(width, rngs=rngs)
        norm.scale[...] = 2.0
        last = nn.GlobalPool("avg") if pooled else nn.PointwiseConv(width, 8, rngs=rngs)
        return nn.Chain([conv, nn.Activation("gelu"), norm, last])

    found, expected = _both(make, x, draws, train=False)
    one = gradflow.compare(found, expected)["2"]
    assert one.gradient_gain == pytest.approx(one.expected.gradient_gain, abs=0.03)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_what_a_shortcuts_gates_let_through_by_chance_the_next_ones_do_too(activation):
    x = jax.image.resize(jax.random.normal(jax.random.key(0), (8, 3, 3, 3)), (8, 6, 5, 3), "cubic")
    width, units, draws = 20, 14, 300

    def make(rngs):
        def unit(rngs):
            conv = nn.Conv(width, width, (3, 3), padding="CIRCULAR", use_bias=False, rngs=rngs)
            return nn.Residual(nn.Chain(act=nn.Activation(activation), conv=conv), "identity")

        stem = nn.Conv(3, width, (3, 3), padding="CIRCULAR", use_bias=False, rngs=rngs)
        return nn.Chain(stem=stem, body=nn.Repeat(unit, units, rngs=rngs))

    found, expected = _both(make, x, draws, train=True)
    table = found.table()
    paths = table["path"].reshape(draws, -1)[0].tolist()
    last, stem = paths.index(f"body/{units - 1}"), paths.index("stem")
    gradient = np.log(table["gradient_rms"].reshape(draws, -1))
    activation_rms = np.log(table["activation_rms"].reshape(draws, -1))
    scatter = (gradient[:, stem] - gradient[:, last]).std(ddof=1)
    assert scatter == pytest.approx(expected["stem"].gradient_scatter, rel=0.15)
    grown = activation_rms[:, last].std(ddof=1)
    assert grown == pytest.approx(expected[paths[last]].activation_scatter, rel=0.15)
    # Unit by unit it is what one gate lets through.
    each = (gradient[:, last - 1] - gradient[:, last]).std(ddof=1)
    assert each < 0.2 * scatter


@pytest.mark.parametrize(("channels", "spatial"), [(1, (6, 5)), (3, (4, 7)), (2, ())])
def test_a_first_kernels_scatter_is_that_of_its_quadratic_form(channels, spatial):
    """The energy of one output channel is w' S w, S the products of the patches' entries."""
    smooth = np.cumsum(np.random.default_rng(0).normal(size=(7, *spatial, channels)), axis=-1)
    x, taps = smooth + 0.5, 3 if spatial else 1
    rows = x.reshape(7, *spatial, channels)
    for axis in range(len(spatial)):
        shifted = [np.roll(rows, step, axis + 1) for step in range(taps)]
        rows = np.concatenate(shifted, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    products = rows.T @ rows
    relative = 2 * np.sum(products**2) / np.trace(products) ** 2 / 24
    rngs = nnx.Rngs(0)
    window = (taps,) * len(spatial)
    net = (
        nn.Conv(channels, 24, window, padding="CIRCULAR", use_bias=False, rngs=rngs)
        if spatial
        else nn.Dense(channels, 24, use_bias=False, rngs=rngs)
    )
    found = gradflow.predict(net, x, train=False)[""]
    assert 2 * found.activation_scatter == pytest.approx(np.log1p(relative) ** 0.5, rel=0.02)
