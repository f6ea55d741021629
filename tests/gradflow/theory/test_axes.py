"""The taps of theory's windows against what the ops read, image by image of one bright place."""

import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from convjax.gradflow._theory import _axes


def _taps(op, n, k):
    """(taps, out, in) by running an op on every image that is one in one place."""
    images = jnp.eye(n, dtype=jnp.float32)[:, :, None]
    kernel = jnp.eye(k, dtype=jnp.float32).reshape(k, 1, k)
    return np.moveaxis(np.asarray(op(images, kernel)), (2, 1, 0), (0, 1, 2))


@pytest.mark.parametrize(
    "padding", ["SAME", "SAME_LOWER", "VALID", "CAUSAL", "CIRCULAR", "REFLECT", 1, ((2, 0),)]
)
@pytest.mark.parametrize(
    ("n", "k", "strides", "dilation"), [(7, 3, 1, 1), (8, 3, 2, 1), (9, 2, 1, 3)]
)
def test_a_convolution_reads_what_its_taps_say(padding, n, k, strides, dilation):
    how = {"strides": strides, "padding": padding}
    found = _axes.convolution((n,), (k,), dilation=dilation, **how).axes[0]
    expected = _taps(lambda x, w: ops.conv(x, w, kernel_dilation=dilation, **how), n, k)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "CAUSAL", "CIRCULAR", 1])
@pytest.mark.parametrize(("n", "k", "strides"), [(4, 3, 2), (5, 2, 2), (3, 4, 1), (3, 2, 3)])
def test_a_transposed_convolution_reads_what_its_taps_say(padding, n, k, strides):
    found = _axes.transposed((n,), (k,), strides=strides, padding=padding).axes[0]
    expected = _taps(lambda x, w: ops.conv_transpose(x, w, strides=strides, padding=padding), n, k)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "CAUSAL", 1, ((2, 0),)])
def test_a_dilated_transposed_convolution_reads_what_its_taps_say(padding):
    how = {"strides": 2, "padding": padding}
    extra = 0 if isinstance(padding, str) else 2
    found = _axes.transposed((5,), (3,), dilation=3, extra=extra, **how).axes[0]
    more = {"kernel_dilation": 3, "output_padding": extra}
    expected = _taps(lambda x, w: ops.conv_transpose(x, w, **how, **more), 5, 3)
    np.testing.assert_array_equal(found, expected)


def test_gathering_and_scattering_are_transposes_and_follow_random_kernels():
    rng = np.random.default_rng(0)
    window = _axes.convolution((6, 5), (3, 2), strides=(2, 1), padding="SAME")
    energy, back = rng.random((1, 6, 5)), rng.random((1, *window.output))
    assert np.sum(window.gather(energy) * back) == pytest.approx(
        np.sum(energy * window.scatter(back))
    )
    image = rng.normal(size=(1, 6, 5, 4)) * np.sqrt(energy)[..., None]
    kernels = rng.normal(size=(3, 2, 4, 4000))
    y = ops.conv(jnp.asarray(image, jnp.float32), jnp.asarray(kernels, jnp.float32), strides=(2, 1))
    squares = np.mean(np.square(image), axis=-1)
    np.testing.assert_allclose(
        np.mean(np.square(y), axis=(0, -1)), 4 * window.gather(squares)[0], rtol=0.15
    )


def test_what_a_place_reads():
    window = _axes.convolution((4, 3), (3, 3), padding="SAME")
    reads = window.reads((0, 1))
    assert reads[0] == (-1, 0) and reads[4] == (0, 1) and reads[8] == (1, 2)
