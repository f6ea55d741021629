"""What a network costs: multiply-adds, parameters, bytes, and which receptive field, by shapes."""

from convjax._cost._cost import cost as cost
from convjax._cost._price import Price as Price
from convjax._cost._price import price as price
from convjax._cost._record import Cost as Cost
from convjax._cost._unit import UnitCost as UnitCost
from convjax._cost._window import Window as Window
