"""Learn which cells were stimulated: binary cross-entropy on one logit per cell.

The source presentation applies a sigmoid and BCELoss; the loss on logits is the same function, without its overflow.
"Lenient" is its rule of being right: the strongest output is one of the stimulated cells (or "none" on idle frames).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

# B batch, C outputs; labels are multi-hot, the last output may be "none"


def lenient_hits(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 where the strongest of the logits (B, C) is in the label set (B, C), else 0: (B,)."""
    return label.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]


class Classification(pl.LightningModule):
    """Train a classifier of frames with multi-hot labels.

    Args:
        model: frames (B, 1, H, W) -> logits (B, C).
        optimizer: parameters -> optimizer.
        schedule: "constant" or "cosine": the learning rate falls to zero over the whole training.
        pos_weight: weight of each output's positive frames against its negative ones; 1 is the source's loss.
        none_output: whether the last output means "no stimulation"; its recall is then logged.
    """

    metrics = {
        "train/loss": "min",
        "train/acc_lenient": "max",
        "val/loss": "min",
        "val/acc_lenient": "max",
        "val/acc_balanced": "max",
        "val/none_recall": "max",
    }

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: str,
        pos_weight: float,
        none_output: bool,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"task.schedule='{schedule}' is unknown; choose constant or cosine")
        self._schedule, self._none_output = schedule, none_output
        self.model = model
        self._make_optimizer = optimizer
        self._pos_weight = pos_weight
        # Hits and counts of each distinct label in a validation pass; the keys are label vectors.
        self._seen: dict[tuple[float, ...], list[float]] = {}

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, C)."""
        return self.model(batch["frames"])

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        logits = self(batch)
        loss = self._loss(logits, batch["label"])
        hits = lenient_hits(logits.detach(), batch["label"]).mean()
        self.log("train/loss", loss, batch_size=len(logits))
        self.log("train/acc_lenient", hits, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._seen = {}

    def validation_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> None:
        logits = self(batch)
        hits = lenient_hits(logits, batch["label"])
        self.log("val/loss", self._loss(logits, batch["label"]), batch_size=len(logits))
        self.log("val/acc_lenient", hits.mean(), batch_size=len(logits))
        for label, hit in zip(batch["label"].tolist(), hits.tolist(), strict=True):
            counts = self._seen.setdefault(tuple(label), [0.0, 0.0])
            counts[0] += hit
            counts[1] += 1

    def on_validation_epoch_end(self) -> None:
        recalls = {label: hit / count for label, (hit, count) in self._seen.items()}
        self.log("val/acc_balanced", sum(recalls.values()) / len(recalls))
        none = tuple([0.0] * (len(next(iter(recalls))) - 1) + [1.0])
        if self._none_output and none in recalls:
            self.log("val/none_recall", recalls[none])

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.parameters())
        if self._schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("task.schedule=cosine needs an end: set trainer.max_epochs or trainer.max_steps")
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def _loss(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        weight = torch.full_like(label[0], self._pos_weight)
        return functional.binary_cross_entropy_with_logits(logits, label, pos_weight=weight)
