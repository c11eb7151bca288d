"""One id space for tiles that were segmented independently: what the same object is called on both sides of a face.

The volume is cut into cores that tile it exactly; each is segmented with a halo around it, so that neighbours see the
same voxels twice. In those voxels, less the outer rim of each tile where no field of view can be centred, ids that are
each other's best match and agree well enough are one object. Everything else stays apart and is left to agglomeration.

google/ffn names union-find for this and has none; rule and order are ours. The result is a function of the tiles' ids
and boxes: the id of an object is the rank of its first id, whatever the order of the tiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nissl.volumes.boxes import Box, triple


@dataclass(frozen=True)
class Tile:
    """The voxels that a tile answers for, those that it was segmented with, and those of them to be compared."""

    core: Box
    outer: Box
    trusted: Box


@dataclass(frozen=True)
class Match:
    """When two ids are one object.

    Attributes:
        min_shared: voxels that both hold.
        min_iou, min_containment: of the voxels compared; one of the two must be reached.
    """

    min_shared: int
    min_iou: float
    min_containment: float


def cut(
    shape_zyx: Sequence[int], core_zyx: Sequence[int], halo_zyx: Sequence[int], rim_zyx: Sequence[int]
) -> list[Tile]:
    """Tiles of a volume, by (z, y, x). Cores at the far faces may be smaller.

    Args:
        core_zyx, halo_zyx: voxels; the halo goes as far as the volume does.
        rim_zyx: voxels at the faces of a tile that are not compared, unless they are faces of the volume.
    """
    tiles = []
    for start in itertools.product(*(range(0, n, c) for n, c in zip(shape_zyx, core_zyx, strict=True))):
        stop = np.minimum(np.add(start, core_zyx), shape_zyx)
        low, high = np.maximum(np.subtract(start, halo_zyx), 0), np.minimum(stop + halo_zyx, shape_zyx)
        inner_low = np.where(low == 0, 0, low + rim_zyx)
        inner_high = np.where(high == shape_zyx, high, high - rim_zyx)
        tiles.append(
            Tile(
                Box(triple(start), triple(stop)),
                Box(triple(low), triple(high)),
                Box(triple(inner_low), triple(np.maximum(inner_low, inner_high))),
            )
        )
    return tiles


def reconcile(tiles: Sequence[Tile], ids: Sequence[np.ndarray], rule: Match) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The whole volume, and one row per pair of ids that share a voxel.

    Args:
        ids: of each tile's outer box, (Z, Y, X) integer, 0 = unassigned.

    Returns:
        (Z, Y, X) int32, each voxel from the tile whose core it lies in; and tiles, ids, shared voxels, IoU,
        containment, and whether the pair was joined.
    """
    for tile, part in zip(tiles, ids, strict=True):
        if part.shape != tile.outer.shape_zyx:
            raise ValueError(
                f"a tile of {list(tile.outer.shape_zyx)} voxels needs ids of that shape, came {part.shape}"
            )
    offsets = np.cumsum([0, *(int(part.max(initial=0)) for part in ids)])  # provisional id = offset + local id
    rows = []
    for (i, first), (j, second) in itertools.combinations(enumerate(tiles), 2):
        low = np.maximum(first.trusted.start_zyx, second.trusted.start_zyx)
        high = np.minimum(first.trusted.stop_zyx, second.trusted.stop_zyx)
        if np.all(low < high):
            shared = Box(triple(low), triple(high))
            a, b = (ids[k][_within(shared, tiles[k].outer)] for k in (i, j))
            rows += [{"first_tile": i, "second_tile": j, **row} for row in _matches(a, b, rule)]
    edges = [
        (offsets[r["first_tile"]] + r["first"], offsets[r["second_tile"]] + r["second"]) for r in rows if r["joined"]
    ]
    size = int(offsets[-1]) + 1
    u, v = np.asarray(edges, np.int64).reshape(-1, 2).T
    graph = sparse.coo_matrix((np.ones(len(u), bool), (u, v)), shape=(size, size))
    _, component = connected_components(graph, directed=False)  # numbered by their first id; that of 0 is 0
    shape = np.max([tile.core.stop_zyx for tile in tiles], axis=0)
    whole = np.zeros(shape, np.int32)
    for offset, tile, part in zip(offsets, tiles, ids, strict=False):
        own = part[_within(tile.core, tile.outer)]
        whole[tile.core.slices] = np.where(own > 0, component[np.where(own > 0, own + offset, 0)], 0)
    return whole, rows


def _within(box: Box, outer: Box) -> tuple[slice, slice, slice]:
    z, y, x = (
        slice(low - start, high - start)
        for low, high, start in zip(box.start_zyx, box.stop_zyx, outer.start_zyx, strict=True)
    )
    return z, y, x


def _matches(a: np.ndarray, b: np.ndarray, rule: Match) -> list[dict[str, Any]]:
    """Every pair of ids that share a voxel; in a tie for the best match the smaller id."""
    both = (a > 0) & (b > 0)
    pairs, shared = np.unique(np.stack([a[both], b[both]]), axis=1, return_counts=True)
    in_a, in_b = (dict(zip(*np.unique(part[part > 0], return_counts=True), strict=True)) for part in (a, b))
    best: dict[tuple[int, int], int] = {}  # (side, id) -> row of its largest overlap
    for row in np.argsort(-shared, kind="stable"):
        for side in (0, 1):
            best.setdefault((side, int(pairs[side, row])), int(row))
    rows = []
    for row, (first, second, n) in enumerate(zip(pairs[0].tolist(), pairs[1].tolist(), shared.tolist(), strict=True)):
        iou = n / (int(in_a[first]) + int(in_b[second]) - n)
        containment = n / min(int(in_a[first]), int(in_b[second]))
        mutual = best[0, first] == best[1, second] == row
        agrees = n >= rule.min_shared and (iou >= rule.min_iou or containment >= rule.min_containment)
        rows.append(
            {"first": first, "second": second, "shared": n, "iou": iou, "containment": containment,
             "joined": mutual and agrees}
        )  # fmt: skip
    return rows
