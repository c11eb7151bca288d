"""Fragments: many small pieces of objects, grown by watershed from places far from any boundary."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def distance_fragments(
    inside: np.ndarray, threshold: float, min_seed_distance: int, voxel_size_zyx_nm: tuple[float, float, float]
) -> np.ndarray:
    """Fragments around the maxima of the distance to the nearest boundary, (Z, Y, X) uint64, all voxels assigned.

    Source: funkelab/lsd (fragments.py). Departure: boundary voxels, too, go to the nearest fragment; what should stay
    blank is taken off at the end, by one threshold.

    Args:
        inside: (Z, Y, X) probability of being no boundary.
        threshold: voxels above it are inside.
        min_seed_distance: a seed is the largest distance of the box of this many voxels.
        voxel_size_zyx_nm: of the distances.
    """
    from skimage.segmentation import watershed

    sampling = np.asarray(voxel_size_zyx_nm) / min(voxel_size_zyx_nm)
    distance = ndimage.distance_transform_edt(inside > threshold, sampling=tuple(sampling)).astype(np.float32)
    peaks = (distance == ndimage.maximum_filter(distance, min_seed_distance)) & (distance > 0)
    seeds, _ = ndimage.label(peaks, np.ones((3, 3, 3)))
    return watershed(-distance, seeds).astype(np.uint64)


def marker_fragments(inside: np.ndarray, marker_threshold: float, min_marker_size: int) -> np.ndarray:
    """Watershed of the map itself from its connected parts above a threshold, (Z, Y, X) uint64, all voxels assigned.

    Args:
        inside: (Z, Y, X) probability of being no boundary.
        marker_threshold: what is above it and connected (6 neighbours) is one marker.
        min_marker_size: smaller parts are no markers (voxels).
    """
    from skimage.segmentation import watershed

    markers, _ = ndimage.label(inside > marker_threshold)
    markers = without_small(markers, min_marker_size)
    # 8 bits of probability: markers meet on plateaus in the order of distance, and not of rounding noise.
    return watershed(np.round(255 * (1 - inside)).astype(np.uint8), markers).astype(np.uint64)


def without_small(ids: np.ndarray, min_size: int) -> np.ndarray:
    """Ids with those of fewer than `min_size` voxels set to 0, the others renumbered from 1 in ascending order."""
    sizes = np.bincount(ids.ravel())
    kept = sizes >= max(min_size, 1)
    kept[0] = False
    new = np.where(kept, np.cumsum(kept), 0)
    return new[ids].astype(np.int32)
