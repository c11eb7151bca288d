"""One self-contained report.html of a search: best configurations, importance, parallel coordinates, failures.

Beside it `trials.csv` and `importance.csv` hold the numbers of its pictures.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nissl.runs.folder import write_text
from nissl.runs.page import csv_text, render_page
from nissl.runs.search_space import SearchSpec
from nissl.runs.sweep_display import ended_trials, headline, shown_parameter, spread

if TYPE_CHECKING:
    import optuna

MIN_FOR_IMPORTANCE = 4  # complete trials; a regression on fewer says nothing
NUM_BEST = 5


def build_sweep_report(folder: Path) -> Path:
    """Write `report.html`, `trials.csv` and `importance.csv` of a sweep's folder.

    Raises:
        ValueError: if the folder holds no sweep.
    """
    if not (folder / "sweep.yaml").exists() or not (folder / "study.db").exists():
        raise ValueError(f"{folder} is no sweep: it has no sweep.yaml or no study.db")
    from markupsafe import Markup

    from nissl.runs import sweep_plots
    from nissl.runs.sweep import open_study

    spec = SearchSpec(**yaml.safe_load((folder / "sweep.yaml").read_text()))
    direction, metric = spec.objective["direction"], spec.objective["metric"]
    study = open_study(folder, spec.name, direction)
    complete, others = ended_trials(study)
    header, rows = _table(spec, [*complete, *others])
    write_text(folder / "trials.csv", csv_text(header, rows))
    shares = importance(study)
    write_text(folder / "importance.csv", csv_text(["key", "importance"], shares.items()))
    in_order = sorted(complete, key=lambda trial: trial.number)
    pictures = []
    if complete:
        values = [float(trial.value) for trial in in_order]
        points = [trial.params for trial in in_order]
        pictures.append(
            (
                "Parallel coordinates",
                "A line per complete trial, the best in orange, the worst in blue.",
                Markup(sweep_plots.parallel_coordinates(points, values, metric, direction)),
            )
        )
        numbers = [trial.number for trial in in_order]
        pictures.append(
            (
                "By trial",
                "Objective over the trial's number, with the best so far.",
                Markup(sweep_plots.by_trial(numbers, values, direction)),
            )
        )
    if shares:
        text = "Share of the variance of the objective that each key explains (fANOVA on the complete trials)."
        pictures.append(("Importance", text, Markup(sweep_plots.bars(shares))))
    page = render_page(
        "sweep",
        title=f"Sweep {spec.name}",
        filters=True,
        headline=headline(study, spec.num_trials + int(study.user_attrs.get("extra", 0))),
        objective=f"{direction} {metric}: the mean over seeds {spec.seeds} within a data set"
        + (f", then over {', '.join(spec.datasets)}" if spec.datasets else ""),
        best=[_best(spec, trial) for trial in complete[:NUM_BEST]],
        pictures=pictures,
        no_importance=not shares,
        min_for_importance=MIN_FOR_IMPORTANCE,
        header=header,
        rows=[[shown_parameter(cell) if cell is not None else "" for cell in row] for row in rows],
        failures=[(t.number, t.user_attrs.get("failure", "")) for t in others if t.state.name == "FAIL"],
        spec=yaml.safe_dump(spec.as_dict(), sort_keys=False),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _table(spec: SearchSpec, trials: list[Any]) -> tuple[list[str], list[list[Any]]]:
    """Every trial with its parameters, objective, spread and the value of each data set."""
    datasets = list(spec.datasets or {"base": []})
    header = ["trial", "state", *spec.space, spec.objective["metric"], "sd over seeds"]
    header += [f"mean on {name}" for name in datasets] if len(datasets) > 1 else []
    rows = []
    for trial in trials:
        values = trial.user_attrs.get("values", {})
        deviation = spread(values) if trial.state.name == "COMPLETE" else math.nan
        row = [trial.number, trial.state.name.lower(), *(trial.params.get(key) for key in spec.space)]
        row += [trial.value if trial.state.name == "COMPLETE" else None, None if math.isnan(deviation) else deviation]
        if len(datasets) > 1:
            row += [statistics.fmean(values[name].values()) if values.get(name) else None for name in datasets]
        rows.append(row)
    return header, rows


def _best(spec: SearchSpec, trial: Any) -> dict[str, Any]:
    deviation = spread(trial.user_attrs.get("values", {}))
    own = next(iter((spec.datasets or {"base": []}).keys()))
    words = spec.overrides(trial.params, own, spec.seeds[0])
    return {
        "number": trial.number,
        "value": f"{trial.value:.5g}" + ("" if math.isnan(deviation) else f" +- {deviation:.2g}"),
        "command": "python train.py " + " ".join(_quoted(word) for word in words),
    }


def _quoted(word: str) -> str:
    return f"'{word}'" if set(word) & set('[]{}$ ,"') else word


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the objective's variance that each key explains, largest first; empty where too little is known.

    Source: Hutter, Hoos, Leyton-Brown 2014 (functional ANOVA), as in optuna.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete, _ = ended_trials(study)
    if len(complete) < MIN_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = FanovaImportanceEvaluator(seed=0)
    return {key: float(value) for key, value in get_param_importances(study, evaluator=evaluator).items()}
