"""Is a whole search able to run? Points, data sets and metrics are checked before the first training, without torch."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from nissl.runs.compose import conf_dir
from nissl.runs.origins import ConfigTree, parse_overrides
from nissl.runs.problems import ConfigError, Problem, nearest
from nissl.runs.search_space import SearchSpec, read_spec
from nissl.runs.signatures import TargetError, signature
from nissl.runs.validate import check_overrides

MAX_POINTS = 200  # of a grid; beyond, every value is still checked, but not every combination


def check_sweep(spec: SearchSpec, tree: ConfigTree, with_paths: bool = True, every_point: bool = True) -> list[Problem]:
    """Problems of the configurations a search would train, and of what it optimises.

    Args:
        with_paths: whether data files must be there.
        every_point: of a grid; False: points that touch every value, not every combination.
    """
    problems: dict[Problem, None] = {}
    is_grid = spec.sampler["name"] == "grid" and every_point
    points = spec.grid() if is_grid and len(spec.grid()) <= MAX_POINTS else spec.corners()
    for dataset in spec.datasets or {"base": []}:
        for point in points:
            texts = spec.overrides(point, dataset, spec.seeds[0])
            problems.update(dict.fromkeys(check_overrides("train", texts, tree, with_paths=with_paths)))
        if not problems:
            problems.update(dict.fromkeys(_metric_problems(spec, dataset, tree)))
    return list(problems)


def check_sweeps(tree: ConfigTree) -> tuple[int, list[Problem]]:
    """Every file of `conf/sweep`, quickly: values, not combinations, and missing data files are no problem here."""
    files = sorted((tree.folder / "sweep").glob("*.yaml"))
    problems: list[Problem] = []
    for file in files:
        try:
            problems += check_sweep(read_spec(file, []), tree, with_paths=False, every_point=False)
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(Problem(f"conf/sweep/{file.name}", str(error)))
    return len(files), list(dict.fromkeys(problems))


def checked_spec(name: str, overrides: list[str], rename: str | None = None) -> SearchSpec:
    """The sweep `conf/sweep/<name>.yaml`, or the file of that path, found able to run.

    Raises:
        ConfigError: with everything that is wrong with it.
    """
    folder = conf_dir() / "sweep"
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if name.endswith(".yaml") and Path(name).exists():
        path = Path(name)
    spec = read_spec(path, overrides, rename)
    if problems := check_sweep(spec, ConfigTree(conf_dir())):
        raise ConfigError(problems)
    return spec


def _metric_problems(spec: SearchSpec, dataset: str, tree: ConfigTree) -> list[Problem]:
    """The objective must be a number that a summary will hold, in the right direction; the pruner's must be logged."""
    composed = tree.compose("train", parse_overrides(spec.overrides(spec.corners()[0], dataset, spec.seeds[0])))
    task = _declared(composed.values.get("task"))
    measured: dict[str, Any] = {}
    for node in (composed.values.get("evaluator") or {}).values():
        measured.update(_declared(node) or {})
    if task is None:
        return []
    problems = []
    metric, direction = spec.objective["metric"], spec.objective["direction"]
    summary = {**measured, **{f"{name}/{end}": way for name, way in task.items() for end in ("last", "best")}}
    pattern = next((known for known in summary if fnmatch.fnmatchcase(metric, known)), None)
    place = f"sweep {spec.name}"
    if pattern is None:
        close = nearest(metric, summary, 0.4)
        hint = f"Did you mean '{close}'?" if close else f"There are: {', '.join(sorted(summary))}."
        problems.append(Problem(place, f"objective.metric: no summary.json will hold '{metric}'", hint))
    elif summary[pattern] not in (None, direction[:3]):
        better = "smaller" if summary[pattern] == "min" else "larger"
        hint = f"Set objective.direction: {'minimize' if better == 'smaller' else 'maximize'}"
        problems.append(Problem(place, f"'{metric}' is better when {better}; objective.direction is {direction}", hint))
    watched = (spec.pruner or {}).get("metric")
    if watched is not None and not any(fnmatch.fnmatchcase(watched, known) for known in task):
        close = nearest(watched, task, 0.4)
        hint = f"Did you mean '{close}'?" if close else f"It logs: {', '.join(task)}."
        problems.append(Problem(place, f"pruner.metric: the task does not log '{watched}'", hint))
    return problems


def _declared(node: Any) -> dict[str, Any] | None:
    try:
        metrics = signature(str(node["_target_"])).literals.get("metrics")
    except (KeyError, TypeError, TargetError):
        return None
    return metrics if isinstance(metrics, dict) else None
