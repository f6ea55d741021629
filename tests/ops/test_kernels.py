import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops.test_conv import close, draw

pytestmark = pytest.mark.usefixtures("quick_compilation")

SOBEL = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]], np.float32)


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 3, 4), (2, 3, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("gain", [1.0, 1.7, "array"], ids=str)
def test_standardized_kernels_have_zero_mean_and_the_asked_for_variance(shape, gain):
    gain = jnp.array([0.5, 1.0, 2.0, -1.0]) if gain == "array" else gain
    kernel = 3 * draw(*shape) + 1
    out = np.asarray(ops.standardize_kernel(kernel, gain=gain)).reshape(-1, shape[-1])
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(out.var(0) * len(out), np.square(gain) * np.ones(4), rtol=1e-5)
    centred = np.asarray(kernel).reshape(-1, 4) - np.asarray(kernel).reshape(-1, 4).mean(0)
    assert (np.sign(np.sum(centred * out, 0)) == np.sign(gain * np.ones(4))).all()


def test_a_standardized_kernel_of_no_variance_is_zero():
    assert not ops.standardize_kernel(jnp.full((3, 3, 2, 1), 0.25)).any()


def test_standardized_kernels_keep_the_variance_of_white_noise():
    kernel = ops.standardize_kernel(draw(3, 3, 8, 16))
    y = ops.conv(draw(4, 24, 24, 8, seed=1), kernel, padding="VALID")
    assert 0.95 < float(jnp.var(y)) < 1.05


def rebuilt(separated):
    return np.asarray(separated.columns * separated.rows).sum(0)


def test_sobel_separates_exactly():
    separated = ops.separate_kernel(jnp.asarray(SOBEL), 1)
    np.testing.assert_allclose(rebuilt(separated), SOBEL, atol=1e-6)
    assert separated.error < 1e-6
    column, row = separated.columns[0, :, 0], separated.rows[0, 0]
    np.testing.assert_allclose(column / column[0], [1, 0, -1], atol=1e-6)
    np.testing.assert_allclose(row / row[0], [1, 2, 1], atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(column), jnp.linalg.norm(row), rtol=1e-6)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_signs_do_not_hang_on_rounding(sign, transpose):
    kernel = sign * (SOBEL.T if transpose else SOBEL)
    for noise in range(5):
        noisy = kernel + 1e-5 * np.asarray(draw(3, 3, seed=noise))
        first = ops.separate_kernel(jnp.asarray(noisy), 1).rows[0, 0, 0]
        assert first > 0


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_sum_of_outer_products_is_better(rank):
    kernel = draw(4, 3, 2, 5)
    separated = ops.separate_kernel(kernel, rank)
    assert separated.columns.shape == (rank, 4, 1, 2, 5)
    assert separated.rows.shape == (rank, 1, 3, 2, 5)
    for c, d in np.ndindex(2, 5):
        exact = np.asarray(kernel, np.float64)[:, :, c, d]
        singular = np.linalg.svd(exact, compute_uv=False)
        best = np.linalg.norm(singular[rank:]) / np.linalg.norm(singular)
        missed = exact - rebuilt(separated)[:, :, c, d]
        np.testing.assert_allclose(np.linalg.norm(missed) / np.linalg.norm(exact), best, atol=1e-6)
        np.testing.assert_allclose(separated.error[c, d], best, atol=1e-6)
    flat = ops.separate_kernel(kernel[:, :, 0, 0], rank)
    assert flat.columns.shape == (rank, 4, 1) and flat.rows.shape == (rank, 1, 3)
    close(flat.columns, separated.columns[..., 0, 0], 1e-5)
    close(flat.rows, separated.rows[..., 0, 0], 1e-5)


def test_a_kernel_of_zeros_is_missed_by_nothing():
    separated = ops.separate_kernel(jnp.zeros((3, 2)), 1)
    assert separated.error == 0 and not rebuilt(separated).any()


def test_a_separated_kernel_convolves_in_two_steps():
    x, kernel = draw(2, 6, 5, 1), jnp.asarray(SOBEL)[..., None, None]
    column, row, _ = ops.separate_kernel(kernel, 1)
    close(ops.spatial_separable_conv(x, column[0], row[0]), ops.conv(x, kernel))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 5, 3)], ids=str)
def test_dense(shape):
    x, kernel, bias = draw(*shape), draw(3, 4), draw(4)
    close(ops.dense(x, kernel), np.asarray(x) @ np.asarray(kernel))
    close(ops.dense(x, kernel, bias), np.asarray(x) @ np.asarray(kernel) + np.asarray(bias))
