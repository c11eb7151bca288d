"""The state of one volume while it is segmented, object after object, move after move.

A canvas never calls the network. It says where the next move is (`next_position`), hands out what the network must see
there (`view`) and takes the answer (`apply`), so that an executor may run many canvases in one batch, and a canvas can
be stopped between any two moves. Source: Januszewski et al. 2018 and google/ffn (inference/inference.py).

Differences: state is a plain record of tensors and lists, and the outcome of every seed is counted by reason.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nissl.flood_fill.movement import Triple, face_maxima, freeze_background, grid_cell, logit, window

REJECTED = -1  # in the segmentation: a seed was tried here in vain


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
class Origin:
    """Where an object began, and what it took."""

    start_zyx: Triple
    num_moves: int
    num_voxels: int


class Canvas:
    """Segments one image from a list of seeds.

    Args:
        image: (Z, Y, X) float32, normalised as in training.
        fov_zyx, deltas_zyx: of the network.
        thresholds: see there.
        seeds_zyx: (S, 3) integer, tried in this order.
        max_moves: stop after this many moves, keeping the objects finished by then; None for no limit.
    """

    def __init__(
        self,
        image: Tensor,
        fov_zyx: Triple,
        deltas_zyx: Triple,
        thresholds: Thresholds,
        seeds_zyx: np.ndarray,
        max_moves: int | None = None,
    ) -> None:
        self.image, self.fov, self.deltas, self.thresholds = image, fov_zyx, deltas_zyx, thresholds
        self.init_logit, self.pad_logit = logit(thresholds.init_activation), logit(thresholds.pad_value)
        self.move_logit, self.segment_logit = logit(thresholds.move), logit(thresholds.segment)
        self.margin = [size // 2 for size in fov_zyx]
        self.max_moves = max_moves

        self.logits = torch.full_like(image, torch.nan)  # of the object being grown; NaN = never visited
        self.segmentation = torch.zeros(image.shape, dtype=torch.int32, device=image.device)
        self.max_id = 0
        self.origins: dict[int, Origin] = {}
        self.overlaps: dict[int, dict[int, int]] = {}
        self.counters: Counter[str] = Counter()

        self.seeds = [(int(z), int(y), int(x)) for z, y, x in seeds_zyx]
        self.next_seed = 0
        self.start: Triple | None = None
        self.queue: deque[Triple] = deque()
        self.visited: set[Triple] = set()
        self.num_moves = 0  # of the object being grown
        self.low, self.high = [0, 0, 0], [0, 0, 0]  # box of the voxels it has visited

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

    def view(self, position: Triple) -> tuple[Tensor, Tensor]:
        """Image and seed logits of the field of view at `position`, (Z, Y, X) each."""
        part = window(position, self.fov)
        return self.image[part], torch.nan_to_num(self.logits[part], nan=self.pad_logit)

    def apply(self, position: Triple, new: Tensor) -> None:
        """Write the network's answer at `position` and queue the moves that follow from it."""
        part = window(position, self.fov)
        new = freeze_background(self.logits[part], new, self.move_logit, self.thresholds.disconnected_seed)
        self.logits[part] = new
        assert self.start is not None
        self.low = [min(low, s.start) for low, s in zip(self.low, part, strict=True)]
        self.high = [max(high, s.stop) for high, s in zip(self.high, part, strict=True)]
        self.visited.add(grid_cell(position, self.start, self.deltas))
        self.num_moves += 1
        self.counters["moves"] += 1
        for _, (dz, dy, dx) in face_maxima(new, self.deltas, self.move_logit):
            self.queue.append((position[0] + dz, position[1] + dy, position[2] + dx))

    def _begin(self) -> bool:
        """Start an object at the next seed that may start one; False when there is none."""
        while self.next_seed < len(self.seeds):
            seed = self.seeds[self.next_seed]
            self.next_seed += 1
            if not self._fits(seed):
                self.counters["seeds_outside"] += 1
            elif self.segmentation[seed] > 0:
                self.counters["seeds_in_segment"] += 1
            elif self._near_segment(seed):
                self.segmentation[seed] = REJECTED
                self.counters["seeds_near_segment"] += 1
            else:
                self.start, self.num_moves = seed, 0
                self.logits[seed] = self.init_logit
                self.queue.append(seed)
                self.low, self.high = list(seed), [p + 1 for p in seed]
                return True
        return False

    def _pop(self) -> Triple | None:
        """The next valid move of the object, or None when it is complete."""
        assert self.start is not None
        if self.num_moves and float(self.logits[self.start]) < self.move_logit:
            self.queue.clear()  # the object has left its own seed; what follows would be another object
        while self.queue:
            position = self.queue.popleft()
            if position == self.start and self.num_moves == 0:
                return position
            if grid_cell(position, self.start, self.deltas) in self.visited:
                continue
            if not self._fits(position):
                self.counters["skipped_outside"] += 1
            elif float(self.logits[position]) < self.move_logit:
                self.counters["skipped_threshold"] += 1
            elif self.segmentation[position] > 0:
                self.counters["skipped_in_segment"] += 1
            else:
                return position
        return None

    def _finish(self) -> None:
        """Keep the object as a segment or reject its seed, and clear the canvas for the next one."""
        assert self.start is not None
        z, y, x = (slice(low, high) for low, high in zip(self.low, self.high, strict=True))
        box = (z, y, x)
        taken = self.segmentation[box]
        mask = self.logits[box] >= self.segment_logit  # false where NaN
        if float(self.logits[self.start]) < self.move_logit:
            self.segmentation[self.start] = REJECTED
            outcome = "weak"
        else:
            free = mask & (taken <= 0)
            num_voxels = int(free.sum())
            self.counters["voxels_overlapping"] += int(mask.sum()) - num_voxels
            if num_voxels < self.thresholds.min_segment_size:
                self.segmentation[self.start] = REJECTED
                outcome = "small"
            else:
                self.max_id += 1
                segment = self.max_id
                ids, counts = torch.unique(taken[mask & (taken > 0)], return_counts=True)
                self.overlaps[segment] = dict(zip(ids.tolist(), counts.tolist(), strict=True))
                taken[free] = segment
                self.origins[segment] = Origin(self.start, self.num_moves, num_voxels)
                self.counters["voxels_segmented"] += num_voxels
                outcome = "kept"
        self.counters[f"seeds_{outcome}"] += 1
        self.counters[f"moves_{outcome}"] += self.num_moves
        self.logits[box] = torch.nan
        self.queue.clear()
        self.visited.clear()
        self.start = None

    def _fits(self, position: Triple) -> bool:
        return all(m <= p < n - m for p, m, n in zip(position, self.margin, self.image.shape, strict=True))

    def _near_segment(self, position: Triple) -> bool:
        distance = self.thresholds.min_boundary_dist_zyx
        near = tuple(slice(max(p - d, 0), p + d + 1) for p, d in zip(position, distance, strict=True))
        return bool((self.segmentation[near] > 0).any())
