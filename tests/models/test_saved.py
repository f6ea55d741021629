"""Ways of saving a checkpoint, by the real writers: each loads, or is refused and the advice works.

The files are those of ``parity/make_saved.py``; what JAX's own libraries write is written here.
"""

import ast
import functools
import itertools
import pickle
import re
import shutil
import tarfile
import zipfile
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models
from tests.models.parity.make_saved import FILE, values

pytestmark = pytest.mark.usefixtures("quick_compilation")

FAMILY = models.Family(
    "tiny",
    torch={"stem/conv": "conv1", "stem/norm": "bn1", "head/dense": "fc"},
    keras={"stem/conv": "stem_conv", "stem/norm": "stem_bn", "head/dense": "predictions"},
)


@models.with_options(num_classes=5)
def tiny(**options: Unpack[models.Options]):
    style = models.Style.of(options, FAMILY)
    return style.network({"stem": style.unit((style.in_features, 4), 3), "head": style.head(4)})


@functools.cache
def shapes(reference="torch", num_classes=5, in_features=3):
    options = {"num_classes": num_classes, "in_features": in_features}
    return nnx.eval_shape(lambda: tiny(reference=reference, rngs=nnx.Rngs(0), **options))


def numbered(net):
    """A network of these shapes, with values of its own."""
    net = nnx.clone(net)
    state = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7, leaf.dtype), nnx.state(net))
    nnx.update(net, state)
    return net


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of all files; what is written here stands beside them."""
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(FILE) as archive:
        archive.extractall(folder, filter="data")
    mine = folder / "jax"
    mine.mkdir()
    np.savez(mine / "plain.npz", **values(0))
    np.savez_compressed(mine / "packed.npz", **{f"model.{k}": v for k, v in values(0).items()})
    np.save(mine / "one.npy", values(0)["fc.weight"])
    net = numbered(shapes())
    models.load_weights(net, values(0))
    models.save(net, mine / "ours.safetensors")
    shutil.copy(folder / "torch/state.pth", mine / "torch.safetensors")
    shutil.copy(folder / "torch/file.safetensors", mine / "safe.pth")
    shutil.copy(folder / "torch/state.pth", mine / "archive.zip")
    whole = (folder / "torch/state.pth").read_bytes()
    (mine / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(mine / "mac.zip", "w") as archive:
        archive.writestr("state.pth", whole)
        archive.writestr("__MACOSX/._state.pth", b"a fork")
    for name, file in (
        ("state.t7", "state.pth"),
        ("state", "old.pth"),
        ("safe.model", "file.safetensors"),
    ):
        shutil.copy(folder / "torch" / file, mine / name)
    parameters = {name: array for name, array in values(0).items() if "running" not in name}
    np.savez(mine / "parameters.npz", **parameters)
    (mine / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1")
    (mine / "page.pth").write_bytes(b"<!DOCTYPE html><html>")
    with zipfile.ZipFile(mine / "several.zip", "w") as archive:
        for name in ("state.pth", "file.safetensors"):
            archive.writestr(f"a/{name}", (folder / "torch" / name).read_bytes())
    return folder


HEAD = {"renamed": "with the head 'dense'"}
# What is said of each way: where it lies in the file, and by which prefix; whose weights they are.
LOADED = {
    **dict.fromkeys(("torch/state.pth", "torch/old.pth", "torch/protocol4.pt", "torch/model.bin")),
    **dict.fromkeys(("torch/parameters.pt", "torch/bfloat16.pt", "torch/half.pt", "torch/ddp.pth")),
    **dict.fromkeys(("torch/channels_last.pt", "torch/swa.pth", "torch/file.safetensors")),
    **dict.fromkeys(("torch/model_of.safetensors", "torch/mixin", "torch/timm_hub")),
    **dict.fromkeys(("torch/timm_hub_bin", "torch/sharded/model.safetensors.index.json")),
    **dict.fromkeys(("torch/sharded_bin/pytorch_model.bin.index.json", "jax/plain.npz")),
    **dict.fromkeys(("torch/sharded", "torch/sharded_bin", "jax/mac.zip")),
    **dict.fromkeys(("jax/state.t7", "jax/state", "jax/safe.model")),
    **dict.fromkeys(("jax/ours.safetensors", "keras/net.keras", "keras/net.weights.h5")),
    **dict.fromkeys(("keras/legacy.h5", "keras/model.mltk.zip")),
    **dict.fromkeys(("keras/dense.keras", "keras/within.h5", "keras/within.weights.h5"), HEAD),
    "jax/packed.npz": {"renamed": "without the prefix 'model.'"},
    "torch/head_renamed.pth": {"renamed": "with the head 'classifier'"},
    "torch/compile.pth": {"renamed": "without the prefix '_orig_mod.'"},
    "torch/ddp_of_compile.pth": {"renamed": "from 'model' and without the prefix '_orig_mod.'"},
    "torch/path.pth": {"renamed": "from 'model'"},
    "torch/tutorial.tar": {"renamed": "from 'model_state_dict'"},
    "torch/imagenet.pth.tar": {"renamed": "from 'state_dict'"},
    "torch/numpy_scalars.ckpt": {"renamed": "from 'net'"},
    "torch/lightning_model.ckpt": {"renamed": "from 'state_dict' and without the prefix 'model.'"},
    "torch/lightning_net.ckpt": {"renamed": "from 'state_dict' and without the prefix 'net.'"},
    "torch/deepspeed.pt": {"renamed": "from 'module'"},
    "torch/composer.pt": {"renamed": "from 'state/model'"},
    "torch/mine.pt": {"renamed": "from 'my_weights'"},
    "torch/average_alone.pth": {"renamed": "from 'model_ema'", "seed": 1},
    # Both are there: the average unless the others are asked for.
    "torch/timm.pth.tar": {"renamed": "from 'state_dict_ema'", "seed": 1},
    "torch/timm.pth.tar use_ema=False": {"renamed": "from 'state_dict'"},
    "torch/torchvision.pth": {"renamed": "from 'model_ema'", "seed": 1},
    "torch/torchvision.pth use_ema=False": {"renamed": "from 'model'"},
    "torch/basicsr.pth": {"renamed": "from 'params_ema'", "seed": 1},
    "torch/basicsr.pth use_ema=False": {"renamed": "from 'params'"},
    "torch/dino.pth": {"renamed": "from 'teacher'", "seed": 1},
    "torch/dino.pth use_ema=False": {"renamed": "from 'student'"},
}


@pytest.mark.parametrize("way", LOADED)
def test_it_loads_to_the_right_arrays(way, saved):
    expected = LOADED[way] or {}
    file, _, options = way.partition(" ")
    how: dict[str, Any] = {"use_ema": False} if options else {}
    net = nnx.clone(shapes("keras" if file.startswith("keras") else "torch"))
    report = models.load_weights(net, saved / file, **how)
    assert report == (7, (), (), (), expected.get("renamed", ""))
    state = nnx.state(net)
    right = values(expected.get("seed", 0))
    for name, array in right.items():
        module, _, weight = name.partition(".")
        place = {"conv1": ("stem", "conv"), "bn1": ("stem", "norm"), "fc": ("head", "dense")}
        words = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
        there = words.get(weight, "scale" if module == "bn1" else "kernel")
        top, unit = place[module]
        layout = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
        np.testing.assert_array_equal(state[top][unit][there][...], array.transpose(layout))


# What is refused, in which words; the advice in them is followed by ``followed``.
REFUSED = {
    "torch/module.pth": r"not read because of torch\.nn\.modules\..*save its state_dict\(\) alone",
    "torch/script.pt": r"a TorchScript archive; save the network's state_dict\(\)",
    "torch/exported.pt2": r"unknown extension '\.pt2'; known are \.safetensors",
    "torch/optimiser.pth": r"an optimiser's state alone; save the network's state_dict\(\)",
    "torch/list.pth": r"holds one list, not a state dict; save the network's state_dict\(\)",
    "torch/two.pth": r"several networks, 'generator', 'discriminator': save the one that you want",
    "torch/sparse.pth": r"because of torch\._utils\._rebuild_sparse_tensor",
    "torch/quantised.pth": r"because of torch\._utils\._rebuild_qtensor",
    "torch/distributed": "is a directory; files of weights in it: none",
    "torch/weight_norm.pth": "1 missing: conv1.weight; 2 unexpected: conv1.parametrizations",
    "torch/head.pth": r"allow='head/\*' keeps the network's own; models.*num_classes=7\) takes the",
    "torch/head_renamed.pth num_classes=7": r"Only the head differs: allow='head/\*' keeps",
    "torch/grey.pth": r"\(4, 1, 3, 3\), not \(4, 3, 3, 3\)\. Only the first .*in_features=1\) has",
    "torch/grey.pth num_classes=7": r"ends differ: .*in_features=1\) and allow='head/\*' let them",
    "torch/sharded/model-00001-of-00002.safetensors": r"a part of a checkpoint: '.*\.json' reads",
    "jax/parameters.npz": r"Only running statistics are missing, .*: allow=\['\*/mean', '\*/var'\]",
    "torch/state.pth in_features=1": "Only the first kernel differs: adapt_input=True",
    "torch/state.pth in_features=1 num_classes=7": r"adapt_input=True and allow='head/\*' let them",
    "torch/extra.pth": r"complete without what is unexpected: allow='aux\.fc\.\*' passes it over",
    "torch/extra.pth num_classes=7": r"Only the head differs: allow=\['head/\*', 'aux\.fc\.\*'\]",
    "torch/average_alone.pth use_ema=False": "a moving average alone, .*; use_ema=True reads it",
    "keras/net.keras torch": "create the network with reference='keras'",
    "torch/state.pth keras": "create the network with reference='torch'",
    "keras/shards.weights.json": r"unknown extension '\.json'",
    "jax/torch.safetensors": r"holds a zip archive, where a \.safetensors .*; .* name it \*\.pth",
    "jax/safe.pth": r"holds safetensors, where a \.pth .*; .* name it \*\.safetensors",
    "jax/archive.zip": r"an archive of torch\.save; name it \*\.pth",
    "jax/several.zip": r"holds 2 \(a/state\.pth, a/file\.safetensors\); unpack it",
    "jax/cut.pth": r"is truncated or damaged \(the archive's end is missing\); fetch it again",
    "jax/pointer.pth": "run `git lfs pull`",
    "jax/page.pth": "an HTML page: the download went wrong",
    "jax/one.npy": r"unknown extension '\.npy'",
}


@pytest.mark.parametrize("way", REFUSED)
def test_it_is_refused_and_the_advice_works(way, saved, tmp_path):
    file, *words = way.split()
    how: dict[str, Any] = {"use_ema": False} if "use_ema=False" in words else {}
    options: dict[str, Any] = {
        n: int(v) for n, _, v in (w.partition("=") for w in words) if v.isdigit()
    }
    keras = (file.startswith("keras") and "torch" not in words) or "keras" in words
    options["reference"] = "keras" if keras else "torch"
    net = numbered(shapes(**options))
    before = [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(net))]
    with pytest.raises(ValueError, match=REFUSED[way]) as caught:
        models.load_weights(net, saved / file, **how)
    message = str(caught.value)
    assert str(saved / file) in message and "\n" not in message
    for old, leaf in zip(before, jax.tree.leaves(nnx.state(net)), strict=True):
        np.testing.assert_array_equal(old, leaf)
    followed(message, saved / file, options, how, tmp_path)


def followed(message, source, options, how, scratch):
    """Do what the message says, where it says what to do with the file as it is."""
    how = dict(how)
    if given := re.search(r"allow=('[^']*'|\[[^]]*\])", message):
        how["allow"] = ast.literal_eval(given[1])
    if "adapt_input=True" in message:
        how["adapt_input"] = True
    if "use_ema=True" in message:
        how["use_ema"] = True
    if given := re.search(r"reference='(\w+)'", message):
        options = {**options, "reference": given[1]}
    if given := re.search(r"name it \*(\.\w+)", message):
        source = shutil.copy(source, scratch / f"renamed{given[1]}")
    if given := re.search(r"a part of a checkpoint: ('.*') reads", message):
        source = ast.literal_eval(given[1])
    sources, ways = [source], [(how, options)]
    created = {n: int(v) for n, v in re.findall(r"(num_classes|in_features)=(\d+)\)", message)}
    if created and " and allow=" in message:
        ways = [(how, {**options, **created})]
    elif created:
        ways.append(({n: v for n, v in how.items() if n != "allow"}, {**options, **created}))
        ways = ways if "allow" in how else ways[1:]
    if "unpack it" in message:
        shutil.unpack_archive(source, scratch)
        sources = [path for path in scratch.rglob("*") if path.is_file()]
    words = r"allow=|adapt_input=|use_ema=T|reference='|name it|unpack it|models.create|reads all"
    advised = re.search(words, message)
    for one, (how, options) in itertools.product(sources, ways) if advised else ():
        report = models.load_weights(numbered(shapes(**options)), one, **how)
        assert report.count >= 4 and ("allow" in how or not (report.missing or report.misshapen))


def test_states_of_flax_and_checkpoints_of_orbax_are_sent_to_nnx_update(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    net, other = numbered(shapes()), numbered(shapes())
    models.load_weights(net, values(0))
    state = nnx.state(net)
    words = r"nnx\.update\(net, state\) takes a state of the same network"
    for given in (state, nnx.to_pure_dict(state), {"params": nnx.to_pure_dict(state)}):
        with pytest.raises(ValueError, match=words):
            models.load_weights(other, given)
    nnx.update(other, state)
    assert same(other, net)

    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "run", state)
    with pytest.raises(ValueError, match=rf"a checkpoint of Orbax, .*, {words}") as caught:
        models.load_weights(numbered(shapes()), tmp_path / "run")
    code = re.search(r"with state = (.*), nnx\.update", str(caught.value))
    assert code is not None
    third = numbered(shapes())
    names = {"orbax": __import__("orbax.checkpoint"), "nnx": nnx, "net": third}
    nnx.update(third, eval(code[1], names))
    assert same(third, net)


def same(one, other):
    leaves = zip(*(jax.tree.leaves(nnx.state(net)) for net in (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_a_mapping_is_taken_as_it_is_and_a_wrapped_one_by_its_inner_one():
    assert models.load_weights(numbered(shapes()), values(0)).count == 7
    wrapped = {"model": values(0), "epoch": 3}
    with pytest.raises(ValueError, match="'model' is dict, not an array; give the inner mapping"):
        models.load_weights(numbered(shapes()), wrapped)
    assert models.load_weights(numbered(shapes()), wrapped["model"]).count == 7


@pytest.mark.parametrize("reference", ["torch", "keras"])
def test_a_bias_before_a_norm_is_taken_into_its_mean(reference):
    net = numbered(shapes(reference))
    arrays = models.export_weights(net)
    arrays = {
        name: np.random.default_rng(i).random(a.shape) for i, (name, a) in enumerate(arrays.items())
    }
    torch = reference == "torch"
    bias, mean = (
        ("conv1.bias", "bn1.running_mean") if torch else ("stem_conv/bias", "stem_bn/moving_mean")
    )
    by_hand = {**arrays, mean: arrays[mean] - np.arange(4)}
    report = models.load_weights(net, {**arrays, bias: np.arange(4)})
    assert report == (7, (), (), (), "with biases taken into the means of the norms")
    other = numbered(shapes(reference))
    models.load_weights(other, by_hand)
    assert same(net, other)
    with pytest.raises(ValueError, match=f"1 unexpected: {bias}"):
        models.load_weights(net, {**arrays, bias: np.arange(5)})


def flat(seeds):
    """Weights of several networks in one mapping, each behind its prefix, as EMA wrappers save."""
    found = {}
    for prefix, seed in seeds.items():
        found |= {f"{prefix}{name}": array for name, array in values(seed).items()}
        found[f"{prefix}bn1.num_batches_tracked"] = np.int64(3)
    return found


@pytest.mark.parametrize(
    "average, other",
    [
        ("ema.", "model."),
        ("ema_model.module.", "model."),
        ("model_ema.", ""),
        ("ema.model.", "model."),
        ("teacher.backbone.", "student.backbone."),
    ],
)
def test_of_weights_and_their_average_in_one_mapping_one_is_taken(average, other):
    given = flat({average: 1, other: 0})
    behind = f"what stands behind {other!r}" if other else "what has no prefix"
    for use_ema, seed, said in (
        (True, 1, f"without the prefix {average!r} and passing over {behind}"),
        (False, 0, f"passing over what stands behind {average!r}"),
    ):
        net = numbered(shapes())
        report = models.load_weights(net, given, use_ema=use_ema)
        before = f"without the prefix {other!r} and " if other and not use_ema else ""
        assert report == (7, (), (), (), before + said)
        np.testing.assert_array_equal(net.head.dense.bias[...], values(seed)["fc.bias"])


def test_an_average_without_statistics_is_passed_over_and_one_alone_is_not_taken_unasked():
    average = {k: v for k, v in flat({"ema.": 1}).items() if "running" not in k}
    net = numbered(shapes())
    report = models.load_weights(net, flat({"model.": 0}) | average)
    assert report.renamed.endswith("passing over what stands behind 'ema.'")
    np.testing.assert_array_equal(net.head.dense.bias[...], values(0)["fc.bias"])
    assert models.load_weights(net, flat({"ema.": 1})).renamed == "without the prefix 'ema.'"
    with pytest.raises(ValueError, match=r"alone, behind 'ema\.', .*; use_ema=True reads it"):
        models.load_weights(net, flat({"ema.": 1}), use_ema=False)
    with pytest.raises(ValueError, match="7 unexpected: generator"):
        models.load_weights(net, flat({"discriminator.": 0, "generator.": 1}))


def test_where_an_average_is_another_network_s_the_other_is_taken(tmp_path):
    path, other = tmp_path / "a.pth", {f"layers.{i}.weight": np.ones(3) for i in range(9)}
    wider = {**values(1), "conv1.weight": np.ones((8, 3, 3, 3))}
    for teacher in (other, wider):
        torch_file(path, {"student": values(0), "teacher": teacher})
        net = numbered(shapes())
        report = models.load_weights(net, path)
        assert report == (7, (), (), (), "from 'student' in place of 'teacher'")
        np.testing.assert_array_equal(net.head.dense.bias[...], values(0)["fc.bias"])
    for net, words in (
        (shapes(num_classes=7), r"read from 'student' in place of 'teacher' .*allow='head/\*'"),
        (shapes(in_features=2), r"read from 'teacher' .* misshapen: conv1\.weight \(8, 3, 3, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            models.load_weights(numbered(net), path)
    report = models.load_weights(numbered(shapes(num_classes=7)), path, allow="head/*")
    assert report.count == 5 and report.renamed == "from 'student' in place of 'teacher'"
    torch_file(path, {"student": other, "teacher": other})
    with pytest.raises(ValueError, match=r"read from 'teacher' does not fit .* Nothing fits"):
        models.load_weights(numbered(shapes()), path)


def torch_file(path, content):
    """Write what torch.save does of NumPy's arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, 2))
    return path


@pytest.mark.parametrize("ways", [("torch/sharded_bin/*",), ("torch/state.pth", "torch/path.pth")])
def test_a_folder_with_a_config_is_read_whatever_its_file_is_called(ways, saved, tmp_path):
    for way in ways:
        for file in (saved / "torch").glob(way.removeprefix("torch/")):
            name = "training_args.bin" if file.name == "path.pth" else file.name
            name = name.replace("pytorch_model.bin.index", "mine.bin.index")
            shutil.copy(file, tmp_path / name)
    with pytest.raises(ValueError, match="is a directory; files of weights in it: "):
        models.load_weights(numbered(shapes()), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert models.load_weights(numbered(shapes()), tmp_path).count == 7
    shutil.copy(saved / "torch/half.pt", tmp_path)
    if len(ways) == 2:
        with pytest.raises(ValueError, match=r"weights in it: half\.pt, state\.pth"):
            models.load_weights(numbered(shapes()), tmp_path)


def test_there_are_forty_ways_and_ten_refusals():
    assert len(LOADED) >= 40 and len(REFUSED) >= 10
