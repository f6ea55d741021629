"""What a checkpoint says of itself, and whether it is true."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "record.json"


class DamagedError(Exception):
    """What is there is not what was saved; the message says why."""


def kind_of(leaf: Any) -> str:
    """Return dtype and shape as text: ``float32[3, 4]``."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def write_record(path: Path, step: int, about: Any, kinds: Mapping[str, str]) -> None:
    """Write, beside the files of a checkpoint, what they are and a digest of every one.

    The record has a digest of its own, or a flipped bit in ``about`` would pass for another run.
    """
    record = {"step": step, "about": about, "leaves": dict(kinds), "files": _digests(path)}
    text = json.dumps({**record, "digest": _digest(record)}, indent=1)
    (path / RECORD).write_text(text)


def read_record(path: Path, step: int) -> dict[str, Any]:
    """Return the record of a checkpoint, or raise DamagedError unless it is whole, to the bit.

    Files are verified before anything else reads them: what a damaged one would do to orbax and
    to what lies under it is not foreseeable.
    """
    try:
        record = json.loads((path / RECORD).read_bytes())
        digest = record.pop("digest")
    except FileNotFoundError as error:
        raise DamagedError(f"{RECORD} is missing") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DamagedError(f"{RECORD} cannot be read") from error
    if digest != _digest(record):
        raise DamagedError(f"{RECORD} is not what was written")
    if record["step"] != step:
        raise DamagedError(f"it is of step {record['step']}")
    found = _digests(path)
    for name, digest in record["files"].items():
        if name not in found:
            raise DamagedError(f"{name} is missing")
        if found[name] != digest:
            raise DamagedError(f"{name} is not what was written")
    if extra := set(found) - set(record["files"]):
        raise DamagedError(f"{min(extra)} does not belong there")
    return record


def other_leaf(saved: Mapping[str, str], like: Mapping[str, Any]) -> str:
    """Say in what the leaves of a checkpoint first differ from those of ``like``, or ""."""
    for name, leaf in like.items():
        if name not in saved:
            return f"it has no leaf {name}, which is {kind_of(leaf)} here"
        if saved[name] != kind_of(leaf):
            return f"{name} is {saved[name]} there and {kind_of(leaf)} here"
    for name in saved:
        if name not in like:
            return f"it has a leaf {name}, which is not known here"
    return ""


def first_difference(saved: Any, given: Any, key: str = "") -> tuple[str, str, str] | None:
    """Return where two JSON values first differ, and both values there as text, or None."""
    if isinstance(saved, list) and isinstance(given, list):
        saved, given = ({str(i): value for i, value in enumerate(both)} for both in (saved, given))
    if not (isinstance(saved, Mapping) and isinstance(given, Mapping)):
        texts = _text(saved), _text(given)
        equal = texts[0] == texts[1] or (_is_number(saved) and saved == given and _is_number(given))
        return None if equal else (key, *texts)
    for name in [*given, *(name for name in saved if name not in given)]:
        inner = f"{key}/{name}" if key else name
        if name not in saved:
            return inner, "absent", _text(given[name])
        if name not in given:
            return inner, _text(saved[name]), "absent"
        if found := first_difference(saved[name], given[name], inner):
            return found
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, but of the record."""
    digests = {}
    try:
        for file in sorted(path.rglob("*")):
            if file.is_file() and file != path / RECORD:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256")
                digests[file.relative_to(path).as_posix()] = digest.hexdigest()
    except OSError as error:
        raise DamagedError(f"{error.filename} cannot be read: {error.strerror}") from error
    return digests


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(record).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
