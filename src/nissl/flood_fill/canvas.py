"""The state of one volume while it is segmented, object after object, move after move.

A canvas never calls the network. It says where the next move is (`next_position`), hands out what the network must see
there (`view`) and takes the answer (`apply`), so that an executor may run many canvases in one batch, and a canvas can
be stopped between any two moves. Source: Januszewski et al. 2018 and google/ffn (inference/inference.py).

Differences: state is a plain record of tensors and lists, the outcome of every seed is counted and kept by reason, and
moves can be saved (`Moves`), which the reference does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nissl.flood_fill.frontier import Frontier
from nissl.flood_fill.movement import Triple, face_maxima, freeze_background, logit, window
from nissl.flood_fill.probability import quantise

REJECTED = -1  # in the segmentation: a seed was tried here in vain
DELETED_FROM = logit(0.8)  # a voxel this certain that falls below 0.5 counts as deleted; google/ffn


@dataclass(frozen=True)
class Thresholds:
    """When an object grows, where it ends and whether it is kept; probabilities unless noted.

    Attributes:
        init_activation: the first voxel of an object.
        pad_value: voxels not visited yet; must be the one that the network was trained with.
        move: a position is moved to if its probability reaches this; must be the one of training.
        segment: voxels that belong to the object in the end.
        min_segment_size: smaller objects are dropped (voxels).
        min_boundary_dist_zyx: a seed this near to an existing segment is dropped (voxels).
        disconnected_seed: share of the field of view from which on background stays background; negative never.
    """

    init_activation: float
    pad_value: float
    move: float
    segment: float
    min_segment_size: int
    min_boundary_dist_zyx: Triple
    disconnected_seed: float


@dataclass(frozen=True)
class Moves:
    """Which moves an object makes, and in which order.

    Attributes:
        order: "first_found" (as published) or "strongest_first".
        skip_visited: a position is passed over if this share of its field of view has been visited; None: never.
        saturated: where all faces reach this probability, the next moves lie `long_step` deltas away; None: never.
        long_step: in deltas, as far as the field of view reaches.
    """

    order: str = "first_found"
    skip_visited: float | None = None
    saturated: float | None = None
    long_step: float = 1.5


@dataclass(frozen=True)
class Masks:
    """Where objects may not be, (Z, Y, X) bool each, True = forbidden; None: nowhere.

    Attributes:
        moves: no centre of a field of view, seeds included.
        seeds: no start.
    """

    moves: Tensor | None = None
    seeds: Tensor | None = None


@dataclass(frozen=True)
class Origin:
    """Where an object began, and what it took."""

    start_zyx: Triple
    num_moves: int
    num_voxels: int


MoreSeeds = Callable[[np.ndarray], np.ndarray]  # segmentation so far (Z, Y, X) -> (S, 3)


class Canvas:
    """Segments one image from a list of seeds.

    Args:
        image: (Z, Y, X) float32, normalised as in training.
        fov_zyx, deltas_zyx: of the network.
        thresholds: see there.
        seeds_zyx: (S, 3) integer, tried in this order.
        max_moves: stop after this many moves, keeping the objects finished by then; None for no limit.
        moves, masks: see there.
        existing: (Z, Y, X) integer segments that stand already (0 = free); they keep their ids and are never changed.
        more_seeds: each is asked for seeds when those before it are used up.
        keep_probability: also keep the quantised probability of every segmented voxel.
        keep_history: also keep the position of every move of the last object, what it deleted, and its logits.
    """

    def __init__(
        self,
        image: Tensor,
        fov_zyx: Triple,
        deltas_zyx: Triple,
        thresholds: Thresholds,
        seeds_zyx: np.ndarray,
        max_moves: int | None = None,
        *,
        moves: Moves = Moves(),  # noqa: B008  (frozen)
        masks: Masks = Masks(),  # noqa: B008
        existing: Tensor | None = None,
        more_seeds: Sequence[MoreSeeds] = (),
        keep_probability: bool = False,
        keep_history: bool = False,
    ) -> None:
        self.image, self.fov, self.deltas, self.thresholds = image, fov_zyx, deltas_zyx, thresholds
        self.init_logit, self.pad_logit = logit(thresholds.init_activation), logit(thresholds.pad_value)
        self.move_logit, self.segment_logit = logit(thresholds.move), logit(thresholds.segment)
        self.margin = [size // 2 for size in fov_zyx]
        self.max_moves, self.moves, self.masks = max_moves, moves, masks
        self.saturated_logit = None if moves.saturated is None else logit(moves.saturated)
        self.long_deltas = [min(round(moves.long_step * d), m) for d, m in zip(deltas_zyx, self.margin, strict=True)]

        self.logits = torch.full_like(image, torch.nan)  # of the object being grown; NaN = never visited
        self.segmentation = torch.zeros(image.shape, dtype=torch.int32, device=image.device)
        if existing is not None:
            self.segmentation += existing
        self.probability = np.zeros(image.shape, np.uint8) if keep_probability else None
        self.max_id = int(self.segmentation.max())
        self.origins: dict[int, Origin] = {}
        self.overlaps: dict[int, dict[int, int]] = {}
        self.counters: Counter[str] = Counter()
        self.rejected: list[tuple[Triple, str, int]] = []  # seed, reason, moves it cost

        self.seeds = _positions(seeds_zyx)
        self.next_seed, self.num_seeds = 0, len(self.seeds)  # the latter of all rounds so far
        self.more_seeds, self.num_rounds = list(more_seeds), 0
        self.frontier = Frontier(deltas_zyx, moves.order)
        self.start: Triple | None = None
        self.num_moves = 0  # of the object being grown
        self.low, self.high = [0, 0, 0], [0, 0, 0]  # box of the voxels it has visited
        self.keep_history = keep_history
        self.history: list[tuple[Triple, int]] = []  # of the object grown last: position, voxels deleted there
        self.last_logits: Tensor | None = None  # of the object finished last

    def next_position(self) -> Triple | None:
        """Where the network must look next, or None when every seed has been tried."""
        while self.max_moves is None or self.counters["moves"] < self.max_moves:
            if self.start is None and not self._begin():
                return None
            position = self._pop()
            if position is not None:
                return position
            self._finish()
        return None

    @property
    def is_complete(self) -> bool:
        """Whether every seed has been tried."""
        return self.start is None and self.next_seed == len(self.seeds) and self.num_rounds == len(self.more_seeds)

    def view(self, position: Triple) -> tuple[Tensor, Tensor]:
        """Image and seed logits of the field of view at `position`, (Z, Y, X) each."""
        part = window(position, self.fov)
        return self.image[part], torch.nan_to_num(self.logits[part], nan=self.pad_logit)

    def apply(self, position: Triple, new: Tensor) -> None:
        """Write the network's answer at `position` and queue the moves that follow from it."""
        part = window(position, self.fov)
        old = self.logits[part]
        new = freeze_background(old, new, self.move_logit, self.thresholds.disconnected_seed)
        if self.keep_history:
            self.history.append((position, int(((old >= DELETED_FROM) & (new < 0)).sum())))
        self.logits[part] = new
        assert self.start is not None
        self.low = [min(low, s.start) for low, s in zip(self.low, part, strict=True)]
        self.high = [max(high, s.stop) for high, s in zip(self.high, part, strict=True)]
        self.frontier.mark(position)
        self.num_moves += 1
        self.counters["moves"] += 1
        for score, step in self._steps(new, position):
            self.frontier.propose(score, _moved(position, step))

    def _steps(self, new: Tensor, position: Triple) -> list[tuple[float, Triple]]:
        steps = face_maxima(new, self.deltas, self.move_logit)
        num_faces = 2 * sum(delta > 0 for delta in self.deltas)
        if self.saturated_logit is not None and len(steps) == num_faces and steps[-1][0] >= self.saturated_logit:
            # A long step out of the volume would leave its rim out; such a face keeps its short one.
            found = face_maxima(new, self.long_deltas, self.move_logit)
            long = [(score, step) for score, step in found if self._fits(_moved(position, step))]
            reached = {face for _, step in long for face in _faces(step, self.long_deltas)}
            steps = long + [step for step in steps if not reached.issuperset(_faces(step[1], self.deltas))]
        return steps

    def _begin(self) -> bool:
        """Start an object at the next seed that may start one; False when there is none."""
        while True:
            while self.next_seed < len(self.seeds):
                seed = self.seeds[self.next_seed]
                self.next_seed += 1
                reason = self._refusal(seed)
                if reason is None:
                    self.start, self.num_moves = seed, 0
                    self.logits[seed] = self.init_logit
                    self.frontier.begin(seed)
                    self.history.clear()
                    self.low, self.high = list(seed), [p + 1 for p in seed]
                    return True
                self.counters[f"seeds_{reason}"] += 1
                if reason != "in_segment":
                    self.rejected.append((seed, reason, 0))
            if self.num_rounds == len(self.more_seeds):
                return False
            self.seeds = _positions(self.more_seeds[self.num_rounds](self.segmentation.cpu().numpy()))
            self.num_rounds, self.next_seed = self.num_rounds + 1, 0
            self.num_seeds += len(self.seeds)

    def _refusal(self, seed: Triple) -> str | None:
        """Why no object may start at `seed`; None if it may."""
        if not self._fits(seed):
            return "outside"
        if self.segmentation[seed] > 0:
            return "in_segment"
        if any(mask is not None and bool(mask[seed]) for mask in (self.masks.moves, self.masks.seeds)):
            return "restricted"
        if self._near_segment(seed):
            self.segmentation[seed] = REJECTED
            return "near_segment"
        return None

    def _pop(self) -> Triple | None:
        """The next valid move of the object, or None when it is complete."""
        assert self.start is not None
        if self.num_moves and float(self.logits[self.start]) < self.move_logit:
            self.frontier.clear()  # the object has left its own seed; what follows would be another object
        while (position := self.frontier.pop()) is not None:
            if position == self.start and self.num_moves == 0:
                return position
            if not self._fits(position):
                self.counters["skipped_outside"] += 1
            elif float(self.logits[position]) < self.move_logit:
                self.counters["skipped_threshold"] += 1
            elif self.segmentation[position] > 0:
                self.counters["skipped_in_segment"] += 1
            elif self.masks.moves is not None and bool(self.masks.moves[position]):
                self.counters["skipped_restricted"] += 1
            elif self._is_known(position):
                self.counters["skipped_visited"] += 1
            else:
                return position
        return None

    def _is_known(self, position: Triple) -> bool:
        share = self.moves.skip_visited
        if share is None:
            return False
        return 1 - float(torch.isnan(self.logits[window(position, self.fov)]).float().mean()) >= share

    def _finish(self) -> None:
        """Keep the object as a segment or reject its seed, and clear the canvas for the next one."""
        assert self.start is not None
        z, y, x = (slice(low, high) for low, high in zip(self.low, self.high, strict=True))
        box = (z, y, x)
        taken = self.segmentation[box]
        mask = self.logits[box] >= self.segment_logit  # false where NaN
        free = mask & (taken <= 0)
        num_voxels = int(free.sum())
        if float(self.logits[self.start]) < self.move_logit:
            outcome = "weak"
        else:
            self.counters["voxels_overlapping"] += int(mask.sum()) - num_voxels
            outcome = "small" if num_voxels < self.thresholds.min_segment_size else "kept"
        if outcome == "kept":
            self.max_id += 1
            ids, counts = torch.unique(taken[mask & (taken > 0)], return_counts=True)
            self.overlaps[self.max_id] = dict(zip(ids.tolist(), counts.tolist(), strict=True))
            taken[free] = self.max_id
            if self.probability is not None:
                known = torch.sigmoid(self.logits[box])[free].cpu().numpy()
                self.probability[box][free.cpu().numpy()] = quantise(known)
            self.origins[self.max_id] = Origin(self.start, self.num_moves, num_voxels)
            self.counters["voxels_segmented"] += num_voxels
        else:
            self.segmentation[self.start] = REJECTED
            self.rejected.append((self.start, outcome, self.num_moves))
        self.counters[f"seeds_{outcome}"] += 1
        self.counters[f"moves_{outcome}"] += self.num_moves
        if self.keep_history:
            self.last_logits = self.logits.clone()
        self.logits[box] = torch.nan
        self.frontier.clear()
        self.start = None

    def _fits(self, position: Triple) -> bool:
        return all(m <= p < n - m for p, m, n in zip(position, self.margin, self.image.shape, strict=True))

    def _near_segment(self, position: Triple) -> bool:
        distance = self.thresholds.min_boundary_dist_zyx
        near = tuple(slice(max(p - d, 0), p + d + 1) for p, d in zip(position, distance, strict=True))
        return bool((self.segmentation[near] > 0).any())


def _moved(position: Triple, step: Triple) -> Triple:
    return position[0] + step[0], position[1] + step[1], position[2] + step[2]


def _faces(step: Triple, deltas: Sequence[int]) -> list[tuple[int, bool]]:
    """Axis and side of each face of the box of +-deltas that a step ends on."""
    return [(axis, s > 0) for axis, (s, delta) in enumerate(zip(step, deltas, strict=True)) if abs(s) == delta > 0]


def _positions(seeds_zyx: np.ndarray) -> list[Triple]:
    return [(int(z), int(y), int(x)) for z, y, x in seeds_zyx]
