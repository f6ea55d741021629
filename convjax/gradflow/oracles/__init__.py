"""Closed forms of gradients at initialization, in NumPy and SciPy alone: nothing is measured."""

from convjax import _room
from convjax.gradflow.oracles._batch_norm import CENTRED as CENTRED
from convjax.gradflow.oracles._batch_norm import batch_norm_gain as batch_norm_gain
from convjax.gradflow.oracles._batch_norm import (
    batch_norm_residual_exponent as batch_norm_residual_exponent,
)
from convjax.gradflow.oracles._batch_norm import (
    batch_norm_residual_gain as batch_norm_residual_gain,
)
from convjax.gradflow.oracles._batch_norm import (
    batch_norm_residual_variance as batch_norm_residual_variance,
)
from convjax.gradflow.oracles._batch_norm import scaled_shortcut_gain as scaled_shortcut_gain
from convjax.gradflow.oracles._correlation import gradient_correlation as gradient_correlation
from convjax.gradflow.oracles._correlation import relu_correlation as relu_correlation
from convjax.gradflow.oracles._correlation import relu_gate_correlation as relu_gate_correlation
from convjax.gradflow.oracles._geometry import padding_gain as padding_gain
from convjax.gradflow.oracles._geometry import padding_limit as padding_limit
from convjax.gradflow.oracles._geometry import pooling_gain as pooling_gain
from convjax.gradflow.oracles._geometry import separable_gain as separable_gain
from convjax.gradflow.oracles._mean_field import chi as chi
from convjax.gradflow.oracles._mean_field import correlation_length as correlation_length
from convjax.gradflow.oracles._mean_field import edge_of_chaos as edge_of_chaos
from convjax.gradflow.oracles._mean_field import fixed_point as fixed_point
from convjax.gradflow.oracles._paths import path_energy as path_energy
from convjax.gradflow.oracles._paths import sampled_paths as sampled_paths
from convjax.gradflow.oracles._plain import jacobian_spread as jacobian_spread
from convjax.gradflow.oracles._plain import log_spread as log_spread
from convjax.gradflow.oracles._plain import relu_gain as relu_gain
from convjax.gradflow.oracles._residual import CompoundGain as CompoundGain
from convjax.gradflow.oracles._residual import compound_gain as compound_gain
from convjax.gradflow.oracles._residual import fixup_scale as fixup_scale
from convjax.gradflow.oracles._residual import highway_carry as highway_carry
from convjax.gradflow.oracles._residual import residual_gain as residual_gain
from convjax.gradflow.oracles._residual import residual_width_factor as residual_width_factor

_room.show(globals())
