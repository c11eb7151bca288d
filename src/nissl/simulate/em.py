"""Electron-microscopy-like volumes with known labels and known skeletons.

Branching neurites of different calibre grow as persistent random walks that steer clear of each other, are swollen
into tubes until they touch, and are drawn with dark membranes, mitochondria, vesicles, noise and blur. Labels include
the membrane of their own neurite, as in dense annotations of FIB-SEM; what no neurite fills is 0.

The skeleton is the walk itself, so it needs no skeletonisation and is exact. This is no model of a brain: it has the
features that a segmentation network must handle (thin processes, touching membranes, organelles that look like
membranes) and nothing else. On request it also has what must not be flooded across: a blood vessel and sections that
are out of place; and cell bodies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Triple, triple
from nissl.volumes.skeletons import Skeletons

CYTOPLASM, MEMBRANE, BETWEEN, MITOCHONDRION = 170.0, 70.0, 120.0, 105.0  # grey values
LUMEN, NUCLEUS = 185.0, 145.0
WALL_NM, WALL_GAPS = 40.0, 0.35  # of a vessel; the gaps are what a network leaks through
MEAN, STD = 125.0, 35.0  # of what is drawn with moderate noise, for normalisation


@dataclass(frozen=True)
class Obstacles:
    """What a volume has beside neurites.

    Attributes:
        vessel_radius_nm: a blood vessel runs along y through the middle of z and x; 0 for none.
        misalignments: (z, dy, dx): from section z on everything lies this many voxels beside its place, labels and
            skeletons too. Their effects add up.
        num_somata: how many neurites have a cell body.
        soma_radius_nm: of each.
    """

    vessel_radius_nm: float = 0.0
    misalignments: tuple[tuple[int, int, int], ...] = ()
    num_somata: int = 0
    soma_radius_nm: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A simulated volume and what is true of it beside its labels.

    Attributes:
        volume: image, labels, skeletons.
        vessel: (Z, Y, X) bool, the blood vessel with its wall.
        shifts_yx: (Z, 2) voxels that each section lies beside its place.
    """

    volume: AnnotatedVolume
    vessel: np.ndarray
    shifts_yx: np.ndarray


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
    return simulate_scene(
        shape_zyx, voxel_size_zyx_nm, seed, num_neurites, radius_nm, branch_every_nm, noise, blur_nm, Obstacles()
    ).volume


def simulate_scene(
    shape_zyx: Triple,
    voxel_size_zyx_nm: tuple[float, float, float],
    seed: int,
    num_neurites: int,
    radius_nm: tuple[float, float],
    branch_every_nm: float,
    noise: float,
    blur_nm: float,
    obstacles: Obstacles,
) -> Scene:
    """As `simulate_volume`, with obstacles and the truth about them.

    Raises:
        ValueError: a misaligned section that does not exist.
    """
    shifts = np.zeros((shape_zyx[0], 2), int)
    for z, dy, dx in obstacles.misalignments:
        if not 0 < z < shape_zyx[0]:
            raise ValueError(f"misalignments: section {z} is none of 1 to {shape_zyx[0] - 1}")
        shifts[z:] += (dy, dx)
    # Everything is grown in a block that is large enough for each section to be cut out of it where it lies.
    margin = np.abs(shifts).max(axis=0)
    block = triple(np.add(shape_zyx, (0, *(2 * margin))))
    voxel_size = np.asarray(voxel_size_zyx_nm)
    rng = np.random.default_rng(seed)
    extent = np.multiply(block, voxel_size)
    walks, somata = _grow(extent, num_neurites, radius_nm, branch_every_nm, rng, obstacles)
    from_vessel = _vessel_distance(block, voxel_size, obstacles.vessel_radius_nm)
    labels = _paint(block, voxel_size, walks, somata)
    labels[from_vessel < WALL_NM] = 0
    raw = _draw(labels, voxel_size, walks, somata, from_vessel, noise, blur_nm, rng)
    first = margin - shifts  # (Z, 2) where each section is cut, for its content to lie `shifts` beside its place

    def cut(array: np.ndarray) -> np.ndarray:
        height, width = shape_zyx[1:]
        return np.stack([array[z, y : y + height, x : x + width] for z, (y, x) in enumerate(first)])

    labels, raw, vessel = cut(labels), cut(raw), cut(from_vessel < WALL_NM)
    skeletons = _skeletons(walks, labels, voxel_size_zyx_nm, first)
    volume = AnnotatedVolume(
        f"simulated {seed}", raw, voxel_size_zyx_nm, labels, skeletons, (1, 1, 1), MEAN, STD,
    )  # fmt: skip
    return Scene(volume, vessel, shifts)


def _vessel_distance(shape_zyx: Triple, voxel_size: np.ndarray, radius_nm: float) -> np.ndarray:
    """Distance in nm from the lumen of the vessel, negative inside, (Z, Y, X); infinite without a vessel."""
    if radius_nm <= 0:
        return np.full(shape_zyx, np.inf, np.float32)
    z, x = (np.arange(shape_zyx[a]) * voxel_size[a] - shape_zyx[a] * voxel_size[a] / 2 for a in (0, 2))
    bend = 0.3 * radius_nm * np.sin(np.arange(shape_zyx[1]) * voxel_size[1] / (4 * radius_nm))
    distance = np.hypot(z[:, None, None], x[None, None, :] + bend[None, :, None]) - radius_nm
    return distance.astype(np.float32)


def _grow(
    extent_nm: np.ndarray,
    num_neurites: int,
    radius_nm: tuple[float, float],
    branch_every_nm: float,
    rng: np.random.Generator,
    obstacles: Obstacles,
) -> tuple[_Walks, list[int]]:
    """All neurites, and the rows of the nodes that are cell bodies."""

    def in_vessel(position: np.ndarray, radius: float) -> bool:
        if obstacles.vessel_radius_nm <= 0:
            return False
        from_axis = np.hypot(position[0] - extent_nm[0] / 2, position[2] - extent_nm[2] / 2)
        return bool(from_axis < 1.3 * obstacles.vessel_radius_nm + WALL_NM + radius)  # 0.3 for its bends

    somata: list[int] = []
    step = 0.7 * radius_nm[0]
    most_steps = int(4 * extent_nm.sum() / step)
    walks = _Walks.empty(num_neurites * (most_steps + 1))
    for neurite in range(1, num_neurites + 1):
        # Few thick processes, many thin ones, as in neuropil.
        radius = radius_nm[0] * (radius_nm[1] / radius_nm[0]) ** (rng.random() ** 1.5)
        has_soma = neurite <= obstacles.num_somata
        at_start = obstacles.soma_radius_nm if has_soma else radius
        for _ in range(60):
            start = rng.uniform(0, extent_nm)
            if walks.is_free(start, at_start, neurite) and not in_vessel(start, at_start):
                break
        else:
            continue
        root = walks.append(start, at_start, neurite, -1)
        somata += [root] if has_soma else []
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
                    if walks.is_free(position, calibre, neurite) and not in_vessel(position, calibre):
                        break
                else:
                    break
                if np.any(position < 0) or np.any(position >= extent_nm):
                    break
                row, direction = walks.append(position, calibre, neurite, row), turned
                if rng.random() < step / branch_every_nm:
                    sideways = _unit(direction + 1.2 * _unit(rng.normal(size=3)))
                    tips.append((row, sideways, max(radius_nm[0], 0.7 * radius)))
    return walks, somata


def _paint(shape_zyx: Triple, voxel_size: np.ndarray, walks: _Walks, somata: list[int]) -> np.ndarray:
    """Each voxel to the neurite whose surface is nearest or encloses it, uint32; 0 where none reaches."""
    nodes = slice(0, walks.count)
    voxels = _voxels(walks.position[nodes], voxel_size, shape_zyx)
    # Calibre enters as distance minus radius. One distance transform per class of calibre stands for one per node.
    slender = np.setdiff1d(np.arange(walks.count), somata)
    edges = np.quantile(walks.radius[slender], [0.25, 0.5, 0.75])
    classes = np.searchsorted(edges, walks.radius[nodes])
    classes[somata] = -1
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
    for row in somata:  # alone in their size: a distance of their own for each
        depth = _distance_nm(shape_zyx, voxel_size, walks.position[row]) - walks.radius[row]
        better = depth < best
        best[better], labels[better] = depth[better], walks.neurite[row]
    labels[best > 0.4 * float(walks.radius[slender].mean())] = 0  # swollen, so that neighbours touch
    return labels


def _distance_nm(shape_zyx: Triple, voxel_size: np.ndarray, centre_nm: np.ndarray) -> np.ndarray:
    z, y, x = ((np.arange(n) * s - c) ** 2 for n, s, c in zip(shape_zyx, voxel_size, centre_nm, strict=True))
    return np.sqrt(z[:, None, None] + y[None, :, None] + x[None, None, :]).astype(np.float32)


def _draw(
    labels: np.ndarray,
    voxel_size: np.ndarray,
    walks: _Walks,
    somata: list[int],
    from_vessel: np.ndarray,
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
    thick = np.setdiff1d(thick, somata)
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
    for row in somata:
        distance = _distance_nm(triple(labels.shape), voxel_size, walks.position[row]) / walks.radius[row]
        nucleus = (distance < 0.6) & (labels == walks.neurite[row])
        image[nucleus] = np.where(distance[nucleus] > 0.55, MEMBRANE, NUCLEUS)
    if np.isfinite(from_vessel).any():
        patches = ndimage.gaussian_filter(rng.normal(size=labels.shape), 3)
        wall = (from_vessel >= 0) & (from_vessel < WALL_NM) & (patches > np.quantile(patches, WALL_GAPS))
        image[from_vessel < WALL_NM] = LUMEN
        image[wall] = MEMBRANE

    image = ndimage.gaussian_filter(image, blur_nm / voxel_size)
    image += noise * ndimage.gaussian_filter(rng.normal(size=labels.shape), 0.5) / 0.42  # slightly correlated, as scans
    return np.clip(image, 0, 255).astype(np.uint8)


def _skeletons(
    walks: _Walks, labels: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float], first_yx: np.ndarray
) -> Skeletons:
    """The walks as skeletons, without the nodes that were cut off or that another neurite swallowed."""
    position, neurite = walks.position[: walks.count], walks.neurite[: walks.count]
    child = np.flatnonzero(walks.parent[: walks.count] >= 0)
    edges = np.stack([child, walks.parent[child]], axis=1)
    z = np.clip(np.rint(position[:, 0] / voxel_size_zyx_nm[0]).astype(int), 0, len(first_yx) - 1)
    moved = position - np.concatenate([np.zeros((len(z), 1)), first_yx[z]], axis=1) * voxel_size_zyx_nm
    in_voxels = np.rint(moved / voxel_size_zyx_nm)
    # Half a voxel beyond the last is still the last; farther out is outside.
    inside = np.all((in_voxels >= 0) & (in_voxels <= labels.shape), axis=1)
    voxels = _voxels(np.maximum(moved, 0), np.asarray(voxel_size_zyx_nm), labels.shape)
    kept = inside & (labels[tuple(voxels.T)] == neurite)
    edges = edges[kept[edges].all(axis=1)]
    nodes = voxels[kept] * np.asarray(voxel_size_zyx_nm)  # at voxel centres, so that reading them back is exact
    return Skeletons(nodes, (np.cumsum(kept) - 1)[edges], neurite[kept])


def _voxels(position_nm: np.ndarray, voxel_size: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    return np.minimum(np.rint(position_nm / voxel_size).astype(np.int64), np.asarray(shape_zyx) - 1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
