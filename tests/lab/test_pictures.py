"""Pictures of a folder as a network's weights want them, and the layers of a profile."""

import numpy as np
from PIL import Image

from convjax import lab


def test_keras_images_are_blue_first(tmp_path):
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "red.png")
    found = lab.pictures(tmp_path, "resnet50", reference="keras", size=4).images
    np.testing.assert_allclose(found[0, 0, 0], [-103.939, -116.779, 255 - 123.68], rtol=1e-5)
