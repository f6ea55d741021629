"""Layers in NumPy, forward and back: what measurements of the questions are held against."""

import numpy as np


def convolve(x, kernel, circular=True):
    """Return a convolution with circular or zero padding, by the places of its window."""
    window = kernel.shape[:2]
    edges = [(0, 0), *((side // 2, side // 2) for side in window), (0, 0)]
    padded = np.pad(x, edges, mode="wrap" if circular else "constant")
    height, width = x.shape[1:3]
    places = np.ndindex(window)
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in places)


def transposed(kernel):
    """Return the kernel whose convolution is the transpose."""
    return kernel[::-1, ::-1].swapaxes(-1, -2)


def layer(x, kernel, norm=True):
    """Return batch norm, ReLU, circular convolution of x, and what takes a gradient back."""
    batch = (0, 1, 2)
    deviation = np.sqrt(x.var(batch) + 1e-5) if norm else 1.0
    y = (x - x.mean(batch)) / deviation if norm else x

    def back(g):
        g = (y > 0) * convolve(g, transposed(kernel))
        return (g - g.mean(batch) - y * (g * y).mean(batch)) / deviation if norm else g

    return convolve(np.maximum(y, 0), kernel), back
