"""Weights in and out of networks, and how their pictures are prepared."""

import os
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import models, nn

NET = models.resnet_cifar(8, width=2, num_classes=3, rngs=nnx.Rngs(0))
ARRAYS = models.export_weights(NET)
CHAIN = nn.Chain({"a": nn.Dense(2, 3, rngs=nnx.Rngs(0))})
KEPT = tempfile.TemporaryDirectory()
FOLDER = Path(KEPT.name)
os.mkfifo(FOLDER / "pipe.safetensors")


def load(net=NET, source=ARRAYS, **options):
    return lambda: models.load_weights(net, source, **options)


def raises(kind, call):
    """Whether a call raises an error of a kind."""
    try:
        call()
    except kind:
        return True


CASES = {
    "a mapping": (lambda: models.load_weights(NET, ARRAYS).count == len(ARRAYS), None),
    "allow of tuples": (lambda: load(allow=("head/*",))().count == len(ARRAYS), None),
    "a missing file": (lambda: raises(FileNotFoundError, load(source="no.pth")), None),
    "a missing folder": (
        lambda: raises(FileNotFoundError, lambda: models.save(NET, "no/a.safetensors")),
        None,
    ),
    "net": (load(net=3), r"^net=3 \(int\) must be a network that models.create returned"),
    "no network of the zoo": (load(net=CHAIN), "^net=Chain has no names"),
    "source as a number": (
        load(source=3),
        r"^source=3 \(int\) must be a file of weights, or a map",
    ),
    "source as None": (load(source=None), r"^source=None \(NoneType\)"),
    "source as bytes": (load(source=b"a.pth"), r"^source=b'a.pth' \(bytes\)"),
    "source as a list": (load(source=[1]), r"^source=\[1\] \(list\)"),
    "source as nothing": (load(source=""), "^source='' must be a path, not empty"),
    "source with NUL": (load(source="a\0.pth"), "without NUL"),
    "source of numbered keys": (load(source={3: np.ones(2)}), "the key 3 is int, not a name"),
    "source of lists": (load(source={"a": [1.0]}), "'a' is list, not an array"),
    "source of text": (load(source={"a": np.array(["x"])}), "'a' has dtype <U1"),
    "an empty source": (
        load(source={}),
        "source={} is empty; give a file or a mapping with the weights",
    ),
    "a pipe": (load(source=FOLDER / "pipe.safetensors"), "is a named pipe; it must be a regular"),
    "a folder": (load(source=FOLDER), "is a directory; files of weights in it: pipe.safetensors"),
    "a name too long": (load(source="a" * 999 + ".pth"), "cannot be read: File name too long"),
    "allow": (load(allow=3), r"^allow=3 \(int\) must be a glob, or several"),
    "allow of numbers": (load(allow=["a", 3]), r"^allow\[1\]=3 \(int\) must be a glob"),
    "use_ema": (load(use_ema=3), r"^use_ema=3 \(int\) must be True or False"),
    "a state of Flax": (load(source=nnx.state(NET)), "is a state of Flax, whose names are no ref"),
    "create: use_ema": (
        lambda: models.create("resnet20_cifar", weights=ARRAYS, use_ema="no", rngs=nnx.Rngs(0)),
        r"^use_ema='no' \(str\) must be True or False",
    ),
    "export: net": (lambda: models.export_weights(None), r"^net=None \(NoneType\)"),
    "export: tree": (lambda: models.export_weights(NET, 3), r"^tree=3 \(int\) must be a state"),
    "export: a foreign tree": (
        lambda: models.export_weights(NET, nnx.State({"a": jnp.ones(2)})),
        "^tree holds 'a', which Network has not",
    ),
    "save: net": (lambda: models.save(3, "a.safetensors"), r"^net=3 \(int\)"),
    "save: file": (lambda: models.save(NET, 3), r"^file=3 \(int\) must be a path"),
    "save: ending": (lambda: models.save(NET, "a.pth"), "must end in .safetensors, not in '.pth'"),
    "save: a folder": (lambda: models.save(NET, FOLDER / "no/a.safetensors"), "there is no folder"),
    "repo_id": (lambda: models.from_hub(3, rngs=nnx.Rngs(0)), r"^repo_id=3 \(int\)"),
    "no repo_id": (lambda: models.from_hub("resnet50", rngs=nnx.Rngs(0)), "is not owner/name"),
    "revision": (
        lambda: models.from_hub("timm/resnet50.a", revision=3, rngs=nnx.Rngs(0)),
        r"^revision=3 \(int\) must be a branch, tag or commit",
    ),
    "from_hub: allow": (
        lambda: models.from_hub("timm/resnet50.a", allow=3, rngs=nnx.Rngs(0)),
        r"^allow=3 \(int\)",
    ),
    "rngs": (lambda: models.from_hub("timm/resnet50.a", rngs=0), r"^rngs=0 \(int\)"),
    "preprocessing": (lambda: models.preprocessing(3), r"^name=3 \(int\)"),
    "preprocessing: unknown": (lambda: models.preprocessing("resnet5"), "did you mean 'resnet50'"),
    "reference": (
        lambda: models.preprocessing("resnet50", reference=None),
        r"^reference=None \(NoneType\) must be one of 'torch', 'keras'",
    ),
    "a wrong reference": (
        lambda: models.preprocessing("resnet50", reference="kears"),
        "^reference='kears' is not known; did you mean 'keras'",
    ),
}
