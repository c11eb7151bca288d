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
        nucleus_class: of a tissue map; no component may hold two nuclei, connected parts of at least
            `min_nucleus_voxels` that belong to the segment with most of their voxels.
        axon_class, dendrite_class: of a tissue map; a side of which at least `min_type_share` of the voxels that are
            either is axon is not joined with one of which as much is dendrite.
        max_loop_nm: a pair that is joined already by way of others is refused as `self_touch` if the way around, from
            decision point to decision point, is no longer than this: a neurite that touches itself. The segmentation
            stays as it is; the decision says that this contact is none.
    """

    soma_radius_nm: float | None = None
    max_fragments: int | None = None
    max_caliber_ratio: float | None = None
    min_turn_degrees: float | None = None
    crosses_mask: bool = False
    nucleus_class: int | None = None
    min_nucleus_voxels: int = 1
    axon_class: int | None = None
    dendrite_class: int | None = None
    min_type_share: float = 0.8
    max_loop_nm: float | None = None

    @property
    def need_tissue(self) -> bool:
        return self.nucleus_class is not None or self.axon_class is not None


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
    tissue: np.ndarray | None = None,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Join accepted pairs, from the most certain one down, unless a veto speaks.

    Args:
        forbidden: (Z, Y, X) bool, for the veto `crosses_mask`.
        tissue: (Z, Y, X) integer classes, for the vetoes `two_nuclei` and `axon_dendrite`.

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
    components = _Components(segmentation, voxel_size_zyx_nm, vetoes, forbidden, tissue)
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
        tissue: np.ndarray | None,
    ) -> None:
        if vetoes.need_tissue and tissue is None:
            raise ValueError("vetoes by nuclei, axons or dendrites need a tissue map, and none came")
        self.segmentation, self.voxel_size, self.vetoes = segmentation, np.asarray(voxel_size), vetoes
        self.forbidden = forbidden
        self.contacts: dict[int, list[DecisionPoint]] = {}  # joined pairs of each segment
        self.parent = np.arange(int(segmentation.max(initial=0)) + 1)
        self.fragments = np.ones(len(self.parent), np.int64)
        self.somata = np.zeros(len(self.parent), np.int64)
        if vetoes.soma_radius_nm is not None:
            for segment, box in enumerate(ndimage.find_objects(segmentation), start=1):
                if box is not None:
                    own = np.pad(segmentation[box] == segment, 1)
                    depth = ndimage.distance_transform_edt(own, sampling=voxel_size).max()
                    self.somata[segment] = int(depth >= vetoes.soma_radius_nm)
        self.nuclei = np.zeros(len(self.parent), np.int64)
        if vetoes.nucleus_class is not None and tissue is not None:
            self.nuclei = _nuclei(segmentation, tissue == vetoes.nucleus_class, vetoes.min_nucleus_voxels)
        self.axon, self.dendrite = (
            np.zeros(len(self.parent), np.int64)
            if kind is None or tissue is None
            else np.bincount(segmentation[tissue == kind], minlength=len(self.parent))
            for kind in (vetoes.axon_class, vetoes.dendrite_class)
        )

    def root(self, segment: int) -> int:
        while self.parent[segment] != segment:
            segment = int(self.parent[segment])
        return segment

    def join(self, point: DecisionPoint) -> str:
        """Join the pair; "" if done or joined before, else the veto that speaks against it."""
        a, b = sorted((self.root(point.first), self.root(point.second)))
        if a == b:
            limit = self.vetoes.max_loop_nm
            return "self_touch" if limit is not None and self._way_around(point) <= limit else ""
        reason = self._veto(a, b, point)
        if not reason:
            self.parent[b] = a
            for held in (self.fragments, self.somata, self.nuclei, self.axon, self.dendrite):
                held[a] += held[b]
            for segment in (point.first, point.second):
                self.contacts.setdefault(segment, []).append(point)
        return reason

    def _way_around(self, point: DecisionPoint) -> float:
        """Length of the loop that a pair would close, nm: over the decision points joined so far (a tree), and back."""
        goal, seen = point.second, {point.first}
        ways: list[tuple[int, DecisionPoint, float]] = [(point.first, point, 0.0)]  # segment, entered at, length so far
        while ways:
            segment, entry, length = ways.pop()
            if segment == goal:
                return length + self._distance(entry, point)
            for contact in self.contacts.get(segment, []):
                other = contact.second if contact.first == segment else contact.first
                if other not in seen:
                    seen.add(other)
                    ways.append((other, contact, length + self._distance(entry, contact)))
        return float("inf")

    def _distance(self, one: DecisionPoint, other: DecisionPoint) -> float:
        return float(np.linalg.norm(np.subtract(one.point_zyx, other.point_zyx) * self.voxel_size))

    def _types_contradict(self, a: int, b: int) -> bool:
        known = [self.axon[side] + self.dendrite[side] for side in (a, b)]
        if not all(known):
            return False
        shares = [self.axon[side] / count for side, count in zip((a, b), known, strict=True)]
        limit = self.vetoes.min_type_share
        return bool(max(shares) >= limit and min(shares) <= 1 - limit)

    def _veto(self, a: int, b: int, point: DecisionPoint) -> str:
        limits = self.vetoes
        if limits.crosses_mask and self.forbidden is not None and self.forbidden[point.point_zyx]:
            return "crosses_mask"
        if self.somata[a] + self.somata[b] > 1:
            return "two_somata"
        if self.nuclei[a] + self.nuclei[b] > 1:
            return "two_nuclei"
        if self._types_contradict(a, b):
            return "axon_dendrite"
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


def _nuclei(segmentation: np.ndarray, is_nucleus: np.ndarray, min_voxels: int) -> np.ndarray:
    """How many nuclei each segment holds, (ids + 1,); a nucleus belongs to the segment with most of its voxels."""
    counts = np.zeros(int(segmentation.max(initial=0)) + 1, np.int64)
    parts, _ = ndimage.label(is_nucleus)
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = segmentation[box][parts[box] == part]
        owners = np.bincount(inside[inside > 0])
        if len(inside) >= min_voxels and len(owners):
            counts[owners.argmax()] += 1
    return counts
