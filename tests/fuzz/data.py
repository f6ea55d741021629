"""Malformed calls of ``convjax.data``."""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from convjax import data
from tests.fuzz.kinds import (
    FOLDER,
    Kind,
    but,
    choice,
    file,
    flag,
    integer,
    integers,
    number,
    optional,
    place,
    text,
    wrong,
)
from tests.fuzz.room import call

PICTURES = FOLDER / "pictures"
for name in ("cat/1", "cat/2", "cat/3", "dog/1", "dog/2"):
    path = PICTURES / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (9, 90, 200)).save(path)
CIFAR = FOLDER / "cifar"
CIFAR.mkdir()
record = np.zeros((2, 3073), np.uint8)
for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
    record.tofile(CIFAR / f"{name}.bin")
HUNDRED = FOLDER / "cifar100"
HUNDRED.mkdir()
for name in ("train", "test"):
    np.zeros((2, 3074), np.uint8).tofile(HUNDRED / f"{name}.bin")
MNIST = FOLDER / "mnist"
MNIST.mkdir()
for name in ("train", "t10k"):
    images, labels = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1]), bytes([0, 0, 8, 1])
    (MNIST / f"{name}-images-idx3-ubyte").write_bytes(images + bytes(2))
    (MNIST / f"{name}-labels-idx1-ubyte").write_bytes(labels + bytes([0, 0, 0, 2, 5, 7]))
HOW = {"size": 8, "crop": 0.875, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
IMAGES, LABELS = np.zeros((6, 4, 4, 3), np.uint8), np.arange(6, dtype=np.int32) % 3
np.savez(FOLDER / "arrays.npz", images=IMAGES, labels=LABELS)

folder = but(place(PICTURES, missing=True), "list")
seed = integer(0, least=0)
moment = Kind(
    (0.5, 0.5, 0.5),
    wrong(
        "matrix",
        seven=7.5j,
        nothing=[None] * 3,
        nans=[float("nan")] * 3,
        words=["a"] * 3,
        two=(0.5, 0.5),
        none=(),
    ),
    {"list": [0.5] * 3, "array": np.full(3, 0.5)},
)
deviation = moment._replace(bad=moment.bad | {"zeros": (0.0, 0.0, 0.0), "minus": (-1.0, 1.0, 1.0)})
classes = optional(
    Kind(None, wrong("None", seven=7, other=["cat", "cow"], sevens=[7, 7], word="cat"))
)
augment = Kind(None, wrong("None", seven=7, itself=data.Augment))
pictures = {
    "allow_empty": flag(False),
    "order": choice("RGB"),
    "channels": integer(3, least=1, most=4),
    "size": integer(8, least=1),
    "crop": number(0.875, above=0.0, most=1.0),
    "interpolation": choice("bicubic"),
    "mean": moment,
    "std": deviation,
    "seed": seed,
}
images = Kind(
    IMAGES,
    wrong(
        seven=7,
        strings=np.full((6, 4, 4, 3), "a"),
        numbers=IMAGES.tolist(),
        nans=np.full((6, 4, 4, 3), np.nan),
        imaginary=np.zeros((6, 4, 4, 3), complex),
    ),
    {"JAX's": jnp.asarray(IMAGES)},
)
labels = Kind(
    LABELS,
    wrong(
        seven=7,
        floats=np.zeros(6),
        words=np.full(6, "a"),
        minus=-LABELS,
        short=LABELS[:3],
        huge=np.full(6, 10**10),
        table=np.zeros((6, 2), int),
    ),
    {
        "list": LABELS.tolist(),
        "int64": LABELS.astype(np.int64),
        "uint8": LABELS.astype(np.uint8),
        "JAX's": jnp.asarray(LABELS),
    },
)
means = optional(moment)._replace(
    bad={k: v for k, v in moment.bad.items() if k not in ("None", "fraction")}
)
deviations = optional(deviation)._replace(
    bad={k: v for k, v in deviation.bad.items() if k not in ("None", "fraction")}
)


def augmented(images, labels, **options):
    return data.resident(images, labels, **options).arrays


def streamed(folder, **options):
    made = data.stream(folder, **options)
    return made.count, made.classes, made.batch_size


def found(*given, **options):
    made = data.find(*given, **options)
    return made.told, made.shape, made.classes, made.source.arrays


def shared(train, test, **options):
    made = data.sets(train, test, **options)
    return made.told, made.shape, made.classes, made.source.arrays, made.test


def pair(**more):
    flat = (IMAGES[0], LABELS)
    bad = wrong(seven=7, one=(IMAGES,), three=(IMAGES, LABELS, LABELS), flat=flat, **more)
    return Kind((IMAGES, LABELS), bad, {"list": [IMAGES, LABELS]})


split = optional(choice(None, "train"))
batches = {"batch_size": integer(2, least=1, most=6), "seed": seed, "augment": augment}
CALLS = {
    "data.Augment": call(
        data.Augment,
        crop=integer(1, least=0),
        flip=flag(True),
        cutout=integer(0, least=0),
        mixup=number(0.25, least=0.0),
    ),
    "data.batch_indices": call(
        data.batch_indices,
        count=integer(8, least=1),
        batch_size=integer(4, least=1, most=8),
        seed=seed,
        step=seed,
    ),
    "data.cifar10": call(
        data.cifar10, folder=place(CIFAR, missing=True), split=choice("test"), whole=flag(False)
    ),
    "data.cifar100": call(
        data.cifar100,
        folder=place(HUNDRED, missing=True),
        split=choice("test"),
        labels=choice("fine"),
        whole=flag(False),
    ),
    **{
        f"data.{read.__name__}": call(
            read, folder=kind(place(MNIST, missing=True)), split=choice("test"), whole=flag(False)
        )
        for read, kind in ((data.mnist, Kind._make), (data.fashion_mnist, optional))
    },
    "data.digits": call(data.digits, split=split),
    "data.find": call(
        found,
        {"path": ("folder",)},
        name=choice("folder"),
        path=folder,
        **{**batches, "batch_size": integer(2, least=1, most=4)},
        size=optional(integer(8, least=1)),
        share=number(0.5, above=0.0, below=1.0),
        how=Kind(HOW, wrong("dict", seven=7, words="bicubic")),
        workers=integer(0, least=0),
        unreadable=choice("stop"),
        channels=integer(3, least=1, most=4),
    ),
    "data.gaussian": call(
        data.gaussian,
        count=integer(4, least=1),
        shape=integers((2, 2, 1), single=False, length=False),
        classes=integer(3, least=1),
        seed=seed,
    ),
    "data.hold_out": call(
        data.hold_out,
        images=but(
            images, "strings", "nans", "imaginary", "matrix"
        ),  # whatever they are, they are divided
        labels=labels,
        held=integer(2, least=1, most=5),
        seed=seed,
    ),
    "data.image_folder": call(
        data.image_folder,
        {"path": ("folder",)},
        path=folder,
        limit=optional(integer(4, least=1)),
        classes=classes,
        **pictures,
    ),
    "data.image_splits": call(
        data.image_splits,
        {"path": ("folder",)},
        path=folder,
        share=number(0.5, above=0.0, below=1.0),
        **pictures,
    ),
    "data.moments": call(data.moments, images=images),
    "data.npz": call(
        data.npz,
        path=file(FOLDER / "arrays.npz"),
        split=split,
        images=optional(text(None)),
        labels=optional(text(None)),
        classes=optional(integer(3, least=3)),
    ),
    "data.resident": call(
        augmented,
        images=images,
        labels=labels,
        **batches,
        mean=means,
        std=deviations,
        classes=optional(integer(3, least=3)),
    ),
    "data.sets": call(
        shared,
        {"train": ("images", "labels"), "test": ("images", "labels")},
        train=pair(),
        test=pair(wider=(np.zeros((6, 4, 5, 3), np.uint8), LABELS)),
        **batches,
        size=optional(integer(None, least=1)),
        classes=optional(integer(3, least=3)),
        by=choice("channels"),
        told=text("images"),
    ),
    "data.stream": call(
        streamed,
        folder=folder,
        batch_size=integer(2, least=1, most=5),
        size=integer(8, least=1),
        mean=moment,
        std=deviation,
        seed=seed,
        workers=integer(0, least=0),
        crop=Kind(
            (0.5, 1.0),
            wrong(
                "matrix",
                seven=7,
                turned=(1.0, 0.5),
                three=(0.1, 0.2, 0.3),
                minus=(-1.0, 1.0),
                nans=(float("nan"), 1.0),
                words=("a", "b"),
            ),
        ),
        flip=flag(True),
        allow_empty=flag(False),
        unreadable=choice("stop"),
        channels=integer(3, least=1, most=4),
        order=choice("RGB"),
        interpolation=choice("bilinear"),
        augment=augment,
        classes=optional(
            Kind(None, wrong("None", seven=7, other=["cat", "cow"], sevens=[7, 7], word="cat"))
        ),
    ),
}
EXEMPT: dict[str, str] = {}
ACCEPTED: dict[str, str] = {}
