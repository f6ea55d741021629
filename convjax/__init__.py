"""How do signal and gradient travel through a deep convolutional network, and why?

The rooms, from the ground up: ``convjax.ops`` (pure functions), ``convjax.nn`` (combinators and
leaves), ``convjax.cost`` (what a network costs), ``convjax.gradflow`` (measurement and theory),
``convjax.models`` (networks written as expressions).
Beside them stand ``convjax.train``, ``convjax.data``, ``convjax.study`` and ``convjax.plots``. They
are imported by name: the library itself loads neither optax, scikit-learn nor matplotlib.
"""

from convjax import _room
from convjax import gradflow as gradflow
from convjax import models as models
from convjax import nn as nn
from convjax import ops as ops
from convjax._cost import Cost as Cost
from convjax._cost import Price as Price
from convjax._cost import UnitCost as UnitCost
from convjax._cost import Window as Window
from convjax._cost import cost as cost
from convjax._cost import price as price

__version__ = "0.8.0"

_room.show(globals())
