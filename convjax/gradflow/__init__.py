"""How signal and gradient travel through a network: measured at every unit."""

from convjax.gradflow._growth import Growth as Growth
from convjax.gradflow._growth import growth as growth
from convjax.gradflow._homogeneous import homogeneous as homogeneous
from convjax.gradflow._norm import Norm as Norm
from convjax.gradflow._profile import Profile as Profile
from convjax.gradflow._profile import profile as profile
from convjax.gradflow._run import Scope as Scope
from convjax.gradflow._run import forward as forward
from convjax.gradflow._run import visit as visit
from convjax.gradflow._table import COLUMNS as COLUMNS
from convjax.gradflow._unit import Addition as Addition
from convjax.gradflow._unit import Unit as Unit
