"""What has changed since a run: code, data, packages, machine. `nissl verify` prints it.

The code a run used is its commit plus its `git.diff`; both are put together in a temporary folder and compared file by
file with the working tree, so that a change undone is no change and an uncommitted one is found.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nissl.runs.folder import read_json
from nissl.runs.provenance import REPOSITORY, fingerprint, host, packages

# What a run executes; anything else in the repository (tests, documents) cannot change its numbers.
_USED = ("src/", "conf/", "train.py", "evaluate.py", "pyproject.toml")


@dataclass(frozen=True)
class Drift:
    """One difference between a run and today.

    Attributes:
        matters: whether it can change the run's numbers.
    """

    topic: Literal["folder", "code", "data", "packages", "machine"]
    text: str
    matters: bool

    def __str__(self) -> str:
        return f"{'DRIFT' if self.matters else 'note '}  {self.topic:<8}  {self.text}"


def verify(folder: Path, moved: dict[str, str] | None = None, repository: Path = REPOSITORY) -> list[Drift]:
    """Everything that is not as it was when the run started.

    Args:
        folder: run folder.
        moved: recorded path of a data file -> where it is now.
        repository: today's code.

    Raises:
        ValueError: if the run recorded no provenance.
    """
    if not (folder / "provenance.json").exists():
        raise ValueError(f"{folder} has no provenance.json: it is no run, or it stopped before it began to train")
    recorded = read_json(folder / "provenance.json")
    found = [*_folder(folder), *_code(folder, recorded.get("git") or {}, repository)]
    found += _data(recorded.get("data", []), moved or {})
    return [*found, *_packages(recorded.get("packages") or {}), *_machine(recorded)]


def _folder(folder: Path) -> Iterator[Drift]:
    """Where the run's own folder was."""
    config = folder / "config.yaml"
    line = re.search(r"^run_dir: (.+)$", config.read_text(), flags=re.MULTILINE) if config.exists() else None
    if line and Path(line[1].strip("'\"")) != folder.resolve():
        yield Drift("folder", f"was {line[1]} when the run was made", False)


def _git(repository: Path, *words: str) -> bytes | None:
    done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, timeout=60)
    return done.stdout if done.returncode == 0 else None


def _code(folder: Path, git: dict[str, Any], repository: Path) -> Iterator[Drift]:
    sha = git.get("sha")
    if sha is None:
        yield Drift("code", "the run was not under version control; nothing to compare with", True)
        return
    if _git(repository, "cat-file", "-e", f"{sha}^{{commit}}") is None:
        yield Drift("code", f"commit {sha[:12]} is not in {repository}: git fetch, or look in another clone", True)
        return
    diff = (folder / "git.diff").read_text() if git.get("diff_file") else ""
    head = (_git(repository, "rev-parse", "HEAD") or b"").decode().strip()
    if head != sha:
        count = (_git(repository, "rev-list", "--count", f"{sha}..{head}") or b"?").decode().strip()
        yield Drift("code", f"the run's commit is {sha[:12]}, today's {head[:12]} ({count} commits later)", False)
    since = (_git(repository, "diff", "--name-only", sha) or b"").decode().splitlines()
    then = re.findall(r"^diff --git a/.* b/(.*)$", diff, flags=re.MULTILINE)
    for name in sorted({*since, *then}):
        if _content_then(name, sha, diff, repository) != _content_now(repository / name):
            used = name.startswith(_USED)
            yield Drift("code", f"{name} has changed" + ("" if used else " (not code that a run uses)"), used)
    then_untracked = [name for name in git.get("untracked", []) if name.startswith(_USED)]
    if then_untracked:
        names = ", ".join(then_untracked[:5]) + (" ..." if len(then_untracked) > 5 else "")
        yield Drift("code", f"{len(then_untracked)} files were untracked, so not recorded: {names}", False)


def _content_then(name: str, sha: str, diff: str, repository: Path) -> bytes | None:
    """A file as the run saw it; None where it was not there."""
    committed = _git(repository, "show", f"{sha}:{name}")
    own = [part for part in re.split(r"(?m)^(?=diff --git )", diff) if part.startswith(f"diff --git a/{name} ")]
    if not own:
        return committed
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if committed is not None:
            file.write_bytes(committed)
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        done = subprocess.run(command, input=own[0].encode(), cwd=temporary, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return _content_now(file)


def _content_now(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _data(recorded: list[dict[str, Any]], moved: dict[str, str]) -> Iterator[Drift]:
    for entry in recorded:
        path = Path(moved.get(entry["path"], entry["path"]))
        if not path.exists():
            yield Drift("data", f"{path} is gone", True)
            continue
        now = fingerprint(path)
        if now["blake2b"] != entry["blake2b"]:
            sizes = f"{entry['bytes']} bytes then, {now['bytes']} now"
            yield Drift("data", f"{path} has changed since the run ({sizes})", True)
        elif str(path) != entry["path"]:
            yield Drift("data", f"{entry['path']} is now {path}, with the same content", False)
        elif now["mtime"] != entry["mtime"]:
            yield Drift("data", f"{path} was touched; its content is the same", False)


def _packages(recorded: dict[str, str]) -> Iterator[Drift]:
    now = packages()
    for name in sorted(recorded.keys() | now.keys(), key=str.lower):
        then, today = recorded.get(name), now.get(name)
        if name.lower() != "nissl" and then != today:
            text = f"{name} {then or 'not installed'} then, {today or 'not installed'} now"
            yield Drift("packages", text, then is not None)


def _machine(recorded: dict[str, Any]) -> Iterator[Drift]:
    then, now = recorded.get("host") or {}, host()
    for key in ("cpu", "system"):
        if then.get(key) and then[key] != now[key]:
            yield Drift("machine", f"{key}: {then[key]} then, {now[key]} now", False)
