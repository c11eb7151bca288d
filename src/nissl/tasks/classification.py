"""Learn which cells were stimulated: binary cross-entropy on one logit per cell.

The source presentation applies a sigmoid and BCELoss; the loss on logits is the same function, without its overflow.
"Lenient" is its rule of being right: the strongest output is one of the stimulated cells (or "none" on idle frames).
Ours: positive frames may weigh more, and training may stop once the (unvaried) training frames are known, because maps
are read from a network that has learned them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

# B batch, C outputs; labels are multi-hot, the last output may be "none"
MAX_POS_WEIGHT = 20.0  # "balanced" weights are clipped here: a rare cell must not drown the others
FRAMES_AT_ONCE = 256  # when training accuracy is asked for


def lenient_hits(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 where the strongest of the logits (..., C) is in the label set (..., C), else 0: (...)."""
    return label.gather(-1, logits.argmax(dim=-1, keepdim=True))[..., 0]


def balanced_weights(labels: torch.Tensor) -> torch.Tensor:
    """Negative frames per positive one of each output (C,), from training labels (F, C); 1 to `MAX_POS_WEIGHT`."""
    positive = labels.sum(dim=0)
    return ((len(labels) - positive) / positive.clamp(min=1)).clamp(1.0, MAX_POS_WEIGHT)


class TrainedNetwork:
    """One of a task's networks, to be called by evaluators as a task is.

    Attributes:
        seed: of its weights and data.
        day: the day it was trained on; None for all.
        model: frames (B, 1, H, W) -> logits (B, C).
        fold: which share of the groups is its test part; 0 without cross-validation.
        leaky: whether it was trained on the split that measures leakage.
    """

    def __init__(self, seed: int, day: str | None, model: nn.Module, fold: int = 0, leaky: bool = False) -> None:
        self.seed, self.day, self.model, self.fold, self.leaky = seed, day, model, fold, leaky

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, C)."""
        return self.model(batch["frames"])

    def accuracy(self, source: Any, part: str) -> float:
        """Lenient accuracy on the unvaried frames of a part."""
        was_training = self.model.training
        self.model.eval()
        hits: list[torch.Tensor] = []
        with torch.no_grad():
            for batch in DataLoader(source.unvaried(part), batch_size=FRAMES_AT_ONCE):
                frames, label = batch["frames"].to(self.device), batch["label"].to(self.device)
                hits.append(lenient_hits(self.model(frames), label))
        self.model.train(was_training)
        return float(torch.cat(hits).mean())


class Classification(pl.LightningModule):
    """Train a classifier of frames with multi-hot labels.

    Args:
        model: frames (B, 1, H, W) -> logits (B, C).
        optimizer: parameters -> optimizer.
        schedule: "constant" or "cosine": the learning rate falls to zero over the whole training.
        pos_weight: weight of each output's positive frames against its negative ones: a number (1 is the source's
            loss), one per output, or "balanced".
        none_output: whether the last output means "no stimulation"; its recall is then logged.
        stop_at_train_acc: stop after the epoch in which lenient accuracy on the unvaried training frames reaches this;
            None trains to the end.
    """

    metrics = {
        "train/loss": "min",
        "train/acc_lenient": "max",
        "train/acc_unvaried": "max",
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
        pos_weight: float | str | list[float],
        none_output: bool,
        stop_at_train_acc: float | None,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"task.schedule='{schedule}' is unknown; choose constant or cosine")
        if isinstance(pos_weight, str) and pos_weight != "balanced":
            raise ValueError(f"task.pos_weight='{pos_weight}' is unknown; use a number, one per output, or balanced")
        if stop_at_train_acc is not None and not 0 < stop_at_train_acc <= 1:
            raise ValueError(f"task.stop_at_train_acc must be in (0, 1], came {stop_at_train_acc}")
        self._schedule, self._none_output, self._stop_at = schedule, none_output, stop_at_train_acc
        self.model = model
        self._make_optimizer = optimizer
        self._pos_weight = pos_weight if isinstance(pos_weight, str) else torch.tensor(pos_weight)
        # Hits and counts of each distinct label in a validation pass; the keys are label vectors.
        self._seen: dict[tuple[float, ...], list[float]] = {}

    @property
    def networks(self) -> list[TrainedNetwork]:
        """The trained network, as evaluators of several networks want it."""
        return [TrainedNetwork(0, None, self.model)]

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, C)."""
        return self.model(batch["frames"])

    def on_fit_start(self) -> None:
        if self._pos_weight == "balanced":
            source = self.trainer.datamodule.source  # type: ignore[attr-defined]
            self._pos_weight = balanced_weights(
                torch.from_numpy(source.labels[source.table.pattern[source.rows("train")]])
            )

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        logits = self(batch)
        loss = self._loss(logits, batch["label"])
        hits = lenient_hits(logits.detach(), batch["label"]).mean()
        self.log("train/loss", loss, batch_size=len(logits))
        self.log("train/acc_lenient", hits, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def on_train_epoch_end(self) -> None:
        if self._stop_at is None:
            return
        source = self.trainer.datamodule.source  # type: ignore[attr-defined]
        reached = min(
            network.accuracy(source if network.day is None else source.of_day(network.day), "train")
            for network in self.networks
        )
        self.log("train/acc_unvaried", reached)
        if reached >= self._stop_at:
            self.trainer.should_stop = True

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
        assert isinstance(self._pos_weight, torch.Tensor), "balanced weights are set when fitting starts"
        weight = self._pos_weight.to(label).expand(label.shape[-1])
        return functional.binary_cross_entropy_with_logits(logits, label, pos_weight=weight)
