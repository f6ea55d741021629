import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import jet

from convjax import gradflow, ops
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops import oracle
from tests.ops.test_conv import close, draw

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = [
    ((2, 9, 3), (4,)),
    ((2, 7, 6, 3), (3, 2)),
    ((1, 4, 5, 6, 2), (2, 3, 4)),
]
PADDINGS = ["SAME", "SAME_LOWER", "VALID", "CIRCULAR", "REFLECT", 1, "pairs"]


@pytest.mark.every(2)
@pytest.mark.parametrize("strides", [None, 2])
@pytest.mark.parametrize(
    "shape, window, padding",
    [(*case, padding) for case in CASES for padding in PADDINGS] + [(*CASES[0], "CAUSAL")],
    ids=str,
)
def test_pools_look_at_their_window(shape, window, padding, strides):
    if padding == "pairs":
        padding = [(0, 1), (1, 0), (2, 1)][: len(window)]
    x = draw(*shape) - 5  # a padding of zeros would win every maximum
    options = {"strides": strides, "padding": padding}
    meant = {"strides": strides or window, "padding": padding}

    @jax.jit
    def pools(x):
        return (
            ops.max_pool(x, window, **options),
            ops.avg_pool(x, window, **options),
            ops.avg_pool(x, window, count_include_pad=False, **options),
        )

    largest, average, average_inside = pools(x)
    close(largest, oracle.max_pool(x, window, **meant), 0)
    close(average, oracle.avg_pool(x, window, **meant))
    inside = oracle.avg_pool(x, window, count_include_pad=False, **meant)
    close(average_inside, inside)


def test_the_derivative_of_a_tie_goes_to_the_first_in_row_major_order():
    x = jnp.array([[0.0, 2.0, 1.0], [2.0, 2.0, 0.0]]).reshape(1, 2, 3, 1)
    slope = jax.grad(lambda x: ops.max_pool(x, (2, 3)).sum())(x)
    assert slope.reshape(2, 3).tolist() == [[0, 1, 0], [0, 0, 0]]


# A window whose taps are numbered, one with holes between windows, and one taken axis by axis.
DERIVED = [((3, 2), (2, 1)), ((2, 2), (3, 2)), ((5, 3), (2, 2))]


@pytest.mark.parametrize("window, strides", DERIVED, ids=str)
def test_max_pool_has_the_derivatives_of_the_windowed_maximum(window, strides, x64):
    """Ties abound after a rectifier; XLA's own windowed maximum takes the first of them."""
    x, t = (jnp.asarray(a, jnp.float64) for a in (jax.nn.relu(draw(2, 8, 6, 3)), draw(2, 8, 6, 3)))
    pads = ((0, 0), (1, 0), (0, 1), (0, 0))

    def reference(x):
        return jax.lax.reduce_window(
            x, -np.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), pads
        )

    def own(x):
        return ops.max_pool(x, window, strides=strides, padding=pads[1:3])

    @jax.jit
    def derivatives(x, t):
        y, pull = jax.vjp(own, x)
        slope = jax.jvp(own, (x,), (t,))[1]
        ((_, series)) = jet.jet(own, (x,), ((t, 0 * t),))
        second = jax.jvp(jax.grad(lambda x: (own(x) ** 3).sum()), (x,), (t,))[1]
        return y, pull, slope, series[0], second

    y, pull, slope, series, second = derivatives(x, t)
    expected, pull_expected = jax.vjp(reference, x)
    close(y, expected, 0)
    gs = jnp.asarray(draw(3, *y.shape), jnp.float64)
    each = jnp.stack([pull_expected(g)[0] for g in gs])
    close(jax.vmap(pull, 1)(jnp.moveaxis(gs, 0, 1))[0], each, 1e-12)
    close((slope * gs[0]).sum(), (each[0] * t).sum(), 1e-12)
    close(series, slope, 0)
    close(second, pull_expected(6 * y * slope)[0], 1e-12)


def test_a_module_that_pools_is_read_as_one_that_does(x64):
    class Net(nnx.Module):
        def __call__(self, x):
            return ops.max_pool(jax.nn.relu(x), (3, 2), strides=2, padding=1).sum((1, 2))

    units = gradflow.profile(Net(), draw(2, 7, 6, 3), cotangent=jax.random.key(0)).table()
    assert "Pool" in units["kind"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_max_pool_hands_on_nan(place):
    x = jnp.zeros((1, 6, 1)).at[0, place].set(jnp.nan)
    assert jnp.isnan(ops.max_pool(x, 3)).ravel().tolist() == [True, False]


# Windows of more taps than are taken one by one, and strides around them.
LARGE = [(6, 1), (13, 1), (13, 2), (13, 5), (13, 7), (13, 13), (13, 17), (20, 4), (29, 30)]


def test_large_windows_have_the_first_maximum_and_its_derivative():
    x = np.maximum(np.asarray(draw(2, 67, 3)), 0)  # ties abound
    x[0, 30] = np.nan

    def pools(x):
        return [ops.max_pool(x, k, strides=s) for k, s in LARGE]

    gs = [draw(*y.shape) for y in jax.eval_shape(pools, x)]

    @jax.jit
    def slopes(x, gs):
        each = [jax.vjp(lambda x, k=k, s=s: ops.max_pool(x, k, strides=s), x) for k, s in LARGE]
        return [(y, pull(g)[0]) for (y, pull), g in zip(each, gs, strict=True)]

    for (k, s), g, (y, slope) in zip(LARGE, gs, slopes(x, gs), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(x, k, axis=1)[:, ::s]
        first = np.argmax(windows, axis=-1)  # of NaN too, as NumPy has it
        np.testing.assert_array_equal(y, np.take_along_axis(windows, first[..., None], -1)[..., 0])
        expected = np.zeros_like(x)
        example, window, channel = np.indices(first.shape)
        np.add.at(expected, (example, window * s + first, channel), np.asarray(g))
        close(slope, expected, 1e-6)


def test_large_planes_give_ties_to_the_first_in_row_major_order():
    x = jnp.zeros((1, 9, 8, 1)).at[0, 3, 6].set(1).at[0, 4, 1].set(1)
    slope = jax.jit(jax.grad(lambda x: ops.max_pool(x, (9, 8)).sum()))(x)
    assert np.argwhere(np.asarray(slope)).tolist() == [[0, 3, 6, 0]]


@pytest.mark.parametrize("strides", [1, 50, 128])
def test_programs_of_large_windows_are_short(strides):
    x = jax.ShapeDtypeStruct((1, 1024, 1), jnp.float32)
    pool = jax.make_jaxpr(lambda x: ops.max_pool(x, 128, strides=strides))(x)
    assert len(pool.eqns) < 100


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 4, 5, 3), (2, 3, 4, 2, 3)], ids=str)
def test_global_pools(shape):
    x, axes = draw(*shape), tuple(range(1, len(shape) - 1))
    close(ops.global_avg_pool(x), np.mean(x, axes))
    close(ops.global_max_pool(x), np.max(x, axes), 0)
    kept = (shape[0], *(1,) * len(axes), shape[-1])
    assert ops.global_avg_pool(x, keepdims=True).shape == kept
    assert ops.global_max_pool(x, keepdims=True).shape == kept


def test_averages_of_half_precision_are_summed_in_single():
    x = jnp.full((1, 64, 64, 1), 1.001, jnp.float16)
    assert ops.global_avg_pool(x)[0, 0] == x[0, 0, 0, 0]
    assert ops.avg_pool(x, 64)[0, 0, 0, 0] == x[0, 0, 0, 0]
