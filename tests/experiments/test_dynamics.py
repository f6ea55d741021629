import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, lab
from convjax.lab import _seeds, pick
from experiments import dynamics
from experiments.dynamics import networks
from experiments.dynamics import training as measuring
from experiments.dynamics.criteria import along_trunk, judge_pattern, off_orthogonal
from experiments.dynamics.networks import DECAYED, FIXUP, HE, NETWORKS, PLAIN, TWIN, ZERO
from experiments.dynamics.training import FIRST, INITIAL, SCALED, TRAINED, Cell

UNITS = 2
PLAN = {"width": 3, "batch_size": 8, "first": 3, "seeds": 2, "steps": 4, "runs": 2, "watch": 2}
PLAN |= {"decay": 0.1, "learning_rate": 0.1}


pytestmark = pytest.mark.usefixtures("promotion")


def cell(network):
    return Cell(network=network, depth=2 + 2 * UNITS, **PLAN)


@functools.cache
def measured(name):
    """Measure a network once; return its table, and the first trainer."""
    kept = []

    class Kept(lab.Trainer):
        def __init__(self, *given):
            super().__init__(*given)
            kept.append(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_seeds, "Trainer", Kept)
        return dynamics.complete(dynamics.measure(cell(name))), kept[0]


every = pytest.mark.parametrize("name", [FIXUP, pytest.param(TWIN, marks=pytest.mark.later)])


@every
def test_every_phase_seed_step_and_parameter_has_its_rows(name):
    table, _ = measured(name)
    per_step = 2 + (3 if name == FIXUP else 2) * UNITS
    for phase, steps, seeds in ((FIRST, 4, 2), (TRAINED, 2, 2)):
        rows = pick(table, network=name, phase=phase)
        assert len(rows["step"]) == steps * seeds * (per_step + UNITS + 1)
        of_trunk = rows["role"] == networks.TRUNK
        assert (np.isfinite(rows["signal"]) == of_trunk).all()
        assert (np.isfinite(rows["gradient"]) == ~of_trunk).all()
        assert np.isfinite(rows["loss"]).all()
    initial = pick(table, network=name, phase=INITIAL)["gradient_log_norm"]
    assert np.isfinite(initial).all() and len(initial) == (2 * (UNITS + 1) if name == FIXUP else 0)
    factors = [f"body/{i}/branch/factor/value" for i in (0, 1) if name == FIXUP]
    assert set(pick(table, network=name, phase=FIRST, seed=1, step=2)["path"]) == {
        "stem/kernel", "head/dense/kernel", "stem", "body/0", "body/1", *factors,
        *(f"body/{i}/branch/conv{k}/kernel" for i in (0, 1) for k in (1, 2)),
    }  # fmt: skip
    two = [pick(table, network=name, phase=FIRST, seed=seed)["loss"] for seed in (0, 1)]
    assert not np.array_equal(*two)


def test_zeros_are_those_of_the_construction_at_any_size():
    table, _ = measured(FIXUP)
    assert judge_pattern(table, FIXUP).holds
    assert (along_trunk(table, FIXUP) == 0).all()
    asleep = pick(table, network=FIXUP, phase=FIRST, state=ZERO)
    assert set(zip(asleep["role"].tolist(), asleep["step"].tolist(), strict=True)) == {
        ("stem", 0), ("first", 0), ("last", 0), ("factor", 0), ("first", 1), ("factor", 1)
    }  # fmt: skip


@pytest.mark.later
def test_weights_before_a_norm_do_what_theory_says_at_any_size():
    table, _ = measured(TWIN)
    for label in (TWIN, DECAYED):
        rows = pick(table, network=label, phase=SCALED, role="first")
        half, once, twice = (pick(rows, factor=factor) for factor in measuring.FACTORS)
        np.testing.assert_allclose(half["gradient"] / once["gradient"], 2, rtol=0.01)
        np.testing.assert_allclose(twice["gradient"] / once["gradient"], 0.5, rtol=0.01)
        np.testing.assert_allclose(twice["weight"], 4 * half["weight"], rtol=1e-5)
    # The first convolutions alone: what the second ones make is added to the trunk.
    first = pick(table, network=TWIN, role="first")
    assert abs(off_orthogonal(lab.beside(first, network=PLAIN))) < 1e-5


@every
def test_watched_signals_are_the_profile_initially_and_later(name):
    table, trainer = measured(name)
    seeds = trainer.seeds
    nets = {0: seeds.draw(1), 3: trainer.fit(seeds.draw(1), 1, steps=3)[0]}

    def profiled(net, images, labels):
        return gradflow.profile(net, images, loss=lab.cross_entropy, targets=labels, train=True)

    profiled = seeds.program(profiled, *seeds.batch(1))
    for step, net in nets.items():
        profile = profiled(net, *seeds.batch(1, step))
        rows = pick(table, network=name, phase=FIRST, seed=1, step=step)
        np.testing.assert_allclose(rows["loss"], profile.loss, rtol=1e-5)
        trunk = pick(rows, role=networks.TRUNK)
        expected = [profile["stem"].gradient.norm, *profile["body/*"].gradient.norm]
        assert trunk["path"].tolist() == ["stem", "body/0", "body/1"]
        np.testing.assert_allclose(trunk["signal"], expected, rtol=1e-4)
        for role in set(rows["role"].tolist()) - {networks.TRUNK}:
            path, _, parameter = networks.ROLES[role].rpartition("/")
            unit, found = profile[path], pick(rows, role=role)
            both = {"weight": unit.parameters, "gradient": unit.parameter_gradients}
            for kind, norms in both.items():
                np.testing.assert_allclose(found[kind], np.ravel(norms[parameter].norm), rtol=1e-4)
    moved = [jax.tree.leaves(nnx.state(net, nnx.Param)) for net in nets.values()]
    assert not any(np.array_equal(a, b) for a, b in zip(*moved, strict=True) if a.ndim > 1)


def test_the_branches_are_silent_and_initialised_as_their_papers_say():
    x = jax.random.normal(jax.random.key(1), (2, 5, 3, 4))
    for name in networks.SILENT:
        unit = networks.unit(name, 4, 24, nnx.Rngs(0))
        np.testing.assert_array_equal(unit(x), x)
    he, fixup = (networks.unit(name, 4, 24, nnx.Rngs(0)) for name in (HE, FIXUP))
    np.testing.assert_allclose(
        fixup.branch.conv1.kernel[...], he.branch.conv1.kernel[...] / np.sqrt(24), rtol=1e-5
    )
    assert bool(jnp.abs(he(x) - x).max() > 0.1)
    rezero = networks.unit(networks.REZERO, 4, 24, nnx.Rngs(0))
    assert rezero.branch.names == ("conv1", "activation1", "conv2", "activation2", "factor")


def test_the_recipes_are_those_that_the_criteria_need():
    first = measuring.first_steps(cell(PLAIN))
    assert (first.options, first.weight_decay, first.schedule) == ({}, 0.0, "constant")
    assert first.clip is None
    assert measuring.first_steps(cell(HE)).clip == 1.0
    decayed, twin = (measuring.training(name, cell(TWIN)) for name in (DECAYED, TWIN))
    assert (decayed.weight_decay, twin.weight_decay) == (0.1, 0.0)
    assert decayed.clip is twin.clip is None


EMPTY = dict.fromkeys(
    ("gradient", "weight", "update", "signal", "gradient_log_norm", "factor"), np.nan
)


def synthetic(
    *, after=1.0, twin=0.5, back=1.0, asleep=0.0, early=0.0, uneven=0.0, step_size=0.1,
    power=-1.0, decayed=0.5, raised=2.0,
):  # fmt: skip
    """Make a table that passes; each argument plants one fault."""
    rows, wakes = [], {networks.SKIPINIT: (1 - early, 1), networks.REZERO: (1, 1), FIXUP: (2, 1)}
    layers = tuple(itertools.product(range(3), ("first", "last")))

    def add(network, phase, seed, step, role, position, **numbers):
        where = {"network": network, "phase": phase, "seed": seed, "step": step, "role": role}
        where |= {"position": position, "path": f"{role}/{position}/kernel", "loss": 2.0}
        rows.append(EMPTY | where | numbers)

    for network, seed, unit in itertools.product(NETWORKS, range(2), range(3)):
        fall = -2.0 if network == HE else uneven * (network == FIXUP)
        add(network, INITIAL, seed, 0, networks.TRUNK, unit, gradient_log_norm=fall * unit)
    for network, seed, step in itertools.product(NETWORKS, range(2), range(4)):
        add(network, FIRST, seed, step, "classifier", 0, gradient=1.0, weight=1.0)
        steep = {PLAIN: 2.0 if step == 0 else after, TWIN: twin}.get(network, 0.0)
        for unit, role in layers:
            zero = step < wakes.get(network, (0, 0))[role == "last"]
            zero |= bool(asleep) and network == networks.REZERO and step == 3 and unit == 0
            add(network, FIRST, seed, step, role, unit, gradient=np.exp(-steep * unit) * (not zero),
                weight=np.sqrt(1 + step * 0.1**2), update=step_size)  # fmt: skip
    for network, seed, step in itertools.product((*NETWORKS, DECAYED), range(2), (0, 2, 4, 6)):
        add(network, TRAINED, seed, step, "classifier", 0, gradient=1.0, weight=1.0)
        steep = (2.0 if step == 0 else back) if network == PLAIN else 0.5
        larger, shorter = (raised, decayed) if step >= 4 and network == DECAYED else (1.0, 1.0)
        for unit, role in layers:
            add(network, TRAINED, seed, step, role, unit,
                gradient=np.exp(-steep * unit) * larger, weight=3.0 * shorter)  # fmt: skip
    of = networks.NORMED
    for network, seed, factor, unit in itertools.product(of, range(2), (0.5, 1, 2), range(3)):
        add(network, SCALED, seed, 0, "first", unit, factor=factor,
            weight=3 * factor, gradient=(1 + unit) * float(factor) ** power)  # fmt: skip
    return dynamics.complete(lab.beside(lab.stack(rows), depth=50))


@pytest.mark.parametrize(
    ("fault", "claims"),
    [
        ({}, []),
        ({"after": 2.1}, ["falls after step 1", "stays below"]),
        ({"back": 2.1}, ["all through training"]),
        ({"twin": 2.2}, ["below the plain one's"]),
        ({"step_size": 0.2}, ["orthogonal"]),
        ({"power": -0.95}, [r"as 1/\|W\|"]),
        ({"decayed": 1.1}, ["decay"]),
        ({"decayed": 0.2, "raised": 2.0}, ["decay"]),
        ({"asleep": 1.0}, ["^ReZero: gradients", "no gradient is zero"]),
        ({"early": 1.0}, ["^SkipInit: gradients"]),
        ({"uneven": 1e-4}, ["the same at every unit"]),
    ],
)
def test_a_planted_fault_fails_its_own_criterion(fault, claims):
    criteria = dynamics.judge(synthetic(**fault))
    fallen = [c.claim for c in criteria if not c.holds]
    assert (len(criteria), len(fallen)) == (14, len(claims)), fallen
    assert all(map(re.search, claims, fallen))


def test_a_zero_is_told_by_what_makes_it():
    table = {
        "network": np.array([networks.SKIPINIT, networks.SKIPINIT, HE, networks.SKIPINIT, HE]),
        "role": np.array(["first", "first", "first", "last", networks.TRUNK]),
        "step": np.array([0, 1, 0, 0, 0]),
        "gradient": np.array([0.0, 0.0, 0.0, 1e-18, np.nan]),
    }
    told = [ZERO, "vanished", "vanished", "unforeseen", ""]
    assert networks.states(table).tolist() == told


def test_the_figures_and_the_table_are_made_from_the_columns_alone():
    figure = dynamics.draw(synthetic())
    assert len(figure.axes) == 9 and all(axes.lines for axes in figure.axes)
    printed = dynamics.table(synthetic())
    assert printed.row_count == len(NETWORKS) + 1 + len(networks.SILENT)
    cells = [list(column.cells) for column in printed.columns]
    assert [column.header for column in printed.columns][1:6] == [
        "step 0", "step 1", "step 2", "step 3", "trained 6"
    ]  # fmt: skip
    assert [float(column[0]) for column in cells[1:6]] == pytest.approx(
        np.exp([4.0, 2.0, 2.0, 2.0, 2.0]), rel=1e-3
    )
    fixup = cells[0].index(FIXUP)
    assert [column[fixup] for column in cells[1:4]] == ["100% zero", "50% zero", "1"]
    assert [column[fixup + 1] for column in cells[1:4]] == ["first, last", "first", "none"]
    assert len(dict(dynamics.waterfalls(synthetic()))) == len(NETWORKS) + 1


def test_each_depth_is_judged_and_drawn_by_itself(monkeypatch):
    deep, shallow = synthetic(after=2.1), synthetic()
    both = lab.joined([lab.beside(shallow, depth=20), deep])
    fallen = [c.claim for c in lab.criteria(lab.experiment(dynamics), both) if not c.holds]
    assert len(fallen) == 2 and all(claim.startswith("depth 50: ") for claim in fallen)
    monkeypatch.setattr(dynamics, "waterfalls", lambda table: [("fixup", len(table["step"]))])
    assert dynamics.also(both) == {
        f"waterfall_fixup_depth_{depth}": len(deep["step"]) for depth in (20, 50)
    }
    assert dynamics.also(deep) == {"waterfall_fixup": len(deep["step"])}


def test_a_waterfall_runs_from_stem_to_classifier():
    falls = dict(dynamics.waterfalls(measured(FIXUP)[0]))
    axes = falls["fixup"].axes[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "stem", "body/0/branch/conv1", "body/0/branch/conv2",
        "body/1/branch/conv1", "body/1/branch/conv2", "head/dense",
    ]  # fmt: skip


@pytest.mark.later
def test_real_tables_are_judged_drawn_and_tabled():
    tables = [pick(measured(TWIN)[0], network=DECAYED)]
    for name in NETWORKS:
        twin = TWIN if name in (*networks.NORMED, networks.BARE) else FIXUP
        tables.append(lab.beside(pick(measured(twin)[0], network=twin), network=name))
    whole = dynamics.complete(lab.joined(tables))
    assert len(dynamics.judge(whole)) == 14
    assert len(dynamics.draw(whole).axes) == 9
    assert dynamics.table(whole).row_count == len(NETWORKS) + 1 + len(networks.SILENT)
