"""Whatever `jax.lax.conv_general_dilated` takes: the same result, derivatives and refusals."""

import functools
import inspect
import os
import re
import subprocess
import sys
import textwrap

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convjax import ops
from tests.nn.conftest import QUICKLY
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

NHWC = ("NHWC", "HWIO", "NHWC")
BOTH = (ops.conv_general_dilated, lax.conv_general_dilated)


def draw(*shape, dtype=jnp.float64):
    dtype = dtype if jax.config.jax_enable_x64 or dtype != jnp.float64 else jnp.float32
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), dtype)


def derivatives(function, *given):
    """Value and the gradient with respect to everything given, the cotangent not constant."""
    y, pull = jax.vjp(function, *given)
    return y, pull(jnp.sin(y) + 1)


def close(a, b, tolerance=1e-10):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def by_position(conv, arguments, options, lhs, rhs):
    return conv(lhs, rhs, *arguments, **options)


def check(lhs, rhs, *arguments, ours=True, tolerance=1e-10, **options):
    """Compare with lax, and hold that it was computed by us or by lax as said."""
    mine, theirs = (functools.partial(by_position, conv, arguments, options) for conv in BOTH)
    names = {equation.primitive.name for equation in jax.make_jaxpr(mine)(lhs, rhs).eqns}
    assert ("conv_general_dilated" in names) == (not ours)
    both = jax.jit(lambda *given: [derivatives(conv, *given) for conv in (mine, theirs)])
    jax.tree.map(lambda a, b: close(a, b, tolerance), *both(lhs, rhs))


def test_the_signature_is_that_of_lax():
    mine, theirs = (list(inspect.signature(conv).parameters.values()) for conv in BOTH)
    facts = [[(p.name, p.kind, p.default) for p in given] for given in (mine, theirs)]
    assert facts[0][: len(theirs)] == facts[1]
    assert all(p.default is None for p in mine[len(theirs) :])


INDICES = ((2, 3, 1, 0), (0, 3, 2, 1), (1, 0, 2, 3))
LAYOUTS = {
    "NCW": ((2, 4, 9), (6, 2, 3), None),
    "NWC": ((2, 9, 4), (3, 2, 6), ("NWC", "WIO", "NWC")),
    "CWN": ((4, 9, 2), (2, 3, 6), ("CWN", "IWO", "WNC")),
    "NCHW": ((2, 4, 7, 5), (6, 2, 3, 2), None),
    "NHWC": ((2, 7, 5, 4), (3, 2, 2, 6), list(NHWC)),
    "WCNH": ((5, 4, 2, 7), (3, 6, 2, 2), ("WCNH", "HOWI", "CHNW")),
    "indices": ((7, 5, 2, 4), (6, 3, 2, 2), lax.ConvDimensionNumbers(*INDICES)),
    "NCDHW": ((2, 4, 4, 5, 3), (6, 2, 2, 3, 2), None),
    "NDHWC": ((2, 4, 5, 3, 4), (2, 3, 2, 2, 6), ("NDHWC", "DHWIO", "NDHWC")),
    "DCWHN": ((4, 4, 3, 5, 2), (2, 2, 6, 3, 2), ("DCWHN", "DWOHI", "WNHDC")),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, x64):
    lhs, rhs, numbers = LAYOUTS[layout]
    strides = (1, 2, 1)[: len(lhs) - 2]
    padding = [(1, 0), (2, 1), (0, 1)][: len(lhs) - 2]
    options = {"dimension_numbers": numbers, "feature_group_count": 2}
    check(draw(*lhs), draw(*rhs), strides, padding, **options)


PADDINGS = {
    "SAME": "SAME",
    "SAME_LOWER": "SAME_LOWER",
    "VALID": "VALID",
    "small letters": "same",
    "lists": [[1, 2], [0, 3]],
    "cut": [(-1, 2), (1, -2)],
    "cut on both sides": [(-2, -1), (0, 0)],
    "nothing of x left": [(-8, 6), (1, 1)],
}


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_padding(padding, x64):
    lhs, rhs = draw(2, 7, 6, 3), draw(3, 2, 3, 4)
    options = {"rhs_dilation": (1, 2), "dimension_numbers": NHWC}
    check(lhs, rhs, (2, 1), PADDINGS[padding], **options)


@pytest.mark.parametrize("window", [(3, 2), (1, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_and_a_window_of_one(groups, window, x64):
    lhs, rhs = draw(2, 4, 7, 6), draw(8, 4 // groups, *window)
    check(lhs, rhs, (3, 2), "VALID", feature_group_count=groups)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_in_is_dtype_out(dtype):
    dtype = jnp.dtype(dtype)
    lhs, rhs = draw(2, 7, 6, 3, dtype=dtype), draw(3, 2, 3, 4, dtype=dtype)
    options = {"dimension_numbers": NHWC, "preferred_element_type": dtype}
    check(lhs, rhs, (1, 1), "SAME", tolerance=16 * float(jnp.finfo(dtype).eps), **options)


HANDED_OVER = {
    "image dilated": ((2, 4, 7, 6), (4, 4, 3, 2), {"lhs_dilation": (2, 1)}),
    "batch grouped": ((4, 4, 7, 6), (6, 4, 3, 2), {"batch_group_count": 2}),
    "batch empty": ((0, 4, 7, 6), (6, 4, 3, 2), {}),
    "no channels": ((2, 0, 7, 6), (6, 0, 3, 2), {}),
    "output empty": ((2, 4, 2, 6), (6, 4, 3, 2), {}),
    "no axis": ((2, 4), (3, 4), {}),
    "four axes": ((1, 2, 3, 2, 2, 3), (2, 2, 1, 2, 1, 2), {}),
}


@pytest.mark.parametrize("case", HANDED_OVER)
def test_lax_computes_what_conv_does_not(case, x64):
    lhs, rhs, options = HANDED_OVER[case]
    rank = len(lhs) - 2
    check(draw(*lhs), draw(*rhs), (1,) * rank, [(0, 0)] * rank, ours=False, **options)


def same_programs(traced):
    """Whether two functions are one, but for what shields products from the CPU's compiler."""
    shielded = {"shield"} | {str(eqn.primitive) for eqn in traced[1].jaxpr.eqns}
    assert {str(eqn.primitive) for eqn in traced[0].jaxpr.eqns} <= shielded
    mine, theirs = (t.lower(lowering_platforms=("tpu",)).as_text() for t in traced)
    return mine == theirs and str(traced[0].out_info) == str(traced[1].out_info)


OF_OTHER_KINDS = {
    "integers": (jnp.int32, {}),
    "wider result": (jnp.bfloat16, {"preferred_element_type": jnp.float32}),
    "NumPy": (np.float32, {}),
    "weak": (None, {}),
}


@pytest.mark.parametrize("kind", OF_OTHER_KINDS)
def test_lax_computes_on_arrays_of_other_kinds(kind):
    dtype, options = OF_OTHER_KINDS[kind]
    make = np.full if kind == "NumPy" else jnp.full
    lhs, rhs = make((2, 3, 5), 2.0, dtype), make((3, 3, 2), 3.0, dtype)
    traced = [jax.jit(lambda c=c: c(lhs, rhs, (2,), "SAME", **options)).trace() for c in BOTH]
    assert same_programs(traced)


@pytest.mark.parametrize("spread", ["result", "image"])
def test_explicit_sharding_is_left_to_lax(spread):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    lhs, rhs = draw(2, 4, 6), draw(3, 4, 2)
    with jax.set_mesh(mesh):
        lhs = jax.device_put(lhs, rows if spread == "image" else None)
        options = {"out_sharding": rows} if spread == "result" else {}
        given = (lhs, rhs, (1,), "SAME")
        traced = [jax.jit(lambda c=c: c(*given, **options)).trace() for c in BOTH]
        assert same_programs(traced)
    assert traced[0].jaxpr.out_avals[0].sharding.spec[0] == "data"


@pytest.mark.later
def test_symbolic_shapes_are_exported_as_by_lax():
    # A program of its own: here the tests' type checker would refuse sizes that are no integers.
    program = """
        import jax, jax.numpy as jnp
        from convjax import ops
        x, kernel = jnp.ones((2, 7, 6, 3)), jnp.ones((3, 2, 3, 4))
        layout = ("NHWC", "HWIO", "NHWC")
        for shape in ("b, 7, 6, 3", "b, h, 6, 3"):
            symbolic = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
            for padding in ("VALID", "SAME", [(1, 1), (0, 1)]):
                mine, theirs = (
                    jax.export.export(
                        jax.jit(lambda x: conv(x, kernel, (2, 1), padding, None, None, layout))
                    )(symbolic)
                    for conv in (ops.conv_general_dilated, jax.lax.conv_general_dilated)
                )
                assert str(mine.out_avals) == str(theirs.out_avals)
                assert (mine.call(x) == theirs.call(x)).all()

        from tests.ops.test_bilinear import FORMS
        (batch,) = jax.export.symbolic_shape("b")
        platforms = ("cpu", "cuda", "tpu")
        depthwise = ((2, 9, 4), (3, 1, 4), {"feature_group_count": 4})
        for form, (image, kernel, options) in (FORMS | {"auto": depthwise}).items():
            def derivatives(x, w):
                y, pull = jax.vjp(lambda x, w: ops.conv(x, w, **options), x, w)
                return y, pull(y)
            shapes = (batch, *image[1:]), kernel
            symbolic = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
            exported = jax.export.export(jax.jit(derivatives), platforms=platforms)(*symbolic)
            given = jax.random.normal(jax.random.key(0), (3, *image[1:])), jnp.ones(kernel)
            for a, b in zip(*map(jax.tree.leaves, (exported.call(*given), derivatives(*given)))):
                assert jnp.allclose(a, b, rtol=1e-4, atol=1e-4), form
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, check=True, timeout=120, env=os.environ | QUICKLY)


@pytest.mark.parametrize("window", [(3, 2), (1, 1)])
@pytest.mark.parametrize("precision", [None, "high", ("highest", "default")], ids=str)
def test_precision_reaches_the_product(precision, window):
    def written(conv):
        run = jax.jit(lambda a, b: conv(a, b, (1, 1), "VALID", precision=precision))
        text = run.lower(draw(2, 4, 7, 6), draw(3, 4, *window)).as_text()
        return re.findall(r"DEFAULT|HIGHEST|HIGH", text)

    mine, theirs = map(written, BOTH)
    assert mine == theirs != []


@pytest.mark.parametrize("axes", [(0, None), (None, 2), (1, 0)])
def test_a_mapped_convolution_is_that_of_lax(axes, x64):
    shapes = [(2, 4, 7, 5), (6, 4, 3, 2)]
    arrays = [
        draw(*shape) if axis is None else draw(*shape[:axis], 3, *shape[axis:])
        for shape, axis in zip(shapes, axes, strict=True)
    ]

    def one(conv, lhs, rhs):
        return derivatives(lambda a, b: conv(a, b, (2, 1), "SAME"), lhs, rhs)

    @jax.jit
    def mapped(*arrays):
        return [jax.vmap(functools.partial(one, conv), axes)(*arrays) for conv in BOTH]

    jax.tree.map(close, *mapped(*arrays))


def test_inside_a_loop_a_layout_of_torch_has_the_order_that_is_fast():
    kernels, x = draw(3, 8, 8, 3, 3), draw(4, 8, 10, 12)

    def loss(kernels, x):
        def body(x, kernel):
            return jnp.tanh(ops.conv_general_dilated(x, kernel, (1, 1), "SAME")), None

        return jnp.sum(jax.lax.scan(body, x, kernels)[0])

    text = jax.jit(jax.grad(loss, (0, 1))).lower(kernels, x).compile().as_text()
    orders = set(re.findall(r"convolution\(.*dim_labels=([\w>-]+)", text))
    assert orders == {"b01f_01io->b01f"}


X, K = jnp.ones((2, 4, 7, 6)), jnp.ones((6, 4, 3, 2))
REFUSED = {
    "ranks": ((X[0], K, (1, 1), "SAME"), {}),
    "channels": ((X[:, :3], K, (1, 1), "SAME"), {}),
    "groups": ((X, K, (1, 1), "SAME"), {"feature_group_count": 3}),
    "no group": ((X, K, (1, 1), "SAME"), {"feature_group_count": 0}),
    "groups and output": ((X, K[:5, :2], (1, 1), "SAME"), {"feature_group_count": 2}),
    "batch groups": ((X, K, (1, 1), "SAME"), {"batch_group_count": 4}),
    "dtypes": ((X, K.astype(jnp.bfloat16), (1, 1), "SAME"), {}),
    "preferred dtype": ((X, K, (1, 1), "SAME"), {"preferred_element_type": jnp.int8}),
    "unknown dtype": ((X, K, (1, 1), "SAME"), {"preferred_element_type": "float31"}),
    "strides": ((X, K, (1, 0), "SAME"), {}),
    "negative strides": ((X, K, (1, -1), [(0, 0), (0, 0)]), {}),
    "strides not by axis": ((X, K, 2, "SAME"), {}),
    "no arrays": (([[[1.0]]], [[[1.0]]], (1,), "SAME"), {}),
    "strides per axis": ((X, K, (1,), [(0, 0), (0, 0)]), {}),
    "dilation": ((X, K, (1, 1), "VALID"), {"rhs_dilation": (0, 1)}),
    "dilation per axis": ((X, K, (1, 1), [(0, 0), (0, 0)]), {"rhs_dilation": (1, 1, 1)}),
    "image dilation per axis": ((X, K, (1, 1), [(0, 0), (0, 0)]), {"lhs_dilation": (1,)}),
    "named padding of a dilated image": ((X, K, (1, 1), "SAME"), {"lhs_dilation": (2, 1)}),
    "name": ((X, K, (1, 1), "CIRCULAR"), {}),
    "cut beyond its size": ((X, K, (1, 1), [(-9, 0), (0, 0)]), {}),
    "padding per axis": ((X, K, (1, 1), [(0, 0)]), {}),
    "padding not by axis": ((X, K, (1, 1), 1), {}),
    "padding by halves": ((X, K, (1, 1), [(0, 0.5), (0, 0)]), {}),
    "padding of three sides": ((X, K, (1, 1), [(0, 0, 0), (0, 0, 0)]), {}),
    "precision": ((X, K, (1, 1), "SAME"), {"precision": "high-ish"}),
    "a letter twice": ((X, K, (1, 1), "SAME"), {"dimension_numbers": ("NCHH", "OIHW", "NCHW")}),
    "two layouts": ((X, K, (1, 1), "SAME"), {"dimension_numbers": ("NCHW", "OIHW")}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_lax_refuses_is_refused_in_its_words(case):
    def refusal(conv):
        arguments, options = REFUSED[case]
        with pytest.raises(Exception) as caught:
            inspect.unwrap(conv)(*arguments, **options)  # past the type checker of the tests
        words, _, _ = str(caught.value).partition("at loc(")  # where in the source it was called
        return caught.type, words

    mine, theirs = map(refusal, BOTH)
    assert mine == theirs


LAYERS = {
    "plain": ((2, 7, 5, 4), (3, 2), {}),
    "grouped": ((2, 7, 5, 4), (3, 2), {"strides": (2, 1), "feature_group_count": 2}),
    "dilated": ((2, 7, 5, 4), (3, 2), {"kernel_dilation": (1, 2)}),
    "pairs": ((2, 7, 5, 4), (3, 2), {"padding": [(1, 2), 0], "precision": "highest"}),
    "circular": ((2, 7, 5, 4), (3, 2), {"padding": "CIRCULAR", "strides": 2}),
    "causal": ((2, 7, 4), (3,), {"padding": "CAUSAL", "kernel_dilation": 2}),
    "masked": ((2, 7, 4), (3,), {"mask": np.arange(96).reshape(3, 4, 8) % 2.0}),
    "unbatched": ((7, 5, 4), (3, 2), {"padding": "VALID"}),
    "twice batched": ((2, 3, 7, 4), (3,), {}),
    "image dilated": ((2, 7, 5, 4), (3, 2), {"input_dilation": 2, "padding": 1}),
}


def nnx_layer(conv, channels, window, options, x):
    layer = flax.nnx.Conv(
        channels, 8, window, conv_general_dilated=conv, rngs=flax.nnx.Rngs(0), **options
    )
    graph, params, rest = flax.nnx.split(layer, flax.nnx.Param, ...)
    return params, lambda params, x: flax.nnx.merge(graph, params, rest)(x)


def linen_layer(conv, channels, window, options, x):
    layer = flax.linen.Conv(8, window, conv_general_dilated=conv, **options)
    return layer.init(jax.random.key(0), x), layer.apply


@pytest.mark.every(2)
@pytest.mark.parametrize("make", [nnx_layer, linen_layer])
@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_of_flax_computes_what_it_did(make, case, x64):
    shape, window, options = LAYERS[case]
    options = {"param_dtype": jnp.float64, **options}
    x = draw(*shape)
    (params, mine), (_, theirs) = (make(conv, shape[-1], window, options, x) for conv in BOTH)
    traced = [str(jax.make_jaxpr(apply)(params, x)) for apply in (mine, theirs)]
    by_lax = ["conv_general_dilated[" in text for text in traced]
    assert by_lax == [case == "image dilated", True]

    @jax.jit
    def both(params, x):
        return [jax.tree.leaves(derivatives(apply, params, x)) for apply in (mine, theirs)]

    outcomes = both(params, x)
    assert len(outcomes[0]) == 4  # the output; to x, the kernel and the bias
    jax.tree.map(close, *outcomes)


@pytest.mark.parametrize("wide", [None, jnp.float32])
def test_a_layer_of_flax_in_bfloat16(wide):
    # No bias: where the sums are wider, Flax would promote it, which the tests forbid.
    options = {"use_bias": False, "dtype": jnp.bfloat16, "preferred_element_type": wide}
    x = draw(2, 7, 5, 4)

    def output(conv):
        params, apply = nnx_layer(conv, 4, (3, 2), options, x)
        return apply(params, x)

    mine, theirs = map(output, BOTH)
    assert theirs.dtype == (wide or jnp.bfloat16)
    close(mine, theirs, tolerance=0.01)


def test_a_local_layer_of_linen_asks_for_its_shape_alone():
    def output(conv):
        layer = flax.linen.ConvLocal(8, (3, 2), conv_general_dilated=conv)
        return layer.init_with_output(jax.random.key(0), draw(2, 5, 4, 3))[0]

    close(*map(output, BOTH))
