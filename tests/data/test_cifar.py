"""CIFAR's binary files: pixels where they belong, and damage refused by name."""

import pickle
import re

import numpy as np
import pytest

from convjax import data


def records(count, before=1, seed=0):
    found = np.random.default_rng(seed).integers(0, 256, (count, before + 3072), dtype=np.uint8)
    found[:, 0] %= 10
    found[:, before - 1] %= 100 if before == 2 else 10
    return found


def ten(folder, count=3, **changes):
    """Write the six files of CIFAR-10, and return what is in them."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    written = {name: records(count, seed=i) for i, name in enumerate(names)} | changes
    for name, content in written.items():
        content.tofile(folder / f"{name}.bin")
    return written


def test_pixels_are_where_the_format_says(tmp_path):
    content = ten(tmp_path)["test_batch"]
    images, labels = data.cifar10(tmp_path, "test", whole=False)
    assert (images.shape, images.dtype, labels.dtype) == ((3, 32, 32, 3), np.uint8, np.int32)
    for place, record in enumerate(content.tolist()):
        assert labels[place] == record[0]
        for row, column, channel in [(0, 0, 0), (0, 31, 2), (31, 0, 1), (5, 17, 0), (30, 2, 2)]:
            assert (
                images[place, row, column, channel]
                == record[1 + 1024 * channel + 32 * row + column]
            )


def test_the_five_files_come_in_their_order(tmp_path):
    written = ten(tmp_path)
    _, labels = data.cifar10(str(tmp_path), whole=False)
    expected = [record[0] for i in range(1, 6) for record in written[f"data_batch_{i}"]]
    assert labels.tolist() == expected


def test_the_folder_of_an_archive_is_found_one_below(tmp_path):
    for name in ("cifar-10-batches-bin", "cifar-100-binary"):
        (tmp_path / name).mkdir()
    written = ten(tmp_path / "cifar-10-batches-bin")["test_batch"]
    assert data.cifar10(tmp_path, "test", whole=False)[1].tolist() == written[:, 0].tolist()
    (content := records(4, 2)).tofile(tmp_path / "cifar-100-binary" / "test.bin")
    (tmp_path / "test").mkdir()
    assert data.cifar100(tmp_path, "test", whole=False)[1].tolist() == content[:, 1].tolist()


def test_fine_and_coarse_labels(tmp_path):
    content = records(4, 2)
    content[:, 0] = 0, 19, 3, 4
    content.tofile(tmp_path / "train.bin")
    images, fine = data.cifar100(tmp_path, whole=False)
    _, coarse = data.cifar100(tmp_path, labels="coarse", whole=False)
    assert fine.tolist() == content[:, 1].tolist()
    assert coarse.tolist() == [0, 19, 3, 4]
    assert images[2, 1, 4].tolist() == [content[2, 2 + 1024 * c + 36] for c in range(3)]


def test_the_whole_file_is_expected_unless_said_otherwise(tmp_path):
    ten(tmp_path, test_batch=records(10000))
    images, labels = data.cifar10(tmp_path, "test")
    assert images.shape == (10000, 32, 32, 3)
    assert labels.max() == 9
    with pytest.raises(ValueError, match=r"data_batch_1.bin' is cut short: 9219 bytes.*30730000"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize(("whole", "match"), [(True, "is cut short"), (False, "whole records")])
@pytest.mark.parametrize("size", [0, 1, 3072, 3 * 3073 - 1])
def test_a_file_that_is_cut_short_is_refused_by_name(tmp_path, whole, match, size):
    content = ten(tmp_path)["test_batch"]
    file = tmp_path / "test_batch.bin"
    file.write_bytes(content.tobytes()[:size])
    with pytest.raises(ValueError, match=f"{re.escape(repr(str(file)))}.*{match}"):
        data.cifar10(tmp_path, "test", whole=whole)


def test_a_file_that_is_too_long_is_refused_by_name(tmp_path):
    ten(tmp_path, test_batch=records(10001))
    with pytest.raises(ValueError, match=r"test_batch.bin' is too long"):
        data.cifar10(tmp_path, "test")


def test_a_missing_file_is_refused_by_name(tmp_path):
    ten(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(
        ValueError,
        match=r"data_batch_4.bin' does not exist; folder must hold data_batch_1.bin, data_batch_2",
    ):
        data.cifar10(tmp_path, whole=False)


def test_a_label_out_of_range_is_refused_by_name(tmp_path):
    content = records(3)
    content[1, 0] = 10
    ten(tmp_path, data_batch_2=content)
    match = r"data_batch_2.bin': labels\[1\]=10 must lie in 0 to 9"
    with pytest.raises(ValueError, match=match):
        data.cifar10(tmp_path, whole=False)
    hundred = records(3, 2)
    hundred[:, 0] = 0, 20, 1
    hundred.tofile(tmp_path / "test.bin")
    data.cifar100(tmp_path, "test", whole=False)
    with pytest.raises(ValueError, match=r"test.bin': labels\[1\]=20 must lie in 0 to 19"):
        data.cifar100(tmp_path, "test", labels="coarse", whole=False)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="split='tets' is not known; did you mean 'test'"):
        data.cifar10(tmp_path, "tets")
    with pytest.raises(ValueError, match="split='val'"):
        data.cifar100(tmp_path, "val")
    with pytest.raises(ValueError, match="labels='fien' is not known; did you mean 'fine'"):
        data.cifar100(tmp_path, labels="fien")


def python_batch(content, labels, protocol=2):
    """Return a file of the Python version, as Python 2 wrote it but for the names' types."""
    before = len(labels)
    held = {name.encode(): content[:, i].tolist() for i, name in enumerate(labels)}
    held |= {b"data": content[:, before:].copy(), b"filenames": [b"a.png"] * len(content)}
    return pickle.dumps(held, protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_python_version_gives_what_the_binary_one_does(tmp_path, protocol):
    for name in ("py", "bin"):
        (tmp_path / name).mkdir()
    for name, content in ten(tmp_path / "bin").items():
        (tmp_path / "py" / name).write_bytes(python_batch(content, ["labels"], protocol))
    hundred = records(4, 2)
    hundred[:, 0] = 0, 19, 3, 4
    hundred.tofile(tmp_path / "bin" / "train.bin")
    names = ["coarse_labels", "fine_labels"]
    (tmp_path / "py" / "train").write_bytes(python_batch(hundred, names, protocol))
    for read in (data.cifar10, data.cifar100):
        found, expected = (read(tmp_path / name, whole=False) for name in ("py", "bin"))
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match=r"data_batch_1' cannot be .* 3 images; there must be"):
        data.cifar10(tmp_path / "py")


class Acts:
    def __reduce__(self):
        return print, ("acted",)


LONG = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [300]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": Acts(), b"labels": [1]}, 2), "because of __builtin__.print"),
        (pickle.dumps([1]), "holds no dictionary"),
        (pickle.dumps({b"data": b""}), "it holds no 'labels'; it holds data"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, 2), "an array of .*f8"),
        (pickle.dumps({b"data": np.zeros((1, 9), np.uint8), b"labels": [1]}, 2), "the shape"),
        (pickle.dumps(LONG, 2), "labels are no list of 1 labels"),
        (pickle.dumps(LONG, 2)[:500], "cannot be read as CIFAR"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "cannot be read as CIFAR"),
        (b"", "cannot be read as CIFAR"),
    ],
)
def test_a_pickle_that_could_act_or_is_damaged_is_refused_by_name(
    tmp_path, capsys, content, message
):
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_1' .*{message}"):
        data.cifar10(tmp_path, whole=False)
    assert not capsys.readouterr().out
