import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from nissl.evaluators.result import Result
from nissl.runs.periodic import PeriodicEvaluation
from nissl.runs.problems import ConfigError
from nissl.runs.validate import check_command_line

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")


class Line(pl.LightningModule):
    metrics = {"train/loss": "min"}

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, index):
        return ((self.layer(batch) - torch.randn(len(batch), 1)) ** 2).mean()

    def validation_step(self, batch, index):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Slope:
    metrics = {"slope": "max"}

    def __init__(self):
        self.seen = []

    def __call__(self, task, data):
        torch.rand(7)  # an evaluator that uses chance must not change the training
        self.seen.append((task.training, data is not None))
        return Result({"slope": float(task.layer.weight.detach())})


class Numbers(pl.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(8.0)[:, None], batch_size=4)

    val_dataloader = train_dataloader


def train(*callbacks):
    pl.seed_everything(0, verbose=False)
    module = Line()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=4, log_every_n_steps=1, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, datamodule=Numbers())
    return module, trainer


def test_evaluators_are_logged_every_so_many_epochs_and_leave_the_training_as_it_was():
    slope = Slope()
    callback = PeriodicEvaluation(2, {"slope": slope})
    module, trainer = train(callback)
    assert slope.seen == [(False, True)] * 2
    assert callback.metrics == {"val/slope": "max"}
    assert float(trainer.callback_metrics["val/slope"]) == float(module.layer.weight.detach())
    alone, _ = train()
    assert torch.equal(alone.layer.weight, module.layer.weight)


def test_an_interval_below_one_epoch_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        PeriodicEvaluation(0, {})


def test_what_evaluators_log_while_training_may_choose_the_checkpoint():
    overrides = ["experiment=ffn_quick", "callbacks=[default,evaluation]", "callbacks.checkpoint.mode=min"]
    check_command_line("train", [*overrides, "callbacks.checkpoint.monitor=val/voi/sum"])
    with pytest.raises(ConfigError, match="nobody logs 'val/voi/summ'"):
        check_command_line("train", [*overrides, "callbacks.checkpoint.monitor=val/voi/summ"])
