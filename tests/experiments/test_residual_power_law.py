import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, lab
from experiments import residual_power_law
from experiments.residual_power_law import DIGITS, GAUSSIAN, Config, Stack
from tests.experiments.by_hand import layer

# One on each kind of data is enough: every program takes seconds to trace.
SOME = [Stack(GAUSSIAN, 1, "none", 3, 5, 7, 3), Stack(DIGITS, 2, "identity", 2, 3, 6, 3)]


def by_hand(kind, seed):
    """Return ln(|g_l|^2 / |g_L|^2) and v_l of one network, unit by unit, in NumPy."""

    def initial(key):
        weights, signal, cotangent = jax.random.split(key, 3)
        x, branch = kind.signal(signal), kind.network(nnx.Rngs(weights)).unit.branch
        kernels = [branch[f"conv{i + 1}"].kernel[...] for i in range(kind.convs)]
        return x, jax.random.normal(cotangent, x.shape), kernels

    found = jax.jit(initial)(jax.random.key(seed))
    x, g, kernels = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
    skip = float(kind.residual)
    variances, tape = [x.var((0, 1, 2)).mean()], []
    for i in range(kind.units):
        y, backs = x, []
        for kernel in kernels:
            y, back = layer(y, kernel[i])
            backs.insert(0, back)
        x = skip * x + y
        variances.append(x.var((0, 1, 2)).mean())
        tape.insert(0, backs)
    squares = [np.sum(g**2)]
    for backs in tape:
        g = skip * g + functools.reduce(lambda g, back: back(g), backs, g)
        squares.append(np.sum(g**2))
    return np.log(squares[::-1]) - np.log(squares[0]), variances


@pytest.mark.parametrize("kind", SOME, ids=str)
def test_the_measurement_is_that_of_a_loop(kind):
    measured = residual_power_law.measure(lab.Ensemble(kind, 2))
    row = lab.pick(measured, **dataclasses.asdict(kind), seed=1)
    assert row["position"].tolist() == list(range(kind.units + 1))
    logs, variances = by_hand(kind, 1)
    np.testing.assert_allclose(row["log_ratio"], logs, atol=2e-4)
    np.testing.assert_allclose(row["variance"], variances, rtol=1e-4)


def test_no_digit_is_chosen_twice():
    images = np.arange(30.0, dtype=np.float32).reshape(30, 1, 1, 1) * np.ones((1, 3, 3, 1), "f4")
    through = jax.jit(residual_power_law.through_stem, static_argnums=(2, 3))
    x = through(jax.random.key(0), images, 30, 2)
    assert x.shape == (30, 3, 3, 2)
    assert len(np.unique(np.round(np.asarray(x[:, 0, 0, 0]), 3))) == 30


def obeying(kind, *, power=1.0, slope=1.0, exponential=0.0, early=0.0, bent=0.0):
    """Return rows of networks that do what theory says, but for what is planted."""
    scatter = 1 + 0.001 * np.random.default_rng(5).standard_normal((3, 1))
    start, back = 0.9 + 0.2 * (kind.data == GAUSSIAN), np.arange(kind.units, -1, -1.0)
    logs = 0.38 * back
    if kind.residual:
        gains = gradflow.oracles.batch_norm_residual_gain(kind.units, kind.convs, start)
        logs = np.append(np.cumsum(np.log(gains)[::-1])[::-1], 0.0)
    logs = power * logs + exponential * back + early * (back > kind.units - kind.units // 8)
    logs = logs - bent * np.log1p(back[::-1])
    variance = start + slope * (1 - 1 / np.pi) * back[::-1]
    return lab.as_rows(kind, log_ratio=logs * scatter, variance=variance * np.ones((3, 1)))


def all_kinds(planted=None, depth=128, **changes):
    kinds = residual_power_law.kinds(Config(), depth)
    return lab.joined(
        [obeying(one, **(changes if i == planted else {})) for i, one in enumerate(kinds)]
    )


@pytest.mark.parametrize(
    ("planted", "changes", "claims"),
    [
        (None, {}, []),
        (0, {"power": 1.07}, ["gaussian, residual, m = 1: exponent"]),
        (0, {"early": 5.0}, []),  # the first eighth does not enter the exponent
        (1, {"power": 0.92}, ["gaussian, residual, m = 2: exponent"]),
        (1, {"slope": 1.05}, ["gaussian, residual, m = 2: growth of the variance"]),
        (2, {"power": 0.001, "exponential": -0.01}, []),  # an exponential of another rate
        (2, {"power": 0.0, "bent": 1.5}, ["gaussian, plain, m = 1: ln|g_l| is straighter"]),
        (4, {"power": 0.0, "exponential": 0.1}, ["digits, residual, m = 2: ln|g_l| is straighter"]),
    ],
)
def test_another_law_fails_and_alone(planted, changes, claims):
    criteria = residual_power_law.judge(all_kinds(planted, **changes))
    failed = [criterion.claim for criterion in criteria if not criterion.holds]
    assert len(criteria) == 9 and len(failed) == len(claims)
    assert all(claim.startswith(start) for claim, start in zip(failed, claims, strict=True))


def test_the_exponent_is_asked_for_where_theory_has_come_to_it():
    asked = {}
    for depth in (8, 32, 56):
        criteria = residual_power_law.judge(all_kinds(depth=depth))
        assert all(criterion.holds for criterion in criteria)
        asked[depth] = [c.claim for c in criteria if c.claim.endswith("exponent of |g|^2 in depth")]
    assert [len(claims) for claims in asked.values()] == [0, 1, 2]


def test_theory_stands_beside_what_was_measured():
    columns = all_kinds()
    cells = [list(column.cells) for column in residual_power_law.table(columns).columns]
    assert cells[6] == ["1.467", "2.152", "", "1.467", "2.152"]
    panels = residual_power_law.draw(columns).panels
    assert [len(panel.series) for panel in panels] == [2, 3, 2, 2]
    for series in panels[0].series:
        np.testing.assert_allclose(np.log(series.y), np.log(series.expected), rtol=2e-3)


def test_networks_on_digits_are_half_as_deep():
    cells = residual_power_law.cells(Config(depths=(8, 20, 128)))
    assert {one.kind.depth: one.kind.units for one in cells} == {8: 8, 20: 10, 128: 64}
