"""Random views of a neuron: branches cut off, nodes thinned out, the whole rotated, jittered and shifted.

The laws are those of GraphDINO (Weis et al. 2023, https://openreview.net/forum?id=ThhMzfrd6r, code at
marissaweis/ssl_neuron@0a292e7178), in an exact fast form: with nodes in depth-first order a subtree is an interval, so
cutting a branch marks an interval; and after thinning, the parent of a kept node is its nearest kept ancestor.

Departures, each a setting; `reference` takes back all of them:
- rotation is a rotation (the reference zeroes a row and a column of a 3D rotation; what is left squashes by a median
  area factor of 0.5 and mirrors half of the time);
- strengths are standard deviations in um, one number or one per axis (the reference's `jitter_var` is one as well,
  despite its name; the paper calls them variances);
- a cut goes above the drawn node (the reference takes whichever neighbour its set lists first);
- the soma is never cut off. A soma with one neurite counts as a tip in the reference, with the unbranched trunk that
  leaves it; a cut drawn there is wasted, because it would leave too little;
- a cell smaller than `num_nodes` keeps all its nodes instead of being left out of the training.

Local views, which the reference does not have, are connected pieces around a random node, for a student that is to
tell the whole from a part (multi-crop, Caron et al. 2020, https://arxiv.org/abs/2006.09882).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numba
import numpy as np

from nissl.datasets.cell_graph import CellGraph, subtree_sizes

AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class ViewSettings:
    """How a view is drawn; lengths in um.

    Attributes:
        num_nodes: nodes of a view; a smaller cell keeps what it has.
        num_drop_branches: cuts per view; one that would leave fewer than `num_nodes` is skipped.
        cut_edge: "parent" cuts above the drawn node; "random" above or below it, as the reference's set order may.
        rotation: "axis" turns about `rotation_axis`, "so3" freely, "reference" is the published non-rotation.
        mirror: also mirror half of the views, across a plane that holds the rotation axis.
        jitter_std_um: standard deviation of each coordinate of each node.
        shift_std_um: standard deviation of the one vector that moves the whole cell.
        scale_log_std: standard deviation of the log of one factor for the whole cell; 0 in the reference. Removes size,
            and with it any type that differs by size alone.
        num_views: whole views per item; two in the reference.
        num_local_views: further views of a piece.
        local_share: part of the cell's nodes in a piece, before thinning.
        local_nodes: nodes of a local view.
        reference: everything as published: `cut_edge="random"`, `rotation="reference"` (unless there is none), wasted
            cuts, and no training on cells with fewer than `num_nodes` nodes.
    """

    num_nodes: int
    num_drop_branches: int = 0
    cut_edge: Literal["parent", "random"] = "parent"
    rotation: Literal["none", "axis", "so3", "reference"] = "none"
    rotation_axis: Literal["x", "y", "z"] = "y"
    mirror: bool = False
    jitter_std_um: float | Sequence[float] = 0.0
    shift_std_um: float | Sequence[float] = 0.0
    scale_log_std: float = 0.0
    num_views: int = 2
    num_local_views: int = 0
    local_share: float = 0.3
    local_nodes: int = 50
    reference: bool = False

    def __post_init__(self) -> None:
        if self.num_nodes < 2:
            raise ValueError(f"num_nodes must be at least 2, came {self.num_nodes}")
        if self.num_views < 2:
            raise ValueError(f"num_views must be at least 2, came {self.num_views}")
        if self.num_local_views < 0:
            raise ValueError(f"num_local_views must be 0 or more, came {self.num_local_views}")
        if not 0 < self.local_share <= 1:
            raise ValueError(f"local_share must be above 0 and at most 1, came {self.local_share}")
        if self.local_nodes < 2:
            raise ValueError(f"local_nodes must be at least 2, came {self.local_nodes}")
        if self.scale_log_std < 0:
            raise ValueError(f"scale_log_std must be 0 or more, came {self.scale_log_std}")
        if self.num_drop_branches < 0:
            raise ValueError(f"num_drop_branches must be 0 or more, came {self.num_drop_branches}")
        choices = {
            "cut_edge": ("parent", "random"),
            "rotation": ("none", "axis", "so3", "reference"),
            "rotation_axis": tuple(AXES),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, came {getattr(self, name)!r}")
        for name in ("jitter_std_um", "shift_std_um"):
            std = np.atleast_1d(np.asarray(getattr(self, name), float))
            if std.shape not in {(1,), (3,)} or not np.all(std >= 0):
                raise ValueError(f"{name} must be one number >= 0 or three (x, y, z), came {getattr(self, name)!r}")
        if self.reference:
            ours = {"mirror": self.mirror, "scale_log_std": self.scale_log_std, "num_local_views": self.num_local_views}
            extra = [name for name, value in ours.items() if value]
            if extra or self.num_views != 2:
                raise ValueError(
                    f"reference=true allows nothing the reference lacks: {', '.join(extra or ['num_views'])}"
                )

    def resolved(self) -> ViewSettings:
        """With `reference` written out as the settings it stands for."""
        if not self.reference:
            return self
        return replace(self, cut_edge="random", rotation="none" if self.rotation == "none" else "reference")


@dataclass(frozen=True)
class CachedTree:
    """A cell thinned to a bounded number of nodes, with what drawing a view needs.

    Attributes:
        pos: x, y, z in um, (N, 3) float32, depth-first order.
        parent: (N,) int32, -1 for node 0.
        size: nodes in the subtree of each node, (N,).
        terminal: nodes below the last branch point of their branch: leaves and the chain above them, (N,) bool.
    """

    pos: np.ndarray
    parent: np.ndarray
    size: np.ndarray
    terminal: np.ndarray

    @classmethod
    def from_cell(cls, cell: CellGraph, max_nodes: int | None, rng: np.random.Generator) -> CachedTree:
        """Thin a cell to at most `max_nodes` by the same rule as a view; None keeps all."""
        kept, parent = np.arange(len(cell)), cell.parent
        if max_nodes is not None and len(cell) > max_nodes:
            kept, parent = subsample(cell.parent, np.ones(len(cell), bool), max_nodes, rng)
        size = subtree_sizes(parent)
        return cls(cell.pos[kept], parent, size, terminal_nodes(parent, size))

    def __len__(self) -> int:
        return len(self.pos)


def draw_view(tree: CachedTree, settings: ViewSettings, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One augmented view: positions (n, 3) float32 um and parents (n,) int32, soma first, parents first."""
    settings = settings.resolved()
    alive = drop_branches(tree, settings, rng)
    kept, parent = subsample(tree.parent, alive, min(settings.num_nodes, int(alive.sum())), rng)
    return augment_positions(tree.pos[kept], settings, rng), parent


def draw_local_view(
    tree: CachedTree, settings: ViewSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented view of a connected piece, as `draw_view`; its first node is the one nearest to the soma."""
    wanted = max(int(round(settings.local_share * len(tree))), min(settings.local_nodes, len(tree)))
    piece = np.flatnonzero(neighbourhood(tree.parent, tree.size, int(rng.integers(len(tree))), wanted))
    row = np.zeros(len(tree), np.int32)
    row[piece] = np.arange(len(piece), dtype=np.int32)
    parent = row[np.maximum(tree.parent[piece], 0)]
    parent[0] = -1
    kept, parent = subsample(parent, np.ones(len(piece), bool), min(settings.local_nodes, len(piece)), rng)
    return augment_positions(tree.pos[piece[kept]], settings, rng), parent


def draw_views(
    tree: CachedTree, settings: ViewSettings, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All views of one item, one at a time: `num_views` whole ones, then `num_local_views` of a piece."""
    for _ in range(settings.num_views):
        yield draw_view(tree, settings, rng)
    for _ in range(settings.num_local_views):
        yield draw_local_view(tree, settings, rng)


# Topology -------------------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def terminal_nodes(parent: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Nodes whose subtree is an unbranched path, the soma excepted, (N,) bool."""
    n = len(parent)
    children = np.zeros(n, np.int32)
    for i in range(1, n):
        children[parent[i]] += 1
    terminal = np.zeros(n, np.bool_)
    for i in range(n - 1, 0, -1):
        # The only child of a node in depth-first order is the next node.
        terminal[i] = children[i] == 0 or (children[i] == 1 and terminal[i + 1])
    return terminal


def drop_branches(tree: CachedTree, settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """Nodes left after `num_drop_branches` cuts at uniformly drawn terminal nodes, (N,) bool.

    Long terminal segments are hit more often, because nodes are drawn and not branches. Segments that become terminal
    by a cut are not candidates. Both as in the reference.
    """
    if settings.num_drop_branches == 0:
        return np.ones(len(tree), bool)
    pool = np.flatnonzero(tree.terminal)
    if settings.reference:
        pool = np.union1d(pool, unbranched_trunk(tree.parent))
    return _cut(
        tree.size,
        pool,
        settings.num_nodes,
        settings.cut_edge == "random",
        rng.random((settings.num_drop_branches, 2)),
    )


def unbranched_trunk(parent: np.ndarray) -> np.ndarray:
    """Nodes from a soma with a single neurite to the first branch point, that one not included; else none."""
    children = np.bincount(parent[1:], minlength=len(parent))
    if children[0] != 1:
        return np.empty(0, np.int64)
    return np.arange(int(np.argmax(children != 1)))  # in depth-first order an only child is the next node


@numba.njit(cache=True)
def neighbourhood(parent: np.ndarray, size: np.ndarray, start: int, count: int) -> np.ndarray:
    """The `count` nodes nearest to `start` by steps along the tree, (N,) bool: a connected piece."""
    n = len(parent)
    inside = np.zeros(n, np.bool_)
    queue = np.empty(n, np.int64)
    queue[0], head, tail = start, 0, 1
    inside[start] = True
    while head < tail and tail < count:
        node = queue[head]
        head += 1
        above = parent[node]
        if above >= 0 and not inside[above]:
            inside[above] = True
            queue[tail] = above
            tail += 1
        child, end = node + 1, node + size[node]
        while child < end and tail < count:
            if not inside[child]:
                inside[child] = True
                queue[tail] = child
                tail += 1
            child += size[child]
    return inside


@numba.njit(cache=True)
def _cut(size: np.ndarray, pool: np.ndarray, min_left: int, random_edge: bool, uniform: np.ndarray) -> np.ndarray:
    alive = np.ones(len(size), np.bool_)
    left, pool_size = len(size), len(pool)
    pool = pool.copy()
    for k in range(len(uniform)):
        if pool_size == 0:
            break
        node = pool[int(uniform[k, 0] * pool_size)]
        end = node + size[node]
        has_child = size[node] > 1 and alive[node + 1]
        start = node + 1 if random_edge and has_child and uniform[k, 1] < 0.5 else node
        lost = 0
        for i in range(start, end):
            lost += alive[i]
        if left - lost < min_left:
            continue
        alive[start:end] = False
        left -= lost
        count = 0
        for i in range(pool_size):
            if alive[pool[i]]:
                pool[count] = pool[i]
                count += 1
        pool_size = count
    return alive


def subsample(
    parent: np.ndarray, alive: np.ndarray, keep: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Thin a tree to exactly `keep` nodes, keeping it a tree, its soma and every position.

    Visits nodes in random order and removes each that has fewer than three neighbours left: one between two others is
    bridged, a tip is trimmed. Branch points go only after trimming has made them something else. If an order is used
    up, what remains is shuffled again.

    Args:
        parent: (N,) integer, parents first, -1 for the soma at 0.
        alive: nodes to start from, (N,) bool; closed under parents. Not changed.
        keep: number of nodes to keep, 1 to the number alive.

    Returns:
        Rows of the kept nodes, ascending (so still parents first), and their parents among the kept, (keep,) int32.

    Raises:
        ValueError: if `keep` is not between 1 and the number of nodes.
    """
    total = int(alive.sum())
    if not 1 <= keep <= total:
        raise ValueError(f"cannot keep {keep} nodes of a cell with {total}; lower num_nodes or leave the cell out")
    alive = alive.copy()
    up = parent.astype(np.int32)
    children = _live_children(parent, alive)
    surplus = total - keep
    while surplus > 0:
        order = rng.permutation(np.flatnonzero(alive)[1:])
        surplus = remove_in_order(up, alive, children, order, surplus)
    return _compact(up, alive, keep)


@numba.njit(cache=True)
def _live_children(parent: np.ndarray, alive: np.ndarray) -> np.ndarray:
    children = np.zeros(len(parent), np.int32)
    for i in range(1, len(parent)):
        if alive[i]:
            children[parent[i]] += 1
    return children


@numba.njit(cache=True)
def _nearest_alive(up: np.ndarray, alive: np.ndarray, node: int) -> int:
    """Nearest living ancestor; shortens the chain it walked (path halving)."""
    above = up[node]
    while not alive[above]:
        up[node] = up[above]
        above = up[node]
    return above


@numba.njit(cache=True)
def remove_in_order(up: np.ndarray, alive: np.ndarray, children: np.ndarray, order: np.ndarray, surplus: int) -> int:
    """One pass of `subsample` over `order`; changes the state arrays in place and returns what is still surplus."""
    for k in range(len(order)):
        if surplus == 0:
            break
        node = order[k]
        # With a protected root every other node has a parent, so fewer than 3 neighbours is at most one child.
        if children[node] <= 1:
            alive[node] = False
            surplus -= 1
            if children[node] == 0:
                children[_nearest_alive(up, alive, node)] -= 1
    return surplus


@numba.njit(cache=True)
def _compact(up: np.ndarray, alive: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    kept = np.empty(keep, np.int64)
    row = np.empty(len(alive), np.int32)
    parent = np.full(keep, -1, np.int32)
    count = 0
    for i in range(len(alive)):
        if alive[i]:
            kept[count] = i
            row[i] = count
            if i > 0:
                parent[count] = row[_nearest_alive(up, alive, i)]
            count += 1
    return kept, parent


# Space ----------------------------------------------------------------------------------------------------------------


def rotation_matrix(settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """The matrix M of a view, applied to rows as pos @ M, (3, 3)."""
    axis = AXES[settings.rotation_axis]
    if settings.rotation == "axis":
        angle = rng.uniform(0.0, 2.0 * np.pi)
        matrix = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        matrix[i, i] = matrix[j, j] = np.cos(angle)
        matrix[i, j], matrix[j, i] = np.sin(angle), -np.sin(angle)
    elif settings.rotation in ("so3", "reference"):
        matrix = _random_so3(rng)
        if settings.rotation == "reference":
            matrix[axis, :] = 0.0
            matrix[:, axis] = 0.0
            matrix[axis, axis] = 1.0
    else:
        matrix = np.eye(3)
    if settings.mirror and rng.random() < 0.5:
        matrix[:, (axis + 1) % 3] *= -1.0
    return matrix


def _random_so3(rng: np.random.Generator) -> np.ndarray:
    """A uniformly random rotation, from a unit quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def augment_positions(pos: np.ndarray, settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """Rotate (and scale) about the origin, then jitter every node, then shift the whole; (n, 3) um."""
    moved = pos @ rotation_matrix(settings, rng)
    if settings.scale_log_std > 0:
        moved *= np.exp(rng.normal(0.0, settings.scale_log_std))
    moved += rng.standard_normal(moved.shape) * np.asarray(settings.jitter_std_um, float)
    moved += rng.standard_normal(3) * np.asarray(settings.shift_std_um, float)
    return moved.astype(np.float32)
