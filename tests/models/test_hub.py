"""The hub: a small one on the loopback, and what is said when there is none."""

import fnmatch
import hashlib
import http.server
import json
import logging
import re
import socket
import sys
import tarfile
import threading
import time
from typing import ClassVar

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import models
from convjax.models import _from_hub as from_hub_module
from convjax.models._weights._formats import read
from convjax.models._weights._hub import fetch, name_of
from tests.models.parity.make_saved import FILE, values
from tests.models.test_saved import tiny

REPOSITORY = "timm/resnet50.a1_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "repo_id, name",
    [
        ("timm/resnet50.a1_in1k", "resnet50"),
        ("hf_hub:timm/mobilenetv2_100.ra_in1k", "mobilenetv2_100"),
        ("hf-hub:some.one/convnext_tiny", "convnext_tiny"),
    ],
)
def test_the_name_stands_before_the_first_dot(repo_id, name):
    assert name_of(repo_id) == name


@pytest.mark.parametrize("repo_id", ["resnet50", "a/b/c", "", "hf_hub:", "https://a/b", "a/b@main"])
def test_what_is_no_repository_is_refused_before_anything_is_asked(repo_id, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for function in (fetch, name_of):
        with pytest.raises(ValueError, match=r"is not owner/name, such as 'timm/resnet50"):
            function(repo_id)


def test_a_folder_is_sent_to_create(tmp_path):
    with pytest.raises(
        ValueError, match=r"owner/name, .*; models\.create\(name, weights=…\) takes a"
    ):
        models.from_hub(str(tmp_path), rngs=nnx.Rngs(0))


def test_without_the_package_the_sentence_names_the_extra_and_the_page(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with pytest.raises(ValueError) as caught:
        fetch(REPOSITORY)
    assert str(caught.value) == (
        "repo_id='timm/resnet50.a1_in1k': huggingface_hub is not installed; "
        "pip install convjax[weights], or fetch model.safetensors by hand from "
        "https://huggingface.co/timm/resnet50.a1_in1k/tree/main "
        "and call models.load_weights(net, 'model.safetensors')"
    )


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs."""

    files: ClassVar[dict] = {}
    asked: ClassVar[list] = []

    def do_HEAD(self):
        self.asked.append((self.command, self.path))
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            known = any(name.split("/")[2] == self.path.split("/")[2] for name in self.files)
            known = known or self.path.startswith(f"/{REPOSITORY}/")
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self):
        if tree := re.match(r"/api/models/(.+)/tree/(\w+)", self.path):
            base = f"/{tree[1]}/resolve/{tree[2]}/"
            names = [name.removeprefix(base) for name in self.files if name.startswith(base)]
            found = [{"type": "file", "path": n, "size": 1, "oid": "0"} for n in names]
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path) or b"")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The package, with a cache of its own, and no proxy before the loopback."""
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "disabled", True)
    return constants


@pytest.fixture
def served(cache, monkeypatch):
    """Files by address, and what was asked for."""
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setattr(Hub, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield Hub
        server.shutdown()


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def weights(seed):
    numpy = pytest.importorskip("safetensors.numpy")
    array = np.random.default_rng(seed).normal(size=(3, 5)).astype("f4")
    return array, numpy.save({"fc.weight": array})


def test_a_file_is_fetched_once_and_serves_when_the_hub_is_gone(served, cache, monkeypatch):
    array, content = weights(0)
    served.files[f"/{REPOSITORY}/resolve/main/model.safetensors"] = content
    served.files[f"/{REPOSITORY}/resolve/v2/sub/other.safetensors"] = content
    path = fetch(f"hf_hub:{REPOSITORY}")
    np.testing.assert_array_equal(read(path).arrays["fc.weight"], array)
    assert str(path).startswith(cache.HF_HUB_CACHE)
    assert fetch(REPOSITORY) == path
    assert [command for command, _ in served.asked].count("GET") == 1

    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert fetch(REPOSITORY) == path
    monkeypatch.setattr(cache, "HF_HUB_OFFLINE", True)
    assert fetch(REPOSITORY) == path


def test_file_and_revision_are_those_asked_for(served):
    _, content = weights(1)
    served.files[f"/{REPOSITORY}/resolve/v2/pytorch_model.bin"] = content
    path = fetch(REPOSITORY, filename="pytorch_model.bin", revision="v2")
    assert path.read_bytes() == content and path.name == "pytorch_model.bin"


def test_what_the_hub_does_not_have(served):
    with pytest.raises(ValueError, match=r"no such repository, or it is private\); fetch model"):
        fetch("timm/no_such")
    with pytest.raises(ValueError, match=r"the repository has no such file\); fetch other.bin"):
        fetch(REPOSITORY, filename="other.bin")
    with pytest.raises(ValueError, match=r"HFValidationError: .*\); fetch model"):
        fetch("timm/two..dots")


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_one_sentence_tells_what_to_do(offline, cache, monkeypatch):
    endpoint = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(cache, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    with pytest.raises(ValueError) as caught:
        fetch(REPOSITORY)
    assert time.monotonic() - start < 5
    reason = "offline mode is on" if offline else "the hub cannot be reached"
    message = str(caught.value)
    assert message.startswith(
        f"repo_id={REPOSITORY!r}: model.safetensors could not be fetched ({reason}"
    )
    assert message.endswith(
        f"fetch model.safetensors by hand from {endpoint}/{REPOSITORY}/tree/main "
        "and call models.load_weights(net, 'model.safetensors')"
    )
    assert "\n" not in message


def test_a_hub_that_does_not_answer_is_asked_once(cache, monkeypatch):
    """It takes the connection and says nothing: the limit of a question bounds the wait."""
    monkeypatch.setattr(cache, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"the hub cannot be reached\); fetch model"):
            fetch(REPOSITORY)
        assert time.monotonic() - start < 5


def served_network(served, repository, options=None, **config):
    """A small network of the zoo under a repository's name, as timm stores it."""
    numpy = pytest.importorskip("safetensors.numpy")
    net = models.create("resnet20_cifar", width=4, rngs=nnx.Rngs(5), **(options or {}))
    arrays = models.export_weights(net)
    content = numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    base = f"/{repository}/resolve/main"
    served.files[f"{base}/model.safetensors"] = content
    served.files[f"{base}/config.json"] = json.dumps(config).encode()
    return net


def test_a_network_with_its_weights(served, quick_compilation):
    donor = served_network(served, "someone/resnet20_cifar.own", num_classes=10)
    net = models.from_hub("someone/resnet20_cifar.own", width=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 9, 8, 3))
    run = nnx.jit(lambda net, x: net(x))
    np.testing.assert_array_equal(run(net, x), run(donor, x))
    with pytest.raises(ValueError, match=r"allow='head/\*' keeps the network's own"):
        models.from_hub("someone/resnet20_cifar.own", width=4, num_classes=3, rngs=nnx.Rngs(0))


def test_a_network_of_ones_own_is_what_its_config_says(served):
    config = {"architecture": "resnet20_cifar", "pretrained_cfg": {"input_size": [1, 32, 32]}}
    options = {"num_classes": 4, "in_features": 1}
    donor = served_network(served, "me/leaves.v2", options, num_classes=4, **config)
    net = models.from_hub("me/leaves.v2", width=4, rngs=nnx.Rngs(0))
    for mine, theirs in zip(*map(jax.tree.leaves, map(nnx.state, (net, donor))), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    bare = {"num_classes": 0, "in_features": 1}
    donor = served_network(served, "me/bare", bare, num_classes=0, **config)
    net = models.from_hub("me/bare", width=4, rngs=nnx.Rngs(0))
    assert net.head.names == ("pool",)
    np.testing.assert_array_equal(net.stem.conv.kernel[...], donor.stem.conv.kernel[...])
    new = models.from_hub("me/bare", width=4, num_classes=3, allow="head/*", rngs=nnx.Rngs(0))
    assert new.head.dense.bias.shape == (3,)
    served_network(served, "me/other", architecture="vit_base")
    with pytest.raises(ValueError, match="name='vit_base' is not known"):
        models.from_hub("me/other", rngs=nnx.Rngs(0))


SAVED = {  # the name that a file of ``saved.tar.xz`` gets in the repository
    "torch.save": {"torch/state.pth": "pytorch_model.bin"},
    "sharded": {"torch/sharded/*": "*"},
    "sharded, torch.save": {"torch/sharded_bin/*": "*"},
    "another name": {
        "torch/file.safetensors": "best.safetensors",
        "torch/list.pth": "optimizer.pt",
    },
    "its own": {"torch/imagenet.pth.tar": "run/last.pth.tar"},
    "average": {"torch/torchvision.pth": "checkpoint.pth"},
}


@pytest.mark.parametrize("way", SAVED)
def test_weights_are_found_under_the_name_that_they_have(way, served, monkeypatch):
    """Of users' own repositories, and in the cache when the hub is gone."""
    monkeypatch.setattr(from_hub_module, "known", lambda name: name)
    monkeypatch.setattr(from_hub_module, "create", created)
    base = "/me/tiny/resolve/main"
    served.files[f"{base}/config.json"] = json.dumps({"architecture": "tiny"}).encode()
    with tarfile.open(FILE) as archive:
        for member in archive.getmembers():
            for pattern, name in SAVED[way].items():
                if fnmatch.fnmatchcase(member.name, pattern):
                    name = member.name.rpartition("/")[2] if name == "*" else name
                    content = archive.extractfile(member)
                    assert content is not None
                    served.files[f"{base}/{name}"] = content.read()
    options = {"filename": "run/last.pth.tar"} if way == "its own" else {}
    for _ in range(2):
        net = models.from_hub("me/tiny", rngs=nnx.Rngs(0), **options)
        right = values(1 if way == "average" else 0)
        np.testing.assert_array_equal(net.head.dense.kernel[...], right["fc.weight"].T)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    if way == "average":
        net = models.from_hub("me/tiny", use_ema=False, rngs=nnx.Rngs(0))
        np.testing.assert_array_equal(net.head.dense.bias[...], values(0)["fc.bias"])


def created(_, *, rngs, weights, allow, adapt_input, use_ema, **options):
    net = tiny(rngs=rngs, num_classes=5)
    models.load_weights(net, weights, allow=allow, adapt_input=adapt_input, use_ema=use_ema)
    return net


def test_of_several_files_one_is_asked_for(served):
    base = "/me/many/resolve/main"
    served.files[f"{base}/config.json"] = json.dumps({"architecture": "resnet20_cifar"}).encode()
    with pytest.raises(ValueError, match=r"model\.safetensors could not be fetched .*no such file"):
        models.from_hub("me/many", rngs=nnx.Rngs(0))
    for name in ("a.safetensors", "b.pth", "README.md"):
        served.files[f"{base}/{name}"] = b"{}"
    words = r"holds 2 files of weights, a\.safetensors, b\.pth; .*filename='a\.safetensors'"
    with pytest.raises(ValueError, match=words):
        models.from_hub("me/many", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"a\.safetensors.* holds JSON"):
        models.from_hub("me/many", filename="a.safetensors", rngs=nnx.Rngs(0))
    served.files[f"{base}/model.safetensors.index.json"] = b"{}"
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json: .*it has none"):
        models.from_hub("me/many", rngs=nnx.Rngs(0))


@pytest.mark.later
def test_preprocessing_of_a_repository(served):
    config = {"input_size": [3, 40, 40], "crop_pct": 0.9, "mean": [0.1, 0.2, 0.3]}
    served_network(served, "someone/resnet20_cifar.forty", pretrained_cfg=config)
    how = models.preprocessing("someone/resnet20_cifar.forty")
    default = models.preprocessing("resnet20_cifar")
    assert how == default._replace(size=40, crop=0.9, mean=(0.1, 0.2, 0.3))


def test_a_network_that_is_not_in_the_zoo_is_not_asked_for(served):
    with pytest.raises(ValueError, match="name='vit_base' is not known"):
        models.from_hub("timm/vit_base.augreg", rngs=nnx.Rngs(0))
    assert not served.asked
