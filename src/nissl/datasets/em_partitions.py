"""Where to centre flood-filling examples: how full of its own object the neighbourhood of each voxel is.

Most voxels of a thick dendrite see nothing but itself; sampling by voxel would show a network little else. The
partition map classes each voxel by the share of its neighbourhood box that belongs to its own object, and centres are
drawn with equal frequency from every class.

Source: Januszewski et al. 2018 and google/ffn (compute_partitions.py, build_coordinates.py). Differences: box sums are
taken per object bounding box, which gives the same map in a fraction of the time; and centres are drawn on the fly from
the map, with no coordinate file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from nissl.volumes.boxes import Triple

log = logging.getLogger(__name__)

IGNORE = 255
BACKGROUND = 0
THRESHOLDS = (0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # the reference's 13 classes


def partition_map(
    labels: np.ndarray, radius_zyx: Triple, min_size: int, thresholds: Sequence[float] = THRESHOLDS
) -> np.ndarray:
    """The class of each voxel by the share of its box that its own object fills.

    Args:
        labels: (Z, Y, X) integer, 0 = background.
        radius_zyx: the box reaches this far from its centre, so it is 2r+1 voxels wide.
        min_size: objects of fewer voxels count as background.
        thresholds: ascending shares t_1 < ... < t_n.

    Returns:
        (Z, Y, X) uint8: 0 background; i if share < t_i and no smaller threshold holds, n+1 if share >= t_n;
        255 where the box leaves the volume.
    """
    ids, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape).astype(np.int32)
    sizes = np.bincount(index.ravel(), minlength=len(ids))
    partition = np.full(labels.shape, IGNORE, np.uint8)
    shrunk = tuple(slice(r, size - r) for r, size in zip(radius_zyx, labels.shape, strict=True))
    if any(part.stop <= part.start for part in shrunk):
        return partition
    partition[shrunk] = BACKGROUND

    box_volume = float(np.prod([2 * r + 1 for r in radius_zyx]))
    for k, found in enumerate(ndimage.find_objects(index + 1)):
        if ids[k] == 0 or sizes[k] < min_size:
            continue
        # Positions: the object's box, as far as neighbourhoods fit. Neighbourhoods: that grown by the radius.
        bounds = zip(found, shrunk, strict=True)
        core = tuple(slice(max(f.start, s.start), min(f.stop, s.stop)) for f, s in bounds)
        if any(part.stop <= part.start for part in core):
            continue
        grown = tuple(slice(c.start - r, c.stop + r) for c, r in zip(core, radius_zyx, strict=True))
        share = box_sums(index[grown] == k, radius_zyx) / box_volume
        classes = np.searchsorted(thresholds, share, side="right").astype(np.uint8) + 1
        partition[core] = np.where(index[core] == k, classes, partition[core])
    return partition


def cached_partition_map(
    labels: np.ndarray, radius_zyx: Triple, min_size: int, cache_dir: str | Path | None
) -> np.ndarray:
    """`partition_map`, kept in a file that is named by everything the map depends on.

    Args:
        cache_dir: folder, made when missing, `~` allowed; None computes without keeping. A file that cannot be read is
            replaced.
    """
    if cache_dir is None:
        return partition_map(labels, radius_zyx, min_size)
    facts = repr((labels.shape, labels.dtype.str, radius_zyx, min_size, THRESHOLDS))
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(labels).tobytes())
    path = Path(cache_dir).expanduser() / f"partition-{digest.hexdigest()}.npz"
    if path.is_file():
        try:
            # Opened here: numpy would leave a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return file["partition"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s) and made anew", path, error)
    partition = partition_map(labels, radius_zyx, min_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as out:
        np.savez_compressed(out, partition=partition)
    os.replace(part, path)  # whole or not at all, also with two trainings at once
    return partition


def value_map(values: np.ndarray, radius_zyx: Triple) -> np.ndarray:
    """Classes that are the ranks of the values themselves, (Z, Y, X) uint8; 255 where the box leaves the volume.

    Raises:
        ValueError: more than 255 different values: these are ids, not classes.
    """
    ids, ranks = np.unique(values, return_inverse=True)
    if len(ids) > IGNORE:
        raise ValueError(f"{len(ids)} different labels are ids, not classes. Set dataset.patches.centres=partitions.")
    ranks = ranks.reshape(values.shape)
    classes = np.full(values.shape, IGNORE, np.uint8)
    inner = tuple(slice(r, size - r) for r, size in zip(radius_zyx, values.shape, strict=True))
    classes[inner] = ranks[inner]
    return classes


def box_sums(indicator: np.ndarray, radius_zyx: Triple) -> np.ndarray:
    """How many voxels are set in the box of 2r+1 around each position where it fits, from running sums per axis."""
    sums = indicator.astype(np.int32)
    for axis, radius in enumerate(radius_zyx):
        running = np.cumsum(sums, axis=axis, dtype=np.int32)
        running = np.concatenate([np.zeros_like(running.take([0], axis)), running], axis)
        width = 2 * radius + 1
        upper = running[(slice(None),) * axis + (slice(width, None),)]
        lower = running[(slice(None),) * axis + (slice(None, running.shape[axis] - width),)]
        sums = upper - lower
    return sums


class BalancedCentres:
    """Draws voxels with equal frequency from each class that occurs.

    Within a class every voxel of every volume is equally likely, so a volume counts by how much of the class it has.

    Args:
        partitions: one partition map per volume.
        weights: relative frequency of each class that occurs, in ascending order; None: equal.

    Raises:
        ValueError: if no map has a single classed voxel, or there is not one weight per class.
    """

    def __init__(self, partitions: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> None:
        self.shapes = [partition.shape for partition in partitions]
        present = [np.flatnonzero(partition != IGNORE) for partition in partitions]
        classes = np.concatenate([p.ravel()[flat] for p, flat in zip(partitions, present, strict=True)])
        volumes = np.repeat(np.arange(len(partitions)), [len(flat) for flat in present])
        order = np.argsort(classes, kind="stable")
        self.classes, starts = np.unique(classes[order], return_index=True)
        if len(self.classes) == 0:
            raise ValueError("no voxel can be the centre of a training example")
        self.stops = np.append(starts[1:], len(order))
        self.starts = starts
        self.shares: np.ndarray | None = None
        if weights is not None:
            if len(weights) != len(self.classes) or min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(
                    f"the volumes have centres of the classes {self.classes.tolist()}: dataset.patches.class_weights "
                    f"needs one weight, 0 or more, for each of them, came {list(weights)}"
                )
            self.shares = np.asarray(weights) / sum(weights)
        self.flat, self.volumes = np.concatenate(present)[order], volumes[order]

    def draw(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Volume index and centre (z, y, x)."""
        k = rng.integers(len(self.classes)) if self.shares is None else rng.choice(len(self.shares), p=self.shares)
        row = rng.integers(self.starts[k], self.stops[k])
        volume = int(self.volumes[row])
        return volume, np.array(np.unravel_index(self.flat[row], self.shapes[volume]))
