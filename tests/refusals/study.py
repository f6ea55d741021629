"""Grids of runs and their tables."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np

from convjax import study

FOLDER = tempfile.TemporaryDirectory()
PLACE = Path(FOLDER.name)
(PLACE / "text").write_text("no table")


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 8
    name: str = ""


def measure(config):
    return {"width": np.array([config.width])}


def made():
    """A function that is in no file and, as ``exec`` leaves it, in no module."""
    found = {}
    exec("def measure(config): return {'width': [config.width]}", found)
    return study.version(found["measure"])


def run(**changes):
    given = {"function": measure, "configs": [Config()], "folder": PLACE / "run", "version": "1"}
    return lambda: study.run(**{**given, **changes})


def refused(function, *arguments, **options):
    return functools.partial(function, *arguments, **options)


def looped():
    inside = []
    inside.append(inside)
    return study.canonical(inside)


def same_identity():
    ours = study.grid(Config(), width=np.array([3, 4]))
    return [study.key(c, "1") for c in ours] == [study.key(Config(w), "1") for w in (3, 4)]


def numpy_in_cells():
    plain = study.canonical({"a": 3, "b": 0.5, "c": True})
    return plain == study.canonical({"a": np.int8(3), "b": np.array(0.5), "c": np.bool_(True)})


def run_and_read():
    ran = run()()
    return study.results(str(PLACE / "run"), list(ran.keys))["width"].tolist() == [8]


def written(**changes):
    given = {"path": PLACE / "t.parquet", "columns": {"a": np.arange(2)}, "metadata": {}}
    return lambda: study.write_parquet(**{**given, **changes})


TABLE = {"a": np.arange(2)}

CASES = {
    "an array as an axis": (same_identity, None),
    "NumPy's numbers in cells": (numpy_in_cells, None),
    "a study": (run_and_read, None),
    "NumPy's workers": (lambda: type(study.Local(np.int64(2)).workers) is int, None),
    "a list as a column": (lambda: len(list(study.groups({"a": [1, 1, 2]}, ["a"]))) == 2, None),
    "grid of a class": (refused(study.grid, Config), "^config=.* must be an instance of a datac"),
    "grid of None": (refused(study.grid, None), r"^config=None \(NoneType\)"),
    "an axis as a number": (refused(study.grid, Config(), width=3), r"^width=3 \(int\)"),
    "an axis as a set": (refused(study.grid, Config(), width={3}), r"^width=\{3\} \(set\)"),
    "an axis as a dict": (refused(study.grid, Config(), width={3: 4}), "^width=.*a list of values"),
    "an axis as a word": (
        refused(study.grid, Config(), name="ab"),
        r"^name='ab' .*name=\[",
    ),
    "an axis of two axes": (refused(study.grid, Config(), width=np.eye(2)), r"^width=<float64"),
    "an empty array": (refused(study.grid, Config(), width=np.array([])), "^width is empty"),
    "canonical": (refused(study.canonical, {"a": object()}), r"^config\['a'\] = .* no identity"),
    "canonical, by keys": (refused(study.canonical, {1: 2}), r"^config = \{1: 2\}"),
    "canonical, holding itself": (looped, "^config holds itself"),
    "key's version": (refused(study.key, Config(), 1), r"^version=1 \(int\)"),
    "version of a number": (refused(study.version, 3), r"^function=3 \(int\)"),
    "version of what exec made": (made, "^the source of 'measure' is in no file"),
    "version of a callable": (refused(study.version, functools.partial(int)), "^the source of"),
    "function": (run(function=3), r"^function=3 \(int\)"),
    "configs, one": (run(configs=Config()), "^configs=Config.*a list of cells"),
    "configs, a word": (run(configs="abc"), "^configs='abc'"),
    "configs, none": (run(configs=[]), "^configs is empty"),
    "folder": (run(folder=3), r"^folder=3 \(int\)"),
    "folder, empty": (run(folder=""), "^folder='' must be a path"),
    "folder, a file": (run(folder=PLACE / "text"), "text' is a file; choose a folder"),
    "runner": (run(runner="local"), "^runner='local' .*study.Local"),
    "runner, a class": (run(runner=study.Local), "^runner=<class"),
    "version": (run(version=1), r"^version=1 \(int\)"),
    "version, empty": (run(version=""), "^version='' names no version"),
    "group": (run(group="width"), "^group='width'"),
    "retry": (run(retry=1), r"^retry=1 \(int\)"),
    "time": (run(time_limit=0), "^time_limit=0 must be greater than 0"),
    "time, a word": (run(time_limit="1 h"), "^time_limit='1 h'"),
    "time, endless": (run(time_limit=float("inf")), "^time_limit=inf"),
    "watch": (run(watch=print), "^watch=.*study.Silent"),
    "load": (refused(study.load, 3), r"^folder=3 \(int\)"),
    "load, nowhere": (
        refused(study.load, PLACE / "no"),
        "^folder='.*no' is not .* no such folder",
    ),
    "load, no study": (refused(study.load, PLACE), "^folder=.* it has no study.json"),
    "load, a key": (refused(study.load, PLACE / "run", "abc"), "^keys='abc' .*sequence of strings"),
    "load, keys": (refused(study.load, PLACE / "run", [3]), r"^keys\[0\]=3 \(int\)"),
    "load, a path": (refused(study.load, PLACE / "run", ["../a"]), r"^keys\[0\]='../a' is not the"),
    "load, no cell": (refused(study.load, PLACE / "run", ["abc"]), "has no cell 'abc'"),
    "results": (refused(study.results, None, []), r"^folder=None"),
    "results, keys": (refused(study.results, PLACE, 3), r"^keys=3 \(int\)"),
    "results, no cell": (refused(study.results, PLACE, ["ab"]), "has no result of the cell ab"),
    "about, keys": (refused(study.about, PLACE, "ab"), "^keys='ab'"),
    "states": (refused(study.states, 3, [Config()], PLACE), r"^function=3 \(int\)"),
    "states, configs": (refused(study.states, measure, Config(), PLACE), "^configs="),
    "states, folder": (refused(study.states, measure, [Config()], 3), r"^folder=3 \(int\)"),
    "programs": (refused(study.keep_programs, 3), r"^folder=3 \(int\)"),
    "programs, empty": (refused(study.keep_programs, ""), "^folder='' must be a path"),
    "programs, a limit": (refused(study.keep_programs, PLACE, limit=0.5), r"^limit=0\.5 \(float\)"),
    "check_writable": (refused(study.check_writable, None), "^folder=None"),
    "Local's workers": (refused(study.Local, 1.5), r"^workers=1\.5 \(float\)"),
    "Local's workers, none": (refused(study.Local, 0), "^workers=0 must be at least 1"),
    "Local's platform": (refused(study.Local, platform="cpus"), "^platform='cpus' .*'cpu'"),
    "Local's platform, a flag": (refused(study.Local, platform=True), r"^platform=True \(bool\)"),
    "Ray's address": (refused(study.Ray, 6379), r"^address=6379 \(int\)"),
    "Ray's workers": (refused(study.Ray, workers="4"), "^workers='4'"),
    "Ray's platform": (refused(study.Ray, platform=0), r"^platform=0 \(int\)"),
    "Slurm's folder": (refused(study.Slurm, None), "^folder=None"),
    "Slurm's options": (refused(study.Slurm, PLACE, "cluster=local"), "^options='cluster=local'"),
    "Slurm's option": (refused(study.Slurm, PLACE, [5]), r"^options\[0\]=5 \(int\)"),
    "Slurm's workers": (refused(study.Slurm, PLACE, workers=True), r"^workers=True \(bool\)"),
    "a table's path": (written(path=3), r"^path=3 \(int\)"),
    "a table in no folder": (written(path=PLACE / "no" / "t"), "folder of path=.*does not exist"),
    "a table as a folder": (written(path=PLACE), "^path=.* is a folder"),
    "columns": (written(columns=[1, 2]), r"^columns=\[1, 2\]"),
    "a column's name": (written(columns={1: np.arange(2)}), r"^the names of columns\[0\]=1"),
    "a column as a number": (written(columns={"a": 3}), "column 'a' must be an array"),
    "complex columns": (written(columns={"a": np.array([1j])}), "^column 'a'=.*fits no table"),
    "columns of objects": (written(columns={"a": [object()]}), "^column 'a'=.*fits no table"),
    "numbers too large": (written(columns={"a": np.array([2**64 - 1])}), "^column 'a'=.*uint64"),
    "unequal columns": (written(columns={"a": [1], "b": [1, 2]}), "equally long"),
    "metadata": (written(metadata=3), r"^metadata=3 \(int\)"),
    "metadata of objects": (written(metadata={"a": object()}), r"^metadata=.*JSON can hold \("),
    "reading a number": (refused(study.read_parquet, 3), r"^path=3 \(int\)"),
    "reading nothing": (refused(study.read_parquet, PLACE / "no"), "^path=.*does not exist"),
    "reading a folder": (refused(study.read_parquet, PLACE), "^path=.* is a folder"),
    "reading text": (
        refused(study.read_parquet, PLACE / "text"),
        "^path=.*cannot be read as a",
    ),
    "groups of a list": (refused(study.groups, [1], ["a"]), r"^columns=\[1\] \(list\)"),
    "groups by a word": (refused(study.groups, TABLE, "a"), "^by='a' .*sequence of strings"),
    "groups by a number": (refused(study.groups, TABLE, [1]), r"^by\[0\]=1 \(int\)"),
    "groups by no column": (refused(study.groups, TABLE, ["b"]), "^by='b' is not a column"),
    "groups of a number": (refused(study.groups, {"a": 3}, ["a"]), "column 'a'=.* must have one"),
}
