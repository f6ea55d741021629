import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops import oracle
from tests.ops.test_conv import close, draw

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMED = ["SAME", "SAME_LOWER", "VALID", "CIRCULAR"]


def transposed(kernel):
    """The kernel of the adjoint: flipped along the window, input and output exchanged."""
    return jnp.flip(jnp.swapaxes(kernel, -1, -2), range(kernel.ndim - 2))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
@pytest.mark.parametrize("strides", [1, (2, 3)])
@pytest.mark.parametrize("padding", [*NAMED, 1, (0, 2), [(1, 2), (0, 1)]], ids=str)
def test_2d_is_the_sum_of_shifted_kernels(padding, strides, dilation, groups):
    x, kernel = draw(2, 4, 5, 4), draw(3, 4, 4 // groups, 2)
    options = {
        "padding": padding,
        "strides": strides,
        "kernel_dilation": dilation,
        "feature_group_count": groups,
    }
    close(ops.conv_transpose(x, kernel, **options), oracle.conv_transpose(x, kernel, **options))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("strides", [1, 3])
@pytest.mark.parametrize("padding", [*NAMED, "CAUSAL", 2], ids=str)
def test_1d_is_the_sum_of_shifted_kernels(padding, strides, dilation):
    x, kernel = draw(2, 6, 3), draw(4, 3, 2)
    options = {"padding": padding, "strides": strides, "kernel_dilation": dilation}
    close(ops.conv_transpose(x, kernel, **options), oracle.conv_transpose(x, kernel, **options))


# (1, 0, 1) leaves no padding where two taps meet a stride of two: XLA's CPU compiler aborts there.
@pytest.mark.parametrize("padding", [*NAMED, (1, 0, 1)], ids=str)
def test_3d_is_the_sum_of_shifted_kernels(padding):
    x, kernel = draw(1, 3, 2, 4, 2), draw(2, 3, 2, 2, 1)
    options = {"padding": padding, "strides": (2, 1, 2)}
    close(ops.conv_transpose(x, kernel, **options), oracle.conv_transpose(x, kernel, **options))


@pytest.mark.parametrize("dilation", [None, (2, 1)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_named_padding_agrees_with_jax(padding, strides, dilation):
    x, kernel = draw(2, 4, 5, 3), draw(3, 4, 3, 2)
    close(
        ops.conv_transpose(
            x, kernel, strides=strides, padding=padding, kernel_dilation=dilation or 1
        ),
        jax.lax.conv_transpose(x, kernel, strides, padding, rhs_dilation=dilation),
    )


@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_named_padding_agrees_with_flax(padding, strides):
    x, kernel = draw(2, 6, 5, 3), draw(3, 4, 3, 2)
    layer = flax.nnx.ConvTranspose(
        3, 2, (3, 4), strides, padding=padding, use_bias=False, rngs=flax.nnx.Rngs(0)
    )
    layer.kernel[...] = kernel
    close(ops.conv_transpose(x, kernel, strides=strides, padding=padding), layer(x))


def test_causal_with_stride_one_is_a_causal_conv():
    x, kernel = draw(2, 6, 3), draw(4, 3, 2)
    options = {"padding": "CAUSAL", "kernel_dilation": 2}
    close(ops.conv_transpose(x, kernel, **options), ops.conv(x, kernel, **options))


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID"])
def test_named_padding_is_the_adjoint_of_conv(x64, padding):
    """On images that the stride divides, the size that "SAME" and "VALID" restore."""
    strides, kernel = (2, 3), draw(4, 5, 3, 2)
    x = draw(2, 8, 9, 3)
    if padding == "VALID":
        x = x[:, :, :8]
    y, pull = jax.vjp(lambda x: ops.conv(x, kernel, strides=strides, padding=padding), x)
    g = draw(*y.shape, seed=1)
    back = ops.conv_transpose(g, transposed(kernel), strides=strides, padding=padding)
    close(back, pull(g)[0], 1e-12)
    np.testing.assert_allclose(jnp.vdot(y, g), jnp.vdot(x, back), rtol=1e-12)


@pytest.mark.parametrize("size", [7, 8, 9])
def test_explicit_padding_is_the_adjoint_of_conv(x64, size):
    """The stride may skip elements at the end of the image: output_padding brings them back."""
    x, kernel = draw(2, size, 5, 3), draw(3, 2, 3, 2)
    options = {"strides": (3, 1), "padding": [(1, 2), (0, 1)], "kernel_dilation": (1, 2)}
    y, pull = jax.vjp(lambda x: ops.conv(x, kernel, **options), x)
    g = draw(*y.shape, seed=1)
    back = ops.conv_transpose(
        g, transposed(kernel), output_padding=((size + 3 - 3) % 3, 0), **options
    )
    close(back, pull(g)[0], 1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("output_padding", [0, 1])
@pytest.mark.parametrize("padding", [0, 2])
def test_integer_padding_is_that_of_pytorch(padding, output_padding, groups):
    x, weight = np.asarray(draw(2, 4, 5)), np.asarray(draw(4, 3, 3))  # (N, C, L), (C, D / G, k)
    expected = oracle.torch_conv_transpose(
        x,
        weight,
        stride=3,
        padding=padding,
        output_padding=output_padding,
        dilation=2,
        groups=groups,
    )
    blocks = np.split(weight[:, :, ::-1].transpose(2, 0, 1), groups, axis=1)
    y = ops.conv_transpose(
        jnp.asarray(x.transpose(0, 2, 1)),
        jnp.asarray(np.concatenate(blocks, -1)),
        strides=3,
        padding=padding,
        kernel_dilation=2,
        feature_group_count=groups,
        output_padding=output_padding,
    )
    close(y, expected.transpose(0, 2, 1))


def test_what_no_element_reaches_is_zero():
    """Output padding may be larger than the stride where the dilation is, and cover the output."""
    x, kernel = draw(2, 1, 3), draw(2, 3, 4)
    options = {"padding": [(4, 0)], "kernel_dilation": 3, "output_padding": 2}
    y = ops.conv_transpose(x, kernel, **options)
    assert y.shape == (2, 2, 4)
    close(y, oracle.conv_transpose(x, kernel, **options))


@pytest.mark.parametrize("groups", [1, 2])
def test_derivatives_are_those_of_lax(x64, groups):
    x, kernel = draw(2, 4, 5, 4), draw(3, 2, 4 // groups, 6)
    options = {"strides": (2, 3), "padding": [(1, 0), (0, 1)], "kernel_dilation": (1, 2)}

    def ours(x, kernel):
        return ops.conv_transpose(x, kernel, feature_group_count=groups, **options)

    def by_lax(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(1, 2), (2, 1)],
            lhs_dilation=(2, 3),
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    g = draw(*ours(x, kernel).shape, seed=2)
    for mine, theirs in zip(
        jax.vjp(ours, x, kernel)[1](g), jax.vjp(by_lax, x, kernel)[1](g), strict=True
    ):
        close(mine, theirs, 1e-12)


def test_lax_does_not_abort_on_two_taps_that_meet_a_stride_of_two():
    x, kernel, padding = draw(1, 4, 2, 6, 2), draw(2, 3, 2, 2, 3), [(1, 1), (0, 1), (1, 1)]

    def energy(x, lowering):
        y = ops.conv(x, kernel, strides=(2, 1, 2), padding=padding, lowering=lowering)
        return (y**2).sum()

    gradient = jax.grad(energy)
    close(gradient(x, "lax"), gradient(x, "auto"))
