"""What a training writes by itself: metrics.jsonl and checkpoints; and the random state it resumes with.

Checkpoints are taken at the end of epochs only. There, and only there, the state is whole: no half-summed epoch
metric, no half-used order of the data. Whatever kills a run, it goes on from the last whole epoch and ends with the
same numbers; `loader.batches_per_epoch` bounds what is computed twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)


class LocalRecord(Logger):
    """The record that is always kept: appends to metrics.jsonl, one flushed line per logged step.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.jsonl"
        self._is_whole = False

    @property
    def name(self) -> str:
        return "local"

    @property
    def version(self) -> str:
        return self.path.parent.name

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        if not values:
            return
        row = {
            "step": int(step or 0),
            "epoch": int(metrics.get("epoch", 0)),
            "time": time.time(),
            **{key: value if math.isfinite(value) else None for key, value in values.items()},
        }
        try:
            # A line cut short by a kill or a full disk must not swallow the one after it.
            start = b"" if self._is_whole or self._ends_whole() else b"\n"
            self._is_whole = False
            with open(self.path, "ab") as file:
                file.write(start + json.dumps(row).encode() + b"\n")
            self._is_whole = True
        except OSError as error:
            advice = f"{error.strerror}; free space and repeat with resume=auto"
            raise OSError(error.errno, advice, str(self.path)) from None

    def _ends_whole(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml already."""


class Checkpoints(Checkpoint):
    """`checkpoints/last.ckpt` after every epoch and `best.ckpt` by a monitored metric, each replaced whole.

    A checkpoint written at the end of an epoch takes effect only after that epoch's metrics are on disk (at the next
    hook), so a kill in between repeats the epoch instead of losing its metrics.

    Args:
        monitor: name of a logged metric; null: the last weights are the best.
        mode: `min` or `max`.
    """

    def __init__(self, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ValueError(f"callbacks.checkpoint.mode must be min or max, came {mode!r}")
        self.monitor, self.mode = monitor, mode
        self.best: float | None = None
        self._pending: list[str] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        value = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        if self._is_better(value):
            assert value is not None
            self.best = float(value)
            self._pending.append("best.ckpt")
        self._pending.append("last.ckpt")
        try:
            trainer.save_checkpoint(folder / "next.ckpt.tmp")
        except OSError as error:
            (folder / "next.ckpt.tmp").unlink(missing_ok=True)
            self._pending = []
            raise OSError(
                error.errno,
                f"{error.strerror} while writing a checkpoint; last.ckpt is that of the epoch before: free space and "
                "repeat with resume=auto",
                str(folder),
            ) from None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """State that the epoch is over.

        Lightning counts an epoch as completed only after this hook, and a resumed run limited by steps would then go
        through the epoch's end once more, without batches, and leave out the data of the next one.
        """
        progress = checkpoint["loops"]["fit_loop"]
        for count in ("total", "current"):
            epochs = progress["epoch_progress"][count]
            epochs["completed"] = epochs["processed"]
        batches = progress["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Nothing is half done at the end of an epoch. Lightning takes every run limited by steps for a restart in
        # mid-epoch and would count one batch that never was.
        fit_loop = trainer.fit_loop
        for loop in (fit_loop, fit_loop.epoch_loop, fit_loop.epoch_loop.val_loop):
            loop._restarting = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._publish(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._publish(trainer)

    @rank_zero_only
    def _publish(self, trainer: pl.Trainer) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        if "best.ckpt" in self._pending:
            (folder / "best.ckpt.tmp").unlink(missing_ok=True)
            os.link(folder / "next.ckpt.tmp", folder / "best.ckpt.tmp")
            os.replace(folder / "best.ckpt.tmp", folder / "best.ckpt")
        if self._pending:
            os.replace(folder / "next.ckpt.tmp", folder / "last.ckpt")
        self._pending = []

    def _is_better(self, value: torch.Tensor | None) -> bool:
        if value is None or bool(torch.isnan(value)):
            return False
        if self.best is None:
            return True
        return float(value) < self.best if self.mode == "min" else float(value) > self.best

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class RandomState(Callback):
    """Saves the global random states with every checkpoint and restores them before the first resumed epoch.

    Of a distributed training, those of all processes: each goes on with its own. Resumed with more processes than it
    was saved with, the further ones begin with states of their own seed.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        version, internal, gauss = random.getstate()
        _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        state: dict[str, Any] = {
            "torch": torch.get_rng_state(),
            "python": [version, list(internal), gauss],
            "numpy": [
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                int(position),
                int(has_gauss),
                float(cached),
            ],
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return {"processes": _of_all_processes(state)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = state_dict.get("processes", [state_dict])  # checkpoints of before hold that of the first process
        rank = torch.distributed.get_rank() if _is_distributed() else 0
        self._restored = states[rank] if rank < len(states) else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state, self._restored = self._restored, None
        if state is None:
            return
        torch.set_rng_state(state["torch"].cpu())
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_all_processes(value: dict[str, Any]) -> list[dict[str, Any]]:
    """A value of each process, in the order of their ranks; every process must ask."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
