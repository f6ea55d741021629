"""Small networks of shapes alone, for the tests of what a network costs."""

from flax import nnx

from convjax import nn


def abstract(make):
    """Make a network of shapes, which no initialiser has to fill."""
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def conv(rngs, fan=(3, 8), size=(3, 2), **options):
    return nn.Conv(*fan, size, rngs=rngs, **{"padding": "VALID", "use_bias": False, **options})


def mixed(rngs, repeat=nn.Repeat):
    """Return a small network with everything in which paths and sums could go wrong."""

    def unit(rngs):
        branch = nn.Chain(norm=nn.BatchNorm(4, rngs=rngs), conv=conv(rngs, (4, 4), padding="SAME"))
        return nn.Residual(branch, scale=0.5, activation=nn.Activation("relu"))

    def inner(rngs):
        return nn.Chain(conv=conv(rngs, (4, 4), padding=((1, 1), (0, 1))))

    def nested(rngs):
        up = nn.ConvTranspose(4, 4, (3, 2), strides=2, rngs=rngs)
        return nn.Chain(up=up, inner=repeat(inner, 2, rngs=rngs), down=nn.Pool("avg", (2, 2)))

    return nn.Chain(
        stem=nn.Conv(3, 4, (3, 3), strides=2, rngs=rngs),
        body=repeat(unit, 3, rngs=rngs),
        nested=repeat(nested, 3, rngs=rngs),
        sides=nn.Parallel(a=nn.Identity(), b=nn.Dropout(0.5)),
        gated=nn.Residual(nn.SqueezeExcite(8, 2, rngs=rngs), nn.Gate(8, rngs=rngs)),
        head=nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(8, 5, rngs=rngs)),
    )


def written_out(make, n, *, rngs):
    return nn.Chain([make(rngs) for _ in range(n)])
