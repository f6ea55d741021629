"""Weights of Keras applications in our networks: the logits are Keras's."""

import pytest

from tests.models import keras_oracle

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Application, our name, size of the image; the quickest alone run with every change.
SLOW = pytest.mark.slow
APPLICATIONS = [
    pytest.param("ResNet50", "resnet50", (64, 72), marks=SLOW),
    pytest.param("ResNet50V2", "resnetv2_50", (70, 75)),
    pytest.param("ConvNeXtTiny", "convnext_tiny", (70, 41), marks=SLOW),
]


@pytest.mark.parametrize(("app", "name", "size"), APPLICATIONS)
def test_logits(app, name, size):
    keras_oracle.check(app, name, size)
