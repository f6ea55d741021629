import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from convjax.gradflow import oracles
from experiments import path_lengths
from experiments.path_lengths import Stack, kinds
from tests.experiments.by_hand import layer

# One without norm, and beside batch norm a scaled shortcut and none.
KINDS = [kinds(6, width=5, batch_size=7)[i] for i in (1, 4, 6)]


@pytest.fixture(scope="module")
def measured():
    return lab.joined([path_lengths.measure(lab.Ensemble(kind, 2)) for kind in KINDS])


def by_hand(kind, seed):
    """Return ln|g_k|^2 and ln|g_l|^2 of one network, from a polynomial in NumPy."""
    weights, signal = jax.random.split(jax.random.key(seed))
    branch = kind.network(nnx.Rngs(weights)).unit.branch
    kernels = [branch[f"conv{i}"].kernel[...] for i in range(1, kind.convs + 1)]
    x, gradient = jax.random.normal(signal, (2, kind.batch_size, 1, 1, kind.width))
    kernels, x, gradient = (np.asarray(one, np.float64) for one in (kernels, x, gradient))
    x, gradient = x * np.sqrt(kind.start), gradient - gradient.mean(0)
    tape = []
    for unit in range(kind.depth):
        y, through = x, []
        for kernel in kernels[:, unit]:
            y, back = layer(y, kernel, kind.norm == "batch")
            through.insert(0, back)
        tape.insert(0, through)
        x = kind.carry * x + kind.branch_scale * y
    parts, sizes = [gradient], [np.sum(gradient**2)]
    for through in tape:
        longer = [kind.branch_scale * part for part in parts]
        for back in through:
            longer = [back(part) for part in longer]
        zero = np.zeros_like(gradient)
        pairs = zip([*parts, zero], [zero, *longer], strict=True)
        parts = [kind.carry * short + long for short, long in pairs]
        sizes.append(np.sum(sum(parts) ** 2))
    return np.log([np.sum(part**2) for part in parts]), np.log(sizes[::-1])


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_the_measurement_is_that_of_a_loop(measured, kind):
    for seed in range(2):
        row = lab.pick(measured, **dataclasses.asdict(kind), seed=seed)
        energies, sizes = by_hand(kind, seed)
        assert row["position"].tolist() == list(range(7))
        np.testing.assert_allclose(row["log_energy"], energies, atol=5e-3)
        np.testing.assert_allclose(row["log_ratio"], sizes - sizes[-1], atol=5e-3)
        whole = np.exp(sizes[0]) / np.exp(energies).sum()
        np.testing.assert_allclose(row["coherence"], whole, rtol=1e-2)


def test_a_network_without_shortcuts_has_no_paths_to_choose_from(measured):
    assert {len(column) for column in measured.values()} == {3 * 2 * 7}
    assert np.isfinite(measured["log_ratio"]).all()
    lost = np.isneginf(measured["log_energy"])
    assert (lost == ((measured["shortcut"] == "none") & (measured["position"] > 0))).all()
    row = path_lengths.paths(measured)[-1]
    assert row.kind == KINDS[-1] and row.shares is None


def planted(wrong=None, *, depth=12, tilt=0.0, skip=0.0, factor=1.0):
    """Return columns that are theory's, but for what is planted in one kind of network."""
    blocks, position = [], np.arange(depth + 1)
    for kind in kinds(depth, 8, 9):
        here, logs = kind.label == wrong, np.where(position, -np.inf, 0.0)
        if kind.has_paths:
            logs = np.log(oracles.path_energy(kind.gains)) + here * tilt * position
            logs[0] += here * skip
        growth = np.log(kind.unit_gains) + here * np.log(factor)
        ratios = np.append(np.cumsum(growth[::-1])[::-1], 0.0)
        values = np.stack([logs, logs + 3.0]), np.stack([0.99 * ratios, 1.01 * ratios])
        ones = np.ones((2, depth + 1))
        blocks.append(lab.as_rows(kind, log_energy=values[0], log_ratio=values[1], coherence=ones))
    return lab.joined(blocks)


def test_every_depth_is_judged_by_itself():
    columns = lab.joined([planted(), planted(depth=9, wrong="no shortcut", factor=1.1)])
    criteria = lab.criteria(lab.experiment(path_lengths), columns)
    assert len(criteria) == 2 * 13
    failed = [c.claim for c in criteria if not c.holds]
    assert any(claim.startswith("depth 9: no shortcut: growth") for claim in failed)
    assert not any(claim.startswith("depth 12") for claim in failed)


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [
        ({}, []),
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
    found = [c.claim for c in path_lengths.judge(planted(**wrong)) if not c.holds]
    assert len(found) == len(claims)
    for claim, told in zip(claims, found, strict=True):
        assert claim in told
        assert claim.startswith("identity") or told.startswith(wrong["wrong"])


def test_theory_is_that_of_science():
    bare, scaled_down, *_, rest = (kind for kind in kinds(24, 256, 128) if kind.held)
    lengths = [oracles.path_energy(c.gains) @ np.arange(25) for c in (bare, scaled_down)]
    np.testing.assert_allclose(lengths, [12.0, 0.96])
    np.testing.assert_allclose(rest.unit_gains, 2.152, atol=1e-3)


def test_the_input_is_at_rest():
    for kind in kinds(9, 8, 7)[4:]:
        opened = 1 - kind.carry if kind.shortcut == "gated" else 1.0
        after = kind.carry**2 * kind.start + opened**2 * (1 - 1 / np.pi)
        np.testing.assert_allclose(after, kind.start)
    assert kinds(9, 8, 7)[3].start == 1.0


def test_the_figure_shows_shares_and_growth():
    panels = path_lengths.draw(planted()).panels
    assert [len(panel.series) for panel in panels] == [2, 4, 4]
    kind = Stack("none", "identity", 1, 1.0, 12, 8, 9)
    for found in (panels[0].series[0].y, panels[0].series[0].expected):
        np.testing.assert_allclose(found, oracles.path_energy(kind.gains)[1:12])


def test_the_table_shows_lengths_beside_theory_and_count():
    shown = path_lengths.table(planted())
    assert shown.title.startswith("12 units of width 8, 2 networks")
    bare = [next(iter(column.cells)) for column in shown.columns]
    assert bare[:4] == ["no norm, s = 1", "6.00", "6.00", "6.00"]
    assert [list(column.cells)[-1] for column in shown.columns][1:8] == [""] * 7
