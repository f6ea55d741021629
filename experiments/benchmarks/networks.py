"""The networks of ``bench-models`` as expressions.

Each is what PyTorch's timm holds under the same name, ResNet-56 what its paper says: padding is
explicit and symmetric, and no convolution has a bias, since a batch norm follows each.
"""

from flax import nnx

from convjax import models, nn

# Features and strides of the separable units.
MOBILENET_V1 = (
    (64, 1),
    *((128, 2), (128, 1)),
    *((256, 2), (256, 1)),
    *((512, 2), *((512, 1),) * 5),
    *((1024, 2), (1024, 1)),
)
# Expansion, features, units and strides of the stages.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Narrow features, units and strides of the stages.
RESNET_50 = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def mobilenet_v1(*, num_classes: int = 1000, rngs: nnx.Rngs) -> nn.Chain:
    """Return MobileNetV1 (Howard et al. 2017) of width 1, with ReLU6 as in its authors' code."""

    def unit(fan: tuple[int, int], strides: int) -> nn.Chain:
        return nn.Chain(
            depthwise=depthwise(fan[0], strides, activation="relu6", rngs=rngs),
            pointwise=pointwise(fan, activation="relu6", rngs=rngs),
        )

    units: list[nnx.Module] = []
    features = 32
    for out_features, strides in MOBILENET_V1:
        units.append(unit((features, out_features), strides))
        features = out_features
    return nn.Chain(
        stem=conv((3, 32), 3, 2, activation="relu6", rngs=rngs),
        body=nn.Chain(units),
        head=head(features, num_classes, rngs=rngs),
    )


def mobilenet_v2(*, num_classes: int = 1000, rngs: nnx.Rngs) -> nn.Chain:
    """Return MobileNetV2 (Sandler et al. 2018) of width 1."""

    def unit(fan: tuple[int, int], expansion: int, strides: int) -> nnx.Module:
        wide = expansion * fan[0]
        branch: dict[str, nnx.Module] = {}
        if expansion != 1:
            branch["expand"] = pointwise((fan[0], wide), activation="relu6", rngs=rngs)
        branch["depthwise"] = depthwise(wide, strides, activation="relu6", rngs=rngs)
        branch["project"] = pointwise((wide, fan[1]), activation=None, rngs=rngs)
        kept = strides == 1 and fan[0] == fan[1]
        return nn.Residual(nn.Chain(branch)) if kept else nn.Chain(branch)

    units: list[nnx.Module] = []
    features = 32
    for expansion, out_features, count, strides in MOBILENET_V2:
        for i in range(count):
            units.append(unit((features, out_features), expansion, strides if i == 0 else 1))
            features = out_features
    return nn.Chain(
        stem=conv((3, 32), 3, 2, activation="relu6", rngs=rngs),
        body=nn.Chain(units),
        last=pointwise((features, 1280), activation="relu6", rngs=rngs),
        head=head(1280, num_classes, rngs=rngs),
    )


def resnet_50(*, num_classes: int = 1000, rngs: nnx.Rngs) -> nn.Chain:
    """Return ResNet-50 (He et al. 2015), with the strides on the 3x3 convolutions."""

    def unit(in_features: int, narrow: int, strides: int) -> nn.Residual:
        out_features = 4 * narrow
        branch = nn.Chain(
            reduce=pointwise((in_features, narrow), rngs=rngs),
            conv=conv((narrow, narrow), 3, strides, rngs=rngs),
            expand=pointwise((narrow, out_features), activation=None, rngs=rngs),
        )
        fan = (in_features, out_features)
        kept = in_features == out_features
        beside = "identity" if kept else pointwise(fan, strides, activation=None, rngs=rngs)
        return nn.Residual(branch, beside, activation=nn.Activation("relu"))

    units: list[nnx.Module] = []
    features = 64
    for narrow, count, strides in RESNET_50:
        for i in range(count):
            units.append(unit(features, narrow, strides if i == 0 else 1))
            features = 4 * narrow
    return nn.Chain(
        stem=conv((3, 64), 7, 2, rngs=rngs),
        pool=nn.Pool("max", (3, 3), strides=2, padding=1),
        body=nn.Chain(units),
        head=head(features, num_classes, rngs=rngs),
    )


def xception(*, num_classes: int = 1000, rngs: nnx.Rngs) -> nn.Chain:
    """Return Xception (Chollet 2017): entry flow, eight equal units, exit flow."""

    def step(fan: tuple[int, int], activation: bool = True) -> nn.Chain:
        """Return one separable convolution of a branch, its activation before it."""
        relu = {"activation": nn.Activation("relu")} if activation else {}
        return nn.Chain({**relu, "conv": separable(fan, rngs), "norm": norm(fan[1], rngs)})

    def halving(fan: tuple[int, int], middle: int, activation: bool = True) -> nn.Residual:
        branch = nn.Chain(
            step1=step((fan[0], middle), activation),
            step2=step((middle, fan[1])),
            pool=nn.Pool("max", (3, 3), strides=2, padding=1),
        )
        return nn.Residual(branch, pointwise(fan, 2, activation=None, rngs=rngs))

    def keeping() -> nn.Residual:
        return nn.Residual(nn.Chain({f"step{i}": step((728, 728)) for i in (1, 2, 3)}))

    def after(fan: tuple[int, int]) -> nn.Chain:
        return nn.Chain(
            conv=separable(fan, rngs), norm=norm(fan[1], rngs), activation=nn.Activation("relu")
        )

    return nn.Chain(
        stem=nn.Chain(
            conv1=conv((3, 32), 3, 2, padding=0, rngs=rngs),
            conv2=conv((32, 64), 3, padding=0, rngs=rngs),
        ),
        entry=nn.Chain(
            [halving((64, 128), 128, False), halving((128, 256), 256), halving((256, 728), 728)]
        ),
        middle=nn.Chain([keeping() for _ in range(8)]),
        exit=nn.Chain(
            unit=halving((728, 1024), 728), conv3=after((1024, 1536)), conv4=after((1536, 2048))
        ),
        head=head(2048, num_classes, rngs=rngs),
    )


def resnet_56(*, num_classes: int = 10, rngs: nnx.Rngs) -> nn.Chain:
    """Return ResNet-56 for CIFAR, each unit written out.

    Inside a scan XLA's own convolutions would run with scalar code: no peer has to go there.
    """
    return written_out(models.resnet_cifar(56, num_classes=num_classes, rngs=rngs))


def written_out(net: nn.Chain) -> nn.Chain:
    """Return a chain of chains with every repeat in it as the chain that it stands for."""

    def of(unit: nnx.Module) -> nnx.Module:
        if isinstance(unit, nn.Repeat):
            return unit.unrolled()
        return written_out(unit) if isinstance(unit, nn.Chain) else unit

    return nn.Chain({name: of(unit) for name, unit in net.items()})


def norm(features: int, rngs: nnx.Rngs) -> nn.BatchNorm:
    """Return a batch norm."""
    return nn.BatchNorm(features, rngs=rngs)


def conv(
    fan: tuple[int, int],
    side: int,
    strides: int = 1,
    *,
    padding: int | None = None,
    activation: str | None = "relu",
    rngs: nnx.Rngs,
) -> nn.Chain:
    """Return a square convolution and what follows it; without ``padding``, half its side."""
    padding = side // 2 if padding is None else padding
    return followed(
        nn.Conv(
            *fan,
            (side, side),
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_init="he",
            rngs=rngs,
        ),
        fan[1],
        activation,
        rngs,
    )


def depthwise(features: int, strides: int, *, activation: str, rngs: nnx.Rngs) -> nn.Chain:
    """Return a depthwise 3x3 convolution and what follows it."""
    deep = nn.DepthwiseConv(
        features,
        (3, 3),
        strides=strides,
        padding=1,
        use_bias=False,
        kernel_init="he",
        rngs=rngs,
    )
    return followed(deep, features, activation, rngs)


def pointwise(
    fan: tuple[int, int],
    strides: int = 1,
    *,
    activation: str | None = "relu",
    rngs: nnx.Rngs,
) -> nn.Chain:
    """Return a 1x1 convolution and what follows it."""
    mix = nn.PointwiseConv(*fan, strides=strides, use_bias=False, kernel_init="he", rngs=rngs)
    return followed(mix, fan[1], activation, rngs)


def separable(fan: tuple[int, int], rngs: nnx.Rngs) -> nn.Chain:
    """Return a depthwise 3x3 and a 1x1 convolution with nothing between the two."""
    return nn.separable_conv(
        *fan,
        (3, 3),
        padding=1,
        use_bias=False,
        kernel_init="lecun",
        pointwise_init="he",
        rngs=rngs,
    )


def followed(
    convolution: nnx.Module, features: int, activation: str | None, rngs: nnx.Rngs
) -> nn.Chain:
    """Return a convolution, batch norm, and the activation if there is one."""
    parts = {"conv": convolution, "norm": norm(features, rngs)}
    return nn.Chain(parts if activation is None else {**parts, "act": nn.Activation(activation)})


def head(features: int, num_classes: int, *, rngs: nnx.Rngs) -> nn.Chain:
    """Return global average pool and classifier."""
    return nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(features, num_classes, rngs=rngs))
