import os
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nissl.runs import provenance as module
from nissl.runs.provenance import code_diff, drifted, fingerprint, git_state, provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (root / "a.py").write_text("one\n")
    (root / "b.py").write_text("two\n")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    monkeypatch.setattr(module, "REPOSITORY", root)
    return root


def test_the_diff_applied_to_the_recorded_commit_gives_the_files_as_they_were(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_text("changed\n")
    (repository / "b.py").write_text("staged\n")
    subprocess.run(["git", "-C", str(repository), "add", "b.py"], check=True)
    (repository / "new.py").write_text("x\n")
    diff = code_diff()
    state = git_state(diff)
    assert state["dirty"] and state["untracked"] == ["new.py"]
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", str(repository), str(copy)], check=True)
    subprocess.run(["git", "-C", str(copy), "checkout", "-q", state["sha"]], check=True)
    subprocess.run(["git", "-C", str(copy), "apply"], input=diff, text=True, check=True)
    assert (copy / "a.py").read_text() == "changed\n" and (copy / "b.py").read_text() == "staged\n"


def test_outside_git_the_commit_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    assert git_state(code_diff())["sha"] is None


def test_a_changed_or_missing_data_file_is_named(tmp_path: Path) -> None:
    for name in ("kept", "changed", "gone"):
        (tmp_path / name).write_text(name)
    recorded = [fingerprint(tmp_path / name) for name in ("kept", "changed", "gone")]
    (tmp_path / "changed").write_text("other")
    (tmp_path / "gone").unlink()
    os.utime(tmp_path / "kept", (0, 0))
    sentences = drifted(recorded)
    assert len(sentences) == 2
    assert "changed has changed" in sentences[0] and "gone is gone" in sentences[1]


def test_no_key_of_the_environment_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    record = provenance(OmegaConf.create({"seed": 4}), [], "")
    assert "0123456789secret" not in str(record)
    assert record["environment"]["OMP_NUM_THREADS"] == "2" and record["seed"] == 4
    assert record["packages"]["nissl"] and record["host"]["cpus"] >= 1
