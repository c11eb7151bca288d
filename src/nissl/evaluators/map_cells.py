"""What a ZNCC matrix says of cells: scores between them, clusters and how stable they are, sets named beforehand.

The source presentation reads "cells 1, 4 and 6 are alike" off the matrix of single stimulations. Here the same as
numbers: every pair's direct and profile score, clusters at several thresholds with their stability over trials, and a
permutation p for each named set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from nissl.evaluators import functional_connectivity as fc
from nissl.evaluators.pattern_distance import (
    correlate_with_distance,
    disc_maps,
    disjoint_pairs,
    remove_distance,
    target_distances,
    zncc_outside,
)
from nissl.evaluators.trial_resampling import TrialRows, bootstrap_maps
from nissl.evaluators.zncc import single_pairs, zncc_matrix


@dataclass(frozen=True)
class CellScores:
    """Scores (C, C) between cells, and the share (C, C) of bootstrap samples that put two into one cluster."""

    names: tuple[str, ...]
    direct: np.ndarray
    profile: np.ndarray
    together: np.ndarray | None


def score_cells(
    matrix: np.ndarray,
    trials: TrialRows,
    patterns: Sequence[Sequence[str]],
    threshold: float,
    draws: int,
    seed: int,
) -> CellScores:
    """F_d, F_p and the consensus of clusters of F_d over trials drawn again.

    Args:
        matrix: (n, n) ZNCC.
        trials: of the same maps; patterns at the end may have none.
        patterns: cells of each row.
        threshold: F_d at which every sample's dendrogram is cut.
        draws: bootstrap samples; 0 for none.
        seed: of the samples.
    """
    names = tuple(dict.fromkeys(cell for own in patterns for cell in own))
    direct = fc.direct_scores(matrix, patterns, names)
    together = None
    off = ~np.eye(len(names), dtype=bool)
    if draws and len(names) > 1 and not np.isnan(direct[off]).any():
        singles = [p for p, own in enumerate(patterns) if len(own) == 1]
        samples = []
        for maps in bootstrap_maps(trials, singles, draws, seed):
            drawn = fc.direct_scores(zncc_matrix(maps), [patterns[p] for p in singles], names)
            if not np.isnan(drawn[off]).any():
                samples.append(drawn)
        together = fc.consensus(samples, threshold) if samples else None
    return CellScores(names, direct, fc.profile_scores(matrix, patterns, names), together)


def cell_pair_rows(scores: CellScores) -> list[dict[str, Any]]:
    """One row per pair of cells, the most alike first."""
    rows = []
    for i, k in combinations(range(len(scores.names)), 2):
        row: dict[str, Any] = {"cell": scores.names[i], "other": scores.names[k]}
        row |= {"direct": float(scores.direct[i, k]), "profile": float(scores.profile[i, k])}
        row["clustered_together"] = float("nan") if scores.together is None else float(scores.together[i, k])
        rows.append(row)
    return sorted(rows, key=lambda row: -np.nan_to_num(row["direct"], nan=-2))


def cluster_rows(scores: CellScores, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Clusters of F_d and of F_p where their dendrograms are cut at each threshold."""
    rows: list[dict[str, Any]] = []
    for kind, values in (("direct", scores.direct), ("profile", scores.profile)):
        off = ~np.eye(len(values), dtype=bool)
        if len(values) < 2 or np.isnan(values[off]).any():
            continue
        for threshold, cluster in zip(thresholds, fc.cut_clusters(values, thresholds), strict=True):
            groups = [[n for n, c in zip(scores.names, cluster, strict=True) if c == number] for number in set(cluster)]
            several = sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))
            rows.append(
                {
                    "score": kind,
                    "threshold": threshold,
                    "clusters": " | ".join(" ".join(group) for group in several),
                    "cells_alone": sum(len(group) == 1 for group in groups),
                    "silhouette": fc.silhouette(values, cluster),
                }
            )
    return rows


def named_set_rows(scores: CellScores, named: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Each named set against all sets of its size, by both scores."""
    rows = []
    for members in named:
        for kind, values in (("direct", scores.direct), ("profile", scores.profile)):
            found = fc.assess_named_set(values, scores.names, [str(cell) for cell in members])
            rows.append({"cells": " ".join(str(cell) for cell in members), "score": kind} | found)
    return rows


@dataclass(frozen=True)
class Distance:
    """ZNCC of disjoint pairs against the distance of their targets.

    Attributes:
        mean_um, smallest_um: (n, n) distances (pixels where the scale is unknown).
        overlap: (n, n) ZNCC of the targets' discs.
        residual: (n, n) ZNCC without distance; NaN but for disjoint pairs.
        decay: fitted length constant.
        beyond: (n, n) ZNCC over positions away from both patterns' targets.
        positions_left: (n, n) how many those are.
    """

    mean_um: np.ndarray
    smallest_um: np.ndarray
    overlap: np.ndarray
    residual: np.ndarray
    decay: float
    beyond: np.ndarray
    positions_left: np.ndarray


def measure_distance(
    matrix: np.ndarray, maps: np.ndarray, patterns: Sequence[Sequence[str]], source: Any, mask: np.ndarray
) -> Distance | None:
    """How much of ZNCC is distance; None without positions, or with too few disjoint pairs to fit.

    Args:
        matrix: (n, n) ZNCC of `maps` inside the mask.
        maps: (n, h, w).
        patterns: cells of each row.
        source: with `cells`, `um_per_px` and `mask` at the resolution of frames.
        mask: (h, w) at that of maps.
    """
    if source.cells.positions_px is None:
        return None
    defined = disjoint_pairs(patterns) & ~np.isnan(matrix)
    if defined.sum() < 8:
        return None
    positions = source.cells.positions_px
    mean, smallest = target_distances(patterns, source.cells.names, positions * (source.um_per_px or 1.0))
    scale = np.array(mask.shape) / np.array(source.mask.shape)
    radius = source.cells.radius_px
    reach = max(1.0, 1.5 * float(np.mean(radius)) * float(scale.mean())) if radius is not None else 1.0
    discs = disc_maps(
        patterns, source.cells.names, (positions + 0.5) * scale - 0.5, reach, (mask.shape[0], mask.shape[1])
    )
    hidden = discs[:, mask]
    overlap = zncc_matrix(hidden.astype(np.float64))
    residual, decay = remove_distance(matrix, mean, overlap, disjoint_pairs(patterns))
    finite = np.where(np.isfinite(maps), maps, 0.0)[:, mask]
    beyond, left = zncc_outside(finite, hidden)
    undefined = np.isnan(np.diag(matrix))
    beyond[undefined] = beyond[:, undefined] = np.nan
    return Distance(mean, smallest, overlap, residual, decay, beyond, left)


def distance_scalars(matrix: np.ndarray, found: Distance, patterns: Sequence[Sequence[str]]) -> dict[str, float]:
    """Spearman's correlation of ZNCC with distance and overlap, fitted length, and what is left beyond the targets."""
    chosen = disjoint_pairs(patterns)
    regressors = {"mean": found.mean_um, "smallest": found.smallest_um, "overlap": found.overlap}
    told = {
        f"distance_rho_{name}": value for name, value in correlate_with_distance(matrix, regressors, chosen).items()
    }
    beyond = found.beyond[chosen & ~np.isnan(found.beyond)]
    told["distance_decay_um"] = found.decay
    told["disjoint_beyond_targets"] = float(beyond.mean()) if len(beyond) else float("nan")
    return told


def module_auroc(matrix: np.ndarray, cells: Sequence[Sequence[str]], source: Any) -> float:
    """How well ZNCC of single-cell patterns tells cells of one module from others; NaN if it cannot be asked."""
    module = dict(zip(source.cells.names, source.truth.module, strict=True))
    chosen = np.argwhere(single_pairs(cells) & ~np.isnan(matrix))
    same = np.array([module[cells[i][0]] == module[cells[j][0]] for i, j in chosen], dtype=bool)
    if not len(same) or same.all() or not same.any():
        return float("nan")
    return float(roc_auc_score(same, [matrix[i, j] for i, j in chosen]))


def module_auroc_of_cells(scores: np.ndarray, names: Sequence[str], source: Any) -> float:
    """How well scores between cells tell pairs of one true module from others; NaN if that cannot be asked."""
    module = dict(zip(source.cells.names, source.truth.module, strict=True))
    pairs = [(i, k) for i, k in combinations(range(len(names)), 2) if not np.isnan(scores[i, k])]
    same = np.array([module[names[i]] == module[names[k]] for i, k in pairs], dtype=bool)
    if not len(same) or same.all() or not same.any():
        return float("nan")
    return float(roc_auc_score(same, [scores[i, k] for i, k in pairs]))
