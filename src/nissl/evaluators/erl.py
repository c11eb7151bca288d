"""Expected run length: how far one can follow a neuron before the segmentation goes wrong.

Drop a point anywhere on ground-truth cable; the run length is the cable of that neuron which its segment holds
correctly. Source: Januszewski et al. 2018, https://doi.org/10.1038/s41592-018-0049-4 (Methods). The default rule is
that of funlib.evaluate: a segment that touches two neurons counts for neither, and two stretches of one neuron in one
segment add up even when the cable between them is lost.

Every edge of a skeleton has one class, in this order: *omitted* if an end is unassigned, *split* if its ends lie in two
segments, *merged* if its segment is a merger, *correct* otherwise. Lengths are in nm; the voxel size enters through the
node positions, so it must be right.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nissl.evaluators.result import Figure, Result
from nissl.flood_fill.segmenter import FloodFill
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.skeletons import Skeletons

EDGE_CLASSES = ("omitted", "split", "merged", "correct")


@dataclass(frozen=True)
class RunLengths:
    """Expected run length and what it is made of.

    Attributes:
        erl_nm: (1/L) * sum over neurons and segments of squared correct length; L is all ground-truth cable.
        gt_erl_nm: the same for a perfect segmentation.
        num_mergers: segments that touch two neurons or more.
        num_merged_pairs: sum over them of neurons touched - 1.
        num_splits: split edges.
        length_of: edge class -> nm of cable.
        count_of: edge class -> edges.
        skeleton_ids: (S,) ids of the neurons.
        skeleton_nm: (S,) their length.
        skeleton_erl_nm: (S,) expected run length within each.
        edge_class: (E,) index into EDGE_CLASSES.
    """

    erl_nm: float
    gt_erl_nm: float
    num_mergers: int
    num_merged_pairs: int
    num_splits: int
    length_of: dict[str, float]
    count_of: dict[str, int]
    skeleton_ids: np.ndarray
    skeleton_nm: np.ndarray
    skeleton_erl_nm: np.ndarray
    edge_class: np.ndarray

    @property
    def total_nm(self) -> float:
        return float(self.skeleton_nm.sum())

    @property
    def normalized(self) -> float:
        return self.erl_nm / self.gt_erl_nm


def expected_run_length(
    skeletons: Skeletons,
    node_segment: np.ndarray,
    merge_threshold: int = 0,
    contiguous: bool = False,
    forbidden: Collection[int] = (),
) -> RunLengths:
    """Mean error-free path length when a point of ground-truth cable is picked at random.

    Args:
        skeletons: ground truth.
        node_segment: (N,) integer, segment under each node; 0 is unassigned.
        merge_threshold: a segment touches a neuron if it holds at least this many of its nodes (0 and 1: any).
        contiguous: count each connected stretch of correct cable on its own.
        forbidden: segments known to be wrong (they fill glia, say); merged wherever they touch a neuron.

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
    pair_segment = pairs % len(segments)
    touches = (segments[pair_segment] != 0) & (nodes_in >= max(merge_threshold, 1))
    num_touched = np.bincount(pair_segment[touches], minlength=len(segments))
    merges = (num_touched > 1) | np.isin(segments, np.fromiter(forbidden, np.int64, len(forbidden)))
    is_merged = touches & merges[pair_segment]

    u, v = skeletons.edges.T
    length = skeletons.edge_lengths_nm
    edge_class = np.select(
        [(node_segment[u] == 0) | (node_segment[v] == 0), node_segment[u] != node_segment[v], is_merged[pair_of[u]]],
        [0, 1, 2],
        3,
    )
    skeleton_nm = np.bincount(skeleton[u], length, len(ids))
    total = float(skeleton_nm.sum())
    if total == 0:
        raise ValueError("the skeletons have no cable, so run lengths are undefined")
    correct = edge_class == 3
    if contiguous:
        graph = sparse.coo_matrix((np.ones(correct.sum()), (u[correct], v[correct])), shape=(len(skeleton),) * 2)
        _, group = connected_components(graph, directed=False)
    else:
        group = pair_of
    num_groups = int(group.max()) + 1
    run_nm = np.bincount(group[u[correct]], length[correct], num_groups)
    group_skeleton = np.zeros(num_groups, np.int64)
    group_skeleton[group] = skeleton
    squares = np.bincount(group_skeleton, run_nm**2, len(ids))
    with np.errstate(invalid="ignore"):
        skeleton_erl = np.where(skeleton_nm > 0, squares / skeleton_nm, 0.0)
    return RunLengths(
        erl_nm=float(squares.sum() / total),
        gt_erl_nm=float((skeleton_nm**2).sum() / total),
        num_mergers=int((num_touched > 1).sum()),
        num_merged_pairs=int((num_touched[num_touched > 1] - 1).sum()),
        num_splits=int((edge_class == 1).sum()),
        length_of={name: float(length[edge_class == k].sum()) for k, name in enumerate(EDGE_CLASSES)},
        count_of={name: int((edge_class == k).sum()) for k, name in enumerate(EDGE_CLASSES)},
        skeleton_ids=ids,
        skeleton_nm=skeleton_nm,
        skeleton_erl_nm=skeleton_erl,
        edge_class=edge_class,
    )


def join(parts: list[tuple[Skeletons, np.ndarray]]) -> tuple[Skeletons, np.ndarray]:
    """Skeletons and node segments of several volumes as one set; ids of different volumes never meet."""
    nodes, edges, skeleton_of, segment_of = [], [], [], []
    rows = most_skeletons = most_segments = 0
    for skeletons, segments in parts:
        nodes.append(skeletons.nodes_zyx_nm)
        edges.append(skeletons.edges + rows)
        skeleton_of.append(skeletons.skeleton_of + most_skeletons)
        segment_of.append(np.where(segments > 0, segments + most_segments, 0))
        rows += len(segments)
        most_skeletons += int(skeletons.skeleton_of.max(initial=0)) + 1
        most_segments += int(segments.max(initial=0)) + 1
    joined = Skeletons(np.concatenate(nodes), np.concatenate(edges), np.concatenate(skeleton_of))
    return joined, np.concatenate(segment_of)


class ERL:
    """Floods the volumes of one split and measures run lengths along their skeletons.

    `erl/splits` counts split edges; `erl/mergers` segments that touch more than one neuron; fractions are of cable
    length.

    Args:
        segmenter: how a volume is segmented; the same settings as another evaluator's share its result.
        split: "val" or "test".
        merge_threshold, contiguous: see `expected_run_length`.
    """

    metrics = {
        "erl/mean_nm": "max",
        "erl/gt_nm": None,
        "erl/normalized": "max",
        "erl/mergers": "min",
        "erl/mergers_per_mm": "min",
        "erl/splits": "min",
        "erl/fraction_correct": "max",
        "erl/fraction_omitted": "min",
        "erl/fraction_split": "min",
        "erl/fraction_merged": "min",
    }

    def __init__(self, segmenter: FloodFill, split: str, merge_threshold: int, contiguous: bool) -> None:
        if split not in ("val", "test"):
            raise ValueError(f"split must be val or test, came {split!r}")
        self.segmenter, self.split = segmenter, split
        self.merge_threshold, self.contiguous = merge_threshold, contiguous

    def __call__(self, task: Any, data: Any) -> Result:
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        truths = [_skeletons(volume) for volume in volumes]
        segmentations = self.segmenter.segment(task.model, volumes)
        parts = [
            (truth, truth.ids_at_nodes(segmentation.ids, volume.voxel_size_zyx_nm))
            for volume, truth, segmentation in zip(volumes, truths, segmentations, strict=True)
        ]
        skeletons, segments = join(parts)
        runs = expected_run_length(skeletons, segments, self.merge_threshold, self.contiguous)
        scalars = {
            "erl/mean_nm": runs.erl_nm,
            "erl/gt_nm": runs.gt_erl_nm,
            "erl/normalized": runs.normalized,
            "erl/mergers": float(runs.num_mergers),
            "erl/mergers_per_mm": runs.num_mergers / (runs.total_nm / 1e6),
            "erl/splits": float(runs.num_splits),
        }
        scalars |= {f"erl/fraction_{name}": runs.length_of[name] / runs.total_nm for name in EDGE_CLASSES}
        rows = [
            {"skeleton": int(i), "length_nm": float(length), "erl_nm": float(erl)}
            for i, length, erl in zip(runs.skeleton_ids, runs.skeleton_nm, runs.skeleton_erl_nm, strict=True)
        ]
        sizes = {tuple(volume.voxel_size_zyx_nm) for volume in volumes}
        stretches = "each connected stretch counts alone" if self.contiguous else "stretches of one id add up"
        note = (
            f"{len(rows)} skeletons, {runs.total_nm / 1e3:.1f} um of cable, {len(segments)} nodes (median edge "
            f"{np.median(skeletons.edge_lengths_nm):.1f} nm), {np.mean(segments == 0):.1%} of them unassigned; voxel "
            f"size {sizes} nm (zyx); merge threshold {self.merge_threshold} nodes; {stretches}"
        )
        return Result(scalars, {"runs": _figure(runs)}, {"skeletons": rows}, notes=[note])


def _skeletons(volume: AnnotatedVolume) -> Skeletons:
    if volume.skeletons is None or len(volume.skeletons.edges) == 0:
        raise ValueError(f"volume '{volume.name}' has no skeleton with an edge in it. Set dataset.skeletons.")
    return volume.skeletons


def _figure(runs: RunLengths) -> Figure:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(5, 4))
    axes = figure.add_subplot()
    length_um, erl_um = runs.skeleton_nm / 1e3, runs.skeleton_erl_nm / 1e3
    axes.plot([0, length_um.max()], [0, length_um.max()], color="0.6", label="perfect")
    axes.scatter(length_um, erl_um, s=14, color="#0072B2", label="one neuron")
    axes.set_xlabel("length of the neuron in the volume (um)")
    axes.set_ylabel("expected run length (um)")
    axes.legend(frameon=False)
    caption = (
        f"Expected run length of each of {len(length_um)} neurons against its length; "
        f"over all cable {runs.erl_nm / 1e3:.2f} um of {runs.gt_erl_nm / 1e3:.2f} um possible."
    )
    return Figure.from_matplotlib(figure, caption, {"length_um": length_um, "erl_um": erl_um})
