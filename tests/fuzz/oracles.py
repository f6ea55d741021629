"""Malformed calls of ``convjax.gradflow.oracles``."""

import numpy as np

from convjax.gradflow import oracles
from tests.fuzz.kinds import Kind, choice, integer, integers, number, wrong
from tests.fuzz.room import call

count = integer(2, least=1)
many = integer(2, least=0)  # no unit, no layer: what comes in goes out
positive = number(2.0, least=0.0)
plain = number(0.5)
size = integers(8, length=False)
variance = number(1.0, least=0.0)
rho = number(0.5, least=-1.0, most=1.0)
activation = Kind(
    "tanh", wrong("lambda", "class", misspelt="tahn", seven=7), {"str_": np.str_("tanh")}
)
gains = Kind(
    [0.5, 2.0],
    wrong(
        "list", seven=7, nans=[float("nan")] * 2, words=["a"] * 2, nothing=[None] * 2, minus=[-1.0]
    ),
    {"tuple": (0.5, 2.0), "array": np.array([0.5, 2.0])},
)
matrices = Kind(
    np.ones((2, 3, 3)),
    wrong(seven=7, nans=np.full((2, 3, 3), np.nan), words=["a"] * 2, nothing=[None] * 2),
    {"list": np.ones((2, 3, 3)).tolist(), "float32": np.ones((2, 3, 3), np.float32)},
)

CALLS = {
    f"gradflow.oracles.{one.function.__name__}": one
    for one in (
        call(oracles.batch_norm_gain, batch_size=integer(8, least=2), activation=choice("relu")),
        call(oracles.batch_norm_residual_exponent, convs=count),
        call(oracles.batch_norm_residual_gain, units=many, convs=count, variance=variance),
        call(
            oracles.batch_norm_residual_variance,
            units=many,
            variance=variance,
            order=choice("norm-relu-conv"),
        ),
        call(oracles.chi, activation=activation, weight_variance=positive, bias_variance=variance),
        call(
            oracles.fixed_point,
            activation=activation,
            weight_variance=positive,
            bias_variance=variance,
        ),
        call(
            oracles.edge_of_chaos,
            activation=activation,
            bias_variance=number(0.05, least=0.0),
            low=number(1.0, least=0.0),
            high=number(4.0, least=0.0),
        ),
        call(oracles.compound_gain, {"matrices": ("matrix",)}, matrices=matrices),
        call(oracles.correlation_length, chi=number(0.5, above=0.0)),
        call(oracles.fixup_scale, units=count, convs=count),
        call(oracles.gradient_correlation, depth=many, kind=choice("plain"), rho=rho),
        call(oracles.highway_carry, bias=plain, units=many),
        call(
            oracles.jacobian_spread,
            depth=many,
            kernel=choice("gaussian"),
            activation=choice("relu"),
        ),
        call(oracles.log_spread, depth=many, width=integers(8), per_layer=positive),
        call(oracles.padding_gain, size=size, layers=many, kernel_size=integer(3, 1), rank=count),
        call(oracles.padding_limit, size=size, kernel_size=integer(3, 1), rank=count),
        call(oracles.separable_gain, size=size, layers=many, kernel_size=integer(3, 1), rank=count),
        call(oracles.path_energy, branch_gains=gains),
        call(oracles.sampled_paths, branch_gains=gains),
        call(
            oracles.pooling_gain,
            kind=choice("avg"),
            window_shape=integers((2, 2), single=False, length=False),
        ),
        call(oracles.relu_correlation, rho=rho),
        call(oracles.relu_gate_correlation, rho=rho),
        call(oracles.relu_gain, scale=positive),
        call(oracles.residual_gain, units=many, scale=plain, branch_gain=positive),
        call(oracles.residual_width_factor, units=many, scale=plain, width=count),
        call(oracles.scaled_shortcut_gain, scale=plain, convs=count),
    )
}
EXEMPT: dict[str, str] = {}
ACCEPTED: dict[str, str] = {}
