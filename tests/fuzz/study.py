"""Malformed calls of ``convjax.study``."""

import dataclasses

import numpy as np

from convjax import study
from tests.fuzz.kinds import (
    FOLDER,
    Kind,
    also,
    but,
    choice,
    file,
    flag,
    integer,
    number,
    optional,
    place,
    text,
    wrong,
)
from tests.fuzz.room import call


@dataclasses.dataclass(frozen=True)
class Config:
    """A cell."""

    depth: int = 2


def measure(config):
    """Measure a cell."""
    return {"layer": np.arange(config.depth)}


RAN = study.run(measure, [Config()], FOLDER / "study", version="1", runner=study.Here())
study.write_parquet(FOLDER / "table.parquet", {"x": np.arange(3)}, {})
function = Kind(measure, wrong("lambda", "class", seven=7))
configs = Kind(
    [Config()],
    wrong(
        "list",
        "dict",
        "nested list",
        "set",
        "texts",
        "objects",
        "no numbers",
        seven=7,
        lone=Config(),
    ),
)
config = Kind(Config(), wrong(seven=7))
folder = but(place(FOLDER / "study"), "list")
version = text("1")
columns = Kind(
    {"x": np.arange(3), "g": np.array(["a", "b", "a"])},
    wrong(
        "dict",
        seven=7,
        numbers={"x": 7},
        uneven={"x": np.arange(3), "g": np.arange(2)},
        sevens={7: np.arange(3)},
        nothing={"x": None},
    ),
)
keys = Kind(
    RAN.keys, wrong("list", "no numbers", seven=7, sevens=[7], nothing=[None], other=["0" * 20])
)
workers = optional(integer(1, least=1))
platform = optional(choice(None, "cpu"))
runner = Kind(study.Here(), wrong("None", seven=7, name="here", itself=study.Here))
axes = Kind(
    [2, 3],
    wrong("matrix", "nested list", "texts", "objects", seven=7, twice=[2, 2]),
    {"array": np.array([2, 3]), "tuple": (2, 3)},
)


def named(function):
    return lambda **options: type(function(**options)).__name__


def about(folder, keys):
    return sorted(study.about(folder, keys))


CALLS = {
    "study.Local": call(named(study.Local), workers=workers, platform=platform),
    "study.Ray": call(
        named(study.Ray), address=optional(text(None)), workers=workers, platform=platform
    ),
    "study.Slurm": call(
        named(study.Slurm),
        {"options": ("option",)},
        folder=folder,
        options=Kind(
            ("cluster=local",),
            wrong("list", "no numbers", seven=7, sevens=[7], bare=["timeout"], word="a=1"),
        ),
        workers=workers,
        platform=platform,
    ),
    "study.Progress": call(named(study.Progress), stream=Kind(None, wrong("None", seven=7))),
    "study.about": call(about, {"keys": ("key", "cell")}, folder=folder, keys=keys),
    "study.results": call(study.results, {"keys": ("key", "cell")}, folder=folder, keys=keys),
    "study.load": call(
        lambda folder, keys: study.load(folder, keys).num_rows,
        {"keys": ("key", "cell")},
        folder=but(place(FOLDER / "study", missing=True), "list"),
        keys=optional(keys),
    ),
    "study.check_writable": call(named(study.check_writable), folder=folder),
    "study.grid": call(study.grid, config=config, depth=axes),
    "study.groups": call(
        lambda columns, by: [one for one, _ in study.groups(columns, by)],
        {"columns": ("column",)},
        columns=columns,
        by=Kind(["g"], wrong("list", "no numbers", seven=7, sevens=[7], other=["h"], word="g")),
    ),
    "study.key": call(
        study.key, config=also(config._replace(bad={}), object=object()), version=version
    ),
    "study.canonical": call(
        study.canonical,
        {"value": ("config",)},
        value=Kind(3, {"object": object(), "lambda": lambda: 0, "class": int}),
    ),
    "study.read_parquet": call(study.read_parquet, path=file(FOLDER / "table.parquet")),
    "study.write_parquet": call(
        study.write_parquet,
        {"columns": ("column",)},
        path=file(FOLDER / "written.parquet", missing=False),
        columns=columns,
        metadata=Kind({}, wrong("dict", "list", seven=7, odd={"a": object()})),
    ),
    "study.run": call(
        lambda **options: study.run(**options).finished,
        {"configs": ("config",)},
        function=function,
        configs=configs,
        folder=folder,
        name=Kind(None, wrong("None", "text", seven=7)),
        runner=runner,
        version=optional(version),
        group=optional(Kind(None, wrong("None", "lambda", "class", seven=7))),
        retry=flag(False),
        time_limit=optional(number(None, above=0.0)),
        watch=Kind(None, wrong("None", seven=7)),
    ),
    "study.states": call(
        study.states,
        {"configs": ("config",)},
        function=function,
        configs=configs,
        folder=folder,
        version=optional(version),
        name=Kind(None, wrong("None", "text", seven=7)),
    ),
    "study.version": call(
        lambda **o: len(study.version(**o)), function=function, config=Kind(None, {})
    ),
}
EXEMPT = {
    "study.Here": "takes nothing",
    "study.Silent": "takes nothing",
    "study.lost": "called by a runner, with the job that it was given",
    "study.perform": "called by a runner, with the job that it was given",
    "study.Runner": "a protocol, which is not constructed",
    "study.Watch": "a protocol, which is not constructed",
    "study.environment": "takes nothing",
    "study.keep_memory": "takes nothing",
    "study.keep_programs": "changes what all later compilations of the process do",
    "study.keeping_memory": "takes nothing",
}
ACCEPTED: dict[str, str] = {}
