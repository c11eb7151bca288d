import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nissl.runs.executors import LocalExecutor, SlurmExecutor
from nissl.runs.folder import read_json
from nissl.runs.search_space import SearchSpec
from nissl.runs.sweep import Sweep, draw_point, objective, open_study
from nissl.runs.sweep_display import spread, status_table
from nissl.runs.sweep_report import build_sweep_report

PROGRAM = [sys.executable, str(Path(__file__).parent / "toy_program.py")]
CONTROLLER = """
import sys
from pathlib import Path
from test_sweep import PROGRAM, grid
from nissl.runs.executors import LocalExecutor
from nissl.runs.sweep import Sweep
Sweep(grid(), Path(sys.argv[1]), LocalExecutor(4), PROGRAM).run()
"""


def grid(**changes: Any) -> SearchSpec:
    values: dict[str, Any] = {
        "name": "toy",
        "base": ["pause=0.01"],
        "space": {"x": {"choices": list(range(1, 25))}},
        "sampler": {"name": "grid"},
        "seeds": [0, 1],
        "datasets": {"a": ["dataset=a"], "b": ["dataset=b"]},
        "objective": {"metric": "val/loss/last", "direction": "minimize"},
    }
    return SearchSpec(**{**values, **changes})


def trials(folder: Path) -> list[Any]:
    return open_study(folder, "toy", "minimize").get_trials()


def outcome(folder: Path) -> set[tuple[Any, ...]]:
    return {(t.number, str(t.params), t.state.name, t.value) for t in trials(folder)}


def start_controller(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", CONTROLLER, str(folder)], env=environment, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    Sweep(grid(), folder, LocalExecutor(4), PROGRAM).run()
    return folder


def test_the_objective_is_the_mean_over_seeds_then_over_data_sets(whole: Path) -> None:
    for trial in trials(whole):
        if trial.state.name == "COMPLETE":
            x = trial.params["x"]
            assert trial.value == pytest.approx((x - 2) ** 2 + 0.5 + 5.0)
            parts = [
                read_json(whole / f"trials/{trial.number:04d}-{d}-seed{s}/summary.json")["val/loss/last"]
                for d in "ab"
                for s in (0, 1)
            ]
            assert trial.value == pytest.approx(sum(parts) / 4)
    assert objective({"a": {0: 1.0, 1: 3.0}, "b": {0: 10.0}}) == 6.0
    assert spread({"a": {0: 1.0, 1: 3.0}, "b": {0: 1.0, 1: 3.0}}) == pytest.approx(2**0.5)


def test_failed_trials_are_kept_with_their_reason_and_the_search_goes_on(whole: Path) -> None:
    failed = {t.params["x"]: t.user_attrs["failure"] for t in trials(whole) if t.state.name == "FAIL"}
    assert sorted(failed) == [5, 6, 7] and sum(t.state.name == "COMPLETE" for t in trials(whole)) == 21
    assert "ValueError: five\nline" in failed[5]
    assert "killed by signal 9 (out of memory?)" in failed[6]
    assert "val/loss/last is missing or NaN" in failed[7]
    table = (whole / "status.txt").read_text()
    assert "21 complete" in table and "3 fail" in table and "ValueError: five" in table


def test_a_controller_killed_in_the_middle_resumes_to_the_same_trials(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for seconds in (3.0, 3.0):
        process = start_controller(folder)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start_controller(folder).wait(timeout=120) == 0
    assert outcome(folder) == outcome(whole)
    complete = {f"{t.number:04d}" for t in trials(folder) if t.state.name == "COMPLETE"}
    starts = [path.read_text().count("start") for path in folder.glob("trials/*/starts.txt")]
    assert len(starts) >= 4 * len(complete) and set(starts) == {1}, "no training was repeated"


def test_a_second_controller_is_refused(tmp_path: Path) -> None:
    first = Sweep(grid(), tmp_path / "sweep", LocalExecutor(1), PROGRAM)
    second = start_controller(tmp_path / "sweep")
    assert second.wait(timeout=60) != 0
    del first


def test_retry_and_more_trials_are_added_to_those_there(tmp_path: Path) -> None:
    small = {"space": {"x": {"low": 0.0, "high": 4.0}}, "sampler": {"name": "random", "seed": 3}, "datasets": None}
    spec = grid(**small, base=["pause=0.0", "dataset=a"], trials=3)
    Sweep(spec, tmp_path / "s", LocalExecutor(2), PROGRAM).run()
    first = outcome(tmp_path / "s")
    assert len(first) == 3
    released(tmp_path / "s", spec, add_trials=2)
    assert first < outcome(tmp_path / "s") and len(outcome(tmp_path / "s")) == 5
    whole = grid(**small, base=["pause=0.0", "dataset=a"], trials=5)
    Sweep(whole, tmp_path / "t", LocalExecutor(1), PROGRAM).run()
    assert outcome(tmp_path / "t") == outcome(tmp_path / "s"), "the points do not depend on how often it was started"


def released(folder: Path, spec: SearchSpec, **options: Any) -> None:
    """Run again as a new process would, which holds no lock from before."""
    (folder / ".lock").unlink()
    Sweep(spec, folder, LocalExecutor(2), PROGRAM).run(**options)


def test_failed_trials_are_retried_once_more(tmp_path: Path) -> None:
    spec = grid(space={"x": {"choices": [1, 5]}}, max_failure_rate=1.0)
    Sweep(spec, tmp_path / "s", LocalExecutor(2), PROGRAM).run()
    released(tmp_path / "s", spec, retry_failed=True)
    assert [t.params["x"] for t in trials(tmp_path / "s")] == [1, 5, 5]
    released(tmp_path / "s", spec, retry_failed=True)
    assert [t.user_attrs.get("retry_of") for t in trials(tmp_path / "s")] == [None, None, 1, 2]


def test_a_changed_space_is_refused_with_the_difference(tmp_path: Path) -> None:
    Sweep(grid(), tmp_path / "s", LocalExecutor(1), PROGRAM)
    (tmp_path / "s" / ".lock").unlink()
    with pytest.raises(ValueError, match=r"seeds: \[0, 1\] -> \[0, 1, 2\]"):
        Sweep(grid(seeds=[0, 1, 2]), tmp_path / "s", LocalExecutor(1), PROGRAM)


def test_too_many_failures_stop_the_search(tmp_path: Path) -> None:
    spec = grid(space={"x": {"choices": [5]}, "y": {"choices": list("abcdefgh")}}, datasets=None, seeds=[0])
    with pytest.raises(ValueError, match="4 of 4 trials failed"):
        Sweep(spec, tmp_path / "s", LocalExecutor(1), [*PROGRAM, "dataset=a"]).run()


def test_a_hopeless_trial_is_pruned_on_its_first_training(tmp_path: Path) -> None:
    spec = grid(
        space={"x": {"choices": [2, 2.1, 40]}},
        base=["pause=0.4"],
        pruner={"name": "median", "metric": "val/loss", "n_startup_trials": 2, "n_warmup_steps": 1},
    )
    Sweep(spec, tmp_path / "s", LocalExecutor(1), PROGRAM).run()
    assert [t.state.name for t in trials(tmp_path / "s")] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert not (tmp_path / "s/trials/0002-b-seed0").exists()


def test_the_same_sweep_runs_through_submitit(whole: Path, tmp_path: Path) -> None:
    spec = grid(space={"x": {"choices": [1, 2]}}, executor={"name": "slurm", "cluster": "local"})
    executor = SlurmExecutor(str(tmp_path / "jobs"), parallel=4, cluster="local")
    Sweep(spec, tmp_path / "s", executor, PROGRAM).run()
    assert [t.value for t in trials(tmp_path / "s")] == [6.5, 5.5]
    assert "2 complete" in status_table(open_study(tmp_path / "s", "toy", "minimize"), 2)


def test_a_sweep_has_a_report_with_its_numbers_beside_it(whole: Path) -> None:
    text = build_sweep_report(whole).read_text()
    assert "Parallel coordinates" in text and "Importance" in text and "ValueError: five" in text
    assert "python train.py pause=0.01 dataset=a x=2 seed=0" in text and "https://" not in text
    header, *rows = [line.split(",") for line in (whole / "trials.csv").read_text().splitlines()]
    assert header == ["trial", "state", "x", "val/loss/last", "sd over seeds", "mean on a", "mean on b"]
    assert [float(cell) for cell in rows[0][2:]] == pytest.approx([2, 5.5, 0.5**0.5, 0.5, 10.5])
    assert (whole / "importance.csv").read_text() == "key,importance\nx,1.0\n"


def test_a_controller_killed_between_asking_and_recording_goes_on_with_the_same_point(tmp_path: Path) -> None:
    small = {"space": {"x": {"low": 0.0, "high": 4.0}, "y": {"low": 1, "high": 9}}, "datasets": None, "seeds": [0]}
    spec = grid(**small, sampler={"name": "random", "seed": 3}, base=["pause=0.0", "dataset=a"], trials=2)
    Sweep(spec, tmp_path / "whole", LocalExecutor(1), PROGRAM).run()
    cut = Sweep(spec, tmp_path / "cut", LocalExecutor(1), PROGRAM)
    cut.study.enqueue_trial(draw_point(spec, cut.study, 0))
    cut.study.ask()  # no parameter is recorded yet
    released(tmp_path / "cut", spec)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(("asked", "expected"), [(None, max(1, len(os.sched_getaffinity(0)) // 2)), ("3", 3)])
def test_cores_are_divided_among_trainings_unless_the_user_said_how_many(
    asked: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    handle = LocalExecutor(2).submit(
        [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], tmp_path / "log"
    )
    while handle.poll() is None:
        time.sleep(0.01)
    assert (tmp_path / "log").read_text().strip() == str(expected)
