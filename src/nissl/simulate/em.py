"""Electron-microscopy-like volumes with known labels and known skeletons.

Branching neurites of different calibre grow as persistent random walks that steer clear of each other, are swollen
into tubes until they touch, and are drawn with dark membranes, mitochondria, vesicles, noise and blur. Labels include
the membrane of their own neurite, as in dense annotations of FIB-SEM; what no neurite fills is 0.

The skeleton is the walk itself, so it needs no skeletonisation and is exact. This is no model of a brain: it has the
features that a segmentation network must handle (thin processes, touching membranes, organelles that look like
membranes) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Triple
from nissl.volumes.skeletons import Skeletons

CYTOPLASM, MEMBRANE, BETWEEN, MITOCHONDRION = 170.0, 70.0, 120.0, 105.0  # grey values
MEAN, STD = 125.0, 35.0  # of what is drawn with moderate noise, for normalisation


@dataclass
class _Walks:
    """Nodes of all neurites so far: position nm, radius nm, neurite, row of the parent (-1 at a start)."""

    position: np.ndarray
    radius: np.ndarray
    neurite: np.ndarray
    parent: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, capacity: int) -> _Walks:
        return cls(np.empty((capacity, 3)), np.empty(capacity), np.empty(capacity, np.int64), np.empty(capacity, int))

    def append(self, position: np.ndarray, radius: float, neurite: int, parent: int) -> int:
        row = self.count
        self.position[row], self.radius[row], self.neurite[row], self.parent[row] = position, radius, neurite, parent
        self.count += 1
        return row

    def is_free(self, position: np.ndarray, radius: float, neurite: int) -> bool:
        """Whether a node here keeps clear of every other neurite, and does not press into its own."""
        others = self.neurite[: self.count] != neurite
        distance = np.linalg.norm(self.position[: self.count][others] - position, axis=1)
        return bool(np.all(distance > 0.9 * (radius + self.radius[: self.count][others])))


def simulate_volume(
    shape_zyx: Triple,
    voxel_size_zyx_nm: tuple[float, float, float],
    seed: int,
    num_neurites: int,
    radius_nm: tuple[float, float],
    branch_every_nm: float,
    noise: float,
    blur_nm: float,
) -> AnnotatedVolume:
    """A labelled volume that is the same for the same arguments.

    Args:
        shape_zyx: voxels.
        voxel_size_zyx_nm: may be anisotropic; shapes are drawn in nm.
        seed: of everything random.
        num_neurites: how many are started; fewer fit when the volume is full.
        radius_nm: smallest and largest calibre.
        branch_every_nm: mean distance between branch points.
        noise: standard deviation of the grey values' noise (0 to 255).
        blur_nm: standard deviation of the point spread.
    """
    rng = np.random.default_rng(seed)
    walks = _grow(np.multiply(shape_zyx, voxel_size_zyx_nm), num_neurites, radius_nm, branch_every_nm, rng)
    labels = _paint(shape_zyx, np.asarray(voxel_size_zyx_nm), walks)
    raw = _draw(labels, np.asarray(voxel_size_zyx_nm), walks, noise, blur_nm, rng)
    return AnnotatedVolume(
        f"simulated {seed}", raw, voxel_size_zyx_nm, labels, _skeletons(walks, labels, voxel_size_zyx_nm), (1, 1, 1),
        MEAN, STD,
    )  # fmt: skip


def _grow(
    extent_nm: np.ndarray,
    num_neurites: int,
    radius_nm: tuple[float, float],
    branch_every_nm: float,
    rng: np.random.Generator,
) -> _Walks:
    step = 0.7 * radius_nm[0]
    most_steps = int(4 * extent_nm.sum() / step)
    walks = _Walks.empty(num_neurites * (most_steps + 1))
    for neurite in range(1, num_neurites + 1):
        # Few thick processes, many thin ones, as in neuropil.
        radius = radius_nm[0] * (radius_nm[1] / radius_nm[0]) ** (rng.random() ** 1.5)
        for _ in range(60):
            start = rng.uniform(0, extent_nm)
            if walks.is_free(start, radius, neurite):
                break
        else:
            continue
        root = walks.append(start, radius, neurite, -1)
        direction = _unit(rng.normal(size=3))
        tips = [(root, direction, radius), (root, -direction, radius)]
        steps = 0
        while tips and steps < most_steps:
            row, direction, radius = tips.pop()
            while steps < most_steps:
                steps += 1
                calibre = float(np.clip(radius * np.exp(0.08 * rng.normal()), *radius_nm))
                for attempt in range(10):
                    turned = _unit(direction + (0.08 + 0.1 * attempt) * rng.normal(size=3))
                    position = walks.position[row] + step * turned
                    if walks.is_free(position, calibre, neurite):
                        break
                else:
                    break
                if np.any(position < 0) or np.any(position >= extent_nm):
                    break
                row, direction = walks.append(position, calibre, neurite, row), turned
                if rng.random() < step / branch_every_nm:
                    sideways = _unit(direction + 1.2 * _unit(rng.normal(size=3)))
                    tips.append((row, sideways, max(radius_nm[0], 0.7 * radius)))
    return walks


def _paint(shape_zyx: Triple, voxel_size: np.ndarray, walks: _Walks) -> np.ndarray:
    """Each voxel to the neurite whose surface is nearest or encloses it, uint32; 0 where none reaches."""
    nodes = slice(0, walks.count)
    voxels = _voxels(walks.position[nodes], voxel_size, shape_zyx)
    # Calibre enters as distance minus radius. One distance transform per class of calibre stands for one per node.
    edges = np.quantile(walks.radius[nodes], [0.25, 0.5, 0.75])
    classes = np.searchsorted(edges, walks.radius[nodes])
    best = np.full(shape_zyx, np.inf, np.float32)
    labels = np.zeros(shape_zyx, np.uint32)
    for k in range(4):
        rows = np.flatnonzero(classes == k)
        if len(rows) == 0:
            continue
        node_at = np.full(shape_zyx, -1, np.int64)
        node_at[tuple(voxels[rows].T)] = rows
        distance, nearest = ndimage.distance_transform_edt(node_at < 0, sampling=tuple(voxel_size), return_indices=True)
        node = node_at[tuple(nearest)]
        depth = distance - walks.radius[node]
        better = depth < best
        best[better], labels[better] = depth[better], walks.neurite[node[better]]
    labels[best > 0.4 * float(walks.radius[nodes].mean())] = 0  # swollen, so that neighbours touch
    return labels


def _draw(
    labels: np.ndarray,
    voxel_size: np.ndarray,
    walks: _Walks,
    noise: float,
    blur_nm: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Grey values, uint8."""
    own_grey = rng.normal(0, 8, int(labels.max()) + 1)  # staining differs between neurites
    image = np.where(labels > 0, CYTOPLASM + own_grey[labels], BETWEEN)

    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(labels.shape, voxel_size, strict=True)),
                                indexing="ij"))  # fmt: skip
    thick = np.flatnonzero(walks.radius[: walks.count] > np.quantile(walks.radius[: walks.count], 0.6))
    for row in rng.choice(thick, max(1, len(thick) // 25), replace=False):
        # A mitochondrion: dark, with a darker rim, long along a random axis, inside its neurite.
        half_nm = walks.radius[row] * rng.uniform(0.35, 0.6) * (1 + 1.2 * (np.arange(3) == rng.integers(3)))
        centre = walks.position[row]
        low = np.maximum(((centre - half_nm) / voxel_size).astype(int), 0)
        high = np.minimum(((centre + half_nm) / voxel_size).astype(int) + 2, labels.shape)
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        radial = np.linalg.norm((grid[(slice(None), *part)] - centre[:, None, None, None])
                                / half_nm[:, None, None, None], axis=0)  # fmt: skip
        inside = (radial < 1) & (labels[part] == walks.neurite[row])
        image[part][inside] = np.where(radial[inside] > 0.75, MITOCHONDRION - 25, MITOCHONDRION)

    vesicles = (rng.random(labels.shape) < 0.004) & (labels % 3 == 1)  # every third neurite has them
    image[vesicles] -= 60

    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        differs = labels[tuple(low)] != labels[tuple(high)]
        border[tuple(low)] |= differs
        border[tuple(high)] |= differs
    image[border] = MEMBRANE

    image = ndimage.gaussian_filter(image, blur_nm / voxel_size)
    image += noise * ndimage.gaussian_filter(rng.normal(size=labels.shape), 0.5) / 0.42  # slightly correlated, as scans
    return np.clip(image, 0, 255).astype(np.uint8)


def _skeletons(walks: _Walks, labels: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float]) -> Skeletons:
    """The walks as skeletons, without the nodes that another neurite swallowed."""
    position, neurite = walks.position[: walks.count], walks.neurite[: walks.count]
    child = np.flatnonzero(walks.parent[: walks.count] >= 0)
    edges = np.stack([child, walks.parent[child]], axis=1)
    voxels = _voxels(position, np.asarray(voxel_size_zyx_nm), labels.shape)
    kept = labels[tuple(voxels.T)] == neurite
    edges = edges[kept[edges].all(axis=1)]
    nodes = voxels[kept] * np.asarray(voxel_size_zyx_nm)  # at voxel centres, so that reading them back is exact
    return Skeletons(nodes, (np.cumsum(kept) - 1)[edges], neurite[kept])


def _voxels(position_nm: np.ndarray, voxel_size: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    return np.minimum(np.rint(position_nm / voxel_size).astype(np.int64), np.asarray(shape_zyx) - 1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
