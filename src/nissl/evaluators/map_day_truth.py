"""Simulated days: how much the truth changed, and how well each kind of maps agrees with it; and beyond the targets.

Not in the source presentation, whose truth is unknown. The true image of a pattern is its mean response without noise,
motion or saturation, pooled to the maps' resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nissl.evaluators.day_change import DECLARED
from nissl.evaluators.map_cells import module_auroc
from nissl.evaluators.map_day_kinds import KINDS, Compared
from nissl.evaluators.pattern_distance import disc_maps, zncc_outside
from nissl.evaluators.pattern_maps import pool_images
from nissl.evaluators.trial_resampling import statistic_weights, statistics
from nissl.evaluators.zncc import compare_matrices, zncc_matrix

LABELS = ("reference", "day")


def compare_with_truth(
    compared: Mapping[str, Compared], source: Any, pair: tuple[str, str], mask: np.ndarray
) -> dict[str, float]:
    """True change of each statistic; correlation of every kind's matrices with the true ones, mean over networks.

    Empty where there is no truth. AUROC: whether ZNCC of single-cell patterns tells cells of one module from others.
    """
    if not set(pair) <= set(source.truths):
        return {}
    all_names = [pattern.name for pattern in source.patterns]
    true = {day: pool_images(source.truths[day].evoked, mask.shape)[:, mask] for day in pair}
    stimulated = [i for i, pattern in enumerate(source.patterns) if pattern.cells]  # "none" is black in truth
    named = statistic_weights([source.patterns[i].cells for i in stimulated])
    weights = np.stack(list(named.values()))
    before, after = (statistics(true[day][None, stimulated], weights)[0] for day in pair)
    told: dict[str, float] = {}
    for k, name in enumerate(named):
        if name in ("zncc_sum", *DECLARED):
            told[f"days_truth/{name}_reference"] = float(before[k])
            told[f"days_truth/{name}_day"] = float(after[k])
            told[f"days_truth/{name}_change"] = float(after[k] - before[k])
    for kind, own in compared.items():
        chosen = [all_names.index(name) for name in own.names]
        for label, day, images in zip(LABELS, pair, own.images, strict=True):
            truth = zncc_matrix(true[day][chosen])
            matrices = [zncc_matrix(image) for image in images]
            found = [compare_matrices(matrix, truth, own.cells) for matrix in matrices]
            for key in found[0]:
                told[f"{KINDS[kind]}/{key}_{label}"] = float(np.mean([one[key] for one in found]))
            told[f"{KINDS[kind]}/truth_auroc_module_{label}"] = float(
                np.mean([module_auroc(matrix, own.cells, source.of_day(day)) for matrix in matrices])
            )
    return told


def agreement_note(
    scalars: Mapping[str, float], compared: Mapping[str, Compared], pair: tuple[str, str], method: str
) -> list[str]:
    """One sentence: correlation with the truth over disjoint pairs, maps beside the evoked baseline."""
    if f"{KINDS['network']}/truth_r_disjoint_reference" not in scalars:
        return []
    words = {"network": method, "evoked": "evoked maps", "pattern": "activation patterns"}
    told = [
        f"{words[kind]} {scalars[f'{KINDS[kind]}/truth_r_disjoint_reference']:.3f} and "
        f"{scalars[f'{KINDS[kind]}/truth_r_disjoint_day']:.3f}"
        for kind in compared
    ]
    return [
        f"simulated data: correlation with the true matrix over pairs without a common cell, {pair[0]} and {pair[1]}: "
        + "; ".join(told)
    ]


def beyond_targets(compared: Mapping[str, Compared], source: Any, mask: np.ndarray) -> dict[str, float]:
    """Mean ZNCC of disjoint pairs over positions away from either pattern's targets, on both days."""
    positions, radius = source.cells.positions_px, source.cells.radius_px
    told: dict[str, float] = {}
    for kind, own in compared.items():
        if positions is None or "disjoint" not in statistic_weights(own.cells):
            continue
        scale = np.array(mask.shape) / np.array(source.mask.shape)
        reach = max(1.0, 1.5 * float(np.mean(radius)) * scale.mean() if radius is not None else 1.0)
        places = (positions + 0.5) * scale - 0.5
        hidden = disc_maps(own.cells, source.cells.names, places, reach, mask.shape)[:, mask]
        disjoint = statistic_weights(own.cells)["disjoint"]
        means = [
            float(
                np.mean([np.nanmean(np.where(disjoint > 0, zncc_outside(image, hidden)[0], np.nan)) for image in day])
            )
            for day in own.images
        ]
        name = f"{KINDS[kind]}/disjoint_beyond_targets"
        told |= {f"{name}_{label}": mean for label, mean in zip(LABELS, means, strict=True)}
        told[f"{name}_change"] = means[1] - means[0]
    return told
