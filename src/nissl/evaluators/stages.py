"""What each stage of a staged segmentation gains and costs, and whether agglomeration is as sure as it says.

One row per stage (floodings, consensus, filling, agglomeration, final): variation of information, coverage, run
length, mergers. Pairs that were decided on are compared with skeletons: the reliability table and figure show how often
pairs of a given certainty are one neuron, and `calibration` is a logistic regression fitted to them, whose table can be
given to `segmenter.agglomeration.calibration`. Fit it on the training box (`evaluator.stages.split=train`), never on
what is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators.result import Figure, Result
from nissl.evaluators.run_lengths import expected_run_length, join
from nissl.evaluators.segmentation import Overlaps, scores
from nissl.flood_fill.agglomeration import FEATURES, fit_calibration, reliability, true_pairs
from nissl.flood_fill.resegmentation import PairScores
from nissl.flood_fill.segmentation import Segmentation
from nissl.flood_fill.stages import StagedFloodFill
from nissl.volumes.annotated import AnnotatedVolume

PAIR_SCORES = tuple(PairScores.__dataclass_fields__)


class Stages:
    """Scores the segmentation after every stage.

    Args:
        segmenter: a staged one; the others have no stages to tell apart.
        split: "train", "val" or "test".
        merge_threshold: nodes of a skeleton that a segment must hold to touch it.
        num_bins: of certainty, in the reliability table.
    """

    metrics = {
        "stages_*/voi_sum": "min",
        "stages_*/voi_assigned_sum": "min",
        "stages_*/coverage": "max",
        "stages_*/erl_normalized": "max",
        "stages_*/mergers": "min",
        "stages_*/segments": None,
        "agglomeration/pairs": None,
        "agglomeration/joined": None,
        "agglomeration/joined_right": "max",
        "agglomeration/joined_wrong": "min",
    }

    def __init__(self, segmenter: StagedFloodFill, split: str, merge_threshold: int, num_bins: int) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be train, val or test, came {split!r}")
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, came {num_bins}")
        self.segmenter, self.split = segmenter, split
        self.merge_threshold, self.num_bins = merge_threshold, num_bins

    def __call__(self, task: Any, data: Any) -> Result:
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        found = self.segmenter.segment(task.model, volumes)
        if not found[0].stages:
            raise ValueError("this segmenter has no stages to tell apart. Take segmenter=flood_fill_staged.")
        rows = stage_rows(volumes, found, self.merge_threshold)
        scalars = {f"stages_{row['stage']}/{key}": row[key] for row in rows for key in row if key != "stage"}
        tables: dict[str, list[dict[str, Any]]] = {"stages": rows}
        figures: dict[str, Figure] = {}
        decisions = decided_pairs(volumes, found)
        if decisions:
            truth = np.array([row["one_neuron"] for row in decisions])
            joined = np.array([row["joined"] for row in decisions])
            scalars["agglomeration/pairs"] = float(len(decisions))
            scalars["agglomeration/joined"] = float(joined.sum())
            scalars["agglomeration/joined_right"] = float((joined & (truth == 1)).sum())
            scalars["agglomeration/joined_wrong"] = float((joined & (truth == 0)).sum())
            tables["decisions"] = decisions
            known = truth >= 0
            if known.any():
                certainty = np.array([row["certainty"] for row in decisions])
                tables["reliability"] = reliability(certainty[known], truth[known] == 1, self.num_bins)
                figures["reliability"] = reliability_figure(tables["reliability"])
            if 0 < (truth[known] == 1).sum() < known.sum():
                pairs = [PairScores(*(row[name] for name in PAIR_SCORES)) for row in decisions]
                weights = fit_calibration([p for p, k in zip(pairs, known, strict=True) if k], truth[known] == 1)
                names = [*FEATURES, "constant"]
                tables["calibration"] = [
                    {"feature": name, "weight": weight} for name, weight in zip(names, weights, strict=True)
                ]
        return Result(scalars, figures, tables)


def stage_rows(
    volumes: Sequence[AnnotatedVolume], found: Sequence[Segmentation], merge_threshold: int
) -> list[dict[str, Any]]:
    """One row of scores per stage, over all volumes; run lengths where there are skeletons."""
    rows = []
    for stage in found[0].stages:
        ids = [segmentation.stages[stage] for segmentation in found]
        row: dict[str, Any] = {"stage": stage, "segments": float(sum(len(np.unique(i[i > 0])) for i in ids))}
        if all(volume.labels is not None for volume in volumes):
            tables = [Overlaps.of(v.labels, i) for v, i in zip(volumes, ids, strict=True) if v.labels is not None]
            values = scores(Overlaps.concatenate(tables))
            row |= {
                "voi_sum": values["voi/sum"],
                "voi_assigned_sum": values["voi_assigned/sum"],
                "coverage": values["coverage"],
            }
        if all(volume.skeletons is not None and len(volume.skeletons.edges) for volume in volumes):
            parts = [
                (v.skeletons, v.skeletons.ids_at_nodes(i, v.voxel_size_zyx_nm))
                for v, i in zip(volumes, ids, strict=True)
                if v.skeletons is not None
            ]
            runs = expected_run_length(*join(parts), merge_threshold)
            row |= {"erl_normalized": runs.normalized, "mergers": float(runs.num_mergers)}
        rows.append(row)
    return rows


def decided_pairs(volumes: Sequence[AnnotatedVolume], found: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """Decisions of all volumes with what skeletons say of each: `one_neuron` 1, 0, or -1 for unknown."""
    rows = []
    for volume, segmentation in zip(volumes, found, strict=True):
        decisions = segmentation.tables.get("decisions", [])
        truth = np.full(len(decisions), -1)
        if volume.skeletons is not None and decisions:
            names = list(segmentation.stages)
            before = segmentation.stages[names[names.index("agglomeration") - 1]]
            nodes = volume.skeletons.ids_at_nodes(before, volume.voxel_size_zyx_nm)
            pairs = [(row["first"], row["second"]) for row in decisions]
            truth = true_pairs(pairs, nodes, volume.skeletons.skeleton_of)
        rows += [
            {"volume": volume.name, **row, "one_neuron": int(one)} for row, one in zip(decisions, truth, strict=True)
        ]
    return rows


def reliability_figure(rows: Sequence[dict[str, float]]) -> Figure:
    """Certainty of agglomeration against how often it was right."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    said, seen = ([row[key] for row in rows] for key in ("said", "seen"))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(said, seen, "o-", color="#0072b2")
    for row in rows:
        axes.annotate(
            f"{row['pairs']:g}", (row["said"], row["seen"]), textcoords="offset points", xytext=(5, 4), fontsize=8
        )
    axes.set(xlabel="certainty of the pair", ylabel="share that is one neuron", xlim=(0, 1.05), ylim=(-0.05, 1.05))
    caption = (
        "How often pairs of a given certainty are one neuron, by skeletons; the number of pairs beside each point."
    )
    return Figure.from_matplotlib(figure, caption, {"said_seen": np.array([said, seen]).T})
