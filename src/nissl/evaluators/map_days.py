"""Did the maps' ZNCC change between two days? Every network of a run, or of several finished runs, and the sentence.

The source presentation reads one rise of the ZNCC sum (208.8 to 262.1), one network a day. Ours: change of the sum, of
the size-free means and of each class of pairs, with a permutation over trials, one over networks, and a bootstrap over
both; the evoked maps, which need no network, and the network's activation patterns, which recover a simulated truth
best, go the same way; and without the stimulated places themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators import map_day_figures as draw
from nissl.evaluators.day_change import (
    DECLARED,
    Change,
    align_patterns,
    check_comparable,
    describe_change,
    find_effect,
    holm,
    permute_seeds,
)
from nissl.evaluators.functional_connectivity import direct_scores, profile_scores
from nissl.evaluators.map_day_patterns import bootstrap_pattern_change, level_of, permute_pattern_trials
from nissl.evaluators.map_entries import Entry, entries_to_arrays, make_entry, networks_of, read_entries
from nissl.evaluators.pattern_distance import disc_maps, zncc_outside
from nissl.evaluators.pattern_maps import collect_maps, pool_images
from nissl.evaluators.result import Figure, Result
from nissl.evaluators.trial_resampling import (
    Permutation,
    TrialRows,
    bootstrap_change,
    match_counts,
    percentile_interval,
    permute_trials,
    statistic_weights,
    statistics,
)
from nissl.evaluators.zncc import CLASSES, compare_matrices, order_rows, zncc_matrix

TOLD = ("zncc_sum", *DECLARED)  # statistics with a full set of numbers in the summary
STATISTICS = ("zncc_sum", "mean_offdiag", *CLASSES, "singles")
KINDS = {"days": "network", "days_evoked": "evoked", "days_pattern": "activation pattern"}
WORDS = {
    "zncc_sum": "the ZNCC sum",
    "mean_offdiag": "mean ZNCC",
    "disjoint": "mean ZNCC of patterns without a common cell",
    "singles": "mean ZNCC of single cells",
}


class MapDays:
    """Compare the days of one run, or of finished ones.

    Args:
        runs: folders of runs already evaluated with map_days, whose maps are compared instead of this run's.
        reference: name of the reference day; null is the first of the data set.
        align: null refuses days with different patterns; intersection drops what only one has, and says so.
        part, which, method, layer, frame_norm, weight, order, batch_size: as in gradcam_zncc.
        draws: of the permutation of trials.
        bootstrap_draws: of the interval over trials and networks.
        match_repeats: subsamples when trials are matched between days.
        seed: of all draws.
        num_animals: for the sentence.
        null_effects, null_worlds: effects found in worlds without one, and how many were tried; 0 if none were.
    """

    metrics = {
        "days/*": None,
        "days_evoked/*": None,
        "days_pattern/*": None,
        "days_truth/*": None,
    }

    def __init__(
        self,
        runs: Sequence[str],
        reference: str | None,
        align: str | None,
        part: str,
        which: str,
        method: str,
        layer: int | None,
        frame_norm: str,
        weight: str,
        order: str,
        draws: int,
        bootstrap_draws: int,
        match_repeats: int,
        seed: int,
        num_animals: int,
        null_effects: int,
        null_worlds: int,
        batch_size: int,
    ) -> None:
        if align not in (None, "intersection"):
            raise ValueError(f"align='{align}' is unknown; choose null (refuse unequal patterns) or intersection")
        if order not in ("cell", "cluster"):
            raise ValueError(f"order='{order}' is unknown; choose cell or cluster")
        self.runs, self.reference, self.align = list(runs), reference, align
        self.part, self.which, self.method, self.layer = part, which, method, layer
        self.frame_norm, self.weight, self.order, self.batch_size = frame_norm, weight, order, batch_size
        self.draws, self.bootstrap_draws, self.match_repeats, self.seed = draws, bootstrap_draws, match_repeats, seed
        self.num_animals, self.null_effects, self.null_worlds = num_animals, null_effects, null_worlds

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        entries = [entry for run in self.runs for entry in read_entries(run)] or self._collect(task, source)
        kept = entries_to_arrays(entries)
        days = list(dict.fromkeys(entry.day for entry in entries))
        if len(days) < 2:
            note = f"only the day '{days[0]}' is here: give the folders of other days' runs as evaluator.map_days.runs"
            return Result({}, arrays=kept, notes=[note])
        first = self.reference or (source.days[0] if source.days[0] in days else days[0])
        if first not in days:
            raise ValueError(f"reference='{first}' is not one of the days {', '.join(days)}")
        others = [day for day in days if day != first]
        if len(others) > 1:
            raise ValueError(f"two days are compared at a time; came {', '.join(days)}. Give the runs of two.")
        pair = (first, others[0])
        try:
            entries, framed, notes = comparable(entries, pair, self.align)
        except TooFewMaps as few:  # a young network's maps are dead; what else was measured is kept
            return Result({}, arrays=kept, notes=[str(few)])
        return self._compare(entries, framed, pair, source, kept, notes)

    def _collect(self, task: Any, source: Any) -> list[Entry]:
        """Every network's maps of every day it was trained on."""
        how = (self.part, self.which, self.method, str(self.layer), self.frame_norm)
        entries = []
        for network in networks_of(task):
            for day in source.days if network.day is None else [network.day]:
                view = source.of_day(day)
                collected = collect_maps(
                    network, view, self.part, self.method, self.layer, self.which, self.frame_norm, self.batch_size
                )
                entries.append(make_entry(collected, view, day, network, how, len(source.days)))
        return entries

    def _compare(
        self, entries: list[Entry], framed: list[Entry], pair: tuple[str, str], source: Any,
        kept: dict[str, np.ndarray], notes: list[str],
    ) -> Result:  # fmt: skip
        cells = [tuple(text.split("+")) if text else () for text in entries[0].cells]
        by_day = [[entry for entry in entries if entry.day == day] for day in pair]
        scope = "joint" if all(entry.joint for entry in entries) else "per_day"
        rows = [[entry.map_rows(self.weight) for entry in own] for own in by_day]
        levels, changes, drawn = self._change(rows, cells, scope)
        scalars = self._told("days", changes)
        sizes = {"days": (by_day, levels)}

        # Frames have every pattern, also those that some network has no map of.
        all_cells = [tuple(text.split("+")) if text else () for text in framed[0].cells]
        frames_by_day = [[entry for entry in framed if entry.day == day] for day in pair]
        has_none = not all_cells[-1]
        evoked: dict[str, Change] = {}
        patterned: dict[str, Change] = {}
        if has_none:
            # The frames are the same whichever network looks at them, up to the frames it names rightly.
            own_rows = [[own[0].evoked_rows(self.weight)] for own in frames_by_day]
            evoked_levels, evoked, _ = self._change(own_rows, all_cells[:-1], "frames")
            scalars |= self._told("days_evoked", evoked)
            sizes["days_evoked"] = ([own[:1] for own in frames_by_day], evoked_levels)
            pattern_levels, patterned = self._pattern_change(frames_by_day, all_cells[:-1], scope)
            scalars |= self._told("days_pattern", patterned)
            sizes["days_pattern"] = (by_day, pattern_levels)
        matrices = [np.mean([zncc_matrix(r.maps()) for r in own], axis=0) for own in rows]
        names = list(entries[0].names)
        scalars |= self._fixed_sizes(rows, cells)
        levels_table = _level_rows(sizes, pair)
        truth = self._truth(source, pair, entries[0], rows, cells)
        scalars |= truth

        cell_names = list(dict.fromkeys(cell for own in cells for cell in own))
        scores = {
            kind: [np.mean([make(zncc_matrix(r.maps()), cells, cell_names) for r in own], axis=0) for own in rows]
            for kind, make in (("direct", direct_scores), ("profile", profile_scores))
        }
        for kind, (before, after) in scores.items():
            scalars[f"days/{kind}_reference"], scalars[f"days/{kind}_day"] = _mean(before), _mean(after)
        scalars |= self._beyond_targets(rows, cells, source, entries[0])

        sentences = {
            name: describe_change(
                changes[name], WORDS[name], pair, entries[0].area or "area not named", self.num_animals,
                self.null_effects, self.null_worlds,
            )
            for name in TOLD
            if name in changes
        }  # fmt: skip
        notes = [sentences["zncc_sum"], *notes]
        notes += [sentences[name] for name in ("disjoint",) if name in sentences]
        if evoked:
            told = describe_change(
                evoked["zncc_sum"], "the ZNCC sum of evoked maps", pair,
                entries[0].area or "area not named", self.num_animals,
            )  # fmt: skip
            notes.append(told)
            for name in ("zncc_sum", "disjoint"):
                if name in patterned:
                    told = describe_change(
                        patterned[name], f"{WORDS[name]}, of activation patterns,", pair,
                        entries[0].area or "area not named", self.num_animals,
                    )  # fmt: skip
                    notes.append(told)
        notes += self._warnings(changes, scope, scalars)
        order = order_rows(matrices[0], names, self.order)
        seeds = [[entry.seed for entry in own] for own in by_day]
        figures: dict[str, Figure] = {
            "matrices": draw.day_matrices([m[np.ix_(order, order)] for m in matrices], [names[i] for i in order], pair),
            "cells": draw.cell_scores(scores, cell_names, pair),
            "change": draw.change(changes, drawn, levels, pair, seeds),
        }
        if source.cells.positions_px is not None and set(cell_names) <= set(source.cells.names):
            figures["clusters"] = draw.clusters(scores["direct"], cell_names, source, pair)
        return Result(
            scalars=scalars,
            figures=figures,
            tables={
                "changes": _change_rows({"network": changes, "evoked": evoked, "activation pattern": patterned}),
                "levels": levels_table,
            },
            arrays={
                **kept,
                "names": np.array(names),
                "matrix_reference": matrices[0],
                "matrix_day": matrices[1],
                **{f"{kind}_{k}": m for kind, both in scores.items() for k, m in zip("ab", both, strict=True)},
            },
            notes=notes,
        )

    def _change(
        self, rows: list[list[TrialRows]], cells: Sequence[Sequence[str]], scope: str
    ) -> tuple[list[np.ndarray], dict[str, Change], dict[str, np.ndarray]]:
        """Levels (S, K) of both days, a `Change` per statistic, and the drawn changes of the first networks."""
        named = statistic_weights(cells)
        weights = np.stack(list(named.values()))
        levels = [np.stack([statistics(r.maps()[None], weights)[0] for r in own]) for own in rows]
        pairs = list(zip(*rows, strict=False))  # networks of one seed, or as many as both days have
        outcomes = [permute_trials(a, b, weights, self.draws, self.seed + i) for i, (a, b) in enumerate(pairs)]
        low, high = percentile_interval(
            bootstrap_change(rows[0], rows[1], weights, self.bootstrap_draws, self.seed, scope != "per_day")
        )
        changes = self._changes(named, levels, outcomes, (low, high), scope)
        return levels, changes, {name: outcomes[0].drawn[:, k] for k, name in enumerate(named)}

    def _pattern_change(
        self, by_day: list[list[Entry]], cells: Sequence[Sequence[str]], scope: str
    ) -> tuple[list[np.ndarray], dict[str, Change]]:
        """The same for the networks' activation patterns."""
        named = statistic_weights(cells)
        weights = np.stack(list(named.values()))
        labels = by_day[0][0].labels()
        trials = [[entry.answers for entry in own] for own in by_day]
        levels = [np.stack([level_of(t, labels, weights) for t in own]) for own in trials]
        outcomes = [
            permute_pattern_trials(a, b, labels, weights, self.draws, self.seed + i)
            for i, (a, b) in enumerate(zip(*trials, strict=False))
        ]
        drawn = bootstrap_pattern_change(
            trials[0], trials[1], labels, weights, self.bootstrap_draws, self.seed, scope == "joint"
        )
        low, high = percentile_interval(drawn)
        return levels, self._changes(named, levels, outcomes, (low, high), scope)

    def _changes(
        self,
        named: dict[str, np.ndarray],
        levels: list[np.ndarray],
        outcomes: list[Permutation],
        ends: tuple[np.ndarray, np.ndarray],
        scope: str,
    ) -> dict[str, Change]:
        return {
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

    def _told(self, prefix: str, changes: dict[str, Change]) -> dict[str, float]:
        """The summary's numbers: of the sum and the declared statistics, the latter also with Holm's correction."""
        told: dict[str, float] = {}
        declared = holm({name: changes[name].p for name in DECLARED if name in changes})
        for name in TOLD:
            if name not in changes:
                continue
            change = changes[name]
            told |= {
                f"{prefix}/{name}_reference": float(change.reference.mean()),
                f"{prefix}/{name}_day": float(change.day.mean()),
                f"{prefix}/{name}_change": change.size,
                f"{prefix}/{name}_percent": change.percent,
                f"{prefix}/{name}_low": change.interval[0],
                f"{prefix}/{name}_high": change.interval[1],
                f"{prefix}/{name}_p_trial": float(np.median(change.p_trial)),
                f"{prefix}/{name}_p_seed": change.p_seed,
                f"{prefix}/{name}_p": change.p,
                f"{prefix}/{name}_effect": float(find_effect(change, self.null_effects, self.null_worlds)[0]),
                f"{prefix}/{name}_networks_p05": float(np.count_nonzero(change.p_trial < 0.05)),
                f"{prefix}/{name}_networks_rose": float(np.count_nonzero(_paired_difference(change) > 0)),
            }
            if name in declared:
                told[f"{prefix}/{name}_p_holm"] = declared[name]
        told[f"{prefix}/networks"] = float(len(next(iter(changes.values())).p_trial))
        return told

    def _fixed_sizes(self, rows: list[list[TrialRows]], cells: Sequence[Sequence[str]]) -> dict[str, float]:
        """Change with as many trials per pattern on both days."""
        named = statistic_weights(cells)
        weights = np.stack(list(named.values()))
        differences = []
        for a, b in zip(*rows, strict=False):
            before, after = match_counts(a, b, weights, self.match_repeats, self.seed)
            differences.append(after - before)
        matched = dict(zip(named, np.mean(differences, axis=0), strict=True))
        return {f"days/{name}_change_matched": float(matched[name]) for name in TOLD if name in matched}

    def _truth(
        self, source: Any, pair: tuple[str, str], entry: Entry, rows: list[list[TrialRows]],
        cells: Sequence[Sequence[str]],
    ) -> dict[str, float]:  # fmt: skip
        """Simulated data: how much the true statistics change, and how well each day's matrix agrees with its truth."""
        if not set(pair) <= set(source.truths):
            return {}
        size, all_names = entry.mask.shape, [pattern.name for pattern in source.patterns]
        chosen = [all_names.index(name) for name in entry.names]
        images = [pool_images(source.truths[day].evoked[chosen], size)[:, entry.mask] for day in pair]
        shown = [i for i, own in enumerate(cells) if own]  # "none" is black in truth
        named = statistic_weights([cells[i] for i in shown])
        weights = np.stack(list(named.values()))
        before, after = (statistics(image[None, shown], weights)[0] for image in images)
        told: dict[str, float] = {}
        for k, name in enumerate(named):
            if name in TOLD:
                told[f"days_truth/{name}_reference"] = float(before[k])
                told[f"days_truth/{name}_day"] = float(after[k])
                told[f"days_truth/{name}_change"] = float(after[k] - before[k])
        for label, own, image in zip(("reference", "day"), rows, images, strict=True):
            true = zncc_matrix(image)
            agreement = [compare_matrices(zncc_matrix(r.maps()), true, cells) for r in own]
            for key in agreement[0]:
                told[f"days/{key}_{label}"] = float(np.mean([found[key] for found in agreement]))
        return told

    def _beyond_targets(
        self, rows: list[list[TrialRows]], cells: Sequence[Sequence[str]], source: Any, entry: Entry
    ) -> dict[str, float]:
        """Mean ZNCC of disjoint pairs over positions away from either pattern's targets, on both days."""
        positions, radius = source.cells.positions_px, source.cells.radius_px
        if positions is None or "disjoint" not in statistic_weights(cells):
            return {}
        scale = np.array(entry.mask.shape) / np.array(source.mask.shape)
        reach = max(1.0, 1.5 * float(np.mean(radius)) * scale.mean() if radius is not None else 1.0)
        places = (positions + 0.5) * scale - 0.5
        hidden = disc_maps(cells, source.cells.names, places, reach, entry.mask.shape)[:, entry.mask]
        disjoint = statistic_weights(cells)["disjoint"]
        told: dict[str, float] = {}
        for label, own in zip(("reference", "day"), rows, strict=True):
            values = [zncc_outside(r.maps(), hidden)[0] for r in own]
            told[f"days/disjoint_beyond_targets_{label}"] = float(
                np.mean([np.nanmean(np.where(disjoint > 0, z, np.nan)) for z in values])
            )
        told["days/disjoint_beyond_targets_change"] = (
            told["days/disjoint_beyond_targets_day"] - told["days/disjoint_beyond_targets_reference"]
        )
        return told

    def _warnings(self, changes: dict[str, Change], scope: str, scalars: dict[str, float]) -> list[str]:
        notes = []
        change = changes["zncc_sum"]
        if scope == "per_day":
            spread = max(float(np.ptp(change.reference)), float(np.ptp(change.day)))
            notes.append(
                f"one network per day: the change of the sum is {change.size:+.3g}, networks of one day differ by up "
                f"to {spread:.3g}; the p over trials is conditional on the networks"
            )
            fewest = min(len(change.reference), len(change.day))
            if fewest < 4:
                notes.append(
                    f"{fewest} network(s) per day: the p over networks cannot fall below 0.05, so no effect can be "
                    "called; train 4 or more (dataset.network_seeds)"
                )
        if self.null_worlds == 0:
            notes.append("how often a world without an effect gives one is not given (null_effects, null_worlds)")
        matched = scalars["days/zncc_sum_change_matched"]
        if np.sign(matched) != np.sign(change.size):
            notes.append(f"with equal numbers of trials the change of the sum is {matched:+.3g}: its sign depends on n")
        return notes


class TooFewMaps(ValueError):
    """Nothing to compare: the networks' maps are empty."""


def comparable(
    entries: Sequence[Entry], pair: tuple[str, str], align: str | None
) -> tuple[list[Entry], list[Entry], list[str]]:
    """Entries with the patterns that all have a map of, with those that all have frames of, and what was dropped.

    Raises:
        ValueError: if anything but the patterns differs, or the patterns do and `align` is None.
        TooFewMaps: if fewer than three patterns have a map on both days.
    """
    notes = []
    first = next(entry for entry in entries if entry.day == pair[0])
    names = first.present()
    for entry in entries:
        settings, expected = entry.settings(), first.settings()
        if align == "intersection":
            del settings["patterns"], expected["patterns"], settings["cells"], expected["cells"]
            kept, _, dropped = align_patterns(names, entry.present())
            if dropped:
                notes.append(f"patterns only one of the days has are left out: {', '.join(dropped)}")
            names = [names[i] for i in kept]
        check_comparable(expected, settings)
    common = {}
    for kind in ("maps", "frames"):
        usable = set.intersection(*(set(entry.usable(kind)) for entry in entries))
        common[kind] = [name for name in names if name in usable]
    without = [name for name in names if name not in common["maps"]]
    if without:
        notes.append(
            f"{len(without)} pattern(s) without a map by some network are left out on both days: {', '.join(without)}"
        )
    if len(common["maps"]) < 3:
        raise TooFewMaps(
            f"{len(common['maps'])} pattern(s) have a map on both days; a comparison needs three or more. Train "
            "longer, or set evaluator.map_days.which=all"
        )
    mapped, framed = ([entry.keep(common[kind]) for entry in entries] for kind in ("maps", "frames"))
    return mapped, framed, list(dict.fromkeys(notes))


def _paired_difference(change: Change) -> np.ndarray:
    n = min(len(change.reference), len(change.day))
    return change.day[:n] - change.reference[:n]


def _mean(scores: np.ndarray) -> float:
    upper = scores[np.triu_indices(len(scores), 1)]
    return float(np.nanmean(upper)) if np.isfinite(upper).any() else float("nan")


def _level_rows(
    sizes: dict[str, tuple[list[list[Entry]], list[np.ndarray]]], pair: tuple[str, str]
) -> list[dict[str, Any]]:
    """One row per method, day and network."""
    rows = []
    for method, (entries, levels) in sizes.items():
        cells = [tuple(text.split("+")) if text else () for text in entries[0][0].cells]
        names = list(statistic_weights(cells if method == "days" else cells[:-1]))
        for day, own, values in zip(pair, entries, levels, strict=True):
            for entry, value in zip(own, values, strict=True):
                found = dict(zip(names, value.tolist(), strict=True))
                known = {name: found.get(name, float("nan")) for name in STATISTICS}
                rows.append({"maps": KINDS[method], "day": day, "seed": entry.seed} | known)
    return rows


def _change_rows(by_method: dict[str, dict[str, Change]]) -> list[dict[str, Any]]:
    return [
        {
            "maps": maps,
            "statistic": name,
            "reference": float(change.reference.mean()),
            "day": float(change.day.mean()),
            "change": change.size,
            "percent": change.percent,
            "low": change.interval[0],
            "high": change.interval[1],
            "p_trial": float(np.median(change.p_trial)),
            "p_seed": change.p_seed,
            "p": change.p,
            "declared": name in DECLARED,
        }
        for maps, found in by_method.items()
        for name, change in found.items()
    ]
