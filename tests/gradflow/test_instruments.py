"""Per-example norms, noise scale and ratios, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from tests.gradflow import naive
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _net(dtype=jnp.float64):
    shared = {"param_dtype": dtype}

    def unit(rngs):
        branch = nn.Chain(
            norm=nn.BatchNorm(3, rngs=rngs, **shared),
            relu=nn.Activation("relu"),
            conv=nn.Conv(3, 3, (3, 3), rngs=rngs, **shared),
        )
        return nn.Residual(branch)

    rngs = nnx.Rngs(0)
    body = nn.Repeat(unit, 2, rngs=rngs)
    return nn.Chain(body=body, pool=nn.GlobalPool(), head=nn.Dense(3, 2, rngs=rngs, **shared))


def _normal(*shape, dtype=np.float32, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _data(count, dtype=jnp.float64):
    return _normal(count, 4, 5, 3, dtype=dtype), _normal(count, 2, dtype=dtype, seed=2)


def _loss(output, target):
    return jnp.mean((output - target) ** 2)


def _gradients(net, x, targets, loss=_loss):
    """Each example's gradient by jax.grad, keyed as the unrolled network is: {path: (N, …)}."""
    graphdef, params, rest = nnx.split(naive.unroll(net), nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(params, x, target):
        return loss(nnx.merge(graphdef, params, rest, copy=True)(x, train=False), target)

    each = []
    for i in range(len(x)):
        found = gradient(params, x[i : i + 1], targets[i : i + 1])
        flat = nnx.to_flat_state(found)
        each.append({"/".join(map(str, p)): np.asarray(leaf[...]).ravel() for p, leaf in flat})
    return {name: np.stack([one[name] for one in each]) for name in each[0]}


@pytest.mark.usefixtures("x64")
def test_per_example_norms_and_noise_equal_a_loop_over_examples():
    net, (x, targets) = _net(), _data(7)
    before = jax.tree.map(np.asarray, nnx.state(net))
    gradients = _gradients(net, x, targets)
    measured = gradflow.per_example_norms(net, x, loss=_loss, targets=targets, chunk=3)
    units = {name.rpartition("/")[0] for name in gradients}
    assert set(measured.log_norms) == units and "body/1/branch/conv" in units
    for unit in units:
        own = np.concatenate([g for n, g in gradients.items() if n.rpartition("/")[0] == unit], 1)
        expected = np.log(np.linalg.norm(own, axis=1))
        np.testing.assert_allclose(measured.log_norms[unit], expected, atol=1e-10)
    whole = np.concatenate(list(gradients.values()), axis=1)
    np.testing.assert_allclose(measured.log_norm, np.log(np.linalg.norm(whole, axis=1)), atol=1e-10)
    losses = np.mean((np.asarray(net(x)) - np.asarray(targets)) ** 2, axis=1)
    np.testing.assert_allclose(measured.loss, losses, rtol=1e-10)

    noise = gradflow.noise_scale(net, x, loss=_loss, targets=targets, chunk=3)
    trace = np.trace(np.cov(whole, rowvar=False))
    square = np.sum(whole.mean(axis=0) ** 2) - trace / 7
    np.testing.assert_allclose((noise.trace, noise.gradient_square), (trace, square), rtol=1e-10)
    assert noise.scale == (noise.trace / noise.gradient_square if square > 0 else np.inf)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(net)))


def test_norms_of_examples_that_float32_cannot_hold_are_right():
    def make(dtype):
        options = {"activation": "linear", "init": nn.initializers.VarianceScaling(0.2)}
        options |= {"shortcut": "none", "kernel_size": (3,), "param_dtype": dtype}
        return models.deep_stack(160, 3, rngs=nnx.Rngs(0), **options)

    def loss(y):
        return jnp.sum(y)

    with jax.enable_x64(True):
        exact = make(jnp.float64)
        x = _normal(3, 5, 3, dtype=np.float64)
        graphdef, state = nnx.split(exact)
        gradient = jax.jit(jax.grad(lambda state, x: loss(nnx.merge(graphdef, state)(x))))
        each = [jax.tree.leaves(gradient(state, one[None])) for one in x]
        expected = [np.log(np.sqrt(sum(np.sum(np.square(a)) for a in one))) for one in each]
        state = jax.tree.map(lambda a: a.astype(jnp.float32), state)
        net, x = nnx.merge(graphdef, state), x.astype(jnp.float32)
    assert max(expected) < -105  # float32 ends at exp(-87)
    measured = gradflow.per_example_norms(net, x, loss=loss)
    np.testing.assert_allclose(measured.log_norm, expected, atol=1e-3)
    with pytest.raises(ValueError, match="every example's gradient is zero in the dtype"):
        gradflow.noise_scale(net, x, loss=loss)


def test_dropout_is_drawn_for_each_example_and_not_for_each_chunk():
    net = nn.Chain(drop=nn.Dropout(0.5), dense=nn.Dense(40, 1, rngs=nnx.Rngs(0)))
    x = jnp.tile(_normal(1, 40), (4, 1))
    rngs = nnx.Rngs(dropout=3)
    shared = {"loss": lambda y: jnp.sum(y**2), "train": True, "rngs": rngs}
    few, many = (gradflow.per_example_norms(net, x, chunk=c, **shared).log_norm for c in (3, 9))
    assert len(set(few.round(4))) == 4
    np.testing.assert_allclose(few, many, rtol=1e-5)
    assert int(rngs.dropout.count[...]) == 0


def test_the_noise_of_a_linear_regression_is_the_closed_form():
    dimension, count, sigma = 5, 6000, 0.8
    random = np.random.default_rng(0)
    x, error = random.normal(size=(count, dimension)), random.normal(size=dimension)
    net = nn.Dense(dimension, 1, use_bias=False, rngs=nnx.Rngs(0))
    truth = np.asarray(net.kernel[...])[:, 0] - error
    targets = (x @ truth + sigma * random.normal(size=count))[:, None]

    def loss(output, target):
        return 0.5 * jnp.sum((output - target) ** 2)

    x, targets = jnp.asarray(x, jnp.float32), jnp.asarray(targets, jnp.float32)
    noise = gradflow.noise_scale(net, x, loss=loss, targets=targets, chunk=1500)
    # g = (e.x - sigma z) x: its mean is e, its second moment (d + 2) |e|^2 + sigma^2 d.
    square = np.sum(error**2)
    trace = (dimension + 1) * square + sigma**2 * dimension
    np.testing.assert_allclose(noise.gradient_square, square, rtol=0.06)
    np.testing.assert_allclose(noise.trace, trace, rtol=0.06)
    np.testing.assert_allclose(noise.scale, trace / square, rtol=0.1)


def test_noise_from_two_batch_sizes_averages_before_it_divides():
    small, big = np.array([10.0, 14.0, 9.0]), np.array([5.0, 6.5])
    found = gradflow.noise_scale_from_norms(small, 4, big, 20)
    # |g_B|^2 = |G|^2 + trace / B at both sizes.
    square, trace = np.linalg.solve([[1, 1 / 4], [1, 1 / 20]], [small.mean(), big.mean()])
    np.testing.assert_allclose((found.gradient_square, found.trace), (square, trace))
    np.testing.assert_allclose(found.scale, trace / square)
    assert gradflow.noise_scale_from_norms(10.0, 1, 2.0, 2).scale == np.inf
    with pytest.raises(ValueError, match="small=8 and big=8: 1 <= small < big must hold"):
        gradflow.noise_scale_from_norms(1.0, 8, 1.0, 8)
    with pytest.raises(
        ValueError, match=r"big_norm_sq=-1\.0 must be one or more squared norms, finite"
    ):
        gradflow.noise_scale_from_norms(1.0, 1, -1.0, 8)


def test_what_has_no_gradient_for_each_example_is_refused():
    net, (x, targets) = _net(jnp.float32), _data(3, jnp.float32)
    for measure in (gradflow.per_example_norms, gradflow.noise_scale):
        with pytest.raises(ValueError, match=r"train=True: the norm at 'body/unit/branch/norm'"):
            measure(net, x, loss=_loss, targets=targets, train=True)
        with pytest.raises(ValueError, match=r"targets has a leaf of shape \(2, 2\); its first"):
            measure(net, x, loss=_loss, targets=targets[:2])
        with pytest.raises(ValueError, match="chunk=0 must be at least 1"):
            measure(net, x, loss=_loss, targets=targets, chunk=0)
        with pytest.raises(ValueError, match=r"x has shape \(3,\); it must be"):
            measure(net, x[:, 0, 0, 0], loss=_loss)
        with pytest.raises(ValueError, match=r"loss must return a scalar, not \(1, 2\)"):
            measure(nn.Dense(3, 2, rngs=nnx.Rngs(0)), x[:, 0, 0], loss=lambda y: y)
    shared = nn.Dense(3, 3, rngs=nnx.Rngs(0))
    tied = nn.Chain(a=shared, b=nn.Activation("tanh"), c=shared)
    with pytest.raises(ValueError, match="net has one parameter at 'a' and 'c'; its gradient"):
        gradflow.per_example_norms(tied, x, loss=jnp.sum)
    with pytest.raises(ValueError, match="x holds 1 example; a noise needs at least two"):
        gradflow.noise_scale(net, x[:1], loss=_loss, targets=targets[:1])


def test_update_ratios_equal_numpys_and_label_what_was_zero():
    def shifted(a):
        return a + jnp.asarray(random.normal(size=a.shape), a.dtype)

    random = np.random.default_rng(0)
    net = _net(jnp.float32)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    moved = jax.tree.map(shifted, params)
    after = nnx.merge(graphdef, moved, rest)
    found = gradflow.update_ratios(net, after)
    assert found.paths[:4] == tuple(
        f"body/0/branch/{name}" for name in ("norm/bias", "norm/scale", "conv/bias", "conv/kernel")
    )
    for i, path in enumerate(found.paths):
        unit, _, name = path.rpartition("/")
        old, new = (np.float64(getattr(nn.at(n, unit), name)[...]) for n in (net, after))
        np.testing.assert_allclose(found.log_change[i], np.log(np.linalg.norm(new - old)))
        if np.any(old):
            ratio = np.linalg.norm(new - old) / np.linalg.norm(old)
            np.testing.assert_allclose((found.ratio[i], found.labels[i] == ""), (ratio, True))
        else:
            assert found.labels[i] == "zero parameter" and np.isnan(found.ratio[i])
    assert "zero parameter" in found.labels and "" in found.labels

    of_state = gradflow.update_ratios(params, moved)
    i = of_state.paths.index("body/unit/branch/conv/kernel")
    both = [found.paths.index(f"body/{n}/branch/conv/kernel") for n in (0, 1)]
    np.testing.assert_allclose(
        2 * of_state.log_parameter[i], np.logaddexp.reduce(2 * found.log_parameter[both])
    )
    same = gradflow.update_ratios(net, net)
    assert set(same.labels) == {"zero change", "zero parameter, zero change"}
    with pytest.raises(ValueError, match=r"params_after has 'a' of shape \(3,\) where params_be"):
        gradflow.update_ratios({"a": np.ones(2)}, {"a": np.ones(3)})
    with pytest.raises(
        ValueError, match=r"params_before=.* holds 1 parameters, params_after=.* 2;"
    ):
        gradflow.update_ratios({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(ValueError, match=r"params_before=.* holds no parameters"):
        gradflow.update_ratios(nn.Identity(), nn.Identity())
    tiny = gradflow.update_ratios({"a": np.full(4, 1e-300)}, {"a": np.full(4, 3e-300)})
    np.testing.assert_allclose(tiny.ratio, 2)


def test_relative_gradients_equal_those_of_a_plain_gradient():
    net, (x, targets) = _net(jnp.float32), _data(3, jnp.float32)

    def measure(x):
        return gradflow.profile(net, x, loss=_loss, targets=targets, train=False)

    found = gradflow.relative_gradients(measure(x))
    graphdef, params, rest = nnx.split(naive.unroll(net), nnx.Param, ...)
    gradient = jax.jit(jax.grad(lambda p: _loss(nnx.merge(graphdef, p, rest)(x), targets)))(params)
    old, new = (
        {"/".join(map(str, p)): np.float64(leaf[...]) for p, leaf in nnx.to_flat_state(state)}
        for state in (params, gradient)
    )
    assert set(found.paths) == set(old)
    for i, path in enumerate(found.paths):
        size, change = np.linalg.norm(old[path]), np.linalg.norm(new[path])
        if size == 0:
            assert found.labels[i] == "zero parameter" and np.isnan(found.log_ratio[i])
            continue
        np.testing.assert_allclose(found.ratio[i], change / size, rtol=1e-4)
        np.testing.assert_allclose(found.log_product[i], np.log(change * size), atol=1e-4)
    unit = found.by_unit()
    i = unit.paths.index("head")
    kernel, bias = (old[f"head/{n}"] for n in ("kernel", "bias"))
    size = np.sqrt(np.sum(kernel**2) + np.sum(bias**2))
    change = np.sqrt(sum(np.sum(new[f"head/{n}"] ** 2) for n in ("kernel", "bias")))
    np.testing.assert_allclose(unit.ratio[i], change / size, rtol=1e-4)

    with pytest.raises(ValueError, match="a network without parameters"):
        gradflow.relative_gradients(gradflow.profile(nn.Identity(), x, loss=jnp.sum, train=False))


def test_relative_gradients_keep_the_axes_of_replicas():
    net = nn.Repeat(lambda rngs: nn.Dense(3, 3, rngs=rngs), 2, rngs=nnx.Rngs(0))
    x = _normal(4, 5, 3)

    def loss(output):
        return jnp.sum(output**2)

    def measure(x):
        return gradflow.profile(net, x, loss=loss, train=False)

    together = gradflow.relative_gradients(jax.jit(jax.vmap(measure))(x))
    assert together.paths == ("0/bias", "0/kernel", "1/bias", "1/kernel")
    assert together.ratio.shape == together.labels.shape == (4, 4)
    assert together.by_unit().paths == ("0", "1")
    for i in range(4):
        alone = gradflow.relative_gradients(measure(x[i]))
        np.testing.assert_allclose(together.log_change[i], alone.log_change, atol=1e-5)
        np.testing.assert_allclose(together.ratio[i], alone.ratio, rtol=1e-5)
