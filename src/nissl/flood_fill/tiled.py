"""Flood filling of a volume in overlapping tiles, with one id space in the end.

Every tile is a canvas of its own, so that `segmenter.flood.batch_size` moves of different tiles share a network call.
The settings live in `conf/segmenter/flood_fill_tiled.yaml`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import nn

from nissl.flood_fill.reconcile import Match, cut, reconcile
from nissl.flood_fill.segmentation import Segmentation
from nissl.flood_fill.segmenter import FloodFill
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import triple


class TiledFloodFill:
    """Segmenter that floods tile by tile.

    Args:
        flood: how each tile is flooded.
        core_zyx: voxels (native) that each tile answers for; a multiple of the network's scale.
        halo_zyx: voxels (native) around it; more than half a field of view, so that two tiles share trusted voxels.
        min_shared, min_iou, min_containment: see `nissl.flood_fill.reconcile.Match`.
    """

    def __init__(
        self,
        flood: FloodFill,
        core_zyx: Sequence[int],
        halo_zyx: Sequence[int],
        min_shared: int,
        min_iou: float,
        min_containment: float,
    ) -> None:
        self.flood = flood
        self.core, self.halo = triple(np.asarray(core_zyx)), triple(np.asarray(halo_zyx))
        self.rule = Match(min_shared, min_iou, min_containment)

    def segment(
        self, network: nn.Module, volumes: Sequence[AnnotatedVolume], max_moves: int | None = None
    ) -> list[Segmentation]:
        """Segment each volume; see `FloodFill.segment`. `max_moves` is per tile."""
        return [self._segment(network, volume, max_moves) for volume in volumes]

    def _segment(self, network: nn.Module, volume: AnnotatedVolume, max_moves: int | None) -> Segmentation:
        rim = np.multiply(network.fov_zyx, volume.scale_zyx) // 2  # type: ignore[arg-type]
        if np.any(np.remainder((self.core, self.halo), volume.scale_zyx)):
            raise ValueError(
                f"core_zyx {list(self.core)} and halo_zyx {list(self.halo)} must be multiples of the network's scale "
                f"{list(volume.scale_zyx)}"
            )
        if np.any(np.asarray(self.halo) <= rim):
            raise ValueError(
                f"halo_zyx {list(self.halo)} must exceed half a field of view, {rim.tolist()} voxels of '{volume.name}'"
            )
        tiles = cut(volume.raw.shape, self.core, self.halo, triple(rim))
        found = self.flood.segment(network, [volume.crop(tile.outer) for tile in tiles], max_moves)
        ids, rows = reconcile(tiles, [part.ids for part in found], self.rule)
        counters: Counter[str] = Counter()
        for part in found:
            counters.update(part.counters)
        return Segmentation(
            ids,
            {},  # ids of tiles have their origins, those of the whole have several
            dict(sorted(counters.items())),
            sum(part.cpu_seconds for part in found),
            any(part.truncated for part in found),
            tables={"seams": rows},
        )
