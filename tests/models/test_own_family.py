"""A family written from outside: its table and its key rules, by public names alone."""

import inspect
from typing import Unpack

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import models, nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Channels of the stages; each convolves twice, at half the size of the one before.
TABLE = {"twice_s": (2, 4), "twice_m": (2, 4, 6)}
FAMILY = models.Family(
    "twice",
    torch={
        "stage{s}/conv{k}": "layers.{s-1}.conv.{k-1}",
        "stage{s}/norm{k}": "layers.{s-1}.norm.{k-1}",
        "head/dense": "classifier",
    },
)


@models.with_options(activation="relu6", num_classes=3)
def twice(widths: tuple[int, ...], **options: Unpack[models.Options]) -> models.Network:
    """Return a network of two convolutions in every stage.

    Args:
      widths: channels of the stages.
      norm: of every convolution.
      **options: those of every family, see ``models.Options``.
    """
    style = models.Style.of(options, FAMILY)
    units, before = {}, style.in_features
    for s, width in enumerate(widths, 1):
        first = style.step((before, width), 3, 2, number=1)
        units[f"stage{s}"] = nn.Chain({**first, **style.step((width, width), 3, number=2)})
        before = width
    return style.network({**units, "head": style.head(before)})


@pytest.fixture(autouse=True)
def registered():
    """Register the family for the length of one test."""
    models.register(twice, {name: {"widths": widths} for name, widths in TABLE.items()})
    yield
    models.register(twice, {})


def published():
    """A state dict as a file of PyTorch's has it."""
    generator = np.random.default_rng(3)
    shapes = {"classifier.weight": (3, 4), "classifier.bias": (3,)}
    for s, (before, width) in enumerate(((3, 2), (2, 4))):
        shapes[f"layers.{s}.conv.0.weight"] = (width, before, 3, 3)
        shapes[f"layers.{s}.conv.1.weight"] = (width, width, 3, 3)
        for k in (0, 1):
            for weight in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"layers.{s}.norm.{k}.{weight}"] = (width,)
    return {
        name: generator.uniform(0.1, 1.0, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def convolved(x, kernel, stride):
    """Convolve an image (channels, height, width), padded by one place, in float64."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    return np.einsum("ihwab,oiab->ohw", windows[:, ::stride, ::stride], kernel)


def logits(weights, x):
    """The network by hand, channels first."""
    for s in (0, 1):
        for k in (0, 1):
            x = convolved(x, weights[f"layers.{s}.conv.{k}.weight"], 1 if k else 2)
            scale, bias, mean, var = (
                weights[f"layers.{s}.norm.{k}.{name}"][:, None, None].astype(np.float64)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            x = np.clip((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0, 6)
    return weights["classifier.weight"] @ x.mean((1, 2)) + weights["classifier.bias"]


def test_published_weights_are_loaded_by_the_rules():
    net, weights = models.create("twice_s", rngs=nnx.Rngs(0)), published()
    assert models.load_weights(net, weights).count == len(weights)
    x = np.random.default_rng(0).normal(size=(3, 8, 12))
    ours = net(jnp.asarray(np.moveaxis(x, 0, -1)[None], jnp.float32))[0]
    np.testing.assert_allclose(ours, logits(weights, x), rtol=1e-5)
    for name, array in models.export_weights(net).items():
        np.testing.assert_array_equal(array, weights[name])


def test_the_list_knows_it_and_its_price_is_known():
    assert models.list("twice_*") == ("twice_s", "twice_m")
    net = nnx.eval_shape(lambda: models.create("twice_m", norm="none", rngs=nnx.Rngs(0)))
    assert (net.name, net.family) == ("twice_m", FAMILY)
    kernels = 9 * (3 * 2 + 2 * 2 + 2 * 4 + 4 * 4 + 4 * 6 + 6 * 6)
    assert convjax.cost(net, (1, 16, 16, 3)).parameters == kernels + 24 + 7 * 3


def test_every_option_stands_in_its_signature_and_its_help():
    parameters = inspect.signature(twice).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults["activation"] == "relu6" and defaults["norm"] == "batch"
    assert defaults["num_classes"] == 3 and list(parameters)[-1] == "rngs"
    text = inspect.getdoc(twice) or ""
    assert "  in_features: channels of the image.\n" in text
    assert text.count("  norm:") == 1 and "**options" not in text


def test_its_options_are_taken_in_their_plain_forms():
    x = jnp.ones((1, 4, 4, 3))
    net = models.create("twice_s", num_classes=np.int64(5), rngs=nnx.Rngs(0))
    assert net(x).shape == (1, 5)


def test_a_network_whose_family_has_no_rules_says_so():
    chain = nn.Chain(dense=nn.Dense(2, 3, rngs=nnx.Rngs(0)))
    net = models.Network({"head": chain}, family=models.Family("bare"))
    with pytest.raises(ValueError, match="family 'bare' has no key rules for torch"):
        models.export_weights(net)
    net = models.Network({"head": chain}, family=models.Family("bare", torch={"tail": "fc"}))
    with pytest.raises(ValueError, match="no key rule of the family 'bare' for torch fits 'head/d"):
        models.load_weights(net, {"fc.weight": np.ones((3, 2))})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"stage{s}": "layers.{i}"}, "'layers.{i}' has the number 'i'"),
        ({"stage{s+1}": "layers.{s}"}, "every number once and as it is"),
        ({"stage{s}/{s}": "layers.{s}"}, "every number once"),
        ({"dense": "fc@2x2"}, "form='2x2'.*1x1"),
    ],
)
def test_rules_that_can_name_nothing_are_refused(rules, message):
    with pytest.raises(ValueError, match=f"torch: rule .*{message}"):
        models.Family("bare", torch=rules)


def test_names_and_options_of_other_families_are_kept():
    with pytest.raises(ValueError, match="'resnet18' is the name of another"):
        models.register(twice, {"resnet18": {"widths": (2,)}})
    with pytest.raises(ValueError, match=r"twice_l \(twice\): option='width' .*widths"):
        models.register(twice, {"twice_l": {"width": (2,)}})
    assert "twice_s" in models.list()
    with pytest.raises(ValueError, match=r"twice_s \(twice\): option='drop' .*dropout"):
        models.create("twice_s", drop=0.5, rngs=nnx.Rngs(0))


def test_a_function_without_shared_options_is_refused():
    with pytest.raises(ValueError, match="build=plain takes no shared options"):
        models.with_options()(plain)
    with pytest.raises(ValueError, match="option='with' is not known; did you mean"):
        models.with_options(**{"with": 3})(twice.__wrapped__)


def plain(width: int = 3):
    return width
