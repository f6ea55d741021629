"""JAX's own switches and transformations: what works with lax works with every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet

from convjax import ops
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops.test_bilinear import FORMS

CASES = FORMS | {
    "auto": ((2, 6, 5, 4), (3, 2, 4, 6), {}),
    "auto, depthwise": ((2, 9, 4), (3, 1, 4), {"feature_group_count": 4}),
    "auto, pointwise": ((2, 4, 3, 3), (1, 1, 3, 2), {"strides": 2}),
}
every_form = pytest.mark.parametrize("form", CASES)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def call_of(form):
    """Return the convolution, an image and a kernel."""
    *shapes, options = CASES[form]
    generator = np.random.default_rng(0)
    return lambda x, w: ops.conv(x, w, **options), *(
        jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes
    )


def derivatives(conv):
    """Return a function that gives the value, both gradients, and a derivative of those."""

    def run(x, kernel):
        gradients = jax.grad(lambda *given: jnp.sum(jnp.tanh(conv(*given))), (0, 1))
        return conv(x, kernel), jax.jvp(gradients, (x, kernel), (x, kernel))

    return run


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), a, b)


@pytest.mark.every(2)
@every_form
def test_without_jit_all_derivatives_are_the_same(form):
    conv, *given = call_of(form)

    def run(*given):
        y, pull = jax.vjp(conv, *given)
        return y, pull(y), jax.jvp(conv, given, given)

    with jax.disable_jit():
        plain = run(*given)
    close(plain, jax.jit(run)(*given))


@pytest.mark.every(2)
@every_form
@pytest.mark.parametrize("how", [lambda f: f, jax.jit])
def test_debug_nans_names_the_convolution(form, how):
    conv, x, kernel = call_of(form)
    bad = x.at[0].set(jnp.nan)
    with jax.debug_nans(True):
        how(conv)(x, kernel)
        with pytest.raises(FloatingPointError, match=r"nan.*in convolution_forward"):
            how(conv)(bad, kernel)
        _, pull = jax.vjp(conv, x, kernel)
    g = jnp.full(jax.eval_shape(conv, x, kernel).shape, jnp.nan)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="in convolution_"):
        pull(g)


@every_form
def test_a_convolution_moves_nothing_to_the_device_by_itself(form):
    conv, x, kernel = call_of(form)
    with jax.transfer_guard("disallow"):
        y, pull = jax.vjp(conv, x, kernel)
        jax.block_until_ready((pull(y), jax.jit(conv)(x, kernel)))


@pytest.mark.every(2)
@every_form
def test_a_series_of_taylor_is_that_of_derivatives(form):
    conv, x, kernel = call_of(form)
    slopes = jnp.cos(x), jnp.sin(kernel)

    @jax.jit
    def series(x, kernel):
        terms = [[s, jnp.zeros_like(s), jnp.zeros_like(s)] for s in slopes]
        return jet.jet(conv, (x, kernel), terms)

    value, (first, second, third) = series(x, kernel)
    # Bilinear: along a line, a polynomial of second degree.
    along = jax.jit(lambda t: conv(x + t * slopes[0], kernel + t * slopes[1]))
    middle, ahead, behind = map(along, (0.0, 1.0, -1.0))
    close((value, first), (middle, (ahead - behind) / 2))
    close((second, third), (ahead - 2 * middle + behind, jnp.zeros_like(middle)))


@pytest.mark.every(2)
@every_form
def test_an_empty_batch_is_empty_and_adds_nothing_to_a_gradient(form):
    conv, x, kernel = call_of(form)
    y, (gradients, _) = jax.jit(derivatives(conv))(x[:0], kernel)
    assert y.shape == (0, *conv(x, kernel).shape[1:])
    assert gradients[0].shape == x[:0].shape
    np.testing.assert_array_equal(gradients[1], np.zeros(kernel.shape))
    mapped = jax.jit(jax.vmap(derivatives(conv)))(jnp.stack([x[:0]] * 3), jnp.stack([kernel] * 3))
    assert mapped[0].shape == (3, *y.shape)


@pytest.mark.every(2)
@every_form
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_an_axis_of_size_0_is_mapped(form, axes):
    conv, *given = call_of(form)
    given = [a if axis is None else a[None][:0] for a, axis in zip(given, axes, strict=True)]

    def total(*given):
        return jnp.sum(jax.vmap(conv, axes)(*given))

    mapped = jax.vmap(derivatives(conv), axes)
    (y, (gradients, _)), of_total = jax.jit(lambda *g: (mapped(*g), jax.grad(total, (0, 1))(*g)))(
        *given
    )
    assert y.shape == (0, *conv(*(jnp.ones(s) for s in CASES[form][:2])).shape)
    assert all(len(g) == 0 for g in gradients)
    for g, a in zip(of_total, given, strict=True):
        np.testing.assert_array_equal(g, np.zeros(a.shape))


def forwards(policy, conv, given):
    """Count the convolutions forward in a gradient: two where the value is computed anew."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(conv(jnp.sin(x), kernel)))

    gradients = jax.grad(jax.checkpoint(loss, policy=policy), (0, 1))
    text = str(jax.make_jaxpr(gradients)(*given))
    return text.count("convolution_forward["), gradients


@pytest.mark.every(2)
@every_form
def test_policies_of_checkpoint_see_a_convolution_of_lax(form):
    conv, *given = call_of(form)
    policies = jax.checkpoint_policies
    names = policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[],
        offload_src="device",
        offload_dst="pinned_host",
    )
    counts = {
        policies.nothing_saveable: 2,
        policies.dots_saveable: 1,
        policies.everything_saveable: 1,
        policies.dots_with_no_batch_dims_saveable: 2,
        policies.save_from_both_policies(policies.dots_saveable, policies.nothing_saveable): 1,
        names: 2,
        None: 2,
    }
    assert [forwards(policy, conv, given)[0] for policy in counts] == list(counts.values())
    saved = [forwards(p, conv, given)[1] for p in (policies.dots_saveable, None)]
    close(*(jax.jit(gradients)(*given) for gradients in saved))


def test_a_policy_is_told_what_lax_would_tell_it():
    told = []

    def policy(primitive, *avals, **params):
        if primitive.name.startswith("conv"):
            told.append((primitive, avals, params))
        return False

    x, kernel = jnp.ones((2, 6, 5, 4)), jnp.ones((3, 2, 2, 6))
    options = {"feature_group_count": 2, "precision": "highest"}
    layout = ("NHWC", "HWIO", "NHWC")
    ours = lambda x, w: ops.conv_general_dilated(  # noqa: E731
        x, w, (2, 1), "SAME", None, (1, 2), layout, **options
    )
    theirs = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, (2, 1), "SAME", None, (1, 2), layout, **options
    )
    for conv in (ours, theirs):
        jax.grad(jax.checkpoint(lambda *g, c=conv: jnp.sum(c(*g)), policy=policy))(x, kernel)
    assert told[0] == told[1] and len(told) == 2
