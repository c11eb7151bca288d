"""A comparison as one self-contained page: tables that can be filtered, learning curves of all runs overlaid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nissl.runs.compare import Comparison, Group
from nissl.runs.curves import by_metric, svg
from nissl.runs.page import csv_link, render_page
from nissl.runs.records import read_metrics

if TYPE_CHECKING:
    from nissl.runs.tables import Table

MAX_GROUPS = 24  # more curves in one picture cannot be told apart, and their reading takes longer than all the rest


def comparison_page(comparison: Comparison, tables: list[Table]) -> str:
    """HTML of a comparison; curves of the counted runs, one colour per group."""
    from markupsafe import Markup

    shown = comparison.groups[:MAX_GROUPS]
    charts, rows = _overlaid(shown)
    return render_page(
        "comparison",
        title="Comparison of runs",
        filters=True,
        tables=tables,
        charts=[{"title": title, "svg": Markup(picture)} for title, picture in charts.items()],
        legend=[(group.name, index) for index, group in enumerate(shown)],
        hidden=len(comparison.groups) - len(shown),
        curves_csv=csv_link(["group", "seed", "metric", "step", "value"], rows),
    )


def _overlaid(groups: list[Group]) -> tuple[dict[str, str], list[list[Any]]]:
    """Metric -> picture with a line per run; and the numbers as rows of group, seed, metric, step, value."""
    lines: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    colours: dict[str, int] = {}
    rows: list[list[Any]] = []
    for index, group in enumerate(groups):
        for seed, run in group.counted.items():
            name = f"{group.name}, seed {seed}"
            colours[name] = index
            for metric, (steps, values) in by_metric(read_metrics(run.path / "metrics.jsonl")).items():
                lines.setdefault(metric, {})[name] = (steps, values)
                rows += [[group.name, seed, metric, int(s), v] for s, v in zip(steps, values, strict=True)]
    ordered = sorted(lines, key=lambda metric: (metric.startswith("system/"), metric))
    return {metric: svg(lines[metric], colours) for metric in ordered}, rows
