"""Topological descriptor of a neuron: when branches appear and merge as one walks from the tips to the soma.

Kanari et al. 2018, "A Topological Representation of Branching Neuronal Morphologies",
https://doi.org/10.1007/s12021-017-9341-1 (definitions as in BlueBrain/TMD@bb32da180e). Each tip starts a bar at its
distance from the soma; where branches meet, the one with the farthest tip lives on and the others end at the fork; the
last ends at the soma. Distances are along the tree ("path") or straight ("radial"). The bars become a picture: a
Gaussian at (end, start) for each, as in persistence images (Adams et al. 2017, https://arxiv.org/abs/1507.06217), here
weighted by the length of the bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_BINS = 12  # per axis of the picture
SIGMA_BINS = 1.0
RANGE_PERCENTILE = 98.0  # of bar starts over the cells; longer ones go to the border


def persistence_bars(parent: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Bars of a tree under a height per node, (tips, 2): start at the tip, end towards the root; longest start first.

    Args:
        parent: (N,), node 0 the root, parents before children.
        height: (N,), distance of each node from the root.
    """
    n = len(parent)
    above, value = parent.tolist(), height.tolist()
    farthest = [-1.0] * n  # height of the farthest tip below, among branches that live on
    is_tip = np.bincount(parent[1:], minlength=n) == 0
    bars = []
    for i in range(n - 1, -1, -1):
        if is_tip[i]:
            farthest[i] = value[i]
        if i == 0:
            bars.append((farthest[0], value[0]))
            break
        p = above[i]
        if farthest[p] < 0:
            farthest[p] = farthest[i]
        else:
            shorter, longer = sorted((farthest[p], farthest[i]))
            bars.append((shorter, value[p]))
            farthest[p] = longer
    bars_array = np.array(bars)
    return bars_array[np.argsort(-bars_array[:, 0], kind="stable")]


def persistence_images(cells: Sequence[Any]) -> np.ndarray:
    """Pictures of the path and the radial bars, (cells, 2 * NUM_BINS^2); square roots, for the sums span decades."""
    images = []
    for kind in ("path", "radial"):
        bars = [persistence_bars(np.asarray(cell.parent), _height(cell, kind)) for cell in cells]
        reach = max(np.percentile(np.concatenate([b[:, 0] for b in bars]), RANGE_PERCENTILE), 1e-9)
        images.append(np.array([_image(b / reach) for b in bars]))
    return np.concatenate(images, axis=1)


def _height(cell: Any, kind: str) -> np.ndarray:
    pos, parent = np.asarray(cell.pos, float), np.asarray(cell.parent)
    if kind == "radial":
        return np.linalg.norm(pos - pos[0], axis=1)
    edge = np.linalg.norm(pos[1:] - pos[parent[1:]], axis=1).tolist()
    path, above = [0.0] * len(parent), parent.tolist()
    for i in range(1, len(parent)):
        path[i] = path[above[i]] + edge[i - 1]
    return np.array(path)


def _image(bars: np.ndarray) -> np.ndarray:
    """Square root of the sum of Gaussians weighted by bar length; bars (m, 2) in units of the common reach."""
    centres = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    width = SIGMA_BINS / NUM_BINS
    start, end = (np.exp(-(((np.clip(b, 0, 1)[:, None] - centres) / width) ** 2) / 2) for b in bars.T)
    weight = bars[:, 0] - bars[:, 1]
    return np.sqrt(np.maximum(np.einsum("m,ms,me->se", weight, start, end), 0.0)).ravel()
