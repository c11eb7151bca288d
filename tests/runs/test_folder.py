import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from nissl.runs.folder import AlreadyFinished, Preempted, RunFolder, is_locked, new_name, read_json, write_json


def config(runs: Path, **values: object) -> DictConfig:
    base = {"runs_dir": str(runs), "run_dir": None, "run_id": None, "resume": None, "seed": 0, "model": {"depth": 3}}
    return OmegaConf.create({**base, **values})


def finish(run: RunFolder) -> None:
    with run:
        pass


def fail(run: RunFolder, error: BaseException) -> dict[str, object]:
    with pytest.raises(type(error)), run:
        raise error
    status = read_json(run.path / "status.json")
    assert isinstance(status, dict)
    return status


def start_one(runs: str) -> str:
    return RunFolder.start(config(Path(runs))).path.name


def test_two_hundred_starts_at_once_make_two_hundred_folders(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8) as pool:
        names = list(pool.map(start_one, [str(tmp_path)] * 200))
    assert len(set(names)) == 200 == len(list(tmp_path.glob("*/config.yaml")))


def test_a_folder_says_how_its_process_ended(tmp_path: Path) -> None:
    run = RunFolder.start(config(tmp_path))
    with run:
        assert read_json(run.path / "status.json")["status"] == "running"
    assert read_json(run.path / "status.json")["status"] == "finished"
    failed = fail(RunFolder.start(config(tmp_path)), ValueError("no data"))
    assert failed["status"] == "failed" and failed["reason"] == "ValueError: no data"
    assert "Traceback" in str(failed["traceback"])
    stopped = fail(RunFolder.start(config(tmp_path)), KeyboardInterrupt())
    assert (stopped["status"], stopped["reason"]) == ("interrupted", "Ctrl-C")


def test_sigterm_ends_a_run_as_interrupted(tmp_path: Path) -> None:
    run = RunFolder.start(config(tmp_path))
    with pytest.raises(Preempted), run:
        os.kill(os.getpid(), signal.SIGTERM)
    assert read_json(run.path / "status.json")["reason"] == "received SIGTERM"


def test_the_recorded_configuration_is_resolved_and_names_its_own_folder(tmp_path: Path) -> None:
    cfg = config(tmp_path, logger={"csv": {"save_dir": "${run_dir}", "id": "${run_id}"}})
    run = RunFolder.start(cfg)
    text = (run.path / "config.yaml").read_text()
    assert text.startswith("format: 1\n") and "${" not in text
    assert run.cfg.logger.csv.save_dir == str(run.path) and run.cfg.logger.csv.id == run.path.name
    assert cfg.run_dir is None, "the configuration passed in is not changed"


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    cfg = config(tmp_path, run_dir=str(tmp_path / "mine"))
    finish(RunFolder.start(cfg))
    with pytest.raises(ValueError, match="exists: choose another run_dir, or pass resume=auto"):
        RunFolder.start(cfg)


def test_auto_resumes_the_newest_unfinished_run_of_the_same_configuration(tmp_path: Path) -> None:
    finish(RunFolder.start(config(tmp_path)))
    run = RunFolder.start(config(tmp_path))
    fail(run, RuntimeError("crash"))
    (run.path / "checkpoints" / "last.ckpt").touch()
    other = RunFolder.start(config(tmp_path, resume="auto", model={"depth": 4}))
    assert other.path != run.path and other.resume_from is None
    again = RunFolder.start(config(tmp_path, resume="auto"))
    assert again.path == run.path and again.resume_from == run.path / "checkpoints" / "last.ckpt"


def test_resuming_a_finished_folder_says_there_is_nothing_to_do(tmp_path: Path) -> None:
    cfg = config(tmp_path, run_dir=str(tmp_path / "mine"), resume="auto")
    finish(RunFolder.start(cfg))
    with pytest.raises(AlreadyFinished, match="nothing to do"):
        RunFolder.start(cfg)


def test_resuming_with_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = str(tmp_path / "mine")
    fail(RunFolder.start(config(tmp_path, run_dir=folder)), RuntimeError("crash"))
    with pytest.raises(ValueError, match="started with another configuration"):
        RunFolder.start(config(tmp_path, run_dir=folder, resume="auto", seed=1))


def test_a_folder_in_use_is_neither_resumed_nor_taken(tmp_path: Path) -> None:
    run = RunFolder.start(config(tmp_path, run_dir=str(tmp_path / "mine")))
    with run:
        assert is_locked(run.path)
        code = (
            "import sys; from pathlib import Path; from nissl.runs.folder import lock, unfinished_runs;"
            "assert not list(unfinished_runs(Path(sys.argv[1]))); lock(Path(sys.argv[1]) / 'mine')"
        )
        taken = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert taken.returncode == 1 and "is writing" in taken.stderr
    assert not is_locked(run.path)


def test_a_killed_run_is_free_to_be_resumed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_folder import config; from nissl.runs.folder import RunFolder;"
        "run = RunFolder.start(config(Path(sys.argv[1]))); run.__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)])
    (killed,) = tmp_path.glob("*/status.json")
    assert read_json(killed)["status"] == "running"
    assert RunFolder.start(config(tmp_path, resume="auto")).path == killed.parent


def test_json_is_replaced_whole_and_holds_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [1.0, float("inf")]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [1.0, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_names_sort_by_time_and_do_not_collide() -> None:
    names = {new_name() for _ in range(1000)}
    assert len(names) == 1000
