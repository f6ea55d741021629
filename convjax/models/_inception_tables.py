"""The four Inception networks as tables: what every branch of every unit consists of."""

from convjax.models._inception import Conv, Pool, Table

AVG = Pool("avg")
MAX_KEPT = Pool("max")
MAX = Pool("max", strides=2)
CEIL = Pool("max", strides=2, ceil=True)
CEIL_2X2 = Pool("max", 2, strides=2, ceil=True)
ROW_3, COLUMN_3, ROW_7, COLUMN_7 = (1, 3), (3, 1), (1, 7), (7, 1)


def _halving(features: int) -> Conv:
    """Return the 3x3 convolution that ends a branch of a reduction."""
    return Conv(features, 3, 2, valid=True)


def _both(features: int) -> Table:
    """Return a row and a column of three, side by side, in place of a square."""
    return {"1x3": [Conv(features, ROW_3)], "3x1": [Conv(features, COLUMN_3)]}


# Inception v1, table 1 of the paper: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection.
V1_STEM = (Conv(64, 7, 2), CEIL, Conv(64), Conv(192, 3), CEIL)
V1_UNITS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
V1_POOLS = (None, CEIL, CEIL_2X2)


def v1_stages(window: int) -> list[list[Table]]:
    """Return the stages of Inception v1; ``window`` is that of its third branch."""
    return [
        [
            {
                "1x1": [Conv(one)],
                "3x3": [Conv(reduce3), Conv(three, 3)],
                "5x5": [Conv(reduce5), Conv(five, window)],
                "pool": [MAX_KEPT, Conv(pool)],
            }
            for one, reduce3, three, reduce5, five, pool in stage
        ]
        for stage in V1_UNITS
    ]


# The stem of Inception v3 is that of Inception-ResNet v2 too.
V3_STEM = (
    Conv(32, 3, 2, valid=True),
    Conv(32, 3, valid=True),
    Conv(64, 3),
    MAX,
    Conv(80),
    Conv(192, 3, valid=True),
    MAX,
)


def _v3_a(one: int, pool: int) -> Table:
    return {
        "1x1": [Conv(one)],
        "5x5": [Conv(48), Conv(64, 5)],
        "3x3_3x3": [Conv(64), Conv(96, 3), Conv(96, 3)],
        "pool": [AVG, Conv(pool)],
    }


def _v3_c(narrow: int) -> Table:
    row, column = Conv(narrow, ROW_7), Conv(narrow, COLUMN_7)
    return {
        "1x1": [Conv(192)],
        "7x7": [Conv(narrow), row, Conv(192, COLUMN_7)],
        "7x7_7x7": [Conv(narrow), column, row, column, Conv(192, ROW_7)],
        "pool": [AVG, Conv(192)],
    }


_V3_B: Table = {
    "3x3": [_halving(384)],
    "3x3_3x3": [Conv(64), Conv(96, 3), _halving(96)],
    "pool": [MAX],
}
_V3_D: Table = {
    "3x3": [Conv(192), _halving(320)],
    "7x7_3x3": [Conv(192), Conv(192, ROW_7), Conv(192, COLUMN_7), _halving(192)],
    "pool": [MAX],
}
_V3_E: Table = {
    "1x1": [Conv(320)],
    "3x3": [Conv(384), _both(384)],
    "3x3_3x3": [Conv(448), Conv(384, 3), _both(384)],
    "pool": [AVG, Conv(192)],
}
V3_STAGES = (
    (_v3_a(64, 32), _v3_a(64, 64), _v3_a(64, 64)),
    (_V3_B, _v3_c(128), _v3_c(160), _v3_c(160), _v3_c(192)),
    (_V3_D, _V3_E, _V3_E),
)

V4_STEM_4A: Table = {
    "3x3": [Conv(64), Conv(96, 3, valid=True)],
    "7x7_3x3": [Conv(64), Conv(64, ROW_7), Conv(64, COLUMN_7), Conv(96, 3, valid=True)],
}
V4_STEM = (
    Conv(32, 3, 2, valid=True),
    Conv(32, 3, valid=True),
    Conv(64, 3),
    {"pool": [MAX], "3x3": [_halving(96)]},
    V4_STEM_4A,
    {"3x3": [_halving(192)], "pool": [MAX]},
)
V4_A: Table = {
    "1x1": [Conv(96)],
    "3x3": [Conv(64), Conv(96, 3)],
    "3x3_3x3": [Conv(64), Conv(96, 3), Conv(96, 3)],
    "pool": [AVG, Conv(96)],
}
V4_TO_B: Table = {
    "3x3": [_halving(384)],
    "3x3_3x3": [Conv(192), Conv(224, 3), _halving(256)],
    "pool": [MAX],
}
V4_B: Table = {
    "1x1": [Conv(384)],
    "7x7": [Conv(192), Conv(224, ROW_7), Conv(256, COLUMN_7)],
    "7x7_7x7": [
        Conv(192),
        Conv(192, COLUMN_7),
        Conv(224, ROW_7),
        Conv(224, COLUMN_7),
        Conv(256, ROW_7),
    ],
    "pool": [AVG, Conv(128)],
}
V4_TO_C: Table = {
    "3x3": [Conv(192), _halving(192)],
    "7x7_3x3": [Conv(256), Conv(256, ROW_7), Conv(320, COLUMN_7), _halving(320)],
    "pool": [MAX],
}
V4_C: Table = {
    "1x1": [Conv(256)],
    "3x3": [Conv(384), _both(256)],
    "3x3_3x3": [Conv(384), Conv(448, COLUMN_3), Conv(512, ROW_3), _both(256)],
    "pool": [AVG, Conv(256)],
}

# Inception-ResNet v2: what opens each of the three stages, and the branches of its units.
RESNET_OPENINGS: tuple[Table, ...] = (
    _v3_a(96, 64),
    {
        "3x3": [_halving(384)],
        "3x3_3x3": [Conv(256), Conv(256, 3), _halving(384)],
        "pool": [MAX],
    },
    {
        "3x3": [Conv(256), _halving(384)],
        "3x3_narrow": [Conv(256), _halving(288)],
        "3x3_3x3": [Conv(256), Conv(288, 3), _halving(320)],
        "pool": [MAX],
    },
)
RESNET_UNITS: tuple[Table, ...] = (
    {
        "1x1": [Conv(32)],
        "3x3": [Conv(32), Conv(32, 3)],
        "3x3_3x3": [Conv(32), Conv(48, 3), Conv(64, 3)],
    },
    {"1x1": [Conv(192)], "7x7": [Conv(128), Conv(160, ROW_7), Conv(192, COLUMN_7)]},
    {"1x1": [Conv(192)], "3x3": [Conv(192), Conv(224, ROW_3), Conv(256, COLUMN_3)]},
)
RESNET_LAST = 1536
