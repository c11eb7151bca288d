"""Learning to flood from a larger network: a small student is trained on what a teacher grows.

For each example the teacher makes its own moves, at the volume's resolution and from one active voxel at the centre;
what it has grown in the end is the student's target. The student may work at a lower resolution: image and target are
means over blocks of `pool_zyx` voxels, the target of the teacher's *probabilities*. The mean of a block is the share of
it that the teacher gives to the object, which is what cross entropy with soft targets wants to be told; a mean of
logits would let one voxel of which the teacher is very sure outvote seven others. Voxels that the teacher never visited
carry no loss: the object may well go on there. Where the teacher lets go of the voxel that it began from, it has
nothing to teach, and the true label stands in for it.

A target depends on nothing but image and centre, so with `dataset.patches.number_of_places` the teacher answers once
per place, and what it answered is turned and mirrored together with the image from then on. Nothing of it has to be
saved: a resumed training computes it again. The data set itself must not augment then, and need not know any label but
those that centres are drawn from.

Hinton et al. 2015, https://arxiv.org/abs/1503.02531, is the idea; the moves are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.flood_fill.movement import logit
from nissl.tasks.flood_filling import FloodFilling
from nissl.tasks.growing import Growing, Movement, PolicyName


@torch.no_grad()
def teacher_probabilities(teacher: nn.Module, image: Tensor, max_moves: int | None) -> Tensor:
    """What the teacher grows from the centre of each example, (B, 1, Z, Y, X) probabilities, NaN where it never was.

    It moves as in inference, to the strongest voxel of each face, as far as the example reaches.

    Args:
        teacher: a flood-filling network in eval mode.
        image: (B, 1, Z, Y, X) normalised as the teacher's training data, at its resolution. Its moves use the largest
            part of it from the first voxel that is its field of view and a whole number of steps; the rest repeats the
            last voxel.
        max_moves: per example, the first included; None: all that it wants.
    """
    fov, deltas = np.asarray(teacher.fov_zyx), np.asarray(teacher.deltas_zyx)
    shape = np.asarray(image.shape[2:])
    steps = int(((shape - fov) // np.maximum(2 * deltas, 1)).min())
    if steps < 0:
        raise ValueError(
            f"examples have {shape.tolist()} voxels, fewer than the teacher's field of view {fov.tolist()}"
        )
    z, y, x = (int(size) for size in fov + 2 * steps * deltas)
    part = image[:, :, :z, :y, :x]
    threshold = logit(float(teacher.move_threshold))  # type: ignore[arg-type]
    movement = Movement(teacher.fov_zyx, teacher.deltas_zyx, threshold, "max_pred_moves", 0)  # type: ignore[arg-type]
    pad = logit(float(teacher.pad_value))  # type: ignore[arg-type]
    seeds = torch.full_like(part, pad)
    seeds[:, :, z // 2, y // 2, x // 2] = logit(float(teacher.init_activation))  # type: ignore[arg-type]
    anywhere, nowhere = torch.ones_like(part), torch.zeros_like(part, dtype=torch.bool)  # no truth holds it back
    rows = zip(part, anywhere, seeds, nowhere, strict=True)
    examples = [Growing(*row, movement, 0) for row in rows]
    while slots := [example for example in examples if example.view is not None]:
        views = [(slice(None), *example.view) for example in slots if example.view is not None]
        images = torch.stack([example.image[view] for example, view in zip(slots, views, strict=True)])
        grown = torch.stack([example.seed[view] for example, view in zip(slots, views, strict=True)])
        for example, logits in zip(slots, teacher(images, grown), strict=True):
            example.take(logits.float(), max_moves)
    # What a network has written differs from what it was given, in the last digits at least.
    grown = torch.stack([example.seed for example in examples])
    found = torch.where(torch.eq(grown, pad), torch.nan, torch.sigmoid(grown))
    missing = [int(size) for size in shape - (z, y, x)]
    return F.pad(found, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")


def turned(arrays: Sequence[Tensor], draw: int) -> list[Tensor]:
    """Arrays (C, Z, Y, X) of one example under one of the symmetries of a box, decided by `draw`.

    Axes of equal length may change places.
    """
    rng = np.random.default_rng([2, draw])
    order, flips = rng.permutation(3), rng.random(3) < 0.5
    shape = arrays[0].shape[1:]
    if any(shape[axis] != shape[source] for axis, source in enumerate(order)):
        order = np.arange(3)
    axes = [0, *(int(axis) + 1 for axis in order)]
    flipped = [axis + 1 for axis in range(3) if flips[axis]]
    return [array.permute(axes).flip(flipped) for array in arrays]


class FFNDistillation(FloodFilling):
    """Flood-filling task whose targets are what a teacher grows; validated, like its parent, on the true labels.

    Needs examples at the volume's own resolution: `dataset.patches.native=true`.

    Args:
        model: the student.
        optimizer: partial of a torch optimizer, called with the parameters.
        teacher: a flood-filling network; its architecture must be that of `teacher_weights`.
        teacher_weights: safetensors, such as `nissl import ffn` makes; null keeps the weights it has.
        teacher_moves: at most so many of the teacher per example, the first included; null: all that it wants.
        teacher_share: of the target; the rest is the true label.
        pool_zyx: voxels that the teacher sees per voxel that the student sees.
        policy, window_radius, max_moves, moves_per_step, soft_label, clip_value, nonfinite, boundary_weight,
        decay_steps, ema_decay: see `FloodFilling`. The teacher is soft already: soft_label is 0 when it has its share.
    """

    metrics = {
        "train/loss": "min",
        "train/f1_at_50": "max",
        "train/moves_per_example": None,
        "train/fovs": None,
        "train/examples": None,
        "train/skipped_steps": "min",
        "train/teacher_f1": "max",
        "train/teacher_holds": None,
        "train/places_known": None,
        "val/loss": "min",
        "val/precision_at_50": "max",
        "val/recall_at_50": "max",
        "val/f1_at_50": "max",
        "val/accuracy_at_50": "max",
        "val/specificity_at_50": "max",
        "val/precision_at_90": "max",
        "val/recall_at_90": "max",
        "val/f1_at_90": "max",
        "val/accuracy_at_90": "max",
        "val/specificity_at_90": "max",
        "val/moves_per_example": None,
        "val/moves_correct": None,
        "val/moves_missed": "min",
        "val/moves_spurious": "min",
    }

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        teacher: nn.Module,
        teacher_weights: str | None,
        teacher_moves: int | None,
        teacher_share: float,
        pool_zyx: Sequence[int],
        policy: PolicyName,
        window_radius: int,
        max_moves: int | None,
        moves_per_step: int | None,
        soft_label: float,
        clip_value: float,
        nonfinite: Literal["abort", "skip"],
        boundary_weight: float,
        decay_steps: int | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__(
            model, optimizer, policy, window_radius, max_moves, moves_per_step, soft_label, clip_value, nonfinite,
            boundary_weight, decay_steps, ema_decay,
        )  # fmt: skip
        if not 0 <= teacher_share <= 1 or (teacher_moves is not None and teacher_moves < 1):
            raise ValueError(
                "task.teacher_share lies between 0 and 1, task.teacher_moves is at least 1 or null, "
                f"came {teacher_share} and {teacher_moves}"
            )
        load_teacher(teacher, teacher_weights)
        # In a tuple, which hides it from the checkpoint: it never changes and may be large.
        self._teacher = (teacher,)
        self.teacher_moves, self.teacher_share = teacher_moves, teacher_share
        self.pool: tuple[int, int, int] = (int(pool_zyx[0]), int(pool_zyx[1]), int(pool_zyx[2]))
        self._known: dict[int, Tensor] = {}  # place -> pooled target, (1, Z, Y, X) half precision

    def on_fit_start(self) -> None:
        self._teacher[0].to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        image, truth, empty = self._pooled(batch)
        found = self._targets(batch)
        known = ~found.isnan()
        found = found.nan_to_num(0.0)
        overlap = 2 * (found * truth).sum() / (found.sum() + truth.sum()).clamp(min=1)
        self.log("train/teacher_f1", overlap)  # soft, against the true label
        self.log("train/places_known", float(len(self._known)))
        share = self.teacher_share * self._holds(found)
        label = torch.where(known, share * found + (1 - share) * truth, truth)
        weight = torch.where(known, 1.0, 1 - share)
        if "place" in batch:
            draws = batch["draw"].tolist()
            rows = [turned(row, draw) for *row, draw in zip(image, label, empty, weight, draws, strict=True)]
            image, label, empty, weight = (torch.stack(arrays) for arrays in zip(*rows, strict=True))
        pooled = {"image": image, "label": label, "empty": empty, "weight": weight}
        super().training_step({**batch, **pooled}, batch_index)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        image, truth, empty = self._pooled(batch)
        pooled = {
            "image": image, "label": (truth > 0.5).float(), "empty": empty, "weight": torch.ones_like(image)
        }  # fmt: skip
        super().validation_step({**batch, **pooled}, batch_index)

    def _fresh(self, batch: dict[str, Tensor]) -> list[Growing]:
        """As in the parent, which would take what belongs to no object from labels that are ids."""
        seeds = torch.full_like(batch["image"], self.pad_logit)
        z, y, x = (size // 2 for size in seeds.shape[2:])
        seeds[:, :, z, y, x] = self.init_logit
        names = ("image", "label", "empty", "weight")
        rows = zip(*(batch[name] for name in names), seeds, batch["draw"].tolist(), strict=True)
        return [
            Growing(image, label, seed, empty > 0.5, self.movement, draw, weight)
            for image, label, empty, weight, seed, draw in rows
        ]

    def _pooled(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Image, object and what is no object as the student sees them, (B, 1, Z, Y, X); the latter two as shares."""
        if any(size % pool for size, pool in zip(batch["image"].shape[2:], self.pool, strict=True)):
            raise ValueError(
                f"examples of {list(batch['image'].shape[2:])} voxels are no multiple of task.pool_zyx "
                f"{list(self.pool)}. Set dataset.patches.native=true and dataset.scale_zyx to task.pool_zyx."
            )
        label = batch["label"]
        if label.is_floating_point():
            if self.boundary is not None:
                raise ValueError("task.boundary_weight needs to know every object: set dataset.patches.target=labels")
            label, empty = label > 0.5, torch.zeros_like(label)
        else:
            z, y, x = ((size // pool // 2) * pool for size, pool in zip(label.shape[2:], self.pool, strict=True))
            empty = (label == 0).float()
            label = (label == label[:, :, z : z + 1, y : y + 1, x : x + 1]) & (label > 0)
        image, truth, empty = (F.avg_pool3d(array, self.pool) for array in (batch["image"], label.float(), empty))
        return image, truth, empty

    def _holds(self, found: Tensor) -> Tensor:
        """1 for answers that hold their own centre, which a flooding would keep, else 0; (B, 1, 1, 1, 1)."""
        z, y, x = (size // 2 for size in found.shape[2:])
        held = found[:, :, z, y, x] >= float(self._teacher[0].move_threshold)  # type: ignore[arg-type]
        self.log("train/teacher_holds", held.float().mean())
        return held.float()[:, :, None, None, None]

    def _targets(self, batch: dict[str, Tensor]) -> Tensor:
        """The teacher's answers, pooled, (B, 1, Z, Y, X); from memory where it has given them before."""
        if "place" not in batch:
            return self._ask(batch["image"])
        places = batch["place"].tolist()
        new = {place: row for row, place in enumerate(places) if place not in self._known}
        if new:
            answers = self._ask(batch["image"][list(new.values())])
            self._known.update(zip(new, answers.half(), strict=True))
        return torch.stack([self._known[place].float() for place in places])  # autocast stacks no half precision

    def _ask(self, image: Tensor) -> Tensor:
        found = teacher_probabilities(self._teacher[0], image, self.teacher_moves)
        return F.avg_pool3d(found.float(), self.pool)


def load_teacher(teacher: nn.Module, path: str | None) -> None:
    """Weights of a safetensors file into a network, which learns nothing from then on; None keeps those it has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: weights of another architecture.
    """
    from safetensors.torch import load_file

    teacher.eval().requires_grad_(False)
    if path is None:
        return
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Make it with: nissl import ffn <data>/weights/ffn_fib25/model.ckpt-27465036"
        )
    try:
        teacher.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"task.teacher_weights={path} does not fit task.teacher: {error}") from None
