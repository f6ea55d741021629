import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, lab
from experiments import convolution_audit as audit
from experiments.convolution_audit import DEPTHWISE, JACOBIAN, PADDING, Config, Stack, left
from tests.experiments.by_hand import convolve, transposed

TINY = Config(
    sizes=(4,), widths=(3,), padding_seeds=(3,), padding_images=(2,), padding_layers=2,
    depthwise_width=5, depthwise_layers=2, depthwise_seeds=3,
    jacobian_layers=(1,), jacobian_width=2, jacobian_seeds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    return lab.measure_all(lab.experiment(audit), TINY)


def by_hand(kind, seed, circular):
    """Propagate a batch through one plain network, forward and back, in NumPy."""

    def initial(key):
        weights, signal, cotangent = jax.random.split(key, 3)
        net = kind.network("SAME", nnx.Rngs(weights))
        if kind.part == DEPTHWISE:
            pair = net.unit["separable"]
            # A depthwise kernel is a diagonal matrix at every place of the window.
            kernels = [pair["depthwise"].kernel[...], pair["pointwise"].kernel[...]]
        else:
            kernels = [net.unit.branch["conv1"].kernel[...]]
        x = kind.signal(signal)
        return kernels, x, jax.random.normal(cotangent, x.shape)

    found = jax.jit(initial)(jax.random.key(seed))
    kernels, x, g = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
    if kind.part == DEPTHWISE:
        kernels[0] = kernels[0] * np.eye(kind.width)
    gates = []
    for layer in range(kind.layers):
        gates.append((x > 0) if kind.kind != audit.LINEAR else np.ones_like(x))
        x = x * gates[-1]
        for kernel in kernels:
            x = convolve(x, kernel[layer], circular)
    squares = [np.sum(g**2)]
    for layer in reversed(range(kind.layers)):
        for kernel in kernels[::-1]:
            g = convolve(g, transposed(kernel[layer]), circular)
        g = g * gates[layer]
        squares.append(np.sum(g**2))
    return np.log(squares[::-1]) - np.log(squares[0])


@pytest.mark.parametrize(
    "kind",
    [
        Stack(PADDING, audit.LINEAR, 4, 3, 2, 2),
        Stack(PADDING, audit.RELU, 4, 3, 2, 2),
        Stack(DEPTHWISE, audit.GENERIC, 8, 5, 2, 4),
    ],
    ids=str,
)
def test_the_measurement_is_that_of_a_loop(measured, kind):
    row = lab.pick(measured, **dataclasses.asdict(kind), seed=2)
    assert row["position"].tolist() == [0, 1, 2]
    for name, circular in (("log_zeros", False), ("log_circular", True)):
        np.testing.assert_allclose(row[name], by_hand(kind, 2, circular), atol=1e-4)


def test_the_moments_are_those_of_a_jacobian(measured):
    kind = Stack(JACOBIAN, audit.ORTHOGONAL, 4, 2, 1, 1)
    weights, signal, _ = jax.random.split(jax.random.key(1), 3)
    net = kind.network("CIRCULAR", nnx.Rngs(weights))
    kernel = np.asarray(net.unit.branch["conv1"].kernel[...])[0, 1, 1]
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(2), atol=1e-5)
    # One such layer is 2 where the gate is open and 0 elsewhere, in any order.
    opened = np.asarray(kind.signal(signal)) > 0
    row = lab.pick(measured, kind=audit.ORTHOGONAL, seed=1)
    np.testing.assert_allclose(row["mean_square"], [2 * opened.mean()], rtol=0.25)
    np.testing.assert_allclose(row["relative_variance"], [1 / opened.mean() - 1], atol=0.3)


def test_columns_say_nothing_where_nothing_was_measured(measured):
    jacobian = measured["part"] == JACOBIAN
    assert jacobian.sum() == 4
    for name in audit.MEASURES:
        of_energy = name.startswith("log")
        assert np.isfinite(measured[name][jacobian != of_energy]).all()
        assert np.isnan(measured[name][jacobian == of_energy]).all()


def obeying(kind, factor=1.0, seeds=50):
    """Return rows of networks that do what theory says, but for a wrong factor per layer."""
    rng, back = np.random.default_rng(4), np.arange(kind.layers, -1, -1)
    if kind.part == JACOBIAN:
        spread = gradflow.oracles.jacobian_spread(kind.layers, kind.kind) * factor
        found = {"mean_square": np.ones((seeds, 1)), "relative_variance": spread}
    else:
        # Twins share what their kernels have more than others; its mean is 1.
        noise = rng.normal(0, 0.2, (seeds, 1))
        noise = (noise - np.log(np.mean(np.exp(noise)))) * (back > 0)
        own = 0.01 * rng.standard_normal((seeds, 1)) * (back > 0)
        gain = np.log(factor / (kind.width if kind.kind == audit.GENERIC else 1)) * back
        circular = noise + (gain if kind.part == DEPTHWISE else 0)
        zeros = np.log(kind.theory[::-1]) + noise + own + gain
        found = {"log_zeros": zeros, "log_circular": circular}
    shape = next(iter(found.values())).shape
    found = dict.fromkeys(audit.MEASURES, np.nan) | found
    return lab.as_rows(kind, **{name: np.broadcast_to(v, shape) for name, v in found.items()})


KINDS = [
    *(Stack(PADDING, kind, 8, 64, 50, 8) for kind in (audit.LINEAR, audit.RELU)),
    *(Stack(PADDING, kind, 32, 32, 50, 1) for kind in (audit.LINEAR, audit.RELU)),
    *(Stack(DEPTHWISE, kind, 8, 32, 12, 4) for kind in (audit.FAN_OUT, audit.GENERIC)),
    *(
        Stack(JACOBIAN, kind, 4, 256, layers, 1)
        for kind in (audit.GAUSSIAN, audit.ORTHOGONAL)
        for layers in (2, 6)
    ),
]


def all_kinds(planted=None, factor=1.0):
    return lab.joined([obeying(one, factor if one == planted else 1.0) for one in KINDS])


def failures(columns):
    return [c.claim for c in audit.judge(columns) if not c.holds]


@pytest.mark.parametrize(
    ("kind", "factor", "claims"),
    [
        (None, 1.0, []),
        (KINDS[0], 1.003, ["linear, 8x8: left by 50 layers", "linear, 8x8: ln of"]),
        (KINDS[1], 1.05, ["relu, 8x8: left by 1 layer", "relu, 8x8: left by 50 layers"]),
        (KINDS[2], 0.999, ["linear, 32x32: left by 50 layers"]),
        (KINDS[4], 1.01, ["separable, fan_out: the same with circular"]),
        (
            KINDS[4],
            1 / 32,
            [f"separable, fan_out: {what}" for what in ("left", "the same", "gain")] + ["the init"],
        ),
        (KINDS[5], 32.0, ["separable, JAX's fan_out: gain", "the initialiser"]),
        (KINDS[6], 0.5, ["gaussian, 2 layers"]),
        (KINDS[9], 2.0, ["orthogonal, 6 layers"]),
    ],
)
def test_a_wrong_gain_fails_and_alone(kind, factor, claims):
    columns = all_kinds(kind, factor)
    assert len(audit.judge(columns)) == 13 + 5 + 4
    found = failures(columns)
    assert len(found) == len(claims)
    assert all(claim.startswith(start) for claim, start in zip(found, claims, strict=True)), found


def test_the_wrong_fan_is_as_wrong_as_there_are_groups():
    off = {row.kind.kind: row.gain for row in left(all_kinds(), DEPTHWISE)}
    np.testing.assert_allclose([off[audit.FAN_OUT], off[audit.GENERIC] * 32], 1.0, rtol=0.01)


def test_the_control_variate_takes_out_what_twins_share():
    (row, *_) = left(all_kinds(), PADDING)
    assert row.share.error[-1] / row.share.mean[-1] < 0.1 * row.circular.error[-1]
    np.testing.assert_allclose(row.share.mean, row.kind.theory, rtol=5 * 0.01 / 50**0.5)


def test_seeds_and_depths_are_those_of_every_part():
    config = Config(sizes=(8,), widths=(4,), padding_images=(1,), seeds=9, depths=(5, 3))
    cells = audit.cells(config)
    assert {networks.seeds for networks in cells} == {9}
    kinds = [one.kind for one in cells]
    assert [one.layers for one in kinds if one.part == PADDING] == [5, 5, 3, 3]
    assert [one.layers for one in kinds if one.part == DEPTHWISE] == [5, 5, 3, 3]
    assert [one.layers for one in kinds if one.part == JACOBIAN] == [2, 4, 6] * 2


def test_each_depth_is_judged_by_itself_and_the_deepest_drawn():
    shallow = [dataclasses.replace(one, layers=6) for one in KINDS if one.part != JACOBIAN]
    planted = obeying(shallow[4], 1.1)
    columns = lab.joined([all_kinds(), *map(obeying, shallow[:4]), planted, obeying(shallow[5])])
    failed = failures(columns)
    assert failed and all(claim.startswith("depth 6: separable, fan_out:") for claim in failed)
    ours, alone = (audit.draw(one).panels for one in (columns, all_kinds()))
    counts = [len(panel.series) for panel in alone]
    assert counts == [len(panel.series) for panel in ours] == [3, 2, 2, 2]
    np.testing.assert_array_equal(ours[0].series[0].x, alone[0].series[0].x)


def test_theory_stands_beside_every_mean():
    columns = [list(column.cells) for column in audit.table(all_kinds()).columns]
    rows = list(zip(*columns[1:5], strict=True))
    assert (audit.FAN_OUT, "8x8", "left by 12 layers", "0.2988") in rows
    assert (audit.GENERIC, "8x8", "the same, circular, 12 layers", "8.674e-19") in rows
    assert (audit.ORTHOGONAL, "4x4", "spread of s^2, 6 layers", "6") in rows
