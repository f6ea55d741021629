"""Rates and the begin of training by stages, against steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convjax import models, nn, train
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import small

pytestmark = pytest.mark.usefixtures("quick_compilation")


def tree(net):
    return nnx.to_pure_dict(nnx.state(net, nnx.Param))


def leaves(params):
    found = jax.tree.leaves_with_path(params)
    return {"/".join(str(part.key) for part in path): np.array(v) for path, v in found}


def normed():
    net, rngs = small(), nnx.Rngs(3)
    units = {"stem": net.stem, "norm": nn.BatchNorm(4, rngs=rngs), "body": net.body}
    return nn.Chain({**units, "pool": net.pool, "dense": net.dense})


def test_each_stage_moves_by_its_share_and_a_norm_goes_with_the_stage_before(source):
    net = normed()
    recipe = train.Recipe(steps=1, dispatch=1, weight_decay=0.1, options={"momentum": 0.9})
    plain = train.fit(net, source, recipe).net
    scaled = optax.chain(train.optimiser_of(net, recipe), train.layerwise(net, decay=0.5))
    fitted = train.fit(net, source, recipe, optimiser=scaled).net
    before, whole, shared = (leaves(tree(one)) for one in (net, plain, fitted))
    share = {"stem": 0.25, "norm": 0.25, "body": 0.5, "dense": 1.0}
    for path, start in before.items():
        expected = share[path.split("/")[0]] * (whole[path] - start)
        np.testing.assert_allclose(shared[path] - start, expected, atol=2e-6, err_msg=path)


def test_rates_of_a_part_are_those_of_the_whole(source):
    net = normed()
    split = models.freeze(net, "norm")
    recipe = train.Recipe(steps=1, dispatch=1)  # weights decay
    scaled = optax.chain(train.optimiser_of(net, recipe), train.layerwise(net, decay=0.0625))
    ends = [
        leaves(tree(train.fit(net, source, recipe, frozen=split, optimiser=one).net))
        for one in (None, scaled)
    ]
    for path, start in leaves(tree(net)).items():
        share = {"dense": 1.0, "body": 0.0625}.get(path.split("/")[0], 0.0)
        np.testing.assert_allclose(
            ends[1][path] - start, share * (ends[0][path] - start), atol=2e-6
        )


@pytest.mark.parametrize("together", [False, True])
def test_stages_begin_in_their_turn(together):
    net = normed()
    params = tree(net)
    gradients = jax.tree.map(jnp.ones_like, params)
    rule = train.unfreezing(
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9)),
        net,
        every=2,
        together=together,
    )
    state, first = rule.init(params), {}
    for step in range(6):
        updates, state = jax.jit(rule.update)(gradients, state, params)
        for path, update in leaves(updates).items():
            if np.any(update):
                first.setdefault(path.split("/")[0], step)
    begins = {"dense": 0, "body": 2, "norm": 2 if together else 4, "stem": 2 if together else 4}
    assert first == begins


def test_units_of_a_network_that_is_no_expression(source):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.second = nnx.Linear(3, 2, rngs=rngs)
            self.first = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.second(self.first(x))

    net = Net(nnx.Rngs(0))
    ones = jax.tree.map(jnp.ones_like, tree(net))
    rates = train.layerwise(net, decay=0.5, units=["first", "second"])
    scaled, _ = rates.update(ones, rates.init(ones))
    assert scaled["first"]["kernel"].max() == 0.5 and scaled["second"]["kernel"].min() == 1.0
    with pytest.raises(ValueError, match=r"net=Net is no combinator of convjax\.nn"):
        train.layerwise(net, decay=0.5)
    with pytest.raises(ValueError, match=r"net=Dense is no combinator of convjax\.nn"):
        train.layerwise(nn.Dense(3, 2, rngs=nnx.Rngs(0)), decay=0.5)
    with pytest.raises(ValueError, match="units: 'second/bias' is in none of them"):
        train.layerwise(net, decay=0.5, units=["first"])
    with pytest.raises(ValueError, match="units: 'third' holds no parameter"):
        train.layerwise(net, decay=0.5, units=["first", "second", "third"])


@pytest.mark.parametrize("decay", [0.0, -1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"^decay="):
        train.layerwise(normed(), decay=decay)
