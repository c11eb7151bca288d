"""Programs started from a process that has done the imports: a fork costs milliseconds, importing torch, Lightning and
scikit-learn in a new interpreter 8 CPU-seconds.

Worth it where trainings are short: searches over small models (`executor: {name: local, warm: true}`) and the tests.
Each program is a process of its own all the same, with its arguments, folder, environment and output; it can be killed,
and its exit status is a real one. The code it runs is that of the moment its server started.

`python -m nissl.runs.warm_start <socket>` is the server, which ends with the process that started it; `WarmStart` talks
to it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

# What train.py and evaluate.py end up importing. Nothing here may start a thread: a fork would lose it.
PRELOADED = (
    "torch pytorch_lightning torch_geometric torchmetrics hydra omegaconf pandas jinja2 rich.console h5py "
    "scipy.signal scipy.stats scipy.ndimage sklearn.neighbors sklearn.mixture sklearn.linear_model sklearn.metrics "
    "matplotlib.figure matplotlib.backends.backend_agg nissl.datasets.datamodule nissl.runs.callbacks "
    "nissl.runs.evaluation nissl.runs.report nissl.runs.weights nissl.runs.validate nissl.runs.command_line"
)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # none but the first before the fork
_PATIENCE_S = 600.0  # for the server's imports, on a busy machine
_POLL_S = 0.02


class WarmProcess:
    """A started program, with the part of subprocess.Popen that its users need."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection, self.pid = connection, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: if it still runs then.
        """
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _status(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            answer = self._connection.recv(64)
            self._connection.close()
            if not answer:  # its server was killed, and nobody can tell how it ends: it ends now
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self.returncode = int(answer or -signal.SIGKILL)
        return self.returncode


class WarmStart:
    """Starts programs; its server starts with the first one."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nissl-warm-")
        self._address = str(Path(self._folder.name) / "socket")
        self._server: subprocess.Popen[bytes] | None = None

    def start(
        self, command: list[str], out: int, err: int, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> WarmProcess:
        """Start `[sys.executable, script, arguments...]`.

        Args:
            out, err: open files for its standard output and error.
            cwd: its folder; default: this process's.
            env: its environment; default: this process's.
        """
        if command[0] != sys.executable:
            raise ValueError(f"a warm start runs {sys.executable} only, came {command[0]}")
        connection = self._connect()
        body = json.dumps({"argv": command[1:], "cwd": str(cwd or Path.cwd()), "env": env or dict(os.environ)}).encode()
        socket.send_fds(connection, [len(body).to_bytes(8, "big")], [out, err])
        connection.sendall(body)
        return WarmProcess(connection, int.from_bytes(_exactly(connection, 8), "big"))

    def run(
        self, command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with the output captured as text."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self.start(command, out.fileno(), err.fileno(), cwd, env)
            try:
                status = process.wait(timeout)
            except BaseException:
                process.send_signal(signal.SIGKILL)
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess(command, status, *texts)

    def close(self) -> None:
        """End the server; programs that still run are left alone."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
        self._folder.cleanup()

    def _connect(self) -> socket.socket:
        if self._server is None or self._server.poll() is not None:
            Path(self._address).unlink(missing_ok=True)
            command = [sys.executable, "-m", __name__, self._address]
            # What command_line sets before the first import of torch must be there when the server imports it.
            reproducible = {"MKL_CBWR": "AUTO,STRICT"}
            single = dict.fromkeys(_THREADS, "1")
            self._server = subprocess.Popen(command, env={**reproducible, **os.environ, **single})
        connection = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + _PATIENCE_S
        while connection.connect_ex(self._address) != 0:
            if self._server.poll() is not None:
                raise RuntimeError(f"the process that starts others ended with status {self._server.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the process that starts others needs more than {_PATIENCE_S:.0f} s for its imports"
                )
            time.sleep(_POLL_S)
        return connection


def serve(address: str) -> None:
    """Fork a process per connection; tell its number at once, and its exit status when it has ended."""
    parent = os.getppid()
    for name in PRELOADED.split():
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    os.rename(f"{address}.new", address)  # a client sees it only when it answers
    running: dict[int, socket.socket] = {}
    while os.getppid() == parent:
        if select.select([listener], [], [], _POLL_S if running else 0.5)[0]:
            connection, _ = listener.accept()
            head, files, *_ = socket.recv_fds(connection, 8, 2)
            request = json.loads(_exactly(connection, int.from_bytes(head, "big")))
            pid = os.fork()
            if pid == 0:
                for other in (listener, connection, *running.values()):
                    other.close()
                _become(request["argv"], request["cwd"], request["env"], list(files))
            for file in files:
                os.close(file)
            connection.sendall(pid.to_bytes(8, "big"))
            running[pid] = connection
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(ended[0]) as connection, contextlib.suppress(OSError):  # nobody may be listening any more
                connection.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())


def _become(argv: list[str], cwd: str, env: dict[str, str], files: list[int]) -> None:
    """In the forked process: run the program as `python argv` would, and end."""
    status = 1
    try:
        os.setsid()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        for source, target in zip([os.open(os.devnull, os.O_RDONLY), *files], (0, 1, 2), strict=True):
            os.dup2(source, target)
        for file in files:
            os.close(file)
        _use_threads(env)
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).resolve().parent)
        runpy.run_path(argv[0], run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):  # a closed or full output
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _use_threads(env: dict[str, str]) -> None:
    """As many threads as the environment asks for; torch read its own when the server started."""
    import torch

    torch.set_num_threads(int(env.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more: Any = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the other side has gone")
        data += more
    return data


if __name__ == "__main__":
    serve(sys.argv[1])
    os._exit(0)  # nothing here is worth a slow end
