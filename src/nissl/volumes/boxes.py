"""Boxes of voxels, zyx, half open like slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """Voxels with start_zyx <= position < stop_zyx."""

    start_zyx: Triple
    stop_zyx: Triple

    @classmethod
    def whole(cls, shape_zyx: Sequence[int]) -> Box:
        return cls((0, 0, 0), triple(shape_zyx))

    @classmethod
    def parse(cls, ranges_zyx: Sequence[Sequence[int]], shape_zyx: Sequence[int], name: str) -> Box:
        """A box from a config's [[z0, z1], [y0, y1], [x0, x1]], checked against the volume it cuts.

        Raises:
            ValueError: naming the config key, if the box is malformed, empty or leaves the volume.
        """
        if len(ranges_zyx) != 3 or any(len(pair) != 2 for pair in ranges_zyx):
            raise ValueError(f"{name} must be [[z0, z1], [y0, y1], [x0, x1]] in voxels, came {ranges_zyx}")
        box = cls(triple([pair[0] for pair in ranges_zyx]), triple([pair[1] for pair in ranges_zyx]))
        for axis, start, stop, size in zip("zyx", box.start_zyx, box.stop_zyx, shape_zyx, strict=True):
            if not 0 <= start < stop <= size:
                raise ValueError(
                    f"{name}: {axis} from {start} to {stop} is no part of the volume, which has 0 to {size}"
                )
        return box

    @property
    def shape_zyx(self) -> Triple:
        return triple(np.subtract(self.stop_zyx, self.start_zyx))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    def contains(self, points_zyx: np.ndarray) -> np.ndarray:
        """Which of the voxel positions (N, 3) lie inside, (N,) bool."""
        return np.all((points_zyx >= self.start_zyx) & (points_zyx < self.stop_zyx), axis=1)


def triple(values: Sequence[int] | np.ndarray) -> Triple:
    """Three plain integers, z, y, x."""
    z, y, x = (int(value) for value in values)
    return z, y, x
