"""A program started from the warm process is a process of its own, as one started by a shell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nissl.runs.executors import LocalExecutor
from nissl.runs.search_space import SearchSpec
from nissl.runs.sweep import Sweep, open_study
from nissl.runs.warm_start import WarmStart

SAYS = """
import os, sys
from pathlib import Path
print("out", sys.argv[1:], Path.cwd().name, os.environ["WORD"], sys.stdin.read())
print("err", file=sys.stderr)
sys.exit({"number": 3, "text": "why", "nothing": None}[sys.argv[1]])
"""


@pytest.fixture
def says(tmp_path: Path) -> list[str]:
    (tmp_path / "says.py").write_text(SAYS)
    return [sys.executable, str(tmp_path / "says.py")]


@pytest.mark.parametrize(("how", "status", "end"), [("number", 3, ""), ("text", 1, "why\n"), ("nothing", 0, "")])
def test_arguments_folder_environment_output_and_status_are_its_own(
    warm: WarmStart, says: list[str], tmp_path: Path, how: str, status: int, end: str
) -> None:
    done = warm.run([*says, how, "b c"], cwd=tmp_path, env={**os.environ, "WORD": "w"})
    assert (done.returncode, done.stderr) == (status, "err\n" + end)
    assert done.stdout == f"out {[how, 'b c']} {tmp_path.name} w \n"


def test_an_exception_is_a_traceback_and_status_one(warm: WarmStart, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("def f(): raise ValueError('why')\nf()\n")
    done = warm.run([sys.executable, str(tmp_path / "fails.py")])
    assert done.returncode == 1 and done.stderr.endswith("ValueError: why\n") and "fails.py" in done.stderr


def test_a_kill_ends_one_program_and_no_other(warm: WarmStart, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import sys, time\nprint('here', flush=True)\ntime.sleep(float(sys.argv[1]))\n")
    command = [sys.executable, str(tmp_path / "waits.py")]
    with (tmp_path / "log").open("wb") as log:
        first, second = (warm.start([*command, seconds], log.fileno(), log.fileno()) for seconds in ("60", "1"))
    assert first.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL and second.wait(60) == 0
    first.send_signal(signal.SIGKILL)  # it has ended: nothing is sent to whoever has its number now


def test_another_interpreter_is_refused(warm: WarmStart) -> None:
    with pytest.raises(ValueError, match="only, came /bin/sh"):
        warm.start(["/bin/sh"], 1, 2)


def warm_executor(warm: WarmStart, parallel: int) -> LocalExecutor:
    """An executor whose server is the one of the tests."""
    executor = LocalExecutor(parallel, warm=True)
    assert executor._warm is not None
    executor._warm.close()
    executor._warm = warm
    return executor


def test_a_sweep_starts_its_trainings_warm(warm: WarmStart, tmp_path: Path) -> None:
    toy = Path(__file__).parent / "toy_program.py"
    objective = {"metric": "val/loss/last", "direction": "minimize"}
    space = {"x": {"choices": [1, 5, 6, 4]}}
    spec = SearchSpec("toy", ["dataset=a", "pause=0.1"], space, objective, sampler={"name": "grid"})
    executor = warm_executor(warm, 2)
    sweep = Sweep(spec, tmp_path / "s", executor, [sys.executable, str(toy)])
    sweep.run()
    trials = open_study(tmp_path / "s", "toy", "minimize").get_trials()
    assert [trial.value for trial in trials] == [1.0, None, None, 4.0]
    assert "ValueError: five" in trials[1].user_attrs["failure"]
    assert "killed by signal 9" in trials[2].user_attrs["failure"]


def test_a_cancelled_training_gets_its_signal(warm: WarmStart, tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nprint('here', flush=True)\n"
    )
    (tmp_path / "stops.py").write_text(program + "while True: time.sleep(0.05)\n")
    executor = warm_executor(warm, 1)
    handle = executor.submit([sys.executable, str(tmp_path / "stops.py")], tmp_path / "log")
    while "here" not in (tmp_path / "log").read_text():
        time.sleep(0.01)
    handle.cancel()
    assert handle.poll() == 143
