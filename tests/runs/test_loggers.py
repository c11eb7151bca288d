import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from pytorch_lightning.loggers.logger import Logger

from nissl.evaluators.result import Figure
from nissl.runs.loggers import Sink, flat, prepare_wandb, reachable
from nissl.runs.wandb_key import key_configured

TRACKIO = """
import sys, numpy as np
from nissl.evaluators.result import Figure
from nissl.runs.loggers import Sink, TrackioLogger
for step in (0, 1):
    sink = Sink(TrackioLogger("nissl", "first", "seeds", sys.argv[1]), "trackio")
    sink.log_hyperparams({"model/depth": 3})
    sink.log_metrics({"train/loss": 2.0 - step, "epoch": step}, step)
    sink.log_figure("picture", Figure.from_array(np.zeros((4, 5, 3), np.uint8), "black"), step)
    sink.close("success")
    assert sink.alive
"""


class Failing(Logger):
    name, version = "failing", "0"

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass

    def log_metrics(self, *args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")


def test_a_failing_dashboard_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(Failing(), "wandb")
    with caplog.at_level(logging.WARNING):
        sink.log_metrics({"a": 1.0}, 0)
        sink.log_metrics({"a": 1.0}, 1)
    assert not sink.alive
    assert caplog.text.count("logger wandb failed and is dropped") == 1 and "no space left" in caplog.text


def test_trackio_keeps_a_resumed_run_in_one_line_and_its_data_in_the_runs_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TRACKIO_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", TRACKIO, str(tmp_path)], check=True, env=environment, timeout=120)
    trackio = Path(sys.executable).parent / "trackio"

    def ask(*words: str) -> dict[str, object]:
        command = [str(trackio), *words, "--project", "nissl", "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
        parsed = json.loads(answer.stdout)
        assert isinstance(parsed, dict)
        return parsed

    assert [run["name"] if isinstance(run, dict) else run for run in ask("list", "runs")["runs"]] == ["first"]
    values = ask("get", "metric", "--run", "first", "--metric", "train/loss")["values"]
    assert [row["value"] for row in values] == [2.0, 1.0]  # type: ignore[union-attr]
    assert list(tmp_path.rglob("*.png"))


def test_dashboards_see_a_flat_configuration() -> None:
    cfg = OmegaConf.create({"seed": 1, "model": {"depth": 3, "fov_zyx": [9, 9, 9]}, "resume": None})
    assert flat(cfg) == {"seed": 1, "model/depth": 3, "model/fov_zyx": "[9, 9, 9]", "resume": "None"}


def test_wandb_without_a_key_is_offline_and_says_how_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    prepare_wandb("/runs/x")
    assert os.environ["WANDB_MODE"] == "offline"
    assert "wandb: offline, no key is configured. To sync later: wandb sync /runs/x" in capsys.readouterr().out
    monkeypatch.delenv("WANDB_MODE")


def test_wandb_with_a_key_and_no_network_is_offline_within_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    prepare_wandb("/runs/x")
    assert os.environ["WANDB_MODE"] == "offline" and "cannot be reached" in capsys.readouterr().out
    assert not reachable("http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE")


def test_a_key_in_netrc_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai\n  login user\n  password key\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert key_configured("https://api.wandb.ai") and not key_configured("https://elsewhere.org")


def test_figures_are_png_with_their_size() -> None:
    figure = Figure.from_array(np.zeros((4, 5, 3), np.uint8), "black")
    assert figure.png.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 image, came \(4, 5\) float64"):
        Figure.from_array(np.zeros((4, 5)), "grey")
