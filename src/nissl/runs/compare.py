"""Runs side by side: seeds gathered into groups, means with intervals, paired tests, and the keys that differ.

Reads `config.yaml`, `summary.json` and `status.json` of each run folder and nothing else.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nissl.runs.compose import RUN_ONLY_KEYS, is_path_key
from nissl.runs.problems import nearest
from nissl.runs.statistics import Interval, bootstrap_interval, sign_flip_p, smallest_p, t_interval

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        config: dotted key -> value, without what only says where and how the run was done; paths by file name.
        status: running, finished, failed, interrupted, killed (says running, but its process is gone) or unknown.
    """

    path: Path
    seed: Any
    config: dict[str, Any]
    summary: dict[str, float]
    status: str
    reason: str
    started: float


@dataclass(frozen=True)
class Estimate:
    """One metric of one group: value per seed, mean and two 95 % intervals over seeds."""

    values: dict[str, float]
    mean: float
    t_interval: Interval
    bootstrap_interval: Interval

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass
class Group:
    """Runs whose configurations differ in the seed only.

    Attributes:
        name: A, B, C, ... in the order shown.
        counted: seed -> the run whose numbers are used: the newest finished one.
        others: runs that are not counted: unfinished ones, and older repeats of a seed.
    """

    config: dict[str, Any]
    counted: dict[str, Run] = field(default_factory=dict)
    others: list[Run] = field(default_factory=list)
    name: str = ""

    def values(self, metric: str) -> dict[str, float]:
        """Seed -> value, of the seeds that have the metric."""
        return {seed: run.summary[metric] for seed, run in self.counted.items() if metric in run.summary}

    def estimate(self, metric: str) -> Estimate | None:
        """The metric over the group's seeds; None if no run has it."""
        values = self.values(metric)
        if not values:
            return None
        array = np.array(list(values.values()))
        if not np.isfinite(array).all():
            return Estimate(values, math.nan, (math.nan, math.nan), (math.nan, math.nan))
        return Estimate(values, float(array.mean()), t_interval(array), bootstrap_interval(array))


@dataclass(frozen=True)
class PairedTest:
    """Sign-flip test of one metric between two groups on the seeds both have."""

    metric: str
    first: str
    second: str
    difference: float
    p: float
    smallest_p: float
    seeds: list[str]
    unmatched: dict[str, list[str]]


@dataclass
class Comparison:
    """Everything `nissl compare` shows.

    Attributes:
        differing: keys whose values are not the same in all groups.
        tests: each group against the first, for each metric both have.
    """

    groups: list[Group]
    metrics: list[str]
    differing: list[str]
    tests: list[PairedTest]


def compare(
    paths: Iterable[Path],
    metrics: list[str] | None = None,
    where: Iterable[str] = (),
    sort: str | None = None,
) -> Comparison:
    """Compare run folders, or all runs below a folder.

    Args:
        metrics: names in summary.json, `*` allowed; default: evaluators' results, else the best logged values.
        where: conditions such as `model.depth>=7` or `status==finished`; a run must meet all.
        sort: metric or config key to order the groups by, `-` before it for largest first.

    Raises:
        ValueError: if there is no run, or a metric, condition or key names nothing.
    """
    runs = [read_run(folder) for folder in find_runs(paths)]
    if not runs:
        raise ValueError("no run folders there: give folders that train.py or evaluate.py wrote, or their parent")
    for condition in where:
        runs = _filtered(runs, condition)
    groups = group_by_seed(runs)
    chosen = _choose_metrics(runs, metrics)
    groups = _sorted(groups, sort)
    for index, group in enumerate(groups):
        group.name = _letters(index)
    return Comparison(groups, chosen, differing_keys(groups), list(_tests(groups, chosen)))


def find_runs(paths: Iterable[Path]) -> Iterator[Path]:
    """Run folders: the paths themselves, or those below them (a run's own evaluations only when named).

    Raises:
        ValueError: if a path does not exist.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            known = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = nearest(path.name, known)
            raise ValueError(f"no folder {path}" + (f"; did you mean {path.parent / close}?" if close else ""))
        for folder, children, files in os.walk(path):
            if "config.yaml" in files:
                children.clear()
                found = Path(folder)
                if found.resolve() not in seen:
                    seen.add(found.resolve())
                    yield found
            children[:] = sorted(child for child in children if not child.startswith("."))


def read_run(folder: Path) -> Run:
    """Read one run folder; missing files are an early death and no error.

    Raises:
        ValueError: if a file is there and cannot be read.
    """
    try:
        config = read_flat_config((folder / "config.yaml").read_text())
        summary = _json(folder / "summary.json")
        status = _json(folder / "status.json")
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: a file of this run cannot be read: {error}") from error
    numbers = {key: math.nan if value is None else float(value) for key, value in summary.items()}
    seed = config.pop("seed", None)
    return Run(
        path=folder,
        seed=seed,
        config=config,
        summary=numbers,
        status=present_status(status),
        reason=str(status.get("reason") or ""),
        started=float(status.get("started") or 0.0),
    )


def read_flat_config(text: str) -> dict[str, Any]:
    """Dotted key -> value of a config.yaml, without what only says where and how the run was done.

    Parsed section by section, each distinct section once: the runs of a sweep differ in a line or two, and parsing
    whole files would be nine tenths of the time of a comparison.
    """
    flat: dict[str, Any] = {}
    for section in re.split(r"\n(?=[^\s#-])", text):
        parsed = _parse_section(section)
        if parsed is None:  # not as nissl writes it: an anchor, a flow mapping
            whole = yaml.load(text, _Loader)
            if not isinstance(whole, dict):
                raise yaml.YAMLError("not a mapping of keys to values")
            return dict(_flat(whole))
        flat.update(parsed)
    return flat


@functools.lru_cache(maxsize=10_000)
def _parse_section(text: str) -> dict[str, Any] | None:
    try:
        parsed = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return None
    return dict(_flat(parsed)) if isinstance(parsed, dict) else None


def present_status(status: dict[str, Any]) -> str:
    """The status, with `running` corrected to `killed` where the process is gone from this host."""
    said = str(status.get("status", "unknown"))
    if said == "running" and status.get("host") == socket.gethostname() and not _is_alive(status.get("pid")):
        return "killed"
    return said


def _is_alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key in RUN_ONLY_KEYS:
            continue
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{dotted}.")
        elif isinstance(value, str) and is_path_key(str(key)):
            yield dotted, os.path.basename(value)
        else:
            yield dotted, value


def group_by_seed(runs: Iterable[Run]) -> list[Group]:
    """Groups in the order in which their first run comes; within a seed the newest finished run is counted."""
    groups: dict[str, Group] = {}
    for run in runs:
        key = json.dumps(run.config, sort_keys=True, default=str)
        group = groups.setdefault(key, Group(run.config))
        before = group.counted.get(str(run.seed))
        if run.status != "finished" or (before is not None and before.started > run.started):
            group.others.append(run)
            continue
        if before is not None:
            group.others.append(before)
        group.counted[str(run.seed)] = run
    for group in groups.values():
        group.counted = dict(sorted(group.counted.items(), key=lambda item: _natural(item[0])))
    return list(groups.values())


def differing_keys(groups: list[Group]) -> list[str]:
    """Keys that not all groups have with the same value, in the order of the first configuration that has them."""
    keys = dict.fromkeys(key for group in groups for key in group.config)
    missing = object()
    return [
        key
        for key in keys
        if any(group.config.get(key, missing) != groups[0].config.get(key, missing) for group in groups)
    ]


def _choose_metrics(runs: list[Run], wanted: list[str] | None) -> list[str]:
    known = sorted({name for run in runs for name in run.summary})
    if not wanted:
        results = [name for name in known if not name.endswith(("/last", "/best"))]
        return results or [name for name in known if name.endswith("/best")] or known
    chosen: list[str] = []
    for pattern in wanted:
        expression = re.compile(re.escape(pattern).replace(r"\*", ".*"))
        found = [name for name in known if expression.fullmatch(name)]
        if not found:
            close = nearest(pattern, known, 0.4)
            raise ValueError(
                f"no run has the metric '{pattern}'"
                + (f"; did you mean '{close}'?" if close else f"; there are: {', '.join(known) or 'none'}")
            )
        chosen += [name for name in found if name not in chosen]
    return chosen


def _filtered(runs: list[Run], condition: str) -> list[Run]:
    match = re.fullmatch(r"\s*([^<>=!]+?)\s*(>=|<=|==|!=|=|>|<)\s*(.*?)\s*", condition)
    if match is None:
        raise ValueError(f"condition '{condition}': expected <key><operator><value>, such as 'model.depth>=7'")
    key, sign, text = match.groups()
    wanted = yaml.load(text, _Loader) if text else ""
    known = {name for run in runs for name in _facts(run)}
    if key not in known:
        close = nearest(key, known)
        raise ValueError(
            f"condition '{condition}': no run has '{key}'" + (f"; did you mean '{close}'?" if close else "")
        )
    kept = []
    for run in runs:
        facts = _facts(run)
        if key not in facts:
            continue
        try:
            holds = _OPERATORS[sign](facts[key], wanted)
        except TypeError:
            raise ValueError(
                f"condition '{condition}': {facts[key]!r} and {wanted!r} cannot be ordered ({run.path})"
            ) from None
        if holds:
            kept.append(run)
    if not kept:
        raise ValueError(f"no run meets '{condition}'")
    return kept


def _facts(run: Run) -> dict[str, Any]:
    return {**run.summary, **run.config, "seed": run.seed, "status": run.status, "name": run.path.name}


def _sorted(groups: list[Group], sort: str | None) -> list[Group]:
    if sort is None:
        return groups
    key, largest_first = sort.removeprefix("-"), sort.startswith("-")
    known = {name for group in groups for run in group.counted.values() for name in run.summary}
    known |= {name for group in groups for name in group.config}
    if key not in known:
        close = nearest(key, known)
        raise ValueError(f"--sort {sort}: no run has '{key}'" + (f"; did you mean '{close}'?" if close else ""))

    def value(group: Group) -> Any:
        if key in group.config:
            return group.config[key]
        estimate = group.estimate(key)
        return estimate.mean if estimate is not None and math.isfinite(estimate.mean) else None

    having = [group for group in groups if value(group) is not None]
    try:
        having.sort(key=value, reverse=largest_first)
    except TypeError:
        having.sort(key=lambda group: str(value(group)), reverse=largest_first)
    return having + [group for group in groups if value(group) is None]


def _tests(groups: list[Group], metrics: list[str]) -> Iterator[PairedTest]:
    for group in groups[1:]:
        for metric in metrics:
            first, second = groups[0].values(metric), group.values(metric)
            if min(len(first), len(second)) < 2:
                continue
            shared = [seed for seed in first if seed in second]
            differences = np.array([second[seed] - first[seed] for seed in shared])
            if not np.isfinite(differences).all():
                continue
            yield PairedTest(
                metric=metric,
                first=groups[0].name,
                second=group.name,
                difference=float(differences.mean()) if shared else math.nan,
                p=sign_flip_p(differences),
                smallest_p=smallest_p(len(shared)),
                seeds=shared,
                unmatched={
                    groups[0].name: [seed for seed in first if seed not in second],
                    group.name: [seed for seed in second if seed not in first],
                },
            )


def _letters(index: int) -> str:
    """A ... Z, AA, AB, ..."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def _natural(text: str) -> tuple[int, float, str]:
    return (0, float(text), "") if re.fullmatch(r"-?\d+", text) else (1, 0.0, text)
