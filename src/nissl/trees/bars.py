"""When branches appear and merge as one walks from the tips to the soma.

Kanari et al. 2018, "A Topological Representation of Branching Neuronal Morphologies",
https://doi.org/10.1007/s12021-017-9341-1 (definitions as in BlueBrain/TMD@bb32da180e). Each tip starts a bar at its
distance from the soma; where branches meet, the one with the farthest tip lives on and the others end at the fork; the
last ends at the soma.
"""

from __future__ import annotations

import numpy as np


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
