"""What a person sees while a training runs, and how fast it is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

_NUM_METRICS = 6  # more do not fit on a line


def done_share(trainer: pl.Trainer, seconds: float) -> float | None:
    """How much of a training is done, 0..1, by whichever of steps, epochs and time ends it first; None: no limit."""
    shares = []
    if (trainer.max_steps or -1) > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if (trainer.max_epochs or -1) > 0:
        assert trainer.max_epochs is not None
        inside = trainer.fit_loop.epoch_loop.batch_progress.current.completed / max(1, trainer.num_training_batches)
        shares.append((trainer.current_epoch + min(inside, 1.0)) / trainer.max_epochs)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, pl.callbacks.Timer) and (left := callback.time_remaining()) is not None:
            spent = callback.time_elapsed()
            shares.append(spent / (spent + left))
    return min(1.0, max(shares)) if shares else None


def shown_metrics(trainer: pl.Trainer) -> str:
    """The newest training and validation metrics in one line."""
    found = {
        key: float(value)
        for key, value in trainer.callback_metrics.items()
        if key.startswith(("train/", "val/")) and not key.endswith(("_step", "_epoch"))
    }
    return "  ".join(f"{key} {value:.4g}" for key, value in list(found.items())[:_NUM_METRICS])


def shown_time(seconds: float) -> str:
    """`3:07`, or `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(Callback):
    """Step, metrics, speed and time left: a bar on a terminal, else at most a line every so many seconds.

    Args:
        every_seconds: shortest time between two lines; a validation may come sooner.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        self.every_seconds = every_seconds
        self._last = self._started = 0.0
        self._share_at_start = 0.0
        self._batches = 0
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._last = time.monotonic()
        self._share_at_start = done_share(trainer, 0.0) or 0.0
        self._batches = 0
        count = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        if trainer.is_global_zero:
            print(f"Training {type(pl_module).__name__}: {count:,} parameters on {pl_module.device}", flush=True)
        if sys.stdout.isatty() and trainer.is_global_zero:
            self._bar = _bar()
            self._bar.start()
            self._bar.add_task("", total=1.0, text="")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._batches += 1
        since = time.monotonic() - self._last
        if self._bar is not None and since >= 0.2:
            self._draw(trainer)
        elif self._bar is None and since >= self.every_seconds:
            self._line(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        if self._bar is not None:
            self._draw(trainer)
        elif time.monotonic() - self._last >= min(2.0, self.every_seconds):
            self._line(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._draw(trainer)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _state(self, trainer: pl.Trainer) -> tuple[float | None, str]:
        """Share done, and what is said of it."""
        seconds = time.monotonic() - self._started
        share = done_share(trainer, seconds)
        text = f"epoch {trainer.current_epoch}  step {trainer.global_step}  {shown_time(seconds)}"
        here = (share or 0.0) - self._share_at_start
        if share is not None and here > 0:
            text += f"  left {shown_time(seconds * (1 - share) / here)}"
        if seconds > 0:
            text += f"  {self._batches / seconds:.3g} batches/s"
        return share, f"{text}  {shown_metrics(trainer)}"

    def _draw(self, trainer: pl.Trainer) -> None:
        self._last = time.monotonic()
        share, text = self._state(trainer)
        self._bar.update(self._bar.task_ids[0], completed=share or 0.0, total=None if share is None else 1.0, text=text)

    def _line(self, trainer: pl.Trainer) -> None:
        self._last = time.monotonic()
        if trainer.is_global_zero:
            print(f"  {self._state(trainer)[1]}", flush=True)


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    # The text wraps where the terminal is narrow; the bar keeps its length.
    bar = BarColumn(bar_width=16, table_column=Column(width=16))
    share = TaskProgressColumn(table_column=Column(width=4))
    return Progress(bar, share, TextColumn("{task.fields[text]}", table_column=Column(ratio=1)), expand=True)


class Speed(Callback):
    """Logs samples per second and memory under `system/`, which no summary holds: they differ between repeats.

    A sample is one item of the data set: a subvolume, a neuron, a frame. Waiting for data counts, validation does not.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._batches = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since, self._batches = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        # Among the metrics of the step, so that a dashboard is called once and not twice.
        if self._since is None or not trainer._logger_connector.should_update_logs:
            return
        seconds = time.monotonic() - self._since
        loader: Any = trainer.train_dataloader
        samples = self._batches * int(getattr(loader, "batch_size", None) or 1) * trainer.world_size
        pl_module.log("system/samples_per_second", samples / max(seconds, 1e-9), batch_size=1)
        pl_module.log("system/memory_mb", memory_mb(), batch_size=1)
        self._since, self._batches = time.monotonic(), 0


def memory_mb() -> float:
    """Most memory the process has held: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)
