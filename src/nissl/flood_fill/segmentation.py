"""What segmenting one volume gives, and how it is kept in arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from nissl.flood_fill.canvas import Origin
from nissl.flood_fill.movement import Triple
from nissl.volumes.annotated import AnnotatedVolume


@dataclass(frozen=True)
class Segmentation:
    """What flooding one volume gave.

    Attributes:
        ids: (Z, Y, X) int32 at the volume's native resolution; 0 = unassigned.
        origins: segment id -> where it began (at the network's resolution) and its cost.
        counters: seeds and moves by outcome.
        cpu_seconds: processor time spent.
        truncated: whether `max_moves` ended it.
        overlaps: segment id -> earlier segments it wanted voxels of, and how many.
        rejected: seeds that became no segment: start, reason, moves.
        stages: name -> ids (native) after each step, where there are several.
        tables: name -> rows that explain the result, such as the decisions of an agglomeration.
        probability: (Z, Y, X) uint8, native: how surely each voxel belongs to its segment, quantised by
            `nissl.flood_fill.probability`; 0 = unassigned. None where it is not known.
    """

    ids: np.ndarray
    origins: dict[int, Origin]
    counters: dict[str, int]
    cpu_seconds: float
    truncated: bool
    overlaps: dict[int, dict[int, int]] = field(default_factory=dict)
    rejected: list[tuple[Triple, str, int]] = field(default_factory=list)
    stages: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    probability: np.ndarray | None = None


def network_ids(segmentation: np.ndarray, volume: AnnotatedVolume) -> np.ndarray:
    """A native segmentation that came from the network's resolution, back there: one voxel of each block."""
    shape = [size // scale for size, scale in zip(segmentation.shape, volume.scale_zyx, strict=True)]
    (Z, sz), (Y, sy), (X, sx) = zip(shape, volume.scale_zyx, strict=True)
    return segmentation[: Z * sz : sz, : Y * sy : sy, : X * sx : sx]


def grown(ids: np.ndarray, reach_nm: float, voxel_size_zyx_nm: tuple[float, float, float]) -> np.ndarray:
    """`ids` (Z, Y, X) in which every voxel without one takes the nearest id that is at most `reach_nm` away.

    Flooding keeps clear of membranes; labels that share them out between neurons, and skeletons that run close to them,
    are met again this way.
    """
    if reach_nm == 0 or not ids.any():
        return ids
    return ids[nearest_within(ids, reach_nm, voxel_size_zyx_nm)]


def nearest_within(
    ids: np.ndarray, reach_nm: float, voxel_size_zyx_nm: tuple[float, float, float]
) -> tuple[np.ndarray, ...]:
    """For each voxel, where the nearest one with an id is (z, y, x index arrays); itself where that is too far away."""
    distance, nearest = ndimage.distance_transform_edt(ids == 0, sampling=voxel_size_zyx_nm, return_indices=True)
    return tuple(np.where(distance <= reach_nm, nearest, np.indices(ids.shape, np.int32, sparse=False)))


def to_arrays(found: Segmentation) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and JSON facts of a segmentation without stages and tables."""
    facts = {
        "counters": found.counters,
        "cpu_seconds": found.cpu_seconds,
        "truncated": found.truncated,
        "origins": [[i, *o.start_zyx, o.num_moves, o.num_voxels] for i, o in found.origins.items()],
        "overlaps": [[i, [[other, n] for other, n in of.items()]] for i, of in found.overlaps.items()],
        "rejected": found.rejected,
    }
    arrays = {"ids": found.ids}
    if found.probability is not None:
        arrays["probability"] = found.probability
    return arrays, facts


def from_arrays(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Segmentation:
    """The inverse of `to_arrays`."""
    return Segmentation(
        arrays["ids"],
        {i: Origin((z, y, x), moves, voxels) for i, z, y, x, moves, voxels in facts["origins"]},
        facts["counters"],
        facts["cpu_seconds"],
        facts["truncated"],
        {i: dict(map(tuple, of)) for i, of in facts["overlaps"]},
        [((z, y, x), reason, moves) for (z, y, x), reason, moves in facts["rejected"]],
        probability=arrays.get("probability"),
    )
