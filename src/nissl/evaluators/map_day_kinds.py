"""Three kinds of pattern maps on two days, each compared in the same way: the network's, its patterns, evoked maps.

`network`: maps such as Grad-CAM. `pattern`: the network's activation patterns (`map_activation`), which recover a
simulated truth best. `evoked`: mean stimulated minus mean idle frame, no network. The source has the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nissl.evaluators.day_change import Change, permute_seeds
from nissl.evaluators.map_day_patterns import (
    bootstrap_pattern_change,
    level_of,
    pattern_images,
    permute_pattern_trials,
)
from nissl.evaluators.map_entries import Entry
from nissl.evaluators.trial_resampling import (
    Permutation,
    TrialRows,
    bootstrap_change,
    percentile_interval,
    permute_trials,
    statistic_weights,
    statistics,
)
from nissl.evaluators.zncc import zncc_matrix

KINDS = {"network": "days", "evoked": "days_evoked", "pattern": "days_pattern"}  # prefix of their numbers
TITLES = {"network": "maps of the networks", "evoked": "evoked maps (no network)", "pattern": "activation patterns"}


@dataclass(frozen=True)
class Resampling:
    """How trials are weighed and drawn: as in map_days."""

    weight: str
    draws: int
    bootstrap_draws: int
    seed: int


@dataclass(frozen=True)
class Compared:
    """One kind of maps on both days.

    Attributes:
        kind: network, evoked or pattern.
        names, cells: of the patterns (P).
        images: per day, per network, maps (P, D) inside the mask, up to a positive factor each.
        levels: per day, statistics (S, K) of each network.
        changes: of each statistic.
        drawn: changes of each statistic under permutation, first networks.
        seeds: per day, of the networks.
    """

    kind: str
    names: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    images: list[list[np.ndarray]]
    levels: list[np.ndarray]
    changes: dict[str, Change]
    drawn: dict[str, np.ndarray]
    seeds: list[list[int]]

    def matrices(self) -> list[np.ndarray]:
        """ZNCC (P, P) of each day, mean over networks."""
        return [np.mean([zncc_matrix(image) for image in own], axis=0) for own in self.images]


def compare_rows(
    kind: str, entries: list[list[Entry]], rows: list[list[TrialRows]], scope: str, how: Resampling
) -> Compared:
    """Maps that add up over trials: those of the networks, or evoked ones.

    Args:
        kind: network or evoked.
        entries: per day, those that the rows were made of.
        rows: per day and network.
        scope: see `Change`.
        how: of resampling.
    """
    num_patterns = rows[0][0].num_patterns
    cells = cells_of(entries[0][0])[:num_patterns]
    named = statistic_weights(cells)
    weights = np.stack(list(named.values()))
    images = [[r.maps() for r in own] for own in rows]
    levels = [np.stack([statistics(image[None], weights)[0] for image in own]) for own in images]
    pairs = list(zip(*rows, strict=False))  # networks of one seed, or as many as both days have
    outcomes = [permute_trials(a, b, weights, how.draws, how.seed + i) for i, (a, b) in enumerate(pairs)]
    drawn = bootstrap_change(rows[0], rows[1], weights, how.bootstrap_draws, how.seed, scope != "per_day")
    return _compared(kind, entries, cells, images, levels, named, outcomes, percentile_interval(drawn), scope)


def compare_patterns(entries: list[list[Entry]], scope: str, how: Resampling) -> Compared:
    """Activation patterns, which every draw regresses anew; "none", the last pattern, is their zero."""
    labels = entries[0][0].labels()
    cells = cells_of(entries[0][0])[:-1]
    named = statistic_weights(cells)
    weights = np.stack(list(named.values()))
    trials = [[entry.answers for entry in own] for own in entries]
    images = [[pattern_images(t.total().gram[None], t.total().cross[None], labels)[0] for t in own] for own in trials]
    levels = [np.stack([level_of(t, labels, weights) for t in own]) for own in trials]
    outcomes = [
        permute_pattern_trials(a, b, labels, weights, how.draws, how.seed + i)
        for i, (a, b) in enumerate(zip(*trials, strict=False))
    ]
    drawn = bootstrap_pattern_change(
        trials[0], trials[1], labels, weights, how.bootstrap_draws, how.seed, scope == "joint"
    )
    return _compared("pattern", entries, cells, images, levels, named, outcomes, percentile_interval(drawn), scope)


def cells_of(entry: Entry) -> tuple[tuple[str, ...], ...]:
    """Stimulated cells of each pattern; none for "none"."""
    return tuple(tuple(text.split("+")) if text else () for text in entry.cells)


def _compared(
    kind: str, entries: list[list[Entry]], cells: tuple[tuple[str, ...], ...], images: list[list[np.ndarray]],
    levels: list[np.ndarray], named: dict[str, np.ndarray], outcomes: Sequence[Permutation], ends: np.ndarray,
    scope: str,
) -> Compared:  # fmt: skip
    changes = {
        name: Change(
            reference=levels[0][:, k],
            day=levels[1][:, k],
            p_trial=np.array([outcome.p[k] for outcome in outcomes]),
            p_seed=permute_seeds(levels[0][:, k], levels[1][:, k]),
            interval=(float(ends[0][k]), float(ends[1][k])),
            scope=scope,
        )
        for k, name in enumerate(named)
    }
    return Compared(
        kind=kind,
        names=entries[0][0].names[: len(cells)],
        cells=cells,
        images=images,
        levels=levels,
        changes=changes,
        drawn={name: outcomes[0].drawn[:, k] for k, name in enumerate(named)},
        seeds=[[entry.seed for entry in own] for own in entries],
    )
