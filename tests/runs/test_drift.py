"""What changed since a run, in a repository made for the purpose."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from nissl.cli import main
from nissl.runs.drift import verify
from nissl.runs.migration import relocated, relocated_files
from nissl.runs.provenance import fingerprint, packages


def git(repository: Path, *words: str) -> str:
    own = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    return subprocess.run(["git", *own, *words], cwd=repository, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "src").mkdir(parents=True)
    (folder / "src/net.py").write_text("depth = 3\n")
    (folder / "README.md").write_text("read me\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Begin")
    return folder


def record(repository: Path, run: Path, data: list[Path]) -> Path:
    """What train.py would have written."""
    run.mkdir()
    diff = git(repository, "diff", "HEAD", "--binary")
    (run / "git.diff").write_text(diff)
    state = {"sha": git(repository, "rev-parse", "HEAD").strip(), "diff_file": "git.diff" if diff else None}
    record = {"git": state, "data": [fingerprint(path) for path in data], "packages": packages()}
    (run / "provenance.json").write_text(json.dumps(record))
    return run


def said(run: Path, repository: Path, moved: dict[str, str] | None = None) -> list[str]:
    return [str(drift) for drift in verify(run, moved, repository)]


def test_nothing_has_changed_right_after_a_run(repository: Path, tmp_path: Path) -> None:
    (repository / "src/net.py").write_text("depth = 4\n")  # uncommitted, but recorded
    assert said(record(repository, tmp_path / "run", []), repository) == []


def test_each_changed_file_is_named_and_unrelated_ones_are_only_noted(repository: Path, tmp_path: Path) -> None:
    run = record(repository, tmp_path / "run", [])
    (repository / "README.md").write_text("read me again\n")
    git(repository, "commit", "-q", "-a", "-m", "Say more")
    assert any("1 commits later" in line for line in said(run, repository))
    assert "note   code      README.md has changed (not code that a run uses)" in said(run, repository)
    (repository / "src/net.py").write_text("depth = 9\n")
    assert "DRIFT  code      src/net.py has changed" in said(run, repository)


def test_a_change_undone_is_no_change_and_a_recorded_one_undone_is(repository: Path, tmp_path: Path) -> None:
    (repository / "src/net.py").write_text("depth = 4\n")
    run = record(repository, tmp_path / "run", [])
    git(repository, "checkout", "-q", "src/net.py")
    assert said(run, repository) == ["DRIFT  code      src/net.py has changed"]
    (repository / "src/net.py").write_text("depth = 4\n")
    assert said(run, repository) == []


def test_data_touched_changed_gone_and_moved_are_told_apart(repository: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    files = [old / name for name in ("touched", "changed", "gone", "moved")]
    for file in files:
        file.write_text(file.name)
    run = record(repository, tmp_path / "run", files)
    os.utime(files[0], (1, 1))
    files[1].write_text("something else")
    files[2].unlink()
    new.mkdir()
    files[3].rename(new / "moved")
    moved = relocated_files(run, {"data_root": str(old)}, new)
    lines = said(run, repository, moved)
    assert [line.split()[0] for line in lines] == ["note", "DRIFT", "DRIFT", "note"]
    assert "was touched; its content is the same" in lines[0] and "7 bytes then, 14 now" in lines[1]
    assert lines[2].endswith("gone is gone") and lines[3].endswith("with the same content")


def test_a_changed_package_is_named(repository: Path, tmp_path: Path) -> None:
    run = record(repository, tmp_path / "run", [])
    recorded = json.loads((run / "provenance.json").read_text())
    recorded["packages"]["numpy"] = "1.0"
    (run / "provenance.json").write_text(json.dumps(recorded))
    (line,) = said(run, repository)
    assert line.startswith("DRIFT  packages  numpy 1.0 then, ")


def test_a_folder_without_provenance_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no provenance.json"):
        verify(tmp_path)
    assert main(["verify", str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_data_that_moved_with_the_data_root_are_found(tmp_path: Path) -> None:
    (tmp_path / "new/em").mkdir(parents=True)
    (tmp_path / "new/em/a.h5").touch()
    values = {"data_root": "/old", "dataset": {"path": "/old/em/a.h5", "other_path": "/old/em/b.h5"}}
    found, sentences = relocated(values, tmp_path / "new")
    assert found["dataset"] == {"path": str(tmp_path / "new/em/a.h5"), "other_path": "/old/em/b.h5"}
    assert sentences == [f"/old/em/a.h5 is now {tmp_path}/new/em/a.h5"] and values["dataset"]["path"] == "/old/em/a.h5"
