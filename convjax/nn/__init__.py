"""Networks as expressions: four combinators and the leaves, all Flax NNX modules."""

from convjax import _room
from convjax.nn import initializers as initializers
from convjax.nn._activations import ACTIVATIONS as ACTIVATIONS
from convjax.nn._applied import applied as applied
from convjax.nn._chain import Chain as Chain
from convjax.nn._chain import Parallel as Parallel
from convjax.nn._conv import Conv as Conv
from convjax.nn._conv import DepthwiseConv as DepthwiseConv
from convjax.nn._conv import PointwiseConv as PointwiseConv
from convjax.nn._conv import separable_conv as separable_conv
from convjax.nn._dense import ConvTranspose as ConvTranspose
from convjax.nn._dense import Dense as Dense
from convjax.nn._node import Node as Node
from convjax.nn._node import at as at
from convjax.nn._node import children as children
from convjax.nn._node import join as join
from convjax.nn._node import kind_of as kind_of
from convjax.nn._node import label_of as label_of
from convjax.nn._node import walk as walk
from convjax.nn._norm import NORMS as NORMS
from convjax.nn._norm import BatchNorm as BatchNorm
from convjax.nn._norm import GroupNorm as GroupNorm
from convjax.nn._norm import LayerNorm as LayerNorm
from convjax.nn._norm import ResponseNorm as ResponseNorm
from convjax.nn._norm import norm as norm
from convjax.nn._reading._called import takes_mode as takes_mode
from convjax.nn._reading._function import Function as Function
from convjax.nn._reading._live import Live as Live
from convjax.nn._reading._read import Reading as Reading
from convjax.nn._reading._read import read as read
from convjax.nn._reading._seen import seen as seen
from convjax.nn._reading._segment import Graph as Graph
from convjax.nn._reading._segment import Segment as Segment
from convjax.nn._repeat import Repeat as Repeat
from convjax.nn._repeat import rematerialise as rematerialise
from convjax.nn._residual import Gate as Gate
from convjax.nn._residual import Residual as Residual
from convjax.nn._simple import Activation as Activation
from convjax.nn._simple import CellPool as CellPool
from convjax.nn._simple import Channels as Channels
from convjax.nn._simple import GlobalPool as GlobalPool
from convjax.nn._simple import Identity as Identity
from convjax.nn._simple import Pool as Pool
from convjax.nn._simple import Scale as Scale
from convjax.nn._simple import Upsample as Upsample
from convjax.nn._simple import ZeroPadShortcut as ZeroPadShortcut
from convjax.nn._squeeze import SqueezeExcite as SqueezeExcite
from convjax.nn._stochastic import Dropout as Dropout
from convjax.nn._stochastic import StochasticDepth as StochasticDepth
from convjax.nn._turns import Turns as Turns
from convjax.nn._turns import turns_of as turns_of

_room.show(globals())
