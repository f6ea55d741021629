"""Dropout and stochastic depth: what is drawn, and what stays on average."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jnp.asarray(1 + np.random.default_rng(0).random((4000, 3, 2)), jnp.float32)
drops = pytest.mark.parametrize("kind", [nn.Dropout, nn.StochasticDepth])


@drops
@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_entries_are_dropped_at_the_rate_and_the_mean_is_kept(kind, rate):
    y = np.asarray(kind(rate)(X, train=True, rngs=nnx.Rngs(dropout=1)))
    kept = y != 0
    np.testing.assert_allclose(y[kept], np.asarray(X)[kept] / (1 - rate), rtol=1e-5)
    draws = kept.size if kind is nn.Dropout else len(kept)
    error = 5 * np.sqrt(rate * (1 - rate) / draws)
    assert abs(kept.mean() - (1 - rate)) < error
    assert abs(y.mean() / X.mean() - 1) < 2 * error / (1 - rate)


def test_stochastic_depth_drops_whole_examples_and_dropout_does_not():
    whole = nn.StochasticDepth(0.5)(X, train=True, rngs=nnx.Rngs(1)) == 0
    single = nn.Dropout(0.5)(X, train=True, rngs=nnx.Rngs(1)) == 0
    assert (whole.all((1, 2)) == whole.any((1, 2))).all()
    assert (single.all((1, 2)) != single.any((1, 2))).mean() > 0.9


@drops
def test_every_call_draws_anew_from_the_dropout_stream(kind):
    rngs = nnx.Rngs(dropout=1, params=2)
    first, second = (kind(0.5)(X, train=True, rngs=rngs) for _ in range(2))
    assert (first != second).any()
    assert int(rngs.dropout.count[...]) == 2
    assert int(rngs.params.count[...]) == 0
    again = kind(0.5)(X, train=True, rngs=nnx.Rngs(dropout=1))
    np.testing.assert_array_equal(again, first)


@drops
def test_nothing_is_drawn_where_nothing_is_dropped(kind):
    np.testing.assert_array_equal(kind(0.5)(X, rngs=nnx.Rngs(1)), X)
    np.testing.assert_array_equal(kind(0.0)(X, train=True), X)


@drops
def test_bad_input_is_refused(kind):
    for rate in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match=rf"rate={rate} must be at least 0 and less than 1"):
            kind(rate)
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(rate=0.5\) with train=True needs"):
        kind(0.5)(X, train=True)
