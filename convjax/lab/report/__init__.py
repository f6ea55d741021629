"""One HTML page of what studies found, to be opened from disk."""

from convjax import _room
from convjax.lab.report._write import main as main
from convjax.lab.report._write import write as write

_room.show(globals())
