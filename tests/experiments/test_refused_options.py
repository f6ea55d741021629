"""Options that a question cannot do are refused, each by its name, before anything is measured."""

import importlib

import pytest

REFUSED = {
    "convolution_audit": [
        ({"sizes": (2, 8)}, "sizes=(2, 8) must be at least 3"),
        ({"widths": (8,)}, "widths=[8] must hold one number of at least 1 for each of sizes"),
        ({"padding_seeds": (8, 1)}, "padding_seeds=[8, 1] must hold one number of at least 2"),
        ({"padding_images": (0, 1)}, "padding_images=[0, 1] must hold one number of at least"),
        ({"padding_layers": 1}, "padding_layers=1 must be at least 2"),
        ({"depthwise_width": 1}, "depthwise_width=1 must be at least 2"),
        ({"jacobian_layers": (2, 2)}, "jacobian_layers=[2, 2] must hold at least one value"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
        ({"depths": (8, 1)}, "depths=(8, 1) must be at least 2"),
        ({"jacobian_seeds": 1}, "jacobian_seeds=1 must be at least 2"),
    ],
    "path_lengths": [
        ({"depths": (12, 5)}, "depths=(12, 5) must be at least 6"),
        ({"depths": (9, 9)}, "depths=[9, 9] must hold at least one value, none twice"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"batch_size": 3}, "batch_size=3 must be at least 4"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
    ],
    "residual_power_law": [
        ({"depths": (32, 7)}, "depths=(32, 7) must be at least 8"),
        ({"batch_size": 3}, "batch_size=3 must be at least 4"),
        ({"digits_batch_size": 5000}, "digits_batch_size=5000: there are 1437 digits"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
    ],
    "shattering": [
        ({"depths": ()}, "depths=[] must hold at least one value"),
        ({"depths": (0, 2)}, "depths=(0, 2) must be at least 1"),
        ({"inputs": 1}, "inputs=1 must be at least 2"),
        ({"inputs": 9, "width": 8}, "inputs=9 cannot be orthogonal where width=8"),
        ({"line_depths": (4, 7)}, "line_depths=[4, 7] must be even"),
        ({"line_depths": (2, 8)}, "line_depths=(2, 8) must be at least 4"),
        ({"points": 3}, "points=3 must be at least 4"),
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
        ({"line_seeds": 1}, "line_seeds=1 must be at least 2"),
    ],
}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [(name, *refused) for name, every in REFUSED.items() for refused in every],
)
def test_a_wrong_option_is_refused(name, options, message):
    module = importlib.import_module(f"experiments.{name}")
    with pytest.raises(ValueError) as error:
        module.cells(module.Config(**options))
    assert message in str(error.value)
