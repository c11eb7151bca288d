"""A run repeated from its folder, evaluated after its configuration has aged, stopped by signals and full disks."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nissl.runs.compose import compose_config, conf_dir, resolve
from nissl.runs.evaluation_config import compose_evaluation
from nissl.runs.folder import read_json
from nissl.runs.migration import migrated
from nissl.runs.origins import ConfigTree
from nissl.runs.rerun import agreement, rerun_overrides

ROOT = conf_dir().parent
NISSL = Path(sys.executable).parent / "nissl"
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


def train(*overrides: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = train(f"run_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def recorded(run: Path) -> dict[str, Any]:
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert isinstance(values, dict)
    return values


@pytest.mark.e2e
def test_a_rerun_gives_the_same_numbers_although_the_folder_moved(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-r", str(run), str(moved)], check=True)
    command = [str(NISSL), "rerun", str(moved), f"run_dir={tmp_path / 'again'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reproduced: all" in done.stdout
    assert read_json(tmp_path / "again/summary.json") == read_json(run / "summary.json")


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
    _, added = migrated(recorded(run), ConfigTree(conf_dir()), "train")
    assert added == {}, "a run of today lacks nothing"


@pytest.mark.e2e
def test_summaries_are_compared_metric_by_metric(tmp_path: Path) -> None:
    for name, values in (("a", {"x": 1.0, "y": None, "z": 2.0}), ("b", {"x": 1.0, "y": None, "z": 2.1, "w": 0.0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(values))
    answer = agreement(tmp_path / "a", tmp_path / "b")
    assert answer.num_equal == 2 and set(answer.different) == {"w", "z"} and "2 then, 2.1 now" in str(answer)


@pytest.mark.e2e
def test_a_full_disk_leaves_the_last_checkpoint_and_a_run_that_resumes(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    whole = (run / "checkpoints/last.ckpt").stat().st_size

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, whole // 2))

    done = train(f"run_dir={folder}", preexec_fn=small_files)
    assert done.returncode == 1 and done.stderr.count("error:") == 1, done.stderr
    assert (
        "while writing a checkpoint" in done.stderr and "resume=auto" in done.stderr and "Traceback" not in done.stderr
    )
    assert read_json(folder / "status.json")["status"] == "failed"
    assert not list((folder / "checkpoints").iterdir()) and not (folder / ".reserve").exists()
    again = train(f"run_dir={folder}", "resume=auto")
    assert again.returncode == 0, again.stderr
    assert read_json(folder / "summary.json") == read_json(run / "summary.json")


@pytest.mark.e2e
def test_a_preempted_run_goes_on_as_one_wandb_run_with_a_key_and_no_network(tmp_path: Path) -> None:
    folder = tmp_path / "preempted"
    overrides = [text for text in SMALL if text not in ("logger=[]", "trainer.max_epochs=2")]
    overrides += [f"run_dir={folder}", "resume=auto", "trainer.max_epochs=4", "logger=wandb"]
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**clean, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    process = subprocess.Popen(command, **quiet)
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints/last.ckpt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=120) == 143
    status = read_json(folder / "status.json")
    assert status["status"] == "interrupted" and status["reason"] == "received SIGUSR1"
    name = recorded(folder)["run_id"]
    assert subprocess.run(command, timeout=400, **quiet).returncode == 0
    assert recorded(folder)["run_id"] == name and read_json(folder / "status.json")["status"] == "finished"
    segments = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(segments) == 2 and all(segment.name.endswith(name) for segment in segments)
    read = [str(NISSL.with_name("wandb")), "leet", "inspect", "--summary", "--json", *segments[1].glob("*.wandb")]
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
def test_two_processes_train_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "ddp"
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1"}
    done = train(f"run_dir={folder}", "trainer=ddp", "trainer.accelerator=cpu", "loader.batch_size=8", env=environment)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ddp"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["step"] for row in rows if "train/loss" in row]
    assert losses == sorted(set(losses)) and len(losses) == 4, "two epochs of two steps, each logged once"
    assert read_json(folder / "status.json")["status"] == "finished"
    assert "stimulus/accuracy_lenient" in read_json(folder / "summary.json")


@pytest.mark.e2e
def test_data_that_cannot_be_made_are_one_clear_error(tmp_path: Path) -> None:
    done = train(f"run_dir={tmp_path / 'run'}", "dataset.size_px=32", "dataset.num_cells=100")
    assert done.returncode == 1 and "\nerror: only 4 of 100 cells fit" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.e2e
def test_a_dry_run_describes_and_leaves_nothing(tmp_path: Path) -> None:
    done = train(f"run_dir={tmp_path / 'dry'}", "--dry")
    assert done.returncode == 0, done.stderr
    for expected in (
        "StimulusCNN",
        "frames  (32, 1, 64, 64) float32",
        "FLOPs per sample: ",
        "Memory: ",
        "2 epochs of 2 batches",
    ):
        assert expected in done.stdout, done.stdout
    assert not (tmp_path / "dry").exists()
