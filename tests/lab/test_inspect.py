"""Inspecting a network: costs, measurement and theory side by side, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import convjax
from convjax import lab, models, study
from convjax.lab import inspect as inspect_network
from convjax.lab.inspect import Config, in_full
from convjax.lab.inspect._subject import subject

CREATE = models.create


def small(name, *, rngs, **options):
    """Stand in for models.create, which compiles for long; names are still checked."""
    if name not in models.list():
        return CREATE(name, rngs=rngs)
    return models.resnet_cifar(8, **{"width": 16, **options}, rngs=rngs)


TINY = Config(name="resnet20_cifar", batch=8, size=8)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "create", small)
        yield


@pytest.fixture(scope="module")
def fresh():
    return lab.measure_all(lab.experiment(inspect_network), TINY)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    models.save(small("resnet20_cifar", rngs=nnx.Rngs(3)), file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten class folders of one picture each, and one file that is none."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(10):
        (root / f"class{i}").mkdir()
        pixels = random.integers(0, 256, (12, 17, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"class{i}" / "1.png")
    (root / "class3" / "1.png").write_bytes(b"\x89PNG")
    return root


def run(*argv):
    return lab.run(lab.experiment(inspect_network), argv, ["convjax", "inspect"])


def at(columns, path, name):
    return columns[name][columns["path"].tolist().index(path)]


def test_costs_and_measurements_stand_in_one_row(fresh):
    net = small("resnet20_cifar", rngs=nnx.Rngs(0))
    assert len({len(column) for column in fresh.values()}) == 1
    cost = convjax.cost(net, (8, 8, 8, 3))
    for path in ("", "stage2/first", "stage3/first/branch/conv1", "head/dense"):
        assert at(fresh, path, "multiply_adds") == cost[path].multiply_adds > 0
    images = np.random.default_rng(0).standard_normal((8, 8, 8, 3), np.float32)
    expected = np.log(np.linalg.norm(net["stem"]["conv"](jnp.asarray(images))))
    np.testing.assert_allclose(at(fresh, "stem/conv", "activation_log_norm"), expected, rtol=1e-4)
    assert at(fresh, "input", "multiply_adds") == 0
    numbered = fresh["path"][np.argsort(fresh["position"])][-8:].tolist()
    units = ("stage1/rest/0", "stage2/first", "stage3/first")
    inside = [f"{unit}/branch/conv{i}" for unit in units for i in (1, 2)]
    assert numbered == ["stem/conv", *inside, "head/dense"]
    assert set(fresh["path"][~fresh["shown"]]) >= {"stage1/rest/0", "stage2/first/branch"}


def test_theory_stands_beside_fresh_weights(fresh):
    rows = fresh["position"] >= 0
    off = fresh["gradient_log_norm"] - at(fresh, "", "gradient_log_norm")
    off -= fresh["expected_gradient_log_norm"]
    assert np.abs(off[rows]).max() < 0.7
    assert np.isfinite(fresh["activation_z"][rows]).all()
    assert [c.holds for c in inspect_network.judge(fresh)] == [True, True, True]


@pytest.mark.parametrize(
    ("name", "path", "value", "fails"),
    [
        ("first", "", "stem", 2),
        ("parameter_gradient_log_norm", "stem/conv", -np.inf, 1),
        ("activation_log_norm", "stage2", np.nan, 0),
    ],
)
def test_a_network_that_is_not_as_theory_has_it_fails(fresh, name, path, value, fails):
    changed = np.where((fresh["path"] == path) | (path == ""), value, fresh[name])
    criteria = inspect_network.judge(fresh | {name: changed})
    assert [c.holds for c in criteria] == [i != fails for i in range(3)]
    assert path != "stem/conv" or path in criteria[1].measured


def test_loaded_weights_are_measured_as_they_are(weights, folder, tmp_path, capsys):
    given = ["resnet20_cifar", "--weights", str(weights), "--images", str(folder)]
    code = run(*given, "--size", "8", "--out", str(tmp_path))
    told = capsys.readouterr().out
    assert code == 0
    assert "running statistics (they belong to the weights)" in told
    assert "8 images of 10 classes, 8x8; 1 skipped" in told
    assert "class3/1.png" in told
    assert "of the mean cross-entropy" in told
    assert "expected" not in told.partition("Criteria")[0]
    assert all((tmp_path / f"inspect.{end}").exists() for end in ("parquet", "png", "svg"))
    columns, about = study.read_parquet(tmp_path / "inspect.parquet")
    assert about["command"].startswith("convjax inspect resnet20_cifar --weights")
    assert about["cells"] == 1 and about["environments"][0]["platform"] == "cpu"
    assert np.isnan(columns["expected_gradient_log_norm"]).all()
    # The network's own loss, by hand: its gradient at the logits is (softmax - one hot) / N.
    found = subject(dataclasses.replace(TINY, weights=weights, images=folder))
    logits = jax.jit(found.net)(jnp.asarray(found.images))
    gradient = jax.nn.softmax(logits) - jax.nn.one_hot(found.labels, 10)
    expected = np.log(np.linalg.norm(gradient / len(logits)))
    np.testing.assert_allclose(at(columns, "", "gradient_log_norm"), expected, rtol=1e-3)


def remarks(**changes):
    return " ".join(subject(dataclasses.replace(TINY, **changes)).remarks)


def test_what_was_chosen_is_said_with_the_reason(weights, folder):
    assert "8 images of unit Gaussian noise" in remarks()
    assert "batch statistics (running ones normalise nothing at initialization)" in remarks()
    assert "running statistics (as asked for)" in remarks(train=False)
    assert "batch statistics (as asked for)" in remarks(weights=weights, train=True)
    assert "cotangent at the output (fresh weights" in remarks(images=folder)
    assert "(no class folders)" in remarks(weights=weights, images=folder / "class0")
    other = remarks(images=folder, num_classes=7)
    assert "8 images" in other and "fresh weights" in other


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["resnet20_cifer"], "did you mean 'resnet20_cifar'"),
        ([], "give the name of a network first, such as resnet50"),
        (["resnet20_cifar", "--num-classes", "7", "--weights", "FILE"], "head"),
        (["resnet20_cifar", "--weights", "CUT"], "cut.safetensors"),
        (["resnet20_cifar", "--weights", "WIDE"], "another width"),
        (["resnet20_cifar", "--images", "BAD"], "holds no picture that can be read; skipped 1"),
        (["resnet20_cifar", "--batch", "0"], "batch=0 must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(given, message, weights, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:500])
    models.save(small("resnet20_cifar", width=5, rngs=nnx.Rngs(0)), tmp_path / "wide.safetensors")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_text("no picture")
    files = {
        "FILE": weights,
        "CUT": tmp_path / "cut.safetensors",
        "WIDE": tmp_path / "wide.safetensors",
        "BAD": tmp_path / "bad",
    }
    words = [str(files.get(word, word)) for word in given]
    with pytest.raises(SystemExit) as stopped, lab.speaking_plainly():
        run(*words, "--out", str(tmp_path))
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in " ".join(told.split())


def test_figure_and_table(fresh):
    assert len(inspect_network.draw(fresh).axes) == 3
    table = inspect_network.table(fresh)
    assert table.row_count == fresh["shown"].sum()
    assert [column.header for column in table.columns].count("expected") == 2


def test_the_name_and_the_mode_may_be_short():
    assert in_full(["resnet18", "--train", "--size", "9"]) == [
        *("--name", "resnet18", "--train", "True", "--size", "9"),
    ]
    assert in_full(["a", "--no-train"]) == ["--name", "a", "--train", "False"]
    assert in_full(["--name", "a", "--train", "False"]) == ["--name", "a", "--train", "False"]
    assert in_full(["--train"]) == ["--train", "True"]
    assert in_full([]) == []
    assert in_full(["--batch", "0", "resnet18"]) == ["--name", "resnet18", "--batch", "0"]
    assert in_full(["--images", "resnet18"]) == ["--images", "resnet18"]
