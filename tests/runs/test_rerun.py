"""A run repeated from its folder, evaluated after its configuration has aged, stopped by signals and full disks."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from nissl.runs.callbacks import LocalRecord
from nissl.runs.compose import compose_config, conf_dir, resolve
from nissl.runs.evaluation_config import compose_evaluation
from nissl.runs.folder import read_json
from nissl.runs.migration import migrated
from nissl.runs.origins import ConfigTree
from nissl.runs.records import read_metrics
from nissl.runs.rerun import agreement, rerun_overrides
from nissl.runs.warm_start import WarmProcess, WarmStart

ROOT = conf_dir().parent
PROGRAMS = Path(sys.executable).parent
SMALL = [
    "experiment=calcium_quick",
    "evaluator=[stimulus]",
    "logger=[]",
    "dataset.trials=5",
    "dataset.num_cells=20",
    "dataset.pairs=false",
    "loader.batches_per_epoch=2",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
]


def train(warm: WarmStart, *overrides: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A short training; further keywords are environment variables."""
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, *overrides]
    return warm.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", **more}, timeout=400)


def start(warm: WarmStart, overrides: list[str], env: dict[str, str], log: Path) -> WarmProcess:
    with log.open("ab") as file:
        command = [sys.executable, str(ROOT / "train.py"), *overrides]
        return warm.start(command, file.fileno(), file.fileno(), env={**env, "OMP_NUM_THREADS": "1"})


def wait_for(path: Path, process: WarmProcess) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def run(warm: WarmStart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = train(warm, f"run_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def recorded(run: Path) -> dict[str, Any]:
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert isinstance(values, dict)
    return values


def movie(folder: Path) -> list[str]:
    """A small movie with two classes of frames, as a file; the overrides that read it."""
    generator = np.random.default_rng(0)
    speed = np.repeat(np.arange(30) % 2, 10)
    frames = generator.normal(100, 5, (300, 32, 32)) + 40 * speed[:, None, None] * (np.arange(32) < 16)
    np.save(folder / "movie.npy", frames.astype(np.float32))
    (folder / "speed.csv").write_text("speed\n" + "\n".join(map(str, speed)) + "\n")
    files = [f"dataset.path={folder / 'movie.npy'}", f"dataset.covariate_path={folder / 'speed.csv'}"]
    classes = ["dataset.covariate=speed", "dataset.class_edges=[0.5]", "dataset.class_names=[slow,fast]"]
    split = ["dataset.num_outputs=2", "dataset.fps=10", "dataset.block_frames=10", "dataset.split_group=block"]
    return ["experiment=calcium_quick", "dataset=calcium_movie", *files, *classes, *split]


@pytest.mark.e2e
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git clone: nothing to compare the code with")
def test_a_run_is_verified_and_repeated_after_its_folder_the_code_and_the_data_were_touched(
    warm: WarmStart, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    own = [*movie(tmp_path / "data"), "~dataset.success", "~dataset.spontaneous_hz", "evaluator=[]", "logger=[]"]
    own += ["loader.batches_per_epoch=3", "trainer.max_epochs=2"]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    there = {**os.environ, "PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(clone / "train.py"), *own, f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=there, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    first = read_json(tmp_path / "run/summary.json")

    def verify(status: int) -> str:
        command = [sys.executable, "-m", "nissl.cli", "verify", str(tmp_path / "moved")]
        done = subprocess.run(command, env=there, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "run").rename(tmp_path / "moved")
    assert f"note   folder    was {tmp_path / 'run'}" in verify(0)
    unrelated = clone / "src/nissl/simulate/em.py"
    unrelated.write_text(unrelated.read_text() + "# no more\n")
    os.utime(tmp_path / "data/movie.npy", (1, 1))
    said = verify(1)
    assert "DRIFT  code      src/nissl/simulate/em.py has changed" in said
    assert "movie.npy was touched; its content is the same" in said and "speed.csv" not in said
    command = [sys.executable, "-m", "nissl.cli", "rerun", str(tmp_path / "moved"), f"run_dir={tmp_path / 'again'}"]
    done = subprocess.run(command, env=there, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reproduced: all" in done.stdout and read_json(tmp_path / "again/summary.json") == first
    with (tmp_path / "data/movie.npy").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    assert "movie.npy has changed since the run" in verify(1)


@pytest.mark.e2e
def test_a_rerun_puts_recorded_values_where_the_defaults_have_changed(run: Path) -> None:
    values = recorded(run)
    values["task"]["optimizer"]["weight_decay"] = 0.123
    values["model"]["_target_"] = values["model"]["_target_"]
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    overrides = rerun_overrides(run, [])
    values["task"]["optimizer"]["weight_decay"] = 1.0e-4
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    assert overrides == [*SMALL, "++task.optimizer.weight_decay=0.123"]
    assert resolve(compose_config("train", overrides)).task.optimizer.weight_decay == 0.123


@pytest.mark.e2e
def test_a_run_says_what_is_not_the_default(run: Path) -> None:
    changed = {row["key"]: row for row in read_json(run / "provenance.json")["changed"]}
    assert changed["dataset.trials"]["default"] == "10" and changed["dataset.trials"]["value"] == "5"
    assert changed["task.optimizer.lr"]["where"].startswith("conf/experiment/calcium_quick.yaml:")


@pytest.mark.e2e
def test_an_older_configuration_takes_todays_defaults_and_says_so(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = recorded(run)
    del values["dataset"]["contrast"], values["loader"]["batches_per_epoch"], values["evaluator"]["stimulus"]["seed"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.yaml").write_text(yaml.safe_dump(values))
    cfg = compose_evaluation([f"run={old}"])
    assert (
        cfg.dataset.contrast == [0.7, 1.3] and cfg.loader.batches_per_epoch is None and cfg.evaluator.stimulus.seed == 0
    )
    assert "today's defaults are used" in caplog.text and "dataset.contrast=[0.7, 1.3]" in caplog.text
    assert compose_evaluation([f"run={old}", "logger=[]"]).logger is None
    added = compose_evaluation([f"run={old}", "+evaluator.stimulus.later=1", "evaluator.stimulus.seed=5"])
    assert added.evaluator.stimulus.later == 1 and added.evaluator.stimulus.seed == 5
    with pytest.raises(ValueError, match="no such key"):
        compose_evaluation([f"run={old}", "evaluator.stimulus.later=1"])
    _, added = migrated(recorded(run), ConfigTree(conf_dir()), "train")
    assert added == {}, "a run of today lacks nothing"


def test_a_changed_segmenter_reaches_the_evaluators_of_a_recorded_run(tmp_path: Path) -> None:
    values = OmegaConf.to_container(resolve(compose_config("train", ["experiment=ffn_quick"])))
    assert isinstance(values, dict)
    values["evaluator"]["erl"]["segmenter"] = {**values["segmenter"], "max_moves": 7}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"format": 1, **values}))
    plain = resolve(compose_evaluation([f"run={tmp_path}"]))
    assert plain.evaluator == values["evaluator"], "what was measured is measured again"
    changed = resolve(compose_evaluation([f"run={tmp_path}", "segmenter.grow_nm=20"]))
    assert changed.evaluator.segmentation.segmenter == {**values["segmenter"], "grow_nm": 20}
    assert changed.evaluator.erl.segmenter.grow_nm == 0, "an evaluator with a segmenter of its own keeps it"
    staged = resolve(compose_evaluation([f"run={tmp_path}", "segmenter=flood_fill_staged"]))
    assert staged.evaluator.segmentation.segmenter == staged.segmenter != values["segmenter"]


def test_keys_that_were_renamed_since_a_run_are_read_under_their_new_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["experiment=calcium_quick", *movie(tmp_path)[1:], "~dataset.success", "~dataset.spontaneous_hz"]
    values = OmegaConf.to_container(compose_config("train", texts))
    assert isinstance(values, dict)
    today = dict(values["dataset"])
    old_names = {"events": "events_path", "cells": "cells_path", "mask_file": "mask_path", "split_file": "split_path"}
    for old, new in old_names.items():
        values["dataset"][old] = values["dataset"].pop(new)
    values["dataset"]["split_file"] = "frames.csv"
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.yaml").write_text(yaml.safe_dump({"format": 1, **values}))
    (old / "overrides.txt").write_text("\n".join([*texts, "dataset.split_file=frames.csv"]) + "\n")
    dataset = compose_evaluation([f"run={old}"]).dataset
    assert dataset == {**today, "split_path": "frames.csv"}
    assert "dataset.split_file is now called dataset.split_path" in caplog.text
    overrides = rerun_overrides(old, [])
    assert "dataset.split_path=frames.csv" in overrides and "split_file" not in " ".join(overrides)
    simulated = {"dataset": {"_target_": "nissl.datasets.calcium.CalciumSimulated", "mask_file": "m.tif"}}
    assert migrated(simulated, ConfigTree(conf_dir()), "train")[0]["dataset"]["mask_path"] == "m.tif"


@pytest.mark.e2e
def test_summaries_are_compared_metric_by_metric(tmp_path: Path) -> None:
    for name, values in (("a", {"x": 1.0, "y": None, "z": 2.0}), ("b", {"x": 1.0, "y": None, "z": 2.1, "w": 0.0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(values))
    answer = agreement(tmp_path / "a", tmp_path / "b")
    assert answer.num_equal == 2 and set(answer.different) == {"w", "z"} and "2 then, 2.1 now" in str(answer)


@pytest.mark.e2e
def test_a_file_too_large_leaves_no_half_checkpoint_and_a_run_that_resumes(
    warm: WarmStart, run: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "full", tmp_path / "log"
    limit = (run / "checkpoints/last.ckpt").stat().st_size // 2
    process = start(warm, [*SMALL, f"run_dir={folder}"], dict(os.environ), log)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert process.wait(300) == 1
    said = log.read_text()
    assert said.count("error:") == 1 and "while writing a checkpoint" in said and "resume=auto" in said, said
    assert "Traceback" not in said and read_json(folder / "status.json")["status"] == "failed"
    assert not list((folder / "checkpoints").iterdir()) and not (folder / ".reserve").exists()
    again = train(warm, f"run_dir={folder}", "resume=auto")
    assert again.returncode == 0, again.stderr
    assert read_json(folder / "summary.json") == read_json(run / "summary.json")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "nissl-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take what is left of the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
    return filler


def test_a_full_disk_cuts_no_line_out_of_the_record(disk: Path) -> None:
    record = LocalRecord(disk)
    record.log_metrics({"train/loss": 1.0}, step=0)
    filler = fill(disk)
    with pytest.raises(OSError, match="No space left on device; free space and repeat with resume=auto") as raised:
        for step in range(1, 1000):
            record.log_metrics({"train/loss": 1.0}, step=step)
    assert raised.value.filename == str(disk / "metrics.jsonl")
    filler.unlink()
    LocalRecord(disk).log_metrics({"train/loss": 1.0}, step=step)
    assert [row["step"] for row in read_metrics(disk / "metrics.jsonl")] == list(range(step + 1))


@pytest.mark.e2e
def test_a_disk_that_fills_up_is_one_clear_error_and_a_run_that_resumes(
    warm: WarmStart, disk: Path, tmp_path: Path
) -> None:
    folder, log = disk / "run", tmp_path / "log"
    own = [text for text in SMALL if not text.startswith(("loader.batches", "trainer.max_epochs", "evaluator"))]
    own += ["evaluator=[]", "loader.batches_per_epoch=4", "loader.batch_size=2", "trainer.max_epochs=40"]
    own += [f"run_dir={folder}"]
    process = start(warm, own, dict(os.environ), log)
    wait_for(folder / "checkpoints/last.ckpt", process)
    filler = fill(disk)
    assert process.wait(300) == 1
    said = log.read_text()
    assert said.count("error:") == 1 and "No space left on device" in said, said
    assert "while writing a checkpoint" in said or "metrics.jsonl" in said, said  # whichever came first
    assert "resume=auto" in said and "Traceback" not in said
    status = read_json(folder / "status.json")
    assert status["status"] == "failed" and "No space left on device" in status["reason"]
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"] >= 0
    filler.unlink()
    resumed = start(warm, [*own, "resume=auto"], dict(os.environ), log)
    assert resumed.wait(300) == 0, log.read_text()
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row]
    assert steps == sorted(set(steps)) and len(steps) == 4 * 40


@pytest.mark.e2e
def test_a_preempted_run_goes_on_as_one_wandb_run_with_a_key_and_no_network(warm: WarmStart, tmp_path: Path) -> None:
    folder = tmp_path / "preempted"
    overrides = [text for text in SMALL if text not in ("logger=[]", "trainer.max_epochs=2")]
    overrides += [f"run_dir={folder}", "resume=auto", "trainer.max_epochs=4", "logger=wandb"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**clean, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    process = start(warm, overrides, environment, tmp_path / "log")
    wait_for(folder / "checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(300) == 143, (tmp_path / "log").read_text()
    status = read_json(folder / "status.json")
    assert status["status"] == "interrupted" and status["reason"] == "received SIGUSR1"
    name = recorded(folder)["run_id"]
    assert start(warm, overrides, environment, tmp_path / "log").wait(300) == 0
    assert recorded(folder)["run_id"] == name and read_json(folder / "status.json")["status"] == "finished"
    segments = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(segments) == 2 and all(segment.name.endswith(name) for segment in segments)
    read = [str(PROGRAMS / "wandb"), "leet", "inspect", "--summary", "--json", *segments[1].glob("*.wandb")]
    seen = json.loads(subprocess.run(read, capture_output=True, text=True, check=True).stdout)
    assert seen["config"]["group"] == "calcium_quick" and seen["config"]["dataset/trials"] == 5
    assert {key for key, value in read_json(folder / "summary.json").items() if value is not None} <= _flat(
        seen["summary"]
    )
    assert seen["summary"]["stimulus/accuracy"]["_type"] == "images/separated"


def _flat(node: Any, prefix: str = "") -> set[str]:
    if not isinstance(node, dict):
        return {prefix}
    return {prefix}.union(*(_flat(value, f"{prefix}{'.' if prefix else ''}{key}") for key, value in node.items()))


@pytest.mark.e2e
def test_two_processes_train_one_run(warm: WarmStart, tmp_path: Path) -> None:
    folder = tmp_path / "ddp"
    two = ["trainer=ddp", "trainer.accelerator=cpu", "loader.batch_size=8"]
    done = train(warm, f"run_dir={folder}", *two, MASTER_ADDR="127.0.0.1")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ddp"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["step"] for row in rows if "train/loss" in row]
    assert losses == sorted(set(losses)) and len(losses) == 4, "two epochs of two steps, each logged once"
    assert read_json(folder / "status.json")["status"] == "finished"
    assert "stimulus/accuracy_lenient" in read_json(folder / "summary.json")
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert len(checkpoint["callbacks"]["RandomState"]["processes"]) == 2, "each process goes on with its own state"


@pytest.mark.e2e
def test_data_that_cannot_be_made_are_one_clear_error(warm: WarmStart, tmp_path: Path) -> None:
    done = train(warm, f"run_dir={tmp_path / 'run'}", "dataset.size_px=32", "dataset.num_cells=100")
    assert done.returncode == 1 and "\nerror: only 4 of 100 cells fit" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.e2e
def test_a_dry_run_describes_and_leaves_nothing(warm: WarmStart, tmp_path: Path) -> None:
    done = train(warm, f"run_dir={tmp_path / 'dry'}", "--dry")
    assert done.returncode == 0, done.stderr
    for expected in (
        "StimulusCNN",
        "frames  (32, 1, 64, 64) float32",
        "FLOPs per sample: ",
        "Memory: ",
        "2 epochs of 2 batches",
    ):
        assert expected in done.stdout, done.stdout
    assert not (tmp_path / "dry").exists() and done.stderr == ""
