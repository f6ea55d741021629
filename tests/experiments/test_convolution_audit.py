import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, lab
from convjax.lab import as_rows, joined
from experiments import __main__ as entry
from experiments import _audit, convolution_audit
from experiments._audit import (
    DEPTHWISE,
    FAN_OUT,
    GAUSSIAN,
    GENERIC,
    JACOBIAN,
    LINEAR,
    MEASURES,
    ORTHOGONAL,
    PADDING,
    RELU,
    Cell,
    shares,
)
from tests.nn.conftest import quick_compilation as quick_compilation

PARTS = PADDING, DEPTHWISE, JACOBIAN
TINY = convolution_audit.Config(
    sizes=(4,),
    widths=(3,),
    padding_seeds=(3,),
    padding_images=(2,),
    padding_layers=2,
    depthwise_width=5,
    depthwise_layers=2,
    depthwise_seeds=3,
    jacobian_layers=(1,),
    jacobian_width=2,
    jacobian_seeds=2,
)


@pytest.fixture(scope="module")
def measured():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    columns = lab.measure_all(lab.experiment(convolution_audit), TINY)
    jax.config.update("jax_disable_most_optimizations", before)
    return columns


def taps(x, kernel, circular):
    """Yield every place of the window, and the image that it sees."""
    window = kernel.shape[:2]
    edges = [(0, 0), *((side // 2, side // 2) for side in window), (0, 0)]
    padded = np.pad(x, edges, mode="wrap" if circular else "constant")
    for i, j in np.ndindex(window):
        yield kernel[i, j], padded[:, i : i + x.shape[1], j : j + x.shape[2]]


def flipped(kernel):
    """Return the kernel whose convolution is the transpose."""
    return kernel[::-1, ::-1].swapaxes(-1, -2)


def by_hand(cell, seed, circular):
    """Propagate a batch through one plain network, forward and back, in NumPy."""

    def draw(key):
        weights, signal, cotangent = jax.random.split(key, 3)
        net = cell.network("SAME", nnx.Rngs(weights))
        if cell.part == DEPTHWISE:
            pair = net.unit["separable"]
            # A depthwise kernel is a diagonal matrix at every place of the window.
            kernels = [pair["depthwise"].kernel[...], pair["pointwise"].kernel[...]]
        else:
            kernels = [net.unit.branch["conv1"].kernel[...]]
        x = cell.signal(signal)
        return kernels, x, jax.random.normal(cotangent, x.shape)

    drawn = jax.jit(draw)(jax.random.key(seed))
    kernels, x, g = jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)
    if cell.part == DEPTHWISE:
        kernels[0] = kernels[0] * np.eye(cell.width)
    gates = []
    for layer in range(cell.layers):
        gates.append((x > 0) if cell.kind != LINEAR else np.ones_like(x))
        x = x * gates[-1]
        for kernel in kernels:
            x = sum(seen @ w for w, seen in taps(x, kernel[layer], circular))
    squares = [np.sum(g**2)]
    for layer in reversed(range(cell.layers)):
        for kernel in kernels[::-1]:
            g = sum(seen @ w for w, seen in taps(g, flipped(kernel[layer]), circular))
        g = g * gates[layer]
        squares.append(np.sum(g**2))
    return np.log(squares[::-1]) - np.log(squares[0])


@pytest.mark.parametrize(
    "cell",
    [
        Cell(PADDING, LINEAR, 4, 3, 2, 2),
        Cell(PADDING, RELU, 4, 3, 2, 2),
        Cell(DEPTHWISE, GENERIC, 8, 5, 2, 4),
    ],
    ids=str,
)
def test_the_measurement_is_that_of_a_loop(measured, cell, quick_compilation):
    wanted = dataclasses.asdict(cell) | {"seed": 2}
    row = np.logical_and.reduce([measured[name] == value for name, value in wanted.items()])
    assert measured["position"][row].tolist() == [0, 1, 2]
    for name, circular in (("log_zeros", False), ("log_circular", True)):
        np.testing.assert_allclose(measured[name][row], by_hand(cell, 2, circular), atol=1e-4)


def test_the_moments_are_those_of_a_jacobian(measured, quick_compilation):
    cell = Cell(JACOBIAN, ORTHOGONAL, 4, 2, 1, 1)
    weights, signal, _ = jax.random.split(jax.random.key(1), 3)
    kernel = np.asarray(_audit.drawn(cell, weights).unit.branch["conv1"].kernel[...])[0, 1, 1]
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(2), atol=1e-5)
    # One such layer is 2 where the gate is open and 0 elsewhere, in any order.
    opened = np.asarray(cell.signal(signal)) > 0
    here = (measured["kind"] == ORTHOGONAL) & (measured["seed"] == 1)
    mean, spread = (measured[name][here].item() for name in ("mean_square", "relative_variance"))
    np.testing.assert_allclose(mean, 2 * opened.mean(), rtol=0.25)
    np.testing.assert_allclose(spread, 1 / opened.mean() - 1, atol=0.3)


def test_columns_say_nothing_where_nothing_was_measured(measured):
    jacobian = measured["part"] == JACOBIAN
    assert jacobian.sum() == 4
    for name in MEASURES:
        of_energy = name.startswith("log")
        assert np.isfinite(measured[name][jacobian != of_energy]).all()
        assert np.isnan(measured[name][jacobian == of_energy]).all()


def test_a_run_is_written_and_told(measured, tmp_path, capsys):
    config = dataclasses.replace(TINY, out=tmp_path)
    assert lab.conclude(lab.experiment(convolution_audit), config, measured, {}) in (0, 1)
    assert (tmp_path / "convolution_audit.png").stat().st_size > 20_000
    told = capsys.readouterr().out
    assert "JAX's fan_out" in told
    assert "Verdict" in told


def obeying(cell, factor=1.0, seeds=50):
    """Return rows of networks that do what theory says, but for a wrong factor per layer."""
    rng = np.random.default_rng(4)
    nothing = dict.fromkeys(MEASURES, np.full((seeds, 1), np.nan))
    if cell.part == JACOBIAN:
        spread = gradflow.oracles.jacobian_spread(cell.layers, cell.kind) * factor
        found = {"mean_square": 1.0, "relative_variance": spread}
        ones = np.ones((seeds, 1))
        return as_rows(cell, **(nothing | {name: v * ones for name, v in found.items()}))
    back = np.arange(cell.layers, -1, -1)
    # Twins share what their kernels have more than others; its mean is 1.
    noise = rng.normal(0, 0.2, (seeds, 1))
    noise = (noise - np.log(np.mean(np.exp(noise)))) * (back > 0)
    own = 0.01 * rng.standard_normal((seeds, 1)) * (back > 0)
    gain = np.log(factor / (cell.width if cell.kind == GENERIC else 1)) * back
    circular = noise + (gain if cell.part == DEPTHWISE else 0)
    zeros = np.log(shares(cell)[::-1]) + noise + own + gain
    nan = np.full(zeros.shape, np.nan)
    found = {"log_zeros": zeros, "log_circular": circular}
    return as_rows(cell, **(dict.fromkeys(MEASURES, nan) | found))


CELLS = [
    *(Cell(PADDING, kind, 8, 64, 50, 8) for kind in (LINEAR, RELU)),
    *(Cell(PADDING, kind, 32, 32, 50, 1) for kind in (LINEAR, RELU)),
    *(Cell(DEPTHWISE, kind, 8, 32, 12, 4) for kind in (FAN_OUT, GENERIC)),
    *(
        Cell(JACOBIAN, kind, 4, 256, layers, 1)
        for kind in (GAUSSIAN, ORTHOGONAL)
        for layers in (2, 6)
    ),
]


def all_kinds(planted=None, factor=1.0):
    return joined([obeying(one, factor if one == planted else 1.0) for one in CELLS])


def failures(columns):
    return [c.claim for c in convolution_audit.judge(columns) if not c.holds]


def test_networks_that_obey_pass():
    assert len(convolution_audit.judge(all_kinds())) == 13 + 5 + 4
    assert failures(all_kinds()) == []


@pytest.mark.parametrize(
    ("cell", "factor", "claims"),
    [
        (CELLS[0], 1.003, ["linear, 8x8: left by 50 layers", "linear, 8x8: ln of"]),
        (CELLS[1], 1.05, ["relu, 8x8: left by 1 layer", "relu, 8x8: left by 50 layers"]),
        (CELLS[2], 0.999, ["linear, 32x32: left by 50 layers"]),
        (CELLS[4], 1.01, ["separable, fan_out: the same with circular"]),
        (
            CELLS[4],
            1 / 32,
            [f"separable, fan_out: {what}" for what in ("left", "the same", "gain")] + ["the init"],
        ),
        (CELLS[5], 32.0, ["separable, JAX's fan_out: gain", "the initialiser"]),
        (CELLS[6], 0.5, ["gaussian, 2 layers"]),
        (CELLS[9], 2.0, ["orthogonal, 6 layers"]),
    ],
)
def test_a_wrong_gain_fails_and_alone(cell, factor, claims):
    found = failures(all_kinds(cell, factor))
    assert len(found) == len(claims)
    assert all(claim.startswith(start) for claim, start in zip(found, claims, strict=True)), found


def test_the_bug_is_as_large_as_there_are_groups():
    off = _audit.fan_bug(all_kinds())
    np.testing.assert_allclose(off[FAN_OUT], 1.0, rtol=0.01)
    np.testing.assert_allclose(off[GENERIC] * 32, 1.0, rtol=0.01)


def test_the_control_variate_takes_out_what_twins_share():
    (row, *_) = _audit.summaries(all_kinds(), PADDING)
    assert row.error[-1] / row.share[-1] < 0.1 * row.circular_error[-1]
    np.testing.assert_allclose(row.share, shares(row.cell), rtol=5 * 0.01 / 50**0.5)


def test_seeds_and_depths_are_those_of_every_part():
    config = convolution_audit.Config(sizes=(8,), widths=(4,), padding_images=(1,))
    cells = convolution_audit.cells(dataclasses.replace(config, seeds=9, depths=(5, 3)))
    assert {networks.seeds for networks in cells} == {9}
    layers = {part: [c.kind.layers for c in cells if c.kind.part == part] for part in PARTS}
    assert layers == {PADDING: [5, 5, 3, 3], DEPTHWISE: [5, 5, 3, 3], JACOBIAN: [2, 4, 6] * 2}


def test_each_depth_is_judged_by_itself_and_the_deepest_drawn():
    shallow = [dataclasses.replace(one, layers=6) for one in CELLS if one.part != JACOBIAN]
    planted = obeying(shallow[4], 1.1)
    columns = joined([all_kinds(), *map(obeying, shallow[:4]), planted, obeying(shallow[5])])
    failed = failures(columns)
    assert failed and all(claim.startswith("depth 6: separable, fan_out:") for claim in failed)
    ours, alone = (convolution_audit.draw(one).axes for one in (columns, all_kinds()))
    for one, other in zip(ours, alone, strict=True):
        assert len(one.lines) == len(other.lines) and one.get_xlim() == other.get_xlim()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sizes", "2", "8"], "sizes=(2, 8) must be at least 3"),
        (["--widths", "8"], "widths=[8] must hold one number of at least 1 for each of sizes"),
        (["--padding-seeds", "8", "1"], "padding_seeds=[8, 1] must hold one number of at least 2"),
        (["--padding-images", "0", "1"], "padding_images=[0, 1] must hold one number of at least"),
        (["--padding-layers", "1"], "padding_layers=1 must be at least 2"),
        (["--depthwise-width", "1"], "depthwise_width=1 must be at least 2"),
        (["--jacobian-layers", "2", "2"], "jacobian_layers=[2, 2] must hold at least one value"),
        (["--seeds", "1"], "seeds=1 must be at least 2"),
        (["--depths", "8", "1"], "depths=(8, 1) must be at least 2"),
        (["--jacobian-seeds", "1"], "jacobian_seeds=1 must be at least 2"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["convolution-audit", *argv, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
