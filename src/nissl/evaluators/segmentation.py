"""How well a segmentation of a volume agrees with the true labels: variation of information, adapted Rand, coverage.

All scores come from one sparse table of how many voxels each pair (true object, segment) shares. Voxels without a true
label (0) are ignored. Tables of blocks add up (`Overlaps.sum`), so a volume need never be in memory whole.

**Voxels that the segmentation leaves unassigned** (segment 0) need a convention. In `voi/*` they form one segment of
their own, as scikit-image counts them, so that leaving everything blank scores like merging everything: an answer
cannot look good by being empty. `voi_assigned/*` looks only at voxels that both assign, and says nothing without
`coverage`. In `arand/*` every unassigned voxel is a segment of one voxel, as in the SNEMI and CREMI challenges.

Beside the trained network stand three answers that it has to beat on `voi/sum`: the same network with its initial
weights (`voi_untrained`), every voxel unassigned (`voi_all_background`), and one segment over all (`voi_one_segment`;
equal to the former by the convention above).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nissl.evaluators.object_rendering import objects_figure
from nissl.evaluators.result import Result
from nissl.evaluators.seed_figures import rejected_figure, rejected_rows
from nissl.evaluators.segmentation_figures import sections_figure
from nissl.evaluators.stored_segmentation import Segmenter, write_segments
from nissl.volumes.annotated import AnnotatedVolume


@dataclass(frozen=True)
class Overlaps:
    """Sparse contingency table.

    Attributes:
        truth: (P,) true object of each pair, never 0.
        segment: (P,) segment of each pair; 0 = unassigned.
        count: (P,) voxels they share.
        volume: (P,) which volume the pair is from; ids of different volumes are different things.
    """

    truth: np.ndarray
    segment: np.ndarray
    count: np.ndarray
    volume: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, segmentation: np.ndarray) -> Overlaps:
        """The table of one volume, from two integer arrays of one shape."""
        if truth.shape != segmentation.shape:
            raise ValueError(f"true labels {truth.shape} and segmentation {segmentation.shape} differ in shape")
        known = truth > 0
        if not known.any():
            raise ValueError("there is no true label above 0, so nothing can be compared")
        packed = (truth[known].astype(np.uint64) << np.uint64(32)) | segmentation[known].astype(np.uint64)
        pairs, count = np.unique(packed, return_counts=True)
        low = np.uint64(2**32 - 1)
        return cls(
            (pairs >> np.uint64(32)).astype(np.int64), (pairs & low).astype(np.int64), count, np.zeros(len(pairs), int)
        )

    @classmethod
    def concatenate(cls, tables: Sequence[Overlaps]) -> Overlaps:
        """One table of several volumes."""
        return cls(
            np.concatenate([table.truth for table in tables]),
            np.concatenate([table.segment for table in tables]),
            np.concatenate([table.count for table in tables]),
            np.repeat(np.arange(len(tables)), [len(table.count) for table in tables]),
        )

    @classmethod
    def sum(cls, tables: Sequence[Overlaps]) -> Overlaps:
        """One table of several blocks of the same volumes: voxels of equal pairs add up."""
        stacked = np.concatenate([np.stack([t.volume, t.truth, t.segment], 1) for t in tables])
        pairs, at = np.unique(stacked, axis=0, return_inverse=True)
        count = np.zeros(len(pairs), np.int64)
        np.add.at(count, at.ravel(), np.concatenate([table.count for table in tables]))
        return cls(pairs[:, 1], pairs[:, 2], count, pairs[:, 0])

    def select(self, pairs: np.ndarray) -> Overlaps:
        return Overlaps(self.truth[pairs], self.segment[pairs], self.count[pairs], self.volume[pairs])


def variation_of_information(overlaps: Overlaps) -> tuple[float, float]:
    """Split and merge error in bits: H(segment | truth) and H(truth | segment); 0 is perfect.

    NaN if the table is empty.
    """
    if len(overlaps.count) == 0:
        return float("nan"), float("nan")
    split, merge = (float(bits.sum()) for bits in _bits(overlaps))
    return max(split, 0.0), max(merge, 0.0)


def adapted_rand(overlaps: Overlaps) -> tuple[float, float, float]:
    """Error, precision and recall of "these two voxels belong together"; error = 1 - F1, 0 is perfect.

    Precision falls with mergers, recall with splits (scikit-image gives the two names the other way round). Pairs of a
    voxel with itself do not count, and an unassigned voxel belongs with no other. Where nothing is joined, nothing is
    joined wrongly: precision 1. NaN if no two voxels truly belong together.
    """
    assigned = overlaps.segment > 0
    held = overlaps.select(assigned)
    together = _pairs(held.count)
    joined = _pairs(_sums(held.segment, held.volume, held.count))
    true = _pairs(_sums(overlaps.truth, overlaps.volume, overlaps.count))
    if true == 0:
        return float("nan"), float("nan"), float("nan")
    precision, recall = together / joined if joined else 1.0, together / true
    error = 1 - 2 * precision * recall / (precision + recall) if together else 1.0
    return error, precision, recall


def object_rows(overlaps: Overlaps, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per true object, that which costs most bits first: what covers it, and its part of the VOI.

    Args:
        overlaps: of all volumes.
        names: of the volumes.
    """
    key = np.stack([overlaps.volume, overlaps.truth], 1)
    objects, row = np.unique(key, axis=0, return_inverse=True)
    row = row.ravel()
    num = len(objects)
    size, held = np.bincount(row, overlaps.count, num), overlaps.segment > 0
    covered = np.bincount(row, overlaps.count * held, num)
    split, merge = _bits(overlaps)
    best = np.lexsort([-overlaps.count, ~held, row])  # per object, its largest segment first
    first = best[np.unique(row[best], return_index=True)[1]]
    parts = np.bincount(row, held, num).astype(int)
    split_bits, merge_bits = np.bincount(row, split, num), np.bincount(row, merge, num)
    return [
        {
            "volume": names[objects[i, 0]],
            "object": int(objects[i, 1]),
            "voxels": int(size[i]),
            "covered": float(covered[i] / size[i]),
            "segments": int(parts[i]),
            "largest_segment": int(overlaps.segment[first[i]]),
            "largest_share": float(overlaps.count[first[i]] / size[i]) if parts[i] else 0.0,
            "voi_split_bits": float(split_bits[i]),
            "voi_merge_bits": float(merge_bits[i]),
        }
        for i in np.argsort(-(split_bits + merge_bits), kind="stable")
    ]


def segment_rows(overlaps: Overlaps, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per segment, the one that merges most first: labelled voxels, objects in it, share of its main object."""
    held = overlaps.select(overlaps.segment > 0)
    segments, row = np.unique(np.stack([held.volume, held.segment], 1), axis=0, return_inverse=True)
    row = row.ravel()
    num = len(segments)
    size, objects = np.bincount(row, held.count, num), np.bincount(row, minlength=num)
    best = np.lexsort([-held.count, row])
    first = best[np.unique(row[best], return_index=True)[1]]
    foreign = size - held.count[first]
    return [
        {
            "volume": names[segments[i, 0]],
            "segment": int(segments[i, 1]),
            "voxels": int(size[i]),
            "objects": int(objects[i]),
            "main_object": int(held.truth[first[i]]),
            "purity": float(held.count[first[i]] / size[i]),
            "foreign_voxels": int(foreign[i]),
        }
        for i in np.argsort(-foreign, kind="stable")
    ]


def voi_interval(overlaps: Overlaps, num_samples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the VOI sum when true objects are drawn with replacement.

    VOI is a mean over voxels of log-ratios; those are kept, and averaged over the voxels of the objects drawn.
    """
    split, merge = _bits(overlaps)
    _, row = np.unique(np.stack([overlaps.volume, overlaps.truth], 1), axis=0, return_inverse=True)
    row = row.ravel()
    bits, size = np.bincount(row, split + merge), np.bincount(row, overlaps.count) / overlaps.count.sum()
    times = np.random.default_rng(seed).multinomial(len(size), np.full(len(size), 1 / len(size)), num_samples)
    low, high = np.quantile((times @ bits) / (times @ size), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _bits(overlaps: Overlaps) -> tuple[np.ndarray, np.ndarray]:
    """What each pair adds to the split and to the merge error, (P,) bits."""
    count = overlaps.count / max(overlaps.count.sum(), 1)
    truth = _totals(overlaps.truth, overlaps.volume, count)
    segment = _totals(overlaps.segment, overlaps.volume, count)
    return -count * np.log2(count / truth), -count * np.log2(count / segment)


def _pairs(sizes: np.ndarray) -> float:
    """Twice the number of pairs of different voxels inside groups of these sizes."""
    sizes = sizes.astype(np.float64)
    return float(np.sum(sizes * (sizes - 1)))


def _sums(ids: np.ndarray, volume: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The sum of `count` of each id of each volume."""
    if len(ids) == 0:
        return np.zeros(0)
    _, index = np.unique(np.stack([volume, ids]), axis=1, return_inverse=True)
    return np.bincount(index.ravel(), weights=count)


def _totals(ids: np.ndarray, volume: np.ndarray, count: np.ndarray) -> np.ndarray:
    """For each pair, the sum of `count` over all pairs with its id in its volume."""
    if len(ids) == 0:
        return np.zeros(0)
    _, index = np.unique(np.stack([volume, ids]), axis=1, return_inverse=True)
    return np.bincount(index.ravel(), weights=count)[index.ravel()]


def scores(overlaps: Overlaps) -> dict[str, float]:
    """Every score of one segmentation, under its full metric name."""
    split, merge = variation_of_information(overlaps)
    split_assigned, merge_assigned = variation_of_information(overlaps.select(overlaps.segment > 0))
    error, precision, recall = adapted_rand(overlaps)
    return {
        "voi/split": split,
        "voi/merge": merge,
        "voi/sum": split + merge,
        "voi_assigned/split": split_assigned,
        "voi_assigned/merge": merge_assigned,
        "voi_assigned/sum": split_assigned + merge_assigned,
        "arand/error": error,
        "arand/precision": precision,
        "arand/recall": recall,
        "coverage": float(overlaps.count[overlaps.segment > 0].sum() / overlaps.count.sum()),
    }


def voi_where_both(
    truths: Sequence[np.ndarray], ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> tuple[float, float, float]:
    """VOI sum of ours and of theirs on the labelled voxels that both assign, and the share of those voxels.

    Neither can look better there by leaving out what is hard. NaN if there is no such voxel.
    """
    shared = [np.where((a > 0) & (b > 0), truth, 0) for truth, a, b in zip(truths, ours, theirs, strict=True)]
    if not any(part.any() for part in shared):
        return float("nan"), float("nan"), 0.0
    known = [i for i, part in enumerate(shared) if part.any()]
    sums = [
        sum(variation_of_information(_overlaps([shared[i] for i in known], [found[i] for i in known])))
        for found in (ours, theirs)
    ]
    share = sum(int((part > 0).sum()) for part in shared) / sum(int((truth > 0).sum()) for truth in truths)
    return sums[0], sums[1], share


class SegmentationScores:
    """Floods the volumes of one split and compares the segments with the true labels.

    Args:
        segmenter: how a volume is segmented.
        split: "val" or "test".
        untrained_max_moves: the untrained network is flooded for at most this many moves per volume; 0 leaves it out.
        bootstrap_samples, bootstrap_seed: of the interval of `voi/sum`, over true objects.
        objects_drawn: true objects in the three-dimensional picture, largest first; 0 leaves it out.
        segments_file: HDF5 file to be written with the segments of the first volume, see `write_segments`; None: none.
    """

    metrics = {
        "voi/split": "min",
        "voi/merge": "min",
        "voi/sum": "min",
        "voi/sum_low": None,
        "voi/sum_high": None,
        "voi_assigned/split": "min",
        "voi_assigned/merge": "min",
        "voi_assigned/sum": "min",
        "arand/error": "min",
        "arand/precision": "max",
        "arand/recall": "max",
        "coverage": "max",
        "voi_untrained/sum": None,
        "coverage_untrained": None,
        "voi_all_background/sum": None,
        "voi_one_segment/sum": None,
        "flood/segments": None,
        "flood/moves": None,
    }

    def __init__(
        self,
        segmenter: Segmenter,
        split: str,
        untrained_max_moves: int,
        bootstrap_samples: int,
        bootstrap_seed: int,
        objects_drawn: int,
        segments_file: str | None = None,
    ) -> None:
        if split not in ("val", "test"):
            raise ValueError(f"split must be val or test, came {split!r}")
        if bootstrap_samples < 1:
            raise ValueError(f"bootstrap_samples must be at least 1, came {bootstrap_samples}")
        if segments_file is not None and not Path(segments_file).absolute().parent.is_dir():
            raise ValueError(f"segments_file={segments_file}: there is no such folder. Make it first.")
        self.segmenter, self.split, self.untrained_max_moves = segmenter, split, untrained_max_moves
        self.bootstrap_samples, self.bootstrap_seed = bootstrap_samples, bootstrap_seed
        self.objects_drawn, self.segments_file = objects_drawn, segments_file

    def __call__(self, task: Any, data: Any) -> Result:
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        truths = [_labels(volume) for volume in volumes]
        segmentations = self.segmenter.segment(task.model, volumes)
        if self.segments_file is not None:
            write_segments(self.segments_file, segmentations[0], volumes[0])
        overlaps = _overlaps(truths, [segmentation.ids for segmentation in segmentations])
        scalars = scores(overlaps)
        interval = voi_interval(overlaps, self.bootstrap_samples, self.bootstrap_seed)
        scalars["voi/sum_low"], scalars["voi/sum_high"] = interval
        sizes = _sums(overlaps.truth, overlaps.volume, overlaps.count)
        everything_merged = -float(np.sum(sizes * np.log2(sizes / sizes.sum())) / sizes.sum())
        scalars["voi_all_background/sum"] = scalars["voi_one_segment/sum"] = everything_merged
        held = overlaps.segment > 0
        scalars["flood/segments"] = float(
            len(_sums(overlaps.segment[held], overlaps.volume[held], overlaps.count[held]))
        )
        scalars["flood/moves"] = float(sum(segmentation.counters["moves"] for segmentation in segmentations))
        notes = [
            f"{volume.name}: {segmentation.counters['moves']} moves, {len(segmentation.origins)} segments, "
            f"{segmentation.cpu_seconds:.1f} CPU-seconds, {1e6 * segmentation.cpu_seconds / volume.raw.size:.2f} "
            "microseconds a voxel" + (", ended by max_moves" if segmentation.truncated else "")
            for volume, segmentation in zip(volumes, segmentations, strict=True)
        ]
        if self.untrained_max_moves:
            untrained = self.segmenter.segment(task.model.untrained(), volumes, self.untrained_max_moves)
            base = scores(_overlaps(truths, [segmentation.ids for segmentation in untrained]))
            scalars["voi_untrained/sum"], scalars["coverage_untrained"] = base["voi/sum"], base["coverage"]
            if any(segmentation.truncated for segmentation in untrained):
                notes.append(f"the untrained network was stopped after {self.untrained_max_moves} moves per volume")
        counters = [
            {"volume": volume.name, "counter": name, "value": value}
            for volume, segmentation in zip(volumes, segmentations, strict=True)
            for name, value in segmentation.counters.items()
        ]
        names = [volume.name for volume in volumes]
        tables: dict[str, list[dict[str, Any]]] = {
            "counters": counters,
            "objects": object_rows(overlaps, names),
            "segments": segment_rows(overlaps, names),
        }
        figures = {"overlay": sections_figure(volumes[0], truths[0], segmentations[0].ids)}
        rejected = [segmentation.rejected for segmentation in segmentations]
        if any(rejected):
            tables["rejected_seeds"] = rejected_rows(rejected, volumes)
            figures["rejected_seeds"] = rejected_figure(volumes[0], segmentations[0].ids, rejected[0])
        if self.objects_drawn:
            figures["objects"] = objects_figure(volumes[0], truths[0], segmentations[0].ids, self.objects_drawn)
        return Result(scalars, figures, tables, notes=notes)


def _labels(volume: AnnotatedVolume) -> np.ndarray:
    if volume.labels is None:
        raise ValueError(f"volume '{volume.name}' has no true labels to compare with. Set dataset.labels.")
    return volume.labels


def _overlaps(truths: Sequence[np.ndarray], segmentations: Sequence[np.ndarray]) -> Overlaps:
    return Overlaps.concatenate([Overlaps.of(t, s) for t, s in zip(truths, segmentations, strict=True)])
