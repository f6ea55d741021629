"""Data: folders, files, noise, and sources of batches."""

import dataclasses
import io
import os
import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from convjax import data

IMAGES = np.arange(4 * 3 * 2 * 3, dtype=np.uint8).reshape(4, 3, 2, 3)
SHARES = np.full((4, 2), 0.5)
LABELS = np.array([0, 1, 2, 0])
HOW = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
KEPT = tempfile.TemporaryDirectory()
FOLDER = Path(KEPT.name)
for _name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
    (FOLDER / "set" / _name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(FOLDER / "set" / _name)
np.savez(FOLDER / "some.npz", images=IMAGES, labels=LABELS, fractions=LABELS / 2, text=["a"] * 4)
os.mkfifo(FOLDER / "pipe.npz")
os.mkfifo(FOLDER / "test_batch.bin")
KEY = jax.random.key(0)
PLACES = np.arange(4)


def bomb(file, shape, compressed=False):
    """Write an .npz whose images declare a shape, with four bytes behind it."""
    content = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(FOLDER / file, "w", kind) as archive:
        archive.writestr("images.npy", content.getvalue() + bytes(4))
        archive.writestr("labels.npy", content.getvalue())


bomb("bomb.npz", (10**12,))
bomb("packed.npz", (10**12,), compressed=True)


def resident(images=IMAGES, labels=LABELS, **changes):
    return lambda: data.resident(images, labels, **{"batch_size": 2, **HOW, **changes})


def folder(path=FOLDER / "set", **changes):
    return lambda: data.image_folder(path, **{"size": 8, **HOW, **changes})


def stream(path=FOLDER / "set", **changes):
    return lambda: data.stream(path, **{"batch_size": 2, "size": 8, **HOW, **changes})


def splits(path=FOLDER / "set", **changes):
    return lambda: data.image_splits(path, **{"size": 8, **HOW, **changes})


def indices(count=10, batch_size=5, seed=0, step=0):
    return lambda: data.batch_indices(count, batch_size, seed=seed, step=step)


def npz(path=FOLDER / "some.npz", **changes):
    return lambda: data.npz(path, **changes)


def augmented(images=IMAGES, key=KEY, places=PLACES, **changes):
    return lambda: data.Augment(**{"crop": 1, **changes})(images, key, places)


def mixed(own=(IMAGES, SHARES), other=(IMAGES, SHARES), key=KEY, places=PLACES):
    return lambda: data.Augment(mixup=0.5).mix(own, other, key, places)


def built(kind, make, **changes):
    """Call the constructor of a source with one field in which it differs from a good one."""

    def call():
        found = make()()
        fields = [one.name for one in dataclasses.fields(kind) if one.init]
        return kind(**{**{name: getattr(found, name) for name in fields}, **changes})

    return call


def plain(*values):
    return all(type(value) in (int, float, bool, tuple, str) for value in values)


def raises(kind, call):
    """Whether a call raises an error of a kind, which is a ValueError too."""
    try:
        call()
    except kind as error:
        return isinstance(error, ValueError)


def numpy_s_resident():
    source = resident(
        batch_size=np.int64(2), seed=np.uint8(3), classes=np.int8(5), mean=np.float32(0.5), std=0.5
    )()
    return plain(source.batch_size, source.seed, source.classes) and source.classes == 5


def numpy_s_stream():
    size, share = np.int64(8), np.array([0.5, 1.0])
    options = {"mean": np.full(3, 0.5), "workers": np.int8(0), "flip": np.bool_(False)}
    source = stream(batch_size=np.int64(2), size=size, crop=share, **options)()
    how = source.pictures
    return plain(source.workers, how.size, how.crop, how.flip) and len(source.inputs(0, 1)) == 3


def numpy_s_augment():
    augment = data.Augment(np.int64(1), np.bool_(True), np.int8(2), np.float32(0.5))
    return plain(augment.crop, augment.flip, augment.cutout, augment.mixup)


CASES = {
    "NumPy's numbers: resident": (numpy_s_resident, None),
    "NumPy's numbers: stream": (numpy_s_stream, None),
    "NumPy's numbers: Augment": (numpy_s_augment, None),
    "NumPy's numbers: batch_indices": (lambda: len(indices(np.int64(9), np.uint8(3))()) == 3, None),
    "NumPy's numbers: image_folder": (
        lambda: len(folder(size=np.int32(4), crop=np.float32(1), limit=np.int64(1))().images) == 1,
        None,
    ),
    "float64": (lambda: resident(IMAGES / 255)().arrays["images"].dtype == jnp.float32, None),
    "a list of labels": (lambda: resident(labels=[0, 1, 2, 0])().classes == 3, None),
    "missing files": (
        lambda: all(
            raises(FileNotFoundError, call)
            for call in (
                npz("no.npz"),
                folder("no"),
                stream("no"),
                splits("no"),
                lambda: data.cifar10("no"),
                lambda: data.cifar100(FOLDER),
                lambda: data.mnist(FOLDER),
                lambda: data.fashion_mnist("no"),
            )
        ),
        None,
    ),
    # batch_indices
    "count": (indices(count=2.0), r"^count=2\.0 \(float\)"),
    "batch_size": (indices(batch_size=11), "^batch_size=11 must lie between 1 and the 10 examples"),
    "batch_size as a float": (indices(batch_size=2.5), r"^batch_size=2\.5 \(float\)"),
    "no seed": (indices(seed=None), r"^seed=None \(NoneType\) must be an integer"),
    "a negative step": (indices(step=-1), "^step=-1 must be at least 0"),
    # resident
    "images as a list": (resident(images=[[1]]), r"^images=\[\[1\]\] \(list\) must be an array"),
    "images of three axes": (resident(images=IMAGES[0]), "images are uint8 of the shape"),
    "images of integers": (resident(images=IMAGES.astype(int)), "images are int64"),
    "images of text": (resident(images=np.full((4, 1, 1, 1), "a")), "images are <U1"),
    "complex images": (resident(images=IMAGES + 1j), "images are complex128"),
    "no images": (resident(images=IMAGES[:0], labels=[]), "and at least one"),
    "NaN": (resident(images=np.where(IMAGES > 9, np.nan, 1)), "^images hold NaN or infinity"),
    "beyond float32": (resident(images=np.full((4, 1, 1, 1), 1e300)), "^images hold NaN or infi"),
    "fractional labels": (resident(labels=LABELS / 2), "^labels are float64"),
    "labels of text": (resident(labels=["a"] * 4), "^labels are <U1"),
    "ragged labels": (resident(labels=[[1], [1, 2], 3, 4]), "^labels=.*array of whole numbers"),
    "labels of bools": (resident(labels=LABELS > 0), "^labels are bool"),
    "no labels": (resident(labels=None), "^labels have the shape"),
    "negative labels": (resident(labels=LABELS - 1), r"^labels\[0\]=-1 must lie in 0 to"),
    "labels that are no class": (resident(classes=2), r"^labels\[2\]=2 must lie in 0 to 1"),
    "classes": (resident(classes=2.0), r"^classes=2\.0 \(float\)"),
    "resident: no seed": (resident(seed=None), r"^seed=None \(NoneType\)"),
    "resident: batch_size": (resident(batch_size=True), r"^batch_size=True \(bool\)"),
    "resident: augment": (resident(augment=3), r"^augment=3 \(int\) must be a data.Augment"),
    "mean as text": (resident(mean="0.5"), r"^mean='0\.5' \(str\) must be numbers"),
    "mean of lists": (resident(mean=[[1], [1, 2]]), "^mean=.*must be numbers"),
    "a complex std": (resident(std=1j), r"^std=1j \(complex\)"),
    "a std of zero": (resident(std=[0.0] * 3), r"^std=\[0\.0, 0\.0, 0\.0\] must be positive"),
    "an infinite std": (resident(std=float("inf")), "^std=inf must be finite"),
    "a step that is none": (lambda: resident()().inputs(0.0, 1), r"^first=0\.0 \(float\)"),
    "no steps": (lambda: resident()().inputs(0, 0), "^steps=0 must be at least 1"),
    "Resident: count": (built(data.Resident, resident, count=3), "must hold 3 images, as count"),
    "Resident: batch_size": (
        built(data.Resident, resident, batch_size=9),
        "^batch_size=9 must lie",
    ),
    "Resident: arrays": (built(data.Resident, resident, arrays=3), r"^arrays=3 \(int\)"),
    "Resident: seed": (built(data.Resident, resident, seed=None), r"^seed=None \(NoneType\)"),
    "Resident: classes": (built(data.Resident, resident, classes=0), "^classes=0 must be at least"),
    "Stream: pictures": (built(data.Stream, stream, pictures=3), r"^pictures=3 \(int\)"),
    "Stream: workers": (built(data.Stream, stream, workers=-1), "^workers=-1 must be at least 0"),
    "Stream: classes": (built(data.Stream, stream, classes=["a", "a"]), "must be different names"),
    "ImageFolder: labels": (built(data.ImageFolder, folder, labels=[0]), "^labels have the shape"),
    "ImageFolder: images": (built(data.ImageFolder, folder, images=[0]), r"^images=\[0\] \(list\)"),
    "ImageFolder: files": (
        built(data.ImageFolder, folder, files=()),
        "^files=0 paths do not belong",
    ),
    # Augment
    "crop": (lambda: data.Augment(crop=1.5), r"^crop=1\.5 \(float\) must be an integer"),
    "a negative crop": (lambda: data.Augment(crop=-1), "^crop=-1 must be at least 0"),
    "a huge crop": (lambda: data.Augment(crop=2**31), "^crop=2147483648 must be at most"),
    "flip": (lambda: data.Augment(flip=0.5), r"^flip=0\.5 \(float\) must be True or False"),
    "cutout": (lambda: data.Augment(cutout="8"), r"^cutout='8' \(str\)"),
    "mixup": (lambda: data.Augment(mixup=float("nan")), "^mixup=nan must be finite"),
    "a huge mixup": (
        lambda: data.Augment(mixup=1e30),
        "^mixup=1e\\+30 must be at least 0 and at most",
    ),
    "a tiny mixup": (
        lambda: data.Augment(mixup=1e-40),
        "^mixup=1e-40 must be 0, or at least 1e-06",
    ),
    "mix: own": (mixed(own=3), r"^own=3 \(int\) must be images and probabilities"),
    "mix: labels": (mixed(own=(IMAGES, LABELS)), r"^own\[1\] has the shape \(4,\)"),
    "mix: other": (
        mixed(other=(IMAGES[:, 1:], SHARES)),
        "^other=.* must have the shape and dtype of",
    ),
    "mix: key": (mixed(key=0), r"^key=0 \(int\)"),
    "mix: places": (mixed(places=3), r"^places=3 \(int\)"),
    "complex images augmented": (augmented(images=IMAGES + 1j), "^images=.*must be real numbers"),
    "augmented images": (augmented(images=[1]), r"^images=\[1\] \(list\)"),
    "augmented axes": (augmented(images=IMAGES[0]), "^images has the shape"),
    "augmented by a seed": (augmented(key=0), r"^key=0 \(int\)"),
    "fractional places": (augmented(places=np.ones(4)), "^places are float32 of the shape"),
    "too few places": (augmented(places=np.arange(3)), r"4 images need integers of the shape \(4,"),
    # folders
    "path": (folder(3), r"^path=3 \(int\) must be a path"),
    "a file for a folder": (folder(FOLDER / "some.npz"), "is a file; it must be a folder"),
    "a pipe for a folder": (stream(FOLDER / "pipe.npz"), "is a named pipe; it must be a folder"),
    "size": (folder(size=8.0), r"^size=8\.0 \(float\)"),
    "folder: crop": (folder(crop=float("nan")), "^crop=nan must be finite and greater than 0"),
    "crop as text": (folder(crop="1"), r"^crop='1' \(str\) must be a number"),
    "interpolation": (folder(interpolation=3), r"^interpolation=3 \(int\) must be one of"),
    "folder: mean": (folder(mean=0.5), r"^mean=0\.5 \(float\) must be a sequence of numbers"),
    "folder: std": (folder(std=(1, 1, None)), r"^std\[2\]=None \(NoneType\) must be a number"),
    "order": (folder(order=None), r"^order=None \(NoneType\) must be one of 'RGB', 'BGR'"),
    "limit": (folder(limit=1.0), r"^limit=1\.0 \(float\)"),
    "folder: seed": (folder(seed=None), r"^seed=None \(NoneType\)"),
    "folder: classes": (folder(classes="ab"), "^classes='ab' .* must be names of class folders"),
    "classes of numbers": (folder(classes=[1, 2]), r"^classes\[0\]=1 \(int\) must be a name"),
    "no classes": (folder(classes=[]), "must be different names, at least one"),
    "allow_empty": (folder(allow_empty=1), r"^allow_empty=1 \(int\)"),
    "stream: crop": (stream(crop=(0.1, "1")), r"^crop\[1\]='1' \(str\)"),
    "stream: one crop": (stream(crop=None), r"^crop=None \(NoneType\)"),
    "workers": (stream(workers=1.5), r"^workers=1\.5 \(float\)"),
    "stream: flip": (stream(flip="yes"), r"^flip='yes' \(str\)"),
    "stream: seed": (stream(seed=None), r"^seed=None \(NoneType\)"),
    "stream: augment": (stream(augment={}), r"^augment=\{\} \(dict\)"),
    "share": (splits(share=float("nan")), "^share=nan must be finite"),
    "splits: seed": (splits(seed=None), r"^seed=None \(NoneType\)"),
    "stream: unreadable": (stream(unreadable="skp"), "did you mean 'skip'"),
    # files
    "npz: path": (npz(None), r"^path=None \(NoneType\) must be a path"),
    "npz: a pipe": (npz(FOLDER / "pipe.npz"), "is a named pipe; it must be a regular file"),
    "npz: a device": (npz("/dev/zero"), "^path='/dev/zero' is a device"),
    "npz: a folder": (npz(FOLDER), "is a folder; it must be a regular file"),
    "npz: split": (npz(split=["train"]), r"^split=\['train'\] \(list\)"),
    "npz: images": (npz(images=3), r"^images=3 \(int\)"),
    "npz: no name": (npz(images=""), "holds no ''; it holds fractions, images"),
    "npz: classes": (npz(classes=0), "^classes=0 must be at least 1"),
    "npz: text": (npz(labels="text"), "text are <U1; they must be whole numbers"),
    "npz: fractions": (npz(labels="fractions"), "fractions are float64; they must be whole"),
    "a declared size": (
        npz(FOLDER / "bomb.npz"),
        "'images.npy' declares .* 1000000000000 bytes, and",
    ),
    "a packed size": (npz(FOLDER / "packed.npz"), "'images.npy' declares .* 1000000000000 bytes"),
    "cifar: folder": (lambda: data.cifar10(3), r"^folder=3 \(int\)"),
    "cifar: split": (lambda: data.cifar10(FOLDER, None), r"^split=None \(NoneType\)"),
    "cifar: whole": (lambda: data.cifar10(FOLDER, whole=1), r"^whole=1 \(int\)"),
    "cifar: a pipe": (lambda: data.cifar10(FOLDER, "test"), "is a named pipe; it must be a reg"),
    "cifar: labels": (lambda: data.cifar100(FOLDER, labels=3), r"^labels=3 \(int\)"),
    "mnist: folder": (lambda: data.mnist(3), r"^folder=3 \(int\)"),
    "mnist: split": (lambda: data.mnist(FOLDER, None), r"^split=None \(NoneType\)"),
    "mnist: whole": (lambda: data.fashion_mnist(FOLDER, whole=1), r"^whole=1 \(int\)"),
    "digits": (lambda: data.digits(3), r"^split=3 \(int\) must be one of 'train', 'test'"),
    # moments and noise
    "moments of a list": (lambda: data.moments([1]), r"^images=\[1\] \(list\)"),
    "moments of NaN": (lambda: data.moments(np.full((1, 1, 1, 1), np.nan)), "^images hold NaN"),
    "moments of integers": (lambda: data.moments(IMAGES.astype(int)), "^images are int64"),
    "gaussian: count": (lambda: data.gaussian(1.5), r"^count=1\.5 \(float\)"),
    "gaussian: shape": (lambda: data.gaussian(1, 8), r"^shape=8 \(int\) must be a sequence"),
    "gaussian: a size": (lambda: data.gaussian(1, (8, 0)), r"^shape\[1\]=0 must be at least 1"),
    "gaussian: classes": (lambda: data.gaussian(1, classes=0), "^classes=0 must be at least 1"),
    "gaussian: seed": (lambda: data.gaussian(1, seed=None), r"^seed=None \(NoneType\)"),
    "gaussian: too many": (lambda: data.gaussian(2**50), "^count=1125899906842624 and shape="),
    "gaussian: axes": (lambda: data.gaussian(1, (1,) * 99), "cannot be held: "),
}
