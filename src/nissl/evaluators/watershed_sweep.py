"""Chooses the threshold of a watershed segmenter on tuning tissue, and shows what each would have given on the test.

The segmenter's network predicts once per volume and all thresholds share it. The threshold with the smallest variation
of information on the tuning volume is the chosen one; its numbers on the test volume are the scalars. What
`segmentation` and `erl` score is `segmenter.threshold`, whatever is found here: a note says so if the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nissl.evaluators.erl import skeletons_of
from nissl.evaluators.result import Result
from nissl.evaluators.threshold_curve import Fragments, curve_figure, score
from nissl.flood_fill.segmenter import Segmentation
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box


class SweepingSegmenter(Protocol):
    threshold: float

    def sweep(
        self, network: Any, volumes: Sequence[AnnotatedVolume], thresholds: Sequence[float]
    ) -> dict[float, list[Segmentation]]: ...


class WatershedSweep:
    """One curve of run length against merge rate, and a threshold chosen on other tissue than it is scored on.

    Args:
        segmenter: one that can `sweep`, such as those of `nissl.watershed.segmenters`.
        thresholds: ascending.
        tuning_split: "train" or "val"; its first volume.
        tuning_box: [[z0, z1], [y0, y1], [x0, x1]] in voxels of that volume, or null for all of it.
        merge_threshold: of the run length, nodes.
    """

    metrics = {
        "watershed_sweep/threshold": None,
        "watershed_sweep/voi_sum": "min",
        "watershed_sweep/erl_normalized": "max",
        "watershed_sweep/mergers_per_mm": "min",
        "watershed_sweep/coverage": "max",
    }

    def __init__(
        self,
        segmenter: SweepingSegmenter,
        thresholds: Sequence[float],
        tuning_split: str,
        tuning_box: Sequence[Sequence[int]] | None,
        merge_threshold: int,
    ) -> None:
        if not thresholds or list(thresholds) != sorted(thresholds):
            raise ValueError(f"thresholds must ascend, at least one of them, came {list(thresholds)}")
        if not hasattr(segmenter, "sweep"):
            raise ValueError(
                f"segmenter {type(segmenter).__name__} has no thresholds to sweep. Choose "
                "segmenter=affinity_watershed or boundary_watershed, or leave the evaluator watershed_sweep out."
            )
        if tuning_split not in ("train", "val"):
            raise ValueError(f"tuning_split must be train or val, came {tuning_split!r}")
        self.tuning_split = tuning_split
        self.segmenter, self.thresholds = segmenter, [float(threshold) for threshold in thresholds]
        self.tuning_box, self.merge_threshold = tuning_box, merge_threshold

    def __call__(self, task: Any, data: Any) -> Result:
        tuning: AnnotatedVolume = data.source.volumes(self.tuning_split)[0]
        if self.tuning_box is not None:
            name = "evaluator.watershed_sweep.tuning_box"
            tuning = tuning.crop(Box.parse(self.tuning_box, tuning.raw.shape, name))
        tests: list[AnnotatedVolume] = data.source.volumes("test")
        curves = {"tuning": self._rows(task, tuning), "test": self._rows(task, tests[0])}
        best = int(np.argmin([row["voi_sum"] for row in curves["tuning"]]))
        row = curves["test"][best]
        scalars = {
            "watershed_sweep/threshold": row["threshold"],
            "watershed_sweep/voi_sum": row["voi_sum"],
            "watershed_sweep/erl_normalized": row["normalized"],
            "watershed_sweep/mergers_per_mm": row["mergers_per_mm"],
            "watershed_sweep/coverage": row["coverage"],
        }
        caption = (
            f"Thresholds {self.thresholds[0]:g} to {self.thresholds[-1]:g} on '{tuning.name}' (tuning) and "
            f"'{tests[0].name}' (test); ringed: the smallest variation of information on the tuning volume. "
            f"Merge threshold {self.merge_threshold} nodes."
        )
        figure = curve_figure(curves, dict.fromkeys(curves, best), None, caption)
        table = [
            {"volume": name, "merge_threshold": self.merge_threshold} | row
            for name, rows in curves.items()
            for row in rows
        ]
        notes = [] if len(tests) == 1 else [f"only the first of {len(tests)} test volumes, '{tests[0].name}', is swept"]
        if row["threshold"] != self.segmenter.threshold:
            notes.append(
                f"segmenter.threshold is {self.segmenter.threshold:g}; "
                f"on '{tuning.name}' {row['threshold']:g} is better"
            )
        return Result(scalars, {"curve": figure}, {"thresholds": table}, notes=notes)

    def _rows(self, task: Any, volume: AnnotatedVolume) -> list[dict[str, Any]]:
        rows = []
        for threshold, (found,) in self.segmenter.sweep(task.model, [volume], self.thresholds).items():
            fragments = Fragments.of(found.ids, skeletons_of(volume), volume.labels, volume.voxel_size_zyx_nm)
            rows.append({"threshold": threshold} | score(fragments, fragments.ids, self.merge_threshold, False))
        return rows
