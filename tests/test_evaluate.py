"""An evaluation gives the numbers of the training's end, from anywhere, and leaves the run as it was."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from entry import Script, two_steps


@pytest.fixture(scope="module")
def run(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    script("train.py", "experiment=calcium_quick", *two_steps("calcium_quick"), f"run_dir={folder}")
    return folder


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "evaluations" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.e2e
def test_a_moved_run_evaluates_from_elsewhere_to_the_same_numbers(script: Script, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "elsewhere"
    shutil.copytree(run, moved)
    before = digest(moved)
    script("evaluate.py", f"run={moved}", cwd=tmp_path)
    assert digest(moved) == before
    (evaluation,) = (moved / "evaluations").iterdir()
    trained = json.loads((run / "summary.json").read_text())
    evaluated = json.loads((evaluation / "summary.json").read_text())
    assert evaluated and evaluated == {name: trained[name] for name in evaluated}
    assert set(trained) - set(evaluated) == {name for name in trained if name.endswith(("/last", "/best"))}
    assert (evaluation / "report.html").exists() and (evaluation / "config.yaml").exists()


@pytest.mark.e2e
def test_one_evaluator_with_another_setting_can_be_asked_for(script: Script, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    script(
        "evaluate.py",
        f"run={run}",
        "evaluator=[stimulus]",
        "evaluator.stimulus.bootstrap_draws=50",
        "weights_to_evaluate=best",
        f"run_dir={folder}",
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary and not [name for name in summary if name.startswith("zncc/")]
    assert "bootstrap_draws: 50" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=/nowhere"], "not a run folder"),
        (["run={run}", "dataset.trails=3"], "dataset.tr"),
        (["run={run}", "evaluator=[stimuls]"], "stimulus"),
        (["model=ffn", "model.weights=/nowhere.safetensors", "dataset=em_simulated", "evaluator=[erl]"], "nowhere"),
    ],
)
def test_a_wrong_evaluation_is_refused_in_one_message(
    script: Script, run: Path, overrides: list[str], message: str, tmp_path: Path
) -> None:
    filled = [text.format(run=run) for text in overrides]
    done = script("evaluate.py", *filled, f"run_dir={tmp_path / 'e'}", expect=1)
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.e2e
def test_a_run_with_a_foreign_target_or_pickled_weights_is_refused(script: Script, run: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(run, evil)
    text = (evil / "config.yaml").read_text()
    (evil / "config.yaml").write_text(text.replace("nissl.models.stimulus_cnn.StimulusCNN", "os.system"))
    done = script("evaluate.py", f"run={evil}", expect=1)
    assert "os.system" in done.stderr
    (evil / "config.yaml").write_text(text)
    (evil / "checkpoints" / "last.ckpt").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    done = script("evaluate.py", f"run={evil}", "weights_to_evaluate=last", cwd=tmp_path, expect=1)
    assert "was refused" in done.stderr and not (tmp_path / "canary").exists()
