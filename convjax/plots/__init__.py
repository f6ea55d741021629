"""Pictures, drawn from tables alone, so that they can be redrawn without the run."""

from convjax import _room
from convjax.plots._gradient_norms import gradient_norms as gradient_norms
from convjax.plots._live_waterfall import Waterfall as Waterfall
from convjax.plots._panels import COLOURS as COLOURS
from convjax.plots._panels import Panel as Panel
from convjax.plots._panels import Series as Series
from convjax.plots._panels import Sheet as Sheet
from convjax.plots._panels import panels as panels
from convjax.plots._save import save as save
from convjax.plots._waterfall import waterfall as waterfall

_room.show(globals())
