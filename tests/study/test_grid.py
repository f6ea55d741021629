import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from convjax import study


@dataclasses.dataclass(frozen=True)
class Config:
    depth: int = 8
    norm: str = "none"
    scales: tuple[float, ...] = (1.0,)
    fixed: int = dataclasses.field(default=3, init=False)


def test_the_last_axis_goes_fastest_and_the_rest_stays():
    found = study.grid(Config(norm="layer"), depth=(2, 5, 3), scales=[(0.5,), (1.0, 2.0)])
    assert [(one.depth, one.scales) for one in found] == [
        *((2, (0.5,)), (2, (1.0, 2.0)), (5, (0.5,)), (5, (1.0, 2.0)), (3, (0.5,)), (3, (1.0, 2.0)))
    ]
    assert {one.norm for one in found} == {"layer"}


def test_nothing_varied_is_the_configuration_itself():
    assert study.grid(Config(5)) == [Config(5)]


def test_any_sequence_is_an_axis():
    assert [one.depth for one in study.grid(Config(), depth=range(2, 8, 3))] == [2, 5]


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        ({"depht": [1]}, r"'depht' is not a field of Config; did you mean 'depth'\? There are dep"),
        ({"colour": [1]}, "'colour' is not a field of Config; there are depth, norm, scales$"),
        ({"fixed": [1]}, "'fixed' is not a field of Config"),
        ({"depth": []}, "depth is empty; give it at least one value"),
        ({"depth": [1, 2, 1]}, r"depth=\[1, 2, 1\] names one value twice"),
        ({"norm": "batch"}, r"norm='batch' .* must be a list of values; write norm=\[\.\.\.\]"),
        ({"depth": 20}, r"depth=20 \(int\) must be a list of values"),
    ],
)
def test_bad_axes_are_refused(axes, match):
    with pytest.raises(ValueError, match=match):
        study.grid(Config(), **axes)


@pytest.mark.parametrize("config", [Config, {"depth": 8}, 3])
def test_what_is_no_configuration_is_refused(config):
    with pytest.raises(TypeError, match=r"^config=.* must be an instance of a dataclass"):
        study.grid(config, depth=[1])


@pytest.mark.parametrize("of", [np.array, jnp.array, lambda v: [np.int64(one) for one in v]])
def test_numbers_of_arrays_become_pythons(of):
    found = study.grid(Config(), depth=of([2, 5]), scales=[np.array([0.5, 2.0])])
    assert found == study.grid(Config(), depth=[2, 5], scales=[(0.5, 2.0)])
    assert all(type(one.depth) is int for one in found)
    assert study.key(found[0], "1") == study.key(Config(2, scales=(0.5, 2.0)), "1")
