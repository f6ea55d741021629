"""What no argument of a network's can be, and numbers that none may have."""

from convjax import nn

ODD = {
    "an object": object(),
    "a set": {1.5},
    "a list of halves": [1.5, 2.5],
    "a string": "wrong",
    "minus one half": -0.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a class": nn.Identity,
    "a dict": {"a": 1},
}
