"""Criteria fail on what is no number, and refuse tolerances that nothing could miss."""

import numpy as np
import pytest

from convjax import lab

NAN, INF = float("nan"), float("inf")
GOOD = lab.Mean("good", np.array([0.9, 1.2]), 1.0)


@pytest.mark.parametrize("values", [[NAN, 1.0], [INF, 1.0], [1e300, 1e-300]])
@pytest.mark.parametrize("tolerance", [{"errors": 3}, {"relative": 0.1}])
@pytest.mark.parametrize("order", [1, -1])
def test_a_mean_that_is_not_finite_is_the_worst_and_fails(values, tolerance, order):
    for odd in (lab.Mean("odd", np.array(values), 1.0), lab.Mean("odd", np.ones(2), values[0])):
        with np.errstate(all="ignore"):
            (found,) = lab.worst(str, [GOOD, odd, GOOD][::order], **tolerance)
        assert found.claim == "odd (worst of 3)" and not found.holds


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lab.within("x", 9, 1, relative=INF), "relative=inf must be finite"),
        (lambda: lab.within("x", 9, 1, absolute=INF), "absolute=inf must be finite"),
        (lambda: lab.within("x", 9, 1, relative=-0.1), "relative=-0.1 must be at least 0"),
        (lambda: lab.within_errors("x", 9, 1, 0.1, errors=INF), "errors=inf must be finite"),
        (lambda: lab.within_errors("x", 9, 1, -0.1), "error=-0.1 must be at least 0"),
        (lambda: lab.worst("x", [GOOD], errors=NAN), "errors=nan must be finite"),
    ],
)
def test_a_tolerance_is_finite_and_not_negative(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("error", [NAN, INF])
def test_a_standard_error_that_is_not_finite_fails_in_words(error):
    found = lab.within_errors("x", 1, 1, error)
    assert not found.holds and "too few seeds" in found.expected
    assert not lab.within("x", INF, INF, relative=0.1).holds
