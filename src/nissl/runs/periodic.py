"""Evaluators while a run trains: their scalars become logged metrics, which may choose the best checkpoint."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng

from nissl.runs.records import Direction

PREFIX = "val/"


class PeriodicEvaluation(pl.Callback):
    """Runs evaluators at the end of some validations and logs what they say as `val/<metric>`.

    Evaluators that look at a split must be given the validation one: what chooses a checkpoint is not a test.

    Args:
        every_n_epochs: between two evaluations; the first comes after this many.
        evaluators: name -> evaluator, as in the config group `evaluator`.
    """

    def __init__(self, every_n_epochs: int, evaluators: dict[str, Any]) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"callbacks.evaluation.every_n_epochs must be at least 1, came {every_n_epochs}")
        self.every_n_epochs, self.evaluators = every_n_epochs, evaluators

    @property
    def metrics(self) -> dict[str, Direction]:
        """What this logs, and which way is better."""
        return {PREFIX + name: way for each in self.evaluators.values() for name, way in type(each).metrics.items()}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        training = pl_module.training
        with isolate_rng():
            pl_module.eval()
            for evaluator in self.evaluators.values():
                result = evaluator(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
                for name, value in result.scalars.items():
                    pl_module.log(PREFIX + name, float(value), rank_zero_only=True)
        pl_module.train(training)
