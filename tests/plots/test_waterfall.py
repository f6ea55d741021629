import io
import itertools
import math
import struct

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from convjax import plots, train
from convjax.plots import _live_waterfall
from convjax.plots._bins import medians

PACE = train.Pace(1e3, 1.0)


def table(norms, paths, steps):
    """Return tidy columns of a (steps, layers) array, in an order of rows that is not sorted."""
    step, layer = np.indices(norms.shape)
    order = np.argsort(-step.ravel(), kind="stable")
    columns = {
        "step": np.asarray(steps)[step.ravel()],
        "path": np.asarray(paths)[layer.ravel()],
        "gradient": norms.ravel(),
    }
    return {name: column[order] for name, column in columns.items()}


def meshes(figure):
    found = [[c for c in axes.collections if isinstance(c, QuadMesh)] for axes in figure.axes]
    return next(meshes for meshes in found if len(meshes) and meshes[0].axes.get_ylabel() != "")


def axes_of(figure):
    return meshes(figure)[0].axes


def labels(figure):
    return [label.get_text() for label in axes_of(figure).get_yticklabels()]


def legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_cell_is_the_logarithm_of_the_norm_at_its_layer_and_step():
    norms = np.random.default_rng(0).lognormal(sigma=9, size=(7, 4))
    steps = [0, 1, 2, 5, 10, 20, 40]
    figure = plots.waterfall(table(norms, ["stem", "z", "b", "a"], steps))
    (mesh,) = meshes(figure)
    np.testing.assert_allclose(mesh.get_array(), np.log10(norms).T)
    edges = mesh.get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges, [-0.5, 0.5, 1.5, 3.5, 7.5, 15, 30, 50])
    # The first layer is on top.
    assert labels(figure) == ["stem", "z", "b", "a"]
    bottom, top = axes_of(figure).get_ylim()
    assert bottom > top
    assert legend(figure) == []


def test_many_steps_are_medians_over_neighbours():
    rng = np.random.default_rng(1)
    steps = np.unique(rng.integers(0, 60_000, 5_000))
    values = rng.normal(size=(len(steps), 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    edges, middle, low, high = medians(steps, values, 300)
    assert 200 < len(middle) <= 300
    assert (np.diff(edges) > 0).all()
    assert edges[0] < steps[0] and steps[-1] < edges[-1]
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        here = values[(a < steps) & (steps < b)]
        for j in range(3):
            seen = here[~np.isnan(here[:, j]), j]
            expected = [np.median(seen), seen.min(), seen.max()] if len(seen) else [np.nan] * 3
            np.testing.assert_allclose([middle[i, j], low[i, j], high[i, j]], expected)


def test_one_step_that_is_not_finite_shows_in_its_bin():
    values = np.random.default_rng(2).normal(size=(1000, 2))
    values[777, 1] = np.inf
    values[100:200, 0] = -np.inf
    middle = medians(np.arange(1000), values, 100).middle
    assert np.argwhere(np.isposinf(middle)).tolist() == [[77, 1]]
    assert np.argwhere(np.isneginf(middle)).tolist() == [[i, 0] for i in range(10, 20)]


def test_zero_unwatched_and_not_finite_are_told_apart():
    norms = np.random.default_rng(3).lognormal(size=(6, 3))
    norms[1, 0] = 0
    norms[4, 2], norms[5, 1:] = np.inf, np.nan
    columns = table(norms, ["a", "b", "c"], range(0, 6000, 1000))
    gone = (columns["step"] == 3000) & (columns["path"] == "b")
    figure = plots.waterfall({name: column[~gone] for name, column in columns.items()})
    finite, zero, bad = (mesh.get_array() for mesh in meshes(figure))
    assert np.argwhere(~zero.mask.T).tolist() == [[1, 0]]
    assert np.argwhere(~bad.mask.T).tolist() == [[4, 2], [5, 1], [5, 2]]
    assert np.argwhere(finite.mask.T).tolist() == [[1, 0], [3, 1], [4, 2], [5, 1], [5, 2]]
    assert legend(figure) == ["zero", "not watched", "NaN or infinite, first in step 4,000 at c"]
    colours = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    shown = [mesh.get_cmap()(0.5) for mesh in meshes(figure)[1:]]
    assert colours == [shown[0], axes_of(figure).get_facecolor(), shown[1]]


def test_the_loss_stands_above_on_the_same_steps():
    norms = np.random.default_rng(4).lognormal(size=(5, 2))
    losses = {"step": np.arange(4000)[::-1], "loss": 3 * 0.999 ** np.arange(4000)[::-1]}
    losses["loss"][3] = np.nan
    figure = plots.waterfall(table(norms, ["a", "b"], range(0, 5000, 1000)), losses)
    above = figure.axes[0]
    assert above.get_ylabel() == "loss"
    assert above.get_yscale() == "log"
    assert above.get_xlim() == axes_of(figure).get_xlim()
    x, y = above.lines[0].get_data()
    np.testing.assert_allclose(y, 3 * 0.999 ** np.asarray(x), rtol=1e-2)


def test_kernels_are_drawn_unless_others_are_asked_for():
    norms = np.random.default_rng(5).lognormal(size=(3, 4))
    norms[:, 3] = np.nan
    columns = table(norms, ["s/kernel", "s/bias", "t/kernel", "u/kernel"], [0, 1, 2])
    assert labels(plots.waterfall(columns)) == ["s", "t"]
    assert labels(plots.waterfall(columns, match="*bias")) == ["s"]
    assert labels(plots.waterfall(columns, match="s/*")) == ["s/kernel", "s/bias"]
    with pytest.raises(ValueError, match=r"match='x\*' fits no layer .*s/kernel, s/bias, t/kernel"):
        plots.waterfall(columns, match="x*")
    with pytest.raises(ValueError, match="quantity='gradeint' is not known; did you mean"):
        plots.waterfall(columns, quantity="gradeint")


@pytest.mark.parametrize("count", [5, 56, 300])
def test_names_of_layers_are_thinned_evenly_with_both_ends(count):
    paths = [f"stage{i}/a{'b' * 40}/end" for i in range(count)]
    figure = plots.waterfall(table(np.ones((2, count)), paths, [0, 1]))
    seen = [int(label.removeprefix("stage").split("/")[0]) for label in labels(figure)]
    assert seen[0] == 0 and seen[-1] == count - 1
    apart = np.diff(seen)
    assert len(set(apart[:-1].tolist())) <= 1
    assert apart[-1] >= apart[0]
    assert len(seen) <= 51
    assert max(map(len, labels(figure))) <= 34


@pytest.mark.parametrize(
    ("low", "high"), [(1e-30, 1e5), (1e-3, 20.0), (0.1, 1.0), (0.2, 0.3), (1.0, 1.0), (1e-9, 2e-9)]
)
def test_the_scale_has_ticks_with_round_names(low, high):
    figure = plots.waterfall(table(np.geomspace(low, high, 12).reshape(4, 3), [*"abc"], range(4)))
    bar = figure.axes[-1]
    names = [label.get_text() for label in bar.get_yticklabels()]
    assert 3 <= len(names) <= 12
    assert len(set(names)) == len(names)
    for place, name in zip(bar.get_yticks(), names, strict=True):
        plain = name.strip("$").replace("\\times10^", "e").replace("10^", "1e")
        value = float(plain.replace("{", "").replace("}", ""))
        assert math.isclose(value, 10.0**place, rel_tol=1e-6)


def rows_of(first, stop, layers=3):
    for step in range(first, stop):
        rng = np.random.default_rng(step)
        row = {"kind": "train", "step": step, "loss": float(rng.random())}
        if step % 2 == 0:
            norms = rng.lognormal(size=layers).tolist()
            norms[1] = math.nan if step == 6 else norms[1]
            row["layers"] = {f"{i}/kernel": {"gradient": x} for i, x in enumerate(norms)}
            row["layers"]["norm"] = {"mean": 1.0}
        yield row
        if step % 5 == 4:
            yield {"kind": "test", "step": step + 1, "loss": 9.0}


def follow(path, first, stop, **more):
    picture = plots.Waterfall(path, **more)
    picture.begin(first, stop, 32)
    for row in rows_of(first, stop):
        picture.record([row], PACE)
    assert not path.exists()
    picture.end()
    return path.read_bytes()


def test_the_last_picture_is_that_of_the_table_also_of_a_resumed_run(tmp_path):
    rows = list(rows_of(0, 10))
    figure = plots.waterfall(train.layer_columns(rows), train.step_columns(rows))
    expected = io.BytesIO()
    figure.savefig(expected, format="png", dpi=150)
    whole = follow(tmp_path / "a" / "whole.png", 0, 10)
    assert whole == expected.getvalue()
    # What the earlier part did after its last checkpoint is done again.
    resumed = follow(tmp_path / "resumed.png", 5, 10, rows=list(rows_of(0, 8)))
    assert resumed == whole
    width, height = struct.unpack(">II", whole[16:24])
    assert width >= 1000 and height >= 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "resumed.png"]


def test_nothing_watched_is_no_picture(tmp_path):
    picture = plots.Waterfall(tmp_path / "none.png")
    picture.begin(0, 1, 32)
    picture.record([{"kind": "train", "step": 0, "loss": 1.0}], PACE)
    picture.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("cost", "apart"), [(0.1, 30.0), (2.0, 200.0)])
def test_drawing_takes_a_hundredth_of_the_time_at_most(tmp_path, monkeypatch, cost, apart):
    class Clock:
        now = 50.0

        def monotonic(self):
            return self.now

    class Drawn:
        def savefig(self, path, **_):
            times.append(clock.now)
            clock.now += cost
            path.write_bytes(b"picture")

    clock, times = Clock(), []
    monkeypatch.setattr(_live_waterfall, "time", clock)
    monkeypatch.setattr(_live_waterfall, "figure_of", lambda *_, **__: Drawn())
    picture = plots.Waterfall(tmp_path / "a.png")
    picture.begin(0, 2000, 32)
    for row in rows_of(0, 2000):
        picture.record([row], PACE)
        clock.now += 1
    picture.end()
    assert times[0] == 100
    np.testing.assert_allclose(np.diff(times[:-1]), apart + cost, atol=1.5)
    assert len(times) * cost < 0.011 * clock.now
    assert times[-1] == clock.now - cost
