"""Scores a segmentation stored in a file, such as a published one, beside our own on the same voxels and skeletons.

Same functions, same tables, same figures; every metric carries `_reference` behind its first word. Where a segmenter
is given, both are also compared on the voxels that both assign (`voi_both/sum`, `voi_both_reference/sum`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from nissl.evaluators.erl import ERL
from nissl.evaluators.result import Result
from nissl.evaluators.segmentation import SegmentationScores, voi_where_both
from nissl.evaluators.stored_segmentation import Segmenter, StoredSegmentation


class Reference:
    """VOI, Rand error, coverage and run lengths of a stored segmentation.

    Args:
        path, labels: HDF5 file and dataset; see `StoredSegmentation`.
        split: "val" or "test".
        segmenter: what makes the segmentation to compare with; None leaves `voi_both/*` out.
        merge_threshold, contiguous, other_thresholds, length_bounds_um: as of `erl`.
        bootstrap_samples, bootstrap_seed: of the intervals.
        num_sites: error sites in the table.
        objects_drawn: true objects in the three-dimensional picture.
    """

    metrics = {
        "voi_both/sum": "min",
        "voi_both_reference/sum": "min",
        "voi_both/share": None,
        "voi_reference/sum_low": None,
        "voi_reference/sum_high": None,
        "voi_reference/*": "min",
        "voi_assigned_reference/*": "min",
        "arand_reference/error": "min",
        "arand_reference/precision": "max",
        "arand_reference/recall": "max",
        "coverage_reference": "max",
        "erl_reference/mean_nm": "max",
        "erl_reference/normalized": "max",
        "erl_reference/mergers": "min",
        "erl_reference/*": None,
        "erl_*_reference/*": None,
        "flood_reference/segments": None,
    }

    def __init__(
        self,
        path: str,
        labels: str,
        split: str,
        segmenter: Segmenter | None,
        merge_threshold: int,
        contiguous: bool,
        other_thresholds: list[int],
        length_bounds_um: list[float],
        bootstrap_samples: int,
        bootstrap_seed: int,
        num_sites: int,
        objects_drawn: int,
    ) -> None:
        self.stored = stored = StoredSegmentation(path, labels)
        self.segmenter, self.split = segmenter, split
        self.scores = SegmentationScores(stored, split, 0, bootstrap_samples, bootstrap_seed, objects_drawn)
        self.run_lengths = ERL(
            stored,
            split,
            merge_threshold,
            contiguous,
            other_thresholds,
            length_bounds_um,
            None,
            "",
            bootstrap_samples,
            bootstrap_seed,
            num_sites,
        )

    def __call__(self, task: Any, data: Any) -> Result:
        results = [self.scores(task, data), self.run_lengths(task, data)]
        scalars = {
            _renamed(name): value
            for result in results
            for name, value in result.scalars.items()
            if not name.startswith(("voi_", "flood/moves")) or name.startswith("voi_assigned/")
        }
        if self.segmenter is not None:
            volumes = data.source.volumes(self.split)
            ours, theirs = (
                [found.ids for found in segmenter.segment(getattr(task, "model", None), volumes)]
                for segmenter in (self.segmenter, self.stored)
            )
            both = voi_where_both([volume.labels for volume in volumes], ours, theirs)
            scalars |= dict(zip(("voi_both/sum", "voi_both_reference/sum", "voi_both/share"), both, strict=True))
        first, second = results
        return dataclasses.replace(
            first,
            scalars=scalars,
            figures=first.figures | second.figures,
            tables={**first.tables, **second.tables},
            notes=second.notes,
        )


def _renamed(name: str) -> str:
    """`voi/sum` -> `voi_reference/sum`, `coverage` -> `coverage_reference`."""
    family, slash, rest = name.partition("/")
    return f"{family}_reference{slash}{rest}"
