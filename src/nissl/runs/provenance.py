"""Where a run's numbers come from: code, packages, machine, command, seeds, data.

The environment is never stored whole (it holds keys): only the variables that change results.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

RESULT_CHANGING_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "PYTHONHASHSEED",
    "NVIDIA_TF32_OVERRIDE",
)
REPOSITORY = Path(__file__).parents[3]


def provenance(cfg: DictConfig, data_files: list[Path], diff: str) -> dict[str, Any]:
    """Everything of provenance.json that is known at the start of a run."""
    return {
        "git": git_state(diff),
        "command": " ".join(shlex.quote(part) for part in [Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "packages": packages(),
        "host": host(),
        "environment": {name: os.environ[name] for name in RESULT_CHANGING_VARIABLES if name in os.environ},
        "seed": cfg.get("seed"),
        "seeded": ["python", "numpy", "torch"],
        "deterministic": (cfg.get("trainer") or {}).get("deterministic"),
        "data": [fingerprint(path) for path in data_files],
    }


def _git(*arguments: str) -> str | None:
    """What git says about the code that runs; None outside a git tree."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def code_diff() -> str:
    """Staged and unstaged changes of tracked files; empty when clean or outside git."""
    return _git("diff", "HEAD", "--binary") or ""


def git_state(diff: str) -> dict[str, Any]:
    sha = _git("rev-parse", "HEAD")
    if sha is None:
        return {"sha": None, "dirty": None, "diff_file": None, "untracked": []}
    untracked = _git("ls-files", "--others", "--exclude-standard") or ""
    return {
        "sha": sha.strip(),
        "dirty": bool(diff),
        "diff_file": "git.diff" if diff else None,
        "untracked": untracked.splitlines(),
    }


def packages() -> dict[str, str]:
    found = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def host() -> dict[str, Any]:
    """Machine, processor and accelerator; torch's view of them only if torch is already loaded."""
    state: dict[str, Any] = {
        "name": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["threads"] = torch.get_num_threads()
        state["cuda"] = torch.version.cuda
        state["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return state


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def fingerprint(path: Path) -> dict[str, Any]:
    """Size, modification time and content hash of one file (blake2b, 128 bit)."""
    status = path.stat()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {"path": str(path), "bytes": status.st_size, "mtime": status.st_mtime, "blake2b": digest}


def drifted(recorded: list[dict[str, Any]]) -> list[str]:
    """Which of the recorded data files are gone or hold something else now, one sentence each."""
    sentences = []
    for entry in recorded:
        path = Path(entry["path"])
        if not path.exists():
            sentences.append(f"{path} is gone")
        elif fingerprint(path)["blake2b"] != entry["blake2b"]:
            sentences.append(f"{path} has changed since the run")
    return sentences
