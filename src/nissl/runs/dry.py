"""`python train.py ... --dry`: what would be trained, and what it would cost, measured on three batches.

Nothing is written. FLOPs are counted by torch (multiplications and additions of matrix products, convolutions and
attention, forward and backward), so element-wise work is left out.
"""

from __future__ import annotations

import logging
import tempfile
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nissl.runs.compose import compose_config, instantiate, resolve
from nissl.runs.progress import memory_mb, shown_time
from nissl.runs.weights import build_model

_BATCHES = 3
_DEPTH = 2  # of the model tree


class _Cost(Callback):
    """FLOPs of the first batch; wall time of the others; shapes of the batch."""

    def __init__(self) -> None:
        self.flops = 0
        self.seconds: list[float] = []
        self.batch: list[str] = []
        self._counter: Any = None
        self._since = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.batch = list(shapes(batch))
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
        self._since = time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._counter.__exit__(None, None, None)
            self.flops = self._counter.get_total_flops()
        else:
            self.seconds.append(time.monotonic() - self._since)


def dry_run(overrides: list[str]) -> str:
    """Build everything, train three batches in a temporary folder, and describe it."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    cfg = resolve(compose_config("train", [*overrides, "logger=[]"]))
    from nissl.datasets.datamodule import DataModule

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = DataModule(instantiate(cfg.dataset), seed=cfg.seed, **cfg.loader)
    task = instantiate(cfg.task, model=build_model(cfg.model))
    before = memory_mb()
    cost = _Cost()
    with tempfile.TemporaryDirectory() as folder:
        limits = {"limit_train_batches": _BATCHES, "limit_val_batches": 0, "max_epochs": 1, "max_steps": -1}
        trainer = instantiate(
            {**cfg.trainer, **limits, "max_time": None, "devices": 1, "strategy": "auto"},
            default_root_dir=folder,
            logger=False,
            callbacks=[cost],
            enable_checkpointing=False,
        )
        trainer.fit(task, data)
    batches = cfg.loader.get("batches_per_epoch") or len(data.train_dataloader())
    lines = ["Model", *tree(task.model), "", "Batch", *(f"  {line}" for line in cost.batch), ""]
    per_sample = cost.flops / cfg.loader.batch_size
    lines.append(f"FLOPs per sample: {per_sample:.3g} (forward and backward of one step)")
    lines.append(f"Memory: {memory_mb():.0f} MB at most, {max(0.0, memory_mb() - before):.0f} MB of it by training")
    seconds = sum(cost.seconds) / max(1, len(cost.seconds))
    speed = cfg.loader.batch_size / seconds if seconds else float("nan")
    lines.append(f"Speed: {seconds:.3g} s per batch, {speed:.3g} samples/s, waiting for data not counted")
    lines.append(f"Time: {_whole_time(cfg.trainer, batches, seconds)}")
    return "\n".join(lines)


def _whole_time(trainer: Any, batches: int, seconds: float) -> str:
    """An estimate of the training alone: validation and evaluators come on top."""
    limits = []
    if (trainer.get("max_epochs") or -1) > 0:
        limits.append((f"{trainer.max_epochs} epochs of {batches} batches", trainer.max_epochs * batches * seconds))
    if (trainer.get("max_steps") or -1) > 0:
        limits.append((f"{trainer.max_steps} steps", trainer.max_steps * seconds))
    if trainer.get("max_time"):
        days, hours, minutes, rest = (int(part) for part in str(trainer.max_time).split(":"))
        limits.append((f"max_time={trainer.max_time}", ((days * 24 + hours) * 60 + minutes) * 60.0 + rest))
    if not limits:
        return "no limit is set (trainer.max_epochs, max_steps, max_time)"
    what, total = min(limits, key=lambda limit: limit[1])
    return f"about {shown_time(total)} for {what}"


def tree(model: nn.Module, depth: int = _DEPTH) -> list[str]:
    """Module tree with the parameters of each part."""
    rows: list[tuple[str, str, int]] = []

    def visit(module: nn.Module, name: str, level: int) -> None:
        rows.append(("  " * level + name, type(module).__name__, sum(p.numel() for p in module.parameters())))
        if level < depth:
            for child, part in module.named_children():
                visit(part, child, level + 1)

    visit(model, "model", 0)
    width, kind = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    return [f"  {name:<{width}}  {what:<{kind}}  {count:>14,}" for name, what, count in rows]


def shapes(batch: Any, name: str = "batch") -> Any:
    """`name  (32, 1, 64, 64) float32` for every tensor of a batch."""
    if isinstance(batch, torch.Tensor):
        yield f"{name}  {tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}"
    elif isinstance(batch, list | tuple):
        for index, item in enumerate(batch):
            yield from shapes(item, f"{name}[{index}]")
    else:
        fields = batch.to_dict() if hasattr(batch, "to_dict") else batch
        for key, value in fields.items() if isinstance(fields, dict) else []:
            yield from shapes(value, str(key))
