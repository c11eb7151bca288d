"""Learning to make a larger network's moves: at every move the student is told what the teacher would answer there.

Teacher and student see the same field of view of the same image, with the seed that the *student* has grown so far, so
that the student learns in the states that it will be in, its own mistakes included, and not only in those of a perfect
run (Ross et al. 2011, https://arxiv.org/abs/1011.0686). A move's answer depends on nothing outside its field of view,
which a label of the whole object does, and it is known for every voxel, so that few examples say much.

The teacher costs one forward pass for each move and nothing is kept. Voxels that were never visited are shown to each
network with its own `pad_value`. Where an example goes is decided by the student's steps and threshold; its steps may
be longer than those that the teacher was trained with.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.flood_fill.movement import logit
from nissl.tasks.ffn_distillation import load_teacher
from nissl.tasks.flood_filling import FloodFilling
from nissl.tasks.growing import Growing, PolicyName


class FFNImitation(FloodFilling):
    """Flood-filling task whose targets are a teacher's answers; validated, like its parent, on the true labels.

    Args:
        model: the student.
        optimizer: partial of a torch optimizer, called with the parameters.
        teacher: a flood-filling network; its architecture must be that of `teacher_weights`.
        teacher_weights: safetensors, such as `nissl import ffn` makes; null keeps the weights it has.
        policy, window_radius, max_moves, moves_per_step, clip_value, nonfinite, decay_steps, ema_decay: see
            `FloodFilling`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        teacher: nn.Module,
        teacher_weights: str | None,
        policy: PolicyName,
        window_radius: int,
        max_moves: int | None,
        moves_per_step: int | None,
        clip_value: float,
        nonfinite: Literal["abort", "skip"],
        decay_steps: int | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__(
            model, optimizer, policy, window_radius, max_moves, moves_per_step, 0.0, clip_value, nonfinite, 0.0,
            decay_steps, ema_decay,
        )  # fmt: skip
        load_teacher(teacher, teacher_weights)
        # In a tuple, which hides it from the checkpoint: it never changes and may be large.
        self._teacher = (teacher,)
        self.teacher_pad_logit = logit(float(teacher.pad_value))  # type: ignore[arg-type]

    def on_fit_start(self) -> None:
        self._teacher[0].to(self.device)

    def _answer(self, slots: list[Growing]) -> tuple[Tensor, Tensor, Tensor]:
        image, _, seed, weight = self._views(slots)
        with torch.no_grad():
            # What a network has written differs from what it was given, in the last digits at least.
            shown = torch.where(torch.eq(seed, self.pad_logit), self.teacher_pad_logit, seed)
            target = torch.sigmoid(self._teacher[0](image, shown).float())
        new = self.learner(image, seed)
        loss = F.binary_cross_entropy_with_logits(new.float(), target, weight)
        return new, loss, torch.zeros_like(loss)
