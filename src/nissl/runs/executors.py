"""Where the trainings of a search run: processes of this machine, or jobs of a Slurm cluster, behind one interface.

`submit` starts a command, `poll` asks whether it has ended, `cancel` stops it. A training is always a process of its
own: an out-of-memory kill or a segmentation fault ends that training and nothing else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from nissl.runs.warm_start import WarmProcess, WarmStart


class Handle(Protocol):
    """A started command."""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def cancel(self) -> None:
        """Ask it to stop and wait until it has."""


class Executor(Protocol):
    """Something that runs commands, at most `parallel` at a time."""

    parallel: int

    def submit(self, command: list[str], log: Path) -> Handle: ...


class LocalExecutor:
    """Processes of this machine, the cores divided among them; an OMP_NUM_THREADS that is set already stays.

    Args:
        parallel: trainings at a time.
        gpus: how many there are; each training sees one, the trainings in turn. 0: all see what the controller sees.
        warm: start each from a process that has done the imports (`warm_start`), which spares 8 CPU-seconds a training.
    """

    def __init__(self, parallel: int = 1, gpus: int = 0, warm: bool = False) -> None:
        if parallel < 1:
            raise ValueError(f"executor.parallel must be at least 1, came {parallel}")
        self.parallel, self.gpus = parallel, gpus
        self._warm = WarmStart() if warm else None
        self._handles: list[LocalHandle | None] = [None] * parallel

    def submit(self, command: list[str], log: Path) -> Handle:
        threads = max(1, len(os.sched_getaffinity(0)) // self.parallel)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        slot = next((i for i, handle in enumerate(self._handles) if handle is None or handle.poll() is not None), 0)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % self.gpus)
        with log.open("ab") as file:
            if self._warm is not None:
                handle = LocalHandle(self._warm.start(command, file.fileno(), file.fileno(), env=environment))
                self._handles[slot] = handle
                return handle
            # A session of its own: Ctrl-C reaches the controller, which then stops its trainings in order.
            process = subprocess.Popen(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        handle = LocalHandle(process)
        self._handles[slot] = handle
        return handle


class LocalHandle:
    def __init__(self, process: subprocess.Popen[bytes] | WarmProcess) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.poll()

    def cancel(self, patience_s: float = 20.0) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class SlurmExecutor:
    """Jobs submitted through submitit (https://github.com/facebookincubator/submitit).

    Args:
        parallel: jobs queued or running at a time.
        cluster: `slurm`, or `local` to run the same machinery without a cluster.
        folder: where submitit keeps job files; on a file system that all nodes see.
        parameters: of the job, as submitit names them: `timeout_min`, `slurm_partition`, `gpus_per_node`, `mem_gb`, ...
    """

    def __init__(
        self,
        folder: str,
        parallel: int = 1,
        cluster: str = "slurm",
        parameters: dict[str, Any] | None = None,
    ) -> None:
        import submitit

        self.parallel = parallel
        self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self._executor.update_parameters(**{"timeout_min": 24 * 60, **(parameters or {})})

    def submit(self, command: list[str], log: Path) -> Handle:
        return SlurmHandle(self._executor.submit(run_logged, command, str(log)))


def run_logged(command: list[str], log: str) -> int:
    """Run a command with its output appended to a file; the function a cluster job executes."""
    with Path(log).open("ab") as file:
        return subprocess.run(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL).returncode


class SlurmHandle:
    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        # A job that the cluster ended (time limit, node failure) has no result.
        return self.job.result() if self.job.exception() is None else 1

    def cancel(self) -> None:
        self.job.cancel()
        while not self.job.done(force_check=True):
            time.sleep(1.0)


def build_executor(spec: dict[str, Any], folder: Path) -> Executor:
    """The executor of a sweep's `executor:` section.

    Raises:
        ValueError: if its name is unknown.
    """
    options = {key: value for key, value in spec.items() if key != "name"}
    if spec["name"] == "local":
        return LocalExecutor(**options)
    if spec["name"] == "slurm":
        return SlurmExecutor(str(folder / "slurm"), **options)
    raise ValueError(f"executor.name must be local or slurm, came {spec['name']!r}")
