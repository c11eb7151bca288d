"""Learning where objects end, from their labels: affinities between voxels, or one map of insides.

Which of the two is decided by the network: with `offsets_zyx` it predicts for each voxel and offset whether both ends
belong to one object (1 also needs a label above 0), without any it predicts whether a voxel and its six neighbours do.

Boundaries are a small share of voxels, so both classes of a batch and channel weigh the same in the loss, as in
funkelab/lsd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_WEIGHT = 20.0  # of a class that hardly occurs in a batch


def affinity_targets(labels: Tensor, offsets_zyx: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Whether voxel v and v + offset have one label above 0, and where that is known, (B, A, Z, Y, X) float each.

    Args:
        labels: (B, 1, Z, Y, X) integer.
        offsets_zyx: A steps; pairs that leave the patch are unknown.
    """
    targets, known = [], []
    for offset in offsets_zyx:
        moved = torch.roll(labels, [-step for step in offset], (2, 3, 4))
        inside = torch.zeros_like(labels, dtype=torch.bool)
        part = [slice(max(-step, 0), size - max(step, 0)) for step, size in zip(offset, labels.shape[2:], strict=True)]
        inside[(slice(None), slice(None), *part)] = True
        targets.append((labels == moved) & (labels > 0) & inside)
        known.append(inside)
    return torch.cat(targets, 1).float(), torch.cat(known, 1).float()


def interior_targets(labels: Tensor) -> Tensor:
    """1 where a voxel and its six neighbours in the patch have one label above 0, (B, 1, Z, Y, X) float."""
    inside = labels > 0
    for axis in (2, 3, 4):
        size = labels.shape[axis]
        same = labels.narrow(axis, 1, size - 1) == labels.narrow(axis, 0, size - 1)
        inside.narrow(axis, 1, size - 1).logical_and_(same)
        inside.narrow(axis, 0, size - 1).logical_and_(same)
    return inside.float()


def balanced_loss(logits: Tensor, target: Tensor, weight: Tensor, kind: Literal["bce", "mse"]) -> Tensor:
    """Mean error over voxels in which both classes of each channel weigh the same; scalar.

    Args:
        logits, target, weight: (B, A, Z, Y, X); target 0 or 1; weight 0 where nothing is known.
        kind: binary cross entropy, or squared error of the probability.
    """
    axes = (0, 2, 3, 4)
    positive = (weight * target).sum(axes, keepdim=True)
    negative = (weight * (1 - target)).sum(axes, keepdim=True)
    half = (positive + negative) / 2
    of_positive = (half / positive.clamp(min=1)).clamp(max=LARGEST_WEIGHT)
    of_negative = (half / negative.clamp(min=1)).clamp(max=LARGEST_WEIGHT)
    weight = weight * torch.where(target > 0.5, of_positive, of_negative)
    if kind == "bce":
        error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        error = (torch.sigmoid(logits) - target).square()
    return (weight * error).sum() / weight.sum().clamp(min=1)


class Boundaries(pl.LightningModule):
    """Task for networks image -> logits of affinities or insides.

    Args:
        model: the network; its `offsets_zyx` say what it predicts.
        optimizer: partial of a torch optimizer, called with the parameters.
        loss: "bce" or "mse".
        decay_steps: the learning rate falls along a cosine to 2 % until this step; null keeps it constant.
    """

    metrics = {
        "train/loss": "min",
        "val/loss": "min",
        "val/f1_boundary": "max",
        "val/precision_boundary": "max",
        "val/recall_boundary": "max",
    }

    def __init__(self, model: nn.Module, optimizer: Any, loss: str, decay_steps: int | None) -> None:
        super().__init__()
        if loss not in ("bce", "mse"):
            raise ValueError(f"task.loss must be bce or mse, came {loss!r}")
        self.model, self.make_optimizer, self.decay_steps = model, optimizer, decay_steps
        self.loss: Literal["bce", "mse"] = "bce" if loss == "bce" else "mse"
        self._counts: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.decay_steps is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, self.decay_steps, eta_min=0.02 * optimizer.defaults["lr"]
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the network should answer, and how much each voxel counts, (B, A, Z, Y, X) each."""
        offsets: Sequence[Sequence[int]] = self.model.offsets_zyx  # type: ignore[assignment]
        if offsets:
            target, known = affinity_targets(batch["label"], offsets)
        else:
            target = interior_targets(batch["label"])
            known = torch.ones_like(target)
        return target, known * batch["weight"] if "weight" in batch else known

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        target, weight = self.targets(batch)
        loss = balanced_loss(self.model(batch["image"]).float(), target, weight, self.loss)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._counts = []

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        target, weight = self.targets(batch)
        logits = self.model(batch["image"]).float()
        self.log("val/loss", balanced_loss(logits, target, weight, self.loss), batch_size=len(target), prog_bar=True)
        found, true, seen = logits < 0, target < 0.5, weight > 0
        counts = [found & true & seen, found & ~true & seen, ~found & true & seen]
        self._counts.append(torch.stack([count.sum() for count in counts]))

    def on_validation_epoch_end(self) -> None:
        hit, false, missed = torch.stack(self._counts).sum(0).double()
        scores = {
            "precision": hit / (hit + false).clamp(min=1),
            "recall": hit / (hit + missed).clamp(min=1),
            "f1": 2 * hit / (2 * hit + false + missed).clamp(min=1),
        }
        for name, value in scores.items():
            self.log(f"val/{name}_boundary", value.float(), prog_bar=name == "f1")
