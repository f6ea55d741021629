"""How the form of a convolution is named, what "auto" chooses, and what that costs in memory."""

import dataclasses
import re
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from convjax.ops import _lowering, _precision
from convjax.ops._forms import _choose, _onednn
from convjax.ops._geometry import Geometry

CONVOLUTION = "stablehlo.convolution"
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 4)), jnp.float32)


def _kernel(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


DEPTHWISE = _kernel(3, 3, 1, 4)


@jax.jit
def depthwise(x, kernel):
    return ops.depthwise_conv(x, kernel)


def _is_convolution(function: Callable = depthwise):
    return CONVOLUTION in jax.jit(function).lower(X, DEPTHWISE).as_text()


def _close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_names_are_auto_and_the_forms():
    assert set(ops.LOWERINGS) == {"auto", *_choose.FORMS}


def test_a_block_of_lax_computes_by_a_convolution_and_its_end_restores_auto():
    assert not _is_convolution()
    with ops.default_lowering("lax"):
        assert _is_convolution()
        with ops.default_lowering("shift"):
            assert not _is_convolution()
        assert _is_convolution()
        with ops.default_lowering("auto"):
            assert not _is_convolution()
        assert _is_convolution()
    assert not _is_convolution()


def test_an_exception_in_a_block_restores_the_name_before():
    with ops.default_lowering("lax"):
        with pytest.raises(ZeroDivisionError), ops.default_lowering("shift"):
            1 / 0  # noqa: B018
        assert _is_convolution()
    assert not _is_convolution()


def test_a_block_holds_for_its_thread_alone():
    elsewhere = []
    with ops.default_lowering("lax"):
        thread = threading.Thread(target=lambda: elsewhere.append(_is_convolution()))
        thread.start()
        thread.join()
        assert _is_convolution()
    assert elsewhere == [False]


def test_one_jitted_function_is_traced_once_under_every_name():
    names = []

    @jax.jit
    def function(x, kernel):
        names.append(_lowering._context.value)
        return ops.depthwise_conv(x, kernel)

    results = []
    for name in ("auto", "lax", "shift", "lax", "auto"):
        with ops.default_lowering(name):
            results.append(function(X, DEPTHWISE))
    assert names == ["auto", "lax", "shift"]
    for result in results[1:]:
        _close(result, results[0])


def test_a_function_inside_a_loop_or_a_jitted_one_is_traced_anew_too():
    def body(x, _):
        return depthwise(x, DEPTHWISE), None

    def loop(x, kernel):
        return jax.checkpoint(lambda x: jax.lax.scan(body, x, length=2)[0])(x)

    for name, expected in (("auto", False), ("lax", True), ("auto", False), ("lax", True)):
        with ops.default_lowering(name):
            assert _is_convolution(loop) == expected


def test_derivatives_are_computed_by_the_form_of_the_block_that_the_call_was_in():
    with ops.default_lowering("lax"):
        y, pull = jax.vjp(ops.depthwise_conv, X, DEPTHWISE)
    assert CONVOLUTION in jax.jit(pull).lower(y).as_text()
    y, pull = jax.vjp(ops.depthwise_conv, X, DEPTHWISE)
    assert CONVOLUTION not in jax.jit(pull).lower(y).as_text()


@pytest.mark.parametrize("block", ops.LOWERINGS)
def test_the_name_given_to_a_call_wins_over_the_block(block):
    with ops.default_lowering(block):
        assert _is_convolution(lambda x, k: ops.depthwise_conv(x, k, lowering="lax"))
        assert not _is_convolution(lambda x, k: ops.depthwise_conv(x, k, lowering="shift"))
        assert not _is_convolution(lambda x, k: ops.depthwise_conv(x, k, lowering="auto"))


def test_what_the_form_of_a_block_cannot_serve_is_computed_as_by_auto():
    calls = {
        "onednn": lambda x: ops.conv(x, _kernel(3, 3, 4, 2), precision="highest"),
        "shift": lambda x: ops.pointwise_conv(x, _kernel(1, 1, 4, 3)),
        "product": lambda x: ops.conv(x, _kernel(3, 3, 4, 2)),
        "taps": lambda x: ops.conv(x, _kernel(3, 3, 2, 4), feature_group_count=2),
        "winograd": lambda x: ops.conv(x, _kernel(3, 3, 4, 2), strides=2),
    }
    assert {"auto", "lax", *calls} == set(ops.LOWERINGS)
    for name, call in calls.items():
        expected = jax.jit(call).lower(X).as_text()
        with ops.default_lowering(name):
            assert jax.jit(call).lower(X).as_text() == expected


def test_a_derivative_that_a_named_form_lacks_is_computed_as_by_auto():
    def gradient(lowering):
        kernel = _kernel(3, 3, 4, 8)
        call = lambda w: jnp.sum(ops.conv(X, w, lowering=lowering) ** 2)  # noqa: E731
        return jax.grad(call)(kernel)

    assert not hasattr(_choose.FORMS["winograd"], "kernel_gradient")
    _close(gradient("winograd"), gradient("lax"))


UNKNOWN = {
    "conv": lambda name: ops.conv(X, _kernel(3, 3, 4, 2), lowering=name),
    "depthwise_conv": lambda name: ops.depthwise_conv(X, DEPTHWISE, lowering=name),
    "pointwise_conv": lambda name: ops.pointwise_conv(X, _kernel(1, 1, 4, 2), lowering=name),
    "conv_general_dilated": lambda name: ops.conv_general_dilated(
        X, DEPTHWISE, (1, 1), "SAME", None, None, ("NHWC", "HWIO", "NHWC"), 4, lowering=name
    ),
}


@pytest.mark.parametrize("op", UNKNOWN)
def test_an_unknown_name_is_refused_with_the_nearest(op):
    with pytest.raises(ValueError, match=f"{op}: lowering='winogard' is not known.*'winograd'"):
        UNKNOWN[op]("winogard")


def test_a_block_of_an_unknown_name_is_refused_with_the_nearest():
    message = r"default_lowering: name='shfit' is not known; did you mean 'shift'\?"
    with pytest.raises(ValueError, match=message), ops.default_lowering("shfit"):
        raise AssertionError("the block was entered")
    assert not _is_convolution()


CALLS = {
    "dense": (_kernel(3, 3, 4, 6), {}),
    "strided": (_kernel(3, 2, 4, 6), {"strides": 2}),
    "dilated": (_kernel(3, 3, 4, 6), {"kernel_dilation": 2}),
    "patches": (_kernel(2, 2, 4, 6), {"strides": 2}),
    "1x1": (_kernel(1, 1, 4, 6), {}),
    "groups": (_kernel(3, 3, 2, 6), {"feature_group_count": 2}),
    "depthwise": (_kernel(3, 3, 1, 8), {"feature_group_count": 4}),
    "large depthwise": (_kernel(5, 13, 1, 4), {"feature_group_count": 4}),
    "large": (_kernel(5, 13, 4, 2), {}),
    "exact": (_kernel(3, 3, 4, 6), {"precision": "highest"}),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_form_that_cannot_serve_a_call_is_refused_with_all_that_can(case):
    kernel, options = CALLS[case]

    def call(lowering):
        return ops.conv(X, kernel, **options, lowering=lowering)

    expected = call("lax")
    listed, served = [], {"auto", "lax"}
    for form in set(ops.LOWERINGS) - served:
        try:
            _close(call(form), expected)
            served.add(form)
        except ValueError as refusal:
            message = str(refusal)
            assert message.startswith(f"conv: lowering='{form}' serves ")
            able = re.search(r"which (.*) can serve$", message)
            assert able is not None
            listed.append(set(re.findall(r"'(\w+)'", able[1])))
    assert listed
    assert all(names == served for names in listed)


@pytest.mark.parametrize(
    ("platform", "expected"), [("cpu", False), ("cuda", True), ("rocm", True), ("tpu", True)]
)
def test_auto_is_chosen_by_the_platform_that_a_function_is_lowered_for(platform, expected):
    for function in (depthwise, jax.jit(jax.grad(lambda *given: depthwise(*given).sum(), (0, 1)))):
        lowered = function.trace(X, DEPTHWISE).lower(lowering_platforms=(platform,))
        assert (CONVOLUTION in lowered.as_text()) == expected


def test_an_export_holds_the_choice_of_every_platform():
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(depthwise, platforms=platforms)(X, DEPTHWISE)
    assert exported.platforms == platforms
    assert CONVOLUTION in exported.mlir_module()
    _close(exported.call(X, DEPTHWISE), ops.depthwise_conv(X, DEPTHWISE, lowering="lax"))


def _geometry(image, window, features, *, stride=1, groups=1, dilation=1, precision=None):
    """A square convolution as by padding "SAME"."""
    inputs, outputs = features
    reach = dilation * (window - 1) + 1
    missing = max(0, (-(-image // stride) - 1) * stride + reach - image)
    return Geometry(
        (image,) * 2,
        (window,) * 2,
        (stride,) * 2,
        ((missing // 2, missing - missing // 2),) * 2,
        (dilation,) * 2,
        groups,
        inputs,
        outputs,
        _precision.fix("conv", precision),
    )


DIRECTIONS = ("forward", "input_gradient", "kernel_gradient")
EVERYWHERE = {
    "product": ("product", "product", "product"),
    "shift": ("shift", "shift", "shift"),
    "lax": ("lax", "lax", "lax"),
    "taps": ("taps", "taps", "lax"),
    "product of gradients": ("lax", "product", "product"),
    "taps of gradients": ("lax", "lax", "taps"),
    "winograd and taps": ("winograd", "winograd", "taps"),
    "winograd": ("winograd", "winograd", "lax"),
}
# geometry: what is chosen on CPU, in every direction.
CHOICES = {
    "1x1": (_geometry(28, 1, (64, 256)), "product"),
    "1x1, strided": (_geometry(28, 1, (64, 256), stride=2), "product"),
    "patches": (_geometry(32, 4, (16, 96), stride=4), "product"),
    "patches of few channels": (_geometry(32, 4, (15, 96), stride=4), "product of gradients"),
    "depthwise": (_geometry(56, 3, (64, 64), groups=64), "shift"),
    "depthwise, 7x7": (_geometry(14, 7, (384, 384), groups=384), "shift"),
    "depthwise, 8x8": (_geometry(14, 8, (8, 8), groups=8), "shift"),
    "depthwise, more than 64 taps": (_geometry(14, 9, (8, 8), groups=8), "lax"),
    "depthwise, multiplier": (_geometry(14, 3, (8, 16), groups=8), "shift"),
    "depthwise, multiplier of 4": (_geometry(14, 3, (8, 32), groups=8), "shift"),
    "depthwise, multiplier of 5": (_geometry(14, 3, (8, 40), groups=8), "lax"),
    "one channel": (_geometry(14, 3, (1, 16)), "lax"),
    "groups": (_geometry(14, 3, (64, 64), groups=2), "lax"),
    "groups of a tiny image": (_geometry(3, 3, (64, 64), groups=2), "lax"),
    "tiny image": (_geometry(3, 3, (16, 16)), "taps"),
    "beyond tiny": (_geometry(4, 3, (16, 16)), "lax"),
    "tiny image, large window": (_geometry(3, 9, (16, 16)), "lax"),
    "tall window": (
        dataclasses.replace(_geometry(17, 7, (128, 128)), window=(7, 1), pads=((3, 3), (0, 0))),
        "taps of gradients",
    ),
    "broad window": (
        dataclasses.replace(_geometry(17, 7, (128, 128)), window=(1, 7), pads=((0, 0), (3, 3))),
        "lax",
    ),
    "large and wide": (_geometry(50, 3, (64, 128)), "winograd and taps"),
    "large, not as wide": (_geometry(50, 3, (64, 127)), "winograd"),
    "wide, not as large": (_geometry(49, 3, (64, 128)), "winograd"),
    "3x3, 64": (_geometry(56, 3, (64, 64)), "winograd"),
    "3x3, 48 at 12": (_geometry(12, 3, (48, 48)), "winograd"),
    "3x3, 48 at 11": (_geometry(11, 3, (48, 48)), "lax"),
    "3x3, 47 at 12": (_geometry(12, 3, (47, 48)), "lax"),
    "3x3, 32 at 64": (_geometry(64, 3, (64, 32)), "winograd"),
    "3x3, 32 at 63": (_geometry(63, 3, (64, 32)), "lax"),
    "3x3, 31 at 64": (_geometry(64, 3, (31, 64)), "lax"),
    "3x3, 32 to 32": (_geometry(64, 3, (32, 63)), "lax"),
    "3x3, strided": (_geometry(56, 3, (64, 64), stride=2), "lax"),
    "3x3, dilated": (_geometry(56, 3, (64, 64), dilation=2), "lax"),
    "3x3, exact": (_geometry(56, 3, (64, 64), precision="highest"), "lax"),
    "5x5": (_geometry(28, 5, (64, 64)), "lax"),
    "stem": (_geometry(224, 7, (3, 64), stride=2), "lax"),
}


def _chosen(geometry, platform, dtype="float32", *, images=None):
    of = np.dtype(dtype)
    forms = (_choose.choose(d, geometry, of, platform, images=images) for d in DIRECTIONS)
    return tuple(form.__module__.rpartition("._")[2] for form in forms)


@pytest.mark.parametrize("case", CHOICES)
def test_what_auto_chooses_on_cpu(case):
    geometry, form = CHOICES[case]
    assert _chosen(geometry, "cpu") == EVERYWHERE[form]


def _sequence(length, features, *, stride=1, dilation=1):
    pads = ((dilation, dilation),)
    return Geometry((length,), (3,), (stride,), pads, (dilation,), 1, *features)


SPATIAL = Geometry((16, 32, 32), (3,) * 3, (2,) * 3, ((1, 1),) * 3, (1,) * 3, 1, 16, 32)


def test_three_spatial_axes_are_not_left_to_lax():
    """XLA's convolutions of three spatial axes take 3 to 100 times as long on CPU."""
    assert _chosen(SPATIAL, "cpu") == ("taps",) * 3
    assert _chosen(SPATIAL, "gpu") == ("lax",) * 3


# geometry: what is chosen in every direction where a program may call oneDNN.
WITH_ONEDNN = {
    "3x3 of few channels": (_geometry(32, 3, (16, 16)), ("onednn", "onednn", "onednn")),
    "3x3": (_geometry(16, 3, (32, 32)), ("onednn",) * 3),
    "3x3, small": (_geometry(8, 3, (64, 64)), ("onednn", "onednn", "onednn")),
    "3x3, small and wide": (_geometry(7, 3, (512, 512)), ("onednn",) * 3),
    "3x3, wide": (_geometry(28, 3, (128, 128)), ("onednn",) * 3),
    "3x3, less wide": (_geometry(112, 3, (32, 64)), ("onednn",) * 3),
    "3x3, large": (_geometry(149, 3, (32, 32)), ("onednn",) * 3),
    "3x3, strided": (_geometry(56, 3, (128, 128), stride=2), ("onednn",) * 3),
    "3x3, strided and less large": (
        _geometry(28, 3, (128, 128), stride=2),
        ("onednn",) * 3,
    ),
    "3x3, strided and small": (
        _geometry(14, 3, (128, 128), stride=2),
        ("onednn", "lax", "onednn"),
    ),
    "3x3x3, strided": (SPATIAL, ("onednn",) * 3),
    "3x3, tiny": (_geometry(3, 3, (512, 512)), ("taps", "taps", "onednn")),
    "3x3, exact": (_geometry(16, 3, (32, 32), precision="highest"), ("lax",) * 3),
    "stem": (_geometry(224, 7, (3, 64), stride=2), ("onednn", "lax", "onednn")),
    "sequence": (_sequence(1000, (64, 63)), ("onednn", "onednn", "onednn")),
    "sequence, long": (_sequence(1000, (64, 64)), ("onednn", "onednn", "lax")),
    "sequence, long and strided": (
        _sequence(2000, (64, 64), stride=2),
        ("onednn",) * 3,
    ),
    "sequence, dilated": (_sequence(200, (64, 64), dilation=2), ("onednn", "onednn", "lax")),
    "from one channel": (_geometry(28, 3, (1, 32)), ("onednn", "lax", "onednn")),
    "patches": (_geometry(224, 16, (3, 192), stride=16), ("onednn", "product", "product")),
    "patches of channels": (
        _geometry(56, 2, (96, 192), stride=2),
        ("onednn", "product", "product"),
    ),
    "patches of channels, small": (_geometry(14, 2, (384, 768), stride=2), ("product",) * 3),
    "5x5": (_geometry(35, 5, (48, 64)), ("onednn", "onednn", "onednn")),
    "1x1": (_geometry(14, 1, (512, 512)), ("product", "product", "onednn")),
    "1x1, large": (_geometry(56, 1, (24, 144)), ("onednn", "product", "onednn")),
    "1x1, strided": (_geometry(56, 1, (64, 128), stride=2), ("onednn", "product", "onednn")),
    "depthwise": (_geometry(56, 3, (64, 64), groups=64), ("onednn", "onednn", "shift")),
    "depthwise, strided": (
        _geometry(56, 3, (64, 64), groups=64, stride=2),
        ("onednn", "shift", "shift"),
    ),
    "depthwise, multiplier": (_geometry(14, 3, (8, 16), groups=8), ("shift",) * 3),
    "depthwise, 9x9": (_geometry(14, 9, (8, 8), groups=8), ("onednn", "onednn", "onednn")),
    "groups": (_geometry(14, 3, (64, 64), groups=2), ("onednn", "onednn", "onednn")),
    "groups, strided": (
        _geometry(14, 3, (64, 64), groups=2, stride=2),
        ("onednn", "onednn", "onednn"),
    ),
}


@pytest.mark.parametrize("case", WITH_ONEDNN)
def test_what_auto_chooses_where_a_program_may_call_onednn(case, monkeypatch):
    monkeypatch.setattr(_onednn, "is_there", lambda dtype: dtype.itemsize <= 4)
    geometry, forms = WITH_ONEDNN[case]
    assert _chosen(geometry, "cpu", images=64) == forms
    assert "onednn" not in _chosen(geometry, "cpu")
    assert "onednn" not in _chosen(geometry, "cpu", "float64", images=64)
    few = dataclasses.replace(geometry, spatial=tuple(min(n, 9) for n in geometry.spatial))
    few = dataclasses.replace(few, in_features=few.groups, out_features=few.groups * 2)
    assert "onednn" not in _chosen(few, "cpu", images=1)
    monkeypatch.setattr(_onednn, "is_there", lambda dtype: False)
    assert "onednn" not in _chosen(geometry, "cpu", images=64)


# Where oneDNN has products of bfloat16, and XLA has none.
IN_BFLOAT16 = {
    "3x3, wide": ("onednn",) * 3,
    "1x1": ("onednn",) * 3,
    "stem": ("onednn",) * 3,
    "patches": ("onednn", "product", "onednn"),
    "groups": ("onednn",) * 3,
    "depthwise, strided": ("onednn", "shift", "shift"),
}


@pytest.mark.parametrize("case", IN_BFLOAT16)
def test_what_auto_chooses_in_bfloat16(case, monkeypatch):
    monkeypatch.setattr(_onednn, "is_there", lambda dtype: dtype.itemsize == 2)
    geometry, _ = WITH_ONEDNN[case]
    for multiplies in (True, False):
        monkeypatch.setattr(_onednn, "multiplies", lambda dtype, there=multiplies: there)
        chosen = _chosen(geometry, "cpu", "bfloat16", images=64)
        assert chosen == IN_BFLOAT16[case] if multiplies else "onednn" not in chosen


def test_a_window_as_large_as_its_image_is_a_product_in_lax(monkeypatch):
    """Which is how lax writes the gradient of a 1x1 kernel for each image."""
    monkeypatch.setattr(_onednn, "is_there", lambda dtype: True)
    whole = Geometry((16, 16), (16, 16), (1, 1), ((0, 0),) * 2, (1, 1), 32, 32, 4096)
    assert _chosen(whole, "cpu", images=64)[0] == "lax"


def test_where_programs_are_kept_on_disk_none_calls_onednn_unless_it_is_named(monkeypatch):
    monkeypatch.setattr(_onednn, "is_there", lambda dtype: True)
    geometry, forms = WITH_ONEDNN["3x3"]
    named = dataclasses.replace(geometry, lowering="onednn")
    folder = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", "a folder")
    try:
        assert "onednn" not in _chosen(geometry, "cpu", images=64)
        assert _chosen(named, "cpu", images=64) == forms
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)


def test_winograd_is_not_chosen_in_half_precision():
    geometry, _ = CHOICES["3x3, 64"]
    assert _chosen(geometry, "cpu", "float16") == ("lax",) * 3
    assert _chosen(geometry, "cpu", "float64") == EVERYWHERE["winograd"]


@pytest.mark.parametrize("case", CHOICES)
def test_elsewhere_auto_is_lax_but_for_a_window_of_one(case):
    geometry, _ = CHOICES[case]
    expected = "product" if geometry.window == (1, 1) else "lax"
    assert _chosen(geometry, "other") == EVERYWHERE[expected]


# image (batch, side, channels), (window, output channels), what else the call has.
SIZES = {
    "3x3": ((8, 28, 64), (3, 64), {}),
    "3x3, strided": ((8, 28, 64), (3, 128), {"strides": 2}),
    "3x3, strided, odd": ((8, 29, 64), (3, 128), {"strides": 2, "padding": "VALID"}),
    "3x3, tiny image": ((8, 3, 512), (3, 512), {}),
    "3x3, tiny image, large batch": ((64, 3, 512), (3, 512), {}),
    "3x3, wide, large batch": ((64, 7, 512), (3, 512), {}),
    "1x1": ((8, 28, 64), (1, 256), {}),
    "patches": ((8, 224, 3), (16, 96), {"strides": 16}),
    "stem": ((8, 112, 3), (7, 64), {"strides": 2}),
    "depthwise 3x3": ((8, 56, 64), (3, 64), {"feature_group_count": 64}),
    "depthwise 7x7": ((8, 56, 64), (7, 64), {"feature_group_count": 64}),
    "depthwise 3x3, strided": ((8, 56, 64), (3, 64), {"feature_group_count": 64, "strides": 2}),
    "depthwise 3x3, multiplier": ((8, 28, 32), (3, 128), {"feature_group_count": 32}),
}


def _out_side(side, window, options):
    valid = options.get("padding") == "VALID"
    return -(-(side - (window - 1) * valid) // options.get("strides", 1))


def _peak_bytes(function, *operands):
    """Return what a compiled function holds at most, with its arguments and results."""
    memory = jax.jit(function).lower(*operands).compile().memory_analysis()
    assert memory is not None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


@pytest.mark.every(2)
@pytest.mark.parametrize("case", SIZES)
def test_auto_holds_at_most_twice_what_lax_holds(case):
    (batch, side, channels), (window, features), options = SIZES[case]
    image, g, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in (
            (batch, side, side, channels),
            (batch, *(_out_side(side, window, options),) * 2, features),
            (window, window, channels // options.get("feature_group_count", 1), features),
        )
    )

    def forward(x, kernel):
        return ops.conv(x, kernel, **options)

    def input_gradient(g, kernel):
        return jax.linear_transpose(lambda x: forward(x, kernel), image)(g)

    def kernel_gradient(x, g):
        return jax.linear_transpose(lambda w: forward(x, w), kernel)(g)

    ratios = {}
    calls = {forward: (image, kernel), input_gradient: (g, kernel), kernel_gradient: (image, g)}
    for function, operands in calls.items():
        ours = _peak_bytes(function, *operands)
        with ops.default_lowering("lax"):
            ratios[function.__name__] = ours / _peak_bytes(function, *operands)
    assert max(ratios.values()) <= 2, ratios
