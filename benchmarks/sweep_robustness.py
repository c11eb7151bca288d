"""Does a search survive what kills it? Real trainings, real kills; nothing is simulated but the data.

The sweep of `sweep_robustness.yaml` (24 points, two data sets, two seeds) is run twice:

- whole: to its end. One point ends with a Python error, one is killed by the kernel, because the controller and its
  trainings live in a memory cgroup of 3 GB.
- killed: the controller gets `kill -9` after 4 and after 12 ended trials, and each time a second controller
  is started beside it on the same folder. Then it is continued to its end.

Both must hold the same trials: number, point, state and value. Needs Linux with memory cgroups (version 1) and root.

    python benchmarks/sweep_robustness.py --out runs/sweep_robustness
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SWEEP = Path(__file__).with_suffix(".yaml")
NISSL = Path(sys.executable).parent / "nissl"
MEMORY_LIMIT_BYTES = 3 * 2**30
KILL_AFTER_TRIALS = (4, 12)


class MemoryCgroup:
    """A cgroup below the one this process is in; processes that join share its memory limit."""

    def __init__(self, limit_bytes: int) -> None:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory"), None)
        if own is None:
            sys.exit("no memory cgroup of version 1 here: the out-of-memory kill cannot be had")
        self.path = Path("/sys/fs/cgroup/memory") / own.lstrip("/") / f"nissl-{os.getpid()}"
        self.path.mkdir()
        (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def join(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self) -> int:
        """How many processes the kernel has killed for memory."""
        (count,) = re.findall(r"^oom_kill (\d+)$", (self.path / "memory.oom_control").read_text(), re.MULTILINE)
        return int(count)

    def remove(self) -> None:
        while (self.path / "cgroup.procs").read_text():
            time.sleep(0.5)
        self.path.rmdir()


def trials(folder: Path) -> list[Any]:
    from nissl.runs.sweep import open_study

    return open_study(folder, SWEEP.stem, "minimize").get_trials() if (folder / "study.db").exists() else []


def ended(folder: Path) -> int:
    return sum(trial.state.is_finished() for trial in trials(folder))


def outcome(folder: Path) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.params["model.hidden"], trial.state.name, trial.value) for trial in trials(folder)]


def start(folder: Path, cgroup: MemoryCgroup) -> "subprocess.Popen[bytes]":
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("ab") as log:
        command = [NISSL, "sweep", SWEEP, "--folder", folder]
        return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=cgroup.join, start_new_session=True)


def second_is_refused(folder: Path) -> str:
    """What a second controller says that is started beside the first."""
    command = [str(NISSL), "sweep", str(SWEEP), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done
    return done.stderr.strip().splitlines()[-1]


def interrupted(folder: Path, cgroup: MemoryCgroup) -> dict[str, Any]:
    kills = []
    for wanted in KILL_AFTER_TRIALS:
        process = start(folder, cgroup)
        while ended(folder) < wanted:
            assert process.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.5)
        refusal = second_is_refused(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
        states = [trial.state.name for trial in trials(folder)]
        kills.append({"ended": ended(folder), "running": states.count("RUNNING"), "second_controller": refusal})
    assert start(folder, cgroup).wait() == 0
    return {"kills": kills}


def sessions(folder: Path) -> list[int]:
    """How often each training of a complete trial was started."""
    complete = {f"{trial.number:04d}" for trial in trials(folder) if trial.state.name == "COMPLETE"}
    files = [file for file in folder.glob("trials/*/provenance.json") if file.parent.name[:4] in complete]
    return [len(json.loads(file.read_text())["sessions"]) for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/sweep_robustness"))
    out = parser.parse_args().out.resolve()
    cgroup = MemoryCgroup(MEMORY_LIMIT_BYTES)
    result: dict[str, Any] = {}
    for name in ("whole", "killed"):
        began = time.monotonic()
        if name == "whole":
            assert start(out / "whole", cgroup).wait() == 0
        else:
            result.update(interrupted(out / "killed", cgroup))
        states = [state for _, _, state, _ in outcome(out / name)]
        starts = sessions(out / name)
        result[name] = {
            "trials": len(states),
            "complete": states.count("COMPLETE"),
            "failed": {
                str(trial.params["model.hidden"]): trial.user_attrs["failure"].splitlines()[0]
                for trial in trials(out / name)
                if trial.state.name == "FAIL"
            },
            "trainings_of_complete_trials": len(starts),
            "started_more_than_once": sum(count > 1 for count in starts),
            "killed_for_memory_by_the_kernel": cgroup.kills(),
            "wall_s": round(time.monotonic() - began),
        }
    result["same_trials"] = outcome(out / "whole") == outcome(out / "killed")
    cgroup.remove()
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["same_trials"] else 1)


if __name__ == "__main__":
    main()
