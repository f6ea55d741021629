"""What a file of HDF5 holds itself.

HDF5 can point elsewhere: a dataset's values may lie in any file of this machine, and a name may
stand for an object of another file. So every name is followed by hand, step by step, and what is
not stored in the file itself is refused before it is opened.
"""

import math
from typing import Any

import numpy as np

# A file that unpacks to more than this many times its size, beyond the bytes of a small network,
# is taken for a bomb: weights hardly shrink.
LARGEST_RATIO = 64
LARGEST_DEFLATED = 1032  # of any one dataset: what the format allows
SMALL = 2**26


class Reader:
    """Arrays of a file by name, as long as they are no more than it can hold.

    Args:
      size: bytes of the file.
    """

    def __init__(self, size: int):
        self.arrays: dict[str, np.ndarray] = {}
        self.size, self.left = size, max(LARGEST_RATIO * size, SMALL)

    def read(self, group: Any, key: str, name: str) -> None:
        """Read what a group holds by a key, and give it a name."""
        if name in self.arrays:
            raise ValueError(f"two of its weights are named {name!r}")
        dataset = follow(group, key)
        self.left -= _checked_size(dataset, name, self.size)
        if self.left < 0:
            raise ValueError(f"it would unpack to far more than its {self.size} bytes")
        self.arrays[name] = np.asarray(dataset)


def holds(group: Any, name: str) -> bool:
    """Say whether a group has a name, whatever it stands for: links are not followed."""
    return group.id.links.exists(name.encode())


def follow(group: Any, name: str) -> Any:
    """Return what a name with slashes stands for, each part of it stored in the file itself."""
    import h5py

    found = group
    for part in name.split("/"):
        if not (isinstance(found, h5py.Group) and part not in ("", ".") and holds(found, part)):
            raise ValueError(f"it is truncated or damaged: it names {name!r} and does not hold it")
        link = type(found.get(part, getlink=True)).__name__
        if link != "HardLink":
            raise ValueError(f"{name!r} is a link ({link}), which may point anywhere: not followed")
        found = found[part]
    return found


def _checked_size(dataset: Any, name: str, size: int) -> int:
    """Return the bytes that it takes to read a dataset; refuse what is not in the file."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{name!r} holds no array")
    if dataset.external or dataset.is_virtual:
        kind = "a virtual dataset" if dataset.is_virtual else "external storage"
        raise ValueError(f"{name!r} is {kind}: its values would be read from other files")
    if dataset.dtype.kind in "OSUV":
        raise ValueError(f"{name!r} has dtype {dataset.dtype}, which is no number")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), size)
    packed = dataset.id.get_create_plist().get_nfilters() > 0
    if declared > (LARGEST_DEFLATED * stored if packed else stored):
        raise ValueError(
            f"{name!r} declares the shape {dataset.shape}, {declared} bytes, and {stored} are "
            "stored"
        )
    # A chunk is unpacked whole, however little of it is asked for.
    chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    return max(declared, chunk)
