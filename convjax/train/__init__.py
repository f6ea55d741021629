"""Training: compiled once, resumable to the bit, on one device or many, and watched."""

from convjax import _room
from convjax.train._checkpoints import Checkpoints as Checkpoints
from convjax.train._columns import layer_columns as layer_columns
from convjax.train._columns import step_columns as step_columns
from convjax.train._dispatch import make_dispatch as make_dispatch
from convjax.train._diverged import Diverged as Diverged
from convjax.train._evaluate import evaluate as evaluate
from convjax.train._fit import Fitted as Fitted
from convjax.train._fit import fit as fit
from convjax.train._json_lines import JsonLines as JsonLines
from convjax.train._json_lines import read_rows as read_rows
from convjax.train._layerwise import UnfreezingState as UnfreezingState
from convjax.train._layerwise import layerwise as layerwise
from convjax.train._layerwise import unfreezing as unfreezing
from convjax.train._losses import accuracy as accuracy
from convjax.train._losses import cross_entropy as cross_entropy
from convjax.train._observe import Observer as Observer
from convjax.train._observe import Pace as Pace
from convjax.train._optimiser import decayed as decayed
from convjax.train._optimiser import optimiser_of as optimiser_of
from convjax.train._optimiser import schedule_of as schedule_of
from convjax.train._processes import distributed as distributed
from convjax.train._progress import ProgressBar as ProgressBar
from convjax.train._recipe import OPTIMISERS as OPTIMISERS
from convjax.train._recipe import Recipe as Recipe
from convjax.train._source import Source as Source
from convjax.train._state import State as State
from convjax.train._state import start as start
from convjax.train._step import make_step as make_step
from convjax.train._tensorboard import TensorBoard as TensorBoard
from convjax.train._watch import by_path as by_path

_room.show(globals())
