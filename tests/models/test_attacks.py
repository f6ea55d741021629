"""Files of weights that reach for other files, for more memory than they fill, or for no end."""

import os
import sys
import zipfile

import numpy as np
import pytest

from convjax.models._weights._formats import read
from convjax.models._weights._torch_file import _check_archive, unwrapped

h5py = pytest.importorskip("h5py")
WEIGHT = "a/kernel:0"
SECRET = np.frombuffer(b"a secret of this machine", np.uint8)


def keras(path, make, weights=(WEIGHT,)):
    """Write a legacy file of one layer; ``make`` puts its weights into the layer's group."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [weight.encode() for weight in weights]
        make(group)
    return path


def external(group):
    file = f"{group.file.filename}.secret"
    SECRET.tofile(file)
    group.create_dataset(WEIGHT, (len(SECRET),), np.uint8, external=[(file, 0, len(SECRET))])


def virtual(group):
    file = f"{group.file.filename}.other"
    with h5py.File(file, "w") as other:
        other["secret"] = SECRET
    layout = h5py.VirtualLayout(SECRET.shape, np.uint8)
    layout[:] = h5py.VirtualSource(file, "secret", SECRET.shape)
    group.create_virtual_dataset(WEIGHT, layout)


def linked(link):
    def make(group):
        group.create_group("a")
        group[WEIGHT] = link

    return make


def linked_group(group):
    group["a"] = h5py.ExternalLink("/dev/zero", "/")


def declared(shape, **options):
    return lambda group: group.create_dataset(WEIGHT, shape, np.float32, **options)


def one_chunk_of(count):
    def make(group):
        shape, chunks = (16,), (count,)
        options = {"maxshape": (None,), "chunks": chunks, "compression": "gzip"}
        group.create_dataset(WEIGHT, shape, np.uint8, **options)[:] = 1

    return make


def text(group):
    group.create_dataset(WEIGHT, data=["a", "b"])


@pytest.mark.parametrize(
    "make, words",
    [
        (external, "'a/kernel' is external storage: its values would be read from other files"),
        (virtual, "'a/kernel' is a virtual dataset"),
        (linked(h5py.ExternalLink("/etc/hosts", "/x")), "is a link .ExternalLink., which may"),
        (linked(h5py.SoftLink("/a/other")), "is a link .SoftLink."),
        (linked_group, "is a link .ExternalLink."),
        (
            declared((10**12,)),
            "declares the shape .1000000000000,., 4000000000000 bytes, and 0 are",
        ),
        (
            declared((10**6, 10**6), chunks=(1, 8)),
            "declares the shape .* 4000000000000 bytes, and 0",
        ),
        (declared((2,)), "declares the shape .2,., 8 bytes, and 0 are"),
        (declared((8,), compression="gzip"), "32 bytes, and 0 are stored"),
        (one_chunk_of(10**8), "would unpack to far more than its"),
        (text, "has dtype object, which is no number"),
        (lambda group: group.create_group(WEIGHT), "'a/kernel' holds no array"),
        (lambda group: group.create_dataset("a/kernel:1", data=[1]), "does not hold it"),
    ],
)
def test_what_a_keras_file_does_not_hold_itself_is_refused(make, words, tmp_path):
    path = keras(tmp_path / "a.h5", make)
    with pytest.raises(ValueError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model_weights", "a", "top_level_model_weights", "layers"])
def test_no_name_of_a_keras_file_is_followed_elsewhere(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # a file that HDF5 would wait for
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if name != "layers":
            file.attrs["layer_names"] = [b"a"]
        file[name] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
    with pytest.raises(ValueError, match=r"does not hold it|is a link"):
        read(tmp_path / "a.h5")


def test_weights_that_share_their_bytes_do_not_fill_the_memory(tmp_path):
    names = [f"a/{i}:0" for i in range(80)]

    def make(group):
        group.create_dataset(names[0], data=np.ones(2**18, np.float32))
        for name in names[1:]:
            group[name] = group[names[0]]

    with pytest.raises(ValueError, match="would unpack to far more than its"):
        read(keras(tmp_path / "a.h5", make, names))


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "chunks": (2, 5)}, {"chunks": (3, 3)}]
)
def test_what_a_keras_file_holds_is_read(options, tmp_path):
    array = np.arange(20, dtype=np.float32).reshape(4, 5)
    path = keras(
        tmp_path / "a.h5", lambda group: group.create_dataset(WEIGHT, data=array, **options)
    )
    np.testing.assert_array_equal(read(path).arrays["a/kernel"], array)


def test_a_state_dict_that_holds_itself_is_refused():
    endless = {}
    endless["state_dict"] = {"model": endless}
    with pytest.raises(ValueError, match=r"'state_dict' holds itself, or another wrapper"):
        unwrapped(endless, True)
    whole = {"model": {"state_dict": {"state_dict_ema": {"model_ema": {"w": np.ones(2)}}}}}
    assert list(unwrapped(whole, True)[0]) == ["w"]


def test_an_archive_of_pytorch_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(2**21))
    with pytest.raises(ValueError, match=r"its entries declare 2097152 bytes, and the whole file"):
        _check_archive(path)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".h5"])
def test_what_is_no_regular_file_is_refused(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is a named pipe; it must be a regular file"):
        read(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is a device; it must be a regular file"):
        read(path)


def test_what_is_missing_is_an_error_of_its_own_kind(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist") as caught:
        read(tmp_path / "a.h5")
    assert isinstance(caught.value, ValueError)
    path = keras(tmp_path / "a.h5", lambda group: None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="h5py that reads it is not installed") as caught:
        read(path)
    assert isinstance(caught.value, ValueError)
