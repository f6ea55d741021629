import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import data, models, train
from experiments.benchmarks import train as timed
from tests.nn.conftest import quick_compilation as quick_compilation


@pytest.fixture(scope="module")
def case():
    images, labels = data.digits("train")
    augment = data.Augment(crop=1)
    source = data.resident(images[:16], labels[:16], batch_size=4, augment=augment)
    net = models.resnet_cifar(8, width=2, in_features=1, rngs=nnx.Rngs(0))
    return timed.Case("tiny", net, source, 3)


def test_pieces_end_with_their_last_step_and_pauses_are_left_out(monkeypatch):
    clock = iter([100.0, 101.0, 104.0, 105.0, 117.0, 118.0, 119.0, 124.0, 125.0, 126.0])
    monkeypatch.setattr(timed.time, "perf_counter", lambda: next(clock))
    observer = timed.InPauses(lambda: None)
    observer.record([{"kind": "train", "step": 0}], None)  # 100: it compiles
    observer.record([{"kind": "test", "step": 1}], None)  # 101; the other from 104 to 105; then 117
    observer.record([{"kind": "train", "step": 1}, {"kind": "train", "step": 2}], None)  # 118
    observer.record([{"kind": "test", "step": 3}], None)  # 119; the other from 124 to 125
    assert observer.pairs == [(118.0 - 117.0, 125.0 - 124.0)]


@pytest.mark.later
def test_fit_takes_the_bare_step_s_steps(case):
    """The same batch again and again: fit's losses are those of the bare step, called by hand."""
    same = timed.Same(*next(case.source.once()))
    recipe = timed.recipe_of(case, 2, dispatch=2)
    fitted = train.fit(case.net, same, recipe)
    step, state = jax.jit(train.make_step(case.net, recipe)), train.start(case.net, recipe)
    for row in fitted.rows:
        state, metrics = step(state, **same.arrays)
        np.testing.assert_allclose(row["loss"], metrics["loss"], rtol=1e-4)
    assert len(fitted.rows) == 6 == 2 * case.steps
    calls = []
    pairs = timed.in_pauses(case, 2, same, lambda: calls.append(len(calls)), dispatch=2)
    assert len(pairs) == 2 and len(calls) == 3 and all(min(pair) > 0 for pair in pairs)


def test_a_checkpoint_is_set_against_one_step(case, monkeypatch):
    """Saved before every piece, and once more than is counted."""
    saved = []
    monkeypatch.setattr(train.Checkpoints, "save", lambda self, step, state: saved.append(step))
    pairs = timed.saving(case, 2, lambda: None)
    assert saved == [0, 1, 2] and len(pairs) == 2


@pytest.mark.slow
def test_every_comparison_is_kept_and_told(bench, quick_compilation):
    options = ["--batch-sizes", "--small-steps", "2", "--dispatches", "1", "2", "--repeats", "1"]
    kept, printed = bench("train", *options)
    assert [row["what"] for row in kept["rows"]][:2] == [
        "fit, 1 a dispatch / the bare step",
        "fit, 2 a dispatch / the bare step",
    ]
    for row in kept["rows"]:
        assert row["what"] in printed.out
        assert row["ratio"] == pytest.approx(row["first_s"] / row["second_s"])
    assert sum(row["target"] == timed.TARGET for row in kept["rows"]) == 4


def test_the_source_of_one_batch_is_a_source():
    images, labels = jnp.zeros((5, 4, 3, 1)), jnp.arange(5)
    same = timed.Same(images, labels)
    assert isinstance(same, train.Source) and (same.count, same.batch_size) == (5, 5)
    assert jax.tree.map(np.shape, same.inputs(3, 2)) == {"place": (2, 5)}
    assert same.batch(same.arrays, same.inputs(0, 1), jax.random.key(0)) == (images, labels)
