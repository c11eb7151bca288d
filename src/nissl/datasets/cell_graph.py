"""One neuron as a rooted tree of points, and the tree operations that reading and preprocessing share.

A `CellGraph` is always in depth-first order from the soma: node 0 is the root, every parent comes before its children,
and the subtree of node i is the interval [i, i + size[i]). Branch deletion becomes an interval test because of that.
Positions are x, y, z in micrometres, as in SWC. The compiled functions (numba) take and return plain index arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numba
import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class CellGraph:
    """A neuron: nodes in depth-first order, node 0 the soma or root.

    Attributes:
        pos: x, y, z in um, (N, 3) float32.
        radius: um, (N,) float32; NaN where the file gave none.
        type: SWC type (0 undefined, 1 soma, 2 axon, 3 dendrite, 4 apical), (N,) int8.
        parent: row of the parent, (N,) int32; -1 for node 0 alone.
        id: name of the cell, unique in its data set.
        meta: what the metadata table says about it.
    """

    pos: np.ndarray
    radius: np.ndarray
    type: np.ndarray
    parent: np.ndarray
    id: str = ""
    meta: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pos)

    @property
    def edge_length_um(self) -> np.ndarray:
        """Length of the edge from each node to its parent, (N,); 0 for the root."""
        length = np.linalg.norm(self.pos - self.pos[np.maximum(self.parent, 0)], axis=1)
        length[0] = 0.0
        return length

    def moved(self, pos: np.ndarray) -> CellGraph:
        """The same tree at other positions (N, 3)."""
        return replace(self, pos=pos.astype(np.float32))


@numba.njit(cache=True)
def depth_first_order(parent: np.ndarray, root: int) -> np.ndarray:
    """Nodes reachable from `root`, parents first, subtrees contiguous, siblings by index.

    Args:
        parent: (N,) integer, -1 for roots; must be free of cycles below `root`.
    """
    n = len(parent)
    first_child = np.full(n, -1, np.int64)
    next_sibling = np.full(n, -1, np.int64)
    for i in range(n - 1, -1, -1):
        p = parent[i]
        if p >= 0:
            next_sibling[i] = first_child[p]
            first_child[p] = i
    order = np.empty(n, np.int64)
    stack = np.empty(n, np.int64)
    stack[0], depth, count = root, 1, 0
    while depth > 0:
        depth -= 1
        node = stack[depth]
        order[count] = node
        count += 1
        # Children go on the stack in reverse, so that they come off in index order.
        start = depth
        child = first_child[node]
        while child >= 0:
            stack[depth] = child
            depth += 1
            child = next_sibling[child]
        lo, hi = start, depth - 1
        while lo < hi:
            stack[lo], stack[hi] = stack[hi], stack[lo]
            lo += 1
            hi -= 1
    return order[:count]


@numba.njit(cache=True)
def subtree_sizes(parent: np.ndarray) -> np.ndarray:
    """Number of nodes in the subtree of each node, itself included, (N,). Parents must come before children."""
    size = np.ones(len(parent), np.int32)
    for i in range(len(parent) - 1, 0, -1):
        size[parent[i]] += size[i]
    return size


@numba.njit(cache=True)
def path_length(parent: np.ndarray, edge_length: np.ndarray) -> np.ndarray:
    """Sum of edge lengths from the root to each node, (N,). Parents must come before children."""
    total = np.zeros(len(parent), np.float64)
    for i in range(1, len(parent)):
        total[i] = total[parent[i]] + edge_length[i]
    return total


@numba.njit(cache=True)
def root_of_each(parent: np.ndarray) -> np.ndarray:
    """The root above each node, (N,), in any node order; nodes on or below a cycle get -1."""
    n = len(parent)
    root = np.full(n, -2, np.int64)  # -2 not seen, -3 on the current path
    path = np.empty(n, np.int64)
    for start in range(n):
        node, length = start, 0
        while root[node] == -2:
            root[node] = -3
            path[length] = node
            length += 1
            if parent[node] < 0:
                root[node] = node
                break
            node = parent[node]
        found = -1 if root[node] == -3 else root[node]
        for k in range(length):
            root[path[k]] = found
    return root


def reroot(parent: np.ndarray, node: int) -> None:
    """Make `node` the root of its tree by turning round the edges above it; changes `parent` in place."""
    above = -1
    while node >= 0:
        parent[node], above, node = above, node, int(parent[node])


def take(cell: CellGraph, parent: np.ndarray, root: int) -> CellGraph:
    """The part of `cell` that hangs on `root` under other parent links, in depth-first order."""
    order = depth_first_order(parent, root)
    row = np.full(len(parent), -1, np.int32)
    row[order] = np.arange(len(order), dtype=np.int32)
    new_parent = row[parent[order]]
    new_parent[0] = -1
    return replace(
        cell,
        pos=cell.pos[order],
        radius=cell.radius[order],
        type=cell.type[order],
        parent=new_parent,
    )


@dataclass(frozen=True)
class Joins:
    """What joining did: lengths of the new edges, and nodes left behind because their gap was too wide."""

    lengths_um: tuple[float, ...] = ()
    num_dropped_nodes: int = 0

    def __str__(self) -> str:
        text = f"joined {len(self.lengths_um)} pieces over {sum(self.lengths_um):.1f} um"
        if self.lengths_um:
            text += f" (longest gap {max(self.lengths_um):.1f})"
        if self.num_dropped_nodes:
            text += f", dropped {self.num_dropped_nodes} nodes beyond the gap limit"
        return text


def join_components(pos: np.ndarray, parent: np.ndarray, root: int, max_gap_um: float = np.inf) -> Joins:
    """Join every piece to the tree of `root` by its nearest tip; changes `parent` in place.

    Grows the tree of `root` one piece at a time, always the piece with the smallest gap between one of its ends
    (a node with at most one neighbour) and any node already in the tree. The joined piece is turned so that the joining
    end becomes its root. An isolated node is an end, so this ends; the reference loops for ever on one.
    Cost O(N log N) for the first search and a k-d tree per joined piece.

    Args:
        pos: (N, 3) um.
        parent: (N,) integer, -1 for roots; no cycles.
        max_gap_um: pieces further away than this stay roots and are counted as dropped.
    """
    piece = root_of_each(parent)
    if np.all(piece == root):
        return Joins()
    has_parent = parent >= 0
    degree = np.bincount(parent[has_parent], minlength=len(parent)) + has_parent
    ends = np.flatnonzero((piece != root) & (degree <= 1))
    gap = np.full(len(ends), np.inf)
    nearest = np.zeros(len(ends), np.int64)
    joined_last = np.flatnonzero(piece == root)
    lengths = []
    while len(ends):
        distance, hit = cKDTree(pos[joined_last]).query(pos[ends])
        closer = distance < gap
        gap[closer], nearest[closer] = distance[closer], joined_last[hit[closer]]
        best = int(np.argmin(gap))
        if gap[best] > max_gap_um:
            break
        end = int(ends[best])
        joined_last = np.flatnonzero(piece == piece[end])
        reroot(parent, end)
        parent[end] = nearest[best]
        lengths.append(float(gap[best]))
        left = piece[ends] != piece[end]
        ends, gap, nearest = ends[left], gap[left], nearest[left]
    return Joins(tuple(lengths), int(np.sum(root_of_each(parent) != root)))
