"""Expected run length from segment ids on skeleton nodes: how far one follows a neuron before it goes wrong.

Drop a point anywhere on ground-truth cable; the run length is the cable of that neuron which its segment holds
correctly. Source: Januszewski et al. 2018, https://doi.org/10.1038/s41592-018-0049-4 (Methods).

Every edge of a skeleton has one class, in this order: *omitted* if an end is unassigned, *split* if its ends lie in two
segments, *merged* if its segment is a merger and this neuron is one of those it merges, *correct* otherwise. With L_s
the length of neuron s, L their sum and L_sg the correct cable of s in segment g,

    ERL = (1/L) * sum over s and g of L_sg^2,   at most (1/L) * sum over s of L_s^2.

There is no official implementation, and those that circulate differ. Each is a row of `VARIANTS`:

* `funlib` (funlib.evaluate): a segment merges the neurons of which it holds any node; two stretches of one neuron in
  one segment add up even when the cable between them is lost. Our default.
* `em_erl`: as funlib, but a segment touches a neuron only with `merge_threshold` nodes, and segments that fill a
  no-merge mask (glia, say) count as merged.
* `strict`: as em_erl, each connected stretch on its own.
* `allen` (segmentation-skeleton-metrics): connected stretches, and within a neuron the mean over *labelled* cable, so
  that what is left blank costs nothing; the normalised value is the mean of ERL_s / L_s. There neurons merge from 51
  nodes each on; here from `merge_threshold` on, as for the others.

Lengths are in nm; the voxel size enters through the node positions, so it must be right. Summing ERL_s and L_s
separately and dividing is another number, and wrong: the mean over neurons is weighted by length.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nissl.volumes.skeletons import Skeletons

EDGE_CLASSES = ("omitted", "split", "merged", "correct")
OMITTED, SPLIT, MERGED, CORRECT = range(4)
# Name -> how stretches of one segment add up, and over which cable the mean within a neuron is taken.
VARIANTS: dict[str, dict[str, bool]] = {
    "funlib": {"contiguous": False, "labelled_only": False},
    "em_erl": {"contiguous": False, "labelled_only": False},
    "strict": {"contiguous": True, "labelled_only": False},
    "allen": {"contiguous": True, "labelled_only": True},
}


@dataclass(frozen=True)
class RunLengths:
    """Expected run length and what it is made of.

    S neurons, N nodes, E edges, P pairs of a neuron and a segment (background is a segment here), R runs: what counts
    as one stretch, which is a pair, or a connected part of one.

    Attributes:
        erl_nm: the expected run length.
        gt_erl_nm: the same for a perfect segmentation.
        normalized: their ratio, 0 to 1 (`allen`: mean over neurons of ERL_s / L_s, weighted by length).
        labelled_only: whether it is `allen`'s.
        num_mergers: segments that touch two neurons or more.
        num_merged_pairs: sum over them of neurons touched - 1.
        num_splits: split edges.
        num_fragments: connected parts of assigned cable beyond one per neuron: the other count of splits.
        length_of: edge class -> nm of cable.
        count_of: edge class -> edges.
        skeleton_ids: (S,) ids of the neurons.
        skeleton_nm, skeleton_erl_nm: (S,) their length, and the expected run length within each.
        skeleton_mergers: (S,) mergers it takes part in, each shared equally among the neurons it merges.
        skeleton_splits: (S,) split edges.
        edge_class: (E,) index into EDGE_CLASSES.
        edge_nm: (E,) lengths.
        node_skeleton: (N,) row of `skeleton_ids`.
        node_segment: (N,) as given.
        node_pair: (N,) pair of each node.
        pair_skeleton, pair_segment, pair_nodes: (P,) row of the neuron, segment id, nodes.
        pair_is_merged: (P,) whether the segment is a merger that merges this neuron.
        node_run: (N,) run of each node.
        run_nm: (R,) its correct cable.
    """

    erl_nm: float
    gt_erl_nm: float
    normalized: float
    labelled_only: bool
    num_mergers: int
    num_merged_pairs: int
    num_splits: int
    num_fragments: int
    length_of: dict[str, float]
    count_of: dict[str, int]
    skeleton_ids: np.ndarray
    skeleton_nm: np.ndarray
    skeleton_erl_nm: np.ndarray
    skeleton_mergers: np.ndarray
    skeleton_splits: np.ndarray
    edge_class: np.ndarray
    edge_nm: np.ndarray
    node_skeleton: np.ndarray
    node_segment: np.ndarray
    node_pair: np.ndarray
    pair_skeleton: np.ndarray
    pair_segment: np.ndarray
    pair_nodes: np.ndarray
    pair_is_merged: np.ndarray
    node_run: np.ndarray
    run_nm: np.ndarray

    @property
    def total_nm(self) -> float:
        return float(self.skeleton_nm.sum())

    def per_mm(self, count: float) -> float:
        """A count per mm of ground-truth cable."""
        return count / (self.total_nm / 1e6)


def expected_run_length(
    skeletons: Skeletons,
    node_segment: np.ndarray,
    merge_threshold: int = 0,
    contiguous: bool = False,
    forbidden: Collection[int] = (),
    labelled_only: bool = False,
) -> RunLengths:
    """Mean error-free path length when a point of ground-truth cable is picked at random.

    Args:
        skeletons: ground truth.
        node_segment: (N,) integer, segment under each node; 0 is unassigned.
        merge_threshold: a segment touches a neuron if it holds at least this many of its nodes (0 and 1: any).
        contiguous: count each connected stretch of correct cable on its own.
        forbidden: segments known to be wrong (they fill glia, say); merged wherever they touch a neuron.
        labelled_only: pick the point on cable that is neither omitted nor split.

    Raises:
        ValueError: not one id per node, or no cable at all.

    >>> line = Skeletons(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2.0]]), np.array([[0, 1], [1, 2]]), np.array([1, 1, 1]))
    >>> expected_run_length(line, np.array([7, 7, 8])).erl_nm
    0.5
    """
    node_segment = np.asarray(node_segment)
    if node_segment.shape != skeletons.skeleton_of.shape:
        raise ValueError(
            f"expected one segment id for each of {len(skeletons.skeleton_of)} nodes, came {node_segment.shape}"
        )
    ids, skeleton = np.unique(skeletons.skeleton_of, return_inverse=True)
    segments, segment = np.unique(node_segment, return_inverse=True)
    # One key per (skeleton, segment); a dense table of them would be skeletons x segments large.
    key = skeleton.astype(np.int64) * len(segments) + segment
    pairs, pair_of, nodes_in = np.unique(key, return_inverse=True, return_counts=True)
    pair_skeleton, pair_column = np.divmod(pairs, len(segments))
    touches = (segments[pair_column] != 0) & (nodes_in >= max(merge_threshold, 1))
    num_touched = np.bincount(pair_column[touches], minlength=len(segments))
    merges = (num_touched > 1) | np.isin(segments, np.fromiter(forbidden, np.int64, len(forbidden)))
    is_merged = touches & merges[pair_column]

    u, v = skeletons.edges.T
    length = skeletons.edge_lengths_nm
    edge_class = np.select(
        [(node_segment[u] == 0) | (node_segment[v] == 0), node_segment[u] != node_segment[v], is_merged[pair_of[u]]],
        [OMITTED, SPLIT, MERGED],
        CORRECT,
    )
    skeleton_nm = np.bincount(skeleton[u], length, len(ids))
    total = float(skeleton_nm.sum())
    if total == 0:
        raise ValueError("the skeletons have no cable, so run lengths are undefined")

    held = edge_class >= MERGED
    graph = sparse.coo_matrix((np.ones(held.sum(), bool), (u[held], v[held])), shape=(len(skeleton),) * 2)
    _, stretch = connected_components(graph, directed=False)
    run_of = stretch if contiguous else pair_of
    correct = edge_class == CORRECT
    num_runs = int(run_of.max()) + 1
    run_nm = np.bincount(run_of[u[correct]], length[correct], num_runs)
    run_skeleton = np.zeros(num_runs, np.int64)
    run_skeleton[run_of] = skeleton
    squares = np.bincount(run_skeleton, run_nm**2, len(ids))
    within = np.bincount(skeleton[u[held]], length[held], len(ids)) if labelled_only else skeleton_nm
    skeleton_erl = np.divide(squares, within, out=np.zeros(len(ids)), where=within > 0)
    erl = float(np.sum(skeleton_nm * skeleton_erl) / total)
    gt_erl = float((skeleton_nm**2).sum() / total)

    assigned = node_segment != 0
    parts = np.unique(stretch[assigned])
    stretch_skeleton = np.zeros(int(stretch.max()) + 1, np.int64)
    stretch_skeleton[stretch] = skeleton
    parts_of = np.bincount(stretch_skeleton[parts], minlength=len(ids))
    share = np.where(touches & (num_touched[pair_column] > 1), 1 / np.maximum(num_touched[pair_column], 1), 0.0)
    return RunLengths(
        erl_nm=erl,
        gt_erl_nm=gt_erl,
        normalized=float(skeleton_erl.sum() / total) if labelled_only else erl / gt_erl,
        labelled_only=labelled_only,
        num_mergers=int((num_touched > 1).sum()),
        num_merged_pairs=int((num_touched[num_touched > 1] - 1).sum()),
        num_splits=int((edge_class == SPLIT).sum()),
        num_fragments=int(np.maximum(parts_of - 1, 0).sum()),
        length_of={name: float(length[edge_class == k].sum()) for k, name in enumerate(EDGE_CLASSES)},
        count_of={name: int((edge_class == k).sum()) for k, name in enumerate(EDGE_CLASSES)},
        skeleton_ids=ids,
        skeleton_nm=skeleton_nm,
        skeleton_erl_nm=skeleton_erl,
        skeleton_mergers=np.bincount(pair_skeleton, share, len(ids)),
        skeleton_splits=np.bincount(skeleton[u[edge_class == SPLIT]], minlength=len(ids)),
        edge_class=edge_class,
        edge_nm=length,
        node_skeleton=skeleton,
        node_segment=node_segment,
        node_pair=pair_of,
        pair_skeleton=pair_skeleton,
        pair_segment=segments[pair_column],
        pair_nodes=nodes_in,
        pair_is_merged=is_merged,
        node_run=run_of,
        run_nm=run_nm,
    )


def segments_in_mask(segmentation: np.ndarray, mask: np.ndarray, merge_threshold: int) -> set[int]:
    """Segments with more than `merge_threshold` voxels inside a no-merge mask: the `forbidden` ones of em_erl.

    Args:
        segmentation: (Z, Y, X) ids, 0 = unassigned.
        mask: (Z, Y, X), true where no neuron is.
    """
    if segmentation.shape != mask.shape:
        raise ValueError(f"segmentation {segmentation.shape} and no-merge mask {mask.shape} differ in shape")
    ids, counts = np.unique(segmentation[mask.astype(bool)], return_counts=True)
    return {int(i) for i, count in zip(ids, counts, strict=True) if i != 0 and count > merge_threshold}


def path_of_nodes(edge_nm: np.ndarray, num_nodes: int) -> float:
    """The path that a merge threshold of so many nodes asks for: one median edge each, nm."""
    return num_nodes * float(np.median(edge_nm))


def by_length(runs: RunLengths, bounds_nm: Sequence[float]) -> list[dict[str, Any]]:
    """Run lengths of neurons grouped by their own length; an interval without neurons has NaN."""
    rows = []
    edges = [0.0, *bounds_nm, np.inf]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (runs.skeleton_nm >= low) & (runs.skeleton_nm < high)
        length, erl = runs.skeleton_nm[inside], runs.skeleton_erl_nm[inside]
        total = float(length.sum())
        rows.append(
            {
                "from_nm": low,
                "below_nm": high,
                "skeletons": int(inside.sum()),
                "cable_nm": total,
                "erl_nm": float((length * erl).sum() / total) if total else float("nan"),
                "gt_nm": float((length**2).sum() / total) if total else float("nan"),
            }
        )
    return rows


def join(parts: list[tuple[Skeletons, np.ndarray]]) -> tuple[Skeletons, np.ndarray]:
    """Skeletons and node segments of several volumes as one set; ids of different volumes never meet."""
    segment_of, most_segments = [], 0
    for _, segments in parts:
        segment_of.append(np.where(segments > 0, segments + most_segments, 0))
        most_segments += int(segments.max(initial=0)) + 1
    return Skeletons.concatenate([skeletons for skeletons, _ in parts]), np.concatenate(segment_of)
