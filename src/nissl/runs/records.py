"""metrics.jsonl and summary.json: what was logged, and the last and best value of each metric.

metrics.jsonl holds one flat object per logged step: `{"step": 120, "epoch": 3, "time": ..., "train/loss": 0.41}`.
A resumed run repeats the steps after its last checkpoint; the later line wins.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import logging
import math
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

Direction = Literal["min", "max"] | None
BOOKKEEPING = ("step", "epoch", "time")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl in order of step, one per step, with null read as NaN.

    A last line cut short by a kill is skipped and said so.
    """
    by_step: dict[int, dict[str, Any]] = {}
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            log.warning("%s: line %d of %d is cut short and was skipped", path, number, len(lines))
            continue
        values = {key: math.nan if value is None else value for key, value in row.items()}
        by_step.setdefault(int(values["step"]), {}).update(values)
    return [by_step[step] for step in sorted(by_step)]


def last_row(path: Path) -> dict[str, Any]:
    """The newest whole row of metrics.jsonl, without reading what is before it; empty if there is none."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_536))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short, at either end
        if isinstance(row, dict):
            return row
    return {}


def summarise(rows: list[dict[str, Any]], directions: dict[str, Direction]) -> dict[str, float]:
    """`<metric>/last` and, where better has a direction, `<metric>/best`.

    Metrics under `system/` (speed, memory) are left out: they differ between repeats of one run.

    Raises:
        ValueError: if a metric was logged that nobody declared; the class that logs it must name it in `metrics`.
    """
    series: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in BOOKKEEPING and not name.startswith("system/"):
                series.setdefault(name, []).append(value)
    summary: dict[str, float] = {}
    for name, values in sorted(series.items()):
        direction = direction_of(name, directions)
        summary[f"{name}/last"] = values[-1]
        finite = [value for value in values if not math.isnan(value)]
        if direction is not None and finite:
            summary[f"{name}/best"] = min(finite) if direction == "min" else max(finite)
    return summary


def direction_of(name: str, directions: dict[str, Direction]) -> Direction:
    """Which way is better for a metric, by its exact name or the pattern (`*`) that matches it."""
    if name in directions:
        return directions[name]
    for pattern, direction in directions.items():
        if "*" in pattern and fnmatch.fnmatchcase(name, pattern):
            return direction
    raise ValueError(f"metric {name!r} has no direction: add it to the class-level `metrics` of the class that logs it")


def declared_metrics(source: str, class_name: str) -> dict[str, Direction]:
    """The class-level `metrics` literal of a class, read from source without importing it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                if isinstance(statement, ast.AnnAssign):
                    targets = [statement.target]
                if any(isinstance(target, ast.Name) and target.id == "metrics" for target in targets):
                    assert isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None
                    found: dict[str, Direction] = ast.literal_eval(statement.value)
                    return found
    return {}
