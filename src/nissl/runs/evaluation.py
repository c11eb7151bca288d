"""Measure a trained task with evaluators and keep what they say: summary.json, figures, tables, notes."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from nissl.evaluators.result import Result
from nissl.runs.compose import instantiate
from nissl.runs.folder import RunFolder, read_json, write_json, write_text
from nissl.runs.provenance import drifted
from nissl.runs.records import Direction, direction_of, read_metrics, summarise

log = logging.getLogger(__name__)

Evaluator = Callable[[Any, Any], Result]


def evaluate(evaluators: dict[str, Evaluator], task: Any, data: Any, run: RunFolder, step: int = 0) -> dict[str, float]:
    """Run each evaluator in turn and save its result at once, so that a later failure loses nothing.

    Returns:
        All scalars, full metric name -> value.

    Raises:
        ValueError: if an evaluator reports a metric it has not declared.
    """
    import pytorch_lightning as pl

    scalars: dict[str, float] = {}
    for name, evaluator in evaluators.items():
        # The same state of every generator whether this follows a training or stands alone.
        pl.seed_everything(run.cfg.seed, workers=True, verbose=False)
        task.eval()
        print(f"Evaluating {name}", flush=True)
        result = evaluator(task, data)
        for metric in result.scalars:
            direction_of(metric, type(evaluator).metrics)  # type: ignore[attr-defined]
        save_result(run.path, name, result)
        scalars.update({metric: float(value) for metric, value in result.scalars.items()})
        add_to_summary(run.path, result.scalars)
        for sink in run.sinks:
            sink.log_metrics(dict(result.scalars), step)
            for label, figure in result.figures.items():
                sink.log_figure(f"{name}/{label}", figure, step)
            for label, rows in result.tables.items():
                sink.log_table(f"{name}/{label}", rows, step)
        for note in result.notes:
            print(f"  note: {note}", flush=True)
    return scalars


def save_result(folder: Path, evaluator: str, result: Result) -> None:
    """Write figures (with the numbers they were drawn from), tables and arrays of one evaluator."""
    figures = folder / "figures"
    index_file, notes_file = figures / "index.json", folder / "notes.json"
    index = read_json(index_file) if index_file.exists() else {}
    for name, figure in result.figures.items():
        stem = f"{evaluator}_{name}"
        (figures / f"{stem}.png").write_bytes(figure.png)
        files = [_save_array(figures / f"{stem}_{key}", array) for key, array in figure.data.items()]
        index[f"{stem}.png"] = {"caption": figure.caption, "evaluator": evaluator, "data": files}
    write_json(index_file, index)
    for name, page in result.pages.items():
        write_text(figures / f"{evaluator}_{name}.html", page)
    for name, rows in result.tables.items():
        (folder / "tables").mkdir(exist_ok=True)
        write_text(folder / "tables" / f"{evaluator}_{name}.csv", _as_csv(rows))
    if result.arrays:
        np.savez_compressed(figures / f"{evaluator}.npz", allow_pickle=False, **result.arrays)
    others = [note for note in _notes(notes_file) if not note.startswith(f"{evaluator}: ")]
    write_json(notes_file, others + [f"{evaluator}: {note}" for note in result.notes])


def _notes(path: Path) -> list[str]:
    return read_json(path) if path.exists() else []


def _save_array(path: Path, array: np.ndarray) -> str:
    """CSV for what a spreadsheet can show, npz for the rest; returns the file's name."""
    array = np.asarray(array)
    if array.ndim <= 2 and array.size <= 200_000:
        file = path.with_name(f"{path.name}.csv")
        np.savetxt(file, np.atleast_1d(array), delimiter=",", fmt="%s")
    else:
        file = path.with_name(f"{path.name}.npz")
        np.savez_compressed(file, array=array)
    return file.name


def _as_csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def add_to_summary(folder: Path, values: dict[str, float]) -> None:
    """Merge numbers into summary.json."""
    path = folder / "summary.json"
    before = read_json(path) if path.exists() else {}
    write_json(path, dict(sorted({**before, **{key: float(value) for key, value in values.items()}}.items())))


def summarise_training(folder: Path, *loggers: Any) -> None:
    """Write the last and best value of every logged metric to summary.json.

    Args:
        loggers: the task and the callbacks; those that log something declare it as their `metrics`.
    """
    directions: dict[str, Direction] = {}
    for each in loggers:
        directions.update(getattr(each, "metrics", {}))
    add_to_summary(folder, summarise(read_metrics(folder / "metrics.jsonl"), directions))


def trained_task(cfg: DictConfig) -> Any:
    """The task of an evaluation: a run's, with its chosen weights, or a bare model with imported ones."""
    from nissl.runs.weights import BareModel, build_model, chosen_checkpoint, device_of, load_checkpoint, load_into

    if not cfg.get("run"):
        return BareModel(build_model(cfg.model)).to(device_of(cfg.trainer))
    folder = Path(cfg.run)
    architecture = OmegaConf.create({**cfg.model, "weights": None})  # the checkpoint holds the weights
    task = instantiate(cfg.task, model=build_model(architecture))
    checkpoint = chosen_checkpoint(folder, cfg.weights_to_evaluate)
    load_into(task, load_checkpoint(checkpoint)["state_dict"], checkpoint)
    print(f"Weights: {checkpoint}", flush=True)
    return task.to(device_of(cfg.trainer))


def warn_of_drift(folder: Path) -> None:
    """Say which data files are not those the run was trained on."""
    if (folder / "provenance.json").exists():
        for sentence in drifted(read_json(folder / "provenance.json")["data"]):
            log.warning("%s", sentence)


def print_summary(run: RunFolder, scalars: dict[str, float]) -> None:
    """The numbers and where everything is, for a person at a terminal."""
    width = max((len(name) for name in scalars), default=0)
    for name, value in scalars.items():
        print(f"  {name:<{width}}  {value:.4f}")
    print(f"Run folder: {run.path}\nReport:     {run.path / 'report.html'}", flush=True)
