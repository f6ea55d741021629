import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from experiments import skip_and_scale
from experiments.skip_and_scale import ONE, TWO, Network

WIDTH, BATCH_SIZE, SEEDS = 5, 2, 3
# One of each pair is enough: every program takes a second to trace.
SOME = [Network(ONE, "none", "1", 3, WIDTH), Network(TWO, "identity", "L^-1/2", 3, WIDTH)]


def by_hand(kind, seed):
    """Propagate a batch through one network, forward and back, in NumPy."""
    shape = (BATCH_SIZE, WIDTH)

    def draw(key):
        weights, *others = jax.random.split(key, 3)
        branch = kind.network(nnx.Rngs(weights)).unit.branch
        kernels = {name: branch[name].kernel[...] for name in branch.names if name != "relu"}
        return kernels, [jax.random.normal(other, shape) for other in others]

    drawn = jax.jit(draw)(jax.random.key(seed))
    kernels, (x, g) = jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)
    last, first = kernels["last"], kernels.get("first")
    skip = float(kind.shortcut == "identity")
    gates = []
    for i in range(kind.units):
        z = x if first is None else x @ first[i]
        gates.append(z > 0)
        x = skip * x + kind.factor * (z * gates[i]) @ last[i]
    squares = [np.sum(g**2)]
    for i in reversed(range(kind.units)):
        back = (g @ last[i].T) * gates[i]
        g = skip * g + kind.factor * (back if first is None else back @ first[i].T)
        squares.append(np.sum(g**2))
    return np.log(squares[::-1]) - np.log(squares[0])


@pytest.mark.parametrize("kind", SOME, ids=str)
def test_the_measurement_is_that_of_a_loop(kind):
    columns = skip_and_scale.measure(lab.Ensemble(kind, SEEDS, BATCH_SIZE))
    found = lab.array(columns, "log_ratio", "seed", "position")
    assert found.shape == (SEEDS, 4)
    for seed in (0, 2):
        np.testing.assert_allclose(found[seed], by_hand(kind, seed), atol=1e-5)


def test_all_kinds_are_measured():
    kinds = skip_and_scale.cells(skip_and_scale.Config())
    assert len(set(kinds)) == len(kinds) == 2 * 2 * 5


def test_silent_branches_leave_the_gradient_as_it_is():
    silent = Network(TWO, "identity", "0", 2, 5)
    columns = skip_and_scale.measure(lab.Ensemble(silent, seeds=1, batch_size=3))
    assert np.abs(columns["log_ratio"]).max() == 0


def scattered(kind, factor):
    """Return rows of networks whose mean is theory's, but for the factor."""
    noise = np.random.default_rng(3).normal(0, 0.3, (40, 1))
    noise -= np.log(np.mean(np.exp(noise)))
    back = np.arange(kind.units, -1, -1) / kind.units
    at_input = np.log(kind.expected * factor) + (0 if kind.factor == 0 else noise)
    return lab.as_rows(kind, log_ratio=np.broadcast_to(at_input, (40, 1)) * back)


def criteria(planted=None, factor=1.0):
    cells = skip_and_scale.cells(skip_and_scale.Config(depths=(4, 8)))
    kinds = [networks.kind for networks in cells]
    rows = [scattered(kind, factor if kind == planted else 1.0) for kind in kinds]
    return skip_and_scale.judge(lab.joined(rows))


def test_networks_that_obey_pass():
    assert [criterion.holds for criterion in criteria()] == [True] * 10


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        (Network(ONE, "identity", "1", 8, 256), 1.03**8),
        (Network(TWO, "identity", "L^-1/2", 4, 256), 1 / 1.05**4),
        (Network(TWO, "none", "1", 8, 256), 1.04**8),
        (Network(ONE, "identity", "0", 8, 256), 1 + 2e-6),
    ],
    ids=str,
)
def test_a_wrong_gain_fails_and_alone(kind, factor):
    failed = [criterion.claim for criterion in criteria(kind, factor) if not criterion.holds]
    assert len(failed) == 1 and failed[0].startswith(f"{kind.branch}, {kind.label}")
