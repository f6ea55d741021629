"""A folder of class folders, listed: the one reader of names for image_folder and stream.

Labels are places in a list of folders, so that a folder which is passed over without a word shifts
all labels behind it. What is not taken is therefore refused, or named.
"""

import dataclasses
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import existing_folder, flag, instance, wrong_type

# Pillow looks at what a file holds, not at its name: without a list, a .jpg that holds PostScript
# would be handed to Ghostscript.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
}
EXTENSIONS = frozenset(extension for each in FORMATS.values() for extension in each)
# Folders that hold class folders, not pictures of one class.
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
ANNOTATIONS, ANNOTATED = "val_annotations.txt", "images"
"""Tiny-ImageNet's val: a table of files and their classes, and the folder that they are in."""
REMEDY = "give classes=, the names of the class folders"


@dataclasses.dataclass
class Listed:
    """What a folder holds.

    Attributes:
      root: the folder.
      classes: names in the order of their labels; empty where the folder has no class folders.
      files: paths of pictures below the root, with ``/``, by class folder and name.
      labels: int32, of each file; all 0 where there are no classes.
      skipped: path to the reason of what looks like a picture and is not taken.
      others: extensions of all other files, and how many of each there are.
    """

    root: Path
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    others: Counter[str] = dataclasses.field(default_factory=Counter)


def listed(name: str, folder: Any, classes: Any, allow_empty: Any) -> Listed:
    """List the pictures of a folder; ``name`` says in an error which argument it is.

    Links are followed, but for one that leads into a folder around it. Hidden files and folders,
    whose names begin with a dot, are passed over.

    Args:
      name: of the argument.
      folder: of class folders, or of pictures.
      classes: names of the class folders in the order of their labels, or None for those there are.
      allow_empty: whether a class folder may hold no picture.

    Returns:
      What it holds.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: a class folder without pictures, unless allowed, or one that ``classes`` lacks;
        folders that are splits; a folder that cannot be listed.
    """
    root = existing_folder(name, folder)
    if (root / ANNOTATIONS).is_file():
        return _annotated(Listed(root), classes, flag("allow_empty", allow_empty))
    names = None if classes is None else checked_names(classes)
    allow_empty = flag("allow_empty", allow_empty)
    found = Listed(root)
    named = f"{name}={str(root)!r}"
    below, loose = _divided(found, named)
    if not any(below.values()) and names is None:
        return dataclasses.replace(found, files=tuple(loose), labels=np.zeros(len(loose), np.int32))
    found.skipped |= dict.fromkeys(loose, "outside the class folders")
    found.classes = _classes(named, below, names, allow_empty)
    kept = [entry for entry in below if entry in found.classes]
    found.files = tuple(file for entry in kept for file in below[entry])
    places = [found.classes.index(entry) for entry in kept]
    counts = [len(below[entry]) for entry in kept]
    found.labels = np.repeat(np.array(places, np.int32), counts)
    return found


def _annotated(found: Listed, classes: Any, allow_empty: bool) -> Listed:
    """List the pictures of a folder whose classes stand in a table, as in Tiny-ImageNet's val."""
    file = found.root / ANNOTATIONS
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file={str(file)!r} cannot be read: {error}") from error
    told: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        picture, tab, rest = line.partition("\t")
        if not (picture and tab and rest.strip()):
            raise ValueError(f"file={str(file)!r}, line {number}: {line!r} is no file and class")
        told[f"{ANNOTATED}/{picture}"] = rest.split("\t")[0].strip()
    there = _pictures(found, ANNOTATED) if (found.root / ANNOTATED).is_dir() else []
    found.skipped |= {path: f"{ANNOTATIONS} does not name it" for path in there if path not in told}
    found.skipped |= dict.fromkeys(told.keys() - set(there), "it is not there")
    kept = sorted((told[path], path) for path in there if path in told)
    names = sorted(set(told.values())) if classes is None else checked_names(classes)
    below = {name: [path for of, path in kept if of == name] for name in sorted(set(told.values()))}
    found.classes = _classes(f"file={str(file)!r}", below, tuple(names), allow_empty)
    found.files = tuple(path for _, path in kept)
    found.labels = np.array([found.classes.index(name) for name, _ in kept], np.int32)
    return found


def _divided(found: Listed, named: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the pictures of every folder in the root, and those beside the folders."""
    below, loose = {}, []
    for entry in _entries(found.root):
        try:
            is_folder = _is_folder(entry)
        except OSError as error:
            raise ValueError(
                f"{named}: {_shown(entry.name)!r} is a link that leads nowhere: {error.strerror}"
            ) from error
        if not is_folder:
            loose += [entry.name] if _is_picture(found, entry.name) else []
        elif _is_utf8(entry.name):
            below[entry.name] = _pictures(found, entry.name)
        else:
            raise ValueError(f"{named}: the folder {_shown(entry.name)!r} is not named in UTF-8")
    return below, loose


def checked_names(classes: Any) -> tuple[str, ...]:
    """Return the names of classes; refuse what is none, or is there twice."""
    several = isinstance(classes, Sequence) or (isinstance(classes, np.ndarray) and classes.ndim)
    if isinstance(classes, str | bytes) or not several:
        wrong_type("classes", classes, "names of class folders in the order of their labels")
    names = tuple(instance(f"classes[{i}]", c, str, "a name") for i, c in enumerate(classes))
    if not names or len(set(names)) != len(names):
        raise ValueError(f"classes={names!r} must be different names, at least one")
    return tuple(map(str, names))


def _classes(
    named: str, below: dict[str, list[str]], names: tuple[str, ...] | None, allow_empty: bool
) -> tuple[str, ...]:
    """Return the names of the classes, or refuse the folder."""
    if names is None:
        splits = [entry for entry in below if entry.lower() in SPLITS]
        if splits and (len(splits) == len(below) or _is_pair(splits)):
            raise ValueError(f"{named} holds {' and '.join(splits)}; give one of them, or {REMEDY}")
    for entry, pictures in below.items():
        if pictures and names is not None and entry not in names:
            raise ValueError(
                f"{named}: classes={names!r} do not name the folder {entry!r}, which holds pictures"
            )
        if not pictures and not allow_empty and (names is None or entry in names):
            raise ValueError(
                f"{named}: the folder {entry!r} is a class without a picture; take it away, "
                f"{REMEDY}, or allow_empty=True"
            )
    if names is not None and not any(entry in names for entry in below):
        raise ValueError(f"{named} holds no class folder of classes={names!r}")
    return tuple(below) if names is None else names


def _is_pair(splits: list[str]) -> bool:
    training = [entry.lower().startswith("train") for entry in splits]
    return any(training) and not all(training)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name, but for hidden entries."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"folder={str(folder)!r} cannot be read: {error.strerror}") from error
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a folder or a link to one; a link named as a picture is none.

    Raises:
      OSError: a link that leads nowhere.
    """
    if not entry.is_symlink():
        return entry.is_dir(follow_symlinks=False)
    try:
        return stat.S_ISDIR(os.stat(entry.path).st_mode)
    except OSError:
        if _suffix(entry.name) in EXTENSIONS:
            return False
        raise


def _identity(folder: Path) -> tuple[int, int]:
    told = os.stat(folder)
    return told.st_dev, told.st_ino


def _pictures(found: Listed, folder: str) -> list[str]:
    """Return the sorted paths of the pictures in a folder and those within it."""
    files = []
    own = _identity(found.root / folder)
    left = [(folder, frozenset({_identity(found.root), own}))]
    while left:
        folder, around = left.pop()
        for entry in _entries(found.root / folder):
            path = f"{folder}/{entry.name}"
            try:
                is_folder = _is_folder(entry)
            except OSError as error:
                found.skipped[_shown(path)] = f"a link that leads nowhere: {error.strerror}"
                continue
            if not is_folder:
                files += [path] if _is_picture(found, path) else []
            elif (own := _identity(found.root / path)) in around:
                found.skipped[_shown(path)] = "a link to a folder around it"
            else:
                left.append((path, around | {own}))
    return sorted(files)


def _is_picture(found: Listed, path: str) -> bool:
    """Say whether a file counts as a picture by its name; count it where it does not."""
    if (suffix := _suffix(path)) not in EXTENSIONS:
        found.others[_shown(suffix)] += 1
        return False
    if not _is_utf8(path):
        found.skipped[_shown(path)] = "its path is not in UTF-8"
        return False
    return True


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    """Return a path as it can be printed: bytes that are no UTF-8 are written as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()
