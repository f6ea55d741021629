import jax
import numpy as np
import pytest
from flax import nnx

from convjax import lab
from convjax.gradflow import oracles
from experiments import shattering
from experiments.shattering import LINE, PAIR, Config, Stack, centred

TINY = Config(
    depths=(3,), width=9, inputs=3, seeds=2,
    line_depths=(4,), line_width=5, points=8, line_seeds=2, samples=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    return lab.measure_all(lab.experiment(shattering), TINY)


def kernels_of(kind, key):
    branch = kind.network(nnx.Rngs(key)).unit.branch
    names = [name for name in branch.names if name.startswith("dense")]
    return np.stack([np.asarray(branch[n].kernel[...], np.float64) for n in names], axis=1)


def pairs_by_hand(kind, seed):
    """Return the mean correlation of gradients in pairs, from Jacobians in NumPy."""
    weights, signal, cotangent = jax.random.split(jax.random.key(seed), 3)
    x = np.linalg.qr(np.asarray(jax.random.normal(signal, (9, 3)), np.float64))[0].T * 3
    v = np.asarray(jax.random.normal(cotangent, (2, 9)), np.float64)
    gradients, kernels = [], kernels_of(kind, weights)
    for one in x:
        jacobian = np.eye(9)
        for (kernel,) in kernels:
            slope = np.diag((one > 0).astype(float))
            y = np.maximum(one, 0)
            if kind.kind == "centred":
                mean, deviation = 1 / np.sqrt(2 * np.pi), np.sqrt(0.5 - 0.5 / np.pi)
                y, slope = (y - mean) / deviation, slope / deviation
            skip = float(kind.kind == "residual")
            jacobian = (slope @ kernel + skip * np.eye(9)).T @ jacobian
            one = y @ kernel + skip * one
        gradients.append(v @ jacobian)
    g = np.array(gradients)
    squares = np.sqrt(np.mean(np.sum(g**2, axis=2), axis=1))
    correlations = np.einsum("isd,jsd->ij", g, g) / 2 / np.outer(squares, squares)
    return correlations[np.triu_indices(3, 1)].mean()


@pytest.mark.parametrize("kind", shattering.PAIR_KINDS)
def test_pairs_are_those_of_a_loop(measured, kind):
    stack = Stack(PAIR, kind, 3, 9)
    expected = [pairs_by_hand(stack, seed) for seed in range(2)]
    (row,) = (row for row in shattering.pairs(measured) if row.kind == stack)
    np.testing.assert_allclose(row.values, expected, atol=2e-5)


def line_by_hand(kind, seed):
    """Return the autocorrelation along one line, by central differences in NumPy."""
    weights, signal, cotangent = jax.random.split(jax.random.key(seed), 3)
    start, end = np.asarray(jax.random.normal(signal, (2, 5)), np.float64)
    v = np.asarray(jax.random.normal(cotangent, (2, 5)), np.float64)
    kernels = kernels_of(kind, weights)

    def outputs(x):
        for unit in kernels:
            y = x
            for kernel in unit:
                y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
                y = np.maximum(y, 0) @ kernel
            x = y + x * (kind.kind == "residual")
        return x.sum(0) @ v.T

    x = start + np.linspace(0, 1, 8)[:, None] * (end - start)
    gradient, step = np.empty((8, 5, 2)), 1e-6
    for place in np.ndindex(8, 5):
        moved = np.zeros_like(x)
        moved[place] = step
        gradient[place] = (outputs(x + moved) - outputs(x - moved)) / (2 * step)
    gradient = (gradient - gradient.mean(0)).reshape(8, -1)
    sums = [np.sum(gradient[: 8 - lag] * gradient[lag:]) for lag in range(8)]
    return np.array(sums) / sums[0]


@pytest.mark.parametrize("kind", shattering.LINE_KINDS)
def test_lines_are_those_of_finite_differences(measured, kind):
    stack = Stack(LINE, kind, 4, 5)
    (row,) = (row for row in shattering.lines(measured) if row.kind == stack)
    np.testing.assert_allclose(row.values[1], line_by_hand(stack, 1), atol=2e-3)


def test_there_is_a_row_for_each_network_and_lag(measured):
    assert {len(column) for column in measured.values()} == {3 * 2 + 2 * 2 * 8}
    assert np.isfinite(measured["correlation"]).all()


def test_the_centred_relu_has_mean_0_and_variance_1():
    found = np.asarray(centred(jax.random.normal(jax.random.key(0), (400_000,))))
    np.testing.assert_allclose([found.mean(), found.var()], [0.0, 1.0], atol=0.01)


def planted(wrong=None, factor=1.0, plain=(0.9, 0.3, -0.1), residual=(0.9, 0.6, 0.4)):
    """Return columns that are theory's, but for what is planted."""
    found = {}
    for kind in shattering.PAIR_KINDS:
        for depth in (1, 2, 6, 8):
            stack = Stack(PAIR, kind, depth, 768)
            found[stack] = [stack.expected * (factor if wrong == (kind, depth) else 1.0)]
    for kind, neighbours in (("plain", plain), ("residual", residual)):
        for depth, value in zip((4, 12, 24), neighbours, strict=True):
            found[Stack(LINE, kind, depth, 128)] = [1.0, value, 0.1 * value, 0.0]
    scatter = np.array([[0.99], [1.01]])
    return lab.joined([lab.as_rows(k, correlation=scatter * v) for k, v in found.items()])


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [
        ({}, []),
        ({"wrong": ("plain", 6), "factor": 1.14}, []),
        ({"wrong": ("plain", 6), "factor": 1.16}, ["plain"]),
        ({"wrong": ("centred", 6), "factor": 0.8}, ["centred"]),
        ({"wrong": ("centred", 8), "factor": 1.5}, []),  # too small to be resolved
        ({"wrong": ("residual", 6), "factor": 0.84}, ["residual"]),
        ({"wrong": ("plain", 8), "factor": 0.08}, ["plain", "plain"]),  # 2^-8
        ({"wrong": ("residual", 8), "factor": 0.54}, ["residual", "residual"]),  # (3/4)^8
        ({"wrong": ("plain", 8), "factor": -1.0}, ["plain", "plain"]),
        ({"plain": (0.9, 0.7, 0.1)}, ["lines, 12 layers"]),
        ({"residual": (0.9, 0.6, -0.2)}, ["lines, 24 layers"]),
        ({"residual": (0.8, 0.6, 0.4)}, []),  # two units are too few to differ
    ],
)
def test_what_is_wrong_fails(wrong, claims):
    criteria = shattering.judge(planted(**wrong))
    assert [c.claim.partition(":")[0] for c in criteria if not c.holds] == claims


def test_theory_is_that_of_science():
    values = [Stack(PAIR, k, d, 768) for k, d in (("plain", 8), ("centred", 5), ("residual", 8))]
    np.testing.assert_allclose([c.expected for c in values], [0.05, 0.0312, 0.187], rtol=2e-3)
    np.testing.assert_allclose([c.orthogonal for c in values], [2.0**-8, 2.0**-5, 0.1], rtol=2e-3)
    assert oracles.gradient_correlation(5, "centred") == pytest.approx(2.0**-5)


def test_the_figure_shows_theory_by_depth_and_decay_by_lag():
    panels = shattering.draw(planted()).panels
    assert [p.title[-9:] for p in panels[2:]] == ["12 layers", "24 layers"]
    plain, *_, orthogonal = panels[0].series
    expected = [oracles.gradient_correlation(d, "plain") for d in (1, 2, 6, 8)]
    np.testing.assert_allclose([plain.y, plain.expected], [expected] * 2)
    np.testing.assert_allclose(orthogonal.expected, 0.75 ** np.array([1, 2, 6, 8]))
    np.testing.assert_allclose(panels[1].series[0].y, [0.9, 0.3, -0.1])
    np.testing.assert_allclose(panels[2].series[1].y, [1.0, 0.6, 0.06, 0.0])


def test_the_table_shows_theory_and_where_the_autocorrelation_falls_below_half():
    columns = [list(column.cells) for column in shattering.table(planted()).columns]
    assert columns[3][0] == columns[5][0] == "0.5000" and columns[6][0] in ("+0.0%", "-0.0%")
    assert columns[3][-3:] == ["0.9000", "0.6000", "0.4000"]
    assert columns[-1][-3:] == ["1.5", "1.2", "0.8"]


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({}, {PAIR: 16, LINE: 6}),
        ({"seeds": 9}, {PAIR: 9, LINE: 9}),
        ({"line_seeds": 4}, {PAIR: 16, LINE: 4}),
        ({"seeds": 9, "line_seeds": 4}, {PAIR: 9, LINE: 4}),
    ],
)
def test_seeds_are_those_of_pairs_and_of_lines(options, seeds):
    cells = shattering.cells(Config(**options))
    assert {(cell.kind.probe, cell.seeds) for cell in cells} == set(seeds.items())
    assert len(cells) == 3 * 5 + 2 * 4
