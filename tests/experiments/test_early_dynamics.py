import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import __main__ as entry
from experiments import _first_steps, early_dynamics
from experiments._classifier import cross_entropy
from experiments._first_steps import FIXUP, HE, NETWORKS, PLAIN, REZERO, SKIPINIT, TRUNK, TWIN
from experiments.early_dynamics import Config
from tests.nn.conftest import quick_compilation as quick_compilation

TINY = Config(depth=6, width=3, batch_size=8, steps=2, seeds=2)
UNITS = 2
compiled_once = functools.cache(_first_steps.compile_programs)


@pytest.fixture(scope="module")
def tiny():
    """Run three of the six networks once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(early_dynamics, "NETWORKS", (PLAIN, SKIPINIT, FIXUP))
        patched.setattr(early_dynamics, "compile_programs", compiled_once)
        measured = early_dynamics.measure(TINY)
    jax.config.update("jax_disable_most_optimizations", before)
    return measured


def test_every_network_seed_step_and_parameter_has_its_row(tiny):
    assert set(tiny["network"]) == {PLAIN, SKIPINIT, FIXUP}
    assert len({len(column) for column in tiny.values()}) == 1
    for network, count in {PLAIN: 2 + 2 * UNITS, FIXUP: 2 + 3 * UNITS}.items():
        rows = early_dynamics.pick(tiny, network=network)
        assert np.sum(rows["role"] == TRUNK) == TINY.seeds * (UNITS + 1)
        assert np.sum(rows["role"] != TRUNK) == TINY.seeds * (TINY.steps + 1) * count
    assert not np.isnan(tiny["parameter_gradient_log_norm"][tiny["role"] != TRUNK]).any()
    assert np.isfinite(tiny["gradient_log_norm"][tiny["role"] == TRUNK]).all()
    two = [early_dynamics.pick(tiny, network=PLAIN, seed=seed)["loss"] for seed in (0, 1)]
    assert not np.array_equal(*two, equal_nan=True)


def test_what_theory_says_of_any_size_holds_at_a_tiny_one(tiny):
    for network in (SKIPINIT, FIXUP):
        assert early_dynamics.judge_pattern(tiny, network).holds
        assert (early_dynamics.along_trunk(tiny, network) == 0).all()
    assert abs(early_dynamics.off_orthogonal(tiny)) < 0.001
    asleep = early_dynamics.pick(tiny, network=FIXUP, state=_first_steps.ZERO)
    assert set(zip(asleep["role"].tolist(), asleep["step"].tolist(), strict=True)) == {
        ("stem", 0), ("first", 0), ("last", 0), ("factor", 0), ("first", 1), ("factor", 1)
    }  # fmt: skip


@pytest.mark.usefixtures("quick_compilation")
def test_the_branches_are_silent_and_drawn_as_their_papers_say():
    x = jax.random.normal(jax.random.key(1), (2, 5, 3, 4))
    for name in (SKIPINIT, REZERO, FIXUP):
        unit = _first_steps.unit(name, 4, 24, nnx.Rngs(0))
        np.testing.assert_array_equal(unit(x), x)
    he, fixup = (_first_steps.unit(name, 4, 24, nnx.Rngs(0)) for name in (HE, FIXUP))
    np.testing.assert_allclose(
        fixup.branch.conv1.kernel[...], he.branch.conv1.kernel[...] / np.sqrt(24), rtol=1e-5
    )
    assert he(x).shape == x.shape and bool(jnp.abs(he(x) - x).max() > 0.1)
    rezero = _first_steps.unit(REZERO, 4, 24, nnx.Rngs(0))
    assert rezero.branch.names == ("conv1", "activation1", "conv2", "activation2", "factor")


@pytest.mark.usefixtures("tiny", "quick_compilation")
def test_the_steps_are_those_of_plain_gradient_descent():
    programs = compiled_once(PLAIN, depth=6, width=3, batch_size=8, learning_rate=0.1)
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 8, 1)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32)[None]
    key = jax.random.key(3)
    params, rest, state, _ = programs.begin(key, images[0])
    moved, _, value, norms = programs.step(params, rest, state, images[0], labels[0])

    net = _first_steps.network(PLAIN, 6, 3, nnx.Rngs(key))

    def loss(net):
        return cross_entropy(net(jnp.asarray(images[0]), train=True), labels[0])

    expected, gradients = nnx.jit(nnx.value_and_grad(loss))(net)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for after, before, gradient in zip(
        *(jax.tree.leaves(tree) for tree in (moved, params, gradients)), strict=True
    ):
        np.testing.assert_allclose(after, before - 0.1 * gradient, atol=1e-4)
    kernels = [
        net["body"].unit.branch.conv2.kernel,
        gradients["body"]["unit"]["branch"]["conv2"]["kernel"],
    ]
    for norm, kernel in zip(norms["last"], kernels, strict=True):
        one_by_one = [np.linalg.norm(np.asarray(k)) for k in kernel[...]]
        np.testing.assert_allclose(norm.norm, one_by_one, rtol=1e-3)


def synthetic(*, after=1.0, twin=0.5, asleep=0.0, early=0.0, uneven=0.0, step_size=0.1):
    """Make a table that passes; each argument plants one fault."""
    rows = []
    for network in NETWORKS:
        for seed in range(2):
            for unit in range(3):
                fall = -2.0 if network == HE else uneven * (network == FIXUP)
                log = fall * unit
                rows.append((network, seed, 0, TRUNK, unit, np.nan, np.nan, log))
            for step in range(4):
                rows += [
                    (network, seed, step, role, unit, *_logs(
                        network, step, role, unit, after, twin, asleep, early, step_size), 0.0)
                    for unit in range(3)
                    for role in ("first", "last")
                ]  # fmt: skip
                rows.append((network, seed, step, "classifier", 0, 0.0, 0.0, 0.0))
    names = ("network", "seed", "step", "role", "position", "parameter_log_norm")
    names += ("parameter_gradient_log_norm", "gradient_log_norm")
    table = {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}
    size = len(rows)
    table |= {"loss": np.full(size, 2.3), "learning_rate": np.full(size, 0.1)}
    return table | {"state": _first_steps.states(table)}


def _logs(network, step, role, unit, after, twin, asleep, early, step_size):
    """Return the log norms of a layer's weights and of their gradient."""
    steep = {PLAIN: 2.0 if step == 0 else after, TWIN: twin}.get(network, 0.0)
    gradient = -steep * unit
    weight = 0.0 if step == 0 else 0.5 * np.log(1 + (step_size * np.exp(-2.0 * unit)) ** 2)
    wakes = {SKIPINIT: 1, REZERO: 1, FIXUP: 1 if role == "last" else 2}.get(network, 0)
    zero = step < wakes and not (early and network == SKIPINIT)
    zero |= bool(asleep) and network == REZERO and step == 3 and unit == 0
    return weight, -np.inf if zero else gradient


def test_the_criteria_hold_where_everything_is_as_it_should_be():
    criteria = early_dynamics.judge(synthetic())
    assert len(criteria) == 11
    assert all(criterion.holds for criterion in criteria), criteria


@pytest.mark.parametrize(
    ("fault", "claims"),
    [
        ({"after": 2.1}, ["falls after step 1", "stays below"]),
        ({"twin": 2.2}, ["below the plain one's"]),
        ({"step_size": 0.2}, ["orthogonal"]),
        ({"asleep": 1.0}, ["^ReZero: gradients", "no gradient is zero"]),
        ({"early": 1.0}, ["^SkipInit: gradients"]),
        ({"uneven": 1e-4}, ["the same at every unit"]),
    ],
)
def test_a_planted_fault_fails_its_own_criterion(fault, claims):
    fallen = [c.claim for c in early_dynamics.judge(synthetic(**fault)) if not c.holds]
    assert len(fallen) == len(claims), fallen
    for claim, found in zip(claims, fallen, strict=True):
        assert re.search(claim, found)


def test_a_zero_is_told_by_what_makes_it():
    table = {
        "network": np.array([SKIPINIT, SKIPINIT, HE, SKIPINIT, HE]),
        "role": np.array(["first", "first", "first", "last", TRUNK]),
        "step": np.array([0, 1, 0, 0, 0]),
        "parameter_gradient_log_norm": np.array([-np.inf, -np.inf, -np.inf, -800.0, np.nan]),
    }
    told = ["zero by construction", "vanished", "vanished", "unforeseen", ""]
    assert _first_steps.states(table).tolist() == told


def test_the_figure_and_the_table_are_made_from_the_columns_alone():
    figure = early_dynamics.draw(synthetic())
    assert len(figure.axes) == 6 and all(axes.lines for axes in figure.axes)
    printed = early_dynamics.table(synthetic())
    assert printed.row_count == 8
    heads = [column.header for column in printed.columns]
    assert heads[2:] == ["step 0", "step 1", "step 2", "step 3"]
    cells = [list(column.cells) for column in printed.columns]
    assert [column[-1] for column in cells[2:]] == ["first, last", "first", "none", "none"]
    assert [float(column[0]) for column in cells[2:]] == pytest.approx(
        np.exp([4.0, 2.0, 2.0, 2.0]), rel=1e-3
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"depth": 9}, "depth=9 cannot be built"),
        ({"depth": 4}, "depth=4 cannot be built"),
        ({"steps": 1}, "steps=1 is too small; it must be at least 2"),
        ({"seeds": 0}, "seeds=0 is too small"),
        ({"width": 0}, "width=0 is too small"),
        ({"batch_size": 5000}, "batch_size=5000 must lie between 1 and the 1437"),
        ({"learning_rate": -0.1}, r"learning_rate=-0\.1 must be positive"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_compiled(option, message, monkeypatch):
    monkeypatch.setattr(early_dynamics, "compile_programs", None)
    with pytest.raises(ValueError, match=message):
        early_dynamics.measure(Config(**option))


def test_the_command_line_writes_and_prints_and_ends_with_its_verdict(
    tmp_path, monkeypatch, capsys
):
    faulty = dataclasses.replace(early_dynamics.EXPERIMENT, measure=lambda _: synthetic(uneven=1.0))
    monkeypatch.setattr(early_dynamics, "EXPERIMENT", faulty)
    assert entry.main(["early-dynamics", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "zero by construction" in told and "FAILS (10 of 11 criteria)" in told
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".png", ".svg"}
