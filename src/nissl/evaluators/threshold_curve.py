"""Run length against merge rate for every threshold, without a network: decisions that were stored are taken again.

A segmentation whose decisions are still open is a volume of fragments with, for pairs of them, a score that says how
surely they belong together (agglomeration), or a probability under every voxel (the segment threshold of flood filling,
with a smallest size). Either way another threshold only renames fragments. So fragments are looked up once under the
skeleton nodes and counted once against the true labels, and each threshold costs a pass over those tables.

The curve, expected run length against mergers, is the one by which Januszewski et al. 2018 compare methods. A threshold
is chosen on one part of the data and scored on another (`choose`): the largest normalised run length with at most so
many mergers per mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nissl.evaluators.result import Figure
from nissl.evaluators.run_lengths import expected_run_length
from nissl.evaluators.segmentation import Overlaps, scores
from nissl.volumes.skeletons import Skeletons

# Okabe and Ito, and a marker each, so that methods can be told apart in grey too.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))


@dataclass(frozen=True)
class Fragments:
    """Fragments of one volume, looked up and counted.

    Attributes:
        skeletons: ground truth of the volume.
        node_fragment: (N,) fragment under each node, 0 = unassigned.
        overlaps: fragments against true labels, or None without labels.
        ids: (F,) every fragment, ascending.
        sizes: (F,) its voxels.
    """

    skeletons: Skeletons
    node_fragment: np.ndarray
    overlaps: Overlaps | None
    ids: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls,
        fragments: np.ndarray,
        skeletons: Skeletons,
        labels: np.ndarray | None,
        voxel_size_zyx_nm: tuple[float, float, float],
    ) -> Fragments:
        """Look up and count (Z, Y, X) fragments."""
        ids, sizes = np.unique(fragments, return_counts=True)
        overlaps = None if labels is None else Overlaps.of(labels, fragments)
        nodes = skeletons.ids_at_nodes(fragments, voxel_size_zyx_nm)
        return cls(skeletons, nodes, overlaps, ids[ids > 0], sizes[ids > 0])


def joined(ids: np.ndarray, pairs: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """(F,) a segment id above 0 for each fragment, when the accepted pairs are joined.

    Args:
        ids: (F,) fragments, ascending.
        pairs: (P, 2) fragments; pairs with a fragment that is not in `ids` (outside this part) are ignored.
        accepted: (P,) bool.
    """
    known = np.isin(pairs, ids).all(axis=1) & accepted
    rows = np.searchsorted(ids, pairs[known])
    graph = sparse.coo_matrix((np.ones(len(rows), bool), tuple(rows.T)), shape=(len(ids),) * 2)
    _, component = connected_components(graph, directed=False)
    return component + 1


def agglomeration_rows(
    fragments: Fragments,
    pairs: np.ndarray,
    pair_scores: np.ndarray,
    thresholds: Sequence[float],
    merge_threshold: int,
    contiguous: bool,
) -> list[dict[str, Any]]:
    """One row per threshold; pairs with a score of at least the threshold are joined."""
    rows = []
    for threshold in thresholds:
        segments = joined(fragments.ids, pairs, pair_scores >= threshold)
        rows.append({"threshold": float(threshold)} | score(fragments, segments, merge_threshold, contiguous))
    return rows


def with_levels(ids: np.ndarray, probability: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """(Z, Y, X) fragments of equal id and equal number of thresholds reached, for `probability_rows`.

    Args:
        ids: (Z, Y, X) segments, 0 = unassigned.
        probability: (Z, Y, X) of the voxel's segment, 0 to 1.
        thresholds: ascending.
    """
    if list(thresholds) != sorted(thresholds):
        raise ValueError(f"thresholds must ascend, came {list(thresholds)}")
    level = np.searchsorted(np.asarray(thresholds), probability, side="right")
    return np.where(ids > 0, ids.astype(np.int64) * (len(thresholds) + 1) + level, 0)


def probability_rows(
    fragments: Fragments, thresholds: Sequence[float], min_size: int, merge_threshold: int, contiguous: bool
) -> list[dict[str, Any]]:
    """One row per threshold: voxels below it are unassigned, and so are segments of fewer than `min_size` voxels then.

    Args:
        fragments: of `with_levels` with the same thresholds.
    """
    base, level = np.divmod(fragments.ids, len(thresholds) + 1)
    rows = []
    for index, threshold in enumerate(thresholds):
        kept = level > index
        _, column = np.unique(base, return_inverse=True)
        large = np.bincount(column, fragments.sizes * kept) >= min_size
        segments = np.where(kept & large[column], base, 0)
        rows.append({"threshold": float(threshold)} | score(fragments, segments, merge_threshold, contiguous))
    return rows


def score(fragments: Fragments, segments: np.ndarray, merge_threshold: int, contiguous: bool) -> dict[str, float]:
    """Numbers of the segmentation in which fragment `ids[i]` belongs to `segments[i]`."""
    table = np.concatenate([[0], segments])
    place = np.concatenate([[0], fragments.ids])
    node_segment = table[np.searchsorted(place, fragments.node_fragment)]
    runs = expected_run_length(fragments.skeletons, node_segment, merge_threshold, contiguous)
    row = {
        "erl_nm": runs.erl_nm,
        "gt_nm": runs.gt_erl_nm,
        "normalized": runs.normalized,
        "mergers": float(runs.num_mergers),
        "mergers_per_mm": runs.per_mm(runs.num_mergers),
        "splits": float(runs.num_splits),
        "fraction_omitted": runs.length_of["omitted"] / runs.total_nm,
        "fraction_merged": runs.length_of["merged"] / runs.total_nm,
    }
    if fragments.overlaps is not None:
        overlaps = fragments.overlaps
        renamed = Overlaps(
            overlaps.truth, table[np.searchsorted(place, overlaps.segment)], overlaps.count, overlaps.volume
        )
        found = scores(Overlaps.sum([renamed]))
        row |= {"voi_split": found["voi/split"], "voi_merge": found["voi/merge"], "voi_sum": found["voi/sum"]}
        row["coverage"] = found["coverage"]
    return row


def choose(rows: Sequence[dict[str, Any]], max_mergers_per_mm: float | None) -> int:
    """Index of the row with the largest normalised run length whose merge rate is allowed.

    Of a tie, the higher threshold. Where no row is allowed, that with the fewest mergers.
    """
    if not rows:
        raise ValueError("there is no threshold to choose from")
    cap = np.inf if max_mergers_per_mm is None else max_mergers_per_mm
    allowed = [i for i, row in enumerate(rows) if row["mergers_per_mm"] <= cap]
    if allowed:
        return max(allowed, key=lambda i: (rows[i]["normalized"], rows[i]["threshold"]))
    return min(range(len(rows)), key=lambda i: (rows[i]["mergers_per_mm"], -rows[i]["normalized"]))


def curve_figure(
    curves: Mapping[str, Sequence[dict[str, Any]]],
    chosen: Mapping[str, int],
    max_mergers_per_mm: float | None,
    caption: str,
) -> Figure:
    """Expected run length against mergers per mm: a line per method, a point per threshold, the chosen one ringed."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.2, 4.4))
    axes = canvas.add_subplot()
    data = {}
    for (name, rows), (colour, marker) in zip(curves.items(), _cycle(len(curves)), strict=True):
        rate = np.array([row["mergers_per_mm"] for row in rows])
        erl_um = np.array([row["erl_nm"] for row in rows]) / 1e3
        thresholds = np.array([row["threshold"] for row in rows])
        line = "-" if len(rows) > 1 else ""
        axes.plot(rate, erl_um, line, color=colour, marker=marker, ms=5, lw=1.2, label=name)
        best = chosen[name]
        axes.plot(rate[best], erl_um[best], "o", ms=13, mfc="none", mec=colour, mew=1.5)
        if len(rows) > 1:
            for index in {0, best, len(rows) - 1}:
                axes.annotate(
                    f"{thresholds[index]:.3g}",
                    (rate[index], erl_um[index]),
                    textcoords="offset points",
                    xytext=(7, 5),
                    fontsize=7,
                    color=colour,
                )
        data[name] = np.stack([thresholds, rate, erl_um], 1)
    if max_mergers_per_mm is not None:
        axes.axvline(max_mergers_per_mm, color="0.6", lw=1, ls="--")
    rates = np.concatenate([values[:, 1] for values in data.values()])
    top, least = rates.max(initial=0), rates[rates > 0].min(initial=np.inf)
    if top > 30 * least:  # a merger or two beside hundreds
        axes.set_xscale("symlog", linthresh=least)
    axes.set_xlim(0, 1.15 * max(top, 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("mergers per mm of ground-truth cable")
    axes.set_ylabel("expected run length (um)")
    axes.legend(frameon=False, fontsize=8)
    return Figure.from_matplotlib(canvas, caption, data)


def _cycle(num: int) -> list[tuple[str, str]]:
    return [STYLES[i % len(STYLES)] for i in range(num)]
