import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab, study
from convjax.gradflow import oracles
from convjax.lab import Ensemble
from experiments import __main__ as entry
from experiments import path_lengths
from experiments._path_networks import Cell, kinds, summaries

TINY = path_lengths.Config(depths=(6,), width=5, batch_size=7, seeds=2)
# One without norm, and beside batch norm a scaled shortcut and none.
CELLS = [kinds(6, TINY.width, TINY.batch_size)[i] for i in (1, 4, 6)]


@pytest.fixture(scope="module")
def measured():
    return lab.joined([path_lengths.measure(Ensemble(cell, TINY.seeds)) for cell in CELLS])


def layer(x, kernel, norm):
    """Return norm, ReLU, matrix of x, and what takes a gradient back through them."""
    deviation = np.sqrt(x.var(0) + 1e-5) if norm else 1.0
    y = (x - x.mean(0)) / deviation if norm else x

    def back(g):
        g = (y > 0) * (g @ kernel.T)
        return (g - g.mean(0) - y * (g * y).mean(0)) / deviation if norm else g

    return np.maximum(y, 0) @ kernel, back


def by_hand(cell, seed):
    """Return ln|g_k|^2 and ln(|g_l|^2 / |g_L|^2) of one network, from a polynomial in NumPy."""
    weights, signal = jax.random.split(jax.random.key(seed))
    branch = cell.network(nnx.Rngs(weights)).unit.branch
    convs = [branch[f"conv{i}"].kernel[...] for i in range(1, cell.convs + 1)]
    kernels = np.asarray(convs, np.float64)[:, :, 0, 0]
    x, gradient = np.asarray(
        jax.random.normal(signal, (2, cell.batch_size, 1, 1, cell.width)), np.float64
    )[:, :, 0, 0]
    x, gradient = x * np.sqrt(cell.start), gradient - gradient.mean(0)
    backs = []
    for unit in range(cell.depth):
        y, through = x, []
        for kernel in kernels[:, unit]:
            y, back = layer(y, kernel, cell.norm == "batch")
            through.insert(0, back)
        backs.append(through)
        x = cell.carry * x + cell.branch_scale * y
    parts, sizes = [gradient], [np.sum(gradient**2)]
    for through in backs[::-1]:
        longer = [cell.branch_scale * part for part in parts]
        for back in through:
            longer = [back(part) for part in longer]
        zero = np.zeros_like(gradient)
        pairs = zip([*parts, zero], [zero, *longer], strict=True)
        parts = [cell.carry * short + long for short, long in pairs]
        sizes.append(np.sum(sum(parts) ** 2))
    return np.log([np.sum(part**2) for part in parts]), np.log(sizes[::-1]) - np.log(sizes[0])


@pytest.mark.parametrize("cell", CELLS[:2], ids=str)
def test_the_measurement_is_that_of_a_loop(measured, cell):
    for seed in range(2):
        here = (measured["seed"] == seed) & np.logical_and.reduce(
            [measured[name] == value for name, value in dataclasses.asdict(cell).items()]
        )
        energies, ratios = by_hand(cell, seed)
        assert measured["position"][here].tolist() == list(range(7))
        np.testing.assert_allclose(measured["log_energy"][here], energies, atol=5e-3)
        np.testing.assert_allclose(measured["log_ratio"][here], ratios, atol=5e-3)
        whole = np.exp(ratios[0]) * np.exp(logs_of_cotangent(cell, seed)) / np.exp(energies).sum()
        np.testing.assert_allclose(measured["coherence"][here], whole, rtol=1e-2)


def logs_of_cotangent(cell, seed):
    _, signal = jax.random.split(jax.random.key(seed))
    cotangent = jax.random.normal(signal, (2, cell.batch_size, 1, 1, cell.width))[1]
    return np.log(np.sum(np.square(cotangent - cotangent.mean(0, keepdims=True))))


def test_there_is_a_row_for_each_network_and_place(measured):
    assert {len(column) for column in measured.values()} == {3 * 2 * 7}
    assert np.isfinite(measured["log_ratio"]).all()
    lost = np.isneginf(measured["log_energy"])
    assert (lost == ((measured["shortcut"] == "none") & (measured["position"] > 0))).all()


def test_a_network_without_shortcuts_has_no_paths_to_choose_from(measured):
    assert set(measured) == set(planted())
    row = summaries(measured)[-1]
    assert row.cell == CELLS[-1] and not row.cell.has_paths
    assert row.shares.tolist() == [[1.0] + [0.0] * 6] * 2


def planted(wrong=None, *, depth=12, tilt=0.0, skip=0.0, factor=1.0):
    """Return columns that are theory's, but for what is planted in one kind of network."""
    blocks = []
    for cell in kinds(depth, 8, 9):
        here = cell.label == wrong
        if cell.has_paths:
            logs = np.log(oracles.path_energy(cell.gains)) + here * tilt * np.arange(depth + 1)
            logs[0] += here * skip
        else:
            logs = np.array([0.0] + [-np.inf] * depth)
        growth = np.log(cell.unit_gains) + here * np.log(factor)
        ratios = np.append(np.cumsum(growth[::-1])[::-1], 0.0)
        rows = dataclasses.asdict(cell) | {
            "seed": np.repeat([0, 1], depth + 1),
            "position": np.tile(np.arange(depth + 1), 2),
            "log_energy": np.append(logs, logs + 3.0),
            "log_ratio": np.append(0.99 * ratios, 1.01 * ratios),
            "coherence": 1.0,
        }
        blocks.append(
            {name: np.broadcast_to(value, (2 * depth + 2,)) for name, value in rows.items()}
        )
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def failures(**wrong):
    return [c.claim for c in path_lengths.judge(planted(**wrong)) if not c.holds]


def test_theory_itself_holds():
    assert len(path_lengths.judge(planted())) == 13
    assert not failures()


def test_every_depth_is_judged_by_itself():
    columns = lab.joined([planted(), planted(depth=9, wrong="no shortcut", factor=1.1)])
    criteria = lab.criteria(lab.experiment(path_lengths), columns)
    assert len(criteria) == 26
    failed = [c.claim for c in criteria if not c.holds]
    assert any(claim.startswith("depth 9: no shortcut: growth") for claim in failed)
    assert not any(claim.startswith("depth 12") for claim in failed)


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [
        ({"wrong": "no norm, s = 1", "tilt": 0.12, "skip": 0.7}, ["mean length"]),
        ({"wrong": "no norm, s = 1", "tilt": -0.3}, ["mean length", "skips"]),
        ({"wrong": "batch norm, m = 1", "tilt": 0.5}, ["mean length", "skips"]),
        ({"wrong": "shortcut 0.5", "skip": -2.0}, ["skips"]),
        ({"wrong": "shortcut 0.5", "factor": 1.04}, ["growth"]),
        ({"wrong": "no shortcut", "factor": 0.96}, ["growth"]),
        ({"wrong": "gated", "tilt": 1.0}, []),
        ({"wrong": "gated", "factor": 0.8}, ["identity has the lowest"]),
        ({"wrong": "batch norm, m = 2", "factor": 1.2}, ["identity has the lowest"]),
        ({"wrong": "batch norm, m = 2", "tilt": -0.3}, ["mean length", "skips"]),
    ],
)
def test_what_is_wrong_fails(wrong, claims):
    found = failures(**wrong)
    assert len(found) == len(claims)
    for claim, told in zip(claims, found, strict=True):
        assert claim in told
        assert claim.startswith("identity") or told.startswith(wrong["wrong"])


def test_theory_is_that_of_science():
    bare, scaled_down, *_, rest = (cell for cell in kinds(24, 256, 128) if cell.held)
    lengths = [oracles.path_energy(c.gains) @ np.arange(25) for c in (bare, scaled_down)]
    np.testing.assert_allclose(lengths, [12.0, 0.96])
    np.testing.assert_allclose(rest.growth, 2.152, atol=1e-3)


def test_the_input_is_at_rest():
    for cell in kinds(9, 8, 7)[4:]:
        opened = 1 - cell.carry if cell.shortcut == "gated" else 1.0
        after = cell.carry**2 * cell.start + opened**2 * (1 - 1 / np.pi)
        np.testing.assert_allclose(after, cell.start)
    assert kinds(9, 8, 7)[3].start == 1.0


def test_the_report_is_written(tmp_path, capsys):
    columns = planted()
    config = path_lengths.Config(out=tmp_path)
    assert lab.conclude(lab.experiment(path_lengths), config, columns, {}) == 0
    told = capsys.readouterr().out
    assert "12 units of width 8, 2 networks" in told and "Verdict:" in told
    written, metadata = study.read_parquet(tmp_path / "path_lengths.parquet")
    assert set(written) == set(columns) and len(metadata["criteria"]) == 13
    assert (tmp_path / "path_lengths.png").stat().st_size > 20_000


def test_the_figure_shows_shares_and_growth():
    columns = planted()
    axes = path_lengths.draw(columns).axes
    assert [a.get_title() for a in axes] == [
        "without norm",
        "batch norm",
        "batch norm, by shortcut",
    ]
    theory, points = axes[0].lines[:2]
    cell = Cell("none", "identity", 1, 1.0, 12, 8, 9)
    np.testing.assert_allclose(theory.get_ydata(), oracles.path_energy(cell.gains)[1:12])
    np.testing.assert_allclose(points.get_ydata(), theory.get_ydata())
    assert len(axes[1].lines) == len(axes[2].lines) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (12, 5)}, r"depths=\(12, 5\) must be at least 6"),
        ({"depths": (9, 9)}, r"depths=\[9, 9\] must hold at least one value, none twice"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"batch_size": 3}, "batch_size=3 must be at least 4"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        path_lengths.cells(path_lengths.Config(**options))


def test_the_command_line_says_so_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["path-lengths", "--seeds", "1", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "error: seeds=1 must be at least 2" in capsys.readouterr().err
