"""Recipes: their refusals, their schedules, their optimisers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import train
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import small

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimiser": "sdg"}, r"optimiser='sdg' is not known; did you mean 'sgd'"),
        ({"precision": "float64"}, "precision='float64' is not known"),
        ({"schedule": "cos"}, "schedule='cos' is not known"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"watch": -1}, "watch=-1 must be at least 0"),
        ({"average": 1.0}, r"average=1\.0 must be at least 0 and less than 1"),
        ({"clip": 0.0}, r"clip=0\.0 must be greater than 0"),
        ({"boundaries": (3,)}, "the schedule 'steps', and no other, needs boundaries"),
        ({"schedule": "steps"}, "the schedule 'steps', and no other, needs boundaries"),
        ({"schedule": "steps", "boundaries": (9, 3)}, "must rise"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given, said):
    with pytest.raises(ValueError, match=said):
        train.Recipe(**given)


def test_schedules_are_their_formulas():
    common = {"steps": 50, "learning_rate": 0.4, "warmup": 10, "warmup_from": 0.25}
    expected = {
        "constant": lambda s: 0.4,
        "linear": lambda s: 0.4 * (1 - (s - 10) / 40),
        "cosine": lambda s: 0.2 * (1 + math.cos(math.pi * (s - 10) / 40)),
        "steps": lambda s: 0.4 * 0.5 ** sum(s >= b for b in (20, 33)),
    }
    for name, after in expected.items():
        more = {"boundaries": (20, 33), "factor": 0.5} if name == "steps" else {}
        rate = train.schedule_of(train.Recipe(schedule=name, **common, **more))
        for step in (0, 3, 10, 11, 19, 20, 32, 33, 49):
            want = 0.4 * (0.25 + 0.75 * step / 10) if step < 10 else after(step)
            assert float(rate(step)) == pytest.approx(want, rel=1e-5, abs=1e-6), (name, step)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 5, "warmup": 5}, "warmup=5 must be less than steps=5"),
        ({"schedule": "steps", "boundaries": (3,), "warmup": 4}, "reaches the boundary 3"),
    ],
)
def test_schedules_that_cannot_be_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        train.Recipe(**given)


@pytest.mark.every(2)
@pytest.mark.parametrize("name", train.OPTIMISERS)
def test_every_optimiser_moves_every_parameter(name):
    net = small("none")
    recipe = train.Recipe(optimiser=name, options={}, learning_rate=0.1, schedule="constant")
    state = train.start(net, recipe)
    rule = train.optimiser_of(net, recipe)
    grads = jax.tree.map(
        lambda w: jnp.asarray(0.1 + np.sin(np.arange(w.size, dtype=np.float32)).reshape(w.shape)),
        state.params,
    )
    updates, _ = rule.update(grads, state.optimiser, state.params)
    for update, grad in zip(*map(jax.tree.leaves, (updates, grads)), strict=True):
        assert np.isfinite(update).all()
        assert np.vdot(update, grad) < 0


def test_an_option_that_the_optimiser_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"adamw does not take 'momentum'; it takes b1, b2"):
        train.Recipe(optimiser="adamw", options={"momentum": 0.9})


def test_sgd_alone_has_momentum_unless_told():
    assert train.Recipe().options == {"momentum": 0.9, "nesterov": True}
    assert train.Recipe(options={}).options == train.Recipe(optimiser="lion").options == {}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_leaves_norms_biases_and_scales_out_unless_told(name):
    net = small()
    for decayed, spared in (("kernels", True), ("all", False)):
        recipe = train.Recipe(
            optimiser=name, options={}, decayed=decayed, weight_decay=0.5, schedule="constant"
        )
        state = train.start(net, recipe)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        updates, _ = train.optimiser_of(net, recipe).update(zeros, state.optimiser, state.params)
        scale = np.asarray(updates["body"]["unit"]["branch"]["norm"]["scale"])
        assert (not scale.any()) == spared
        kernel = state.params["stem"]["kernel"]
        np.testing.assert_allclose(updates["stem"]["kernel"], -0.05 * kernel, rtol=1e-5)
