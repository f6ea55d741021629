"""What oracles refuse, what they accept, and what they are made of."""

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest

import convjax
from convjax.gradflow import oracles

REFUSED = [
    (lambda: oracles.relu_gain(-1.0), "scale=-1.0 must be at least 0"),
    (lambda: oracles.relu_gain(math.nan), "scale=nan must be finite"),
    (lambda: oracles.log_spread(-1, 8), "depth=-1 must be at least 0"),
    (lambda: oracles.log_spread(3, [8, 8]), "width=[8, 8] has 2 entries"),
    (lambda: oracles.log_spread(2, [8, 0]), "width[1]=0 must be at least 1"),
    (lambda: oracles.log_spread(2, 8, -5.0), "per_layer=-5.0 must be"),
    (lambda: oracles.jacobian_spread(2, "orthogonl"), "did you mean 'orthogonal'"),
    (lambda: oracles.jacobian_spread(2, activation="tanh"), "activation='tanh' is not known"),
    (lambda: oracles.fixed_point("tanhh", 1.0, 0.1), "did you mean 'tanh'"),
    (lambda: oracles.fixed_point("tanh", -1.0, 0.1), "weight_variance=-1.0 must be"),
    (lambda: oracles.fixed_point("tanh", 1.0, -0.1), "bias_variance=-0.1 must be"),
    (lambda: oracles.fixed_point("relu", 2.0, 0.0), "keeps every variance as it is"),
    (lambda: oracles.chi("softplus", 3.0, 0.1), "grow without bound under 'softplus'"),
    (lambda: oracles.chi("relu", 1.0, -0.1), "bias_variance=-0.1 must be"),
    (lambda: oracles.edge_of_chaos("tanh", 0.05, 2.0, 4.0), "low=2.0 and high=4.0 have a chi of"),
    (lambda: oracles.edge_of_chaos("tanh", -0.1, 1.0, 4.0), "bias_variance=-0.1 must be"),
    (lambda: oracles.correlation_length(0.0), "chi=0.0 must be greater than 0"),
    (lambda: oracles.batch_norm_gain(3), "batch_size=3 must be at least 4"),
    (lambda: oracles.batch_norm_gain(8, "gelu"), "choose from linear, relu"),
    (lambda: oracles.batch_norm_residual_variance(-1), "units=-1 must be at least 0"),
    (lambda: oracles.batch_norm_residual_variance(1, order="conv"), "order='conv' is not known"),
    (lambda: oracles.batch_norm_residual_gain(2, 0), "convs=0 must be at least 1"),
    (lambda: oracles.batch_norm_residual_gain(2, 1, 0.0), "variance=0.0 must be greater than 0"),
    (lambda: oracles.batch_norm_residual_exponent(0), "convs=0 must be at least 1"),
    (lambda: oracles.scaled_shortcut_gain(1.0), "scale=1.0 must be below 1 in size"),
    (lambda: oracles.scaled_shortcut_gain(math.nan), "scale=nan must be finite"),
    (lambda: oracles.residual_gain(-1, 1.0, 1.0), "units=-1 must be at least 0"),
    (lambda: oracles.residual_gain(1, math.inf, 1.0), "scale=inf must be finite"),
    (lambda: oracles.residual_gain(1, 1.0, -1.0), "branch_gain=-1.0 must be"),
    (lambda: oracles.residual_width_factor(-1, 1.0, 8), "units=-1 must be at least 0"),
    (lambda: oracles.residual_width_factor(2, math.nan, 8), "scale=nan must be finite"),
    (lambda: oracles.residual_width_factor(2, 1.0, 0), "width=0 must be at least 1"),
    (lambda: oracles.highway_carry(math.nan, 1), "bias=nan must be finite"),
    (lambda: oracles.highway_carry(-1.0, -1), "units=-1 must be at least 0"),
    (lambda: oracles.fixup_scale(0, 2), "units=0 must be at least 1"),
    (lambda: oracles.fixup_scale(5, 1), "convs=1 must be at least 2"),
    (lambda: oracles.compound_gain(np.zeros((2, 3, 4))), "matrices has shape (2, 3, 4)"),
    (
        lambda: oracles.compound_gain(np.full((1, 2, 2), np.inf)),
        "matrices holds inf in <float64 of the shape (1, 2, 2)>",
    ),
    (lambda: oracles.path_energy([[1.0]]), "branch_gains=[[1.0]] has shape (1, 1)"),
    (lambda: oracles.path_energy([1.0, -1.0]), "branch_gains[1]=-1.0 must be finite"),
    (lambda: oracles.sampled_paths([math.nan]), "branch_gains holds nan in [nan]"),
    (lambda: oracles.relu_correlation(1.5), "rho=1.5 must be"),
    (lambda: oracles.relu_gate_correlation(math.nan), "rho=nan must be"),
    (lambda: oracles.gradient_correlation(4, "residul"), "did you mean 'residual'"),
    (lambda: oracles.gradient_correlation(-4, "plain"), "depth=-4 must be at least 0"),
    (lambda: oracles.gradient_correlation(4, "plain", -2.0), "rho=-2.0 must be"),
    (lambda: oracles.padding_gain(8, -1), "layers=-1 must be at least 0"),
    (lambda: oracles.padding_gain((8, 0), 1), "size[1]=0 must be at least 1"),
    (lambda: oracles.padding_gain(8, 1, 2), "kernel_size=2 must be odd"),
    (lambda: oracles.padding_limit(8, rank=0), "rank=0 must be at least 1"),
    (lambda: oracles.separable_gain(8, 1, 4), "kernel_size=4 must be odd"),
    (lambda: oracles.pooling_gain("mean", (2, 2)), "kind='mean' is not known"),
    (lambda: oracles.pooling_gain("avg", (2, 0)), "window_shape[1]=0 must be at least 1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_bad_input_is_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_numbers_of_numpy_are_numbers():
    assert oracles.batch_norm_gain(np.int64(8)) == oracles.batch_norm_gain(8)
    assert oracles.residual_gain(np.int32(3), np.float32(1), np.float64(1)) == 8
    assert oracles.padding_gain(np.int64(8), np.int64(1)) == oracles.padding_gain((8, 8), 1)
    assert type(oracles.chi("tanh", np.float32(1.5), 0)) is float
    for column in (np.array([1, 2]), np.array([0.5, 0.25])):
        assert oracles.path_energy(column).dtype == np.float64


def test_oracles_are_numpy_and_scipy_alone():
    home = Path(convjax.__file__).parent / "gradflow" / "oracles"
    found = set()
    for path in home.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                inside = [f"convjax.{alias.name}" for alias in node.names]
                found.update(inside if node.module == "convjax" else [str(node.module)])
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    tops = {".".join(name.split(".")[:3]) if "convjax" in name else name for name in found}
    allowed = {"convjax._check", "convjax._room", "convjax.gradflow.oracles"}
    assert {name for name in tops if name.startswith("convjax")} == allowed
    assert not {name.split(".")[0] for name in tops} & {"jax", "jaxlib", "flax", "jaxtyping"}
