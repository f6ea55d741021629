"""Some sites of a batch, and the correlations of their pairs, class by class."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convjax.gradflow._theory._axes import Window, convolution
from convjax.gradflow._theory._state import Pairs

SITES = 160
EVEN_SITES = 400
FOUR_PI = 4 * math.pi


def chosen_sites(batch: int, spatial: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Return some sites, spread over examples and places, neighbours among them."""
    generator = np.random.default_rng(0)
    # Of images of few places, more examples.
    examples = min(batch, max(16, SITES // math.prod(spatial)))
    # Two of them share their places.
    alike: list[tuple[int, ...]] = []
    each = max(min(SITES // examples, math.prod(spatial)), 1)
    sites: list[tuple[int, tuple[int, ...]]] = []
    for example in range(examples):
        if example % 2:
            sites += [(example, place) for place in alike]
            continue
        corner = [int(generator.integers(max(n - 3, 0) + 1)) for n in spatial]
        # A cluster of neighbours, and as many from anywhere.
        near = list(np.ndindex(*(min(2, n) for n in spatial)))
        found = {tuple(c + d for c, d in zip(corner, step, strict=True)) for step in near}
        found = {p for p in found if all(i < n for i, n in zip(p, spatial, strict=True))}
        while len(found) < each:
            found.add(tuple(int(generator.integers(n)) for n in spatial))
        alike = sorted(found)
        sites += [(example, place) for place in alike]
    return sites


def even_sites(batch: int, spatial: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Return some sites, any as often as any other."""
    every = batch * math.prod(spatial)
    found = np.random.default_rng(0).choice(every, min(every, EVEN_SITES), replace=False)
    sites = np.stack(np.unravel_index(found, (batch, *spatial)), axis=1).tolist()
    return [(example, tuple(place)) for example, *place in sites]


def class_nodes(
    gram: np.ndarray, sites: list, pairs: Pairs, energy: np.ndarray | None = None
) -> np.ndarray:
    """Return for each class of pairs the quantiles of their covariance over the mean energy.

    Args:
      gram: products of all pairs of sites.
      sites: of which these are.
      pairs: the classes.
      energy: by place, where the covariance of two places is to be over the roots of theirs.
    """
    examples = np.array([example for example, _ in sites])
    places = np.array([place for _, place in sites]).reshape(len(sites), -1)
    upper = np.triu_indices(len(sites), 1)
    same = examples[upper[0]] == examples[upper[1]]
    steps = np.abs(places[upper[0]] - places[upper[1]])
    near = same & (steps.max(1, initial=0) <= 1)
    level = max(float(np.diag(gram).mean()), 1e-300)
    values = gram[upper] / level
    twin = ~same & (steps.max(1, initial=0) == 0)
    # Where there is but one place, all pairs of two examples are alike.
    rest = twin if twin[~same].all() else ~same & ~twin
    nodes = []
    for members in (near, same & ~near, twin, rest):
        found = np.sort(values[members]) if members.any() else np.zeros(1)
        groups = np.array_split(found, pairs.nodes) if len(found) >= pairs.nodes else [found]
        means = [float(g.mean()) for g in groups] if len(groups) > 1 else [float(found.mean())]
        nodes += means if len(means) == pairs.nodes else means * pairs.nodes
    found = np.array(nodes)
    if energy is not None:
        found = found / np.maximum(pairs.roots(energy)[0], 1e-300)
    return np.clip(found, -1, 1)


def exactly(values: np.ndarray, pairs: Pairs) -> dict[str, Any]:
    """Return what a signal is of values that are known: the batch, and what no weights touched."""
    energy = np.mean(np.square(values), axis=(0, -1))[None]
    sites = chosen_sites(len(values), values.shape[1:-1])
    found = at_sites(values, sites)
    rms = math.sqrt(max(float(energy.mean()), 1e-300))
    return {
        "energy": energy,
        "pair": class_nodes(found @ found.T, sites, pairs, energy)[None],
        "mean": np.array([values.mean() / rms]),
        "data": values,
    }


def at_sites(values: np.ndarray, sites: list) -> np.ndarray:
    """Return the channels at some sites of a batch, ``(sites, channels)``."""
    return np.array([values[(example, *place)] for example, place in sites])


def concentrated(pair: np.ndarray, pairs: Pairs, kept: float) -> np.ndarray:
    """Return the nodes drawn together around their class's mean, their variance times ``kept``."""
    of_class = pair.reshape(len(pair), -1, pairs.nodes)
    mean = of_class.mean(2, keepdims=True)
    return (mean + math.sqrt(kept) * (of_class - mean)).reshape(pair.shape)


def kept_by(reach: float, sides: Sequence[int]) -> tuple[float, float]:
    """Return what a window leaves of the correlations' variance, and their reach after it.

    A window averages the correlations of all pairs that are shifted alike. Of a field that is
    smooth over a Gaussian of variance S, one of variance S + T leaves (1 + 4 pi S) / (1 + 4 pi
    (S + T)), to the power of half the number of axes.
    """
    kept, after = 1.0, float(reach)
    for side in sides:
        wider = (side**2 - 1) / 12
        kept *= math.sqrt((1 + FOUR_PI * reach) / (1 + FOUR_PI * (reach + wider)))
        after += wider / len(sides)
    return kept, after


def reach_of(values: np.ndarray, sites: list) -> float:
    """Return the reach of a batch's correlations, from what a window of three leaves of them."""
    rank = values.ndim - 2
    if rank == 0 or min(values.shape[1:-1]) < 3:
        return 0.0
    window = convolution(values.shape[1:-1], (3,) * rank)
    alone = at_sites(values, sites)
    patches = gathered(values, window, sites)
    upper = np.triu_indices(len(sites), 1)
    spreads = []
    for rows in (alone, patches):
        gram = rows @ rows.T
        spreads.append(np.var(gram[upper]) / max(np.mean(np.diag(gram)), 1e-300) ** 2)
    kept = min(max(spreads[1] / max(spreads[0], 1e-300), 0.0), 0.99) ** (2 / rank)
    return float(max((kept * (1 + FOUR_PI * 2 / 3) - 1) / (FOUR_PI * (1 - kept)), 0.0))


def gathered(values: np.ndarray, window: Window, sites: list) -> np.ndarray:
    """Return what each site's window reads of a batch, ``(sites, taps * channels)``."""
    nothing = np.zeros(values.shape[-1])
    return np.array(
        [
            [
                values[(example, *read)] if min(read, default=0) >= 0 else nothing
                for read in window.reads(place)
            ]
            for example, place in sites
        ]
    ).reshape(len(sites), -1)
