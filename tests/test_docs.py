"""The documentation builds without a warning, and every command in it is one that works."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nissl.cli import _parser
from nissl.runs.origins import ConfigTree
from nissl.runs.validate import check_overrides

ROOT = Path(__file__).parents[1]
TREE = ConfigTree(ROOT / "conf")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("python train.py", "python evaluate.py", "nissl ")
# Quick, read-only and the same everywhere.
RUN = ("nissl validate", "nissl data list", "nissl explain", "--check", "--help")


def commands(text: str) -> Iterator[str]:
    """Commands of fenced and indented blocks and of inline code that start with one of the programs."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in joined.splitlines():
        for piece in [line.strip(), *re.findall(r"`([^`]+)`", line)]:
            for part in piece.removeprefix("$ ").split(" && "):
                word = part.removeprefix(".venv/bin/")
                if word.startswith(PROGRAMS) and "<" not in word.split("#")[0].replace("runs/<folder>", "runs/x"):
                    yield word.split("  #")[0].strip()


COMMANDS = sorted({(path.name, command) for path in PAGES for command in commands(path.read_text())})


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_of_the_documentation_is_understood(page: str, command: str) -> None:
    program, *words = shlex.split(command)
    if program == "nissl":
        if len(words) > 1 or words[0] in ("validate", "board", "doctor"):
            arguments, rest = _parser().parse_known_args(words)
            assert not [word for word in rest if word.startswith("-")], rest
        return
    root = "train" if words.pop(0) == "train.py" else "evaluate"
    if root == "evaluate" and any(word.startswith("run=") for word in words):
        return  # the folder is the reader's
    flags = {word for word in words if word.startswith("-")}
    overrides = [word for word in words if word not in flags and "max_epoch=3" not in word]
    assert check_overrides(root, overrides, TREE, multirun="-m" in flags, with_paths=False) == []


@pytest.mark.e2e
@pytest.mark.parametrize(
    "command", sorted({c for _, c in COMMANDS if any(word in c for word in RUN) and c != "nissl explain"})
)
def test_a_quick_command_of_the_documentation_runs(command: str) -> None:
    words = shlex.split(command)
    program = (
        [str(Path(sys.executable).parent / "nissl")] if words[0] == "nissl" else [sys.executable, str(ROOT / words[1])]
    )
    rest = words[1:] if words[0] == "nissl" else words[2:]
    done = subprocess.run([*program, *rest], capture_output=True, text=True, cwd=ROOT, timeout=120)
    wants_a_value = "dataset=em_volume" in command and done.returncode == 1 and "has no value" in done.stderr
    assert done.returncode == 0 or wants_a_value, done.stderr


def test_there_are_commands_on_every_tutorial_and_how_to_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*/*.md") if path.parent.name != "reference"}
    assert pages <= {page for page, _ in COMMANDS} and len(COMMANDS) > 30


@pytest.mark.e2e
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed: pip install -e .[dev]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "site/reference/evaluators/index.html").read_text()
    assert "Expected run length" in text and "fonts.googleapis" not in text
