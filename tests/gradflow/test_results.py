"""Results say themselves: short where Python shows them, a table where they are printed."""

import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(2)
X = jax.random.normal(jax.random.key(1), (4, 5, 3, 4))


def unit(rngs):
    branch = nn.Chain(
        norm=nn.GroupNorm(4, num_groups=2, rngs=rngs),
        conv=nn.Conv(4, 4, (3, 3), kernel_init="he", use_bias=False, rngs=rngs),
    )
    return nn.Residual(branch, scale=0.2)


@cache
def net():
    return nn.Chain(body=nn.Repeat(unit, 60, rngs=nnx.Rngs(0)), pool=nn.GlobalPool())


def spectrum(method, values):
    moments = {"mean_square": 1.0, "mean_square_error": 0.1, "relative_variance": 2.0}
    return gradflow.Spectrum(
        *((200, 300), method, values, 0 * values),
        **moments,
        relative_variance_error=0.0,
        tolerance=1e-5,
    )


@cache
def results():
    profile = gradflow.profile(net(), X, cotangent=KEY, train=False)
    prediction = gradflow.predict(net(), X, train=False)
    rng = np.random.default_rng(0)
    norms = gradflow.Norm(rng.uniform(1, 2, (61,)), np.ones(61), np.zeros(61), 5)
    whole = gradflow.Norm(np.asarray(3.0), np.asarray(1.0), np.asarray(0.0), 5)
    five = gradflow.Norm(*rng.uniform(1, 2, (3, 1, 5)), 5)
    correlation = gradflow.Correlation(jnp.eye(5)[None] * 0.9 + 0.1, five, False)
    values, paths = rng.uniform(1, 2, 200), tuple(f"{i}/kernel" for i in range(200))
    return {
        "profile": profile,
        "prediction": prediction,
        "comparison": gradflow.compare(profile, prediction),
        "paths": gradflow.Paths(norms, whole, 4, False),
        "correlation": correlation,
        "line": gradflow.Line(correlation, jnp.asarray(2.0)),
        "spectrum": spectrum("dense", np.sort(values)[::-1]),
        "per example": gradflow.PerExample(values, values, dict.fromkeys(paths, values)),
        "ratios": gradflow.Ratios(paths, values, np.where(values > 1.9, -np.inf, values)),
        "gradient scale": gradflow.GradientScale(paths, values, values / 9),
    }


NAMES = [
    *("profile", "prediction", "comparison", "paths", "correlation", "line", "spectrum"),
    *("per example", "ratios", "gradient scale"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_says_itself(name):
    result = results()[name]
    assert repr(result).startswith(type(result).__name__ + "(") and len(repr(result)) < 250
    lines = str(result).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 60
    assert str(result) == result.text() == result.text(width=80, rows=48)
    assert max(map(len, result.text(width=None, rows=None).splitlines())) >= len(lines[0])
    page = result._repr_html_()
    assert page.startswith("<div>") and page.endswith("</div>") and "<table>" in page
    with pytest.raises(ValueError, match="width=10"):
        result.text(width=10)


def test_a_long_profile_is_its_trunk_and_of_that_the_ends():
    profile = results()["profile"]
    text = str(profile)
    first, last = (profile[path].gradient for path in ("body/0", "body/59"))
    for path, norm in (("body/0", first), ("body/59", last)):
        (row,) = [line.split() for line in text.splitlines() if line.startswith(f"{path} ")]
        assert row[1] == "Residual"
        np.testing.assert_allclose(float(row[3]), norm.rms, rtol=6e-3)
    assert "/branch/" not in text and "body/30" not in text
    assert "48 of 304 rows, without units inside branches and the middle" in " ".join(text.split())
    assert "body/30/branch/conv" in profile.text(rows=None)


def test_a_representation_asks_for_nothing_that_is_not_there():
    seen = []

    def run(x):
        result = gradflow.profile(net(), x, cotangent=KEY, train=False)
        seen.append(repr(result) + repr(result["pool"]))
        return result

    shapes = jax.eval_shape(run, X)
    empty = jax.tree.map(lambda _: None, results()["paths"])
    assert "batch of 4, train=False)" in seen[0] and "gradient rms" not in seen[0]
    assert "Profile(" in repr(shapes) and "Paths(" in repr(empty)
    assert repr(results()["profile"]).startswith("Profile(303 units, batch of 4, train=False; grad")
    for result in ("prediction", "comparison"):
        unit = results()[result]["body/3/branch/conv"]
        assert repr(unit).startswith(f"{type(unit).__name__}(body/3/branch/conv, Conv: ")
        assert len(repr(unit)) < 250
    unit = repr(results()["profile"]["pool"])
    assert "Norm(norm=" in unit and "array" not in unit.lower()


def test_a_verdict_says_how_far_and_how_far_is_allowed():
    comparison = results()["comparison"]
    z = [abs(z) for u in comparison.units for z in (u.activation_z, u.gradient_z) if z == z]
    units = sum(u.activation_z == u.activation_z for u in comparison.units)
    assert comparison.largest == max(z)
    said = f"largest |z| {max(z):.1f}, allowed {comparison.threshold:.1f}, over {units} units"
    assert comparison.verdict == f"as theory expects: {said}"
    assert repr(comparison) == f"Comparison({comparison.verdict})"
    assert "the 8 farthest of" in str(comparison)


def test_what_departs_is_in_the_table_although_others_are_farther():
    units = list(results()["comparison"].units)
    for i in range(1, 18):  # body/0/branch/conv is the first leaf of them
        units[i] = gradflow.Compared(
            *(units[i].path, units[i].kind, 0.5, 10.0 + i, 0.1, 0.0, units[i].expected)
        )
    comparison = gradflow.Comparison(
        tuple(units), 4.0, units[1].path, "activation", "", (), replicas=1
    )
    assert f"departs at {units[1].path} " in " ".join(str(comparison).split())
    assert any(line.startswith(f"{units[1].path} ") for line in str(comparison).splitlines())
    assert "(z = +11.0, allowed 4.0)" in comparison.verdict
    assert "of which 17 depart" in " ".join(str(comparison).split())


def test_remarks_that_differ_in_a_percentage_are_one():
    net = nn.Chain(
        *(nn.Conv(3, 3, (3, 3), strides=2, kernel_init="he", rngs=nnx.Rngs(i)) for i in range(3))
    )
    found = gradflow.predict(net, (2, 16, 16, 3), train=False)
    notes = {unit.note for unit in found.units if unit.note}
    (said,) = [line for line in str(found).splitlines() if "worth knowing" in line]
    assert len(notes) == 3 and "to" in said.partition("leaves")[2]


def drawn(figure):
    return [list(panel.series) for panel in figure.panels]


def test_pictures_show_the_numbers():
    profile, prediction = results()["profile"], results()["prediction"]
    (activation,), (gradient,) = drawn(profile.plot(prediction))
    # The batch, sixty units, and the pool: neither what holds them nor what is inside.
    assert list(gradient.names) == ["input", *(f"body/{i}" for i in range(60)), "pool"]
    np.testing.assert_allclose(10 ** gradient.y[1:61], profile["body/*"].gradient.rms, rtol=1e-4)
    np.testing.assert_allclose(10 ** activation.y[0], profile["input"].activation.rms, rtol=1e-4)
    expected = prediction["body/7"]
    size = np.log(profile["pool"].gradient.norm) - 0.5 * np.log(X.size)
    ln = np.log(10)
    np.testing.assert_allclose(
        gradient.expected[8] * ln, expected.gradient_log_norm + size, rtol=1e-4
    )
    off = np.hypot(2 * expected.gradient_scatter, expected.gradient_slack)
    np.testing.assert_allclose((gradient.expected_high - gradient.expected)[8] * ln, off, rtol=1e-6)
    assert np.isnan(gradient.expected[0])
    assert [len(series) for series in drawn(prediction.plot())] == [1, 1]
    paths = results()["paths"]
    np.testing.assert_allclose(drawn(paths.plot())[0][0].y, paths.energy)
    line = results()["line"]
    np.testing.assert_allclose(drawn(line.plot())[0][0].y, line.autocorrelation)
    spectrum = results()["spectrum"]
    np.testing.assert_allclose(drawn(spectrum.plot())[0][0].y, spectrum.singular_values)


def test_a_picture_of_a_comparison_shows_what_departs_and_how_much_is_allowed():
    comparison = results()["comparison"]
    assert [len(panel) for panel in drawn(comparison.plot())] == [1, 1]
    units = list(comparison.units)
    units[4] = gradflow.Compared(
        *(units[4].path, units[4].kind, 0.1, 0.0, 0.5, -np.inf, units[4].expected)
    )
    departed = gradflow.Comparison(tuple(units), 4.5, units[4].path, "gradient", "", (), replicas=1)
    _, (every, first) = drawn(departed.plot())
    assert first.label == f"first that departs: {units[4].path}" and first.y[0] == every.y[4]
    assert first.y[0] < -4.5 and (every.expected_high == 4.5).all()


def test_several_networks_are_drawn_as_mean_and_ends():
    def measure(key):
        return gradflow.profile(nn.Activation("relu"), X, cotangent=key, train=False)

    found = jax.vmap(measure)(jax.random.split(KEY, 3))
    _, (gradient,) = drawn(found.plot())
    logs = found["input"].gradient.log_rms / np.log(10)
    np.testing.assert_allclose(
        [gradient.low[0], gradient.high[0]], [logs.min(), logs.max()], rtol=1e-5
    )
    np.testing.assert_allclose(gradient.y[0], logs.mean(), rtol=1e-5)


def test_of_many_networks_the_mean_is_printed_and_of_few_each():
    def replicated(count):
        spread = np.linspace(-1, 1, count)
        norm = gradflow.Norm(np.exp(2 * spread) * 4.0, np.ones(count), np.zeros(count), 4)
        units = (gradflow.Unit("input", norm, norm, {}, {}),) * 2
        return gradflow.Profile(("input", ""), units, None, 8, True, ())

    lines = str(replicated(16)).splitlines()
    assert [line.split()[-2:] for line in lines[1:3]] == [["1", "1"]] * 2
    assert lines[-1] == "geometric means over 16 replicas; table() has each"
    few = str(replicated(2)).splitlines()
    assert [line[:2] for line in few[1:5]] == ["0:", "0:", "1:", "1:"]


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    profile = results()["profile"]
    other = gradflow.predict(nn.Chain(alone=nn.Identity()), X.shape, train=True)
    with pytest.raises(ValueError, match="none of the profile's units"):
        profile.plot(gradflow.Prediction(other.units[:1], 4, True, ()))
    with pytest.raises(TypeError, match=r"^prediction="):
        profile.plot(profile)
    with pytest.raises(ValueError, match="method='hutchinson'"):
        spectrum("hutchinson", np.zeros(0)).plot()
    for name in [name for name in sys.modules if name.startswith("convjax.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("convjax.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib") as caught:
        profile.plot()
    assert isinstance(caught.value, ValueError)
