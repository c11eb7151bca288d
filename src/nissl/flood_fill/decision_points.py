"""Where two segments come close: the places at which it is decided whether they are one neuron.

Source: google/ffn (utils/decision_point.py). Segments are extended into the background until they meet; of all the
faces that two of them share, the point nearest to the middle of the closest ones stands for the pair.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nissl.flood_fill.movement import Triple

# Half of the 26 neighbours would do; the reference looks at these seven, without diagonals that fall.
NEIGHBOURS = [offset for offset in itertools.product((0, -1), repeat=3) if any(offset)]


@dataclass(frozen=True)
class DecisionPoint:
    """A pair of segments, the smaller id first, and where they come closest."""

    first: int
    second: int
    point_zyx: Triple
    distance_nm: float


def decision_points(
    segmentation: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float], max_distance_nm: float
) -> list[DecisionPoint]:
    """One point for each pair of segments that meet when extended by `max_distance_nm`, by (first, second).

    Args:
        segmentation: (Z, Y, X) integer, 0 = unassigned.
        max_distance_nm: how far a segment is extended; pairs up to twice as far apart are found.
    """
    distance, nearest = ndimage.distance_transform_edt(
        segmentation == 0, sampling=voxel_size_zyx_nm, return_indices=True
    )
    wide = segmentation[tuple(nearest)]
    wide[distance > max_distance_nm] = 0
    pairs, places, gaps = [], [], []
    for offset in NEIGHBOURS:
        here = tuple(slice(None, -1) if step else slice(None) for step in offset)
        there = tuple(slice(1, None) if step else slice(None) for step in offset)
        a, b = wide[here], wide[there]
        touching = np.nonzero((a != b) & (a > 0) & (b > 0))
        pairs.append(np.sort(np.stack([a[touching], b[touching]], axis=1), axis=1))
        places.append(np.stack(touching, axis=1))
        gaps.append((distance[here][touching] + distance[there][touching]) / 2)
    pair, place, gap = np.concatenate(pairs), np.concatenate(places), np.concatenate(gaps)
    if len(pair) == 0:
        return []
    unique, index = np.unique(pair, axis=0, return_inverse=True)
    index = index.ravel()
    smallest = np.full(len(unique), np.inf)
    np.minimum.at(smallest, index, gap)
    closest = gap <= smallest[index] + 1e-9
    index, place = index[closest], place[closest]
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(np.bincount(index, minlength=len(unique)))
    found = []
    for i, group in enumerate(np.split(place[order], ends[:-1])):
        away = np.multiply(group - group.mean(axis=0), voxel_size_zyx_nm)
        z, y, x = group[np.argmin((away**2).sum(axis=1))].tolist()
        # Both voxels' distances to their segments are means of the same gap: from surface to surface it is twice that.
        found.append(DecisionPoint(int(unique[i, 0]), int(unique[i, 1]), (z, y, x), 2 * float(smallest[i])))
    return found
