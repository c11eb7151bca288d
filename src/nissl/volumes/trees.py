"""Distances in forests of nodes and edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order


def depths(num_nodes: int, edges: np.ndarray, roots: Sequence[int]) -> np.ndarray:
    """(N,) edges between each node and its root; -1 where no root is reached.

    Args:
        num_nodes: N.
        edges: (E, 2) rows of nodes.
        roots: rows of nodes, at most one per component (the nearest one counts if there are more).
    """
    # A node above all roots makes one search of many.
    above = num_nodes
    links = np.concatenate([edges, np.stack([np.full(len(roots), above), np.asarray(roots, np.int64)], 1)])
    graph = sparse.coo_matrix((np.ones(len(links), bool), tuple(links.T)), shape=(num_nodes + 1,) * 2)
    order, before = breadth_first_order(graph.tocsr(), above, directed=False)
    depth = np.full(num_nodes + 1, -2)
    depth[above] = -1
    for node in order[1:]:
        depth[node] = depth[before[node]] + 1
    return np.where(depth[:-1] >= 0, depth[:-1], -1)
