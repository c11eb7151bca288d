"""How a search is shown: a live table on a terminal, else a line per ended trial; the whole table at any time."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from nissl.runs.records import last_row

if TYPE_CHECKING:
    import optuna

    from nissl.runs.sweep import Sweep

_REFRESH_S = 1.0
_SHOWN = 12  # ended trials in the live table


class Display:
    """What a person at the terminal sees while a search runs.

    Args:
        sweep: the controller.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._live: Any = None
        self._last = 0.0

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()
            self._live = None

    def ended(self, trial: Any) -> None:
        """A trial has ended: a line, where there is no live table."""
        if self._live is None:
            print(status_line(trial), flush=True)

    def update(self) -> None:
        """Draw the live table anew, now and then."""
        if self._live is not None and time.monotonic() - self._last > _REFRESH_S:
            self._last = time.monotonic()
            self._live.update(self._table())

    def _table(self) -> Any:
        from rich.table import Table

        study, target = self.sweep.study, self.sweep.target
        complete, others = ended_trials(study)
        table = Table(title=headline(study, target), title_justify="left", box=None, pad_edge=False)
        for name in ("trial", "state", study_objective(self.sweep), "point"):
            table.add_column(name)
        for trial in [*complete, *others][:_SHOWN]:
            style = {"COMPLETE": "", "PRUNED": "dim", "FAIL": "red"}[trial.state.name]
            table.add_row(
                str(trial.number), trial.state.name.lower(), shown_value(trial), shown_point(trial), style=style
            )
        for active in self.sweep.active:
            for part in active.running:
                row = last_row(part.folder / "metrics.jsonl")
                where = f"{part.dataset}, seed {part.seed}" + (f", step {row['step']}" if row else "")
                point = "  ".join(f"{key}={shown_parameter(value)}" for key, value in active.point.items())
                table.add_row(str(active.number), "running", where, point, style="cyan")
        return table


def study_objective(sweep: Sweep) -> str:
    return str(sweep.spec.objective["metric"])


def ended_trials(study: optuna.Study) -> tuple[list[Any], list[Any]]:
    """Complete trials, best first; and those that failed or were pruned."""
    trials = study.get_trials(deepcopy=False)
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    complete = sorted((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: sign * (t.value or 0.0))
    return complete, [t for t in trials if t.state.name in ("FAIL", "PRUNED")]


def spread(values: dict[str, dict[Any, float]]) -> float:
    """Standard deviation over seeds of the mean over data sets; NaN with one seed."""
    by_seed = np.array([list(seeds.values()) for seeds in values.values()], dtype=float)
    means = by_seed.mean(axis=0)
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def shown_parameter(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_point(trial: Any) -> str:
    return "  ".join(f"{key}={shown_parameter(value)}" for key, value in trial.params.items())


def shown_value(trial: Any) -> str:
    """The objective with its spread over seeds; for a failed trial the first line of the reason."""
    if trial.state.name == "COMPLETE":
        deviation = spread(trial.user_attrs.get("values", {}))
        return f"{trial.value:.4f}" + ("" if math.isnan(deviation) else f" +- {deviation:.4f}")
    return str(trial.user_attrs.get("failure", "")).split("\n", 1)[0]


def status_line(trial: Any) -> str:
    """One trial in one line: number, state, value with its spread, point, and why it failed."""
    value = shown_value(trial) if trial.state.name == "COMPLETE" else ""
    reason = shown_value(trial) if trial.state.name == "FAIL" else ""
    line = f"{trial.number:>4}  {trial.state.name:<8}  {value:<20}  {shown_point(trial)}"
    return line + (f"  [{reason}]" if reason else "")


def headline(study: optuna.Study, target: int) -> str:
    trials = study.get_trials(deepcopy=False)
    names = ("RUNNING", "COMPLETE", "PRUNED", "FAIL")
    counts = ", ".join(f"{sum(t.state.name == name for t in trials)} {name.lower()}" for name in names)
    return f"{study.study_name}: {target} trials asked; {counts}"


def status_table(study: optuna.Study, target: int) -> str:
    """All trials so far, best first among the complete ones."""
    complete, others = ended_trials(study)
    running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
    lines = [headline(study, target), *(status_line(trial) for trial in [*complete, *others, *running])]
    return "".join(f"{line}\n" for line in lines)
