"""A comparison as text, Markdown, CSV, JSON or one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nissl.runs.compare import Comparison, Estimate, Group
from nissl.runs.statistics import Interval

Format = Literal["text", "md", "csv", "json", "html"]
METHODS = (
    "Mean over seeds; [t] Student-t and [b] percentile bootstrap 95 % interval (of few seeds the bootstrap is too "
    "narrow). Paired test: sign flips of the differences on shared seeds, two-sided, not corrected for their number."
)
# So many columns of metrics, rows of values per seed, and differing keys are shown before the rest is only counted.
_MAX_METRIC_COLUMNS, _MAX_VALUES, _MAX_KEYS = 6, 60, 40


@dataclass
class Table:
    """A titled table of texts with lines below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def render(comparison: Comparison, form: Format) -> str:
    """The comparison in one of the formats; CSV and JSON hold every number, the others what a reader needs."""
    if form == "json":
        return json.dumps(as_data(comparison), indent=1) + "\n"
    if form == "csv":
        return _csv(comparison)
    tables = [table for table in _tables(comparison) if table.rows]
    if form == "html":
        from nissl.runs.comparison_page import comparison_page

        return comparison_page(comparison, tables)
    return {"text": _text, "md": _markdown}[form](tables)


def _tables(comparison: Comparison) -> list[Table]:
    few = len(comparison.groups) <= _MAX_METRIC_COLUMNS
    return [
        _groups(comparison),
        _by_metric(comparison) if few else _by_group(comparison),
        _values(comparison),
        _tests(comparison),
        _not_counted(comparison),
    ]


def _groups(comparison: Comparison) -> Table:
    """What the groups are: only the keys that differ."""
    common = [key for key in comparison.differing if all(key in group.config for group in comparison.groups)]
    others = [key for key in comparison.differing if key not in common]
    # Keys that only some groups have say little: whole sections of another model or data set.
    keys = common + others if len(comparison.differing) <= _MAX_KEYS else common[:_MAX_KEYS]
    names = [group.name for group in comparison.groups]
    notes = []
    if len(keys) < len(comparison.differing):
        hidden = len(comparison.differing) - len(keys)
        notes.append(f"{hidden} further keys differ or belong to some groups only (--format json).")
    if len(names) <= _MAX_METRIC_COLUMNS:
        rows = [["seeds", *(" ".join(group.counted) or "-" for group in comparison.groups)]]
        rows += [["run", *(_only_run(group) for group in comparison.groups)]]
        rows += [[key, *(_value(group.config, key) for group in comparison.groups)] for key in keys]
        return Table("Groups: runs that differ only in seed, and the keys that differ", ["", *names], rows, notes)
    rows = [
        [group.name, " ".join(group.counted) or "-", *(_value(group.config, key) for key in keys)]
        for group in comparison.groups
    ]
    return Table("Groups: runs that differ only in seed, and the keys that differ", ["", "seeds", *keys], rows, notes)


def _runs(group: Group) -> list[Any]:
    return [*group.counted.values(), *group.others]


def _only_run(group: Group) -> str:
    runs = _runs(group)
    return runs[0].path.name if len(runs) == 1 else f"{len(runs)} runs"


def _by_metric(comparison: Comparison) -> Table:
    rows = []
    for metric in comparison.metrics:
        rows.append([metric, *(_estimate(group.estimate(metric)) for group in comparison.groups)])
    header = ["metric", *(group.name for group in comparison.groups)]
    return Table("Results: mean [t] n", header, rows, _methods(comparison))


def _by_group(comparison: Comparison) -> Table:
    metrics = _shown_metrics(comparison)
    rows = [[group.name, *(_estimate(group.estimate(metric)) for metric in metrics)] for group in comparison.groups]
    hidden = len(comparison.metrics) - len(metrics)
    notes = [f"{hidden} further metrics: choose with --metric."] if hidden else []
    return Table("Results: mean [t] n", ["group", *metrics], rows, _methods(comparison) + notes)


def _methods(comparison: Comparison) -> list[str]:
    """How the intervals were made, where there are any."""
    return [METHODS] if any(len(group.counted) > 1 for group in comparison.groups) else []


def _shown_metrics(comparison: Comparison) -> list[str]:
    """All, or the first few where the groups are many."""
    many = len(comparison.groups) > _MAX_METRIC_COLUMNS
    return comparison.metrics[:_MAX_METRIC_COLUMNS] if many else comparison.metrics


def _values(comparison: Comparison) -> Table:
    """Every value; only where a group has several seeds and the metrics were few enough to show."""
    rows = []
    for metric in _shown_metrics(comparison):
        for group in comparison.groups:
            estimate = group.estimate(metric)
            if estimate is not None and estimate.n > 1:
                values = "  ".join(f"{seed}: {_number(value)}" for seed, value in estimate.values.items())
                intervals = [_interval(estimate.t_interval), _interval(estimate.bootstrap_interval)]
                rows.append([metric, group.name, str(estimate.n), _number(estimate.mean), *intervals, values])
    header = ["metric", "group", "n", "mean", "[t]", "[b]", "seed: value"]
    hidden = len(rows) - _MAX_VALUES
    notes = [f"{hidden} further rows: choose with --metric, or --format csv."] if hidden > 0 else []
    return Table("Values", header, rows[:_MAX_VALUES], notes)


def _tests(comparison: Comparison) -> Table:
    rows = []
    shown = _shown_metrics(comparison)
    for test in comparison.tests:
        if test.metric not in shown:
            continue
        unmatched = "; ".join(f"{name}: {' '.join(seeds)}" for name, seeds in test.unmatched.items() if seeds)
        rows.append(
            [
                test.metric,
                f"{test.second} - {test.first}",
                _number(test.difference),
                _number(test.p),
                _number(test.smallest_p),
                " ".join(test.seeds) or "none",
                unmatched or "-",
            ]
        )
    header = ["metric", "groups", "difference", "p", "smallest p possible", "shared seeds", "unmatched seeds"]
    hidden = len(rows) - _MAX_VALUES
    notes = [f"{hidden} further tests: choose with --metric, or --format json."] if hidden > 0 else []
    return Table("Paired tests", header, rows[:_MAX_VALUES], notes)


def _not_counted(comparison: Comparison) -> Table:
    rows = []
    for group in comparison.groups:
        for run in group.others:
            reason = run.reason or ("a newer run has this seed" if run.status == "finished" else "")
            rows.append([group.name, str(run.seed), run.status, _shortened(reason, 100), str(run.path)])
    return Table("Not counted", ["group", "seed", "status", "reason", "run"], rows)


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Everything, as plain JSON; undefined numbers are null."""
    groups = []
    for group in comparison.groups:
        estimates = {metric: group.estimate(metric) for metric in comparison.metrics}
        groups.append(
            {
                "name": group.name,
                "config": {key: group.config[key] for key in comparison.differing if key in group.config},
                "runs": {seed: str(run.path) for seed, run in group.counted.items()},
                "not_counted": [
                    {"run": str(run.path), "seed": run.seed, "status": run.status, "reason": run.reason}
                    for run in group.others
                ],
                "metrics": {name: {**asdict(value), "n": value.n} for name, value in estimates.items() if value},
            }
        )
    data = {"groups": groups, "differing": comparison.differing, "tests": [asdict(test) for test in comparison.tests]}
    clean: dict[str, Any] = _without_nan({**data, "methods": METHODS})
    return clean


def _csv(comparison: Comparison) -> str:
    """One row per group and metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    numbers = ["n", "mean", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "seeds", "values"]
    writer.writerow(["group", *comparison.differing, "metric", *numbers])
    for group in comparison.groups:
        keys = [group.config.get(key, "") for key in comparison.differing]
        for metric in comparison.metrics:
            found = group.estimate(metric)
            if found is not None:
                intervals = [*found.t_interval, *found.bootstrap_interval]
                values = [" ".join(found.values), " ".join(map(repr, found.values.values()))]
                writer.writerow([group.name, *keys, metric, found.n, found.mean, *intervals, *values])
    return buffer.getvalue()


def _text(tables: list[Table]) -> str:
    parts = []
    for table in tables:
        rows = [table.header, *table.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        rule = "  ".join("-" * width for width in widths)
        parts.append(
            "\n".join([table.title, "", lines[0], rule, *lines[1:], *([""] if table.notes else []), *table.notes])
        )
    return "\n\n".join(parts) + "\n"


def _markdown(tables: list[Table]) -> str:
    parts = []
    for table in tables:
        rows = [table.header, ["---"] * len(table.header), *table.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") or " " for cell in row) + " |" for row in rows]
        parts.append("\n".join([f"### {table.title}", "", *lines, *([""] if table.notes else []), *table.notes]))
    return "\n\n".join(parts) + "\n"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.n == 1:
        return _number(estimate.mean)
    return f"{_number(estimate.mean)} {_interval(estimate.t_interval)} {estimate.n}"


def _interval(interval: Interval) -> str:
    return "" if math.isnan(interval[0]) else f"[{_number(interval[0])}, {_number(interval[1])}]"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def _value(config: dict[str, Any], key: str) -> str:
    if key not in config:
        return ""
    value = config[key]
    return "null" if value is None else _shortened(str(value), 40)


def _shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _without_nan(node: Any) -> Any:
    if isinstance(node, float) and not math.isfinite(node):
        return None
    if isinstance(node, dict):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_without_nan(value) for value in node]
    return node
