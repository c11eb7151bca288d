"""Runs replayed into dashboards and read back with the dashboards' own tools."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nissl.evaluators.result import Figure

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody watched."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    for name in ("figures", "tables", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"format: 1\nseed: 3\nrun_id: first-abc\ngroup: quick\nruns_dir: {folder.parent}\nmodel:\n  depth: 7\n"
    )
    rows = [{"step": s, "epoch": s // 5, "time": 1.0 + s, "train/loss": 1 / (s + 1)} for s in range(10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text('{"knn/accuracy": 0.75, "train/loss/last": 0.1, "zncc/sum": null}')
    (folder / "figures/knn_confusion.png").write_bytes(Figure.from_array(np.zeros((8, 8, 3), np.uint8), "").png)
    index = {"knn_confusion.png": {"caption": "Confusion.", "evaluator": "knn", "data": []}}
    (folder / "figures/index.json").write_text(json.dumps(index))
    (folder / "tables/knn_classes.csv").write_text("class,accuracy\na,0.5\nb,1.0\n")
    (folder / "checkpoints/best.ckpt").write_bytes(b"weights")
    return folder


def sync(run: Path, target: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    home = {"HOME": str(run.parent / "home"), "NETRC": str(run.parent / "none")}
    command = [str(BIN / "nissl"), "sync", str(run), "--to", target]
    done = subprocess.run(command, capture_output=True, text=True, env={**clean, **home, **environment}, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wandb_records(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and records of the only offline run, as wandb itself reads them."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    command = [str(BIN / "wandb"), "leet", "inspect", "--json", str(file)]
    summary, records = (
        subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=True).stdout
        for more in (["--summary"], [])
    )
    return json.loads(summary), [json.loads(line) for line in records.splitlines()]


@pytest.mark.e2e
def test_a_run_goes_to_wandb_once_with_config_summary_curves_images_and_weights(run: Path) -> None:
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}  # a key, and no network
    assert "10 steps, 2 results, 1 figures, 1 tables" in sync(run, "wandb", **key)
    assert "wandb has it all" in sync(run, "wandb")
    summary, records = wandb_records(run)
    text = json.dumps(summary)
    assert '"knn/accuracy"' in text and "0.75" in text and '"model/depth"' in text
    everything = json.dumps(records)
    steps = [record for record in records if record.get("type") == "history" and "train/loss" in json.dumps(record)]
    assert len(steps) == 10
    for expected in (
        "first-abc",
        "quick",
        "knn/confusion",
        "images/separated",
        "knn/classes",
        "best.ckpt/blake2b",
        "model",
    ):
        assert expected in everything, expected


@pytest.mark.e2e
def test_a_run_goes_to_trackio_once(run: Path) -> None:
    assert "10 steps" in sync(run, "trackio") and "trackio has it all" in sync(run, "trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(run.parent / ".trackio")}
    command = [
        str(BIN / "trackio"),
        "get",
        "metric",
        "--project",
        "nissl",
        "--run",
        "first-abc",
        "--metric",
        "train/loss",
    ]
    answer = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, check=True)
    assert [row["value"] for row in json.loads(answer.stdout)["values"]] == pytest.approx([1 / n for n in range(1, 11)])


@pytest.mark.e2e
def test_a_run_goes_to_tensorboard(run: Path) -> None:
    assert "10 steps" in sync(run, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(10))
    assert events.Tags()["images"] == ["knn/confusion"]
