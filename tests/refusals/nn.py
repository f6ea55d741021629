"""Nodes and initialisers: NumPy's numbers are taken, and whatever else is put in their place."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from convjax import nn
from convjax.nn import initializers
from tests.refusals._odd import ODD

RNGS = nnx.Rngs(0)
UNIT = nn.Identity()
X = np.ones((2, 6, 5, 4))

# What makes every node, and the same by NumPy's numbers.
MADE = {
    "Conv": ((4, 6, (3, 2)), {"strides": 2, "kernel_dilation": (1, 2), "feature_group_count": 2}),
    "DepthwiseConv": ((4, (3, 2)), {"channel_multiplier": 2, "padding": ((1, 0), (0, 1))}),
    "PointwiseConv": ((4, 6), {"rank": 2, "strides": (2, 1)}),
    "separable_conv": ((4, 6, 3), {"strides": 2}),
    "ConvTranspose": ((4, 6, (3, 2)), {"strides": 2, "padding": 1, "output_padding": (1, 0)}),
    "Dense": ((4, 6), {}),
    "BatchNorm": ((4,), {"momentum": 0.5, "epsilon": 0.25}),
    "GroupNorm": ((4,), {"num_groups": 2, "epsilon": 0.25}),
    "LayerNorm": ((4,), {"epsilon": 0.25}),
    "ResponseNorm": ((4,), {"epsilon": 0.25}),
    "SqueezeExcite": ((4, 2), {"rank": 2}),
    "Gate": ((4,), {"kernel_size": (1, 1), "bias": -2.0}),
    "Scale": ((0.5,), {"learnable": True, "features": 4}),
    "Pool": (("max", (2, 3)), {"strides": 2, "padding": 1}),
    "GlobalPool": (("avg",), {}),
    "ZeroPadShortcut": ((4, 6), {"strides": 2}),
    "Dropout": ((0.5,), {}),
    "StochasticDepth": ((0.5,), {}),
    "Activation": (("relu",), {}),
    "Residual": ((UNIT,), {"scale": 0.5}),
    "norm": (("group", 4), {}),
}
WRONG = {**ODD, "too deep": [[[[1]]]]}
FINE = {
    *(("axis_name", "a string"), ("bias", "minus one half"), ("scale", "minus one half")),
    *(("value", "minus one half"), ("gain", "minus one half")),
}


def numpyish(value):
    """The same by NumPy's numbers."""
    if isinstance(value, bool | str | nnx.Module):
        return value
    if isinstance(value, tuple):
        return np.array(value)
    return np.int64(value) if isinstance(value, int) else np.float64(value)


def maker(kind):
    return getattr(nn, kind)


def parameters(kind):
    function = maker(kind)
    function = function.__init__ if inspect.isclass(function) else function
    known = inspect.signature(function).parameters.values()
    return [p.name for p in known if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def make(kind, /, **changed):
    args, options = MADE[kind]
    names = parameters(kind)
    given = {**dict(zip(names, args, strict=False)), **options}
    if "rngs" in names:
        given["rngs"] = nnx.Rngs(0)
    return maker(kind)(**{**given, **changed})


def equal(kind):
    def compare():
        args, options = MADE[kind]
        given = {**dict(zip(parameters(kind), args, strict=False)), **options}
        one = nnx.split(make(kind))[0]
        other = nnx.split(make(kind, **{k: numpyish(v) for k, v in given.items()}))[0]
        return one == other and hash(one) == hash(other)

    return compare


def odd_ones():
    for kind in MADE:
        for name in parameters(kind):
            for what, value in WRONG.items():
                if (name, what) not in FINE:
                    call = functools.partial(make, kind, **{name: value})
                    yield f"{kind}, {name}: {what}", (call, rf"\b{name}\b")


def taking(kind, **options):
    """Whether a node takes NumPy's image and gives what JAX's image gives."""

    def compare():
        node = make(kind, **options)
        found, expected = node(X), node(jnp.asarray(X))
        return found.dtype == np.float32 and bool((found == expected).all())

    return compare


def called(kind, x=X, **mode):
    return lambda: make(kind)(x, **mode)


DRAWS = {
    "he_normal": initializers.he_normal(),
    "orthogonal": initializers.Orthogonal(),
    "delta": initializers.DeltaOrthogonal(),
    "dirac": initializers.Dirac(),
    "constant": initializers.Constant(2.0),
}
KEY = jax.random.key(0)


def abstract(make):
    """Whether a network is outlined that no memory could hold."""
    return lambda: nnx.split(nnx.eval_shape(make))[1] is not None


LARGE = 10**10


def large(kind, *args, **options):
    return lambda: getattr(nn, kind)(*args, **options, rngs=nnx.Rngs(0))


CASES = {
    **{f"{kind}: NumPy's numbers": (equal(kind), None) for kind in MADE},
    **{
        f"{kind}: NumPy's images": (taking(kind), None)
        for kind in MADE
        if kind not in ("norm", "separable_conv")
    },
    **dict(odd_ones()),
    **{
        f"{kind}: a list for an image": (called(kind, [1.0, 2.0]), r"\bx=\[1\.0, 2\.0\]")
        for kind in MADE
    },
    "a mode that is none": (called("BatchNorm", train="yes"), "^train='yes'"),
    "a seed for a stream": (called("Dropout", train=True, rngs=0), r"^rngs=0 \(int\)"),
    "no stream": (called("Dropout", train=True, rngs=nnx.Rngs(a=0)), "no stream 'dropout'"),
    "no stream of parameters": (
        lambda: nn.Dense(3, 4, rngs=nnx.Rngs(dropout=0)),
        r"rngs has no stream 'params'",
    ),
    "padding misspelt": (
        lambda: nn.Conv(3, 4, 3, padding="SMAE", rngs=RNGS),
        "^padding='SMAE'.*did you mean 'SAME'",
    ),
    "causal images": (
        lambda: nn.Conv(3, 4, (3, 3), padding="CAUSAL", rngs=RNGS),
        "^padding='CAUSAL' is for 1 spatial axis",
    ),
    "a mirror transposed": (
        lambda: nn.ConvTranspose(3, 4, 3, padding="REFLECT", rngs=RNGS),
        "^padding='REFLECT' is not known",
    ),
    "strides of three axes": (
        lambda: nn.Conv(3, 4, (3, 3), strides=(1, 1, 1), rngs=RNGS),
        r"^strides=\(1, 1, 1\) has 3 entries for 2 spatial axes",
    ),
    "a window of four axes": (lambda: nn.Conv(3, 4, (1,) * 4, rngs=RNGS), "^kernel_size=.* 1 to 3"),
    "an initialiser that was not called": (
        lambda: nn.Conv(3, 4, 3, kernel_init=initializers.he_normal, rngs=RNGS),
        "^kernel_init=.* must be an initialiser",
    ),
    "an initialiser of JAX's that was not called": (
        lambda: nn.Conv(3, 4, 3, kernel_init=jax.nn.initializers.he_normal, rngs=RNGS),
        "^kernel_init=.* must be an initialiser",
    ),
    "an initialiser of another shape": (
        lambda: nn.Dense(3, 4, bias_init=lambda key, shape, dtype: jnp.ones(7), rngs=RNGS),
        r"^bias_init=.* it made <float32 of the shape \(7,\)>",
    ),
    "an initialiser of NumPy's": (
        lambda: nn.Dense(3, 4, bias_init=lambda key, shape, dtype: np.ones(shape), rngs=RNGS),
        None,
    ),
    "an option of another norm": (
        lambda: nn.norm("batch", 3, num_groups=2, rngs=RNGS),
        "^batch: option='num_groups' is not known; .*momentum",
    ),
    # Chains and other combinators.
    "units one by one": (
        lambda: nn.Chain(UNIT, nn.Scale(2.0)).names == ("0", "1") and len(nn.Parallel(UNIT)) == 1,
        None,
    ),
    "a chain in a chain": (lambda: len(nn.Chain(nn.Chain(UNIT, UNIT))) == 1, None),
    "a generator of units": (lambda: len(nn.Chain(nn.Scale(s) for s in (1.0, 2.0))) == 2, None),
    "units by NumPy's numbers": (lambda: nn.Chain(UNIT)[np.int64(0)] is UNIT, None),
    "a number for units": (lambda: nn.Chain(3), r"^Chain: units=3 \(int\)"),
    "a string for units": (lambda: nn.Parallel("relu"), r"^Parallel: units='relu' \(str\)"),
    "a function for a unit": (lambda: nn.Chain([UNIT, jnp.tanh])[1].name == "tanh", None),
    "a function alone": (lambda: len(nn.Chain(jnp.tanh)) == 1, None),
    "a layer of Flax's": (lambda: len(nn.Chain(a=nnx.Linear(3, 4, rngs=nnx.Rngs(0)))) == 1, None),
    "a layer that needs more than x": (
        lambda: nn.Chain(a=nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))),
        "unit 'a'=LSTMCell cannot be called with one array, .* needs 'inputs' as well",
    ),
    "what cannot be called": (
        lambda: nn.Chain(a=nnx.List([UNIT])),
        "unit 'a'=List cannot be called; give a module with a __call__",
    ),
    "a layer of Linen's": (
        lambda: nn.Chain(a=linen.Dense(3)),
        "unit 'a'=Dense.*; nn.Function.* makes a module of another framework's",
    ),
    "a method for a unit": (
        lambda: nn.Chain(a=UNIT.__call__),
        "unit 'a'=.*; give the module whose method this is",
    ),
    "a function around a module": (
        lambda: nn.Chain(a=(lambda layer: lambda x: layer(x))(UNIT)),
        "unit 'a': the function uses 'layer' .* from around it",
    ),
    "None for a unit": (lambda: nn.Chain(a=None), "unit 'a'=None"),
    "a class for a unit": (lambda: nn.Chain(act=nn.Identity), "unit 'act'=.*not a class"),
    "units beside a list": (lambda: nn.Chain(UNIT, [UNIT]), r"unit '1'=\["),
    "a number for a name": (lambda: nn.Chain({1: UNIT}), "1 cannot name a unit"),
    "a unit that is not there": (lambda: nn.Chain(UNIT)[3], "^key=3: there are 1 units"),
    "a function for a branch": (lambda: nn.Residual(jnp.tanh).branch.name == "tanh", None),
    "a string for a branch": (lambda: nn.Residual("tanh"), "^branch='tanh'.*or a function"),
    "a name for an activation": (lambda: nn.Residual(UNIT, activation="relu"), "^activation='re"),
    "a shortcut misspelt": (lambda: nn.Residual(UNIT, "identiy"), "^shortcut='identiy'.*identity"),
    "NumPy's repeats": (
        lambda: (
            nnx.split(nn.Repeat(lambda rngs: nn.Scale(1.0), np.int64(3), rngs=RNGS))[0]
            == nnx.split(nn.Repeat(lambda rngs: nn.Scale(1.0), 3, rngs=RNGS))[0]
        ),
        None,
    ),
    "half a repeat": (lambda: nn.Repeat(lambda rngs: UNIT, 1.5, rngs=RNGS), r"^n=1\.5 \(float\)"),
    "a module for its maker": (lambda: nn.Repeat(5, 3, rngs=RNGS), r"^make_unit=5 \(int\)"),
    "a node for its maker": (
        lambda: nn.Repeat(UNIT, 3, rngs=RNGS),
        "^make_unit=.*a function of rngs",
    ),
    "a maker of nothing": (
        lambda: nn.Repeat(lambda rngs: 5, 3, rngs=RNGS),
        r"^make_unit\(rngs\)=5",
    ),
    "a seed for a repeat": (lambda: nn.Repeat(lambda rngs: UNIT, 3, rngs=0), r"^rngs=0 \(int\)"),
    "a chain that is none": (lambda: nn.Repeat.stacked([UNIT]), r"^chain=\["),
    "a way to run again": (lambda: nn.rematerialise(UNIT, "squirt"), "^remat='squirt'.*'sqrt'"),
    "a net that is none": (lambda: nn.rematerialise(3, "sqrt"), r"^net=3 \(int\)"),
    "a node that is none": (lambda: nn.at(3, "a"), r"^node=3 \(int\)"),
    "a path that is none": (lambda: nn.at(UNIT, 3), r"^path=3 \(int\)"),
    "a walk from nowhere": (lambda: nn.walk([UNIT]), r"^node=\["),
    "a walk along a number": (lambda: nn.walk(UNIT, 5), r"^path=5 \(int\)"),
    "a walk in half a repeat": (lambda: nn.walk(UNIT, "", (0.5,)), r"^repeats\[0\]=0\.5"),
    "children of a number": (lambda: nn.children(3), r"^node=3 \(int\)"),
    "a path to join": (lambda: nn.join(3, "a"), r"^path=3 \(int\)"),
    "a name to join": (lambda: nn.join("a", 3), r"^name=3 \(int\)"),
    # Initialisers.
    **{
        f"{name}: NumPy's shape": (
            lambda init=init: init(KEY, np.array([3, 3, 4, 4]), np.float32).shape == (3, 3, 4, 4),
            None,
        )
        for name, init in DRAWS.items()
    },
    **{
        f"{name}: half a shape": (lambda init=init: init(KEY, (3, 2.5)), r"^shape\[1\]=2\.5")
        for name, init in DRAWS.items()
    },
    **{
        f"{name}: a whole dtype": (
            lambda init=init: init(KEY, (3, 3), "int32"),
            "^dtype=int32 must",
        )
        for name, init in DRAWS.items()
    },
    "a seed for a key": (lambda: DRAWS["he_normal"](0, (3, 4)), r"^key=0 \(int\)"),
    "a seed for another key": (lambda: DRAWS["orthogonal"](0, (3, 4)), r"^key=0 \(int\)"),
    "infinite gain": (lambda: initializers.Orthogonal(np.inf), "^gain=inf must be finite"),
    "a gain that is none": (lambda: initializers.Dirac("1"), r"^gain='1' \(str\)"),
    "half a group": (lambda: initializers.Dirac(1.0, 0.5), r"^feature_group_count=0\.5"),
    "a NaN everywhere": (lambda: initializers.Constant(np.nan), "^value=nan must be finite"),
    "infinite scale": (lambda: initializers.VarianceScaling(np.inf), "^scale=inf must be finite"),
    "NumPy's scale": (
        lambda: (
            initializers.VarianceScaling(np.float32(2), feature_group_count=np.int64(1))
            == initializers.he_normal()
        ),
        None,
    ),
    "fans of a number": (lambda: initializers.fans(3), r"^shape=3 \(int\)"),
    "fans of no inputs": (lambda: initializers.fans((3, 0, 4)), r"^shape\[1\]=0 must be at least"),
    "fans of no group": (lambda: initializers.fans((3, 4), 0), "^feature_group_count=0 must be"),
    "no initialiser": (lambda: initializers.get(3), r"^init=3 \(int\)"),
    "nothing for groups": (lambda: initializers.for_groups(3, 2), r"^init=3 \(int\)"),
    # More than memory holds.
    "a matrix too large": (
        large("Dense", LARGE, 4),
        f"^in_features={LARGE}, out_features=4: .*GiB",
    ),
    "too many windows": (large("Conv", 4, LARGE, (3, 3)), rf"^kernel_size=\(3, 3\).*={LARGE}: "),
    "too many channels": (large("BatchNorm", 10**12), "^num_features=10{12}: "),
    "too many scales": (
        lambda: nn.Scale(1.0, learnable=True, features=10**12),
        "^features=10{12}: ",
    ),
    "too many units": (
        lambda: nn.Repeat(lambda rngs: nn.Dense(64, 64, rngs=rngs), 10**9, rngs=RNGS),
        "^n=1000000000: ",
    ),
    "too large for anything": (
        abstract(large("Dense", 2**40, 2**40)),
        r"out_features=1099511627776: .*fewer than 2\^63 bytes",
    ),
    "too large, and outlined": (abstract(large("Dense", LARGE, 4)), None),
    "too many, and outlined": (
        abstract(
            lambda: nn.Repeat(lambda rngs: nn.Dense(64, 64, rngs=rngs), 10**9, rngs=nnx.Rngs(0))
        ),
        None,
    ),
}
