"""Where objects are started, and in which order.

A seed policy is a function of the normalised image that returns positions, (S, 3) integer zyx.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def peaks(image: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float], min_distance: int = 3) -> np.ndarray:
    """Voxels that lie farther from any edge than their neighbourhood does, sorted by (z, y, x).

    Edges are where the Sobel gradient exceeds its own Gaussian mean (sigma 49/6 voxels); distances are Euclidean in
    units of the finest voxel axis. Source: google/ffn, PolicyPeaks; ties are broken by noise of a fixed seed, as there.
    """
    gradient = np.sqrt(sum(ndimage.sobel(image, axis) ** 2 for axis in range(3)))
    edges = gradient > ndimage.gaussian_filter(gradient, 49.0 / 6, mode="reflect")
    if edges.all():
        return np.zeros((0, 3), np.int64)
    sampling = np.asarray(voxel_size_zyx_nm) / min(voxel_size_zyx_nm)
    distance = ndimage.distance_transform_edt(~edges, sampling=tuple(sampling)).astype(np.float32)
    distance += np.random.default_rng(42).random(image.shape, dtype=np.float32) * 1e-4
    return local_maxima(distance, min_distance, 0.0)


def local_maxima(values: np.ndarray, min_distance: int, threshold: float) -> np.ndarray:
    """Positions of voxels above `threshold` that are the largest of the box of +-min_distance, sorted by (z, y, x).

    Voxels closer than `min_distance` to the border are left out, as scikit-image does.
    """
    largest = ndimage.maximum_filter(values, 2 * min_distance + 1, mode="constant", cval=-np.inf)
    found = (values == largest) & (values > threshold)
    inner = np.zeros_like(found)
    inner[(slice(min_distance, -min_distance),) * 3] = True
    return np.argwhere(found & inner)
