"""Which segments are one neuron: a verdict for each pair that was grown anew, and what the verdicts add up to.

The published rule accepts a pair if both runs agree and both bring both segments back without much taking back
(`published_rule`). A calibrated one gives the probability that a pair is one neuron, from a logistic regression over
the same scores, fitted on pairs whose truth skeletons tell (`fit_calibration`). Pairs are joined from the most certain
one down; a veto looks at the component that a pair would make and says why not. Every decision is kept with its reason.

Sources: google/ffn (inference/resegmentation_analysis.py) and the numbers of its manual for the rule; order,
calibration and vetoes are ours, since the open code has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, optimize

from nissl.flood_fill.decision_points import DecisionPoint
from nissl.flood_fill.resegmentation import PairScores

FEATURES = ("iou", "least_consistency", "mean_consistency", "least_deleted")
PENALTY = 1e-2  # of squared weights, per pair: with pairs that a line parts, the fit would not end


@dataclass(frozen=True)
class Rule:
    """When a pair is accepted.

    Attributes:
        min_iou, min_consistency, max_deleted: the published rule; deleted voxels of the better run.
        calibration: weights of FEATURES and a last constant; None: the published rule.
        min_probability: of a calibrated pair.
    """

    min_iou: float
    min_consistency: float
    max_deleted: float
    calibration: tuple[float, ...] | None = None
    min_probability: float = 0.5


@dataclass(frozen=True)
class Vetoes:
    """When a component may not come to be; None switches a veto off.

    Attributes:
        soma_radius_nm: a segment that holds a ball of this radius is a cell body, and no component may hold two.
        max_fragments: segments per component.
        max_caliber_ratio: between the radii of the two segments near their decision point.
        min_turn_degrees: between the directions in which the segments leave their decision point; 180 is straight on.
        crosses_mask: no pair whose decision point lies where moves are forbidden, as in a vessel or at a jump.
    """

    soma_radius_nm: float | None = None
    max_fragments: int | None = None
    max_caliber_ratio: float | None = None
    min_turn_degrees: float | None = None
    crosses_mask: bool = False


def consistencies(scores: PairScores) -> tuple[float, float, float, float]:
    return scores.first_by_first, scores.second_by_first, scores.first_by_second, scores.second_by_second


def published_rule(scores: PairScores, rule: Rule) -> bool:
    """IoU and all four consistencies above their limits, and little taken back in at least one run."""
    return (
        scores.iou > rule.min_iou
        and min(consistencies(scores)) > rule.min_consistency
        and min(scores.deleted_first, scores.deleted_second) < rule.max_deleted
    )


def features(scores: Sequence[PairScores]) -> np.ndarray:
    """(P, 4) values of FEATURES."""
    rows = [
        (s.iou, min(consistencies(s)), float(np.mean(consistencies(s))), min(s.deleted_first, s.deleted_second))
        for s in scores
    ]
    return np.asarray(rows, np.float64).reshape(-1, len(FEATURES))


def fit_calibration(scores: Sequence[PairScores], is_one: np.ndarray) -> tuple[float, ...]:
    """Weights of a logistic regression from scores to "one neuron".

    Args:
        is_one: (P,) bool, the truth of each pair; both answers must occur.
    """
    if len(scores) != len(is_one) or not 0 < np.sum(is_one) < len(is_one):
        raise ValueError(
            f"a calibration needs pairs of both kinds, came {int(np.sum(is_one))} of {len(is_one)} that are one neuron"
        )
    x = np.concatenate([features(scores), np.ones((len(scores), 1))], axis=1)
    sign = np.where(is_one, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        slope = -sign / (1 + np.exp(margin))
        cost = np.logaddexp(0, -margin).mean() + PENALTY * (w[:-1] ** 2).sum()
        return cost, x.T @ slope / len(x) + 2 * PENALTY * np.append(w[:-1], 0)

    return tuple(float(value) for value in optimize.minimize(loss, np.zeros(x.shape[1]), jac=True).x)


def merge_probability(scores: Sequence[PairScores], calibration: Sequence[float]) -> np.ndarray:
    """(P,) probability that each pair is one neuron."""
    weights = np.asarray(calibration)
    return np.asarray(1 / (1 + np.exp(-(features(scores) @ weights[:-1] + weights[-1]))))


def reliability(probability: np.ndarray, is_one: np.ndarray, num_bins: int = 10) -> list[dict[str, float]]:
    """Said against seen: for each bin of probability its mean, the share that is one neuron, and how many pairs."""
    bins = np.minimum((probability * num_bins).astype(int), num_bins - 1)
    return [
        {
            "said": float(probability[bins == i].mean()),
            "seen": float(np.mean(is_one[bins == i])),
            "pairs": int((bins == i).sum()),
        }
        for i in np.unique(bins)
    ]


def true_pairs(pairs: Sequence[tuple[int, int]], node_segment: np.ndarray, node_neuron: np.ndarray) -> np.ndarray:
    """What skeletons say of pairs of segments: 1 one neuron, 0 two, -1 unknown.

    A segment belongs to the neuron that holds most of its nodes, if that is at least 80 %; a merger belongs to none.

    Args:
        node_segment, node_neuron: (N,) segment under each node (0 = none), and its neuron.
    """
    neuron_of: dict[int, int] = {}
    for segment in np.unique(node_segment[node_segment > 0]):
        neurons, counts = np.unique(node_neuron[node_segment == segment], return_counts=True)
        if counts.max() >= 0.8 * counts.sum():
            neuron_of[int(segment)] = int(neurons[counts.argmax()])
    return np.array(
        [int(neuron_of[a] == neuron_of[b]) if a in neuron_of and b in neuron_of else -1 for a, b in pairs],
        np.int64,
    )


def disputed_pairs(segmentation: np.ndarray, others: Sequence[np.ndarray], min_voxels: int) -> set[tuple[int, int]]:
    """Pairs of segments that one segment of another segmentation holds together, at least `min_voxels` of each.

    After a consensus these are the places where one flooding went on and the other did not: the first to be decided.
    """
    found: set[tuple[int, int]] = set()
    for other in others:
        both = (segmentation > 0) & (other > 0)
        packed = (other[both].astype(np.uint64) << np.uint64(32)) | segmentation[both].astype(np.uint64)
        pairs, counts = np.unique(packed, return_counts=True)
        pairs = pairs[counts >= min_voxels]
        holder, held = pairs >> np.uint64(32), pairs & np.uint64(2**32 - 1)
        for group in np.split(held, np.flatnonzero(np.diff(holder)) + 1):
            ids = group.tolist()
            found |= {(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]}
    return found


def agglomerate(
    segmentation: np.ndarray,
    voxel_size_zyx_nm: tuple[float, float, float],
    points: Sequence[DecisionPoint],
    scores: Sequence[PairScores],
    rule: Rule,
    vetoes: Vetoes,
    forbidden: np.ndarray | None = None,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Join accepted pairs, from the most certain one down, unless a veto speaks.

    Args:
        forbidden: (Z, Y, X) bool, for the veto `crosses_mask`.

    Returns:
        (Z, Y, X) segmentation in which each component has the smallest id of its segments, and one row per pair: ids,
        point, scores, certainty, verdict and reason.
    """
    if rule.calibration is None:
        certainty = np.array([min(s.iou, *consistencies(s)) for s in scores])
        accepted = [published_rule(s, rule) for s in scores]
    else:
        certainty = merge_probability(scores, rule.calibration)
        accepted = (certainty >= rule.min_probability).tolist()
    components = _Components(segmentation, voxel_size_zyx_nm, vetoes, forbidden)
    rows: list[dict[str, Any]] = []
    for i in np.argsort(-certainty, kind="stable"):
        point, reason = points[i], "" if accepted[i] else "scores"
        if accepted[i]:
            reason = components.join(point)
        z, y, x = point.point_zyx
        rows.append(
            {
                "first": point.first,
                "second": point.second,
                "z": z,
                "y": y,
                "x": x,
                "distance_nm": point.distance_nm,
                **dataclasses.asdict(scores[i]),
                "certainty": float(certainty[i]),
                "joined": reason == "",
                "reason": reason,
            }
        )
    return components.relabelled(), rows


class _Components:
    """Which segments are joined so far, and what their components hold."""

    def __init__(
        self,
        segmentation: np.ndarray,
        voxel_size: tuple[float, float, float],
        vetoes: Vetoes,
        forbidden: np.ndarray | None,
    ) -> None:
        self.segmentation, self.voxel_size, self.vetoes = segmentation, np.asarray(voxel_size), vetoes
        self.forbidden = forbidden
        self.parent = np.arange(int(segmentation.max(initial=0)) + 1)
        self.fragments = np.ones(len(self.parent), np.int64)
        self.somata = np.zeros(len(self.parent), np.int64)
        if vetoes.soma_radius_nm is not None:
            for segment, box in enumerate(ndimage.find_objects(segmentation), start=1):
                if box is not None:
                    own = np.pad(segmentation[box] == segment, 1)
                    depth = ndimage.distance_transform_edt(own, sampling=voxel_size).max()
                    self.somata[segment] = int(depth >= vetoes.soma_radius_nm)

    def root(self, segment: int) -> int:
        while self.parent[segment] != segment:
            segment = int(self.parent[segment])
        return segment

    def join(self, point: DecisionPoint) -> str:
        """Join the pair; "" if done or joined before, else the veto that speaks against it."""
        a, b = sorted((self.root(point.first), self.root(point.second)))
        if a == b:
            return ""
        reason = self._veto(a, b, point)
        if not reason:
            self.parent[b] = a
            self.fragments[a] += self.fragments[b]
            self.somata[a] += self.somata[b]
        return reason

    def _veto(self, a: int, b: int, point: DecisionPoint) -> str:
        limits = self.vetoes
        if limits.crosses_mask and self.forbidden is not None and self.forbidden[point.point_zyx]:
            return "crosses_mask"
        if self.somata[a] + self.somata[b] > 1:
            return "two_somata"
        if limits.max_fragments is not None and self.fragments[a] + self.fragments[b] > limits.max_fragments:
            return "max_fragments"
        if limits.max_caliber_ratio is None and limits.min_turn_degrees is None:
            return ""
        (radius_a, way_a), (radius_b, way_b) = (self._near(segment, point) for segment in (point.first, point.second))
        if limits.max_caliber_ratio is not None and max(radius_a, radius_b) > limits.max_caliber_ratio * min(
            radius_a, radius_b
        ):
            return "caliber_jump"
        if limits.min_turn_degrees is not None:
            cosine = way_a @ way_b / max(float(np.linalg.norm(way_a) * np.linalg.norm(way_b)), 1e-9)
            if np.degrees(np.arccos(np.clip(cosine, -1, 1))) < limits.min_turn_degrees:
                return "sharp_turn"
        return ""

    def _near(self, segment: int, point: DecisionPoint, reach_voxels: int = 24) -> tuple[float, np.ndarray]:
        """Largest radius (nm) of a segment within +-reach of the point, and the way from the point to its middle."""
        low = [max(p - reach_voxels, 0) for p in point.point_zyx]
        z, y, x = (slice(a, p + reach_voxels + 1) for a, p in zip(low, point.point_zyx, strict=True))
        own = self.segmentation[z, y, x] == segment
        if not own.any():
            return 0.0, np.zeros(3)
        radius = float(ndimage.distance_transform_edt(np.pad(own, 1), sampling=tuple(self.voxel_size)).max())
        middle = np.argwhere(own).mean(axis=0) + low - point.point_zyx
        return radius, middle * self.voxel_size

    def relabelled(self) -> np.ndarray:
        return np.array([self.root(i) for i in range(len(self.parent))], np.int32)[self.segmentation]
