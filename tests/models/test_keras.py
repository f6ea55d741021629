"""Weights of Keras applications in our networks: the logits are Keras's."""

import pytest

from tests.models import keras_oracle

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Application, our name, size of the image; the quickest alone run with every change.
SLOW = pytest.mark.slow
APPLICATIONS = [
    pytest.param("ResNet50V2", "resnetv2_50", (70, 75)),
    *(
        pytest.param(*case, marks=SLOW)
        for case in (
            ("ResNet50", "resnet50", (64, 72)),
            ("ConvNeXtTiny", "convnext_tiny", (70, 41)),
            ("MobileNet", "mobilenetv1_100", (67, 72)),
            ("MobileNetV2", "mobilenetv2_100", (67, 72)),
            ("MobileNetV3Small", "mobilenetv3_small_100", (67, 72)),
            ("MobileNetV3Large", "mobilenetv3_large_100", (67, 72)),
            ("EfficientNetB0", "efficientnet_b0", (64, 75)),
            ("EfficientNetB1", "efficientnet_b1", (67, 72)),
            ("Xception", "legacy_xception", (75, 82)),
            ("InceptionV3", "inception_v3", (79, 90)),
            ("InceptionResNetV2", "inception_resnet_v2", (79, 90)),
        )
    ),
]


@pytest.mark.parametrize(("app", "name", "size"), APPLICATIONS)
def test_logits(app, name, size):
    keras_oracle.check(app, name, size)
