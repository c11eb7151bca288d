"""Evaluator of expected run length: what it is made of, how sure it is, and where it is lost.

The numbers are computed by plain functions over arrays: `nissl.evaluators.run_lengths` (definition and variants),
`erl_intervals` (bootstrap over neurons), `neurite_types` (axon, dendrite, spine apart) and `error_sites` (what to put
right first). `erl/*` follows the rule of funlib.evaluate unless the config says otherwise; the table `variants` holds
all others beside it. A run length without merge threshold, voxel size and skeletons means little: a note states them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators.erl_intervals import bootstrap
from nissl.evaluators.erl_variants import variants_table
from nissl.evaluators.error_sites import error_sites
from nissl.evaluators.neurite_types import by_type, spines
from nissl.evaluators.result import Figure, Result
from nissl.evaluators.run_lengths import (
    EDGE_CLASSES,
    RunLengths,
    by_length,
    expected_run_length,
    join,
    path_of_nodes,
    segments_in_mask,
)
from nissl.evaluators.segmentation_figures import sites_figure
from nissl.evaluators.stored_segmentation import Segmenter
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.chunked import read_hdf5
from nissl.volumes.skeletons import Skeletons

SITES_SHOWN = 8
INTERVALS = ("mean_nm", "normalized", "mergers", "mergers_per_mm", "splits")


class ERL:
    """Floods the volumes of one split and measures run lengths along their skeletons.

    `erl/splits` counts split edges, `erl/fragments` connected pieces of assigned cable beyond one per neuron;
    `erl/mergers` segments that touch more than one neuron. `erl/fraction_*` are of cable length, `erl/edges_*` of the
    number of edges. Intervals (`_low`, `_high`) are 95 % of a bootstrap over neurons.

    Args:
        segmenter: how a volume is segmented; the same settings as another evaluator's share its result.
        split: "val" or "test".
        merge_threshold, contiguous: see `expected_run_length`.
        other_thresholds: merge thresholds of the table `variants`, in nodes.
        length_bounds_um: neurons are reported apart by their length, between these.
        no_merge_path, no_merge_dataset: HDF5 labels of the whole file, above 0 where no neuron is; a segment with more
            than `merge_threshold` voxels there counts as merged. Null: none.
        bootstrap_samples, bootstrap_seed: of the intervals.
        num_sites: error sites in the table.
    """

    metrics = {
        "erl/mean_nm": "max",
        "erl/mean_nm_low": None,
        "erl/mean_nm_high": None,
        "erl/gt_nm": None,
        "erl/normalized": "max",
        "erl/normalized_low": None,
        "erl/normalized_high": None,
        "erl/mergers": "min",
        "erl/mergers_low": None,
        "erl/mergers_high": None,
        "erl/merged_pairs": "min",
        "erl/mergers_per_mm": "min",
        "erl/mergers_per_mm_low": None,
        "erl/mergers_per_mm_high": None,
        "erl/mm_per_merger": "max",
        "erl/splits": "min",
        "erl/splits_low": None,
        "erl/splits_high": None,
        "erl/splits_per_mm": "min",
        "erl/fragments": "min",
        "erl/fraction_correct": "max",
        "erl/fraction_omitted": "min",
        "erl/fraction_split": "min",
        "erl/fraction_merged": "min",
        "erl/edges_correct": "max",
        "erl/edges_omitted": "min",
        "erl/edges_split": "min",
        "erl/edges_merged": "min",
        "erl/merge_threshold_nm": None,
        "erl_*/mean_nm": "max",
        "erl_*/recall": "max",
        "erl_*/precision": "max",
        "erl_*/cable_nm": None,
        "erl_*/num": None,
    }

    def __init__(
        self,
        segmenter: Segmenter,
        split: str,
        merge_threshold: int,
        contiguous: bool,
        other_thresholds: Sequence[int],
        length_bounds_um: Sequence[float],
        no_merge_path: str | None,
        no_merge_dataset: str,
        bootstrap_samples: int,
        bootstrap_seed: int,
        num_sites: int,
    ) -> None:
        if split not in ("val", "test"):
            raise ValueError(f"split must be val or test, came {split!r}")
        if merge_threshold < 0 or min(other_thresholds, default=0) < 0:
            raise ValueError(f"merge thresholds are numbers of nodes, came {merge_threshold} and {other_thresholds}")
        if bootstrap_samples < 1:
            raise ValueError(f"bootstrap_samples must be at least 1, came {bootstrap_samples}")
        self.segmenter, self.split = segmenter, split
        self.merge_threshold, self.contiguous = merge_threshold, contiguous
        self.other_thresholds, self.length_bounds_um = list(other_thresholds), list(length_bounds_um)
        self.no_merge_path, self.no_merge_dataset = no_merge_path, no_merge_dataset
        self.bootstrap_samples, self.bootstrap_seed, self.num_sites = bootstrap_samples, bootstrap_seed, num_sites

    def __call__(self, task: Any, data: Any) -> Result:
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        for volume in volumes:
            skeletons_of(volume)  # say what is missing before hours of flooding
        segmentations = self.segmenter.segment(task.model, volumes)
        return self.score(volumes, [segmentation.ids for segmentation in segmentations])

    def score(self, volumes: Sequence[AnnotatedVolume], segmentations: Sequence[np.ndarray]) -> Result:
        """Everything about segmentations that exist: one (Z, Y, X) array of ids per volume."""
        parts, forbidden, first = [], set(), 0
        for volume, ids in zip(volumes, segmentations, strict=True):
            skeletons = skeletons_of(volume)
            segments = skeletons.ids_at_nodes(ids, volume.voxel_size_zyx_nm)
            parts.append((skeletons, segments))
            if self.no_merge_path is not None:
                mask = read_hdf5(self.no_merge_path, self.no_merge_dataset, "labels", volume.box)
                forbidden |= {first + i for i in segments_in_mask(ids, mask, self.merge_threshold)}
            first += int(segments.max(initial=0)) + 1  # as `join` counts
        skeletons, segments = join(parts)
        runs = expected_run_length(skeletons, segments, self.merge_threshold, self.contiguous, forbidden)
        intervals = bootstrap(runs, self.bootstrap_samples, self.bootstrap_seed)
        scalars = scalars_of(runs) | {
            f"erl/{name}_{end}": value
            for name in INTERVALS
            for end, value in zip(("low", "high"), intervals[name], strict=True)
        }
        scalars["erl/merge_threshold_nm"] = path_of_nodes(runs.edge_nm, self.merge_threshold)
        sites = _site_rows(skeletons, runs, volumes, parts, self.num_sites)
        tables = {
            "skeletons": _skeleton_rows(runs, volumes, parts),
            "segments": _segment_rows(runs),
            "variants": variants_table(
                skeletons, segments, self.other_thresholds, self.bootstrap_samples, self.bootstrap_seed, forbidden
            ),
            "lengths": by_length(runs, [1e3 * bound for bound in self.length_bounds_um]),
            "error_sites": sites,
        }
        if skeletons.node_type is not None:
            tables["neurite_types"] = by_type(skeletons, runs)
            for row in tables["neurite_types"]:
                scalars |= {f"erl_{row['type']}/{name}": row[name] for name in ("recall", "precision", "cable_nm")}
                scalars[f"erl_{row['type']}/mean_nm"] = row["erl_nm"]
            counted = spines(skeletons, runs)
            if counted["num"]:
                scalars |= {f"erl_spines/{name}": value for name, value in counted.items()}
        figures = {"runs": _runs_figure(runs), "gains": _gains_figure(sites, runs)}
        if sites:
            figures["error_sites"] = sites_figure(_one_per_rank(sites)[:SITES_SHOWN], volumes, segmentations)
        return Result(scalars, figures, tables, notes=[self._note(runs, volumes)])

    def _note(self, runs: RunLengths, volumes: Sequence[AnnotatedVolume]) -> str:
        sizes = " and ".join(sorted({" x ".join(f"{v:g}" for v in volume.voxel_size_zyx_nm) for volume in volumes}))
        threshold_nm = path_of_nodes(runs.edge_nm, self.merge_threshold)
        return (
            f"{len(runs.skeleton_ids)} skeletons, {runs.total_nm / 1e3:.1f} um of cable, {len(runs.node_segment)} "
            f"nodes (median edge {np.median(runs.edge_nm):.1f} nm), {np.mean(runs.node_segment == 0):.1%} of them "
            f"unassigned; voxel size {sizes} nm (zyx); "
            f"merge threshold {self.merge_threshold} nodes ({threshold_nm:.0f} nm of path); "
            + ("each connected stretch counts alone" if self.contiguous else "stretches of one id add up")
            + ("" if self.no_merge_path is None else f"; no-merge mask {self.no_merge_path}:{self.no_merge_dataset}")
        )


def scalars_of(runs: RunLengths) -> dict[str, float]:
    """The numbers of one segmentation under their full metric names."""
    values = {
        "erl/mean_nm": runs.erl_nm,
        "erl/gt_nm": runs.gt_erl_nm,
        "erl/normalized": runs.normalized,
        "erl/mergers": float(runs.num_mergers),
        "erl/merged_pairs": float(runs.num_merged_pairs),
        "erl/mergers_per_mm": runs.per_mm(runs.num_mergers),
        "erl/mm_per_merger": runs.total_nm / 1e6 / runs.num_mergers if runs.num_mergers else float("nan"),
        "erl/splits": float(runs.num_splits),
        "erl/splits_per_mm": runs.per_mm(runs.num_splits),
        "erl/fragments": float(runs.num_fragments),
    }
    num_edges = sum(runs.count_of.values())
    for name in EDGE_CLASSES:
        values[f"erl/fraction_{name}"] = runs.length_of[name] / runs.total_nm
        values[f"erl/edges_{name}"] = runs.count_of[name] / num_edges
    return values


def skeletons_of(volume: AnnotatedVolume) -> Skeletons:
    """The skeletons of a volume, or an error that says how to get some."""
    if volume.skeletons is None or len(volume.skeletons.edges) == 0:
        raise ValueError(
            f"volume '{volume.name}' has no skeleton with an edge in it. Set dataset.skeletons, or make some from its "
            "labels with nissl skeletonize."
        )
    return volume.skeletons


Parts = Sequence[tuple[Skeletons, np.ndarray]]


def _skeleton_rows(runs: RunLengths, volumes: Sequence[AnnotatedVolume], parts: Parts) -> list[dict[str, Any]]:
    ids = np.concatenate([np.unique(skeletons.skeleton_of) for skeletons, _ in parts])  # in the order of `join`
    names = np.repeat([volume.name for volume in volumes], [len(np.unique(s.skeleton_of)) for s, _ in parts])
    return [
        {
            "volume": str(names[i]),
            "skeleton": int(ids[i]),
            "length_nm": float(runs.skeleton_nm[i]),
            "erl_nm": float(runs.skeleton_erl_nm[i]),
            "mergers": float(runs.skeleton_mergers[i]),
            "splits": int(runs.skeleton_splits[i]),
        }
        for i in range(len(ids))
    ]


def _segment_rows(runs: RunLengths) -> list[dict[str, Any]]:
    """Segments that hold a node; ids of later volumes follow those of the first."""
    segments, column = np.unique(runs.pair_segment, return_inverse=True)
    nodes = np.bincount(column, runs.pair_nodes).astype(int)
    neurons = np.bincount(column)
    merged = np.bincount(column, runs.pair_is_merged).astype(int)
    run_column = np.zeros(len(runs.run_nm), np.int64)
    run_column[runs.node_run] = column[runs.node_pair]
    correct = np.bincount(run_column, runs.run_nm, len(segments))
    return [
        {
            "segment": int(segments[i]),
            "nodes": int(nodes[i]),
            "neurons": int(neurons[i]),
            "merged_neurons": int(merged[i]),
            "correct_nm": float(correct[i]),
        }
        for i in range(len(segments))
        if segments[i] != 0
    ]


def _site_rows(
    skeletons: Skeletons, runs: RunLengths, volumes: Sequence[AnnotatedVolume], parts: Parts, limit: int
) -> list[dict[str, Any]]:
    """Error sites with the ids and voxel coordinates of the files they came from.

    Sites with one `rank` belong to one merger and must be put right together.
    """
    firsts = np.cumsum([0, *(len(segments) for _, segments in parts)])
    neuron = np.concatenate([part.skeleton_of for part, _ in parts])
    segment = np.concatenate([segments for _, segments in parts])
    rows: list[dict[str, Any]] = []
    rank, before = 0, (-1, "")
    for site in error_sites(skeletons, runs, limit):
        this = (int(runs.node_segment[site.node]), site.kind)
        rank += site.kind != "merge" or this != before
        before = this
        volume = volumes[int(np.searchsorted(firsts, site.node, side="right")) - 1]
        size = np.asarray(volume.voxel_size_zyx_nm)
        voxel = np.rint(np.asarray(site.position_zyx_nm) / size).astype(int) + volume.offset_zyx
        z, y, x = (int(p) for p in voxel)
        other = site.other_node
        rows.append(
            {
                "rank": rank,
                "kind": site.kind,
                "gain_nm": site.gain_nm,
                "cable_nm": site.cable_nm,
                "volume": volume.name,
                "z": z,
                "y": y,
                "x": x,
                **{f"{axis}_nm": float(p * s) for axis, p, s in zip("zyx", (z, y, x), size, strict=True)},
                "skeleton": int(neuron[site.node]),
                "other_skeleton": int(neuron[other]) if site.kind == "merge" and other >= 0 else "",
                "segment": int(segment[site.node]),
                "other_segment": int(segment[other]) if site.kind != "merge" and other >= 0 else "",
                "sites_together": site.num_sites,
            }
        )
    return rows


def _one_per_rank(sites: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [site for i, site in enumerate(sites) if i == 0 or site["rank"] != sites[i - 1]["rank"]]


def _runs_figure(runs: RunLengths) -> Figure:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(5, 4))
    axes = figure.add_subplot()
    length_um, erl_um = runs.skeleton_nm / 1e3, runs.skeleton_erl_nm / 1e3
    axes.plot([0, length_um.max()], [0, length_um.max()], color="0.6", label="perfect")
    merged = runs.skeleton_mergers > 0
    axes.scatter(length_um[~merged], erl_um[~merged], s=14, color="#0072B2", label="one neuron")
    axes.scatter(length_um[merged], erl_um[merged], s=16, color="#D55E00", marker="x", label="one with a merger")
    axes.set_xlabel("length of the neuron in the volume (um)")
    axes.set_ylabel("expected run length (um)")
    axes.legend(frameon=False)
    caption = (
        f"Expected run length of each of {len(length_um)} neurons against its length; "
        f"over all cable {runs.erl_nm / 1e3:.2f} um of {runs.gt_erl_nm / 1e3:.2f} um possible."
    )
    return Figure.from_matplotlib(figure, caption, {"length_um": length_um, "erl_um": erl_um})


def _gains_figure(sites: Sequence[dict[str, Any]], runs: RunLengths) -> Figure:
    """Edge classes as one bar, and what the most costly sites would recover."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Patch

    colours = {"correct": "#009E73", "omitted": "#56B4E9", "split": "#F0E442", "merged": "#D55E00"}
    of_kind = {"omission": "#56B4E9", "split": "#F0E442", "merge": "#D55E00"}
    figure = Canvas(figsize=(7.5, 4.2))
    top, bottom = figure.subplots(2, 1, height_ratios=[1, 3], gridspec_kw={"hspace": 0.6})
    left = 0.0
    for name, colour in colours.items():
        share = runs.length_of[name] / runs.total_nm
        top.barh(0, share, left=left, color=colour, label=f"{name} {share:.1%}", edgecolor="white", linewidth=0.5)
        left += share
    top.set(yticks=[], xlim=(0, 1), xlabel="share of ground-truth cable")
    top.legend(ncols=4, frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    shown = _one_per_rank(sites)[:40]
    for name, colour in of_kind.items():
        at = [row["rank"] for row in shown if row["kind"] == name]
        gain = [row["gain_nm"] for row in shown if row["kind"] == name]
        bottom.bar(at, gain, color=colour, edgecolor="0.3", linewidth=0.3)
    patches = [Patch(facecolor=colour, edgecolor="0.3", linewidth=0.3, label=name) for name, colour in of_kind.items()]
    bottom.legend(handles=patches, frameon=False, fontsize=8)
    bottom.set(xlabel="error, most costly first", ylabel="run length\nrecovered (nm)")
    caption = (
        f"Above: what becomes of {runs.total_nm / 1e3:.1f} um of cable. Below: how much the expected run length of "
        f"{runs.erl_nm:.0f} nm (of {runs.gt_erl_nm:.0f} possible) would rise if this one error were put right."
    )
    return Figure.from_matplotlib(figure, caption)
