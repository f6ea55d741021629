"""Losses and scores against NumPy, and the evaluation of a test set against one big batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import train
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import small

pytestmark = pytest.mark.usefixtures("quick_compilation")


def numpy_loss(logits, wanted):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.mean(np.sum(wanted * logs, -1))


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_its_formula(smoothing, soft):
    random = np.random.default_rng(0)
    logits = 5 * random.normal(size=(7, 4)).astype(np.float32)
    classes = random.integers(0, 4, 7)
    wanted = random.dirichlet(np.ones(4), 7) if soft else np.eye(4)[classes]
    labels = wanted.astype(np.float32) if soft else classes.astype(np.int32)
    found = train.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing=smoothing)
    expected = numpy_loss(logits, (1 - smoothing) * wanted + smoothing / 4)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    right = np.mean(logits.argmax(-1) == wanted.argmax(-1))
    assert float(train.accuracy(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(right)


def test_the_loss_of_half_precision_logits_is_a_float32():
    logits = jnp.array([[0.0, 12.0], [9.0, 0.0]], jnp.bfloat16)
    loss = train.cross_entropy(logits, jnp.array([1, 0]))
    assert loss.dtype == jnp.float32
    expected = numpy_loss(logits.astype(jnp.float32), np.eye(2)[[1, 0]])
    assert float(loss) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "labels", [jnp.zeros(3, int), jnp.zeros(4), jnp.zeros((4, 3)), jnp.zeros((2, 2), int)]
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels have shape"):
        train.cross_entropy(jnp.zeros((4, 2)), labels)


def test_a_smoothing_of_everything_is_refused():
    with pytest.raises(ValueError, match=r"smoothing=1\.0 must be at least 0 and less than 1"):
        train.cross_entropy(jnp.zeros((1, 2)), jnp.zeros(1, int), smoothing=1.0)


@pytest.mark.parametrize("score", [train.cross_entropy, train.accuracy])
@pytest.mark.parametrize(("labels", "wrong"), [([1, 99], 99), ([1, -1], -1), ([1, 3], 3)])
def test_a_label_that_is_no_class_is_refused_and_under_jit_nan(score, labels, wrong):
    logits, labels = jnp.zeros((2, 3)), jnp.array(labels)
    said = rf"labels\[1\]={wrong} is no class: there are 3 classes, 0 to 2, and 1 of 2"
    with pytest.raises(ValueError, match=said):
        score(logits, labels)
    assert np.isnan(jax.jit(score)(logits, labels))
    assert np.isfinite(jax.jit(score)(logits, jnp.array([1, 2])))


@pytest.mark.parametrize("score", [train.cross_entropy, train.accuracy])
@pytest.mark.parametrize("wrong", [[0.5, 0.2, 0.1], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]])
def test_what_are_no_probabilities_is_refused_and_under_jit_nan(score, wrong):
    logits, labels = jnp.zeros((2, 3)), jnp.array([[0.25, 0.25, 0.5], wrong])
    with pytest.raises(ValueError, match=r"labels\[1\]=.* must be probabilities"):
        score(logits, labels)
    assert np.isnan(jax.jit(score)(logits, labels))


def test_a_wrong_label_spoils_the_gradient_as_well():
    gradient = jax.jit(jax.grad(train.cross_entropy))(jnp.zeros((2, 3)), jnp.array([0, 3]))
    assert np.isnan(gradient[1]).all()


def test_bytes_can_be_labels_of_more_classes_than_bytes():
    logits = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32)
    labels = np.array([0, 3, 43, 44, 255], np.uint8)
    expected = numpy_loss(logits, np.eye(300)[labels])
    for loss in (train.cross_entropy, jax.jit(train.cross_entropy)):
        assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    assert float(train.accuracy(jnp.asarray(np.eye(300)[labels]), labels)) == 1.0


def test_logits_of_nan_are_not_right():
    logits = jnp.array([[np.nan, np.nan], [np.nan, 9.0], [2.0, 1.0], [1.0, 2.0]])
    assert float(train.accuracy(logits, jnp.array([0, 1, 0, 0]))) == 0.25
    assert np.isnan(train.cross_entropy(logits, jnp.array([0, 1, 0, 0])))


@pytest.mark.parametrize("batch_size", [24, 7, 100, 1])
def test_an_evaluation_counts_every_example_once(pictures, batch_size, quick_compilation):
    net, (images, labels) = small(), pictures
    logits = jax.jit(lambda x: net(x, train=False))(images)
    found = train.evaluate(net, pictures, batch_size=batch_size)
    expected = numpy_loss(logits, np.eye(3)[np.asarray(labels)])
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == pytest.approx(float(jnp.mean(logits.argmax(-1) == labels)))


def test_an_evaluation_takes_batches_as_they_come(pictures, quick_compilation):
    net, (images, labels) = small(), pictures

    def batches():
        for part in (slice(0, 10), slice(10, 20), slice(20, 24)):
            yield images[part], labels[part]

    found, whole = train.evaluate(net, batches), train.evaluate(net, pictures)
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert found["accuracy"] == pytest.approx(whole["accuracy"])


@pytest.mark.parametrize(("images", "labels"), [(3, 2), (0, 0)])
def test_an_evaluation_of_nothing_is_refused(images, labels):
    match = (
        rf"test has images of the shape \({images}, 5, 4, 2\) and labels of the shape \({labels},\)"
    )
    with pytest.raises(ValueError, match=match):
        train.evaluate(small(), (jnp.zeros((images, 5, 4, 2)), jnp.zeros(labels, int)))


@pytest.mark.parametrize("as_batches", [False, True])
@pytest.mark.parametrize("wrong", [-1, 3, 99])
def test_an_evaluation_refuses_a_label_that_is_no_class(
    pictures, wrong, as_batches, quick_compilation
):
    images, labels = pictures[0][:4], pictures[1][:4].at[2].set(wrong)
    test = (lambda: [(images, labels)]) if as_batches else (images, labels)
    with pytest.raises(ValueError, match=rf"test labels\[2\]={wrong} is no class: there are 3"):
        train.evaluate(small(), test)


def test_an_image_of_nan_is_not_right(pictures, quick_compilation):
    images, labels = pictures[0][:4] * jnp.nan, jnp.zeros(4, int)
    assert train.evaluate(small(), (images, labels)) == pytest.approx(
        {"loss": np.nan, "accuracy": 0.0}, nan_ok=True
    )
