"""A small training with dropout, a schedule and random augmentation; can kill itself at (epoch, batch)."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from nissl.datasets.datamodule import DataModule
from nissl.runs.callbacks import Checkpoints, LocalRecord, RandomState
from nissl.runs.evaluation import summarise_training


class Sums(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, length: int, noisy: bool) -> None:
        self.x = torch.randn(length, 8, generator=torch.Generator().manual_seed(1))
        self.noisy = noisy

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> dict[str, torch.Tensor]:
        x = self.x[int(index)]
        noise = np.random.default_rng(getattr(index, "seed", int(index))).normal(size=8).astype(np.float32)
        return {"x": x + 0.1 * torch.from_numpy(noise) if self.noisy else x, "y": x.sum(0, keepdim=True)}


class Source:
    files: list[Path] = []

    def split(self, name: Literal["train", "val", "test"]) -> Sums:
        return Sums(103 if name == "train" else 20, noisy=name == "train")


class Regression(pl.LightningModule):
    metrics = {"train/loss_step": "min", "train/loss_epoch": "min", "val/loss": "min"}

    def __init__(self, kill: str, manual: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))
        self.kill = None if kill == "never" else tuple(int(part) for part in kill.split(","))
        self.automatic_optimization = not manual

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (self.model(batch["x"]) - batch["y"]).square().mean()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.kill == (self.current_epoch, batch_idx):
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            for _ in range(3):
                optimizer.zero_grad()
                loss = self.loss(batch)
                self.manual_backward(loss)
                optimizer.step()
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


if __name__ == "__main__":
    folder, kill, workers, batches, manual, limit = sys.argv[1:]
    root = Path(folder)
    (root / "checkpoints").mkdir(exist_ok=True)
    pl.seed_everything(0, verbose=False)
    task = Regression(kill, manual == "manual")
    trainer = pl.Trainer(
        **{limit.split("=")[0]: int(limit.split("=")[1])},  # type: ignore[arg-type]
        accelerator="cpu",
        default_root_dir=root,
        logger=[LocalRecord(root)],
        callbacks=[Checkpoints("val/loss"), RandomState()],
        num_sanity_val_steps=0,
        log_every_n_steps=3,
        enable_progress_bar=False,
    )
    last = root / "checkpoints" / "last.ckpt"
    data = DataModule(Source(), 10, int(workers), seed=3, batches_per_epoch=None if batches == "none" else int(batches))
    trainer.fit(task, data, ckpt_path=last if last.exists() else None, weights_only=True)
    summarise_training(root, Regression)
