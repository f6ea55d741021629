"""Some sites of a batch, and the correlations of their pairs, class by class."""

import math

import numpy as np

from convjax.gradflow._theory._state import Pairs

SITES = 160


def chosen_sites(batch: int, spatial: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Return some sites, spread over examples and places, neighbours among them."""
    generator = np.random.default_rng(0)
    examples = min(batch, 16)
    each = max(min(SITES // examples, math.prod(spatial)), 1)
    sites: list[tuple[int, tuple[int, ...]]] = []
    for example in range(examples):
        corner = [int(generator.integers(max(n - 3, 0) + 1)) for n in spatial]
        # A cluster of neighbours, and as many from anywhere.
        near = list(np.ndindex(*(min(2, n) for n in spatial)))
        found = {tuple(c + d for c, d in zip(corner, step, strict=True)) for step in near}
        found = {p for p in found if all(i < n for i, n in zip(p, spatial, strict=True))}
        while len(found) < each:
            found.add(tuple(int(generator.integers(n)) for n in spatial))
        sites += [(example, place) for place in sorted(found)]
    return sites


def class_nodes(gram: np.ndarray, sites: list, pairs: Pairs) -> np.ndarray:
    """Return for each class of pairs the quantiles of their covariance over the mean energy.

    Pairs are weighed by their energies, as the mean over pairs of their covariance is.
    """
    examples = np.array([example for example, _ in sites])
    places = np.array([place for _, place in sites]).reshape(len(sites), -1)
    upper = np.triu_indices(len(sites), 1)
    same = examples[upper[0]] == examples[upper[1]]
    steps = np.abs(places[upper[0]] - places[upper[1]])
    near = same & (steps.max(1, initial=0) <= 1)
    energy = np.diag(gram)
    level = np.maximum(np.sqrt(energy).mean() ** 2, 1e-300)
    values = gram[upper] / level
    nodes = []
    for members in (near, same & ~near, ~same):
        found = np.sort(values[members]) if members.any() else np.zeros(1)
        groups = np.array_split(found, pairs.nodes) if len(found) >= pairs.nodes else [found]
        means = [float(g.mean()) for g in groups] if len(groups) > 1 else [float(found.mean())]
        nodes += means if len(means) == pairs.nodes else means * pairs.nodes
    return np.clip(np.array(nodes), -1, 1)
