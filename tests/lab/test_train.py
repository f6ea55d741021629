"""Training from the command line: begun, stopped, gone on with, refused, judged."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from convjax import lab, models, nn, plots, study, train
from convjax.lab import joined, pick
from convjax.lab import train as train_network
from convjax.lab.train import _columns, _question
from convjax.lab.train._options import Training, frozen_of, pairs, recipe_of
from convjax.lab.train._options import in_full as named
from convjax.lab.train._question import Config, Run
from experiments import __main__ as entry

CREATE = models.create
SMALL = ["--steps", "12", "--watch", "4", "--dispatch", "2", "--checkpoint-every", "4"]
SMALL += ["--test-every", "4", "--batch-size", "120", "--average", "0"]


def small(name, *, rngs, in_features, num_classes, window=2, depth=8, **options):
    """Stand in for models.create, whose networks compile for long; names are still checked."""
    if name not in models.list() or options:
        return CREATE(name, rngs=rngs, **options)
    return nn.Chain(
        stem=nn.Conv(in_features, 4, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs),
        norm=nn.BatchNorm(4, rngs=rngs),
        activation=nn.Activation("relu"),
        pool=nn.Pool("avg", (window, window)),
        head=nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(4, num_classes, rngs=rngs)),
    )


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Train a small network; and promote as optax's schedules need it."""
    with pytest.MonkeyPatch.context() as patched, jax.numpy_dtype_promotion("standard"):
        patched.setattr(models, "create", small)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert entry.main(["train", "resnet20_cifar", *SMALL, "--out", str(folder)]) == 0
    return folder


RUN = "resnet20_cifar-digits-0"


def timeless(folder):
    rows = train.read_rows(folder / RUN / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "time"} for row in rows]


def test_a_run_leaves_metrics_checkpoints_pictures_and_a_table(whole):
    kept = {path.name for path in (whole / RUN).iterdir()}
    assert kept == {"metrics.jsonl", "checkpoints", "run.json", "waterfall.png", "lock"}
    assert {path.name for path in whole.iterdir()} >= {
        *("study.json", "cells", RUN),
        *("train.parquet", "train.png", "train.svg"),
    }
    columns, metadata = study.read_parquet(whole / "train.parquet")
    assert metadata["config"]["steps"] == 12
    rows = timeless(whole)
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(12))
    found = pick(columns, kind="train")
    assert found["loss"].tolist() == [row["loss"] for row in steps]
    assert np.isfinite(found["images_per_second"]).any()
    assert pick(columns, kind="test")["step"].tolist() == [4, 8, 12]
    watched = pick(columns, kind="layer", step=8)
    layers = next(row["layers"] for row in steps if row["step"] == 8)
    assert dict(zip(watched["path"], watched["gradient"], strict=True)) == pytest.approx(
        {path: values.get("gradient", np.nan) for path, values in layers.items()}, nan_ok=True
    )
    assert pick(columns, kind="run")["network"].tolist() == ["resnet20_cifar"]
    there = json.loads((whole / RUN / "run.json").read_text())
    assert there["steps"] == 12 and there["name"] == "resnet20_cifar" and "out" not in there


def test_a_run_that_is_stopped_says_so_and_goes_on_to_the_same_numbers(
    whole, tmp_path, monkeypatch, capsys
):
    record = train.ProgressBar.record

    def stop(self, rows, pace):
        record(self, rows, pace)
        if rows[-1]["step"] >= 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(plots, "save", lambda figure, stem: (stem, stem))
    given = ["--name", "resnet20_cifar", *SMALL, "--out", str(tmp_path)]
    with monkeypatch.context() as patched:
        patched.setattr(train.ProgressBar, "record", stop)
        assert entry.main(["train", *given]) == 130
        assert not list((tmp_path / "cells").iterdir())
    told = " ".join(capsys.readouterr().err.split())
    assert "interrupted after step 10; the same command goes on from the checkpoint of step 8" in (
        told
    )
    assert not (tmp_path / "train.parquet").exists()
    assert entry.main(["train", *given]) == 0
    assert "going on from the checkpoint of step 8 of 12" in capsys.readouterr().out
    assert timeless(tmp_path) == timeless(whole)
    mine, theirs = (study.read_parquet(at / "train.parquet")[0] for at in (tmp_path, whole))
    for name in ("kind", "step", "path", "loss", "update"):
        np.testing.assert_array_equal(mine[name], theirs[name])
    # Once more: there is nothing left to do, and the table comes again.
    assert entry.main(["train", *given]) == 0
    told = capsys.readouterr()
    assert "1 of 1 cells are there already" in told.err and "accuracy" in told.out
    # Without the cell, the run in the folder is as it was.
    for cell in (tmp_path / "cells").iterdir():
        cell.unlink()
    assert entry.main(["train", *given]) == 0
    assert "done before: all 12 steps" in capsys.readouterr().out


def test_stopped_before_a_checkpoint_it_begins_anew(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", stop)
    assert entry.main(["train", "resnet20_cifar", *SMALL, "--out", str(tmp_path)]) == 130
    told = " ".join(capsys.readouterr().err.split())
    assert "after step 0" in told and "there is no checkpoint yet" in told


def refusal(given, capsys):
    with pytest.raises(SystemExit) as stopped, lab.speaking_plainly():
        entry.main(["train", *given])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    return " ".join(told.split())


def test_the_folder_of_another_run_is_refused_and_left_alone(whole, capsys):
    files = [whole / RUN / name for name in ("metrics.jsonl", "run.json")]
    before = [file.read_bytes() for file in files]
    other = ["resnet20_cifar", *SMALL, "--crop", "0", "--out", str(whole)]
    assert "holds a run with crop = 1, not 0" in refusal(other, capsys)
    assert before == [file.read_bytes() for file in files]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["resnet20_cifer"], "did you mean 'resnet20_cifar'"),
        (["resnet20_cifar", "--network", "widht=4"], "widht"),
        (["resnet20_cifar", "--network", "width"], "network: 'width' is not of the form"),
        (["resnet20_cifar", "--network", "window=9"], "cannot take images of 8x8x1: unit 'pool'"),
        (["--batch-size", "2000"], "batch_size=2000 must lie between 1 and the 1437"),
        (["--options", "beta=3"], "sgd does not take 'beta'"),
        (["--schedule", "cosin"], "cosine"),
        (["--data", "cifar10"], "--data cifar10 needs --path"),
        (["--path", "."], "leave --path out"),
        (["--data", "cifar10", "--path", "HERE"], "data_batch_1.bin' does not exist"),
        (["--data", "cifar100", "--path", "HERE"], "Krizhevsky's page"),
        (["--data", "npz", "--path", "HERE/no.npz"], "no.npz' does not exist"),
        (
            ["--network", "in_features=2", "--data", "folder", "--path", "HERE"],
            "channels=2 must be",
        ),
        (["--data", "stream", "--path", "HERE"], "must hold the folders train and val"),
        (["--reach", "97"], "reach = 97.0 must lie between 0 and 1"),
        (["--size", "0"], "size=0 must be at least 1"),
        (["--freeze-up-to", "stage9"], "no node 'stage9'"),
        (["--freeze-up-to", "head"], "every parameter is frozen"),
        (["--frozen-statistics", "moving"], "has no effect without --freeze-up-to"),
        (["resnet20_cifar", "--weights", "HERE/no.pth"], "no.pth' does not exist"),
        (["--weights", "HERE/bad.toml"], "bad.toml"),
        (["--seeds", "0"], "seeds=0 must be at least 1"),
        (["--config", "HERE/bad.toml"], "'step_count' is not known"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(given, message, tmp_path, capsys):
    (tmp_path / "bad.toml").write_text("step_count = 3\n")
    words = [word.replace("HERE", str(tmp_path)) for word in given]
    assert message in refusal([*words, "--out", str(tmp_path / "out")], capsys)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_have_as_many_channels_as_the_network_takes(tmp_path, channels):
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 8), (9, 90, 200)).save(file)
    given = (f"in_features={channels}",) if channels != 3 else ()
    run = Run(name="resnet20_cifar", data="folder", path=tmp_path, network=given, size=8)
    with _question.prepared(dataclasses.replace(run, batch_size=2)) as what:
        assert what.sets.shape == (8, 8, channels)
        assert what.draw()["stem"].kernel.shape[2] == channels


def test_a_run_begins_with_weights_and_a_new_classifier(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "create", CREATE)
    options = {"width": 4, "depth": 8}
    made = CREATE("resnet20_cifar", **options, num_classes=7, rngs=nnx.Rngs(5))
    np.savez(tmp_path / "given.npz", **models.export_weights(made))
    given = ("width=4", "depth=8")
    run = Run(name="resnet20_cifar", network=given, weights=tmp_path / "given.npz")
    with _question.prepared(dataclasses.replace(run, freeze_up_to="stage3")) as what:
        net = what.draw()
    assert "begins with the weights of" in what.remarks[0]
    assert "parameters up to stage3 stay as they are" in what.remarks[0]
    mine, theirs = (nn.at(one, "stage3/first/branch/conv1").kernel[...] for one in (net, made))
    np.testing.assert_array_equal(mine, theirs)
    assert nn.at(net, "head/dense").kernel.shape == (16, 10)
    # The digits are grey: the first kernel is the sum over the colours.
    mine, theirs = (nn.at(one, "stem/conv").kernel[...] for one in (net, made))
    np.testing.assert_allclose(mine, theirs.sum(2, keepdims=True), rtol=1e-5, atol=1e-6)


def test_numbers_out_of_range_end_the_run_with_unit_step_and_checkpoint(tmp_path, capsys):
    given = ["resnet20_cifar", *SMALL, "--learning-rate", "1e30", "--out", str(tmp_path)]
    assert entry.main(["train", *given]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "FAILED, Diverged: step " in told and "is not finite" in told
    step = int(told.partition("Diverged: step ")[2].split()[0])
    assert f"checkpoint {step} in" in told and (tmp_path / RUN / "checkpoints" / str(step)).is_dir()
    assert not (tmp_path / "train.parquet").exists()


def test_every_field_of_a_recipe_is_an_option_and_may_stand_in_a_file(tmp_path):
    fields = {field.name for field in dataclasses.fields(train.Recipe)}
    assert fields <= {field.name for field in dataclasses.fields(Training)}
    file = tmp_path / "recipe.toml"
    file.write_text(
        'name = "resnet8"\noptimiser = "adamw"\noptions = ["b2=0.99"]\nclip = 0.5\nflip = true\n'
        'schedule = "steps"\nboundaries = [5, 9]\nwarmup = 2\nremat = "unit"\nsteps = 20\n'
        'network = ["width=4", "norm=group"]\n'
    )
    argv = named(["resnet9", "--config", str(file), "--steps", "30"])
    config = lab.parse(Config, argv, command="python -m experiments train", about="")
    assert (config.name, config.flip) == ("resnet9", True)
    recipe = recipe_of(config)
    asked = ("adamw", {"b2": 0.99}, 0.5, (5, 9), 2, "unit", 30)
    names = ("optimiser", "options", "clip", "boundaries", "warmup", "remat", "steps")
    assert tuple(getattr(recipe, name) for name in names) == asked
    assert pairs("network", config.network) == {"width": 4, "norm": "group"}
    assert pairs("options", ["nesterov=False", "b=[1, 2]"]) == {"nesterov": False, "b": [1, 2]}
    assert recipe_of(Config()).options == {"momentum": 0.9, "nesterov": True}
    assert recipe_of(Config(optimiser="adamw")).options == {}


@pytest.mark.parametrize("statistics", ["frozen", pytest.param("moving", marks=pytest.mark.later)])
def test_what_is_frozen_stays_as_it_is(tmp_path, statistics):
    frozen = {"freeze_up_to": "norm", "frozen_statistics": statistics}
    run = Run(steps=2, dispatch=2, watch=0, test_every=0, **frozen, out=tmp_path)
    train_network.measure(run)
    with _question.prepared(run) as subject:
        net = subject.draw()
        before = train.start(net, subject.recipe, frozen=frozen_of(run, net))
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        _, after = checkpoints.restore(before)

    def moved(name):
        pairs = zip(
            jax.tree.leaves_with_path(getattr(before, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        )
        return {path[0].key for (path, old), new in pairs if not np.array_equal(old, new)}

    assert moved("params") == {"head"}
    assert moved("rest") == ({"norm"} if statistics == "moving" else set())


def made(losses, accuracy, **facts):
    rows = [
        {"kind": "train", "step": i, "loss": loss, "accuracy": 0.5} for i, loss in enumerate(losses)
    ]
    rows.append({"kind": "test", "step": len(losses), "loss": 0.1, "accuracy": accuracy})
    rows[-1] |= {"average_loss": 0.1, "average_accuracy": accuracy + 0.1}
    usual = {"steps": len(losses), "batch_size": 10, "examples": 100, "averaged": False}
    usual |= {"network": "net", "seed": 0, "reach": 0.8, "most_seconds": 120.0}
    usual |= {"first": 0, "seconds": 100.0, "processor_seconds": 9.0}
    return _columns.columns(rows, {**usual, **facts})


@pytest.mark.parametrize(
    ("columns", "holds"),
    [
        (made(np.linspace(2, 1, 40), 0.81), [True, True, True, True]),
        (made(np.linspace(1, 2, 40), 0.81), [True, False, True, True]),
        (made(np.linspace(2, 1, 40), 0.79), [True, True, False, True]),
        (made(np.linspace(2, 1, 40), 0.79, averaged=True), [True, True, True, True]),
        (made(np.linspace(2, 1, 40), 0.81, seconds=121.0), [True, True, True, False]),
        (made(np.linspace(2, 1, 40), 0.81, seconds=121.0, first=20), [True, True, True]),
        (made([2, np.nan, 1], 0.81, reach=np.nan, most_seconds=np.nan), [False]),
    ],
)
def test_the_verdict_follows_from_the_numbers(columns, holds):
    assert [criterion.holds for criterion in train_network.judge(columns)] == holds


def several(*losses_and_accuracies):
    parts = [made(*one, seed=i) for i, one in enumerate(losses_and_accuracies)]
    return joined(parts)


def test_of_several_runs_the_worst_decides():
    falling, rising = np.linspace(2, 1, 40), np.linspace(1, 2, 40)
    good = several((falling, 0.81), (falling - 0.2, 0.9))
    assert [c.holds for c in train_network.judge(good)] == [True] * 4
    assert train_network.judge(good)[2].measured == "81.00% (the worst of 2 runs)"
    for other in ((rising, 0.9), (falling, 0.79)):
        found = train_network.judge(several((falling, 0.81), other))
        assert [c.holds for c in found].count(False) == 1
        assert [c.holds for c in train_network.judge(several(other, (falling, 0.81)))] == [
            c.holds for c in found
        ]
    printed = _columns.scores(good)
    cells = [list(column.cells) for column in printed.columns]
    assert [column.header for column in printed.columns][3:] == ["lowest", "highest"]
    assert [cell[1] for cell in cells[2:]] == ["85.5", "81", "90"]


def test_each_seed_is_a_run_with_a_folder_of_its_own(tmp_path):
    # Only the run without options is held to its accuracy and time.
    held = [_question.is_default(run) for run in (Run(seed=7), Run(steps=7), Run(crop=0))]
    assert held == [True, False, False]
    config = Config(data="digits", seed=3, seeds=2, out=tmp_path)
    runs = train_network.cells(config)
    assert [run.out.name for run in runs] == ["resnet-8-digits-3", "resnet-8-digits-4"]
    assert [str(run) for run in runs] == [f"ResNet-8 on digits, seed {seed}" for seed in (3, 4)]
    assert not list(tmp_path.iterdir())


def test_the_kernels_that_move_most_and_least_are_shown():
    layer = {"update": 1.0, "weight": 4.0, "gradient": 3.0}
    rows = [
        {
            "kind": "train",
            "step": s,
            "loss": 1.0,
            "accuracy": 0.5,
            "layers": {f"unit{i}/kernel": {**layer, "update": i + s} for i in range(9)}
            | {"norm/scale": {**layer, "update": 99.0}, "frozen/kernel": {"weight": 4.0}},
        }
        for s in (0, 1, 2)
    ]
    columns = _columns.columns(rows, {"steps": 3, "seed": 0})
    paths, ratios, gradients = _columns.ratios_of(columns)
    assert paths.tolist() == [f"unit{i}/kernel" for i in range(9)]
    assert ratios.tolist() == [(i + 1) / 4 for i in range(9)] and set(gradients) == {3.0}
    (shown,) = _columns.layers(columns)
    assert list(shown.columns[0].cells) == [f"unit{i}/kernel" for i in (8, 7, 6, 2, 1, 0)]


@pytest.mark.slow
def test_the_run_without_options_learns_the_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "create", CREATE)
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        entry.main(["train", "--out", str(tmp_path)])
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    columns, _ = study.read_parquet(tmp_path / "train.parquet")
    assert _columns.accuracies(columns)[0] >= 0.97
