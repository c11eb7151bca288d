"""A segmentation that a file holds already, behind the same door as one that is made: published results, other
programs' output, yesterday's flooding.

`segmenter=stored` scores it with every evaluator of segmentations; `evaluator=[segmentation,erl,reference]` puts it
beside our own in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.chunked import read_hdf5, write_hdf5


class Segmenter(Protocol):
    """What turns volumes into segment ids: `FloodFill`, a baseline, or what a file holds."""

    def segment(self, network: Any, volumes: Sequence[AnnotatedVolume], max_moves: int | None = None) -> list[Any]:
        """One `nissl.flood_fill.segmenter.Segmentation` per volume."""


class StoredSegmentation:
    """Reads ids from an HDF5 file that covers the whole of the volumes' file, and cuts each volume's box out of it.

    Args:
        path: the file.
        labels: its dataset, 0 = unassigned.
    """

    def __init__(self, path: str, labels: str) -> None:
        self.path, self.labels = path, labels

    def segment(self, network: Any, volumes: Sequence[AnnotatedVolume], max_moves: int | None = None) -> list[Any]:
        """The stored ids of each volume; the network is not used."""
        from nissl.flood_fill.segmenter import Segmentation

        found = []
        for volume in volumes:
            ids = read_hdf5(self.path, self.labels, "labels", volume.box)
            if not ids.any():
                raise ValueError(f"'{self.labels}' of {self.path} is 0 everywhere in '{volume.name}' ({volume.box})")
            # Ids may be of any integer type; from here on they are counted and packed.
            found.append(Segmentation(ids.astype(np.int64), {}, {"moves": 0}, 0.0, False))
        return found


def write_segments(path: str, segmentation: Any, volume: AnnotatedVolume) -> None:
    """A segmentation as `segmenter=stored` and `threshold_sweep` read it, in the frame of the volume's own file.

    Datasets `segments`, (Z, Y, X) uint64, 0 = unassigned or before the volume's box, and, where the segmentation has
    it, `probability`, uint8 as in `nissl.flood_fill.probability`.
    """
    arrays = {"segments": segmentation.ids.astype(np.uint64)}
    if segmentation.probability is not None:
        arrays["probability"] = segmentation.probability
    write_hdf5(path, arrays, volume.voxel_size_zyx_nm, volume.offset_zyx)
