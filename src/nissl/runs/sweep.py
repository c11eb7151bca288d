"""A search over configurations that survives anything: ask and tell on Optuna, one process per training.

A trial is one point of the space, trained once per data set and seed; its value is the mean over seeds within a data
set, then over data sets. Everything lives in the sweep's folder:

    sweep.yaml            what was asked
    study.db              Optuna's record (SQLite; only the controller writes it)
    status.txt            the table of trials, kept up to date
    report.html           the same with pictures, when the search ends (`nissl report <folder>` at any time)
    trials/0007-rat-seed1 a run folder; its log beside it

Starting the same sweep again continues it: half-done trainings resume, done ones are not repeated, and the points are
the same as if nothing had happened, because each is drawn with a generator seeded by (sweep seed, trial number). TPE
also looks at the trials that have ended, so with several at a time its points depend on which ended first.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from nissl.runs.compose import conf_dir
from nissl.runs.executors import Executor, Handle
from nissl.runs.folder import is_locked, lock, read_json, write_text
from nissl.runs.records import read_metrics
from nissl.runs.search_space import SearchSpec, difference
from nissl.runs.sweep_display import Display, status_table

if TYPE_CHECKING:
    import optuna

POLL_S = 0.2
LOG_TAIL_CHARACTERS = 3000


@dataclass
class Part:
    """One training of a trial."""

    dataset: str
    seed: int
    folder: Path
    handle: Handle | None = None


@dataclass
class ActiveTrial:
    """A trial being trained."""

    number: int
    point: dict[str, Any]
    waiting: list[Part]
    running: list[Part] = field(default_factory=list)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    failure: str = ""
    reported: set[int] = field(default_factory=set)


class Adopted:
    """A training started by a controller that is gone; it goes on by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def poll(self) -> int | None:
        if is_locked(self.folder):
            return None
        return 0 if read_json(self.folder / "status.json")["status"] == "finished" else 1

    def cancel(self) -> None:
        """It belongs to nobody here."""


class Sweep:
    """The controller of one sweep; only one process at a time may hold it.

    Args:
        spec: what to search.
        folder: where; made if missing.
        executor: runs the trainings.
        program: command that trains, to which overrides are added; default: train.py of this checkout.

    Raises:
        ValueError: if the folder holds a different sweep, or another controller is running it.
    """

    def __init__(self, spec: SearchSpec, folder: Path, executor: Executor, program: list[str] | None = None) -> None:
        self.spec, self.folder, self.executor = spec, folder, executor
        self.program = program or [sys.executable, str(conf_dir().parent / "train.py")]
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(folder)
        self._record_spec()
        self.study = open_study(folder, spec.name, spec.objective["direction"], create=True)
        if spec.pruner:
            self.study.pruner = make_pruner(spec.pruner)
        self.active: list[ActiveTrial] = []
        self.display = Display(self)

    def _record_spec(self) -> None:
        path = self.folder / "sweep.yaml"
        # How trainings are run, and how many more are wanted, may change between two starts; what is searched may not.
        if path.exists():
            before, now = (
                {key: value for key, value in values.items() if key not in ("executor", "trials", "max_failure_rate")}
                for values in (yaml.safe_load(path.read_text()), self.spec.as_dict())
            )
            if changes := difference(before, now):
                raise ValueError(
                    f"{self.folder} holds another sweep of this name:\n  " + "\n  ".join(changes) + "\n"
                    "Undo the change, or start a new one with --name <name>."
                )
        write_text(path, yaml.safe_dump(self.spec.as_dict(), sort_keys=False))

    def run(self, add_trials: int = 0, retry_failed: bool = False) -> None:
        """Search until the asked number of trials has ended."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        if not trials and self.spec.sampler["name"] == "grid":
            for point in self.spec.grid()[: self.spec.num_trials]:
                self.study.enqueue_trial(point)
        if retry_failed:
            retried = {trial.user_attrs.get("retry_of") for trial in trials}
            for trial in trials:
                if trial.state == TrialState.FAIL and trial.number not in retried:
                    self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})
                    self.study.set_user_attr("extra", self.study.user_attrs.get("extra", 0) + 1)
        if add_trials:
            self.study.set_user_attr("extra", self.study.user_attrs.get("extra", 0) + add_trials)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.active.append(self._activate(trial.number, self._whole_point(trial.number)))
        try:
            with self.display:
                while self._step():
                    self.display.update()
                    time.sleep(POLL_S)
        except BaseException:
            # The trainings stop with a checkpoint; the next start resumes them.
            for active in self.active:
                for part in active.running:
                    assert part.handle is not None
                    part.handle.cancel()
            raise

    @property
    def target(self) -> int:
        return self.spec.num_trials + int(self.study.user_attrs.get("extra", 0))

    def _step(self) -> bool:
        """Start what there is room for, collect what has ended; False when all is done."""
        self._fill()
        for trial in self.active:
            self._collect(trial)
        ended = [trial for trial in self.active if not trial.running and (trial.failure or not trial.waiting)]
        for trial in ended:
            self._tell(trial)
            self.active.remove(trial)
        if ended:
            self._check_failure_rate()
        return bool(self.active) or self._asked() < self.target

    def _asked(self) -> int:
        from optuna.trial import TrialState

        return sum(t.state != TrialState.WAITING for t in self.study.get_trials(deepcopy=False))

    def _waiting(self) -> bool:
        from optuna.trial import TrialState

        return any(t.state == TrialState.WAITING for t in self.study.get_trials(deepcopy=False))

    def _fill(self) -> None:
        while self._room():
            part = next(((t, t.waiting[0]) for t in self.active if t.waiting and not t.failure), None)
            if part is not None:
                trial, first = part
                trial.waiting.remove(first)
                first.handle = self._start(trial, first)
                trial.running.append(first)
            elif (number := self._asked()) < self.target:
                if not self._waiting():
                    self.study.enqueue_trial(draw_point(self.spec, self.study, number))
                asked = self.study.ask(self.spec.distributions())
                self.active.append(self._activate(asked.number, asked.params))
                self._write_status()
            else:
                return

    def _room(self) -> bool:
        return sum(len(trial.running) for trial in self.active) < self.executor.parallel

    def _activate(self, number: int, point: dict[str, Any]) -> ActiveTrial:
        root = self.folder / "trials"
        root.mkdir(exist_ok=True)
        parts = [Part(data, seed, part_folder(self.folder, number, data, seed)) for data, seed in self.spec.parts()]
        return ActiveTrial(number, point, waiting=parts)

    def _start(self, trial: ActiveTrial, part: Part) -> Handle:
        if (part.folder / "status.json").exists() and (
            is_locked(part.folder) or read_json(part.folder / "status.json")["status"] in ("finished", "failed")
        ):
            return Adopted(part.folder)
        command = [
            *self.program,
            *self.spec.overrides(trial.point, part.dataset, part.seed),
            f"run_dir={part.folder}",
            f"group={self.spec.name}-{trial.number:04d}",
            "resume=auto",
        ]
        return self.executor.submit(command, part.folder.with_suffix(".log"))

    def _collect(self, trial: ActiveTrial) -> None:
        for part in list(trial.running):
            assert part.handle is not None
            status = part.handle.poll()
            if status is None:
                self._consider_pruning(trial, part)
                continue
            trial.running.remove(part)
            try:
                trial.values.setdefault(part.dataset, {})[part.seed] = self._value(part, status)
            except ValueError as error:
                trial.failure = str(error)

    def _value(self, part: Part, exit_status: int) -> float:
        """The objective of one ended training.

        Raises:
            ValueError: if it failed, or gave no finite number.
        """
        name = f"{part.dataset}, seed {part.seed}"
        if exit_status != 0:
            raise ValueError(f"{name}: {why_it_failed(part.folder, exit_status)}")
        metric = self.spec.objective["metric"]
        value = read_json(part.folder / "summary.json").get(metric)
        if value is None or not math.isfinite(value):
            raise ValueError(f"{name}: {metric} is {'missing or NaN' if value is None else value} in summary.json")
        return float(value)

    def _consider_pruning(self, trial: ActiveTrial, part: Part) -> None:
        """Report the first training's progress; stop the trial when the pruner gives it up."""
        if not self.spec.pruner or (part.dataset, part.seed) != self.spec.parts()[0]:
            return
        optuna_trial = self._optuna_trial(trial.number)
        metric = self.spec.pruner["metric"]
        for row in read_metrics(part.folder / "metrics.jsonl"):
            if metric in row and row["step"] not in trial.reported and math.isfinite(row[metric]):
                trial.reported.add(row["step"])
                optuna_trial.report(row[metric], row["step"])
        if trial.reported and optuna_trial.should_prune():
            assert part.handle is not None
            part.handle.cancel()
            trial.running.remove(part)
            trial.failure = "pruned"

    def _optuna_trial(self, number: int) -> optuna.Trial:
        import optuna

        return optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)

    def _whole_point(self, number: int) -> dict[str, Any]:
        """The parameters of a trial; a controller killed while it asked recorded the point, but not each parameter."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        record = self._optuna_trial(number)
        for name, axis in self.spec.distributions().items():
            if isinstance(axis, CategoricalDistribution):
                record.suggest_categorical(name, axis.choices)
            elif isinstance(axis, IntDistribution):
                record.suggest_int(name, axis.low, axis.high, step=axis.step, log=axis.log)
            else:
                record.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.log)  # type: ignore[attr-defined]
        return record.params

    def _tell(self, trial: ActiveTrial) -> None:
        from optuna.trial import TrialState

        record = self._optuna_trial(trial.number)
        record.set_user_attr("values", json.loads(json.dumps(trial.values)))
        if trial.failure == "pruned":
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif trial.failure:
            record.set_user_attr("failure", trial.failure)
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, objective(trial.values))
        self._write_status()
        self.display.ended(self.study.get_trials(deepcopy=False)[trial.number])

    def _write_status(self) -> None:
        write_text(self.folder / "status.txt", status_table(self.study, self.target))

    def _check_failure_rate(self) -> None:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        states = [trial.state for trial in trials if trial.state.is_finished() and trial.number not in retried]
        failed = states.count(TrialState.FAIL)
        if len(states) >= 4 and failed / len(states) > self.spec.max_failure_rate:
            raise ValueError(
                f"{failed} of {len(states)} trials failed, more than max_failure_rate={self.spec.max_failure_rate}: "
                f"see {self.folder / 'status.txt'}; mend the cause and start again with --retry-failed"
            )


def objective(values: dict[str, dict[int, float]]) -> float:
    """Mean over seeds within each data set, then over data sets."""
    return statistics.fmean(statistics.fmean(by_seed.values()) for by_seed in values.values())


def why_it_failed(folder: Path, exit_status: int) -> str:
    """The reason a training gave, with its traceback; for one killed without a word, the signal and the log's end."""
    if (folder / "status.json").exists():
        status = read_json(folder / "status.json")
        if status["status"] == "failed":
            return f"{status['reason']}\n{status['traceback']}"
    log = folder.with_suffix(".log")
    tail = log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:] if log.exists() else ""
    what = f"killed by signal {-exit_status}" if exit_status < 0 else f"exit status {exit_status}"
    if exit_status == -9:
        what += " (out of memory?)"
    return f"{what}\n{tail}"


def open_study(folder: Path, name: str, direction: str, create: bool = False) -> optuna.Study:
    """The Optuna study in a sweep's folder."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{folder / 'study.db'}"
    if not create:
        return optuna.load_study(study_name=name, storage=storage)
    return optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)  # type: ignore[arg-type]


def part_folder(sweep: Path, number: int, dataset: str, seed: int) -> Path:
    """The run folder of one training."""
    return sweep / "trials" / f"{number:04d}-{dataset}-seed{seed}"


def draw_point(spec: SearchSpec, study: optuna.Study, number: int) -> dict[str, Any]:
    """The next point, drawn on a copy in memory: the record receives it whole, in one write, or not at all."""
    import optuna

    sampler = make_sampler(spec, number)
    scratch = optuna.create_study(direction=study.direction, sampler=sampler)
    # Trials that run now have no value yet; those that wait would be handed out instead of a new point.
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    scratch.add_trials(ended)
    return scratch.ask(spec.distributions()).params


def make_sampler(spec: SearchSpec, number: int) -> Any:
    """The sampler of one trial: its draws depend on the sweep's seed, the trial's number and what is known so far."""
    from optuna.samplers import RandomSampler, TPESampler

    options = {key: value for key, value in spec.sampler.items() if key not in ("name", "seed")}
    seed = int(np.random.SeedSequence([spec.sampler.get("seed", 0), number]).generate_state(1)[0])
    return TPESampler(seed=seed, **options) if spec.sampler["name"] == "tpe" else RandomSampler(seed=seed)


def make_pruner(spec: dict[str, Any]) -> Any:
    """The pruner of a sweep's `pruner:` section: `median` or `percentile`, Optuna's arguments by their names.

    Raises:
        ValueError: if its name is neither.
    """
    from optuna.pruners import MedianPruner, PercentilePruner

    options = {key: value for key, value in spec.items() if key not in ("name", "metric")}
    if spec["name"] == "median":
        return MedianPruner(**options)
    if spec["name"] == "percentile":
        return PercentilePruner(**options)
    raise ValueError(f"pruner.name must be median or percentile, came {spec['name']!r}")
