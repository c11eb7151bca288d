"""What is wrong with a configuration, said once for all of it, with the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One fault.

    Attributes:
        where: `conf/model/ffn.yaml:4`, or the override as it was typed.
        message: what was expected, what came.
        hint: what to do; may be empty.
    """

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"\n      {self.hint}" if self.hint else "")


class ConfigError(ValueError):
    """A configuration that cannot run; holds every problem found, not the first."""

    def __init__(self, problems: list[Problem]) -> None:
        assert problems
        self.problems = problems
        super().__init__(report(problems))


def report(problems: list[Problem]) -> str:
    """The problems as text, one paragraph each."""
    head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{head} in this configuration:", *(f"  - {problem}" for problem in problems)])


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate most like `name`, or None if none is."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def shown(place: str | Path) -> str:
    """A path, or path:line, as a reader would type it: relative where it lies below the current folder."""
    return str(place).removeprefix(f"{Path.cwd()}/")
