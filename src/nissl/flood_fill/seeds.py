"""Where objects are started, and in which order.

A seed policy is a function of a `Scene` that returns positions, (S, 3) integer zyx, tried in that order. Policies are
named in the configuration; a list of names is tried one after the other, each seeing what the ones before it left.
Source: google/ffn (inference/seed.py). Where that file leaves an order to chance or to a library, ours is (z, y, x).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

GRID_STEP = 16  # voxels; the offsets fill a coarse grid first, as in the reference
GRID_OFFSETS = (0, 8, 4, 12, 2, 10, 14)


@dataclass(frozen=True)
class Scene:
    """What a seed policy may look at.

    Attributes:
        image: (Z, Y, X) normalised.
        voxel_size_zyx_nm: of `image`.
        segmentation: (Z, Y, X), above 0 where segments stand already, or None.
        forbidden: (Z, Y, X) bool, True where no seed is wanted, or None.
    """

    image: np.ndarray
    voxel_size_zyx_nm: tuple[float, float, float]
    segmentation: np.ndarray | None = None
    forbidden: np.ndarray | None = None

    @property
    def sampling(self) -> tuple[float, float, float]:
        """Voxel size in units of its finest axis."""
        z, y, x = (size / min(self.voxel_size_zyx_nm) for size in self.voxel_size_zyx_nm)
        return z, y, x

    @property
    def taken(self) -> np.ndarray:
        """(Z, Y, X) bool: in a segment or forbidden."""
        taken = np.zeros(self.image.shape, bool)
        if self.segmentation is not None:
            taken |= self.segmentation > 0
        if self.forbidden is not None:
            taken |= self.forbidden
        return taken


def peaks(scene: Scene) -> np.ndarray:
    """Voxels that lie farther from any edge than their neighbourhood does, sorted by (z, y, x).

    Edges are where the Sobel gradient exceeds its own Gaussian mean (sigma 49/6 voxels), and forbidden voxels;
    distances are Euclidean in units of the finest voxel axis. Ties are broken by noise of a fixed seed, as there.
    """
    edges = _edges(scene.image, range(3))
    if scene.forbidden is not None:
        edges |= scene.forbidden
    if edges.all():
        return np.zeros((0, 3), np.int64)
    distance = ndimage.distance_transform_edt(~edges, sampling=scene.sampling).astype(np.float32)
    distance += np.random.default_rng(42).random(scene.image.shape, dtype=np.float32) * 1e-4
    distance[scene.taken] = -1
    return local_maxima(distance, 3, 0.0)


def section_peaks(scene: Scene) -> np.ndarray:
    """As `peaks`, but in each section of the first axis alone: 7 voxels apart, at least 2.5 from any edge."""
    found = []
    for z, section in enumerate(scene.image):
        edges = _edges(section, range(2))
        if scene.forbidden is not None:
            edges |= scene.forbidden[z]
        if edges.all():
            continue
        distance = ndimage.distance_transform_edt(~edges, sampling=scene.sampling[1:]).astype(np.float32)
        distance += np.random.default_rng(42).random(section.shape, dtype=np.float32) * 1e-4
        distance[scene.taken[z]] = -1
        places = local_maxima(distance, 7, 2.5)
        found.append(np.insert(places, 0, z, axis=1))
    return np.concatenate(found) if found else np.zeros((0, 3), np.int64)


def fill_empty(scene: Scene) -> np.ndarray:
    """The middles of what no segment holds yet: peaks of the distance to segments, 2 voxels apart.

    The faces of the volume count as segments, or what lies open to them would have its peaks there, where none counts.
    """
    free = np.pad(~scene.taken, 1)
    distance = ndimage.distance_transform_edt(free, sampling=scene.sampling).astype(np.float32)[1:-1, 1:-1, 1:-1]
    free = free[1:-1, 1:-1, 1:-1]
    distance += np.random.default_rng(42).random(free.shape, dtype=np.float32) * 1e-4
    return local_maxima(distance, 2, 0.5)


def image_peaks(scene: Scene) -> np.ndarray:
    """Local maxima of the smoothed image (sigma 2 voxels), 3 voxels apart: bright interiors, as in EM."""
    smooth = ndimage.gaussian_filter(scene.image, 2.0)
    smooth[scene.taken] = -np.inf
    return local_maxima(smooth, 3, -np.inf)


def brightest(scene: Scene) -> np.ndarray:
    """Every free voxel, by falling grey value. For small volumes."""
    free = np.argwhere(~scene.taken)
    return free[np.argsort(-scene.image[tuple(free.T)], kind="stable")]


def grid(scene: Scene) -> np.ndarray:
    """Every 16 voxels along each axis, then the same grid moved by 8, 4, 12, 2, 10 and 14 voxels."""
    return _grid([range(0, size, GRID_STEP) for size in scene.image.shape], scene.image.shape, range(3))


def section_grid(scene: Scene) -> np.ndarray:
    """As `grid`, in every section of the first axis."""
    steps = [range(scene.image.shape[0]), *(range(0, size, GRID_STEP) for size in scene.image.shape[1:])]
    return _grid(steps, scene.image.shape, (1, 2))


def dense(scene: Scene) -> np.ndarray:
    """Every free voxel, by (z, y, x)."""
    return np.argwhere(~scene.taken)


SeedPolicy = Callable[[Scene], np.ndarray]
SEED_POLICIES: dict[str, SeedPolicy] = {
    "peaks": peaks,
    "section_peaks": section_peaks,
    "fill_empty": fill_empty,
    "image_peaks": image_peaks,
    "brightest": brightest,
    "grid": grid,
    "section_grid": section_grid,
    "dense": dense,
}


def policy_named(name: str) -> SeedPolicy:
    """The policy of that name; with a leading minus, its positions in reverse order."""
    known = SEED_POLICIES.get(name.removeprefix("-"))
    if known is None:
        raise ValueError(f"seed_policy must be one of {sorted(SEED_POLICIES)}, came {name!r}")
    return known if not name.startswith("-") else lambda scene: known(scene)[::-1]


def reversed_origins(starts_zyx: list[tuple[int, int, int]]) -> np.ndarray:
    """The starts of an earlier flooding, last first, (S, 3): what flooded late before now comes first."""
    return np.asarray(starts_zyx[::-1], np.int64).reshape(-1, 3)


def local_maxima(values: np.ndarray, min_distance: int, threshold: float) -> np.ndarray:
    """Positions of voxels above `threshold` that are the largest of the box of +-min_distance, sorted by (z, y, x).

    Voxels closer than `min_distance` to the border are left out, as scikit-image does.
    """
    largest = ndimage.maximum_filter(values, 2 * min_distance + 1, mode="constant", cval=-np.inf)
    found = (values == largest) & (values > threshold)
    inner = np.zeros_like(found)
    inner[(slice(min_distance, -min_distance),) * values.ndim] = True
    return np.argwhere(found & inner)


def _edges(image: np.ndarray, axes: range) -> np.ndarray:
    gradient = np.sqrt(sum(ndimage.sobel(image, axis) ** 2 for axis in axes))
    edges: np.ndarray = gradient > ndimage.gaussian_filter(gradient, 49.0 / 6, mode="reflect")
    return edges


def _grid(ranges: list[range], shape: tuple[int, ...], moved_axes: range | tuple[int, ...]) -> np.ndarray:
    whole = np.array(list(itertools.product(*ranges)), np.int64).reshape(-1, len(shape))
    found = []
    for offset in GRID_OFFSETS:
        moved = whole + [offset if axis in moved_axes else 0 for axis in range(len(shape))]
        found.append(moved[(moved < shape).all(axis=1)])
    return np.concatenate(found)
