"""Growing two neighbouring segments anew from their own middles: if they are one neuron, each grows over the other.

Around a decision point the two segments are cleared, all others stay as obstacles, and each is flooded again by itself.
What the two runs have in common, and how much of the originals they bring back, are the scores that agglomeration
decides on. Source: google/ffn (inference/resegmentation.py, resegmentation_analysis.py). Lengths are in voxels of the
network's resolution, zyx.

Differences: the runs of many points share batches; near a face of the volume the subvolume is cut off instead of
rejected, as long as a field of view around the point fits; and a segment with no voxel that a field of view fits around
scores 0 instead of failing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from nissl.flood_fill import executor
from nissl.flood_fill.canvas import Canvas, Masks, Thresholds
from nissl.flood_fill.decision_points import DecisionPoint
from nissl.flood_fill.movement import Triple, logit
from nissl.volumes.boxes import Box, triple

NUM_TOGETHER = 16  # pairs whose subvolumes are held at once


@dataclass(frozen=True)
class Resegmentation:
    """How segments are grown anew.

    Attributes:
        radius_zyx: half the subvolume around a point.
        analysis_radius_zyx: half the box around the point in which scores are taken.
        exclusion_radius_zyx: no second start this near to one that failed.
        max_tries: starts in one segment.
        recovered: a start is good if it brings back this share of its own segment in the analysis box.
        terminate_early: grow the smaller segment first, and the larger one only if the smaller comes back and covers
            it, by the share `recovered` each. Verdicts of a rule that asks for as much stay the same, scores of refused
            pairs do not, so calibrate with it off. Most pairs are refused by their cheaper half.
    """

    radius_zyx: Triple
    analysis_radius_zyx: Triple
    exclusion_radius_zyx: Triple
    max_tries: int
    recovered: float
    terminate_early: bool = False


@dataclass(frozen=True)
class PairScores:
    """What came of one pair; shares are of voxels in the analysis box.

    Attributes:
        iou: intersection over union of the two runs.
        first_by_first: share of the first segment that the run from its own middle brings back; and so on.
        deleted_first: voxels that the first run took back again, per voxel it ended with.
        moves: network calls it took.
    """

    iou: float
    first_by_first: float
    second_by_first: float
    first_by_second: float
    second_by_second: float
    deleted_first: float
    deleted_second: float
    moves: int


@dataclass(frozen=True)
class Surroundings:
    """What every pair shares: (Z, Y, X) image and segmentation, the network's geometry, thresholds."""

    image: Tensor
    segmentation: np.ndarray
    voxel_size_zyx_nm: tuple[float, float, float]
    fov_zyx: Triple
    deltas_zyx: Triple
    thresholds: Thresholds
    forbidden: np.ndarray | None = None


def resegment(
    points: Sequence[DecisionPoint],
    around: Surroundings,
    network: executor.Network,
    settings: Resegmentation,
    batch_size: int,
    finished: Callable[[int, PairScores], None] | None = None,
) -> list[PairScores]:
    """Scores of each pair.

    Args:
        finished: told the number and the scores of each point as soon as they are known.
    """
    found: list[PairScores] = []
    for first in range(0, len(points), NUM_TOGETHER):
        pairs = [_Pair(point, around, settings) for point in points[first : first + NUM_TOGETHER]]
        if settings.terminate_early:
            _grow([pair.smaller_run for pair in pairs], network, batch_size)
            _grow([pair.other_run for pair in pairs if pair.is_open], network, batch_size)
        else:
            _grow([run for pair in pairs for run in pair.runs], network, batch_size)
        for pair in pairs:
            found.append(pair.scores())
            if finished is not None:
                finished(len(found) - 1, found[-1])
    return found


def _grow(runs: Sequence[_Run], network: executor.Network, batch_size: int) -> None:
    """Flood every run from its starts until it is good or has none left."""
    while tried := [(run, canvas) for run in runs if (canvas := run.next_canvas()) is not None]:
        executor.run([canvas for _, canvas in tried], network, batch_size)
        for run, canvas in tried:
            run.take(canvas)


def subvolume(point_zyx: Triple, radius_zyx: Triple, shape_zyx: Sequence[int]) -> Box:
    """The box of +-radius around a point, as far as the volume goes."""
    return Box(
        triple([max(p - r, 0) for p, r in zip(point_zyx, radius_zyx, strict=True)]),
        triple([min(p + r + 1, n) for p, r, n in zip(point_zyx, radius_zyx, shape_zyx, strict=True)]),
    )


class _Pair:
    """Two runs in one subvolume."""

    def __init__(self, point: DecisionPoint, around: Surroundings, settings: Resegmentation) -> None:
        shape = around.segmentation.shape
        box = subvolume(point.point_zyx, settings.radius_zyx, shape)
        wanted = subvolume(point.point_zyx, settings.analysis_radius_zyx, shape)
        self.analysis = tuple(
            slice(max(low - start, 0), high - start)
            for low, high, start in zip(wanted.start_zyx, wanted.stop_zyx, box.start_zyx, strict=True)
        )
        before = around.segmentation[box.slices]
        owns = [before == point.first, before == point.second]
        obstacles = torch.from_numpy(np.where(owns[0] | owns[1], 0, before).astype(np.int32))
        forbidden = None if around.forbidden is None else torch.from_numpy(around.forbidden[box.slices].copy())
        # A run must end where it likes, and begin in the thinnest segment.
        thresholds = dataclasses.replace(around.thresholds, min_segment_size=0, min_boundary_dist_zyx=(0, 0, 0))

        def canvas(start: Triple) -> Canvas:
            return Canvas(
                around.image[box.slices],
                around.fov_zyx,
                around.deltas_zyx,
                thresholds,
                np.array([start]),
                masks=Masks(moves=forbidden),
                existing=obstacles,
                keep_history=True,
            )

        self.runs = [_Run(own, self.analysis, canvas, around, settings) for own in owns]

        in_reach = [int(own.sum()) for own in owns]
        smaller = int(in_reach[1] < in_reach[0])
        self.smaller_run, self.other_run = self.runs[smaller], self.runs[1 - smaller]
        self.recovered = settings.recovered

    @property
    def is_open(self) -> bool:
        """Whether the smaller segment's run brought it back and covers the other segment as well."""
        held = self.smaller_run.held()
        owns = (run.own[self.analysis] for run in (self.smaller_run, self.other_run))
        return all(_share(held & own, own) >= self.recovered for own in owns)

    def scores(self) -> PairScores:
        first, second = (run.held() for run in self.runs)
        own_first, own_second = (run.own[self.analysis] for run in self.runs)
        return PairScores(
            _share(first & second, first | second),
            _share(first & own_first, own_first),
            _share(first & own_second, own_second),
            _share(second & own_first, own_first),
            _share(second & own_second, own_second),
            self.runs[0].deleted / max(int(first.sum()), 1),
            self.runs[1].deleted / max(int(second.sum()), 1),
            sum(run.moves for run in self.runs),
        )


class _Run:
    """One segment of a pair, flooded from one start after the other until one brings it back."""

    def __init__(
        self,
        own: np.ndarray,
        analysis: tuple[slice, ...],
        canvas: Callable[[Triple], Canvas],
        around: Surroundings,
        settings: Resegmentation,
    ) -> None:
        self.own, self.analysis, self.canvas, self.settings = own, analysis, canvas, settings
        self.segment_logit = logit(around.thresholds.segment)
        # Starts are tried from the voxel farthest inside outwards. Outside of the segment counts as outside here too.
        depth = ndimage.distance_transform_edt(np.pad(own, 1), sampling=around.voxel_size_zyx_nm)[1:-1, 1:-1, 1:-1]
        fits = tuple(slice(fov // 2, size - fov // 2) for fov, size in zip(around.fov_zyx, own.shape, strict=True))
        self.depth = np.zeros_like(depth)
        self.depth[fits] = depth[fits]
        self.tries = self.moves = self.deleted = 0
        self.logits: Tensor | None = None

    def next_canvas(self) -> Canvas | None:
        """A canvas with the next start; None when there is none left or the last one was good."""
        own = self.own[self.analysis]
        good = self.logits is not None and _share(self.held() & own, own) >= self.settings.recovered
        if good or self.tries == self.settings.max_tries or self.depth.size == 0 or self.depth.max() <= 0:
            return None
        start = triple(np.unravel_index(int(self.depth.argmax()), self.depth.shape))  # type: ignore[arg-type]
        z, y, x = (
            slice(max(p - r, 0), p + r + 1) for p, r in zip(start, self.settings.exclusion_radius_zyx, strict=True)
        )
        self.depth[z, y, x] = 0
        self.tries += 1
        return self.canvas(start)

    def take(self, canvas: Canvas) -> None:
        """Remember what a flooding gave."""
        self.moves += canvas.counters["moves"]
        self.logits = canvas.last_logits
        self.deleted = sum(
            count
            for position, count in canvas.history
            if all(part.start <= p < part.stop for part, p in zip(self.analysis, position, strict=True))
        )

    def held(self) -> np.ndarray:
        """Which voxels of the analysis box the last flooding ended with."""
        if self.logits is None:
            return np.zeros(self.own[self.analysis].shape, bool)
        return (self.logits[self.analysis] >= self.segment_logit).cpu().numpy()


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    """Voxels of `part` per voxel of `whole`; 0 if there is none."""
    return float(part.sum() / max(int(whole.sum()), 1))
