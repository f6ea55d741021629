"""Does a random walk keep its mean? A question about many networks at initialization, in a file.

The networks are walks: their logarithms are drawn, no layer is computed.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import lab, models, nn, study


@dataclasses.dataclass(frozen=True)
class Walk:
    """Walks of one gain."""

    depth: int
    """Steps of a walk."""
    gain: float = 1.0
    step: float = 0.2
    """Standard deviation of the logarithm of a step."""

    @property
    def label(self):
        return f"gain {self.gain:g}"

    @property
    def expected(self):
        return self.gain**self.depth

    @property
    def exact(self):
        return self.step == 0

    def __str__(self):
        return f"{self.label}, {self.depth} steps"

    def measure(self, key, batch_size):
        steps = self.step * jax.random.normal(key, (self.depth,)) - self.step**2 / 2
        back = jnp.append(0.0, jnp.cumsum(steps + jnp.log(self.gain)))
        return {"log_ratio": back[::-1], "examples": jnp.full(self.depth + 1, batch_size)}


Config = lab.ensembles(
    Walk, seeds=40, batch_size=3, apart=("step",), gains=(1.0, 2.0), depths=(4, 6)
)
ASKED = lab.experiment(sys.modules[__name__])
KINDS = [Walk(depth, gain) for gain in (1.0, 2.0) for depth in (4, 6)]


def planted(*faulty, factor=1.5, kinds=KINDS):
    """Return walks whose mean is theory's, but for a factor at the input of the faulty ones."""
    noise = np.random.default_rng(0).normal(0, 0.2, (40, 1))
    noise -= np.log(np.mean(np.exp(noise)))
    tables = []
    for kind in kinds:
        at_input = (0 if kind.exact else noise) + np.log(kind.expected)
        at_input = at_input + (np.log(factor) if kind in faulty else 0)
        back = np.linspace(1, 0, kind.depth + 1)
        tables.append(lab.as_rows(kind, log_ratio=np.broadcast_to(at_input, (40, 1)) * back))
    return lab.joined(tables)


def test_the_fields_are_options_with_their_help(capsys):
    with pytest.raises(SystemExit):
        lab.run(ASKED, ["--help"], ["convjax", "run", "walk.py"])
    told = " ".join(capsys.readouterr().out.split())
    for wanted in ("--depths", "Steps of a walk.", "--gains", "--step", "deviation of the log"):
        assert wanted in told
    assert "Networks of each kind; networks of one seed" in told and "--batch-size" in told
    config = lab.parse(Config, ["--depths", "5", "--step", "0"], command="x", about="y")
    assert (config.depths, config.step, config.gains, config.seeds) == ((5,), 0.0, (1.0, 2.0), 40)
    assert not hasattr(config, "depth")


def test_there_is_a_cell_for_every_kind_the_first_axis_outermost():
    cells = ASKED.cells(Config(seeds=5))
    assert [cell.kind for cell in cells] == KINDS
    assert {(cell.seeds, cell.batch_size) for cell in cells} == {(5, 3)}
    assert str(cells[0]) == "gain 1, 4 steps"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gains": ()}, r"gains=\[\] must hold at least one value"),
        ({"depths": (4, 4)}, r"depths=\[4, 4\] must hold .* none twice"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ASKED.cells(Config(**options))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"depths": (3,), "widths": (8,)}, "widths is no axis: Walk has the fields depth, gain"),
        ({"depth": (3,)}, "depth is no axis"),
        ({"gains": (1.0,)}, "Walk.depth needs a default, or values: depths="),
        ({"depths": 4}, r"depths=4 \(int\) must be several values"),
        ({"depths": (4,), "apart": ("deth",)}, r"apart\[0\]='deth' is not known; did you mean 'de"),
    ],
)
def test_a_wrong_axis_is_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        lab.ensembles(Walk, seeds=4, **axes)


def test_what_the_file_defines_takes_the_place_of_what_the_room_brings(monkeypatch):
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "judge", lambda columns: [], raising=False)
    monkeypatch.setattr(module, "APART", (), raising=False)
    made = lab.experiment(module)
    assert (made.judge, made.apart) == (module.judge, ())
    assert ASKED.apart == ("step",) and ASKED.name == "test-initialization"


def test_every_network_is_measured_in_its_place():
    columns = lab.measure_all(ASKED, Config(depths=(2, 3), gains=(2.0,), seeds=4))
    assert len(columns["seed"]) == 4 * 3 + 4 * 4
    assert set(columns["examples"].tolist()) == {3}
    wanted = Walk(3, 2.0).measure(jax.random.key(2), 3)["log_ratio"]
    here = lab.pick(columns, depth=3, seed=2)
    assert here["position"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(here["log_ratio"], wanted, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Stack:
    """What is measured of a kind that has a network and a signal."""

    depth: int = 2
    label, expected = "stack", 1.0

    def network(self, rngs):
        return models.deep_stack(self.depth, 3, shortcut="none", convs_per_unit=1, rngs=rngs)

    def signal(self, key, batch_size):
        return jax.random.normal(key, (batch_size, 2, 2, 3))


def test_the_gradient_is_measured_behind_every_unit():
    def gradients(x):
        net, back = Stack().network(nnx.Rngs(weights)), []
        for i in range(2):
            unit = jax.tree.map(lambda leaf, i=i: leaf[i], net.unit)
            x, pull = jax.vjp(lambda x, unit=unit: unit(x, train=True), x)
            back.append(pull)
        g = jax.random.normal(cotangent, x.shape)
        squares = [jnp.sum(g**2)]
        for pull in back[::-1]:
            (g,) = pull(g)
            squares.append(jnp.sum(g**2))
        return jnp.log(jnp.stack(squares[::-1]) / squares[0])

    columns = lab.measure(lab.Ensemble(Stack(), seeds=2, batch_size=2))
    weights, signal, cotangent = jax.random.split(jax.random.key(1), 3)
    wanted = jax.jit(gradients)(Stack().signal(signal, 2))
    found = lab.array(columns, "log_ratio", "seed", "position")[1]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_mean_its_error_and_the_typical_network_are_those_of_the_input():
    logs = np.log([[4.0, 2.0, 1.0], [8.0, 2.0, 1.0], [6.0, 5.0, 1.0]])
    (row,) = lab.ratios(lab.as_rows(Walk(2, 2.0), log_ratio=logs), Walk)
    np.testing.assert_allclose(row.mean, [1, 3, 6])
    np.testing.assert_allclose(row.error[-1], 2 / np.sqrt(3))
    np.testing.assert_allclose(row.expected, [1, 2, 4])
    np.testing.assert_allclose(row.typical[-1], 192 ** (1 / 3))
    np.testing.assert_allclose(row.at(-1).away, 2 / (2 / np.sqrt(3)))
    np.testing.assert_allclose(row.off, [0, 0.5, 0.5])


def test_an_expectation_may_be_given_for_every_place():
    class Bent(Walk):
        expected = np.array([1.0, 5.0, 6.0])

    (row,) = lab.ratios(lab.as_rows(Bent(2), log_ratio=np.log([[6.0, 5, 1], [6, 5, 1]])), Bent)
    np.testing.assert_allclose(row.mean, row.expected)


@pytest.mark.parametrize("expected", ["one", None, np.ones((2, 2))])
def test_an_expectation_that_is_no_number_is_refused_before_anything_is_measured(expected):
    kind = dataclasses.make_dataclass("Odd", [], bases=(Stack,), frozen=True)
    kind.expected = expected
    config = lab.ensembles(kind, seeds=2)
    with pytest.raises(ValueError, match=r"^expected of stack \(depth 2\)=.* must be a finite n"):
        config.defaults()["cells"](config())
    kind.expected = np.ones(2)
    with pytest.raises(ValueError, match=r"has the shape \(2,\); it must be one number, or 3:"):
        lab.ratios(lab.as_rows(kind(), log_ratio=np.zeros((2, 3))), kind)


def test_a_network_that_is_no_repeat_is_refused():
    net = nn.Chain(relu=nn.Activation("relu"))
    with pytest.raises(ValueError, match=r"network\(\) returned a Chain; .* nn.Repeat of"):
        lab.log_ratios(net, jnp.ones((1, 2)), jax.random.key(0))


def test_kinds_of_one_label_are_judged_at_the_worst_of_them():
    criteria = ASKED.judge(planted())
    claims = [criterion.claim for criterion in criteria]
    assert all(criterion.holds for criterion in criteria)
    assert [claim.partition(":")[0] for claim in claims] == ["gain 1", "gain 2"]
    good, bad = ASKED.judge(planted(Walk(4, 2.0)))
    assert good.holds and not bad.holds
    assert bad.claim == "gain 2: mean ratio, 4 steps (worst of 2)"
    assert bad.expected.startswith("16 ± ") and bad.expected.endswith(" (3 s.e.)")
    assert not ASKED.judge(planted(Walk(6), factor=1 / 1.5))[0].holds


def test_errors_as_wide_as_the_expected_decide_nothing():
    logs = np.log([[4.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    (found,) = ASKED.judge(lab.as_rows(Walk(1), log_ratio=logs))
    wide = 3 * np.std([4, 0.1, 0.2], ddof=1) / 3**0.5
    assert found.expected == f"1 ± {wide:.0%}: not decided, needs about 178 seeds"
    assert np.ceil(3 * (2 * wide) ** 2) == 178 and not found.holds


def test_no_row_at_all_is_refused():
    nothing = dataclasses.replace(ASKED, measure=lambda cell: {"x": np.zeros(0)})
    for asked in (nothing, dataclasses.replace(ASKED, measure=lambda cell: {})):
        with pytest.raises(ValueError, match=r"^measure of test-initialization returned no row"):
            lab.measure_all(asked, Config())


def test_kinds_that_must_be_exact_are_held_in_every_network():
    exact = [Walk(depth, step=0.0) for depth in (4, 6)]
    assert [c.holds for c in ASKED.judge(planted(kinds=exact))] == [True]
    (off,) = ASKED.judge(planted(exact[1], factor=1 + 3e-6, kinds=exact))
    assert (off.claim, off.holds) == ("gain 1: ratio - 1, every network", False)


def test_parts_are_judged_apart():
    other = [Walk(4), Walk(4, step=0.1)]
    claims = [c.claim for c in lab.criteria(ASKED, planted(kinds=other))]
    assert claims == [
        "step 0.2: gain 1: mean ratio, 4 steps",
        "step 0.1: gain 1: mean ratio, 4 steps",
    ]


def test_the_figure_shows_theory_along_the_deepest_and_at_every_input():
    along, ends = ASKED.draw(planted()).panels
    assert (along.title, along.yscale) == ("6 units", "log")
    assert [one.label for one in along.series] == ["gain 1", "gain 2"]
    for one, gain in zip(along.series, (1.0, 2.0), strict=True):
        np.testing.assert_allclose(one.expected, gain ** np.arange(7))
        np.testing.assert_allclose([one.y[0], one.y[-1]], [1, gain**6])
        assert (one.low > 0).all() and (one.high >= one.y).all()
    for one in ends.series:
        np.testing.assert_allclose(one.y, [1, 1])
        assert (one.x > [3, 5]).all() and (one.x < [5, 7]).all()


def test_panels_are_drawn_and_judged_apart():
    class Named(Walk):
        panel = property(lambda self: f"{self.depth} steps")

    columns = planted(kinds=[Walk(4), Walk(6), Walk(4, 2.0)])
    judge, draw, table = lab.against_theory(Named)
    titles = [panel.title for panel in draw(columns).panels]
    assert titles[::2] == ["4 steps, 6 units", "6 steps, 6 units"] and len(titles) == 4
    assert len(judge(columns)) == 3 and table(columns).row_count == 3


def test_the_table_has_a_row_for_every_kind(capsys):
    lab.console().print(ASKED.table(planted(KINDS[3])))
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].rstrip() == "|g_0|^2 / |g_L|^2 of 40 networks of each kind"
    assert rows[6].split()[:6] == ["gain", "2,", "6", "steps", "64", "96"]
    assert rows[6].split()[-2].startswith("+")
    alone = lab.as_rows(Walk(1), log_ratio=np.log([[2.0, 1.0], [2.0, 1.0]]))
    assert [*ASKED.table(alone).columns[4].cells] == [""]  # no z without a standard error
    assert len(rows) == 3 + 4 and max(map(len, rows)) <= 80


def test_a_run_writes_numbers_figures_and_the_verdict(tmp_path, capsys):
    argv = ["--runner", "here", "--depths", "2", "--seeds", "9", "--out", str(tmp_path)]
    code = lab.run(ASKED, argv, ["convjax", "run", "walk.py"])
    told = capsys.readouterr().out
    assert f"Verdict: {('holds', 'FAILS')[code]}" in told and "gain 2, 2 steps" in told
    columns, about = study.read_parquet(tmp_path / "test_initialization.parquet")
    assert set(columns) == {"depth", "gain", "step", "seed", "position", "log_ratio", "examples"}
    assert about["config"]["depths"] == [2] and len(about["criteria"]) == 2
    assert (tmp_path / "test_initialization.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["network", "signal", "label", "expected"])
def test_a_kind_that_lacks_something_is_refused_before_anything_is_measured(name):
    left = {k: v for k, v in vars(Stack).items() if k in ("network", "signal", "label", "expected")}
    del left[name]
    kind = dataclasses.make_dataclass("Less", [("depth", int, 2)], namespace=left, frozen=True)
    with pytest.raises(ValueError, match=f"^kind=Less needs {name}, which is "):
        lab.ensembles(kind, seeds=4)
