"""The entry script end to end: what a run leaves, that it resumes after a kill, that every experiment starts."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from entry import EXPERIMENTS, FILES, IMPORTED, QUICK, ROOT, Script, two_steps

from nissl.runs.warm_start import WarmProcess, WarmStart


def why_not(name: str) -> str:
    """Why an experiment cannot run here; empty if it can."""
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    if "_quick" not in name and "simulated" not in text and not os.environ.get("NISSL_DATA"):
        return "NISSL_DATA is not set: the public data are not here"
    found = re.search(r"\$\{data_root\}(/\S+)", text)
    if found and not Path(os.environ.get("NISSL_DATA", "") + found[1]).exists():
        return f"the data folder has no {found[1][1:]}"
    return ""


def with_imported_weights(name: str, script: Script, folder: Path) -> list[str]:
    """The override that gives an experiment its published weights, imported as its config says."""
    if name not in IMPORTED:
        return []
    model, published, key = IMPORTED[name]
    file = folder / "imported.safetensors"
    script("src/nissl/cli.py", "import", model, str(Path(os.environ["NISSL_DATA"]) / published), "--out", str(file))
    return [f"{key}={file}"]


@pytest.mark.e2e
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_two_steps_and_leaves_a_whole_run_folder(
    name: str, script: Script, tmp_path: Path
) -> None:
    if reason := why_not(name):
        pytest.skip(reason)
    run = tmp_path / "run"
    weights = with_imported_weights(name, script, tmp_path)
    script("train.py", f"experiment={name}", f"run_dir={run}", *two_steps(name), *weights)
    assert not [file for file in FILES if not (run / file).exists()]
    assert (run / "checkpoints" / "last.ckpt").exists() and list((run / "figures").glob("*.png"))
    text = (run / "config.yaml").read_text()
    assert "${" not in text and yaml.safe_load(text)["format"] == 1
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert json.loads((run / "summary.json").read_text())
    assert [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["packages"]["torch"] and provenance["config_hash"]
    for table in (run / "tables").glob("*.csv"):
        assert list(csv.reader(table.read_text().splitlines()))
    assert not [word for word in ("http://", "https://") if f'src="{word}' in (run / "report.html").read_text()]


def four_epochs(name: str) -> list[str]:
    left_out = ("trainer.max_steps=2",)
    return [f"experiment={name}", *(o for o in two_steps(name) if o not in left_out), "trainer.max_epochs=4"]


@pytest.fixture(scope="module")
def whole(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A quick experiment trained for four short epochs; each is trained once."""
    made: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("whole") / name
            script("train.py", *four_epochs(name), f"run_dir={made[name]}")
        return made[name]

    return train


@pytest.mark.e2e
@pytest.mark.parametrize("name", QUICK)
def test_a_killed_run_resumes_to_the_summary_of_an_uninterrupted_one(
    name: str, whole: Callable[[str], Path], script: Script, warm: WarmStart, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    arguments = [*four_epochs(name), f"run_dir={killed}", "resume=auto"]
    with Path(os.devnull).open("w") as nowhere:
        process = warm.start([sys.executable, str(ROOT / "train.py"), *arguments], nowhere.fileno(), nowhere.fileno())
    wait_for(killed / "checkpoints" / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((killed / "status.json").read_text())["status"] == "running"
    script("train.py", *arguments)
    first, resumed = (json.loads((run / "summary.json").read_text()) for run in (whole(name), killed))
    assert resumed.keys() == first.keys()
    assert numbers(resumed) == pytest.approx(numbers(first), rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.e2e
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", QUICK)
def test_the_same_seed_gives_the_same_summary(
    name: str, workers: int, whole: Callable[[str], Path], script: Script, tmp_path: Path
) -> None:
    """As docs/how_to/repeat.md says; experiments/repeatability has it at full length."""
    again = tmp_path / "again"
    script("train.py", *four_epochs(name), f"loader.num_workers={workers}", f"run_dir={again}")
    assert (again / "summary.json").read_text() == (whole(name) / "summary.json").read_text()


def numbers(summary: dict[str, Any]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in summary.items()}


def wait_for(path: Path, process: WarmProcess, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the training ended before it could be killed"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=calcium_quick", "task.optimizer.lrr=3"], "task.optimizer.lr"),
        (["experiment=calcium_quik"], "calcium_quick"),
        (["experiment=calcium_quick", "trainer.max_epoch=1"], "trainer.max_epochs"),
        (["experiment=calcium_quick", "++task.nonsense=1"], "nonsense"),
        (["experiment=calcium_quick", "seed=three"], "whole number"),
        (["experiment=calcium_quick", "++model._target_=os.system"], "os.system"),
        (["experiment=ffn_quick", "dataset=em_volume", "dataset.path=/nowhere/x.h5"], "/nowhere/x.h5"),
    ],
)
def test_a_wrong_command_line_names_the_right_one_before_training(
    script: Script, overrides: list[str], message: str, tmp_path: Path
) -> None:
    done = script("train.py", *overrides, f"run_dir={tmp_path / 'run'}", expect=1)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.e2e
def test_an_exception_while_training_leaves_a_failed_run_with_its_reason(script: Script, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = ["experiment=calcium_quick", *two_steps("calcium_quick"), f"run_dir={run}"]
    done = script("train.py", *overrides, "loader.batch_size=100000", expect=1)
    assert "loader.batch_size" in done.stderr and "Traceback" not in done.stderr
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "failed" and "loader.batch_size" in status["reason"] and status["traceback"]


def test_help_does_not_import_torch() -> None:
    code = (
        "import runpy, sys; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'pytorch_lightning', 'matplotlib', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]") and "experiment=" in done.stdout
