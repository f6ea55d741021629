"""Inspecting a network of the user's own: imported, made, called, and refused in a sentence."""

import re
import sys

import equinox as eqx
import jax
import numpy as np
import pytest
from flax import linen

from convjax import lab, study
from convjax.lab import inspect as inspect_network
from convjax.lab.inspect import Config, in_full
from convjax.lab.inspect._own import own
from convjax.lab.inspect._subject import subject
from tests.foreign.conftest import default_promotion as default_promotion

FILE = '''
"""A file as people have it."""
import jax
import jax.numpy as jnp
from flax import nnx


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, train):
        x = self.norm(self.conv(x), use_running_average=not train)
        return self.head(jax.nn.relu(x).mean((1, 2)))


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(60, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(x.reshape(len(x), -1))


def broken():
    return Net(nnx.Rngs(0)).nothing


def deep(depth, width=3):
    return Net(nnx.Rngs(depth))


def named():
    return "resnet50"


def alone():
    return {"w": jnp.ones(3)}


def seeded(seed):
    w = jax.random.normal(jax.random.key(seed), (60, 2))
    return (lambda p, x: jnp.tanh(x.reshape(len(x), -1) @ p["w"])), {"w": w}


NET = Plain(nnx.Rngs(3))
'''
SHAPE = jax.ShapeDtypeStruct((2, 5, 4, 3), np.float32)


@pytest.fixture(scope="module", autouse=True)
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_networks.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("PYTHONPATH", "")
        patched.setattr(sys, "path", [*sys.path])
        yield "own_networks.py"
    sys.modules.pop("own_networks", None)


def test_a_network_of_a_file_is_measured_priced_and_held_against_theory(file, tmp_path, capsys):
    given = [f"{file}:Net", "--input", "4,6,5,3", "--out", str(tmp_path)]
    assert lab.run(lab.experiment(inspect_network), given, ["convjax", "inspect"]) == 0
    told = capsys.readouterr().out
    assert f"{file}:Net(rngs=nnx.Rngs(0)); weights taken as freshly initialized" in told
    assert "unit Gaussian noise of the shape (4, 6, 5, 3)" in told
    assert "called as net(x, train=True); norms on the batch's statistics" in told
    columns, about = study.read_parquet(tmp_path / "inspect.parquet")
    assert about["command"].startswith(f"convjax inspect {file}:Net --input")
    rows = dict(zip(columns["path"].tolist(), columns["multiply_adds"].tolist(), strict=True))
    assert rows["conv"] == 4 * 6 * 5 * 27 * 4 and columns["shown"].all()
    assert np.isfinite(columns["expected_gradient_log_norm"][1:]).all()


class Linen(linen.Module):
    """Its mode is the call's; what it writes is dropped."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (3, 3))(x))
        return linen.Dropout(0.5, deterministic=not train)(linen.relu(x))


class Single(eqx.Module):
    """Of one example, with dropout."""

    conv: eqx.nn.Conv2d
    drop: eqx.nn.Dropout

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(5, 4, 3, padding=1, key=key)
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x, key=None):
        return self.drop(jax.nn.relu(self.conv(x)), key=key)


class Normed(eqx.Module):
    """Of one example, with a state."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(5, 4, 3, padding=1, key=key)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")

    def __call__(self, x, state):
        return self.norm(self.conv(x), state)


MADE = {
    "Linen": Linen,
    "pair": lambda: (Linen(), Linen().init(jax.random.key(0), np.ones(SHAPE.shape), False)),
    "Single": Single,
    "state": lambda key: eqx.nn.make_with_state(Normed)(key),
}


@pytest.mark.parametrize(
    ("name", "train", "words"),
    [
        ("NET", None, "own_networks:NET"),
        ("seeded", None, "seeded(seed=7), called as apply(params, x)"),
        ("Net", False, "Net(rngs=nnx.Rngs(7))"),
        ("Linen", None, "initialized by module.init(jax.random.key(7), x, train=True), called as"),
        ("pair", False, "pair(), called as apply(v, x, train=False)"),
        ("Single", None, "called as net(x, key=…) on every example, by jax.vmap"),
        ("Single", False, "Single(key=jax.random.key(7))"),
        ("state", None, "called as net(x, state) on every example"),
    ],
)
def test_networks_of_every_framework_are_made_and_called(name, train, words, monkeypatch):
    import own_networks

    for made, function in MADE.items():
        monkeypatch.setattr(own_networks, made, function, raising=False)
    found = own(f"own_networks:{name}", SHAPE, train=train, seed=7)
    assert words in found.words
    assert found.mode == (False if name == "Net" else None)
    options = {} if found.mode is None else {"train": found.mode}
    x = np.random.default_rng(0).standard_normal(SHAPE.shape, np.float32)
    y = np.asarray(found.net(x, **options))
    assert len(y) == 2 and np.isfinite(y).all()
    if name in ("Linen", "Single"):
        assert bool((y == 0).mean() > 0.6) == (train is None)  # dropped, beside what relu cuts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("own_networks.py:broken", r"line \d+, in broken .*: .*nothing.* error: .*AttributeError"),
        ("own_networks.py:deep", "cannot be called without depth; .* def make"),
        ("own_networks.py:named", "named.. is 'resnet50'; it must be an nnx.Module, .* models.cr"),
        ("own_networks.py:alone", "it must be .*; parameters alone are no network"),
        ("own_networks.py:Nett", "holds no 'Nett'; did you mean 'Net'"),
        ("own_networks.py", "say which network of own_networks.py, such as .*NET; there are Net"),
        ("own_network:Net", "no module 'own_network' in .*, and none is installed; give pack"),
        ("nowhere.py:Net", "nowhere.py"),
        ("own_networks:NET --train", "--train: the call of .*NET takes no mode; leave --train out"),
        ("own_networks:NET --size 9", "--size has no effect: own_networks:NET makes"),
        ("own_networks:NET --batch 2 --input", "--input is missing; give .* such as --input 8,32"),
        ("own_networks:NET --input 2,x", "--input 2,x is no shape; give"),
        ("resnet18 --input 2,3", "--input has no effect: models.create makes that network"),
        ("own_networks:NET --input 2,5,3,3", "Plain cannot be called as net.x. with x of shape"),
        ("own_networks:NET --input 2,5,4,3 --images .", "pictures of a folder are square"),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(given, message, capsys, tmp_path):
    words = given.split() if "--input" in given else [*given.split(), "--input", "2,5,4,3"]
    words = words[: -1 if words[-1] == "--input" else None]
    if "--batch" in words:
        words = [word for word in words if word not in ("--batch", "2")]
    with pytest.raises(SystemExit) as stop, lab.speaking_plainly():
        lab.run(
            lab.experiment(inspect_network),
            [*words, "--out", str(tmp_path)],
            ["convjax", "inspect"],
        )
    told = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2
    assert re.search(message, told), told
    assert "lab/" not in told


def test_the_name_of_a_file_may_stand_last():
    assert in_full(["--input", "2,3", "a.py:make"]) == ["--name", "a.py:make", "--input", "2,3"]
    assert in_full(["a.b:make"]) == ["--name", "a.b:make"]


def test_pictures_lie_as_the_network_takes_them(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(0, 256, (12, 17, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    whole = "own_networks:flat"
    import own_networks

    own_networks.flat = lambda: (lambda p, x: x.reshape(len(x), -1) @ p, np.ones((192, 2)))
    last, first = (
        subject(Config(name=whole, input=shape, images=tmp_path, trained=True)).images
        for shape in ("2,8,8,3", "2,3,8,8")
    )
    assert last.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(np.moveaxis(first, 1, -1), last)
