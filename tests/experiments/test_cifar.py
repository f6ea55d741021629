"""Table 6 of He et al.: the settings to the number, and a small file of the real format."""

import dataclasses
import functools
import itertools
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import lab, models, nn, plots, study, train
from convjax.lab import joined
from convjax.lab.train._columns import columns
from convjax.lab.train._options import pairs, recipe_of
from experiments import __main__ as entry
from experiments import cifar
from experiments.cifar import Config, Run, completed, departures

SHORT = Path(cifar.__file__).parent / "configs" / "cifar_short.toml"
FEW = ["--whole", "False", "--depths", "8", "--network", "width=2", "--steps", "4"]
FEW += ["--boundaries", "2", "3", "--batch-size", "8", "--watch", "2", "--dispatch", "2"]


pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six files of CIFAR-10's binary version, of few records: a label, then red, green, blue."""
    root = tmp_path_factory.mktemp("cifar-10-batches-bin")
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = random.integers(0, 256, (6, 3073), np.uint8)
        records[:, 0] = random.integers(0, 10, 6)
        records.tofile(root / name)
    return root


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_the_recipe_is_the_papers_and_the_deepest_begin_slowly(depth):
    config = completed(Run(depth=depth))
    recipe = recipe_of(config)
    assert (recipe.steps, recipe.boundaries, config.batch_size) == (64_000, (32_000, 48_000), 128)
    rate = train.schedule_of(recipe)
    rates = {400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    rates |= {0: 0.01, 200: 0.055} if depth > 100 else {0: 0.1}
    for step, expected in rates.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5), step
    assert (recipe.optimiser, recipe.options) == ("sgd", {"momentum": 0.9})
    assert (recipe.weight_decay, recipe.decayed) == (1e-4, "all")
    assert (recipe.label_smoothing, recipe.average, recipe.clip) == (0, 0, None)
    assert (recipe.precision, recipe.remat) == ("float32", "sqrt" if depth == 1202 else "none")
    augmented = (config.crop, config.flip, config.standardise, config.validation)
    assert augmented == (4, True, "pixels", 0)
    assert not departures(config)


def test_one_step_of_the_papers_optimiser():
    """By hand: v = 0.9 v + g + 1e-4 w; w = w - 0.1 v, for norms and biases as well."""
    random = np.random.default_rng(0)
    net = nn.Chain(dense=nn.Dense(3, 2, rngs=nnx.Rngs(0)), norm=nn.BatchNorm(2, rngs=nnx.Rngs(0)))
    optimiser = train.optimiser_of(net, recipe_of(Run()))
    params = train.start(net, train.Recipe()).params
    params = jax.tree.map(lambda a: random.standard_normal(a.shape, np.float32), params)
    state = optimiser.init(params)
    velocity = jax.tree.map(np.zeros_like, params)
    for _ in range(2):
        gradients = jax.tree.map(lambda a: random.standard_normal(a.shape, np.float32), params)
        velocity = jax.tree.map(lambda v, g, w: 0.9 * v + g + 1e-4 * w, velocity, gradients, params)
        updates, state = optimiser.update(gradients, state, params)
        for found, v in zip(*map(jax.tree.leaves, (updates, velocity)), strict=True):
            np.testing.assert_allclose(found, -0.1 * v, rtol=1e-5)
        params = jax.tree.map(lambda w, u: w + np.asarray(u), params, updates)


@pytest.mark.later
def test_a_few_steps_on_a_small_file_of_the_real_format(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "save", lambda figure, stem: (stem, stem))
    given = ["--folder", str(folder), *FEW, "--out", str(tmp_path)]
    assert entry.main(["cifar", *given]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "30 images to train on, 6 to test on, 32x32x3, 10 classes" in told
    assert "not as in the paper: steps 4 (64000); boundaries 2 3 (32000 48000); " in told
    assert "; network width=2 (none); batch_size 8 (128); whole False (True); " in told
    assert "ResNet-8" in told and "ResNet-110" in told and "6.61" in told
    found, metadata = study.read_parquet(tmp_path / "cifar.parquet")
    assert metadata["config"]["depths"] == [8]
    rates = found["learning_rate"][found["kind"] == "train"]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    assert (tmp_path / "resnet8-0" / "waterfall.png").exists()


def test_images_are_cut_flipped_and_freed_of_every_pixels_mean(folder):
    config = Run(folder=folder, whole=False, batch_size=30)
    found = cifar.read(config)
    files = [np.fromfile(folder / f"data_batch_{i}.bin", np.uint8) for i in range(1, 6)]
    pixels = np.concatenate(files).reshape(-1, 3073)[:, 1:].reshape(-1, 3, 32, 32)
    unit = pixels.transpose(0, 2, 3, 1) / 255
    test = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)[:, 1:]
    test = test.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) / 255
    np.testing.assert_allclose(found.test[0], test - unit.mean(0), atol=1e-6)
    inputs = jax.tree.map(lambda a: jnp.asarray(a[0]), found.source.inputs(0, 1))
    x, _ = found.source.batch(found.source.arrays, inputs, jax.random.key(3))
    padded = np.pad(unit - unit.mean(0), [(0, 0), (4, 4), (4, 4), (0, 0)])
    flips = 0
    for image, index in zip(np.asarray(x)[:6], inputs["index"][:6], strict=True):
        places = list(itertools.product(range(9), range(9), (1, -1)))
        cuts = [padded[index, i : i + 32, j : j + 32][:, ::f] for i, j, f in places]
        away = [np.abs(image - cut).max() for cut in cuts]
        assert min(away) < 1e-5
        flips += places[int(np.argmin(away))][2] == -1
    assert 0 < flips < 6


def test_images_held_out_are_not_trained_on(folder):
    found = cifar.read(Run(folder=folder, whole=False, validation=10, batch_size=4))
    assert (found.source.count, len(found.test[1])) == (20, 10)
    arrays = found.source.arrays
    unit = np.asarray(arrays["images"]) / 255 - np.asarray(arrays["mean"])
    apart = np.abs(unit[:, None] - found.test[0][None]).max((2, 3, 4))
    assert apart.min() > 0.1


def test_missing_files_are_named_and_where_they_come_from(folder, tmp_path, capsys):
    for given, message in (
        (["--folder", str(tmp_path)], "data_batch_1.bin' does not exist; folder must hold"),
        (["--folder", str(tmp_path)], "Alex Krizhevsky's page"),
        (["--folder", str(folder)], "is cut short: 18438 bytes"),
        (["--folder", str(folder), "--whole", "False", "--depths", "21"], "depth=21 is not 6n + 2"),
        (["--folder", str(folder), "--whole", "False", "--validation", "30"], "30 of 30 images"),
    ):
        with pytest.raises(SystemExit) as stopped, lab.speaking_plainly():
            entry.main(["cifar", *given, "--batch-size", "4", "--out", str(tmp_path / "out")])
        assert stopped.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())


def made(accuracy, **facts):
    rows = [{"kind": "train", "step": i, "loss": 2.0 - i, "accuracy": 0.5} for i in range(2)]
    rows.append({"kind": "test", "step": 2, "loss": 0.1, "accuracy": accuracy})
    usual = {"steps": 2, "batch_size": 128, "examples": 50_000, "averaged": False, "first": 0}
    usual |= {"seed": 0, "network": "ResNet-56", "depth": 56, "published": 6.97, "departures": ""}
    usual |= {"seconds": 1.0, "processor_seconds": 1.0, "reach": np.nan}
    return columns(rows, usual | facts)


@pytest.mark.parametrize(
    ("accuracy", "facts", "holds"),
    [
        (0.9302, {}, [True, True]),
        (0.9302 + 0.0049, {}, [True, True]),
        (0.9302 + 0.0051, {}, [True, False]),
        (0.9302 - 0.0051, {}, [True, False]),
        (0.5, {"departures": "steps 2 (64000)"}, [True]),
        (0.941, {"departures": "steps 2 (64000)", "reach": 0.94}, [True, True]),
        (0.939, {"departures": "steps 2 (64000)", "reach": 0.94}, [True, False]),
    ],
)
def test_the_published_error_is_judged_where_the_settings_are_the_papers(accuracy, facts, holds):
    assert [criterion.holds for criterion in cifar.judge(made(accuracy, **facts))] == holds


def test_of_several_runs_the_mean_is_judged_as_the_paper_has_it():
    both = joined([made(0.9302 + 0.0080, seed=0), made(0.9302 - 0.0060, seed=1)])
    (_, found) = cifar.judge(both)
    assert found.holds and found.claim.endswith("mean of the runs") and found.measured == "6.88"
    apart = joined([both, joined([made(0.9, seed=s, depth=20, published=8.75) for s in (0, 1)])])
    claims = [(c.claim, c.holds) for c in lab.criteria(lab.experiment(cifar), apart)]
    assert ("depth 20: test error of ResNet-20, %, mean of the runs", False) in claims
    told = [list(column.cells) for column in cifar.table(both).renderables[0].columns]
    assert "6.88 ± 0.70" in told[1]


def test_every_depth_and_seed_is_a_run(folder, tmp_path):
    config = Config(folder=folder, whole=False, depths=(8, 14), seed=1, seeds=2, batch_size=8)
    runs = cifar.cells(dataclasses.replace(config, out=tmp_path))
    names = [f"resnet{depth}-{seed}" for depth in (8, 14) for seed in (1, 2)]
    assert [run.out.name for run in runs] == names
    assert [str(run) for run in runs][-1] == "ResNet-14, seed 2"
    with pytest.raises(ValueError, match="must hold at least one value, none twice"):
        cifar.cells(dataclasses.replace(config, depths=(8, 8)))


def test_what_departs_from_the_paper_is_named():
    assert departures(completed(Run(depth=56, seed=3, watch=0, remat="unit"))) == []
    for change, told in (
        ({"crop": 0}, "crop 0 (4)"),
        ({"options": ("momentum=0.9", "nesterov=true")}, "options momentum=0.9 nesterov=true"),
        ({"validation": 5000}, "validation 5000 (0)"),
        ({"decayed": "kernels"}, "decayed kernels (all)"),
        ({"accumulate": 2}, "accumulate 2 (1)"),
        ({"precision": "bfloat16"}, "precision bfloat16 (float32)"),
        ({"depth": 14}, "depth 14 (20 32 44 56 110 1202)"),
    ):
        (found,) = departures(completed(Run(**change)))
        assert told in found


def test_the_short_schedule_is_what_it_says():
    entries = tomllib.loads(SHORT.read_text())
    given = lab.parse(
        Config, ["--config", str(SHORT)], command="python -m experiments cifar", about=""
    )
    assert given.depths == (8,)
    config = completed(lab.cell_of(Run, given, depth=8))
    assert set(entries) <= {field.name for field in dataclasses.fields(Config)}
    assert (config.reach, config.crop, config.flip, config.batch_size) == (0.94, 2, True, 1024)
    recipe = recipe_of(config)
    rate = train.schedule_of(recipe)
    # airbench's 11.5 per 1024 examples, free of momentum: 1.5 for the mean of a batch.
    peak = 11.5 / (1 + 1 / (1 - 0.85))
    for step, share in ((0, 0.2), (265, 1.0), (1152, 0.0)):
        assert float(rate(step)) == pytest.approx(share * peak, abs=1e-6), step
    assert recipe.weight_decay == pytest.approx(0.0153 / 11.5, rel=1e-3)
    assert recipe.options == {"momentum": 0.85, "nesterov": True}
    assert (recipe.steps, recipe.label_smoothing) == (24 * (50_000 // 1024), 0.2)
    options = {"depth": config.depth, **pairs("network", config.network)}
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    net = functools.partial(models.create, "resnet20_cifar", **options)
    assert jax.eval_shape(lambda x: net(rngs=nnx.Rngs(0))(x), image).shape == (1, 10)
    assert "cifar" in entry.found()
