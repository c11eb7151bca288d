"""Saliency map of every stimulation pattern and the ZNCC matrix between them, beside what needs no network.

After the source presentation: Grad-CAM of rightly named training frames, averaged per pattern; ZNCC of all pattern
pairs. Ours: the evoked map (mean stimulated minus mean idle frame) goes the same way and stands beside it, the sum is
split by shared targets, dead maps are counted, and simulated data are scored against the true matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from nissl.evaluators import map_figures as draw
from nissl.evaluators.pattern_maps import Collected, collect_maps, evoked_maps, pool_images
from nissl.evaluators.result import Figure, Result
from nissl.evaluators.zncc import compare_matrices, order_rows, single_pairs, summarise_matrix, zncc_matrix


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
        batch_size: int,
    ) -> None:
        if weight not in ("frame", "trial"):
            raise ValueError(f"weight='{weight}' is unknown; choose frame or trial")
        self.part, self.which, self.method, self.layer = part, which, method, layer
        self.frame_norm, self.weight, self.order, self.listed = frame_norm, weight, order, list(listed)
        self.batch_size = batch_size

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        cells = [pattern.cells if pattern.cells else () for pattern in source.patterns]
        names = [pattern.name for pattern in source.patterns]
        collected = collect_maps(
            task, source, self.part, self.method, self.layer, self.which, self.frame_norm, self.batch_size
        )
        inside = collected.mask
        maps = collected.maps.mean_maps(len(names), self.weight)
        methods = {"zncc": maps}
        has_none = not cells[-1]
        if has_none:
            mean_frames = collected.frames.mean_maps(len(names), self.weight)
            methods["zncc_evoked"] = evoked_maps(mean_frames, len(names) - 1)
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

        order = order_rows(matrices["zncc"], names, self.order, self.listed)
        label = f"{self.method}, {self.which} {self.part} frames"
        figures: dict[str, Figure] = {
            "maps": draw.overlays(maps, source, inside, label),
            "matrix": draw.zncc_matrices(_shown(matrices, order), [names[i] for i in order], label),
        }
        if "zncc_truth" in matrices:
            figures["truth"] = draw.truth_scatter(matrices, cells)
        return Result(
            scalars=scalars,
            figures=figures,
            tables={
                "patterns": _pattern_rows(names, collected),
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
                **{f"matrix_{name}": matrix for name, matrix in matrices.items()},
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
        return notes


def module_auroc(matrix: np.ndarray, cells: Sequence[Sequence[str]], source: Any) -> float:
    """How well ZNCC of single-cell patterns tells cells of one module from others; NaN if it cannot be asked."""
    module = dict(zip(source.cells.names, source.truth.module, strict=True))
    chosen = np.argwhere(single_pairs(cells) & ~np.isnan(matrix))
    same = np.array([module[cells[i][0]] == module[cells[j][0]] for i, j in chosen], dtype=bool)
    if same.all() or not same.any():
        return float("nan")
    return float(roc_auc_score(same, [matrix[i, j] for i, j in chosen]))


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


def _pattern_rows(names: list[str], collected: Collected) -> list[dict[str, Any]]:
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
        }
        for i, name in enumerate(names)
    ]
