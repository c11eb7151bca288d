"""The maps that one network made of one day, trial by trial: what days are compared by, in memory and in a file.

The source presentation has one network per day and keeps no trials. Ours: every (network, day) leaves the sums of its
maps per trial, with what they were made of, so that finished runs can be compared without their networks or movies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nissl.evaluators.map_activation import TrialMoments
from nissl.evaluators.pattern_maps import Collected, TrialMaps
from nissl.evaluators.trial_resampling import TrialRows, make_trial_rows

FILE = "map_days.npz"  # in a run's figures/


@dataclass(frozen=True)
class Entry:
    """Maps and frames of one day as one network saw them.

    Attributes:
        day: name.
        seed: of the network.
        joint: whether the network was trained on all days.
        area: what was imaged.
        names: of all patterns; some may have no trial on this day.
        cells: of each pattern, joined by "+"; empty for "none".
        how: part, which, method, layer and the like, as words; must agree between days.
        mask: (h, w) positions inside.
        maps, frames: sums per (pattern, trial).
        outputs: of the network, in order.
        answers: moments of each trial inside the mask, for activation patterns.
    """

    day: str
    seed: int
    joint: bool
    area: str
    names: tuple[str, ...]
    cells: tuple[str, ...]
    how: tuple[str, ...]
    mask: np.ndarray
    maps: TrialMaps
    frames: TrialMaps
    outputs: tuple[str, ...]
    answers: TrialMoments

    def settings(self) -> dict[str, Any]:
        """What must agree between days; see `day_change.check_comparable`."""
        return {
            "cells": sorted({cell for names in self.cells for cell in names.split("+") if cell}),
            "area": self.area,
            "patterns": self.present(),
            "mask": self.mask,
            "map resolution": self.mask.shape,
            "maps": self.how,
        }

    def present(self) -> list[str]:
        """Names of the patterns that were shown on this day."""
        return [self.names[p] for p in np.unique(self.frames.pattern)]

    def usable(self, kind: str) -> list[str]:
        """Names of the patterns with a trial in `maps` or in `frames`."""
        trials = self.maps if kind == "maps" else self.frames
        return [self.names[p] for p in np.unique(trials.pattern[trials.counts > 0])]

    def keep(self, names: Sequence[str]) -> Entry:
        """The same with these patterns only, in this order."""
        to = np.full(len(self.names), -1)
        for row, name in enumerate(names):
            to[self.names.index(name)] = row

        def kept(trials: TrialMaps) -> TrialMaps:
            use = to[trials.pattern] >= 0
            return TrialMaps(trials.sums[use], trials.counts[use], to[trials.pattern[use]], trials.trial[use])

        cells = tuple(self.cells[self.names.index(name)] for name in names)
        use = to[self.answers.pattern] >= 0
        answers = TrialMoments(self.answers.gram[use], self.answers.cross[use], to[self.answers.pattern[use]])
        return replace(
            self, names=tuple(names), cells=cells, maps=kept(self.maps), frames=kept(self.frames), answers=answers
        )

    def labels(self) -> np.ndarray:
        """Targets (P, C) of the patterns; the last output alone for "none"."""
        return np.array([
            [float(output in (own.split("+") if own else ["none"])) for output in self.outputs] for own in self.cells
        ])  # fmt: skip

    def map_rows(self, weight: str) -> TrialRows:
        """What each trial adds to its pattern's map, inside the mask."""
        return make_trial_rows(self.maps.sums[:, self.mask], self.maps.counts, self.maps.pattern, self.names, weight)

    def evoked_rows(self, weight: str) -> TrialRows:
        """The same of the frames themselves less this day's mean idle frame; "none", the last pattern, is left out."""
        frames, none = self.frames, len(self.names) - 1
        assert not self.cells[none], "evoked maps need idle frames"
        sums = frames.sums[:, self.mask]
        idle = frames.pattern == none
        mean_idle = sums[idle].sum(axis=0) / frames.counts[idle].sum()
        evoked = (sums - frames.counts[:, None] * mean_idle)[~idle]
        return make_trial_rows(evoked, frames.counts[~idle], frames.pattern[~idle], self.names[:none], weight)


def networks_of(task: Any) -> list[Any]:
    """The trained networks of a task: those side by side, or the task itself as one that saw all days."""
    several = getattr(task, "networks", None)
    return list(several) if several else [SimpleNamespace(seed=0, day=None, model=task.model, device=task.device)]


def make_entry(collected: Collected, source: Any, day: str, network: Any, how: Sequence[str], num_days: int) -> Entry:
    """An entry from one pass over the frames of `source`, one day's view."""
    return Entry(
        day=day,
        seed=int(network.seed),
        joint=network.day is None and num_days > 1,
        area=str(source.area),
        names=tuple(pattern.name for pattern in source.patterns),
        cells=tuple("+".join(pattern.cells) for pattern in source.patterns),
        how=tuple(how),
        mask=collected.mask,
        maps=collected.maps,
        frames=collected.frames,
        outputs=tuple(source.outputs),
        answers=TrialMoments(
            collected.answers.gram, collected.answers.cross[..., collected.mask.ravel()], collected.answers.pattern
        ),
    )


def entries_to_arrays(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Everything of the entries under names that `read_entries` knows."""
    arrays: dict[str, np.ndarray] = {"entries": np.array(len(entries))}
    for i, entry in enumerate(entries):
        arrays |= {
            f"{i}/day": np.array(entry.day),
            f"{i}/seed": np.array(entry.seed),
            f"{i}/joint": np.array(entry.joint),
            f"{i}/area": np.array(entry.area),
            f"{i}/names": np.array(entry.names),
            f"{i}/cells": np.array(entry.cells),
            f"{i}/how": np.array(entry.how),
            f"{i}/mask": entry.mask,
            f"{i}/outputs": np.array(entry.outputs),
            f"{i}/gram": entry.answers.gram,
            f"{i}/cross": entry.answers.cross.astype(np.float32),
            f"{i}/shown": entry.answers.pattern,
        }
        for kind, trials in (("maps", entry.maps), ("frames", entry.frames)):
            arrays[f"{i}/{kind}_sums"] = trials.sums.astype(np.float32)
            for name in ("counts", "pattern", "trial"):
                arrays[f"{i}/{kind}_{name}"] = getattr(trials, name)
    return arrays


def read_entries(run: str | Path) -> list[Entry]:
    """Entries that an earlier evaluation left in a run's folder.

    Raises:
        ValueError: if the folder has none.
    """
    path = Path(run) / "figures" / FILE
    if not path.exists():
        raise ValueError(
            f"no {path}: the run was not evaluated with map_days. "
            f"Do it first: python evaluate.py run={run} evaluator=[map_days] run_dir={run}/evaluations/days"
        )
    with np.load(path, allow_pickle=False) as file:
        found = []
        for i in range(int(file["entries"])):
            trials = {
                kind: TrialMaps(
                    file[f"{i}/{kind}_sums"].astype(np.float64),
                    *(file[f"{i}/{kind}_{name}"] for name in ("counts", "pattern", "trial")),
                )
                for kind in ("maps", "frames")
            }
            found.append(
                Entry(
                    day=str(file[f"{i}/day"]),
                    seed=int(file[f"{i}/seed"]),
                    joint=bool(file[f"{i}/joint"]),
                    area=str(file[f"{i}/area"]),
                    names=tuple(file[f"{i}/names"].tolist()),
                    cells=tuple(file[f"{i}/cells"].tolist()),
                    how=tuple(file[f"{i}/how"].tolist()),
                    mask=file[f"{i}/mask"],
                    outputs=tuple(file[f"{i}/outputs"].tolist()),
                    answers=TrialMoments(file[f"{i}/gram"], file[f"{i}/cross"].astype(np.float64), file[f"{i}/shown"]),
                    **trials,
                )
            )
    return found
