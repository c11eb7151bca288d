"""Hand-made features of whole neurons: the baseline a learnt embedding has to beat.

Twenty-odd quantities as in common morphometry (stems, forks, tips, lengths, extents, angles, orders, Sholl crossings).
All but width, height, depth and the position features are unchanged by a rotation about y. A cell is anything with
`pos` (N, 3) um and `parent` (N,), node 0 the root and parents before children.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

SHOLL_RADII = 30


class Tree(Protocol):
    """A cell as these features need it."""

    pos: np.ndarray
    parent: np.ndarray


FEATURES = (
    "num_stems",
    "num_forks",
    "num_tips",
    "cable_um",
    "max_path_um",
    "mean_path_um",
    "max_radial_um",
    "mean_radial_um",
    "width_um",
    "height_um",
    "depth_um",
    "hull_volume_um3",
    "mean_segment_um",
    "tortuosity",
    "mean_fork_angle_rad",
    "max_order",
    "mean_order",
    "strahler",
    "mean_asymmetry",
    "sholl_max",
    "sholl_max_radius_um",
    "centroid_y_um",
    "spread_y_um",
    "spread_xz_um",
)
LOG_SCALED = ("num_tips", "num_forks", "cable_um", "hull_volume_um3")


def morphometrics(cells: Sequence[Any]) -> np.ndarray:
    """Features of each cell, (cells, len(FEATURES)) float64; counts and volumes that span decades as log(1 + x)."""
    return np.array([_features(cell) for cell in cells])


def _features(cell: Tree) -> list[float]:
    pos, parent = np.asarray(cell.pos, float), np.asarray(cell.parent)
    n = len(parent)
    children = np.bincount(parent[1:], minlength=n)
    edge = np.linalg.norm(pos[1:] - pos[parent[1:]], axis=1)
    radial = np.linalg.norm(pos - pos[0], axis=1)
    tips, forks = children == 0, (children >= 2) & (np.arange(n) > 0)

    # One pass down (parents first) and one up.
    path, order, start = np.zeros(n), np.zeros(n, int), np.zeros(n, int)
    above = parent.tolist()
    for i in range(1, n):
        p = above[i]
        path[i] = path[p] + edge[i - 1]
        new_segment = p == 0 or forks[p]
        order[i] = order[p] + (1 if forks[p] else 0)
        start[i] = p if new_segment else start[p]
    num_tips, strahler, asymmetries = _upwards(above, children)
    ends = np.flatnonzero((tips | forks) & (np.arange(n) > 0))
    length = path[ends] - path[start[ends]]
    chord = np.linalg.norm(pos[ends] - pos[start[ends]], axis=1)
    straight = chord > 0

    crossings, radii = _sholl(radial, parent)
    centre_y = np.average((pos[1:, 1] + pos[parent[1:], 1]) / 2 - pos[0, 1], weights=np.maximum(edge, 1e-12))
    extent = np.ptp(pos, axis=0)
    values = {
        "num_stems": float(children[0]),
        "num_forks": float(forks.sum()),
        "num_tips": float(num_tips),
        "cable_um": float(edge.sum()),
        "max_path_um": float(path.max()),
        "mean_path_um": float(path.mean()),
        "max_radial_um": float(radial.max()),
        "mean_radial_um": float(radial.mean()),
        "width_um": float(extent[0]),
        "height_um": float(extent[1]),
        "depth_um": float(extent[2]),
        "hull_volume_um3": _hull_volume(pos),
        "mean_segment_um": float(length.mean()),
        "tortuosity": float((length[straight] / chord[straight]).mean()) if straight.any() else 1.0,
        "mean_fork_angle_rad": _mean_fork_angle(pos, parent, forks),
        "max_order": float(order.max()),
        "mean_order": float(order.mean()),
        "strahler": float(strahler),
        "mean_asymmetry": float(np.mean(asymmetries)) if asymmetries else 0.0,
        "sholl_max": float(crossings.max()),
        "sholl_max_radius_um": float(radii[crossings.argmax()]),
        "centroid_y_um": float(centre_y),
        "spread_y_um": float(pos[:, 1].std()),
        "spread_xz_um": float(np.hypot(pos[:, 0].std(), pos[:, 2].std())),
    }
    return [float(np.log1p(values[name])) if name in LOG_SCALED else values[name] for name in FEATURES]


def _upwards(above: list[int], children: np.ndarray) -> tuple[int, int, list[float]]:
    """Number of tips, Strahler number of the root, and the partition asymmetry of each two-way fork.

    Asymmetry is |a - b| / (a + b - 2) for a and b tips on the two sides; a fork into two tips has 0.
    """
    n = len(above)
    tips = [1 if c == 0 else 0 for c in children.tolist()]
    strahler = [1 if c == 0 else 0 for c in children.tolist()]
    ties = [0] * n
    sides: list[list[int]] = [[] for _ in range(n)]
    asymmetries = []
    for i in range(n - 1, 0, -1):
        if ties[i] > 1:
            strahler[i] += 1
        if len(sides[i]) == 2:
            a, b = sides[i]
            asymmetries.append(abs(a - b) / (a + b - 2) if a + b > 2 else 0.0)
        p = above[i]
        tips[p] += tips[i]
        if children[p] > 1:
            sides[p].append(tips[i])
        if strahler[i] > strahler[p]:
            strahler[p], ties[p] = strahler[i], 1
        elif strahler[i] == strahler[p]:
            ties[p] += 1
    return tips[0], strahler[0] + (ties[0] > 1), asymmetries


def _sholl(radial: np.ndarray, parent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges crossing each of equally spaced spheres around the root, and their radii."""
    radii = np.linspace(0.0, radial.max(), SHOLL_RADII + 2)[1:-1]
    low = np.sort(np.minimum(radial[1:], radial[parent[1:]]))
    high = np.sort(np.maximum(radial[1:], radial[parent[1:]]))
    return np.searchsorted(low, radii) - np.searchsorted(high, radii), radii


def _mean_fork_angle(pos: np.ndarray, parent: np.ndarray, forks: np.ndarray) -> float:
    """Mean angle between the first edges of the children of each two-way fork; 0 without a fork."""
    child = np.flatnonzero(forks[np.maximum(parent, 0)] & (parent >= 0))
    child = child[np.argsort(parent[child], kind="stable")]
    pairs = np.flatnonzero(parent[child][1:] == parent[child][:-1])
    if len(pairs) == 0:
        return 0.0
    a, b = child[pairs], child[pairs + 1]
    u, v = pos[a] - pos[parent[a]], pos[b] - pos[parent[b]]
    norm = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    defined = norm > 0
    if not defined.any():
        return 0.0
    cosine = np.sum(u * v, axis=1)[defined] / norm[defined]
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)).mean())


def _hull_volume(pos: np.ndarray) -> float:
    """Volume of the convex hull; 0 for a flat cell."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        return float(ConvexHull(pos).volume)
    except QhullError:
        return 0.0
