"""Transfer learning at tiny size, its verdicts from made-up numbers, and what it is built of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from convjax import lab, models, nn, train
from convjax.lab import pick, stack
from experiments import __main__ as entry
from experiments import transfer
from experiments.transfer import Config, learning, settings, trial
from experiments.transfer import task as tasks
from experiments.transfer.figure import worth
from experiments.transfer.sentences import sentences
from experiments.transfer.trial import FROZEN, SCRATCH, STAGED, TUNED
from tests.nn.conftest import compiling_quickly

TINY = Config(budgets=(1, 3), seeds=2, steps=3, pretrain_steps=4, batch_size=4, shifts=(0, 1))
LAYERS = 3
METHODS = (SCRATCH, FROZEN, TUNED)


def small(config, classes, channels):
    def make(rngs):
        stem = nn.Conv(channels, 3, (3, 3), strides=2, use_bias=False, rngs=rngs)
        parts = {"norm": nn.BatchNorm(3, rngs=rngs), "activation": nn.Activation("relu")}
        body = nn.Chain(parts | {"conv": nn.Conv(3, 5, (3, 3), rngs=rngs)})
        head = nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(5, classes, rngs=rngs))
        return nn.Chain(stem=stem, body=body, head=head)

    return make


@pytest.fixture(scope="module")
def columns():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trial, "maker", small)
        return lab.measure_all(lab.experiment(transfer), TINY)


def test_every_shift_seed_budget_and_way_has_its_rows(columns):
    assert len({len(column) for column in columns.values()}) == 1
    for shift in (0, 1):
        here = pick(columns, shift=shift)
        assert len(pick(here, kind="pretrained")["seed"]) == 2
        for method in METHODS:
            for budget in TINY.budgets:
                rows = pick(here, method=method, budget=budget)
                assert sorted(rows["kind"]) == sorted(["accuracy"] * 2 + ["layer"] * 2 * LAYERS)
    accuracies = pick(columns, kind=["accuracy", "pretrained"])["accuracy"]
    assert ((accuracies >= 0) & (accuracies <= 1)).all()


def test_what_is_frozen_gets_no_gradient_and_stays(columns):
    rows = pick(columns, kind="layer", method=FROZEN)
    last = rows["path"] == "head/dense"
    assert np.isnan(rows["parameter_gradient_log_norm"][~last]).all()
    assert np.isneginf(rows["log_movement"][~last]).all()
    others = pick(columns, kind="layer", method=[SCRATCH, TUNED])
    for trained in (pick(rows, path="head/dense"), others):
        assert np.isfinite(trained["parameter_gradient_log_norm"]).all()
        assert np.isfinite(trained["log_movement"]).all()
    # The gradient would come to every layer all the same.
    assert np.isfinite(rows["gradient_log_norm"]).all()


def test_the_three_ways_begin_where_they_should(columns):
    def start(method, seed, path):
        rows = pick(columns, kind="layer", shift=0, budget=3, method=method, seed=seed, path=path)
        return float(rows["parameter_log_norm"][0])

    for seed in (0, 1):
        for path in ("stem", "body/conv"):
            assert start(TUNED, seed, path) == start(FROZEN, seed, path)
            assert start(TUNED, seed, path) != start(SCRATCH, seed, path)
        heads = [start(method, seed, "head/dense") for method in METHODS]
        assert heads[0] == heads[1] == heads[2]
    assert start(TUNED, 0, "stem") != start(TUNED, 1, "stem")


def test_training_on_frozen_features_is_training_with_a_freeze():
    random = np.random.default_rng(0)
    images = jnp.asarray(random.standard_normal((10, 8, 6, 1), np.float32))
    labels = jnp.asarray(random.integers(0, 3, 10, np.int32))
    order = random.integers(0, 10, (5, 4)).astype(np.int32)
    net = small(None, 3, 1)(nnx.Rngs(0))
    features = jnp.asarray(learning.evaluated(learning.features, net, images))
    classifier = net["head"]["dense"]
    ours = learning.fit(classifier, features, labels, order, rate=0.3, steps=5, seed=0)

    how = {"optimiser": learning.falling(0.3, 5), "frozen": models.freeze(net, up_to="head/pool")}
    recipe = train.Recipe(steps=5)
    state, step = train.start(net, recipe, **how), jax.jit(train.make_step(net, recipe, **how))
    for chosen in order:
        state, _ = step(state, images[chosen], labels[chosen])
    whole = nnx.state(learning.with_classifier(net, ours), nnx.Param)
    for path, one in nnx.to_flat_state(whole):
        other = functools.reduce(lambda node, name: node[name], path, state.params)
        np.testing.assert_allclose(one[...], other, rtol=1e-4, atol=1e-6, err_msg=str(path))


def test_the_rate_falls_to_zero_behind_clip_and_momentum():
    cosine = optax.cosine_decay_schedule(0.3, 4)
    expected = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(cosine, momentum=0.9))
    ours, params = learning.falling(0.3, 4), {"w": jnp.zeros(3)}
    states = [one.init(params) for one in (ours, expected)]
    for i in range(4):
        gradient = {"w": jnp.asarray([0.2, -3.0, 1.0]) / (i + 1)}
        with jax.numpy_dtype_promotion("standard"):
            moved, states[0] = ours.update(gradient, states[0])
            told, states[1] = expected.update(gradient, states[1])
        np.testing.assert_allclose(moved["w"], told["w"], rtol=1e-6)


def test_weights_take_the_place_of_pretraining(tmp_path, capsys, monkeypatch):
    shallow = functools.partial(models.resnet_cifar, 8)
    monkeypatch.setattr(models, "create", lambda name, **options: shallow(**options))
    net = shallow(width=3, in_features=1, rngs=nnx.Rngs(7))
    file = tmp_path / "net.safetensors"
    models.save(net, file)
    # Five classes, the file has ten.
    target = settings.maker(settings.Settings(width=3), 5, 1)(rngs=nnx.Rngs(0))
    found = trial.loaded(file, target)
    ours, theirs = (one["stage2"]["first"].branch["conv1"].kernel[...] for one in (found, net))
    np.testing.assert_array_equal(ours, theirs)
    assert found["head"]["dense"].kernel[...].shape == (12, 5)

    def refused(*given):
        with pytest.raises(SystemExit) as stopped, lab.speaking_plainly():
            entry.main(["transfer", *given, "--runner", "here", "--out", str(tmp_path / "out")])
        assert stopped.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    file.write_bytes(file.read_bytes()[:1000])
    assert "net.safetensors" in refused("--weights", str(file), "--width", "3")
    models.save(net, file)
    assert "another width" in refused("--weights", str(file), "--width", "4")


def fill(folder):
    """Write four class folders of six pictures each, one of them broken."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "emu", "fox"):
        (folder / name).mkdir()
        for i in range(6):
            pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    (folder / "cat" / "5.png").write_bytes(b"")


@pytest.mark.slow
def test_any_folder_and_any_weights(tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    fill(images)
    file = tmp_path / "net.safetensors"
    models.save(models.create("resnet10t", num_classes=9, rngs=nnx.Rngs(0)), file)
    given = ["--network", "resnet10t", "--images", str(images), "--weights", str(file)]
    small = ["--size", "32", "--budgets", "2", "--seeds", "2", "--steps", "2", "--batch-size", "4"]
    with compiling_quickly():
        code = entry.main(["transfer", *given, *small, "--runner", "here", "--out", str(out)])
    told = capsys.readouterr().out
    assert code in (0, 1)  # noise has no classes to be learned
    assert "pretraining has learned" not in told
    assert "from scratch fits its examples" in told
    assert all((out / f"transfer.{end}").exists() for end in ("parquet", "png", "svg"))


def test_fashion_mnist_becomes_pictures_of_a_network(monkeypatch):
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (60, 28, 28, 1), np.uint8)
    labels = np.arange(60, dtype=np.int32) % 10
    monkeypatch.setattr(settings.data, "fashion_mnist", lambda path: (grey, labels))
    config = settings.Settings(
        network="mobilenetv2_100", data="fashion-mnist", per_class=4, size=56, weights="any"
    )
    task = settings.read(config)
    assert task.images.shape == (40, 56, 56, 3) and np.bincount(task.labels).tolist() == [4] * 10
    assert task.target == tuple(range(10)) and task.source == () and task.test.sum() == 20
    how = models.preprocessing("mobilenetv2_100")
    seen = task.images * np.array(how.std) + np.array(how.mean)
    np.testing.assert_allclose(seen, np.repeat(seen[..., :1], 3, -1), atol=1e-6)
    # Each is one of the pictures, twice as large.
    small = seen[..., 0].reshape(40, 28, 2, 28, 2).mean((2, 4))
    apart = np.abs(small[:, None] - grey[None, ..., 0] / 255).mean((2, 3))
    chosen = apart.argmin(1)
    assert apart.min(1).max() < 0.1 and (labels[chosen] == task.labels).all()
    assert len(set(chosen.tolist())) == 40


def test_rates_by_stage_are_those_of_layerwise_behind_the_rule():
    random = np.random.default_rng(0)
    images = jnp.asarray(random.standard_normal((10, 8, 6, 1), np.float32))
    labels = jnp.asarray(random.integers(0, 3, 10, np.int32))
    net = small(None, 3, 1)(nnx.Rngs(0))
    order = np.arange(4, dtype=np.int32)[None]
    plain, staged = (
        learning.fit(net, images, labels, order, 0.1, 1, 0, decay) for decay in (None, 0.5)
    )
    for path, share in (("stem", 0.25), ("body/conv", 0.5), ("head/dense", 1.0)):
        before, whole, part = (nn.at(one, path).kernel[...] for one in (net, plain, staged))
        np.testing.assert_allclose(part - before, share * (whole - before), atol=1e-6)


def test_a_folder_of_class_folders_is_a_task(tmp_path):
    fill(tmp_path)
    config = settings.Settings(images=tmp_path, target_classes=("fox", "cat"))
    task = settings.read(config)
    assert task.images.shape == (23, 32, 32, 3)
    assert (task.source, task.target) == ((1, 2), (3, 0))
    assert task.test.sum() == 8
    assert settings.read(dataclasses.replace(config, size=20)).images.shape == (23, 20, 20, 3)
    with pytest.raises(ValueError, match="class 'cat' has 3 images left"):
        tasks.check_examples(task, (2, 4))
    given = settings.read(settings.Settings(images=tmp_path, weights=tmp_path))
    assert (given.source, given.target) == ((), (0, 1, 2, 3))
    with pytest.raises(ValueError, match="has no class folders"):
        settings.read(settings.Settings(images=tmp_path / "dog"))


def task_of(images, classes=4, per_class=9):
    labels = np.repeat(np.arange(classes), per_class)
    names = tuple("abcd"[:classes])
    return tasks.make(images, labels, names, source=(), target=())


def test_examples_are_chosen_evenly_and_never_from_the_test():
    task = task_of(np.zeros((36, 2, 2, 1), np.float32))
    assert (task.source, task.target) == ((0, 1), (2, 3))
    assert [int(task.test[task.labels == i].sum()) for i in range(4)] == [3, 3, 3, 3]
    few, more = (task.few(n, seed=3) for n in (2, 5))
    assert set(few) < set(more)
    assert not task.test[more].any()
    assert np.bincount(task.labels[more], minlength=4).tolist() == [0, 0, 5, 5]
    assert set(more) != set(task.few(5, seed=4))
    assert task.numbered(task.target)[[0, 17, 18, 35]].tolist() == [-1, -1, 0, 1]


def test_images_are_shifted_whole():
    random = np.random.default_rng(0)
    images = 1 + random.random((36, 3, 2, 1), np.float32)
    shifted = task_of(images).shifted(1, border=2)
    assert shifted.shape == (36, 7, 6, 1)
    places = set()
    for image, canvas in zip(images, shifted, strict=True):
        rows, columns = (
            np.flatnonzero((canvas > images.min()).any(axes)) for axes in ((1, 2), (0, 2))
        )
        top, left = rows[0], columns[0]
        places.add((int(top), int(left)))
        np.testing.assert_array_equal(canvas[top : top + 3, left : left + 2], image)
    assert len(places) >= 8 and {p for pair in places for p in pair} <= {1, 2, 3}
    centred = task_of(images).shifted(0, border=2)
    np.testing.assert_array_equal(centred[:, 2:-2, 2:-2], images)


def test_batches_go_through_the_pool_evenly():
    order = tasks.batches(np.array([3, 5, 7]), steps=6, size=4, longest=8, seed=0)
    assert order.shape == (8, 4) and not order[6:].any()
    assert np.bincount(order[:6].ravel())[[3, 5, 7]].tolist() == [8, 8, 8]
    other = tasks.batches(np.array([3, 5, 7]), steps=6, size=4, longest=8, seed=1)
    assert order.tolist() != other.tolist()


def made_up(
    *, tuned=0.1, frozen=0.0, fading=0.0, deeper=0.5, pretrained=0.95, fitted=1.0, staged=None
):
    """Make the columns of a run in which each way's advantage over scratch is as given."""
    rows = []
    gains = {SCRATCH: 0.0, FROZEN: frozen, TUNED: tuned}
    gains |= {} if staged is None else {STAGED: staged}
    for seed in range(5):
        wobble = 0.01 * np.sin(seed)
        same = {"shift": 0, "seed": seed}
        rows.append({"kind": "pretrained", **same, "accuracy": pretrained})
        for budget, level in ((2, 0.5), (4, 0.6), (20, 0.8)):
            for method in gains:
                gain = gains[method] - (fading * np.log(budget) if method == TUNED else 0.0)
                at = {**same, "method": method, "budget": budget}
                accuracy = level + gain + wobble * (method in (TUNED, STAGED))
                rows.append(
                    {"kind": "accuracy", **at, "accuracy": accuracy, "train_accuracy": fitted}
                )
                for i in range(5):
                    way = deeper * i + wobble + (0.4 if method == SCRATCH else 0.0)
                    rows.append({"kind": "layer", **at, "position": i, "log_movement": way})
    return stack([trial.EMPTY | row for row in rows])


def test_sentences_are_judged_by_the_numbers():
    def verdicts(**planted):
        return {claim.number: claim.verdict for claim in sentences(made_up(**planted))}

    found = verdicts(tuned=0.1, frozen=-0.1, fading=0.02)
    assert found == dict.fromkeys("acde", "holds") | dict.fromkeys("bf", "fails")
    for planted, letter, verdict in (
        ({"tuned": 0.0}, "a", "not decided here"),
        ({"tuned": -0.1}, "a", "fails"),
        ({"tuned": 0.05, "fading": 0.02}, "a", "holds only if 2 a class or 4 a class"),
        ({"fading": -0.02}, "d", "fails"),
        ({"deeper": -0.5}, "e", "fails"),
        ({"deeper": 0.02}, "e", "not decided here"),
        ({"frozen": 0.1}, "f", "holds"),
        ({"frozen": 0.08}, "f", "not decided here"),
        ({"staged": 0.2}, "g", "holds"),
        ({"staged": 0.1}, "g", "not decided here"),
        ({"staged": 0.0}, "g", "fails"),
    ):
        assert verdicts(**planted)[letter] == verdict


def test_criteria_can_fail_each():
    def failing(**planted):
        return [i for i, c in enumerate(transfer.judge(made_up(**planted))) if not c.holds]

    assert failing() == []
    assert failing(pretrained=0.5) == [0]
    assert failing(fitted=0.9) == [1, 2]
    assert failing(tuned=0.001) == [3]


def test_examples_are_worth_what_scratch_needs_for_as_much():
    assert worth(made_up(tuned=0.1), 0, 0) == "4.1"
    assert worth(made_up(tuned=0.19), 0, 1) == "19"
    assert worth(made_up(tuned=0.1), 0, 2) == "above 20"
    assert worth(made_up(tuned=-0.1), 0, 0) == "below 2"


def test_figure_and_table(columns):
    assert len([axes for axes in transfer.draw(columns).axes if axes.get_visible()]) == 8
    assert transfer.table(columns).row_count == 2
    one = transfer.draw(pick(columns, shift=0))
    assert len([axes for axes in one.axes if axes.get_visible()]) == 7


def test_a_cell_knows_the_pictures_and_the_weights(tmp_path):
    fill(tmp_path)
    config = Config(images=tmp_path, size=8, seeds=2, budgets=(1, 2))
    before = transfer.cells(config)
    assert [(one.shift, one.seed, one.border) for one in before] == [(0, 0, 0), (0, 1, 0)]
    assert len({transfer.group(one) for one in before}) == 1
    Image.new("RGB", (40, 50)).save(tmp_path / "fox" / "0.png")
    settings.read.cache_clear()
    assert before[0].contents != transfer.cells(config)[0].contents
    digits = transfer.cells(Config())
    assert {one.contents for one in digits} == {""}
    assert len({transfer.group(one) for one in digits}) == 1 and len(digits) == 12
