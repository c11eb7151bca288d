"""A killed training ends with the numbers of one that was not, whatever the epoch length and number of workers."""

import os
import sys
from pathlib import Path

import pytest
import torch

from nissl.runs.callbacks import Checkpoints, LocalRecord, RandomState
from nissl.runs.folder import read_json
from nissl.runs.records import read_metrics
from nissl.runs.warm_start import WarmStart

TOY = Path(__file__).parent / "toy_training.py"


def train(
    warm: WarmStart,
    folder: Path,
    kill: str = "never",
    workers: int = 0,
    batches: str = "none",
    manual: str = "auto",
    limit: str = "max_epochs=5",
) -> int:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(TOY), str(folder), kill, str(workers), batches, manual, limit]
    return warm.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


@pytest.mark.parametrize(
    "options",
    [
        {"batches": "none", "manual": "auto", "limit": "max_epochs=5"},
        {"batches": "13", "manual": "manual", "limit": "max_steps=170"},  # three steps a batch: ends in mid-epoch
        {"batches": "none", "manual": "auto", "limit": "max_steps=44"},
    ],
)
def test_a_run_killed_twice_ends_as_an_uninterrupted_one(
    warm: WarmStart, tmp_path: Path, options: dict[str, str]
) -> None:
    assert train(warm, tmp_path / "whole", **options) == 0
    assert train(warm, tmp_path / "killed", "1,3", **options) == -9
    assert train(warm, tmp_path / "killed", "3,7", workers=2, **options) == -9
    assert train(warm, tmp_path / "killed", **options) == 0
    whole, killed = (read_json(tmp_path / name / "summary.json") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and "train/loss_epoch/last" in whole
    assert killed == pytest.approx(whole, rel=0, abs=1e-6)
    last = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "killed")]
    for name, tensor in last[0]["state_dict"].items():
        torch.testing.assert_close(last[1]["state_dict"][name], tensor, rtol=0, atol=0)


def test_best_is_the_checkpoint_of_the_lowest_monitored_value(warm: WarmStart, tmp_path: Path) -> None:
    assert train(warm, tmp_path) == 0
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "val/loss" in row]
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == min(rows, key=lambda row: row["val/loss"])["epoch"]
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_mode_is_min_or_max() -> None:
    with pytest.raises(ValueError, match="min or max, came 'lowest'"):
        Checkpoints("val/loss", mode="lowest")


def test_the_random_state_comes_back() -> None:
    callback = RandomState()
    state = callback.state_dict()
    first = torch.rand(3)
    callback.load_state_dict(state)
    callback.on_train_start(None, None)  # type: ignore[arg-type]
    torch.testing.assert_close(torch.rand(3), first, rtol=0, atol=0)


def test_nan_is_written_as_null_and_read_as_nan(tmp_path: Path) -> None:
    LocalRecord(tmp_path).log_metrics({"train/loss": float("nan"), "epoch": 2.0}, step=7)
    assert '"train/loss": null' in (tmp_path / "metrics.jsonl").read_text()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["step"] == 7 and row["epoch"] == 2 and row["train/loss"] != row["train/loss"]
