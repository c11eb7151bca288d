"""Sections that do not fit their neighbours, as a mask and an overlay; needs no network.

The shift of each section against the one before is measured patch by patch (`nissl.volumes.irregularities`). Voxels on
both sides of a jump are in the result's arrays as `movement_mask`, (Z, Y, X) bool of the first volume, True =
forbidden; `nissl.volumes.irregularities.write_movement_mask` writes it as the segmenter reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.evaluators.result import Figure, Result
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.irregularities import jump_mask, missing_sections, shift_field


class Irregularities:
    """Looks for jumps and missing sections in the volumes of one split.

    Args:
        split: "val" or "test".
        patch: side of the patches compared, voxels; several times max_shift.
        step: of their grid, voxels.
        max_shift: largest shift looked for, voxels.
        threshold: a shift of this much is a jump, voxels; 4 in google/ffn.
    """

    metrics = {
        "irregularities/jumps": None,
        "irregularities/missing_sections": None,
        "irregularities/largest_shift": None,
        "irregularities/forbidden": None,
    }

    def __init__(self, split: str, patch: int, step: int, max_shift: int, threshold: float) -> None:
        if split not in ("val", "test"):
            raise ValueError(f"split must be val or test, came {split!r}")
        self.split, self.patch, self.step = split, patch, step
        self.max_shift, self.threshold = max_shift, threshold

    def __call__(self, task: Any, data: Any) -> Result:
        rows, masks, fields = [], [], []
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        for volume in volumes:
            field = shift_field(volume.raw, self.patch, self.step, self.max_shift)
            missing = missing_sections(volume.raw)
            mask = jump_mask(field, volume.raw.shape, self.step, self.threshold) | missing[:, None, None]
            masks.append(mask)
            fields.append(field)
            for z in range(1, len(field[0])):
                known = np.hypot(*field[:, z])[~np.isnan(field[0, z])]
                if missing[z] or (known.size and np.median(known) >= self.threshold):
                    dy, dx = (
                        float(np.nanmedian(component)) if known.size else float("nan") for component in field[:, z]
                    )
                    rows.append({"volume": volume.name, "section": z, "dy": dy, "dx": dx, "missing": bool(missing[z])})
        scalars = {
            "irregularities/jumps": float(sum(not row["missing"] for row in rows)),
            "irregularities/missing_sections": float(sum(bool(row["missing"]) for row in rows)),
            "irregularities/largest_shift": float(max(np.nanmax(np.abs(field)) for field in fields)),
            "irregularities/forbidden": float(np.mean([mask.mean() for mask in masks])),
        }
        figure = mask_overlay(volumes[0], masks[0])
        return Result(scalars, {"mask": figure}, {"jumps": rows}, {"movement_mask": masks[0]})


def mask_overlay(volume: AnnotatedVolume, mask: np.ndarray) -> Figure:
    """The middle xz and yz planes, raw and with the mask in red; the thick axis is stretched to scale."""
    low, high = np.percentile(volume.raw, [0.5, 99.5])
    stretch = max(1, round(volume.voxel_size_zyx_nm[0] / volume.voxel_size_zyx_nm[2]))
    rows = []
    for axis in (1, 2):
        at = volume.raw.shape[axis] // 2
        grey = np.clip((np.take(volume.raw, at, axis) - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, -1)
        red = np.where(np.take(mask, at, axis)[..., None], 0.5 * grey + np.array([0.5, 0, 0]), grey)
        rows.append(np.hstack([grey, np.ones((len(grey), 4, 3)), red]).repeat(stretch, 0))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, [(0, 4), (0, width - row.shape[1]), (0, 0)], constant_values=1.0) for row in rows]
    image = (255 * np.vstack(padded)).astype(np.uint8)
    repeat = max(1, round(900 / image.shape[1]))
    caption = (
        f"{volume.name}: planes through the middle, above x against z, below y against z (z downwards). Left raw, "
        "right in red what flood filling may not enter: both sections of each jump, and missing sections."
    )
    return Figure.from_array(image.repeat(repeat, 0).repeat(repeat, 1), caption)
