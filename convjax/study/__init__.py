"""Grids of runs and their tables: kept safely, found again, and with what they were made by."""

from convjax import _room
from convjax.study._environment import environment as environment
from convjax.study._files import check_writable as check_writable
from convjax.study._grid import grid as grid
from convjax.study._groups import groups as groups
from convjax.study._here import Here as Here
from convjax.study._identity import canonical as canonical
from convjax.study._identity import key as key
from convjax.study._job import Done as Done
from convjax.study._job import Job as Job
from convjax.study._job import Runner as Runner
from convjax.study._job import lost as lost
from convjax.study._job import perform as perform
from convjax.study._load import load as load
from convjax.study._local import Local as Local
from convjax.study._memory import keep_memory as keep_memory
from convjax.study._memory import keeping_memory as keeping_memory
from convjax.study._parquet import read_parquet as read_parquet
from convjax.study._parquet import write_parquet as write_parquet
from convjax.study._programs import keep_programs as keep_programs
from convjax.study._ray import Ray as Ray
from convjax.study._results import about as about
from convjax.study._results import results as results
from convjax.study._results import states as states
from convjax.study._run import Ran as Ran
from convjax.study._run import run as run
from convjax.study._slurm import Slurm as Slurm
from convjax.study._version import version as version
from convjax.study._watch import Progress as Progress
from convjax.study._watch import Silent as Silent
from convjax.study._watch import Watch as Watch

_room.show(globals())
