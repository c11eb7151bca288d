"""The run folder: one folder holds everything a run was and did.

    with RunFolder.start(cfg) as run:
        ...

A folder is created once and owned by one process at a time (a lock that dies with the process). It says how the
process ended: `running` with a dead process id means killed. JSON files are replaced whole, never half-written.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import secrets
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from nissl.runs.compose import conf_dir, config_hash, read_config, resolve, task_overrides
from nissl.runs.provenance import code_diff, fingerprint, provenance

if TYPE_CHECKING:
    from nissl.runs.loggers import Sink

Kind = Literal["training", "evaluation"]
_RESERVE_BYTES = 1 << 18
_PROCESS_FOLDER, _PROCESS_CHECKPOINT = "NISSL_RUN_FOLDER", "NISSL_RUN_CHECKPOINT"


class Preempted(BaseException):
    """The cluster or a user asked the process to stop (SIGTERM, SIGUSR1)."""


class AlreadyFinished(Exception):
    """The run that `resume=auto run_dir=...` names has finished: there is nothing to do."""


class RunFolder:
    """An open run folder.

    Attributes:
        path: the folder.
        cfg: the resolved configuration, as in its config.yaml.
        resume_from: checkpoint to continue from, or None.
        sinks: dashboards, closed when the run ends, however it ends.
        is_main: False in the further processes of a distributed training, which write nothing.
    """

    def __init__(
        self, path: Path, cfg: DictConfig, kind: Kind, resume_from: Path | None = None, is_main: bool = True
    ) -> None:
        self.path, self.cfg, self.kind, self.resume_from = path, cfg, kind, resume_from
        self.is_main = is_main
        self.sinks: list[Sink] = []
        self._lock = lock(path) if is_main else None
        self._started = time.time()
        self._previous_handlers: dict[int, Any] = {}

    @classmethod
    def start(cls, cfg: DictConfig, parent: Path | None = None) -> RunFolder:
        """Make the folder of a training, or open the one that `resume` continues.

        Args:
            cfg: composed configuration, not yet resolved.
            parent: where a new folder goes; default `cfg.runs_dir`.

        Raises:
            ValueError: if `run_dir` exists and is not to be resumed, or another process is writing it.
            AlreadyFinished: if `run_dir` with `resume=auto` has finished.
        """
        if _PROCESS_FOLDER in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
            return cls._join(Path(os.environ[_PROCESS_FOLDER]))
        resolved = resolve(cfg)
        parent = parent or Path(resolved.runs_dir)
        folder = Path(resolved.run_dir) if resolved.run_dir else None
        resumed = _find_resumable(resolved, folder, parent)
        if resumed is not None:
            run_id = read_config(resumed).run_id
            checkpoint = resumed / "checkpoints" / "last.ckpt"
            return cls(resumed, _placed(cfg, resumed, run_id), "training", checkpoint if checkpoint.exists() else None)
        return cls._create(folder or parent / new_name(), cfg, "training")

    @classmethod
    def _join(cls, folder: Path) -> RunFolder:
        """The folder of the first process, in a further process that it has started."""
        checkpoint = os.environ.get(_PROCESS_CHECKPOINT)
        return cls(folder, read_config(folder), "training", Path(checkpoint) if checkpoint else None, is_main=False)

    @classmethod
    def start_evaluation(cls, cfg: DictConfig) -> RunFolder:
        """Make the folder of an evaluation: inside the run's, unless `run_dir` or a bare model says otherwise."""
        if cfg.run_dir:
            folder = Path(cfg.run_dir).expanduser().resolve()
        elif cfg.get("run"):
            folder = Path(cfg.run) / "evaluations" / new_name()
        else:
            folder = Path(cfg.runs_dir) / new_name()
        return cls._create(folder, cfg, "evaluation")

    @classmethod
    def _create(cls, folder: Path, cfg: DictConfig, kind: Kind) -> RunFolder:
        # Dashboards know a run by this name alone: a folder that a person named needs something nobody else has.
        run_id = folder.name if _is_new_name(folder.name) else f"{folder.name}-{secrets.token_hex(3)}"
        if os.environ.get("WANDB_SWEEP_ID"):  # started by a wandb agent, which waits for the run it named
            run_id = os.environ.get("WANDB_RUN_ID", run_id)
        placed = _placed(cfg, folder, run_id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(exist_ok=False)
        except FileExistsError:
            raise ValueError(
                f"the folder {folder} exists: choose another run_dir"
                + (", or pass resume=auto to continue it" if kind == "training" else "")
            ) from None
        run = cls(folder, placed, kind)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(placed))
        write_text(folder / "overrides.txt", "".join(f"{text}\n" for text in task_overrides()))
        return run

    def __enter__(self) -> RunFolder:
        if not self.is_main:
            return self
        # Lightning starts the further processes of a distributed training with this environment.
        os.environ[_PROCESS_FOLDER] = str(self.path.resolve())
        os.environ[_PROCESS_CHECKPOINT] = str(self.resume_from or "")
        (self.path / "checkpoints").mkdir(exist_ok=True)
        (self.path / "figures").mkdir(exist_ok=True)
        self.set_status("running")
        # Given back when the run ends: on a full disk it is what status.json is written with.
        (self.path / ".reserve").write_bytes(bytes(_RESERVE_BYTES))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._previous_handlers[number] = signal.signal(number, _raise_preempted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        for name in (_PROCESS_FOLDER, _PROCESS_CHECKPOINT):
            os.environ.pop(name, None)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        (self.path / ".reserve").unlink(missing_ok=True)
        self._close_sinks(error is None)
        if error is None:
            self.set_status("finished")
        elif reason := _interruption(error):
            self.set_status("interrupted", reason)
        else:
            # In one line, as tables show it: Hydra puts the cause of a failed constructor into its second.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.set_status("failed", reason, "".join(traceback.format_exception(error)))
        self.update_provenance(ended=time.time())
        os.close(self._lock)

    def _close_sinks(self, is_finished: bool) -> None:
        """Give the dashboards the final numbers and the best weights, and end them."""
        summary, names = self.path / "summary.json", ("best.ckpt", "last.ckpt")
        files = [path for name in names if (path := self.path / "checkpoints" / name).exists()]
        for sink in self.sinks:
            if summary.exists():
                sink.log_summary(read_json(summary))
            if is_finished and files:
                sink.log_checkpoint(files[0], fingerprint(files[0])["blake2b"])
            sink.close("success" if is_finished else "failed")

    def set_status(self, status: str, reason: str = "", trace: str = "") -> None:
        """Write status.json."""
        write_json(
            self.path / "status.json",
            {
                "status": status,
                "reason": reason,
                "traceback": trace,
                "kind": self.kind,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": self._started,
                "updated": time.time(),
            },
        )

    def record_provenance(self, data_files: list[Path], data_note: str = "") -> None:
        """Write provenance.json and git.diff; of a resumed run, add a session to the one there."""
        if not self.is_main:
            return
        diff = code_diff()
        if diff:
            write_text(self.path / "git.diff", diff)
        record = provenance(self.cfg, data_files, diff)
        if self.kind == "training":
            record["changed"] = _changed(task_overrides())
        before = read_json(self.path / "provenance.json") if (self.path / "provenance.json").exists() else {}
        sessions = before.get("sessions", []) + [{"started": self._started, "command": record["command"]}]
        write_json(
            self.path / "provenance.json",
            {**record, "config_hash": config_hash(self.cfg), "sessions": sessions, "started": sessions[0]["started"]},
        )

    def open_sinks(self) -> list[Sink]:
        """Start the dashboards of the configuration; they are closed when the run ends."""
        from nissl.runs.loggers import build_sinks

        self.sinks = build_sinks(self.cfg) if self.is_main else []
        return self.sinks

    def end_unless_main(self) -> None:
        """Further processes of a distributed training are done when it is; the first one evaluates and reports."""
        if not self.is_main:
            sys.exit(0)

    def update_provenance(self, **values: Any) -> None:
        """Add to provenance.json, if it has been written."""
        path = self.path / "provenance.json"
        if path.exists():
            write_json(path, {**read_json(path), **values})


def _placed(cfg: DictConfig, folder: Path, run_id: str) -> DictConfig:
    """The configuration resolved with its own folder and name, which loggers refer to."""
    placed = OmegaConf.merge(
        cfg, {"run_dir": str(folder.resolve()), "run_id": run_id, "group": cfg.get("group") or _experiment()}
    )
    assert isinstance(placed, DictConfig)
    return resolve(placed)


def _changed(overrides: list[str]) -> list[dict[str, str]]:
    """What differs from the defaults, for the report; nothing outside a clone, where there are no files to compare."""
    from nissl.runs.origins import ConfigTree, changed_keys, parse_overrides

    try:
        tree = ConfigTree(conf_dir())
        return changed_keys(tree.compose("train", parse_overrides(overrides)))
    except ValueError:
        return []


def _experiment() -> str:
    """The experiment named on the command line, by which dashboards group its seeds."""
    named = [text.partition("=")[2] for text in task_overrides() if text.startswith("experiment=")]
    return named[-1] if named else "runs"


def _find_resumable(cfg: DictConfig, folder: Path | None, parent: Path) -> Path | None:
    """The folder `resume` continues, or None for a fresh start; says which it did."""
    if cfg.resume is None:
        return None
    if cfg.resume != "auto":
        folder = Path(cfg.resume).expanduser().resolve()
        if not (folder / "config.yaml").exists():
            raise ValueError(f"resume={cfg.resume}: {folder} is not a run folder (no config.yaml)")
    if folder is not None:
        if not (folder / "config.yaml").exists():
            return None
        if read_json(folder / "status.json")["status"] == "finished":
            raise AlreadyFinished(f"{folder} has finished: nothing to do")
        if config_hash(read_config(folder)) != config_hash(cfg):
            raise ValueError(
                f"{folder} was started with another configuration: repeat the overrides in its overrides.txt, or "
                "choose another run_dir"
            )
        print(f"Resuming {folder}", flush=True)
        return folder
    wanted = config_hash(cfg)
    for candidate in sorted(unfinished_runs(parent), key=lambda path: path.name, reverse=True):
        if config_hash(read_config(candidate)) == wanted:
            print(f"Resuming {candidate}", flush=True)
            return candidate
    print(f"Nothing to resume in {parent}: starting afresh", flush=True)
    return None


def unfinished_runs(parent: Path) -> Iterator[Path]:
    """Trainings under `parent` that did not finish and that no live process is writing."""
    for status_file in parent.glob("*/status.json"):
        status = read_json(status_file)
        if status["kind"] == "training" and status["status"] != "finished" and not is_locked(status_file.parent):
            yield status_file.parent


def lock(folder: Path, patience_s: float = 15.0) -> int:
    """Take the folder for this process; the lock goes with the process, however it ends.

    Returns:
        The open file that holds the lock.

    Raises:
        ValueError: if another process holds it.
    """
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
            return file
        except BlockingIOError:
            holder = os.pread(file, 20, 0).decode()
            # Loader processes of a killed training keep its lock for the seconds they need to notice.
            orphaned = holder.isdigit() and not Path(f"/proc/{holder}").exists() and Path("/proc/self").exists()
            if orphaned and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            os.close(file)
            raise ValueError(f"process {holder} is writing {folder}: wait for it, or choose another run_dir") from None


def is_locked(folder: Path) -> bool:
    """Whether a live process is writing the folder."""
    if not (folder / ".lock").exists():
        return False
    file = os.open(folder / ".lock", os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def new_name() -> str:
    """Time for people, a random part against two runs in one second."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(4)}"


def _is_new_name(name: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{8}", name) is not None


def _raise_preempted(number: int, frame: FrameType | None) -> None:
    raise Preempted(f"received {signal.Signals(number).name}")


def _interruption(error: BaseException) -> str:
    """Why a run was stopped from outside; empty when it failed by itself."""
    # Lightning answers Ctrl-C with SystemExit; the reason is in the exception it was handling.
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return "Ctrl-C"
        if isinstance(seen, Preempted) or type(seen).__name__ == "SIGTERMException":
            return str(seen) or "received SIGTERM"
        seen = seen.__context__
    return ""


def write_text(path: Path, text: str) -> None:
    """Replace a file whole: a reader or a crash sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities become null, which JSON has a word for."""
    write_text(path, json.dumps(_without_nan(value), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
