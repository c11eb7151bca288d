"""All named variants of expected run length side by side, with intervals; see `VARIANTS` in `run_lengths`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from nissl.evaluators.erl_intervals import bootstrap
from nissl.evaluators.run_lengths import VARIANTS, expected_run_length, path_of_nodes
from nissl.volumes.skeletons import Skeletons


def variants_table(
    skeletons: Skeletons,
    node_segment: np.ndarray,
    merge_thresholds: Sequence[int],
    num_samples: int,
    seed: int,
    forbidden: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Every named variant at every merge threshold, one row each; funlib knows only threshold 0 and no mask.

    Args:
        skeletons, node_segment, forbidden: as of `expected_run_length`.
        merge_thresholds: in nodes.
        num_samples, seed: of the intervals; see `bootstrap`.
    """
    rows = []
    for name, how in VARIANTS.items():
        for threshold in [0] if name == "funlib" else merge_thresholds:
            wrong = () if name == "funlib" else forbidden
            runs = expected_run_length(skeletons, node_segment, threshold, forbidden=wrong, **how)
            intervals = bootstrap(runs, num_samples, seed)
            rows.append(
                {
                    "variant": name,
                    "merge_threshold_nodes": threshold,
                    "merge_threshold_nm": path_of_nodes(runs.edge_nm, threshold),
                    "contiguous": how["contiguous"],
                    "erl_nm": runs.erl_nm,
                    "gt_nm": runs.gt_erl_nm,
                    "normalized": runs.normalized,
                    "mergers": runs.num_mergers,
                    "merged_pairs": runs.num_merged_pairs,
                    "mergers_per_mm": runs.per_mm(runs.num_mergers),
                    "fraction_merged": runs.length_of["merged"] / runs.total_nm,
                    **{
                        f"{key}_{end}": value
                        for key in ("normalized", "mergers", "mergers_per_mm")
                        for end, value in zip(("low", "high"), intervals[key], strict=True)
                    },
                }
            )
    return rows
