"""The forms of a convolution, one by one: lax's values and derivatives, and its precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax.ops._forms import _choose, _plane, _winograd
from convjax.ops._geometry import Geometry
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops.onednn_table import by

LAYOUT = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


# form: {what is special: (batch, geometry)}; a geometry is (image, window, strides, pads, dilation,
# groups, input channels, output channels).
CORNERS = {
    "lax": {
        "groups": (2, ((7, 6), (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), 2, 4, 6)),
        "stride beyond the window": (
            3,
            ((11, 8), (2, 3), (5, 4), ((0, 0), (1, 0)), (1, 1), 1, 3, 2),
        ),
        "pads beyond the window": (1, ((4, 5), (2, 3), (1, 2), ((4, 3), (0, 6)), (1, 1), 1, 2, 3)),
        "dilation and stride": (2, ((13, 9), (3, 2), (2, 3), ((1, 2), (0, 0)), (3, 2), 1, 2, 3)),
        "1-D": (5, ((10,), (4,), (3,), ((2, 0),), (2,), 1, 3, 4)),
        "3-D": (2, ((4, 5, 3), (2, 3, 1), (1, 2, 1), ((1, 0),) * 3, (1, 1, 1), 1, 2, 3)),
    },
    "product": {
        "1x1": (5, ((6, 7), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, 3, 4)),
        "1x1, stride and pads": (2, ((6, 7), (1, 1), (2, 3), ((1, 2), (0, 4)), (1, 1), 1, 3, 4)),
        "patches with a rest": (2, ((9, 11), (2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1), 1, 3, 4)),
        "stride beyond the window": (
            1,
            ((11, 8), (2, 1), (5, 3), ((1, 0), (2, 2)), (1, 1), 1, 3, 2),
        ),
        "pads beyond the window": (3, ((4, 5), (2, 3), (2, 3), ((5, 3), (4, 6)), (1, 1), 1, 2, 3)),
        "dilation and stride": (2, ((13, 9), (3, 2), (8, 3), ((1, 2), (0, 0)), (3, 2), 1, 2, 3)),
        "1-D": (2, ((10,), (3,), (4,), ((2, 0),), (1,), 1, 3, 4)),
        "3-D": (2, ((4, 5, 3), (2, 2, 1), (2, 3, 1), ((1, 0),) * 3, (1, 1, 1), 1, 2, 3)),
    },
    "shift": {
        "multiplier": (2, ((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4, 4, 12)),
        "one channel": (3, ((5, 6), (3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1), 1, 1, 3)),
        "several blocks": (2, ((17, 13), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64, 64, 64)),
        "several strided": (1, ((35, 21), (3, 5), (2, 2), ((1, 0), (2, 2)), (1, 1), 48, 48, 48)),
        "stride beyond the window": (
            5,
            ((11, 8), (2, 1), (5, 3), ((1, 0), (2, 2)), (1, 1), 3, 3, 3),
        ),
        "pads beyond the window": (1, ((4, 5), (2, 3), (1, 2), ((4, 3), (0, 6)), (1, 1), 2, 2, 4)),
        "dilation and stride": (2, ((13, 9), (3, 2), (2, 3), ((1, 2), (0, 0)), (3, 2), 2, 2, 2)),
        "1-D": (5, ((10,), (4,), (3,), ((2, 0),), (2,), 3, 3, 6)),
        "3-D": (2, ((5, 6, 4), (2, 3, 1), (2, 1, 1), ((1, 0),) * 3, (2, 1, 1), 2, 2, 4)),
    },
    "taps": {
        "same": (2, ((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 4, 3)),
        "strided with a rest": (3, ((8, 9), (3, 2), (3, 2), ((0, 0), (0, 0)), (1, 1), 1, 2, 3)),
        "stride beyond the window": (
            5,
            ((11, 8), (2, 1), (5, 3), ((1, 0), (2, 2)), (1, 1), 1, 3, 2),
        ),
        "pads beyond the window": (1, ((4, 5), (2, 3), (1, 2), ((4, 3), (0, 6)), (1, 1), 1, 2, 3)),
        "dilation and stride": (2, ((13, 9), (3, 2), (2, 3), ((1, 2), (0, 0)), (3, 2), 1, 2, 3)),
        "1-D": (2, ((10,), (4,), (3,), ((2, 0),), (2,), 1, 3, 4)),
        "3-D": (2, ((5, 6, 4), (2, 3, 1), (2, 1, 1), ((1, 0),) * 3, (2, 1, 1), 1, 2, 3)),
    },
    "winograd": {
        "whole tiles": (2, ((7, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 3, 4)),
        "less than a tile": (5, ((4, 5), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, 3, 2)),
        "first axis only": (2, ((9, 6), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 1, 2, 3)),
        "window of 1 beside": (3, ((5, 10), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1, 2, 3)),
        "pads beyond the window": (1, ((4, 5), (4, 3), (1, 1), ((4, 5), (0, 6)), (1, 1), 1, 2, 3)),
        "several blocks": (4, ((24, 40), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1, 48, 2)),
        "1-D": (2, ((11,), (3,), (1,), ((2, 0),), (1,), 1, 3, 4)),
        "3-D": (2, ((4, 5, 3), (2, 3, 1), (1, 1, 1), ((1, 0),) * 3, (1, 1, 1), 1, 2, 3)),
    },
}
DRAWS = 1


def _draw(form, generator):
    """Draw until the form serves what was drawn."""
    while True:
        rank = generator.integers(1, 4)
        window, dilation, strides = (
            tuple(generator.integers(1, high, rank).tolist()) for high in (4, 3, 5)
        )
        spatial = tuple(generator.integers(3, 10, rank).tolist())
        pads = tuple(tuple(generator.integers(0, 5, 2).tolist()) for _ in range(rank))
        inputs, factor = generator.integers(1, 4, 2).tolist()
        groups = int(generator.choice([1, inputs]))
        geometry = Geometry(
            spatial, window, strides, pads, dilation, groups, inputs, inputs * factor
        )
        if min(geometry.out_spatial) > 0 and form in _choose.serving(geometry, np.dtype(float)):
            return int(generator.choice([1, 2, 3])), geometry


def _cases():
    for form, corners in CORNERS.items():
        for name, (batch, facts) in corners.items():
            yield pytest.param(form, batch, Geometry(*facts), id=f"{form}, {name}")
        generator = np.random.default_rng(list(form.encode()))
        for i in range(DRAWS):
            yield pytest.param(form, *_draw(form, generator), id=f"{form}, drawn {i}")


def _normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def _operands(batch, geometry):
    """Image, kernel and cotangent."""
    return (
        _normal(batch, *geometry.spatial, geometry.in_features),
        _normal(*geometry.kernel_shape),
        _normal(batch, *geometry.out_spatial, geometry.out_features, seed=1),
    )


def _lax(geometry):
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            geometry.strides,
            geometry.pads,
            rhs_dilation=geometry.dilation,
            feature_group_count=geometry.groups,
            dimension_numbers=LAYOUT[geometry.rank],
        )

    return conv


def _all_three(conv):
    """The value and both gradients, as one compiled function."""

    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(conv, x, kernel)
        return y, *pull(g)

    return run


def test_every_form_has_its_corners():
    # oneDNN's are in `onednn_table`, in a process of its own.
    assert set(CORNERS) == set(_choose.FORMS) - {"onednn"}


@pytest.mark.every(3)
@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize(("form", "batch", "geometry"), list(_cases()))
def test_value_and_gradients_are_those_of_lax(form, batch, geometry):
    operands = _operands(batch, geometry)
    ours = _all_three(by(geometry, form))(*operands)
    theirs = _all_three(_lax(geometry))(*operands)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("corner", CORNERS["shift"])
def test_the_depthwise_kernel_gradient_of_other_versions_of_jax_is_that_of_lax(corner, monkeypatch):
    loops = not _plane._LOOPS_ARE_CHEAP
    monkeypatch.setattr(_plane, "_LOOPS_ARE_CHEAP", loops)
    batch, facts = CORNERS["shift"][corner]
    geometry = Geometry(*facts)
    x, kernel, g = _operands(batch, geometry)

    def gradient(conv):
        return jax.jit(lambda x, g: jax.linear_transpose(lambda w: conv(x, w), kernel)(g)[0])

    way, used = ("_by_blocks" if loops else "_by_rows"), []
    compute = getattr(_plane, way)
    monkeypatch.setattr(_plane, way, lambda *args: used.append(way) or compute(*args))
    ours = gradient(by(geometry, "shift"))
    np.testing.assert_allclose(ours(x, g), gradient(_lax(geometry))(x, g), rtol=1e-9, atol=1e-9)
    assert used


# form: (geometry, how many times lax's rounding error it may have in float32).
PRECISION = {
    "lax": (((12, 10), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 64, 32), 1.5),
    "onednn": (((12, 10), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 64, 32), 1.5),
    "product": (((12, 10), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), 1, 64, 32), 1.5),
    "shift": (((20, 18), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64, 64, 64), 1.5),
    "taps": (((12, 10), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 64, 32), 1.5),
    "winograd": (((20, 18), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 64, 64), 4.0),
}


def _rounding(form, dtype):
    """The root mean square errors of a form's three results over those of lax."""
    geometry = Geometry(*PRECISION[form][0])
    if form not in _choose.serving(geometry, np.dtype(dtype)):
        pytest.skip(f"{form} is not there")
    operands = [jnp.asarray(a, dtype) for a in _operands(4, geometry)]
    theirs = _all_three(_lax(geometry))
    exact = theirs(*(a.astype(jnp.float64) for a in operands))

    def errors(results):
        pairs = zip(results, exact, strict=True)
        return np.array([np.sqrt(np.mean((np.asarray(a, float) - b) ** 2)) for a, b in pairs])

    return errors(_all_three(by(geometry, form))(*operands)) / errors(theirs(*operands))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", PRECISION)
def test_a_form_rounds_in_float32_as_lax_does_up_to_what_is_stated(form):
    assert (_rounding(form, jnp.float32) <= PRECISION[form][1]).all()


@pytest.mark.every(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", PRECISION)
def test_a_form_rounds_in_bfloat16_as_lax_does(form):
    assert (_rounding(form, jnp.bfloat16) <= 1.5).all()


def test_winograd_matrices_are_those_of_a_correlation():
    made = np.einsum("ov,vt,vi->oti", _winograd.OUTPUTS_T, _winograd.KERNEL, _winograd.INPUTS_T)
    outputs, taps, inputs = np.indices(made.shape)
    np.testing.assert_allclose(made, inputs == outputs + taps, rtol=0, atol=1e-13)


def test_winograd_takes_a_large_batch_in_blocks_and_a_small_one_whole():
    geometry = Geometry(*PRECISION["winograd"][0])

    def text(batch):
        x, kernel, _ = _operands(batch, geometry)
        operands = (jnp.float32(x), jnp.float32(kernel))
        return jax.jit(by(geometry, "winograd")).lower(*operands).as_text()

    image = 4 * geometry.in_features * np.prod(geometry.spatial)
    assert "stablehlo.while" not in text(1)
    assert "stablehlo.while" in text(2 * _winograd._BLOCK_BYTES // image)
