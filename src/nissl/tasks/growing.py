"""Examples that grow move by move, and the policies that say where each of them is evaluated next.

A policy sees the seed logits as they are updated, so an example goes only where the network has grown it. Source:
google/ffn (training/examples.py), policies `fixed`, `fixed_window`, `max_pred_moves` and `no_step`. Difference: the
order of fixed offsets is drawn per example and visit, not once per run.

Positions are voxels of the example, zyx; seeds, images and labels are (1, Z, Y, X).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nissl.flood_fill.movement import Slices, Triple, face_maxima, grid_cell, shell_offsets, window

PolicyName = Literal["fixed", "fixed_window", "max_pred_moves", "no_step"]
POLICIES: tuple[PolicyName, ...] = ("fixed", "fixed_window", "max_pred_moves", "no_step")


@dataclass(frozen=True)
class Movement:
    """How the examples of one network move.

    Attributes:
        fov_zyx, deltas_zyx: of the network.
        threshold: logit from which a position counts as reached.
        policy: "fixed" visits the centre, then its neighbours at multiples of the deltas in random order, each only if
            the object has reached it. "fixed_window" goes there too if any voxel near that neighbour, on the shell of
            the same ring, is reached. "max_pred_moves" moves as inference does, to the strongest voxel of each face,
            but never leaves the true object. "no_step" stays at the centre.
        window_radius: of "fixed_window", in voxels.
    """

    fov_zyx: Triple
    deltas_zyx: Triple
    threshold: float
    policy: PolicyName
    window_radius: int

    def steps(self, shape_zyx: Sequence[int]) -> int:
        """How many steps an example of this shape has room for, to each side."""
        for steps in range(8):
            room = [size + 2 * steps * delta for size, delta in zip(self.fov_zyx, self.deltas_zyx, strict=True)]
            if room == list(shape_zyx):
                return steps
        raise ValueError(
            f"examples have {tuple(shape_zyx)} voxels; the network needs its field of view {self.fov_zyx} plus a "
            f"multiple of twice its deltas {self.deltas_zyx}. Take dataset.patches.fov_zyx and deltas_zyx from the "
            "model."
        )


@dataclass
class Growing:
    """One example on its way.

    Attributes:
        image, label, seed: (1, Z, Y, X); the label is 1 in the object, the seed holds the logits reached so far.
        empty: (1, Z, Y, X) bool, voxels known to belong to no object.
        movement: see there.
        draw: decides the order of its offsets.
        weight: (1, Z, Y, X) of the loss, 0 where it must not look; None: 1 everywhere.
        visited: cells of the delta grid around the centre that were entered.
        view: field of view of the next move; None when the example has ended.
    """

    image: Tensor
    label: Tensor
    seed: Tensor
    empty: Tensor
    movement: Movement
    draw: int
    weight: Tensor | None = None
    visited: set[Triple] = field(default_factory=set)

    def __post_init__(self) -> None:
        shape = self.image.shape[1:]
        deltas = self.movement.deltas_zyx
        self.centre: Triple = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
        self.offsets = shell_offsets(deltas, self.movement.steps(shape))
        order = np.random.default_rng([1, self.draw]).permutation(np.array(self.offsets, np.int64).reshape(-1, 3))
        queue = [self._at(offset) for offset in order.tolist()] if self.movement.policy.startswith("fixed") else []
        self.queue: deque[Triple] = deque([self.centre, *queue])
        self.view: Slices | None = None
        self._next()

    def take(self, logits: Tensor, max_moves: int | None = None) -> None:
        """Write the network's answer at `view`, (1, Z, Y, X), back without its history, and choose the next view."""
        assert self.view is not None
        self.seed[(slice(None), *self.view)] = logits.detach()
        if self.movement.policy == "max_pred_moves":
            middle = [part.start + size // 2 for part, size in zip(self.view, self.movement.fov_zyx, strict=True)]
            for _, offset in face_maxima(logits[0].detach(), self.movement.deltas_zyx, self.movement.threshold):
                self.queue.append(_sum(middle, offset))
        self.view = None
        if max_moves is None or len(self.visited) < max_moves:
            self._next()

    def _next(self) -> None:
        while self.queue and self.view is None:
            position = self.queue.popleft()
            if self._may_visit(position):
                self.visited.add(self._cell(position))
                self.view = window(position, self.movement.fov_zyx)

    def moves(self) -> dict[str, int]:
        """Cells of the delta grid by whether the object is there and whether the network went: correct, missed,
        spurious."""
        wanted = {self._cell(self._at(offset)) for offset in self.offsets if self._is_object(self._at(offset))}
        visited = self.visited - {(0, 0, 0)}
        return {
            "correct": len(wanted & visited),
            "missed": len(wanted - visited),
            "spurious": len(visited - wanted),
        }

    def _may_visit(self, position: Triple) -> bool:
        if position == self.centre:
            return not self.visited
        if not self._fits(position) or self._cell(position) in self.visited:
            return False
        if self.movement.policy == "fixed_window":
            return bool((self.seed[0][self._shell(position)] >= self.movement.threshold).any())
        reached = float(self.seed[(0, *position)]) >= self.movement.threshold
        return reached and (self.movement.policy == "fixed" or self._is_object(position))

    def _shell(self, position: Triple) -> tuple[Tensor, Tensor, Tensor]:
        """Voxels within the window around `position` that lie on the surface of its ring's box of deltas."""
        radius, deltas = self.movement.window_radius, [max(delta, 1) for delta in self.movement.deltas_zyx]
        away = [p - c for p, c in zip(position, self.centre, strict=True)]
        ring = max(abs(a) // d for a, d in zip(away, deltas, strict=True))
        near = [torch.arange(a - radius, a + radius + 1, device=self.seed.device) for a in away]
        shell = torch.stack(torch.meshgrid(*near, indexing="ij"), -1).reshape(-1, 3)
        reach = ring * torch.tensor(self.movement.deltas_zyx, device=self.seed.device)
        inside, surface = (shell.abs() <= reach).all(1), (shell.abs() == reach).any(1)
        z, y, x = (shell[inside & surface] + torch.tensor(self.centre, device=self.seed.device)).unbind(1)
        return z, y, x

    def _fits(self, position: Triple) -> bool:
        halves = [size // 2 for size in self.movement.fov_zyx]
        shape = self.image.shape[1:]
        return all(half <= p < size - half for p, half, size in zip(position, halves, shape, strict=True))

    def _is_object(self, position: Triple) -> bool:
        return bool(self.label[(0, *position)] > 0.5)

    def _at(self, offset: Sequence[int]) -> Triple:
        return _sum(self.centre, offset)

    def _cell(self, position: Triple) -> Triple:
        return grid_cell(position, self.centre, self.movement.deltas_zyx)


def _sum(position: Sequence[int], offset: Sequence[int]) -> Triple:
    z, y, x = (p + o for p, o in zip(position, offset, strict=True))
    return z, y, x
