"""What a faster precision of flooding costs in quality: the same volume flooded with it and in float32, both scored.

Run it on a box that is worth the float32 flooding (a crop of 80x96x96 voxels takes the published network some 460
moves) before a precision, int8 above all, is used on a whole volume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from nissl.evaluators.result import Result
from nissl.evaluators.segmentation import Overlaps, scores
from nissl.evaluators.stages import stage_rows
from nissl.flood_fill.segmenter import FloodFill
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box

KEYS = ("voi_sum", "voi_assigned_sum", "coverage", "erl_normalized", "mergers", "segments")


class PrecisionCheck:
    """Scores two floodings that differ in precision alone.

    Args:
        segmenter: a plain flood filling with the precision to be checked.
        split: "train", "val" or "test".
        box: part of the split's first volume, [[z0, z1], [y0, y1], [x0, x1]] in its native voxels; None: all volumes.
        merge_threshold: nodes of a skeleton that a segment must hold to touch it.
    """

    metrics = {
        "precision_check/voi_sum": "min",
        "precision_check/voi_assigned_sum": "min",
        "precision_check/coverage": "max",
        "precision_check/erl_normalized": "max",
        "precision_check/mergers": "min",
        "precision_check/segments": None,
        "precision_check/*_float32": None,
        "precision_check/voi_between": None,
    }

    def __init__(
        self, segmenter: FloodFill, split: str, box: Sequence[Sequence[int]] | None, merge_threshold: int
    ) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be train, val or test, came {split!r}")
        self.segmenter, self.split, self.box, self.merge_threshold = segmenter, split, box, merge_threshold

    def __call__(self, task: Any, data: Any) -> Result:
        if not isinstance(self.segmenter, FloodFill):
            raise ValueError("precisions are compared by a plain flooding. Take segmenter=flood_fill.")
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        if self.box is not None:
            volumes = [volumes[0].crop(Box.parse(self.box, volumes[0].raw.shape, "evaluator.precision_check.box"))]
        found = {
            precision: self.segmenter.with_precision(precision).segment(task.model, volumes)
            for precision in dict.fromkeys((self.segmenter.precision, "float32"))
        }
        staged = [
            dataclasses.replace(parts[0], stages={name: part.ids for name, part in zip(found, parts, strict=True)})
            for parts in zip(*found.values(), strict=True)
        ]
        rows = stage_rows(volumes, staged, self.merge_threshold)
        of = {row["stage"]: row for row in rows}
        ours, exact = of[self.segmenter.precision], of["float32"]
        scalars = {f"precision_check/{key}": ours[key] for key in KEYS if key in ours}
        scalars |= {f"precision_check/{key}_float32": exact[key] for key in KEYS if key in exact}
        between = Overlaps.concatenate(
            [Overlaps.of(b.ids, a.ids) for a, b in zip(*(list(found.values()) * 2)[:2], strict=True)]
        )
        scalars["precision_check/voi_between"] = scores(between)["voi_assigned/sum"]
        moves = {name: sum(part.counters.get("moves", 0) for part in parts) for name, parts in found.items()}
        note = "; ".join(
            f"{row['stage']}: {moves[row['stage']]} moves, "
            + ", ".join(f"{key} {row[key]:.3f}" for key in KEYS if key in row)
            for row in rows
        )
        tables = {"precisions": [{"precision": row.pop("stage"), **row} for row in rows]}
        return Result(scalars, tables=tables, notes=[f"precision check: {note}"])
