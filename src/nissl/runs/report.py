"""One self-contained report.html from a run folder: question, numbers, curves, figures, configuration, provenance.

Built from the folder's files alone, so it can be rebuilt at any time, also for a run that failed. Nothing in it is
loaded from elsewhere.
"""

from __future__ import annotations

import base64
import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import yaml

from nissl.runs.compare import present_status
from nissl.runs.curves import charts
from nissl.runs.folder import write_text
from nissl.runs.page import csv_link, render_page
from nissl.runs.records import BOOKKEEPING, read_metrics

_MAX_ROWS = 200  # of a table; the rest is in its CSV
_MAX_DIFF = 200_000  # characters


def build_report(run_dir: Path) -> Path:
    """Write `report.html` of a training or evaluation folder and return its path.

    Raises:
        ValueError: if the folder holds no run.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "config.yaml").exists():
        raise ValueError(f"{run_dir} is not a run folder: it has no config.yaml")
    config_text = (run_dir / "config.yaml").read_text()
    config = yaml.load(config_text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    status, provenance = _json(run_dir / "status.json"), _json(run_dir / "provenance.json")
    summary = _json(run_dir / "summary.json")
    git = provenance.get("git") or {}
    rows = read_metrics(run_dir / "metrics.jsonl")
    page = render_page(
        "report",
        title=run_dir.resolve().name,
        question=config.get("question"),
        status=present_status(status),
        reason=status.get("reason"),
        traceback=status.get("traceback"),
        facts=_facts(config, status, provenance),
        notes=_json(run_dir / "notes.json", []),
        results=_results(summary),
        logged=_logged(summary),
        charts=charts(rows),
        curves_csv=_curves_csv(rows),
        changed=provenance.get("changed") or [],
        figures=_figures(run_dir / "figures"),
        pages=[[path.stem, path.read_text()] for path in sorted((run_dir / "figures").glob("*.html"))],
        tables=_tables(run_dir / "tables"),
        evaluations=_evaluations(run_dir / "evaluations"),
        overrides=_text(run_dir / "overrides.txt"),
        config=config_text,
        provenance=_machine(provenance),
        data=[[entry["path"], entry["bytes"], entry["blake2b"]] for entry in provenance.get("data", [])],
        packages=sorted((provenance.get("packages") or {}).items()),
        untracked=git.get("untracked") or [],
        diff=_diff(run_dir, git),
    )
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def _facts(config: dict[str, Any], status: dict[str, Any], provenance: dict[str, Any]) -> list[list[str]]:
    """What a reader asks first."""
    started, ended = provenance.get("started") or status.get("started"), status.get("updated")
    parts = [_class_name(config[part]) for part in ("dataset", "model", "task") if config.get(part)]
    rows = [
        ["kind", str(status.get("kind", "run"))],
        ["command", str(provenance.get("command", "unknown"))],
        ["what", " x ".join(parts)],
        ["seed", str(config.get("seed"))],
        ["code", _code(provenance.get("git") or {})],
    ]
    if config.get("run"):
        rows.insert(2, ["evaluated run", str(config["run"])])
    if provenance.get("evaluated_weights"):
        rows.append(["evaluated weights", str(provenance["evaluated_weights"])])
    if started:
        rows.append(["started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))])
    if started and ended:
        rows.append(["duration", _duration(ended - started)])
    if len(provenance.get("sessions", [])) > 1:
        rows.append(["sessions", f"{len(provenance['sessions'])} (resumed; the duration includes the pauses)"])
    return rows


def _class_name(node: Any) -> str:
    return str(node.get("_target_", "?")).rpartition(".")[2] if isinstance(node, dict) else str(node)


def _code(git: dict[str, Any]) -> str:
    if not git.get("sha"):
        return "not under version control"
    untracked = len(git.get("untracked") or [])
    state = "with uncommitted changes (git.diff)" if git.get("dirty") else "clean"
    return f"{git['sha'][:12]}, {state}" + (f", {untracked} untracked files" if untracked else "")


def _results(summary: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Evaluators' numbers by the first part of their name; what training logged is not among them."""
    groups: dict[str, list[list[str]]] = {}
    for name, value in summary.items():
        if not name.endswith(("/last", "/best")):
            groups.setdefault(name.partition("/")[0], []).append([name, _number(value)])
    return list(groups.items())


def _logged(summary: dict[str, Any]) -> list[list[str]]:
    names = dict.fromkeys(name.rpartition("/")[0] for name in summary if name.endswith(("/last", "/best")))
    ends = ("last", "best")
    return [
        [name, *(_number(summary[f"{name}/{end}"]) if f"{name}/{end}" in summary else "" for end in ends)]
        for name in names
    ]


def _curves_csv(rows: list[dict[str, Any]]) -> str:
    names = ["step", "epoch", *sorted({name for row in rows for name in row} - set(BOOKKEEPING))]
    return csv_link(names, ([row.get(name, "") for name in names] for row in rows))


def _figures(folder: Path) -> list[dict[str, Any]]:
    index = _json(folder / "index.json")
    figures = []
    for path in sorted(folder.glob("*.png")):
        entry = index.get(path.name, {})
        source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        caption, data = entry.get("caption", ""), entry.get("data", [])
        figures.append({"name": path.stem, "caption": caption, "data": data, "source": source})
    return figures


def _tables(folder: Path) -> list[dict[str, Any]]:
    tables = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        shown = [[_shortened(cell) for cell in row] for row in rows[:_MAX_ROWS]]
        tables.append({"name": path.stem, "header": header, "rows": shown, "hidden": max(0, len(rows) - _MAX_ROWS)})
    return tables


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*/config.yaml")):
        summary = _json(path.parent / "summary.json")
        rows = [[name, _number(value)] for name, value in summary.items()]
        found.append(
            {"name": path.parent.name, "status": present_status(_json(path.parent / "status.json")), "rows": rows}
        )
    return found


def _machine(provenance: dict[str, Any]) -> list[list[str]]:
    host, git = provenance.get("host") or {}, provenance.get("git") or {}
    rows = [
        ["commit", str(git.get("sha") or "none")],
        ["uncommitted changes", "yes, in git.diff" if git.get("dirty") else "no" if git.get("sha") else "unknown"],
        ["machine", ", ".join(str(host[key]) for key in ("name", "system") if host.get(key))],
        ["processor", f"{host.get('cpu', 'unknown')}, {host.get('cpus', '?')} usable"],
        ["accelerators", ", ".join(host.get("gpus") or []) or "none"],
        ["python", str(provenance.get("python", "unknown"))],
        ["deterministic", str(provenance.get("deterministic"))],
        ["configuration hash", str(provenance.get("config_hash", "unknown"))],
    ]
    rows += [[f"${name}", value] for name, value in (provenance.get("environment") or {}).items()]
    return rows


def _diff(run_dir: Path, git: dict[str, Any]) -> str:
    text = _text(run_dir / "git.diff") if git.get("diff_file") else ""
    if len(text) > _MAX_DIFF:
        return f"{text[:_MAX_DIFF]}\n... {len(text) - _MAX_DIFF} further characters in git.diff"
    return text


def _json(path: Path, default: Any = None) -> Any:
    """A file of the folder, or the default: a run that died early lacks some."""
    return json.loads(path.read_text()) if path.exists() else ({} if default is None else default)


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "undefined"
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _shortened(cell: str) -> str:
    try:
        return f"{float(cell):.6g}" if len(cell) > 9 else cell
    except ValueError:
        return cell


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
