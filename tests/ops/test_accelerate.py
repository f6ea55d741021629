"""`ops.accelerate`: what a function computed before, by other convolutions."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify
from jax.sharding import PartitionSpec

from convjax import _trace, ops
from convjax.ops import _accelerate
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

NHWC = ("NHWC", "HWIO", "NHWC")


def draw(*shape, seed=0):
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape), dtype)


def primitives(program):
    """Return the names of all primitives of a program, those in its loops and calls too."""
    names = []
    for equation in getattr(program, "jaxpr", program).eqns:
        inner = _trace.subprograms(equation)
        names += [name for p in inner for name in primitives(p)] or [equation.primitive.name]
    return names


def of_lax(function, *given):
    """Return how many convolutions and windowed maxima of lax a function has."""
    names = primitives(jax.make_jaxpr(function)(*given))
    return sum(
        names.count(name)
        for name in ("conv_general_dilated", "reduce_window_max", "select_and_scatter_add")
    )


def same(function, *given, left=0, tolerance=1e-10):
    """Hold that a function, accelerated, returns the same, and how much stays lax's."""
    fast = ops.accelerate(function)
    assert of_lax(function, *given) > left
    assert of_lax(fast, *given) == left
    found, expected = fast(*given), jax.jit(function)(*given)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def derivatives(function, *given):
    y, pull = jax.vjp(function, *given)
    return y, pull(jnp.sin(y) + 1)


# lhs, rhs, and options of lax's convolution: which is left to lax, of the call and two gradients.
CALLS = {
    "plain": ((2, 7, 6, 3), (3, 2, 3, 4), {"padding": [(1, 1), (0, 1)]}, 0),
    "strided": ((2, 7, 6, 3), (3, 2, 3, 4), {"window_strides": (2, 3)}, 0),
    "pointwise, strided": ((2, 7, 6, 3), (1, 1, 3, 4), {"window_strides": (2, 2)}, 0),
    "left over": ((2, 8, 8, 3), (2, 3, 3, 4), {"window_strides": (3, 4)}, 0),
    "dilated": ((2, 7, 6, 3), (3, 2, 3, 4), {"rhs_dilation": (2, 3)}, 0),
    "all": ((2, 9, 8, 3), (3, 2, 3, 4), {"window_strides": (2, 1), "rhs_dilation": (2, 1)}, 0),
    "depthwise": ((2, 7, 6, 4), (3, 2, 1, 4), {"feature_group_count": 4, "padding": "SAME"}, 0),
    "multiplier": ((2, 7, 6, 2), (3, 2, 1, 6), {"feature_group_count": 2}, 0),
    "grouped": (
        (2, 7, 6, 4),
        (3, 2, 2, 6),
        {"feature_group_count": 2, "window_strides": (2, 1)},
        0,
    ),
    "cut": ((2, 9, 8, 3), (3, 2, 3, 4), {"padding": [(-1, 2), (1, -2)]}, 0),
    "far": ((2, 4, 3, 3), (2, 2, 3, 4), {"padding": [(4, 3), (2, 5)]}, 0),
    "transposed": ((2, 4, 3, 3), (3, 2, 3, 4), {"lhs_dilation": (2, 3), "padding": "pairs"}, 0),
    "tiny": ((5, 1, 1, 3), (3, 3, 3, 4), {"padding": "SAME"}, 0),
    "dilated and strided": (
        (2, 4, 5, 3),
        (3, 2, 3, 4),
        {"lhs_dilation": (2, 1), "window_strides": (2, 1), "padding": "pairs"},
        2,
    ),
    "batch groups": ((4, 7, 6, 3), (3, 2, 3, 4), {"batch_group_count": 2}, 0),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("case", CALLS)
def test_a_convolution_and_its_gradients_by_their_geometry(case, x64):
    lhs, rhs, options, left = CALLS[case]
    options = {"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": NHWC, **options}
    if options["padding"] == "pairs":
        options["padding"] = [(2, 1), (1, 3)]
    conv = functools.partial(lax.conv_general_dilated, **options)
    same(functools.partial(derivatives, conv), draw(*lhs), draw(*rhs), left=left)


LAYOUTS = {
    "NCW": ((2, 4, 9), (6, 2, 3), None),
    "CWN": ((4, 9, 2), (2, 3, 6), ("CWN", "IWO", "WNC")),
    "NCHW": ((2, 4, 7, 5), (6, 2, 3, 2), None),
    "WCNH": ((5, 4, 2, 7), (3, 6, 2, 2), ("WCNH", "HOWI", "CHNW")),
    "DCWHN": ((4, 4, 3, 5, 2), (2, 2, 6, 3, 2), ("DCWHN", "DWOHI", "WNHDC")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, x64):
    lhs, rhs, numbers = LAYOUTS[layout]
    rank = len(lhs) - 2
    options = {"dimension_numbers": numbers, "feature_group_count": 2}
    strides, padding = (1, 2, 1)[:rank], [(1, 0), (2, 1), (0, 1)][:rank]

    def conv(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, strides, padding, **options)

    same(functools.partial(derivatives, conv), draw(*lhs), draw(*rhs))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("axes", ["NHWC", "NCHW"])
def test_a_maximum_pool_and_its_gradient(axes, padding, x64):
    window, strides = {
        "NHWC": ((1, 3, 2, 1), (1, 2, 1, 1)),
        "NCHW": ((1, 1, 3, 2), (1, 1, 2, 1)),
    }[axes]

    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)

    same(functools.partial(derivatives, pool), jnp.round(draw(2, 6, 7, 6)))  # with ties


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def net(kernels, x):
    for kernel in kernels:
        x = jnp.tanh(conv(x, kernel))
    return x


def in_scan(kernels, x):
    return lax.scan(lambda x, kernel: (jnp.tanh(conv(x, kernel)), None), x, jnp.stack(kernels))[0]


def in_cond(kernels, x):
    branches = (lambda x: conv(x, kernels[0]), lambda x: conv(x, 2 * kernels[1]))
    return lax.cond(x.sum() > 0, *branches, x)


def in_while(kernels, x):
    def step(state):
        return state[0] + 1, jnp.tanh(conv(state[1], kernels[0]))

    return lax.while_loop(lambda state: state[0] < 2, step, (0, x))[1]


def in_remat(kernels, x):
    policy = jax.checkpoint_policies.dots_saveable
    return jax.checkpoint(net, policy=policy)(kernels, jax.checkpoint(net)(kernels, x))


@jax.custom_jvp
def doubled(kernels, x):
    return net(kernels, x)


@doubled.defjvp
def _doubled_jvp(primals, tangents):
    y, dy = jax.jvp(net, primals, tangents)
    return y, 2 * dy


@jax.custom_vjp
def tripled(kernels, x):
    return net(kernels, x)


tripled.defvjp(
    lambda kernels, x: (net(kernels, x), (kernels, x)),
    lambda saved, g: jax.tree.map(lambda a: 3 * a, jax.vjp(net, *saved)[1](g)),
)


def in_shard_map(kernels, x):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    specs = {"in_specs": (PartitionSpec(), rows), "out_specs": rows}
    return jax.shard_map(net, mesh=mesh, **specs)(kernels, x)


def in_shard_map_with_a_pool(kernels, x):
    def pooled(x):
        return lax.reduce_window(net(kernels, x), -jnp.inf, lax.max, (1, 2, 2, 1), (1,) * 4, "SAME")

    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.square(pooled(x))))(x)

    return jax.shard_map(gradient, mesh=mesh, in_specs=rows, out_specs=rows)(x)


PROGRAMS = {
    "plain": net,
    "jit": jax.jit(net),
    "scan": in_scan,
    "cond": in_cond,
    "remat": in_remat,
    "custom_jvp": doubled,
    "custom_vjp": tripled,
    "shard_map": in_shard_map,
    "vmap": lambda kernels, x: jax.vmap(net, (None, 0))(kernels, x[:, None])[:, 0],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_and_its_gradient_inside_and_outside(program, x64):
    kernels, x = [draw(3, 2, 3, 3, seed=i) for i in range(2)], draw(2, 5, 4, 3)
    function = PROGRAMS[program]

    def loss(function, kernels, x):
        return jnp.sum(jnp.square(function(kernels, x)))

    inside = jax.value_and_grad(functools.partial(loss, function), (0, 1))
    same(inside, kernels, x)
    outside = jax.value_and_grad(functools.partial(loss, ops.accelerate(function)), (0, 1))
    assert of_lax(outside, kernels, x) == 0
    found, expected = jax.jit(outside)(kernels, x), jax.jit(inside)(kernels, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)


def test_a_pool_under_shard_map(x64):
    same(in_shard_map_with_a_pool, [draw(3, 2, 3, 3)], draw(2, 5, 4, 3))


# Layout, image, kernel: what could be read as a kernel gradient, since its window is so large.
LARGE_WINDOWS = {
    "patches": (NHWC, (2, 64, 64, 3), (16, 16, 3, 8)),
    "patches, NCHW": (("NCHW", "OIHW", "NCHW"), (2, 3, 64, 64), (8, 3, 16, 16)),
    "whole image": (NHWC, (2, 7, 7, 5), (7, 7, 5, 6)),
    "sequence": (("NWC", "WIO", "NWC"), (2, 9, 3), (7, 3, 4)),
}


@pytest.mark.parametrize("case", LARGE_WINDOWS)
def test_a_large_window_is_no_kernel_gradient(case):
    numbers, *shapes = LARGE_WINDOWS[case]
    strides = (16, 16) if "patches" in case else (1,) * (len(shapes[0]) - 2)
    conv = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding="VALID", dimension_numbers=numbers
    )
    fast = ops.accelerate(functools.partial(derivatives, conv))
    found = primitives(jax.make_jaxpr(fast)(*(jax.ShapeDtypeStruct(s, "float32") for s in shapes)))
    which = [name for name in found if name.startswith("convolution_")]
    assert sorted(which) == [
        f"convolution_{name}" for name in ("forward", "input_gradient", "kernel_gradient")
    ]


def test_a_loop_of_unknown_length(x64):
    same(in_while, [draw(3, 2, 3, 3)], draw(2, 5, 4, 3))


def test_forward_mode_and_maps_around_it(x64):
    kernels, x = [draw(3, 2, 3, 3)], draw(2, 5, 4, 3)
    for f in (net, doubled):
        fast = ops.accelerate(f)
        jvp = [jax.jvp(lambda x, g=g: g(kernels, x), (x,), (x + 1,)) for g in (fast, f)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), *jvp)
        mapped = [jax.vmap(g, (None, 0))(kernels, x[:, None]) for g in (fast, f)]
        np.testing.assert_allclose(*mapped, rtol=1e-10)


def test_what_cannot_be_served_is_left_as_it_was():
    whole = jnp.ones((1, 2, 5), jnp.int32), jnp.ones((3, 2, 2), jnp.int32)
    strides = functools.partial(lax.conv, window_strides=(1,), padding="SAME")
    calls: list[Any] = [(strides, *whole)]
    calls.append((strides, *(a.astype(jnp.complex64) for a in whole)))
    wide = functools.partial(strides, preferred_element_type=jnp.float32)
    calls.append((wide, *(a.astype(jnp.bfloat16) for a in whole)))
    four = jnp.ones((1, 1, 2, 2, 2, 2))
    calls.append((lambda x: lax.conv(x, x, (1,) * 4, "VALID"), four))
    for f, *given in calls:
        before, after = (jax.make_jaxpr(f)(*given), jax.make_jaxpr(ops.accelerate(f))(*given))
        assert primitives(before) == primitives(after)


def test_weak_types_stay_weak():
    weak = lax.broadcast(2.0, (3, 3, 3, 3))
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1,) * 4, "SAME")  # noqa: E731
    for f, *given in ((conv, weak, weak), (pool, weak), (conv, weak, draw(3, 3, 3, 1))):
        found, expected = (g(*given) for g in (ops.accelerate(f), f))
        assert (found.weak_type, found.dtype) == (expected.weak_type, expected.dtype)


def test_a_program_without_any_convolution_stays_the_same_object():
    program = jax.make_jaxpr(lambda x: lax.fori_loop(0, 3, lambda _, x: x @ x, x))(jnp.eye(3))
    assert _trace.rewrite(program, _accelerate._rule) is program


def test_what_is_called_twice_is_rewritten_once():
    layer = jax.jit(conv)
    x, kernel = draw(2, 5, 4, 3), draw(3, 2, 3, 3)
    program = jax.make_jaxpr(lambda x, k: layer(layer(x, k), k))(x, kernel)
    first, second = _trace.rewrite(program, _accelerate._rule).jaxpr.eqns
    assert first.params["jaxpr"] is second.params["jaxpr"]
    assert first.params["jaxpr"] is not program.jaxpr.eqns[0].params["jaxpr"]


def test_twice_is_once():
    fast = ops.accelerate(net)
    assert ops.accelerate(fast) is fast
    jitted = ops.accelerate(jax.jit(net))
    assert ops.accelerate(jitted) is jitted


def test_signature_and_name_are_those_of_the_function():
    def step(state, x, *, rate: float = 0.1):
        """Take a step."""
        return state, x, rate

    for fast in (ops.accelerate(step), ops.accelerate(jax.jit(step, static_argnames="rate"))):
        assert inspect.signature(fast) == inspect.signature(step)
        assert (fast.__name__, fast.__doc__) == ("step", "Take a step.")
        assert str(jax.make_jaxpr(fast)(1.0, jnp.ones(2)).jaxpr.eqns[0].params["name"]) == "step"


def test_constants_pytrees_and_what_is_no_array_go_in_and_out():
    traced = []

    def f(tree, activation, n, *, flag=False):
        traced.append(n)
        y = conv(tree["x"], tree["kernel"])
        return {"y": activation(y) if flag else y, "n": n, "f": activation, "none": None}

    fast = ops.accelerate(f)
    tree = {"x": np.asarray(draw(2, 5, 4, 3)), "kernel": draw(3, 2, 3, 3)}
    for _ in range(2):
        found = fast(tree, jnp.tanh, 3, flag=True)
    np.testing.assert_allclose(found["y"], f(tree, jnp.tanh, 3, flag=True)["y"], rtol=1e-5)
    assert (found["n"], found["f"], found["none"]) == (3, jnp.tanh, None)
    assert type(fast(tree, jnp.tanh, 3.0)["n"]) is float
    assert traced == [3, 3, 3.0]


def test_a_jitted_function_keeps_its_static_and_donated_arguments():
    @functools.partial(jax.jit, static_argnums=1, static_argnames="k", donate_argnames="state")
    def step(x, n: int, state, *, k: str = "a", rate=0.5):
        assert isinstance(n, int) and isinstance(k, str)
        return state + rate * conv(x, jnp.ones((1, 1, 3, 3))) * n

    fast = ops.accelerate(step)
    x = draw(2, 5, 4, 3)
    given = fast.lower(x, 2, jnp.zeros_like(x), k="b").args_info
    assert [info.donated for info in jax.tree.leaves(given)] == [False, True]
    state = jnp.zeros_like(x)
    found = fast(x, 2, state, rate=0.25)
    assert state.is_deleted() and not x.is_deleted()
    np.testing.assert_allclose(found, step(x, 2, jnp.zeros_like(x), rate=0.25), rtol=1e-5)


def test_options_of_the_compiler_and_shardings_stay():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
    options = {"compiler_options": {"xla_embed_ir_in_executable": True}, "out_shardings": spread}
    step = jax.jit(lambda x, n: n * conv(x, jnp.ones((1, 1, 3, 3))), static_argnums=1, **options)
    fast, x = ops.accelerate(step), draw(2, 5, 4, 3)
    found, expected = fast(x, 2), step(x, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.sharding.is_equivalent_to(expected.sharding, 4)


def test_arrays_on_disk_are_read_at_every_call(tmp_path):
    traced = []

    def f(x):
        traced.append(x)
        return 2 * x

    fast = ops.accelerate(f)
    rows = np.memmap(tmp_path / "rows", dtype=np.float32, mode="w+", shape=(3, 2))
    for value in (1, 2):
        rows[:] = value
        np.testing.assert_array_equal(fast(rows), np.full((3, 2), 2 * value))
    assert len(traced) == 1


def test_a_reference_is_written():
    count = jax.new_ref(jnp.zeros(()))

    def f(count, x):
        count[...] += 1.0
        return net([jnp.ones((1, 1, 3, 3))], x)

    for g in (f, jax.jit(f)):
        ops.accelerate(g)(count, draw(2, 5, 4, 3))
    assert count[...] == 2


def test_without_jit_python_sees_values():
    fast = ops.accelerate(lambda x: conv(x, x) if x.sum() > 0 else x)
    with jax.disable_jit():
        np.testing.assert_array_equal(fast(-jnp.ones((1, 2, 2, 1))), -np.ones((1, 2, 2, 1)))


def test_checkify_finds_nan():
    x = draw(2, 5, 4, 3).at[0, 0, 0, 0].set(jnp.nan)
    checked = checkify.checkify(ops.accelerate(net), errors=checkify.nan_checks)
    error, _ = checked([draw(3, 3, 3, 3)], x)
    assert "nan generated by primitive: convolution_forward" in str(error.get())


def test_errors_are_the_users_own():
    class OwnError(Exception):
        pass

    def f(x):
        raise OwnError("mine")

    for g in (f, jax.jit(f)):
        with pytest.raises(OwnError, match="mine"):
            ops.accelerate(g)(jnp.ones(2))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        ops.accelerate(f)()


def test_the_form_that_is_asked_for_is_used():
    with ops.default_lowering("lax"):
        text = str(jax.make_jaxpr(ops.accelerate(net))([draw(3, 3, 3, 3)], draw(2, 5, 4, 3)))
    assert "lowering='lax'" in text
