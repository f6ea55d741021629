import json

import jax
import numpy as np
import pytest

from convjax import lab, ops
from experiments.benchmarks import forms
from experiments.benchmarks._rows import Spec

TINY = Spec("conv", 2, 6, 5, 4, 4, kernel_size=(3, 3), padding=(1, 1))
DEPTHWISE = Spec("conv", 2, 6, 5, 4, 4, kernel_size=(3, 3), padding=(1, 1), feature_group_count=4)


@pytest.mark.parametrize(
    ("spec", "able"),
    [(TINY, {"auto", "lax", "taps", "winograd"}), (DEPTHWISE, {"auto", "lax", "shift"})],
    ids=["dense", "depthwise"],
)
def test_the_forms_measured_are_those_that_serve(spec, able):
    assert {name for name in ops.LOWERINGS if forms.serves(spec, name)} == able


def test_each_direction_is_one_of_the_three():
    draw = np.random.default_rng(0).normal
    x, kernel = draw(size=(2, 6, 5, 4)), draw(size=(3, 3, 4, 4))
    x, kernel, g = (jax.numpy.asarray(a, "float32") for a in (x, kernel, draw(size=x.shape)))
    convolve = forms.convolution(TINY, "lax")
    forward, to_x, to_kernel = (
        forms.one_way(convolve, direction)(x, kernel, g) for direction in forms.DIRECTIONS
    )
    products = [jax.numpy.vdot(a, b) for a, b in ((forward, g), (x, *to_x), (kernel, *to_kernel))]
    np.testing.assert_allclose(products, [products[0]] * 3, rtol=1e-4)


def test_main_says_what_auto_loses(tmp_path, capsys):
    options = ["--networks", "digits_stack", "--kinds", "depthwise", "--batch-size", "1"]
    argv = [*options, "--repeats", "1", "--no-keep-memory", "--out", str(tmp_path)]
    assert forms.main(argv) == 0
    written = json.loads((tmp_path / "bench_forms.json").read_text())
    assert [row["direction"] for row in written["rows"]] == list(forms.DIRECTIONS)
    for row in written["rows"]:
        assert set(row["seconds"]) == {"auto", "lax", "shift"}
        assert row["loss"] == row["seconds"]["auto"] / min(row["seconds"].values())
    assert "auto / fastest" in capsys.readouterr().out


def test_layers_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(lab.UsageError, match="resnet50"):
        forms.main(["--networks", "resnet5", "--out", str(tmp_path)])
    with pytest.raises(lab.UsageError, match="none of these"):
        forms.main(["--networks", "digits_stack", "--kinds", "pointwise", "--out", str(tmp_path)])
