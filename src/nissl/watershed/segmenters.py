"""Segmenters of the two baselines: a trained network and volumes in, segment ids out, as from `FloodFill`.

`AffinityWatershed`: affinities, fragments by watershed, hierarchical agglomeration with waterz (Funke et al. 2019,
https://doi.org/10.1109/TPAMI.2018.2835450). `BoundaryWatershed`: insides, markers, watershed, nothing learned after
it (SegEM style, Berning et al. 2015). Both offer `sweep`: all thresholds for one prediction, to choose one on data that
are not the test's.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import numpy as np
from torch import nn

from nissl.flood_fill.canvas import Origin
from nissl.flood_fill.segmenter import Segmentation
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import triple
from nissl.watershed.fragments import distance_fragments, marker_fragments, without_small
from nissl.watershed.prediction import PRECISIONS, predict

log = logging.getLogger(__name__)

Sweep = dict[float, list[Segmentation]]

# Names of waterz' scores, all of which come compiled in its wheel. Quantiles are those of all affinities between two
# fragments ("false"); waterz' own default starts from the largest one of each pair.
SCORES = {
    "mean": "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
    **{
        f"quantile_{q}": f"OneMinus<HistogramQuantileAffinity<RegionGraphType, {q}, ScoreValue, 256, false>>"
        for q in (10, 25, 50, 75, 90)
    },
}


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Nothing reaches standard output meanwhile, from Python or beneath it; waterz reports every step there."""
    sys.stdout.flush()
    before = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        try:
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            os.dup2(before, 1)
            os.close(before)


def agglomerate(
    affinities: np.ndarray, fragments: np.ndarray, thresholds: Sequence[float], score: str
) -> list[np.ndarray]:
    """Fragments merged in the order of their score until it exceeds each threshold, one (Z, Y, X) array for each.

    Args:
        affinities: (3, Z, Y, X) float32 to the neighbour before in z, y, x.
        fragments: (Z, Y, X) uint64.
        thresholds: ascending, in 1 - affinity: 0 merges nothing, 1 everything that touches.
        score: a key of SCORES.
    """
    import waterz

    if list(thresholds) != sorted(thresholds):
        raise ValueError(f"thresholds must ascend, came {list(thresholds)}")
    if not fragments.any():  # nothing was found to be inside anything
        return [np.zeros(fragments.shape, np.uint64) for _ in thresholds]
    with _without_chatter():
        generator = waterz.agglomerate(
            np.ascontiguousarray(affinities[:3], np.float32),
            list(thresholds),
            fragments=fragments.astype(np.uint64, copy=True),
            scoring_function=SCORES[score],
            discretize_queue=256,
        )
        return [np.array(ids) for ids in generator]  # waterz writes all of them into one buffer


class _Watershed:
    """What both segmenters share: predictions, the frame of a sweep, and the form of the answer."""

    def __init__(
        self, threshold: float, min_segment_size: int, blank_below: float, margin: int, precision: str
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"segmenter.precision must be one of {list(PRECISIONS)}, came {precision!r}")
        for name, value in (("threshold", threshold), ("blank_below", blank_below)):
            if not 0 <= value <= 1:
                raise ValueError(f"segmenter {name} is a probability, came {value}")
        self.threshold, self.min_segment_size, self.blank_below = threshold, min_segment_size, blank_below
        self.margin, self.precision = margin, precision

    def segment(
        self, network: nn.Module, volumes: Sequence[AnnotatedVolume], max_moves: int | None = None
    ) -> list[Segmentation]:
        """Segment each volume at the configured threshold. There are no moves, so `max_moves` changes nothing."""
        return self.sweep(network, volumes, [self.threshold])[self.threshold]

    def sweep(self, network: nn.Module, volumes: Sequence[AnnotatedVolume], thresholds: Sequence[float]) -> Sweep:
        """Segment each volume at each of the ascending thresholds."""
        found: Sweep = {threshold: [] for threshold in thresholds}
        for volume in volumes:
            before = time.process_time()
            probabilities = predict(network, volume.network_image(), self.margin, self.precision)
            inside = probabilities[:3].mean(axis=0)
            predicted = time.process_time() - before
            for threshold, ids, num_fragments in self._ids(volume, probabilities, inside, thresholds):
                ids = without_small(np.where(inside >= self.blank_below, ids, 0), self.min_segment_size)
                counters = {"fragments": num_fragments, "moves": 0, "segments": int(ids.max())}
                log.info("segmented '%s' at %g: %s", volume.name, threshold, counters)
                found[threshold].append(self._result(volume, ids, counters, time.process_time() - before))
                before = time.process_time() - predicted  # each threshold is charged for the prediction
        return found

    def _ids(
        self, volume: AnnotatedVolume, probabilities: np.ndarray, inside: np.ndarray, thresholds: Sequence[float]
    ) -> list[tuple[float, np.ndarray, int]]:
        raise NotImplementedError

    @staticmethod
    def _result(volume: AnnotatedVolume, ids: np.ndarray, counters: dict[str, int], cpu_seconds: float) -> Segmentation:
        return Segmentation(
            ids=volume.native(ids),
            origins=_origins(ids),
            counters=counters,
            cpu_seconds=cpu_seconds,
            truncated=False,
        )


def _origins(ids: np.ndarray) -> dict[int, Origin]:
    """First voxel and size of each segment; no moves were needed."""
    segments, first, count = np.unique(ids, return_index=True, return_counts=True)
    starts = np.stack(np.unravel_index(first, ids.shape), axis=1)
    rows = zip(segments.tolist(), starts, count.tolist(), strict=True)
    return {segment: Origin(triple(start), 0, size) for segment, start, size in rows if segment}


class AffinityWatershed(_Watershed):
    """Affinities to segments.

    Args:
        threshold: agglomeration ends at this score, in 1 - affinity: 0 leaves the fragments, 1 merges all that touch.
        score: "mean" affinity between two fragments or one of its quantiles ("quantile_10", 25, 50, 75, 90).
        fragment_threshold: mean affinity above which a voxel is inside, for the fragments' seeds.
        min_seed_distance: voxels; smaller makes more fragments.
        min_segment_size: smaller segments are left blank, voxels at the network's resolution.
        blank_below: voxels of a lower mean affinity are left blank in the end; 0 assigns every voxel.
        margin: voxels of each block's faces that another block answers for.
        precision: of the network, "float32" or "bfloat16".
    """

    def __init__(
        self,
        threshold: float,
        score: str,
        fragment_threshold: float,
        min_seed_distance: int,
        min_segment_size: int,
        blank_below: float,
        margin: int,
        precision: str,
    ) -> None:
        super().__init__(threshold, min_segment_size, blank_below, margin, precision)
        if score not in SCORES:
            raise ValueError(f"segmenter.score must be one of {sorted(SCORES)}, came {score!r}")
        self.score, self.fragment_threshold, self.min_seed_distance = score, fragment_threshold, min_seed_distance

    def _ids(
        self, volume: AnnotatedVolume, probabilities: np.ndarray, inside: np.ndarray, thresholds: Sequence[float]
    ) -> list[tuple[float, np.ndarray, int]]:
        if len(probabilities) < 3:
            raise ValueError(
                f"affinities of three neighbours are needed; the network gives {len(probabilities)} map(s)"
            )
        z, y, x = np.multiply(volume.voxel_size_zyx_nm, volume.scale_zyx)
        fragments = distance_fragments(inside, self.fragment_threshold, self.min_seed_distance, (z, y, x))
        merged = agglomerate(probabilities, fragments, thresholds, self.score)
        return [(t, ids.astype(np.int64), int(fragments.max())) for t, ids in zip(thresholds, merged, strict=True)]


class BoundaryWatershed(_Watershed):
    """A map of insides to segments.

    Args:
        threshold: connected parts above this probability are the markers.
        min_marker_size: smaller parts are none, voxels at the network's resolution.
        min_segment_size: smaller segments are left blank, voxels at the network's resolution.
        blank_below: voxels of a lower probability are left blank in the end; 0 assigns every voxel.
        margin: voxels of each block's faces that another block answers for.
        precision: of the network, "float32" or "bfloat16".
    """

    def __init__(
        self,
        threshold: float,
        min_marker_size: int,
        min_segment_size: int,
        blank_below: float,
        margin: int,
        precision: str,
    ) -> None:
        super().__init__(threshold, min_segment_size, blank_below, margin, precision)
        self.min_marker_size = min_marker_size

    def _ids(
        self, volume: AnnotatedVolume, probabilities: np.ndarray, inside: np.ndarray, thresholds: Sequence[float]
    ) -> list[tuple[float, np.ndarray, int]]:
        found: list[tuple[float, np.ndarray, int]] = []
        for threshold in thresholds:
            ids = marker_fragments(inside, threshold, self.min_marker_size).astype(np.int64)
            found.append((threshold, ids, int(ids.max())))
        return found
