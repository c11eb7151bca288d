from pathlib import Path

import pytest

from nissl.runs.doctor import Finding, diagnose
from nissl.runs.wandb_key import key_configured, unsynced


def findings(runs: Path, data: Path) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in diagnose(runs, data, {"one": ["a.h5"], "two": ["b.h5", "c.h5"]}):
        found.setdefault(finding.topic, []).append(finding)
    return found


def test_an_installed_nissl_has_its_packages(tmp_path: Path) -> None:
    packages = findings(tmp_path, tmp_path)["packages"]
    assert packages[0].state == "ok" and "required packages" in packages[0].text


def test_data_sets_that_are_whole_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NISSL_DATA", str(tmp_path))
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).touch()
    assert "1 of 2 known data sets" in findings(tmp_path, tmp_path)["data"][0].text
    assert "no data root" in findings(tmp_path, tmp_path / "nowhere")["data"][0].text


def test_more_threads_than_processors_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "9999")
    (finding,) = findings(tmp_path, tmp_path)["threads"]
    assert finding.state == "problem" and "OMP_NUM_THREADS=" in finding.advice


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nissl.runs.doctor._LOW_DISK_GB", 1e9)
    assert findings(tmp_path / "not/there/yet", tmp_path)["disk"][0].state == "problem"


def test_offline_wandb_runs_are_listed_until_they_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run/wandb/offline-run-20260101_000000-abc"
    folder.mkdir(parents=True)
    (folder / "run-abc.wandb").touch()
    assert unsynced(tmp_path) == [folder]
    assert any(f"wandb sync {folder}" in finding.text for finding in findings(tmp_path, tmp_path)["wandb"])
    (folder / "run-abc.wandb.synced").touch()
    assert unsynced(tmp_path) == []


def test_a_wandb_key_is_found_in_the_environment_or_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not key_configured("https://api.wandb.ai")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    (tmp_path / "netrc").chmod(0o600)
    assert key_configured("https://api.wandb.ai") and not key_configured("https://other.example")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert key_configured("https://other.example")
