"""What the operators should give, by loops over single elements in NumPy float64, without JAX."""

import itertools
import math

import numpy as np


def spread(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def window_start_and_count(padding, n, extent, stride):
    """Position of the first window's first tap, and the number of windows, along one axis."""
    if padding in ("SAME", "SAME_LOWER"):
        count = math.ceil(n / stride)
        missing = max(0, (count - 1) * stride + extent - n)
        low = missing / 2
        return -(math.floor(low) if padding == "SAME" else math.ceil(low)), count
    low, high = {
        "VALID": (0, 0),
        "CAUSAL": (extent - 1, 0),
        "CIRCULAR": ((extent - 1) // 2, extent // 2),
        "REFLECT": ((extent - 1) // 2, extent // 2),
    }.get(padding, padding)
    return -low, (n + low + high - extent) // stride + 1


def per_axis_padding(padding, rank):
    if isinstance(padding, str):
        return (padding,) * rank
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in spread(padding, rank))


def source(position, n, padding):
    """Index of the element that lies at a position, or None beyond the edge."""
    if padding == "CIRCULAR":
        return position % n
    if padding == "REFLECT":
        return -position if position < 0 else 2 * (n - 1) - position if position >= n else position
    return position if 0 <= position < n else None


def windows(image, window, strides, padding, dilation):
    """Yield (output index, [(tap, source index or None), ...]) for every output position."""
    rank = len(image)
    strides, dilation = spread(strides, rank), spread(dilation, rank)
    padding = per_axis_padding(padding, rank)
    plan = [
        window_start_and_count(p, n, d * (k - 1) + 1, s)
        for p, n, k, s, d in zip(padding, image, window, strides, dilation, strict=True)
    ]
    for out in itertools.product(*(range(count) for _, count in plan)):
        taps = []
        for tap in itertools.product(*(range(k) for k in window)):
            found = tuple(
                source(start + s * o + d * t, n, p)
                for (start, _), s, o, d, t, n, p in zip(
                    plan, strides, out, dilation, tap, image, padding, strict=True
                )
            )
            taps.append((tap, None if None in found else found))
        yield out, taps


def assemble(values):
    """Array (batch, *spatial, features) from {output index: (batch, features)}."""
    shape = tuple(np.max(list(values), axis=0) + 1)
    batch, features = next(iter(values.values())).shape
    y = np.full((batch, *shape, features), np.nan)
    for out, value in values.items():
        y[(slice(None), *out)] = value
    return y


def at(x, index):
    return x[(slice(None), *index)]


def conv(x, kernel, *, strides=1, padding="SAME", kernel_dilation=1, feature_group_count=1):
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    per_group, out_features = kernel.shape[-2:]
    out_per_group = out_features // feature_group_count
    values = {}
    for out, taps in windows(x.shape[1:-1], kernel.shape[:-2], strides, padding, kernel_dilation):
        y = np.zeros((x.shape[0], out_features))
        for tap, index in taps:
            if index is None:
                continue
            for o in range(out_features):
                first = (o // out_per_group) * per_group
                for c in range(per_group):
                    y[:, o] += at(x, index)[:, first + c] * kernel[tap][c, o]
        values[out] = y
    return assemble(values)


def depthwise_conv(x, kernel, **options):
    multiplier = kernel.shape[-1] // x.shape[-1]
    parts = [
        conv(x[..., c : c + 1], kernel[..., c * multiplier : (c + 1) * multiplier], **options)
        for c in range(x.shape[-1])
    ]
    return np.concatenate(parts, -1)


def max_pool(x, window, *, strides, padding):
    x = np.asarray(x, np.float64)
    moved = windows(x.shape[1:-1], window, strides, padding, 1)
    return assemble(
        {out: np.max([at(x, i) for _, i in taps if i is not None], axis=0) for out, taps in moved}
    )


def avg_pool(x, window, *, strides, padding, count_include_pad=True):
    x = np.asarray(x, np.float64)
    values = {}
    for out, taps in windows(x.shape[1:-1], window, strides, padding, 1):
        inside = [at(x, i) for _, i in taps if i is not None]
        values[out] = np.sum(inside, axis=0) / (len(taps) if count_include_pad else len(inside))
    return assemble(values)


def transposed_crop_and_size(padding, n, extent, stride, extra):
    """How much of the full transposed convolution is cut off below, and how much of it is kept."""
    overhang = max(extent - stride, 0)
    if isinstance(padding, str):
        return {
            "VALID": (0, n * stride + overhang),
            "SAME": (overhang // 2, n * stride),
            "SAME_LOWER": (overhang - overhang // 2, n * stride),
            "CAUSAL": (0, n * stride),
            "CIRCULAR": (overhang // 2, n * stride),
        }[padding]
    low, high = padding
    return low, (n - 1) * stride - low - high + extent + extra


def conv_transpose(
    x,
    kernel,
    *,
    strides=1,
    padding="SAME",
    kernel_dilation=1,
    feature_group_count=1,
    output_padding=0,
):
    """Every element of x adds the flipped kernel to the output, s apart."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    image, window = x.shape[1:-1], kernel.shape[:-2]
    rank = len(image)
    strides, dilation = spread(strides, rank), spread(kernel_dilation, rank)
    extra, named = spread(output_padding, rank), per_axis_padding(padding, rank)
    plan = [
        transposed_crop_and_size(p, n, d * (k - 1) + 1, s, e)
        for p, n, k, s, d, e in zip(named, image, window, strides, dilation, extra, strict=True)
    ]
    per_group, out_features = kernel.shape[-2:]
    y = np.zeros((x.shape[0], *(size for _, size in plan), out_features))
    for i in itertools.product(*map(range, image)):
        for t in itertools.product(*map(range, window)):
            j = tuple(
                s * a + d * (k - 1 - b) - low
                for s, a, d, k, b, (low, _) in zip(
                    strides, i, dilation, window, t, plan, strict=True
                )
            )
            if padding == "CIRCULAR":
                j = tuple(a % size for a, (_, size) in zip(j, plan, strict=True))
            if not all(0 <= a < size for a, (_, size) in zip(j, plan, strict=True)):
                continue
            for o in range(out_features):
                first = o // (out_features // feature_group_count) * per_group
                for c in range(per_group):
                    y[(slice(None), *j, o)] += at(x, i)[:, first + c] * kernel[t][c, o]
    return y


def torch_conv_transpose(x, weight, *, stride, padding, output_padding, dilation, groups):
    """PyTorch's definition in one dimension: x (N, C, L), weight (C, D // groups, k)."""
    batch, channels, length = x.shape
    _, out_per_group, k = weight.shape
    size = (length - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1
    y = np.zeros((batch, out_per_group * groups, size))
    for c, o, i, t in itertools.product(
        range(channels), range(out_per_group), range(length), range(k)
    ):
        j = stride * i + dilation * t - padding
        if 0 <= j < size:
            group = c // (channels // groups)
            y[:, group * out_per_group + o, j] += x[:, c, i] * weight[c, o, t]
    return y
