"""What a sweep file says: the space, how it is searched, over which seeds and data sets, and what is optimised.

# conf/sweep/example.yaml
base: [experiment=graph_dino_quick]         # overrides of every training
space:
  task.optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  model.depth: {choices: [3, 5, 7]}
sampler: {name: tpe, seed: 0}               # grid | random | tpe
trials: 24                                  # of a grid: null is all of it
seeds: [0, 1]
datasets: {rat: [dataset=morphology_rat_s1], allen: [dataset=morphology_allen]}   # null: that of base
objective: {metric: knn/balanced_accuracy, direction: maximize}
pruner: null                                # or {name: median, metric: val/loss, warmup: 3, startup_trials: 5}
max_failure_rate: 0.5
executor: {name: local, parallel: 1}
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nissl.runs.problems import nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SAMPLERS = ("grid", "random", "tpe")
DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class SearchSpec:
    """A sweep file, checked."""

    name: str
    base: list[str]
    space: dict[str, dict[str, Any]]
    objective: dict[str, str]
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "tpe", "seed": 0})
    trials: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    datasets: dict[str, list[str]] | None = None
    pruner: dict[str, Any] | None = None
    max_failure_rate: float = 0.5
    executor: dict[str, Any] = field(default_factory=lambda: {"name": "local", "parallel": 1})

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError(f"sweep {self.name}: the space is empty")
        for key, axis in self.space.items():
            _check_axis(self.name, key, axis)
        if self.sampler.get("name") not in SAMPLERS:
            raise ValueError(f"sweep {self.name}: sampler.name must be one of {SAMPLERS}, came {self.sampler}")
        if self.objective.get("direction") not in DIRECTIONS or "metric" not in self.objective:
            raise ValueError(
                f"sweep {self.name}: objective needs a metric and a direction ({' or '.join(DIRECTIONS)}), "
                f"came {self.objective}"
            )
        if self.sampler["name"] == "grid":
            for key, axis in self.space.items():
                if "choices" not in axis:
                    raise ValueError(f"sweep {self.name}: a grid needs choices for {key}, came {axis}")
        elif not self.trials:
            raise ValueError(f"sweep {self.name}: trials must be a number unless sampler.name is grid")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"sweep {self.name}: seeds must be different and at least one, came {self.seeds}")

    @property
    def num_trials(self) -> int:
        size = len(self.grid()) if self.sampler["name"] == "grid" else math.inf
        return int(min(size, self.trials or math.inf))

    def grid(self) -> list[dict[str, Any]]:
        """Every point of a grid, the last axis fastest."""
        axes = [[(key, value) for value in axis["choices"]] for key, axis in self.space.items()]
        return [dict(point) for point in itertools.product(*axes)]

    def parts(self) -> list[tuple[str, int]]:
        """The (data set, seed) trainings of one trial; the data set of `base` is called `base`."""
        return [(dataset, seed) for seed in self.seeds for dataset in (self.datasets or {"base": []})]

    def overrides(self, point: dict[str, Any], dataset: str, seed: int) -> list[str]:
        """The overrides of train.py for one training."""
        own = (self.datasets or {"base": []})[dataset]
        return [*self.base, *own, *(f"{key}={as_override(value)}" for key, value in point.items()), f"seed={seed}"]

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in optuna's words."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for key, axis in self.space.items():
            if "choices" in axis:
                found[key] = CategoricalDistribution([_hashable(value) for value in axis["choices"]])
            elif isinstance(axis["low"], int) and isinstance(axis["high"], int):
                found[key] = IntDistribution(axis["low"], axis["high"], axis.get("log", False), axis.get("step", 1))
            else:
                found[key] = FloatDistribution(axis["low"], axis["high"], axis.get("log", False), axis.get("step"))
        return found

    def corners(self) -> list[dict[str, Any]]:
        """Points that touch every value a grid lists and both ends of every range, for validation."""
        axes = {key: axis.get("choices", [axis.get("low"), axis.get("high")]) for key, axis in self.space.items()}
        longest = max(len(values) for values in axes.values())
        return [{key: values[i % len(values)] for key, values in axes.items()} for i in range(longest)]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _check_axis(sweep: str, key: str, axis: Any) -> None:
    if isinstance(axis, dict) and set(axis) == {"choices"} and isinstance(axis["choices"], list) and axis["choices"]:
        return
    is_range = isinstance(axis, dict) and {"low", "high"} <= set(axis) <= {"low", "high", "log", "step"}
    if is_range and not all(isinstance(axis[end], int | float) for end in ("low", "high")):
        raise ValueError(
            f"sweep {sweep}: {key} needs numbers for low and high, came {axis} (YAML reads 1e-3 as text: write 1.0e-3)"
        )
    if not is_range or axis["low"] >= axis["high"]:
        raise ValueError(
            f"sweep {sweep}: {key} needs {{choices: [...]}} or {{low: a, high: b, log: false, step: null}} with a < b, "
            f"came {axis}"
        )


def _hashable(value: Any) -> Any:
    """optuna stores plain choices only: lists go in as their override text."""
    return value if isinstance(value, str | int | float | bool | type(None)) else as_override(value)


def as_override(value: Any) -> str:
    """A value in Hydra's override syntax."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(as_override(item) for item in value)}]"
    return repr(value) if isinstance(value, float) else str(value)


def read_spec(path: Path, overrides: list[str], name: str | None = None) -> SearchSpec:
    """Read a sweep file; overrides `sweep.<key>=value` change it, all others go to every training.

    Raises:
        ValueError: if there is no such file, or it says something else than a sweep can.
    """
    if not path.exists():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        close = nearest(path.stem, known)
        hint = f" Did you mean '{close}'?" if close else ""
        raise ValueError(f"no sweep {path.stem!r} in {path.parent}.{hint} There are: {', '.join(known) or 'none'}.")
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, came {type(values).__name__}")
    base = list(values.pop("base", []))
    for override in overrides:
        if override.startswith("sweep."):
            key, _, text = override[len("sweep.") :].partition("=")
            # The keys of the space are dotted themselves.
            keys = ["space", key.removeprefix("space.")] if key.startswith("space.") else key.split(".")
            _set(values, keys, yaml.safe_load(text))
        else:
            base.append(override)
    known_keys = set(SearchSpec.__dataclass_fields__) - {"name", "base"}
    for key in sorted(set(values) - known_keys):
        close = nearest(key, known_keys)
        raise ValueError(f"{path}: unknown key {key!r}." + (f" Did you mean '{close}'?" if close else ""))
    missing = sorted({"space", "objective"} - set(values))
    if missing:
        raise ValueError(f"{path}: {' and '.join(missing)} must be given")
    return SearchSpec(name=name or path.stem, base=base, **values)


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values[keys[-1]] = value


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two specifications, one line per key."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
