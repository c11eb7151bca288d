"""Distances along a tree."""

from __future__ import annotations

import numpy as np


def path_lengths(pos: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Distance from the root along the tree, (N,) um.

    Args:
        pos: (N, 3) um, node 0 the root.
        parent: (N,), parents before children.
    """
    edge = np.zeros(len(parent))
    edge[1:] = np.linalg.norm(pos[1:] - pos[parent[1:]], axis=1)
    path, above = edge.tolist(), parent.tolist()
    for i in range(1, len(path)):
        path[i] += path[above[i]]
    return np.array(path)
