"""Saliency map of every stimulation pattern and the ZNCC matrix between them, beside what needs no network.

After the source presentation: Grad-CAM of rightly named training frames, averaged per pattern; ZNCC of all pattern
pairs. Ours: the evoked map (mean stimulated minus mean idle frame) and the network's activation pattern go the same way
and stand beside it, the sum is split by shared targets, distance is taken out, maps' reliability is measured, cells get
direct and profile scores and clusters, dead maps are counted, and simulated data are scored against the true matrix.

One network of one day is read here; `map_days` compares days and networks, `map_methods` more ways to make maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators import map_cell_figures as draw_cells
from nissl.evaluators import map_figures as draw
from nissl.evaluators.map_activation import activation_maps
from nissl.evaluators.map_cells import (
    CellScores,
    Distance,
    cell_pair_rows,
    cluster_rows,
    distance_scalars,
    measure_distance,
    module_auroc,
    module_auroc_of_cells,
    named_set_rows,
    score_cells,
)
from nissl.evaluators.map_entries import networks_of
from nissl.evaluators.map_reliability import disattenuate, split_half_reliability
from nissl.evaluators.pattern_distance import partial_mantel
from nissl.evaluators.pattern_maps import Collected, collect_maps, evoked_maps, pool_images
from nissl.evaluators.result import Figure, Result
from nissl.evaluators.trial_resampling import TrialRows
from nissl.evaluators.zncc import compare_matrices, order_rows, summarise_matrix, zncc_matrix


class GradcamZncc:
    """Compare stimulation patterns by the maps of a trained classifier.

    Args:
        part: frames to explain: train (as the source), val or test.
        which: correct (named rightly by the lenient rule) or all.
        method: gradcam, gradcam++, hirescam, layercam, xgradcam, gradient or occlusion.
        layer: block of the backbone to look at, from 1; null is its end.
        frame_norm: scale of a frame's map before averaging: l2, max or none.
        weight: frame or trial: what the mean of a pattern counts.
        order: order of the matrix in the figure: cell, cluster or listed.
        listed: pattern names, for order=listed.
        day: name of the day; null is the reference.
        thresholds: scores at which the dendrograms of cells are cut.
        named_sets: sets of cells named beforehand, each tested against all sets of its size.
        consensus_threshold, consensus_draws: where and how often the dendrogram of drawn trials is cut; 0 draws: never.
        mantel_draws: exchanges of cells for the p of the agreement with the truth given distance.
        seed: of all draws.
        batch_size: frames at a time.
    """

    metrics = {
        "zncc/sum": None,
        "zncc/mean_offdiag": None,
        "zncc/fisher_mean": None,
        "zncc/undefined_maps": "min",
        "zncc/dead_maps": "min",
        "zncc/rows": None,
        "zncc/*_mean": None,
        "zncc/truth_r_*": "max",
        "zncc/truth_auroc_module": "max",
        "zncc/truth_auroc_profile": "max",
        "zncc/reliability": "max",
        "zncc/cells_direct": None,
        "zncc/cells_profile": None,
        "zncc/distance_rho_*": None,
        "zncc/distance_decay_um": None,
        "zncc/disjoint_beyond_targets": None,
        "zncc/named_set_p_*": None,
        "zncc/truth_p_given_distance": "min",
        "zncc_pattern/sum": None,
        "zncc_pattern/mean_offdiag": None,
        "zncc_pattern/fisher_mean": None,
        "zncc_pattern/undefined_maps": None,
        "zncc_pattern/rows": None,
        "zncc_pattern/*_mean": None,
        "zncc_pattern/truth_r_*": "max",
        "zncc_pattern/truth_auroc_module": "max",
        "zncc_evoked/sum": None,
        "zncc_evoked/mean_offdiag": None,
        "zncc_evoked/fisher_mean": None,
        "zncc_evoked/undefined_maps": None,
        "zncc_evoked/rows": None,
        "zncc_evoked/*_mean": None,
        "zncc_evoked/truth_r_*": "max",
        "zncc_evoked/truth_auroc_module": "max",
        "zncc_truth/*": None,
    }

    def __init__(
        self,
        part: str,
        which: str,
        method: str,
        layer: int | None,
        frame_norm: str,
        weight: str,
        order: str,
        listed: Sequence[str],
        day: str | None,
        thresholds: Sequence[float],
        named_sets: Sequence[Sequence[str]],
        consensus_threshold: float,
        consensus_draws: int,
        mantel_draws: int,
        seed: int,
        batch_size: int,
    ) -> None:
        if weight not in ("frame", "trial"):
            raise ValueError(f"weight='{weight}' is unknown; choose frame or trial")
        self.part, self.which, self.method, self.layer = part, which, method, layer
        self.frame_norm, self.weight, self.order, self.listed = frame_norm, weight, order, list(listed)
        self.day, self.thresholds, self.named_sets = day, list(thresholds), [list(own) for own in named_sets]
        self.consensus_threshold, self.consensus_draws = consensus_threshold, consensus_draws
        self.mantel_draws, self.seed, self.batch_size = mantel_draws, seed, batch_size

    def __call__(self, task: Any, data: Any) -> Result:
        day = self.day or data.source.days[0]
        source = data.source.of_day(day)
        networks = networks_of(task)
        network = next((n for n in networks if n.day in (None, day)), networks[0])
        cells = [pattern.cells if pattern.cells else () for pattern in source.patterns]
        names = [pattern.name for pattern in source.patterns]
        collected = collect_maps(
            network, source, self.part, self.method, self.layer, self.which, self.frame_norm, self.batch_size
        )
        inside = collected.mask
        maps = collected.maps.mean_maps(len(names), self.weight)
        methods = {"zncc": maps}
        has_none = not cells[-1]
        if has_none:
            mean_frames = collected.frames.mean_maps(len(names), self.weight)
            methods["zncc_evoked"] = evoked_maps(mean_frames, len(names) - 1)
            patterns = activation_maps(collected.answers.total(), source.labels, True)
            methods["zncc_pattern"] = patterns.reshape(len(names), *maps.shape[1:])
        if source.truth is not None:
            methods["zncc_truth"] = pool_images(source.truth.evoked, maps.shape[1:])
        matrices = {name: zncc_matrix(images[:, inside]) for name, images in methods.items()}

        scalars: dict[str, float] = {}
        for name, matrix in matrices.items():
            summary = summarise_matrix(matrix, cells)
            if name != "zncc_truth" and "zncc_truth" in matrices:
                summary |= compare_matrices(matrix, matrices["zncc_truth"], cells)
                summary["truth_auroc_module"] = module_auroc(matrix, cells, source)
            scalars |= {f"{name}/{key}": value for key, value in summary.items() if _is_headline(key, summary)}
        scalars["zncc/dead_maps"] = float(collected.dead.sum())

        trials = _trial_rows(collected)
        reliability = _reliability(trials, len(names))
        scalars["zncc/reliability"] = _median(reliability)
        matrix = matrices["zncc"]
        scores = score_cells(matrix, trials, cells, self.consensus_threshold, self.consensus_draws, self.seed)
        scalars["zncc/cells_direct"], scalars["zncc/cells_profile"] = _mean(scores.direct), _mean(scores.profile)
        sets = named_set_rows(scores, self.named_sets)
        scalars |= {f"zncc/named_set_p_{row['cells'].replace(' ', '_')}_{row['score']}": row["p"] for row in sets}
        distance = measure_distance(matrix, maps, cells, source, inside)
        if distance is not None:
            scalars |= {f"zncc/{key}": value for key, value in distance_scalars(matrix, distance, cells).items()}
        if "zncc_truth" in matrices:
            scalars["zncc/truth_auroc_profile"] = module_auroc_of_cells(scores.profile, scores.names, source)
            scalars |= self._given_distance(matrices, distance, source)

        order = order_rows(matrices["zncc"], names, self.order, self.listed)
        label = f"{self.method}, {self.which} {self.part} frames"
        figures: dict[str, Figure] = {
            "field": draw.field(source),
            "maps": draw.overlays(maps, source, inside, label),
            "matrix": draw.zncc_matrices(_shown(matrices, order), [names[i] for i in order], label),
        }
        if "zncc_truth" in matrices:
            figures["truth"] = draw.truth_scatter(matrices, cells)
        if "zncc_evoked" in matrices:
            figures["against_evoked"] = draw.against_evoked(matrices, cells)
        figures |= self._cell_figures(scores, distance, matrix, source, cells)
        return Result(
            scalars=scalars,
            figures=figures,
            tables={
                "patterns": _pattern_rows(names, collected, reliability),
                "cell_pairs": cell_pair_rows(scores),
                "clusters": cluster_rows(scores, self.thresholds),
                **({"named_sets": sets} if sets else {}),
                "methods": [{"method": name, **summarise_matrix(m, cells)} for name, m in matrices.items()],
            },
            arrays={
                "names": np.array(names),
                "mask": inside,
                "maps": maps,
                "trial_sums": collected.maps.sums.astype(np.float32),
                "trial_counts": collected.maps.counts,
                "trial_pattern": collected.maps.pattern,
                "trial_id": collected.maps.trial,
                **{f"matrix_{name}": own for name, own in matrices.items()},
                "matrix_disattenuated": disattenuate(matrix, reliability),
                "cells": np.array(scores.names),
                "cells_direct": scores.direct,
                "cells_profile": scores.profile,
                **({} if distance is None else {"matrix_beyond_targets": distance.beyond}),
                **({} if distance is None else {"matrix_without_distance": distance.residual}),
            },
            notes=self._notes(names, collected, scalars, has_none, source),
        )

    def _notes(
        self, names: list[str], collected: Collected, scalars: dict[str, float], has_none: bool, source: Any
    ) -> list[str]:
        notes = []
        empty = [name for name, n in zip(names, _frames_used(collected), strict=True) if n == 0]
        if empty:
            notes.append(f"no usable frame, so no map, for {len(empty)} pattern(s): {', '.join(empty)}")
        dead = int(collected.dead.sum())
        if dead:
            notes.append(f"{dead} of {int(collected.seen.sum())} frames have a map of zeros (left out of the means)")
        if not has_none:
            notes.append("evoked-map baseline skipped: the data have no frames without stimulation")
        if source.cells.positions_px is None:
            notes.append("targets are not drawn: the data have no cell positions")
        if "zncc/truth_r_disjoint" in scalars:
            ours, evoked = scalars["zncc/truth_r_disjoint"], scalars["zncc_evoked/truth_r_disjoint"]
            verdict = "does not beat" if not ours > evoked else "is above"
            notes.append(
                f"simulated data: correlation with the true matrix over disjoint pairs is {ours:.3f} for "
                f"{self.method}, which {verdict} the evoked map's {evoked:.3f}"
            )
            if "zncc_pattern/truth_r_disjoint" in scalars:
                notes.append(
                    f"the network's activation patterns reach {scalars['zncc_pattern/truth_r_disjoint']:.3f}; they "
                    "assume that responses to two cells add up"
                )
        if scalars["zncc/reliability"] < 0.5:
            notes.append(
                f"maps repeat themselves poorly between halves of the trials (median reliability "
                f"{scalars['zncc/reliability']:.2f}): their ZNCC is lowered by noise"
            )
        return notes

    def _given_distance(
        self, matrices: dict[str, np.ndarray], distance: Distance | None, source: Any
    ) -> dict[str, float]:
        """Agreement with the truth over disjoint pairs once distance is taken out of both."""
        if distance is None:
            return {}
        stimulated = [i for i, pattern in enumerate(source.patterns) if pattern.cells]
        block = np.ix_(stimulated, stimulated)
        own = [source.patterns[i] for i in stimulated]
        r, p = partial_mantel(
            matrices["zncc"][block],
            matrices["zncc_truth"][block],
            [distance.mean_um[block], distance.smallest_um[block], distance.overlap[block]],
            [pattern.cells for pattern in own],
            [pattern.condition for pattern in own],
            self.mantel_draws,
            self.seed,
        )
        return {"zncc/truth_r_given_distance": r, "zncc/truth_p_given_distance": p}

    def _cell_figures(
        self,
        scores: CellScores,
        distance: Distance | None,
        matrix: np.ndarray,
        source: Any,
        cells: Sequence[Sequence[str]],
    ) -> dict[str, Figure]:
        if len(scores.names) < 2:
            return {}
        both = {"direct": [scores.direct], "profile": [scores.profile]}
        figures = {"cells": draw_cells.cell_scores(both, scores.names, [source.days[0] or "all frames"])}
        if source.cells.positions_px is not None:
            together = [] if scores.together is None else [scores.together]
            figures["clusters"] = draw_cells.clusters(
                [scores.direct], scores.names, source, [source.days[0] or "all frames"], together
            )
        if distance is not None:
            figures["distance"] = draw_cells.distance(matrix, distance, cells, source.um_per_px is not None)
        return figures


def _is_headline(key: str, summary: dict[str, float]) -> bool:
    """Sums and counts of the classes, and means over no pair, stay in the table."""
    if key.endswith(("_sum", "_pairs")):
        return False
    pairs = key.removesuffix("_mean") + "_pairs"
    return not (key.endswith("_mean") and summary.get(pairs) == 0)


def _shown(matrices: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    return {name: matrix[np.ix_(order, order)] for name, matrix in matrices.items()}


def _frames_used(collected: Collected) -> np.ndarray:
    used = np.zeros(len(collected.seen), dtype=int)
    np.add.at(used, collected.maps.pattern, collected.maps.counts)
    return used


def _trial_rows(collected: Collected) -> TrialRows:
    """Rows of the trials with a usable frame; unlike in a test between days, patterns may lack any."""
    used = collected.maps.counts > 0
    return TrialRows(collected.maps.sums[used][:, collected.mask], collected.maps.pattern[used])


def _reliability(trials: TrialRows, num_patterns: int) -> np.ndarray:
    if not len(trials.pattern):
        return np.full(num_patterns, np.nan)
    found = split_half_reliability(trials)
    return np.concatenate([found, np.full(num_patterns - len(found), np.nan)])


def _median(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if len(defined) else float("nan")


def _mean(scores: np.ndarray) -> float:
    upper = scores[np.triu_indices(len(scores), 1)]
    defined = upper[~np.isnan(upper)]
    return float(defined.mean()) if len(defined) else float("nan")


def _pattern_rows(names: list[str], collected: Collected, reliability: np.ndarray) -> list[dict[str, Any]]:
    used = _frames_used(collected)
    trials = np.bincount(collected.maps.pattern[collected.maps.counts > 0], minlength=len(names))
    return [
        {
            "pattern": name,
            "frames": int(collected.seen[i]),
            "correct": int(collected.correct[i]),
            "dead": int(collected.dead[i]),
            "used": int(used[i]),
            "trials_used": int(trials[i]),
            "reliability": float(reliability[i]),
        }
        for i, name in enumerate(names)
    ]
