"""Learning the class of each voxel from painted labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -1


def class_indices(values: Tensor, classes: Mapping[str, Sequence[int]]) -> Tensor:
    """The place in `classes` of each painted value, same shape; -1 for values that no class names."""
    out = torch.full_like(values, IGNORED)
    for index, painted in enumerate(classes.values()):
        out[torch.isin(values, torch.tensor(list(painted), device=values.device))] = index
    return out


class Tissue(pl.LightningModule):
    """Task for networks image -> class logits (B, C, Z, Y, X), with `dataset.patches.target=labels`.

    Args:
        model: the network.
        optimizer: partial of a torch optimizer, called with the parameters.
        classes: name -> painted values; a value that none names has no part in the loss.
        decay_steps: the learning rate falls along a cosine to 2 % until this step; null keeps it constant.
    """

    metrics = {"train/loss": "min", "val/loss": "min", "val/accuracy": "max", "val/mean_iou": "max"}

    def __init__(
        self, model: nn.Module, optimizer: Any, classes: Mapping[str, Sequence[int]], decay_steps: int | None
    ) -> None:
        super().__init__()
        painted = [value for values in classes.values() for value in values]
        if len(classes) < 2 or len(set(painted)) != len(painted):
            raise ValueError(f"task.classes needs two classes or more, and each value in one of them, came {classes}")
        self.model, self.make_optimizer, self.decay_steps = model, optimizer, decay_steps
        self.classes = {name: list(values) for name, values in classes.items()}
        self._confusion: list[Tensor] = []

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

    def _logits_and_truth(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.model(batch["image"]).float()
        if logits.shape[1] != len(self.classes):
            raise ValueError(
                f"the network answers with {logits.shape[1]} classes, task.classes has {len(self.classes)}"
            )
        truth = class_indices(batch["label"][:, 0], self.classes)
        if "weight" in batch:
            truth = torch.where(batch["weight"][:, 0] > 0, truth, IGNORED)
        return logits, truth

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        logits, truth = self._logits_and_truth(batch)
        loss = _mean_cross_entropy(logits, truth)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._confusion = []

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        logits, truth = self._logits_and_truth(batch)
        self.log("val/loss", _mean_cross_entropy(logits, truth), batch_size=len(logits), prog_bar=True)
        known = truth != IGNORED
        num = len(self.classes)
        pairs = truth[known] * num + logits.argmax(1)[known]
        self._confusion.append(torch.bincount(pairs, minlength=num * num).reshape(num, num))

    def on_validation_epoch_end(self) -> None:
        table = torch.stack(self._confusion).sum(0).double()
        hit, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
        self.log("val/accuracy", (hit.sum() / table.sum().clamp(min=1)).float(), prog_bar=True)
        self.log("val/mean_iou", (hit[union > 0] / union[union > 0]).mean().float(), prog_bar=True)


def _mean_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Over voxels whose class is known; 0 of none."""
    total = F.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="sum")
    return total / (truth != IGNORED).sum().clamp(min=1)
