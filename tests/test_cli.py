import json
import subprocess
import sys
from pathlib import Path

import pytest

from nissl.cli import main

HEAVY = "torch torch_geometric pytorch_lightning sklearn matplotlib wandb optuna trackio".split()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs/one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("format: 1\nseed: 0\nmodel:\n  depth: 3\n")
    (folder / "summary.json").write_text('{"coverage": 0.75}')
    (folder / "status.json").write_text('{"status": "finished"}')
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["validate"],
        ["explain", "trainer.max_epochs"],
        ["compare", "RUN"],
        ["report", "RUN"],
        ["doctor"],
        ["data", "list"],
        ["board", "--runs", "nowhere"],
        ["verify", "RUN"],
        ["sweep", "calcium_quick_lr", "--check", "sweep.trials=9"],
        ["sweep", "calcium_quick_lr", "--wandb", "--folder", "RUN"],
    ],
)
def test_no_listing_or_check_imports_anything_heavy(arguments: list[str], run: Path) -> None:
    code = (
        "import sys, time\nfrom nissl.cli import main\n"
        f"try: main({[str(run) if word == 'RUN' else word for word in arguments]})\nexcept SystemExit: pass\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\nassert not heavy, heavy\n"
        "assert time.process_time() < 2, time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_validate_ends_with_one_and_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "trainer.max_epoch=1"]) == 1
    assert "Did you mean 'trainer.max_epochs' (" in capsys.readouterr().err


def test_explain_shows_who_set_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "seed", "seed=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed = 4" and lines[-1].endswith("-> command line, seed=4: 4")
    assert main(["explain", "sede"]) == 1
    assert "Did you mean 'seed'" in capsys.readouterr().err


def test_overrides_may_follow_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "calcium_quick_lr", "--check", "sweep.trials=9"]) == 0
    assert "9 trials of 4 trainings each are valid" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sweep", "calcium_quick_lr", "--chek"])
    assert main(["sweep", "calcium_quick_lr", "--status", "--folder", "/nowhere"]) == 1
    assert "no sweep to continue in /nowhere" in capsys.readouterr().err


def test_compare_takes_a_sweep(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(run.parents[1])
    run.parent.rename(run.parents[1] / "other")
    (run.parents[1] / "runs/sweeps/first").mkdir(parents=True)
    (run.parents[1] / "other").rename(run.parents[1] / "runs/sweeps/first/trials")
    assert main(["compare", "--sweep", "first"]) == 0
    assert "0.75" in capsys.readouterr().out
    assert main(["compare"]) == 1
    assert "or --sweep <name>" in capsys.readouterr().err


def test_compare_prints_or_writes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run.parent), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["metrics"]["coverage"]["mean"] == 0.75
    assert main(["compare", str(run), "--format", "html", "--out", str(tmp_path / "c.html")]) == 0
    assert "0.75" in (tmp_path / "c.html").read_text()
    assert main(["compare", str(tmp_path / "nowhere")]) == 1
    assert "error: no folder" in capsys.readouterr().err


def test_report_prints_the_path(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(run.parent)]) == 1


def test_data_list_states_licence_citation_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert "em_fib25  [em]  10.9 MB" in text and "licence: CC BY" in text and "not bundled" in text


def test_data_check_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NISSL_DATA", str(tmp_path))
    assert main(["data", "check", "calcium_mouse_s1"]) == 1
    text = capsys.readouterr().out
    assert "missing" in text and "thunder" in text and "not as they should be: 1 files" in text
    assert main(["data", "check", "calcium_mouse"]) == 1
    assert "did you mean 'calcium_mouse_s1'" in capsys.readouterr().err


def test_import_of_an_unknown_model_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "stimulus_cn", "x.pt", "--out", str(tmp_path / "x.safetensors")]) == 1
    assert "did you mean 'stimulus_cnn'" in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nissl.runs.board.serve", interrupted)
    assert main(["board"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m nissl.cli data list | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.startswith("Data root:")


def test_a_command_without_arguments_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "usage: nissl" in capsys.readouterr().err
