"""A run replayed into a dashboard, once: configuration, curves, results, figures, tables, weights.

What was sent is written to `synced.json` in the run folder, so that a second call sends only what is new. A run that
was watched by the dashboard while it trained is there already.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nissl.evaluators.result import Figure
from nissl.runs.compose import conf_dir, read_config
from nissl.runs.folder import read_json, write_json
from nissl.runs.origins import ConfigTree
from nissl.runs.provenance import fingerprint
from nissl.runs.records import read_metrics

TARGETS = {"wandb": "wandb", "trackio": "local", "tensorboard": "tensorboard"}  # name -> option of conf/logger


def sync(run: Path, target: str) -> str:
    """Send what is new of one run to a dashboard.

    Args:
        run: run folder.
        target: a key of `TARGETS`.

    Returns:
        a sentence that says what was sent.

    Raises:
        ValueError: if the dashboard refused it; what it did not take is sent by the next call.
    """
    config = read_config(run)
    if target in (config.get("logger") or {}):
        hint = (
            f"; to upload what was recorded offline: wandb sync {run}/wandb/offline-run-*" if target == "wandb" else ""
        )
        return f"{run}: {target} watched it while it trained{hint}"
    record = run / "synced.json"
    done = read_json(record) if record.exists() else {}
    before = done.get(target, {"step": -1, "figures": [], "tables": [], "weights": ""})
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["step"] > before["step"]]
    figures = [path for path in sorted((run / "figures").glob("*.png")) if path.name not in before["figures"]]
    tables = [path for path in sorted((run / "tables").glob("*.csv")) if path.name not in before["tables"]]
    weights = next((path for name in ("best", "last") if (path := run / f"checkpoints/{name}.ckpt").exists()), None)
    digest = fingerprint(weights)["blake2b"] if weights else ""
    summary = read_json(run / "summary.json") if (run / "summary.json").exists() else {}
    if not rows and not figures and not tables and digest == before["weights"] and summary == before.get("summary", {}):
        return f"{run}: {target} has it all"
    from nissl.runs.loggers import build_sinks

    (sink,) = build_sinks(_config_for(config, run, target))
    last = int(rows[-1]["step"]) if rows else before["step"]
    for row in rows:
        sink.log_metrics({key: value for key, value in row.items() if key not in ("step", "time")}, row["step"])
    results = {name: value for name, value in summary.items() if not name.endswith(("/last", "/best"))}
    if results and summary != before.get("summary", {}):
        sink.log_metrics({name: value for name, value in results.items() if value is not None}, max(last, 0))
    sink.log_summary(summary)
    index = run / "figures/index.json"
    captions = read_json(index) if index.exists() else {}
    for path in figures:
        entry = captions.get(path.name, {})
        sink.log_figure(
            _key(path, entry.get("evaluator")), Figure(path.read_bytes(), entry.get("caption", "")), max(last, 0)
        )
    evaluators = {*(config.get("evaluator") or {}), *(entry.get("evaluator") for entry in captions.values())}
    for path in tables:
        evaluator = next((name for name in evaluators if name and path.stem.startswith(f"{name}_")), None)
        with path.open(newline="") as file:
            sink.log_table(_key(path, evaluator), list(csv.DictReader(file)), max(last, 0))
    if weights and digest != before["weights"]:
        sink.log_checkpoint(weights, digest)
    sink.close("success")
    if not sink.alive:
        raise ValueError(f"{run}: {target} failed (see above); nothing is marked as sent")
    sent = {
        "step": last,
        "figures": [*before["figures"], *(path.name for path in figures)],
        "tables": [*before["tables"], *(path.name for path in tables)],
        "weights": digest,
        "summary": summary,
        "time": time.time(),
    }
    write_json(record, {**done, target: sent})
    counts = f"{len(rows)} steps, {len(results)} results, {len(figures)} figures, {len(tables)} tables"
    return f"{run}: sent to {target}: {counts}"


def _config_for(config: DictConfig, run: Path, target: str) -> DictConfig:
    """The run's configuration with one logger, as if it had been chosen for the training."""
    chosen = ConfigTree(conf_dir()).compose(f"logger/{TARGETS[target]}", []).values["logger"]
    values: Any = OmegaConf.to_container(config)
    values |= {"logger": chosen, "run_dir": str(run.resolve()), "group": values.get("group") or "runs"}
    values["runs_dir"] = _runs_dir(run.resolve(), values)
    cfg = OmegaConf.create(values)
    OmegaConf.resolve(cfg)
    return cfg


def _runs_dir(run: Path, values: dict[str, Any]) -> str:
    """Where the run's neighbours keep their dashboard: the recorded folder, or the parent of a run that was moved."""
    recorded = str(values.get("runs_dir") or "")
    return recorded if recorded and run.is_relative_to(recorded) else str(run.parent)


def _key(path: Path, evaluator: str | None) -> str:
    """`erl_slice.png` of the evaluator erl is `erl/slice`, as during training."""
    name = path.stem
    return f"{evaluator}/{name.removeprefix(f'{evaluator}_')}" if evaluator else name
