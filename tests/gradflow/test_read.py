"""Measurements and theory of networks that know nothing of convjax, held against other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.nn.test_read import Gated, Mobile, ResNet, Stacked, image

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def promoting():
    """Other people's networks count on what JAX does if nobody forbids it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def perturbed(graphdef, state, x, added):
    """The output, every module's own plus what is added to it, and their shapes."""
    net, shapes = nnx.merge(graphdef, state, copy=True), {}
    for path, module in list(nnx.iter_modules(net)):
        kind, name = type(module), "/".join(map(str, path))
        if not path or not callable(module):
            continue

        def call(self, *given, kind=kind, name=name, **options):
            y = kind.__call__(self, *given, **options)
            shapes[name] = y.shape
            return y + added.get(name, 0.0)

        module.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return net(x), shapes


def references(net, x, cotangent):
    """Norms of the gradients by every module's output, and by every parameter."""
    graphdef, state = nnx.split(net)
    _, shapes = perturbed(graphdef, state, x, {})
    zeros = {name: jnp.zeros(shape, x.dtype) for name, shape in shapes.items()}
    params, rest = nnx.split_state(state, nnx.Param, ...)

    @jax.jit
    def gradients(added, params):
        def total(added, params):
            merged = nnx.merge_state(params, rest)
            return jnp.sum(perturbed(graphdef, merged, x, added)[0] * cotangent)

        return jax.grad(total, (0, 1))(added, params)

    outputs, parameters = gradients(zeros, params)
    by_path = {"/".join(map(str, k)): v[...] for k, v in nnx.to_flat_state(parameters)}
    return outputs, by_path


@pytest.mark.parametrize("kind", [ResNet, Mobile])
def test_every_norm_is_that_of_explicit_perturbations(kind):
    net, x = kind(nnx.Rngs(0)), image(3 if kind is ResNet else 4)
    cotangent = jax.random.normal(jax.random.key(2), net(x).shape)
    net = kind(nnx.Rngs(0))  # dropout counts its calls
    outputs, parameters = references(net, x, cotangent)
    measured = gradflow.profile(net, x, cotangent=cotangent)
    assert set(outputs) - set(measured.paths) <= {"blocks/0", "blocks/1", "excite"}
    held = [(measured[n].gradient, g) for n, g in outputs.items() if n in measured.paths]
    for name, gradient in parameters.items():
        module, _, parameter = name.rpartition("/")
        unit = measured[module if module else name]
        held.append((unit.parameter_gradients[parameter], gradient))
    assert len(held) >= 12
    largest = max(float(jnp.linalg.norm(g)) for _, g in held)
    for norm, gradient in held:
        np.testing.assert_allclose(norm.norm, jnp.linalg.norm(gradient), 1e-5, 1e-6 * largest)


def rectified(p, x):
    layout = ("NHWC", "HWIO", "NHWC")

    def step(x, w):
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        return jax.nn.relu(y), None

    return jax.lax.scan(step, x, p["w"])[0]


def test_a_loop_of_a_thousand_layers_is_finite_at_every_one():
    w = jax.random.normal(jax.random.key(0), (1000, 3, 3, 4, 4)) * 0.1
    measured = gradflow.profile(
        nn.Function(rectified, {"w": w}), image(4), cotangent=jax.random.key(2)
    )
    table = measured.table()
    assert table["path"].tolist()[:4] == ["input", "0/w", "0/relu", "1/w"]
    logs = table["gradient_log_norm"]
    assert len(logs) == 2002 and np.isfinite(logs).all() and logs[0] < -300
    plain = jax.grad(lambda x: rectified({"w": w}, x).sum())(image(4))
    assert float(jnp.abs(plain).max()) == 0


def test_paths_theory_and_cost_are_those_of_the_same_network_in_combinators():
    rngs = nnx.Rngs(0)
    ours = nn.Chain(
        stem=nn.Conv(3, 4, (3, 3), rngs=rngs),
        unit=nn.Residual(
            nn.Chain(
                norm=nn.BatchNorm(4, rngs=rngs),
                relu=nn.Activation("relu"),
                conv=nn.Conv(4, 4, (3, 3), rngs=rngs),
            )
        ),
        pool=nn.GlobalPool(),
        dense=nn.Dense(4, 2, rngs=rngs),
    )

    class Theirs(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
            self.dense = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            x = self.stem(x)
            x = x + self.conv(jax.nn.relu(self.norm(x)))
            return self.dense(x.mean((1, 2)))

    theirs = Theirs(nnx.Rngs(1))
    for name in ("stem", "conv", "dense"):
        source = nn.at(ours, "unit/branch/conv") if name == "conv" else getattr(ours, name)
        for part in ("kernel", "bias"):
            getattr(theirs, name).__dict__[part].set_value(getattr(source, part)[...])
    x, cotangent = image(3), jax.random.normal(jax.random.key(4), (3, 2))
    found = [
        gradflow.paths(net, x, cotangent=cotangent, train=train)
        for net, train in ((ours, True), (theirs, None))
    ]
    np.testing.assert_allclose(found[0].log_energy, found[1].log_energy, rtol=1e-4)
    expected = gradflow.predict(ours, x, train=True, kernels="measured")
    read = gradflow.predict(theirs, x)
    assert read.unknown == () and read.train
    for mine, other in (("stem", "stem"), ("unit/branch/conv", "conv"), ("unit", "add"), ("", "")):
        for field in ("activation_log_rms", "gradient_log_norm", "gradient_scatter"):
            np.testing.assert_allclose(
                getattr(read[other], field), getattr(expected[mine], field), atol=1e-3
            )


def test_what_is_not_known_is_named_and_measured_all_the_same():
    net, x = Stacked(nnx.Rngs(0)), image(4)
    measured = gradflow.profile(net, x, cotangent=jax.random.key(2))
    assert measured.opaque == ("blocks/*/mul",)
    assert "not seen through, measured from outside: blocks/*/mul" in str(measured)
    found = gradflow.paths(net, x, cotangent=jax.random.key(2))
    assert found.whole == ("blocks/*/mul",)
    assert "paths inside of these are not told apart, each is one leaf: blocks/*/mul" in str(found)


def test_examples_that_a_norm_couples_have_no_gradients_of_their_own():
    with pytest.raises(ValueError, match="the norm at 'blocks/0/norm' takes its statistics"):
        gradflow.per_example_norms(ResNet(nnx.Rngs(0)), image(3), loss=jnp.sum)
    net = ResNet(nnx.Rngs(0))
    net.eval()
    assert len(gradflow.per_example_norms(net, image(3), loss=jnp.sum).log_norm) == 3


class Dropping(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.drop(self.linear(x))


@pytest.mark.parametrize("held", [True, False])
def test_every_example_drops_what_is_its_own_where_the_network_holds_the_key(held):
    key = jax.random.key(3)

    def apply(p, x):
        y = x @ p
        return jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y, 0)

    net = Dropping() if held else nn.Function(apply, jnp.ones((4, 5)))
    x = jnp.tile(image(4)[:1, 0, :1], (8, 1, 1))
    found = gradflow.per_example_norms(net, x, loss=jnp.sum)
    assert len(set(found.loss.tolist())) > 2
    scale = gradflow.noise_scale(net, x, loss=jnp.sum)
    assert scale.trace > 0


class Flat(nnx.Module):
    """A network that ends as old ones do."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4 * 5 * 4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).reshape(x.shape[0], -1))


def test_a_flattened_image_is_priced_and_predicted():
    net, x = Flat(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (3, 5, 4, 3))
    assert convjax.cost(net, x.shape).multiply_adds == 3 * (5 * 4 * 27 * 4 + 80 * 2)
    measured = gradflow.profile(net, x, cotangent=jax.random.key(2))
    found = gradflow.compare(measured, gradflow.predict(net, x))
    assert found.agrees and "theory covers" not in str(found)
    assert str(found).endswith("called as net(x)") and "called as net(x)" in found._repr_html_()


class Partial(nnx.Module):
    """One part of it, a product of two paths, is not seen through."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.gate = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.mix = nnx.Conv(4, 4, (3, 3), rngs=rngs)

    def __call__(self, x, train):
        x = self.conv(x) * jnp.where(jnp.sum(x) > 0, jnp.tanh(self.gate(x)), 1.0)
        return x + jax.nn.relu(self.mix(x))


LOSS = {"loss": jnp.sum, "train": False}
RESULTS = {
    "cost": lambda net, x: convjax.cost(net, x.shape),
    "profile": lambda net, x: gradflow.profile(net, x, **LOSS),
    "paths": lambda net, x: gradflow.paths(net, x, **LOSS),
    "predict": lambda net, x: gradflow.predict(net, x, train=False),
    "compare": lambda net, x: gradflow.compare(
        gradflow.profile(net, x, **LOSS), gradflow.predict(net, x, train=False)
    ),
    "spectrum": lambda net, x: gradflow.spectrum(net, x[:, :2, :2], train=False),
    "correlation": lambda net, x: gradflow.correlation(
        net, x, cotangent=jax.random.key(0), train=False
    ),
    "line": lambda net, x: gradflow.line(
        net, x[0], x[1], points=3, cotangent=jax.random.key(0), train=False
    ),
    "per example": lambda net, x: gradflow.per_example_norms(net, x, **LOSS),
    "noise scale": lambda net, x: gradflow.noise_scale(net, x, **LOSS),
}
PART = {
    "profile": "not seen through, measured from outside: ",
    "paths": "each is one leaf: ",
    "predict": "; not: conv, gate",
    "compare": "; not: conv, gate",
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_says_how_the_network_was_called_and_what_was_not_seen(name):
    found = RESULTS[name](Partial(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (2, 5, 4, 3)))
    shown = [str(found)] + ([found._repr_html_()] if name != "noise scale" else [])
    for text in (" ".join(one.split()) for one in shown):
        assert "called as net(x, train=False)" in text
        assert PART.get(name, "") in text
        assert "nan" not in text


def test_theory_names_a_product_of_two_paths_and_goes_on_around_it():
    net, x = Gated(nnx.Rngs(0)), image(4)
    expected = gradflow.predict(net, x)
    assert "mul" in expected.unknown
    assert "theory covers" in str(expected)
    measured = gradflow.profile(net, x, cotangent=jax.random.key(2))
    assert gradflow.compare(measured, expected)


class Excited(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.down = nnx.Linear(8, 3, rngs=rngs)
        self.up = nnx.Linear(3, 8, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x))
        gate = nnx.sigmoid(self.up(nnx.relu(self.down(x.mean((1, 2))))))
        return x * gate[:, None, None, :]


def test_squeeze_and_excitation_is_predicted_as_our_own_leaf_is():
    theirs, x, rngs = Excited(nnx.Rngs(0)), image(4), nnx.Rngs(0)
    conv, se = nn.Conv(4, 8, (3, 3), rngs=rngs), nn.SqueezeExcite(8, 3, rngs=rngs)
    conv.kernel.set_value(theirs.conv.kernel[...])
    se.reduce.kernel.set_value(theirs.down.kernel[...][None, None])
    se.expand.kernel.set_value(theirs.up.kernel[...][None, None])
    ours = nn.Chain(conv=conv, relu=nn.Activation("relu"), se=se)
    expected = gradflow.predict(ours, x, train=False, kernels="measured")
    found = gradflow.predict(theirs, x, kernels="measured")
    assert found.unknown == ()
    for mine, other in (("conv", "conv"), ("relu", "relu"), ("mul", "se")):
        for field in ("activation_log_rms", "gradient_log_norm"):
            values = getattr(found[mine], field), getattr(expected[other], field)
            np.testing.assert_allclose(*values, atol=1e-6)
