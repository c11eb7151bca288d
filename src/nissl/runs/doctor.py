"""What is installed, what is missing, what to do about it: `nissl doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from nissl.runs import wandb_key

# Beyond the required packages: what each is for.
OPTIONAL = {"optuna": "nissl sweep", "submitit": "sweeps on Slurm", "mlflow": "logger=mlflow"}
_LOW_DISK_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `advice` says what to do where something is to be done."""

    state: Literal["ok", "note", "problem"]
    topic: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}[self.state]
        return f"{mark}  {self.topic:<10}  {self.text}" + (f"\n{'':21}-> {self.advice}" if self.advice else "")


def diagnose(runs: Path, data_root: Path, data_sets: Mapping[str, list[str]]) -> Iterator[Finding]:
    """Look at this machine; nothing heavy is imported and nothing is sent anywhere.

    Args:
        runs: folder of the runs.
        data_root: where data files are looked for.
        data_sets: known data set -> its files below the data root.
    """
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    yield from _packages()
    yield from _processors()
    yield from _data(data_root, data_sets)
    yield from _disk(runs)
    yield from _wandb(runs)


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires("nissl") or []]
    except PackageNotFoundError:
        yield Finding("problem", "nissl", "not installed as a package", "pip install -e . in the clone")
        return
    missing, wrong, present = [], [], 0
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(str(requirement))
            continue
        present += 1
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} (wanted {requirement.specifier})")
    if not missing and not wrong:
        yield Finding("ok", "packages", f"nissl {version('nissl')} and {present} required packages")
    if missing:
        yield Finding("problem", "packages", f"missing: {', '.join(missing)}", "pip install -e .")
    if wrong:
        yield Finding("problem", "packages", f"versions: {', '.join(wrong)}", "pip install -e . --upgrade")
    for name, purpose in OPTIONAL.items():
        try:
            yield Finding("ok", "packages", f"{name} {version(name)} ({purpose})")
        except PackageNotFoundError:
            yield Finding("note", "packages", f"{name} is not installed (only for {purpose})")


def _processors() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    text = f"{usable} processors usable, " + (f"OMP_NUM_THREADS={threads}" if threads else "threads: one per processor")
    if threads and threads.isdigit() and int(threads) > usable:
        yield Finding("problem", "threads", text, f"more threads than processors is slow: OMP_NUM_THREADS={usable}")
    else:
        yield Finding("ok", "threads", text)
    if shutil.which("nvidia-smi"):
        yield Finding("ok", "gpu", "an NVIDIA driver is installed; trainer=gpu uses it")
    else:
        yield Finding("note", "gpu", "no NVIDIA driver found; trainer=cpu is the default")


def _data(data_root: Path, data_sets: Mapping[str, list[str]]) -> Iterator[Finding]:
    source = "NISSL_DATA" if os.environ.get("NISSL_DATA") else "default; set NISSL_DATA for another"
    if not data_root.is_dir():
        text = f"no data root {data_root} ({source}); simulated data need none"
        yield Finding("note", "data", text, "export NISSL_DATA=<folder>; nissl data list")
        return
    here = [name for name, files in data_sets.items() if all((data_root / file).exists() for file in files)]
    yield Finding("ok", "data", f"{data_root} ({source}): {len(here)} of {len(data_sets)} known data sets are there")


def _disk(runs: Path) -> Iterator[Finding]:
    place = next(folder for folder in (runs, *runs.resolve().parents) if folder.is_dir())
    free_gb = shutil.disk_usage(place).free / 1e9
    text = f"{free_gb:.1f} GB free for {runs.resolve()}"
    if free_gb < _LOW_DISK_GB:
        yield Finding("problem", "disk", text, "checkpoints of a long run may not fit: free space, or set runs_dir")
    else:
        yield Finding("ok", "disk", text)


def _wandb(runs: Path) -> Iterator[Finding]:
    address = wandb_key.server()
    if wandb_key.key_configured(address):
        yield Finding("ok", "wandb", f"a key for {address} is configured: runs go online")
    else:
        yield Finding("note", "wandb", f"no key for {address}: runs stay offline", "wandb login, to go online")
    waiting = wandb_key.unsynced(runs) if runs.is_dir() else []
    if waiting:
        yield Finding("note", "wandb", f"{len(waiting)} offline runs not synced", "after wandb login:")
        for folder in waiting:
            yield Finding("note", "wandb", f"wandb sync {folder}")
