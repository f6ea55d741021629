"""Pure functions on channels-last arrays: convolutions, pools, norms, kernels."""

from convjax import _room
from convjax.ops._accelerate import accelerate as accelerate
from convjax.ops._conv import conv as conv
from convjax.ops._conv import depthwise_conv as depthwise_conv
from convjax.ops._conv import pointwise_conv as pointwise_conv
from convjax.ops._dense import dense as dense
from convjax.ops._general import conv_general_dilated as conv_general_dilated
from convjax.ops._kernels import SeparatedKernel as SeparatedKernel
from convjax.ops._kernels import separate_kernel as separate_kernel
from convjax.ops._kernels import standardize_kernel as standardize_kernel
from convjax.ops._lowering import LOWERINGS as LOWERINGS
from convjax.ops._lowering import default_lowering as default_lowering
from convjax.ops._norm import batch_moments as batch_moments
from convjax.ops._norm import batch_norm as batch_norm
from convjax.ops._norm import group_norm as group_norm
from convjax.ops._norm import layer_norm as layer_norm
from convjax.ops._norm import normalize as normalize
from convjax.ops._pool import avg_pool as avg_pool
from convjax.ops._pool import global_avg_pool as global_avg_pool
from convjax.ops._pool import global_max_pool as global_max_pool
from convjax.ops._pool import max_pool as max_pool
from convjax.ops._separable import separable_conv as separable_conv
from convjax.ops._separable import spatial_separable_conv as spatial_separable_conv
from convjax.ops._shapes import Padding as Padding
from convjax.ops._transpose import conv_transpose as conv_transpose

_room.show(globals())
