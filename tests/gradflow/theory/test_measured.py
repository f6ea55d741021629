"""What is predicted against what is measured, over many draws of the weights of small networks."""

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from tests.nn.conftest import compiling_quickly
from tests.nn.conftest import quick_compilation as quick_compilation

SIDES = ("activation", "gradient")
DRAWS = 12
WIDTH = 16
IMAGE = (6, 8, 6, WIDTH)


def _stack(**options):
    options = {"depth": 4, **options}
    depth = options.pop("depth")
    return lambda rngs: models.deep_stack(depth, WIDTH, rngs=rngs, **options)


def _mixed(rngs):
    """What no stack holds: strides, pools, branches side by side, squeeze-and-excitation."""
    return nn.Chain(
        stem=nn.Conv(WIDTH, WIDTH, (3, 3), kernel_init="he", use_bias=False, rngs=rngs),
        relu=nn.Activation("relu"),
        pool=nn.Pool("max", (2, 2)),
        branches=nn.Parallel(
            wide=nn.Conv(WIDTH, 12, (3, 3), kernel_init="he", use_bias=False, rngs=rngs),
            narrow=nn.PointwiseConv(WIDTH, 8, kernel_init="lecun", use_bias=False, rngs=rngs),
        ),
        norm=nn.BatchNorm(20, rngs=rngs),
        silu=nn.Activation("silu"),
        excite=nn.SqueezeExcite(20, 6, rngs=rngs),
        down=nn.Conv(20, WIDTH, (3, 3), strides=2, kernel_init="he", padding=1, rngs=rngs),
        head=nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(WIDTH, 5, rngs=rngs)),
    )


def _without_weights(rngs):
    """Branches that are functions of their shortcut: a rectifier, pools with shared maxima."""
    convs = {
        f"conv{i}": nn.Conv(
            WIDTH, WIDTH, (3, 3), padding="CIRCULAR", kernel_init="he", use_bias=False, rngs=rngs
        )
        for i in range(3)
    }
    branches = (nn.Activation("relu"), nn.Pool("max", 3, strides=1, padding="SAME"))
    branches += (nn.Pool("avg", 3, strides=1, padding="SAME"),)
    units = {}
    for (name, conv), branch in zip(convs.items(), branches, strict=True):
        units |= {name: conv, f"{name}_sum": nn.Residual(branch, "identity")}
    return nn.Chain(units)


def _dropping(rngs):
    """Dropout before a rectifier, and channels that are kept by the shortcut."""
    return nn.Chain(
        conv=nn.Conv(WIDTH, WIDTH, (3, 3), kernel_init="he", use_bias=False, rngs=rngs),
        dropout=nn.Dropout(0.4),
        relu=nn.Activation("relu"),
        dense=nn.PointwiseConv(WIDTH, WIDTH, kernel_init="lecun", use_bias=False, rngs=rngs),
    )


def _flattening(rngs):
    """Images of which a layer sees every place by weights of its own."""
    return nn.Chain(
        conv=nn.Conv(WIDTH, 8, (3, 3), kernel_init="he", use_bias=False, rngs=rngs),
        relu=nn.Activation("relu"),
        flat=lambda x: x.reshape(len(x), -1),
        dense=nn.Dense(8 * 48, 12, kernel_init="he", use_bias=False, rngs=rngs),
        tanh=nn.Activation("tanh"),
    )


def _rectified(rngs):
    """Branches that end in a rectifier, excited or not, before a sum with another behind it."""

    def unit(i):
        branch = {
            "conv": nn.Conv(WIDTH, WIDTH, (3, 3), kernel_init="he", use_bias=False, rngs=rngs),
            "relu": nn.Activation("relu"),
            **({} if i % 2 else {"excite": nn.SqueezeExcite(WIDTH, WIDTH, rngs=rngs)}),
        }
        return nn.Residual(nn.Chain(branch), "identity", activation=nn.Activation("relu"))

    return nn.Chain({f"unit{i}": unit(i) for i in range(4)})


def _averaging(rngs):
    """A mean over windows of the batch, and of values, before a norm: what it leaves of chance."""

    def unit():
        parts = {
            name: {
                "conv": nn.PointwiseConv(
                    WIDTH, WIDTH // 2, kernel_init="he", use_bias=False, rngs=rngs
                ),
                "norm": nn.BatchNorm(WIDTH // 2, rngs=rngs),
                "relu": nn.Activation("relu"),
            }
            for name in ("plain", "pooled")
        }
        pool = nn.Pool("avg", 3, strides=1, padding="SAME")
        parts["pooled"] = {"pool": pool, **parts["pooled"]}
        return nn.Parallel({name: nn.Chain(part) for name, part in parts.items()})

    return nn.Chain(first=unit(), second=unit())


NETS = {
    "averaging": _averaging,
    "rectified branches": _rectified,
    "flattening": _flattening,
    "branches without weights": _without_weights,
    "dropout": _dropping,
    "plain, zero padding": _stack(shortcut="none"),
    "residual": _stack(padding="CIRCULAR"),
    "residual, batch norm": _stack(norm="batch"),
    "plain, batch norm": _stack(norm="batch", shortcut="none"),
    "post-activation": _stack(norm="batch", order="post"),
    "group norm, tanh": _stack(norm="group", activation="tanh", init="lecun"),
    "layer norm, gelu": _stack(norm="layer", activation="gelu", branch_scale=0.5),
    "highway": _stack(shortcut="gated"),
    "separable": _stack(conv="separable", norm="batch"),
    "zero-padded transitions": lambda rngs: models.resnet_cifar(
        8, width=WIDTH, in_features=WIDTH, rngs=rngs
    ),
    "mixed": _mixed,
}


@pytest.fixture(params=sorted(NETS), scope="module")
def both(request):
    with compiling_quickly():
        return _both(NETS[request.param])


def _both(make, draws=DRAWS, image=IMAGE):
    x = jax.random.normal(jax.random.key(4), image)

    @jax.jit
    @jax.vmap
    def measure(key):
        weights, cotangent, dropped = jax.random.split(key, 3)
        net, rngs = make(nnx.Rngs(weights)), nnx.Rngs(dropped)
        return gradflow.profile(net, x, cotangent=cotangent, train=True, rngs=rngs)

    profile = measure(jax.random.split(jax.random.key(7), draws))
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    return profile, gradflow.predict(abstract, np.asarray(x), train=True)


def _gains(profile, expected, draws=DRAWS):
    """Measured gains of one unit, one for each draw; None where the profile has no input of it."""
    table = profile.table()
    rows = len(table["path"]) // draws
    at = {path: i for i, path in enumerate(table["path"][:rows])}

    def log(path, measure):
        return table[f"{measure}_log_norm"].reshape(draws, rows)[:, at[path]]

    def rms(path):
        return log(path, "activation") - 0.5 * np.log(table["activation_size"][at[path]])

    activation = gradient = None
    if expected.input in at:
        activation = rms(expected.path) - rms(expected.input)
    if expected.handed is not None:
        gradient = log(*expected.handed) - log(expected.path, "gradient")
    return activation, gradient


@pytest.mark.every(3)
def test_gains_are_as_predicted_and_scatter_as_predicted(both):
    profile, prediction = both
    scatters = {side: [] for side in SIDES}
    for unit in prediction.units:
        for side, gains in zip(scatters, _gains(profile, unit), strict=True):
            if gains is None or not np.isfinite(gains).all():
                continue
            expected, scatter, slack = (
                getattr(unit, f"{side}_gain{end}") for end in ("", "_scatter", "_slack")
            )
            leaves = sum(u.path.startswith(unit.path) for u in prediction.units)
            wide = np.sqrt(scatter**2 / DRAWS + slack**2 + 0.02**2 * leaves)
            assert abs(gains.mean() - expected) < 4 * wide, (
                unit.path,
                side,
                gains.mean(),
                expected,
            )
            if scatter > 0.02:
                scatters[side].append((gains.std(ddof=1), scatter))
    for side, pairs in scatters.items():
        found, expected = np.sqrt(np.mean(np.square(pairs), axis=0))
        # Of a batch of noise theory expects more scatter than there is: it keeps the correlations'
        # spread through a convolution, which averages those of unlike places.
        assert 0.4 < found / expected < 1.8, (side, found, expected)


@pytest.mark.every(2)
def test_compare_finds_nothing_in_a_sound_network(both):
    comparison = gradflow.compare(*both)
    assert comparison.agrees, comparison
    assert comparison.replicas == DRAWS and comparison.cause == ""


def _normed(into, features, rngs, *more, sides=(1, 1)):
    options = {"kernel_init": "he", "use_bias": False, "padding": "CIRCULAR", "rngs": rngs}
    conv = nn.Conv(into, features, sides, **options)
    return conv, nn.BatchNorm(features, rngs=rngs), *more


def _narrow(rngs):
    """Sums of few terms, and kernels that meet the next unit's in a product of low rank."""

    def unit(rngs):
        relu = nn.Activation("relu")
        units = _normed(28, 14, rngs, relu) + _normed(14, 14, rngs, relu, sides=(3, 3))
        units += _normed(14, 28, rngs)
        branch = nn.Chain({f"{i}": unit for i, unit in enumerate(units)})
        return nn.Residual(branch, "identity", activation=nn.Activation("relu"))

    conv, norm = _normed(WIDTH, 28, rngs)
    return nn.Chain(conv=conv, norm=norm, body=nn.Repeat(unit, 3, rngs=rngs))


def _side_by_side(rngs):
    """Channels of branches with kernels of their own, of which the next branches read all."""

    def unit():
        relu, windows = nn.Activation("relu"), ((1, 1), (3, 3), (3, 1))
        parts = (_normed(24, 8, rngs, relu, sides=sides) for sides in windows)
        return nn.Parallel(
            {f"part{i}": nn.Chain(c=c, n=n, a=a) for i, (c, n, a) in enumerate(parts)}
        )

    stem = nn.Conv(WIDTH, 24, (3, 3), use_bias=False, rngs=rngs)
    return nn.Chain(stem=stem, **{f"unit{i}": unit() for i in range(4)})


NORMED = {
    "plain": _stack(depth=6, norm="batch", shortcut="none", padding="CIRCULAR"),
    "residual": _stack(depth=6, norm="batch", padding="CIRCULAR"),
    "narrow": _narrow,
    "side by side": _side_by_side,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMED)
def test_a_norm_takes_back_what_scatters_in_the_kernel_before_it(name):
    """Kernels that are taken for independent of norms and of each other say half as much again."""
    with compiling_quickly():
        profile, prediction = _both(NORMED[name], draws=100)
    whole = prediction[""]
    _, gains = _gains(profile, whole, draws=100)
    assert gains.mean() == pytest.approx(whole.gradient_gain, abs=0.03)
    assert gains.std(ddof=1) == pytest.approx(whole.gradient_gain_scatter, rel=0.25)


def test_a_branch_of_zeros_leaves_what_is_rectified_as_it_was(quick_compilation):
    """As networks are initialized whose last norms have scales of zero: nothing scatters there."""

    def unit(rngs):
        norm = nn.BatchNorm(WIDTH, scale_init="zero", rngs=rngs)
        branch = nn.Chain(conv=nn.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs), norm=norm)
        return nn.Residual(branch, "identity", activation=nn.Activation("relu"))

    rngs = nnx.Rngs(0)
    stem = nn.Conv(WIDTH, WIDTH, (3, 3), use_bias=False, rngs=rngs)
    net = nn.Chain(stem=stem, body=nn.Repeat(unit, 3, rngs=rngs))
    x = jax.random.normal(jax.random.key(4), IMAGE)
    profile = gradflow.profile(net, x, cotangent=jax.random.key(1), train=True)
    prediction = gradflow.predict(net, np.asarray(x), train=True)
    between = prediction["body/1"]
    measured = [float(gain[0]) for gain in _gains(profile, between, draws=1)]
    np.testing.assert_allclose(measured, 0.0, atol=1e-5)
    expected = [getattr(between, f"{side}_gain{of}") for side in SIDES for of in ("", "_scatter")]
    np.testing.assert_allclose(expected, 0.0, atol=1e-3)


def _three_terms(rngs):
    """RepVGG's unit: a 3x3 window, a 1x1 and the input itself, each behind a norm, and a ReLU."""

    def unit(rngs):
        options = {"use_bias": False, "kernel_init": "he", "rngs": rngs}
        wide = nn.Conv(WIDTH, WIDTH, (3, 3), padding="CIRCULAR", **options)
        terms = (wide, nn.PointwiseConv(WIDTH, WIDTH, **options))
        wide, narrow = (nn.Chain(c=conv, n=nn.BatchNorm(WIDTH, rngs=rngs)) for conv in terms)
        both = nn.Residual(wide, narrow)
        return nn.Residual(both, nn.BatchNorm(WIDTH, rngs=rngs), activation=nn.Activation("relu"))

    stem = nn.Conv(WIDTH, WIDTH, (3, 3), use_bias=False, rngs=rngs)
    return nn.Chain(
        stem=stem, norm=nn.BatchNorm(WIDTH, rngs=rngs), body=nn.Repeat(unit, 3, rngs=rngs)
    )


def _wide_windows(rngs):
    """ConvNeXt's first two layers on images that are smaller than the window."""
    return nn.Chain(
        small=nn.Conv(WIDTH, 48, (4, 3), strides=(4, 3), padding="VALID", rngs=rngs),
        depthwise=nn.DepthwiseConv(48, (7, 7), rngs=rngs),
        norm=nn.LayerNorm(48, rngs=rngs),
        mix=nn.PointwiseConv(48, WIDTH, rngs=rngs),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "path", "side"),
    [(_three_terms, "body/2/activation", 0), (_wide_windows, "norm", 1)],
    ids=["a norm in place of the shortcut", "a norm over channels with few taps each"],
)
def test_what_a_norm_leaves_as_it_was(make, path, side):
    """The skew of what it shifts and scales; and that many small kernels are no small kernel."""
    with compiling_quickly():
        profile, prediction = _both(make, draws=80)
    unit = prediction[path]
    gains = _gains(profile, unit, draws=80)[side]
    expected = (unit.activation_gain, unit.gradient_gain)[side]
    if gains is None:  # what stands between is not measured: the size itself
        at = profile.table()["path"].reshape(80, -1)[0].tolist().index(path)
        gains = np.log(profile.table()["activation_rms"].reshape(80, -1)[:, at])
        expected = unit.activation_log_rms
    assert gains.mean() == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
def test_what_a_norm_divides_by_a_first_kernel_of_three_terms_undoes():
    """Rare channels decide what comes back through norm and kernel; through both it is sure."""
    draws = 200

    def make(rngs):
        options = {"use_bias": False, "kernel_init": "he", "rngs": rngs}
        conv, norm = nn.PointwiseConv(3, 24, **options), nn.BatchNorm(24, rngs=rngs)
        last = nn.Conv(24, 16, (3, 3), padding="CIRCULAR", **options)
        return nn.Chain(conv=conv, norm=norm, relu=nn.Activation("relu"), last=last)

    profile, expected = _both(make, draws, (8, 12, 12, 3))
    table = profile.table()
    paths = table["path"].reshape(draws, -1)[0].tolist()
    logs = table["gradient_log_norm"].reshape(draws, -1)
    at = {path: logs[:, paths.index(path)] for path in ("input", "conv", "norm")}
    for path, before in (("norm", "conv"), ("conv", "input")):
        gain = at[before] - at[path]
        assert gain.std() == pytest.approx(expected[path].gradient_gain_scatter, rel=0.25)
        assert gain.mean() == pytest.approx(expected[path].gradient_gain, abs=0.06)
    both = expected["norm"].gradient_gain + expected["conv"].gradient_gain
    assert (at["input"] - at["norm"]).mean() == pytest.approx(both, abs=0.02)


@pytest.mark.later
@pytest.mark.parametrize("sides", [(1, 1), (1, 2)], ids=str)
def test_a_depthwise_kernel_that_reads_a_place_or_two_is_undone_by_its_norm(sides):
    """Images smaller than the kernel: what comes back is owed to the smallest weights."""
    draws = 200

    def make(rngs):
        options = {"use_bias": False, "kernel_init": "he", "rngs": rngs}
        return nn.Chain(
            mix=nn.PointwiseConv(16, 64, **options),
            conv=nn.DepthwiseConv(64, (3, 3), padding=1, **options),
            norm=nn.BatchNorm(64, rngs=rngs),
            relu=nn.Activation("relu"),
            last=nn.PointwiseConv(64, 24, **options),
        )

    with compiling_quickly():
        profile, expected = _both(make, draws, (12, *sides, 16))
    table = profile.table()
    paths = table["path"].reshape(draws, -1)[0].tolist()
    logs = table["gradient_log_norm"].reshape(draws, -1)
    at = {path: logs[:, paths.index(path)] for path in ("mix", "conv", "norm")}
    gain, whole = at["conv"] - at["norm"], at["mix"] - at["norm"]
    both = expected["norm"].gradient_gain + expected["conv"].gradient_gain
    assert gain.mean() == pytest.approx(expected["norm"].gradient_gain, abs=0.1)
    assert gain.std() == pytest.approx(expected["norm"].gradient_gain_scatter, rel=0.2)
    assert whole.mean() == pytest.approx(both, abs=0.08)  # of 2.8 through the norm
