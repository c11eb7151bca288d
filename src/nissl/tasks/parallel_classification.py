"""Train several classifiers side by side: one per seed and day, or one per seed for all days.

One run, one record, one command for what the source presentation's comparison of days needs: networks that differ by
their seed. Each learns from its own frames, in its own order; the loss is the sum of theirs, so no gradient and no
state of the optimizer is shared. (A clipped gradient would be: `trainer.gradient_clip_val` clips their common norm.)
"""

from __future__ import annotations

from typing import Any

import torch

from nissl.models.stimulus_networks import StimulusNetworks
from nissl.tasks.classification import Classification, TrainedNetwork, lenient_hits

# B batch, M networks, C outputs


class ParallelClassification(Classification):
    """Train the networks of a `StimulusNetworks`.

    Args:
        model: frames (B, M, 1, H, W) -> logits (B, M, C).
        optimizer, schedule, pos_weight, none_output: see `Classification`.
        stop_at_train_acc: stop when the worst of the networks reaches it.
    """

    # Mean over networks, but for `train/acc_unvaried`, which is the worst network's.
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
        model: StimulusNetworks,
        optimizer: Any,
        schedule: str,
        pos_weight: float | str | list[float],
        none_output: bool,
        stop_at_train_acc: float | None,
    ) -> None:
        super().__init__(model, optimizer, schedule, pos_weight, none_output, stop_at_train_acc)
        if not isinstance(model, StimulusNetworks):
            raise ValueError(f"task=parallel_classification needs model=stimulus_networks, came {type(model).__name__}")

    @property
    def members(self) -> list[TrainedNetwork]:
        """All networks, in the order of the source's `networks`."""
        assert isinstance(self.model, StimulusNetworks)
        pairs = zip(self.model.members, self.model.networks, strict=True)
        return [TrainedNetwork(seed, day, net, fold, leaky) for (seed, day, fold, leaky), net in pairs]

    @property
    def networks(self) -> list[TrainedNetwork]:
        """Those of the source's own split, and of the first fold: what its parts hold for."""
        return [network for network in self.members if network.fold == 0 and not network.leaky]

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        logits = self(batch)  # (B, M, C)
        loss = self._loss(logits, batch["label"])
        hits = lenient_hits(logits.detach(), batch["label"]).mean()
        self.log("train/loss", loss, batch_size=len(logits))
        self.log("train/acc_lenient", hits, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss * logits.shape[1]  # the sum over networks: each gets the gradient it would get alone

    def validation_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> None:
        """Frames of all days (B, 1, H, W): each network answers for its own day."""
        days = self.trainer.datamodule.source.days  # type: ignore[attr-defined]
        for network in self.networks:
            own = slice(None) if network.day is None else batch["day"] == days.index(network.day)
            frames, label = batch["frames"][own], batch["label"][own]
            if len(label) == 0:
                continue
            logits = network.model(frames)
            hits = lenient_hits(logits, label)
            self.log("val/loss", self._loss(logits, label), batch_size=len(label))
            self.log("val/acc_lenient", hits.mean(), batch_size=len(label))
            for vector, hit in zip(label.tolist(), hits.tolist(), strict=True):
                counts = self._seen.setdefault(tuple(vector), [0.0, 0.0])
                counts[0] += hit
                counts[1] += 1
