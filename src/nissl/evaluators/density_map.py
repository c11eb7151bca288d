"""Where a neuron's cable lies, as a picture: the baseline that needs no learning at all.

Laturnus and Berens 2021 (MorphVAE, https://proceedings.mlr.press/v139/laturnus21a.html) use the smoothed histogram of
a projection. Two projections (x, y) and (z, y), with y towards the pia, and the depth profile along y alone. A cell is
anything with `pos` (N, 3) um and `parent` (N,), node 0 the root.

Positions are taken as the data set gives them: from the soma along the axes it centres, and in the tissue along the
others (`dataset.centre_axes`), so that the baseline sees the depth that the network sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_BINS = 20  # per axis
SIGMA_BINS = 1.0  # of the Gaussian; 0.5 and 2 do worse in MorphVAE's own comparison
RANGE_PERCENTILES = (0.5, 99.5)  # of each coordinate over the cells; what lies beyond goes into the border bins
STEP_SHARE = 0.25  # edges are cut into pieces of this share of a bin


def density_maps(cells: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Cable length per bin: projections (cells, 2 * NUM_BINS^2) um, and depth profiles (cells, NUM_BINS) um.

    Each projection and each profile of a cell sums to its cable length. The grid is common to all cells; it depends on
    their extent alone, not on labels.
    """
    low, high = np.percentile(
        np.concatenate([np.asarray(cell.pos, float) for cell in cells]), RANGE_PERCENTILES, axis=0
    )
    span = np.maximum(high - low, 1.0)
    maps, profiles = [], []
    for cell in cells:
        where, length = _pieces(np.asarray(cell.pos, float), np.asarray(cell.parent), span)
        index = np.clip(((where - low) / span * NUM_BINS).astype(int), 0, NUM_BINS - 1)
        x, y, z = index.T
        maps.append(np.concatenate([_smooth(_count(a, y, length)).ravel() for a in (x, z)]))
        profiles.append(_smooth(np.bincount(y, weights=length, minlength=NUM_BINS)))
    return np.array(maps), np.array(profiles)


def shares(maps: np.ndarray) -> np.ndarray:
    """Square roots of each bin's share of the cable: Euclidean distance then is Hellinger's, unmoved by cell size."""
    return np.sqrt(maps / np.maximum(maps.sum(axis=1, keepdims=True), 1e-12))


def _pieces(pos: np.ndarray, parent: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints (m, 3) and lengths (m,) of short pieces of all edges."""
    start, end = pos[parent[1:]], pos[1:]
    length = np.linalg.norm(end - start, axis=1)
    step = STEP_SHARE * span.min() / NUM_BINS
    count = np.maximum(np.ceil(length / step).astype(int), 1)
    edge = np.repeat(np.arange(len(length)), count)
    first = np.cumsum(count) - count
    along = (np.arange(len(edge)) - first[edge] + 0.5) / count[edge]
    return start[edge] + along[:, None] * (end - start)[edge], (length / count)[edge]


def _count(a: np.ndarray, y: np.ndarray, length: np.ndarray) -> np.ndarray:
    return np.bincount(a * NUM_BINS + y, weights=length, minlength=NUM_BINS**2).reshape(NUM_BINS, NUM_BINS)


def _smooth(histogram: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(histogram, SIGMA_BINS, mode="reflect")  # reflection keeps the sum
