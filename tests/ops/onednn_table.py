"""All that the form "onednn" claims to compute, tried: ``test_onednn`` runs this in a process.

What oneDNN cannot do ends the process, so that no test could catch it. Every kind of geometry below
is computed in every dtype, with both gradients, and compared with lax in float64. oneDNN chooses
its own code by the numbers of channels, hence those that fill vectors and those that do not.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from convjax import ops
from convjax.ops._forms import _choose, _onednn
from convjax.ops._geometry import Geometry
from tests.nn.conftest import compiling_quickly

LAYOUT = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}
TOLERANCE = {"float32": 2e-6, "bfloat16": 0.02}


def _square(side, window, inputs, outputs, *, stride=1, pads=None, dilation=1, groups=1):
    pad = dilation * (window - 1) // 2
    pads = (pad, pad) if pads is None else pads
    return Geometry(
        (side, side + 1),
        (window,) * 2,
        (stride,) * 2,
        (pads,) * 2,
        (dilation,) * 2,
        groups,
        inputs,
        outputs,
    )


# kind: (batch, geometry).
TABLE = {
    "3x3": (2, _square(9, 3, 16, 16)),
    "3x3, odd channels": (3, _square(8, 3, 5, 7)),
    "3x3, wide": (2, _square(7, 3, 64, 96)),
    "3x3, of one image of one channel": (1, _square(6, 3, 1, 1)),
    "3x3, from one channel": (2, _square(12, 3, 1, 16)),
    "3x3, from three channels, strided": (2, _square(13, 3, 3, 32, stride=2, pads=(0, 1))),
    "3x3, strided": (2, _square(10, 3, 32, 48, stride=2)),
    "3x3, strided, with a rest": (2, _square(11, 3, 16, 8, stride=3, pads=(0, 0))),
    "3x3, dilated": (2, _square(11, 3, 16, 32, dilation=2)),
    "3x3, dilated and strided": (2, _square(11, 3, 16, 32, dilation=2, stride=2)),
    "3x3, pads beyond the window": (2, _square(5, 3, 16, 16, pads=(4, 3))),
    "3x3, strided, pads beyond the window": (2, _square(5, 3, 8, 16, stride=2, pads=(5, 4))),
    "3x3 of one element": (2, Geometry((1, 1), (3, 3), (1, 1), ((1, 1),) * 2, (1, 1), 1, 16, 16)),
    "stem": (1, _square(23, 7, 3, 64, stride=2)),
    "stem of AlexNet": (1, _square(35, 11, 3, 16, stride=4, pads=(2, 2))),
    "5x5": (2, _square(9, 5, 16, 24)),
    "even window": (2, _square(8, 4, 16, 16, pads=(1, 2))),
    "1x1": (2, _square(8, 1, 64, 32)),
    "1x1, odd channels": (2, _square(5, 1, 3, 10)),
    "1x1, strided": (2, _square(9, 1, 32, 64, stride=2)),
    "1x1, padded": (2, _square(4, 1, 16, 16, pads=(1, 2))),
    "patches": (2, _square(16, 4, 3, 32, stride=4, pads=(0, 0))),
    "patches apart": (2, _square(11, 2, 4, 8, stride=3, pads=(0, 0))),
    "depthwise": (2, _square(9, 3, 32, 32, groups=32)),
    "depthwise, odd channels": (2, _square(8, 3, 13, 13, groups=13)),
    "depthwise, strided": (2, _square(9, 3, 48, 48, groups=48, stride=2)),
    "depthwise, strided, 5x5": (2, _square(11, 5, 16, 16, groups=16, stride=2, pads=(1, 2))),
    "depthwise, 7x7": (2, _square(9, 7, 16, 16, groups=16)),
    "depthwise, dilated": (2, _square(9, 3, 16, 16, groups=16, dilation=2)),
    "depthwise, multiplier": (2, _square(7, 3, 8, 24, groups=8)),
    "groups": (2, _square(8, 3, 32, 64, groups=2)),
    "groups, odd channels": (2, _square(8, 3, 9, 6, groups=3)),
    "groups, strided": (2, _square(9, 3, 64, 64, groups=4, stride=2)),
    "tall window": (2, Geometry((9, 8), (7, 1), (1, 1), ((3, 3), (0, 0)), (1, 1), 1, 16, 16)),
    "broad window": (2, Geometry((9, 8), (1, 7), (1, 2), ((0, 0), (3, 3)), (1, 1), 1, 16, 16)),
    "1-D": (3, Geometry((15,), (5,), (1,), ((2, 2),), (1,), 1, 16, 16)),
    "1-D, strided": (2, Geometry((15,), (4,), (2,), ((1, 0),), (1,), 1, 3, 8)),
    "1-D, causal, dilated": (2, Geometry((15,), (3,), (1,), ((4, 0),), (2,), 1, 16, 16)),
    "1-D, depthwise": (2, Geometry((15,), (3,), (1,), ((1, 1),), (1,), 16, 16, 16)),
    "3-D": (1, Geometry((4, 5, 6), (3, 3, 3), (1,) * 3, ((1, 1),) * 3, (1,) * 3, 1, 16, 16)),
    "3-D, strided": (1, Geometry((5, 6, 7), (3, 2, 3), (2,) * 3, ((1, 1),) * 3, (1,) * 3, 1, 3, 8)),
    "3-D, depthwise": (
        1,
        Geometry((4, 5, 6), (3,) * 3, (1,) * 3, ((1, 1),) * 3, (1,) * 3, 8, 8, 8),
    ),
}


def by(geometry, lowering):
    """Return the convolution of a geometry, by one form."""

    def conv(x, kernel):
        return ops.conv(
            x,
            kernel,
            strides=geometry.strides,
            padding=geometry.pads,
            kernel_dilation=geometry.dilation,
            feature_group_count=geometry.groups,
            lowering=lowering,
        )

    return conv


def _all_three(conv):
    def all_three(x, kernel, g):
        y, pull = jax.vjp(conv, x, kernel)
        return y, *pull(g)

    return jax.jit(all_three)


def operands(batch, geometry, dtype):
    """Return an image, a kernel and a cotangent."""
    generator = np.random.default_rng(0)
    shapes = (
        (batch, *geometry.spatial, geometry.in_features),
        geometry.kernel_shape,
        (batch, *geometry.out_spatial, geometry.out_features),
    )
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def check(kind, dtype):
    """Compute one kind in one dtype, and compare."""
    batch, geometry = TABLE[kind]
    given = operands(batch, geometry, dtype)
    program = _all_three(by(geometry, "onednn")).lower(*given)
    assert "__onednn$" in program.as_text(), f"{kind}: {dtype} is not computed by oneDNN"
    exact = _all_three(by(geometry, "lax"))(*(a.astype(jnp.float64) for a in given))
    for name, mine, theirs in zip(("y", "dx", "dw"), program.compile()(*given), exact, strict=True):
        off = np.abs(np.asarray(mine, float) - theirs).max() / np.abs(theirs).max()
        assert mine.dtype == given[0].dtype, f"{kind}, {dtype}, {name}: {mine.dtype}"
        assert off < TOLERANCE[dtype], f"{kind}, {dtype}, {name}: relative error {off}"


def main(dtypes):
    """Try every kind in some dtypes."""
    jax.config.update("jax_enable_x64", True)
    for dtype in dtypes:
        assert "onednn" in _choose.serving(TABLE["3x3"][1], jnp.dtype(dtype)), dtype
        for kind in TABLE:
            print(dtype, kind, flush=True)
            check(kind, dtype)
    assert not _onednn.is_there(jnp.dtype("float16"))
    assert not _onednn.is_there(jnp.dtype("float64"))


if __name__ == "__main__":
    with compiling_quickly():
        main(sys.argv[1:])
