"""Did the maps' ZNCC change between two days? Every network of a run, or of several finished runs, and the sentence.

The source presentation reads one rise of the ZNCC sum (208.8 to 262.1), one network a day. Ours: change of the sum, of
the size-free means and of each class of pairs, with a permutation over trials, one over networks, and a bootstrap over
both; for the networks' maps, for their activation patterns and for evoked maps, which need no network; and without the
stimulated places themselves. The headline is about activation patterns unless told otherwise: in simulated worlds their
sum follows coupling and keeps still without it, which that of Grad-CAM does not (experiments/calcium_null).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
)
from nissl.evaluators.functional_connectivity import direct_scores, profile_scores
from nissl.evaluators.map_day_kinds import KINDS, TITLES, Compared, Resampling, compare_patterns, compare_rows
from nissl.evaluators.map_day_truth import agreement_note, beyond_targets, compare_with_truth
from nissl.evaluators.map_entries import Entry, entries_to_arrays, make_entry, networks_of, read_entries
from nissl.evaluators.pattern_maps import collect_maps
from nissl.evaluators.result import Figure, Result
from nissl.evaluators.trial_resampling import TrialRows, match_counts, statistic_weights
from nissl.evaluators.zncc import CLASSES, order_rows, zncc_matrix

TOLD = ("zncc_sum", *DECLARED)  # statistics with a full set of numbers in the summary
STATISTICS = ("zncc_sum", "mean_offdiag", *CLASSES, "singles")
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
        headline: what the first sentence and the figures of cells are about: pattern (activation patterns of the
            networks), network (their maps, made by `method`) or evoked (no network).
        part, which, method, layer, frame_norm, weight, order, batch_size: as in gradcam_zncc.
        draws: of the permutation of trials.
        bootstrap_draws: of the interval over trials and networks.
        match_repeats: subsamples when trials are matched between days.
        seed: of all draws.
        num_animals: for the sentence.
        null_effects: effects found in worlds without one: a number for the headline's maps, or one for each kind.
        null_worlds: how many were tried; 0 if none were.
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
        headline: str,
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
        null_effects: int | dict[str, int],
        null_worlds: int,
        batch_size: int,
    ) -> None:
        if align not in (None, "intersection"):
            raise ValueError(f"align='{align}' is unknown; choose null (refuse unequal patterns) or intersection")
        if order not in ("cell", "cluster"):
            raise ValueError(f"order='{order}' is unknown; choose cell or cluster")
        if headline not in KINDS:
            raise ValueError(f"headline='{headline}' is unknown; choose one of {', '.join(KINDS)}")
        given = {headline: null_effects} if isinstance(null_effects, int) else dict(null_effects)
        if unknown := sorted(set(given) - set(KINDS)):
            raise ValueError(f"null_effects names {', '.join(unknown)}; there are {', '.join(KINDS)}")
        self.runs, self.reference, self.align, self.headline = list(runs), reference, align, headline
        self.part, self.which, self.method, self.layer = part, which, method, layer
        self.frame_norm, self.weight, self.order, self.batch_size = frame_norm, weight, order, batch_size
        self.match_repeats, self.num_animals = match_repeats, num_animals
        self.resampling = Resampling(weight, draws, bootstrap_draws, seed)
        self.null = {kind: (given.get(kind, 0), null_worlds if kind in given else 0) for kind in KINDS}

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
        by_day = [[entry for entry in entries if entry.day == day] for day in pair]
        scope = "joint" if all(entry.joint for entry in entries) else "per_day"
        rows = [[entry.map_rows(self.weight) for entry in own] for own in by_day]
        compared = {"network": compare_rows("network", by_day, rows, scope, self.resampling)}
        # Frames have every pattern, also those that some network has no map of.
        frames_by_day = [[entry for entry in framed if entry.day == day] for day in pair]
        if not framed[0].cells[-1]:
            # The frames are the same whichever network looks at them, up to the frames it names rightly.
            first = [own[:1] for own in frames_by_day]
            evoked = [[entry.evoked_rows(self.weight) for entry in own] for own in first]
            compared["evoked"] = compare_rows("evoked", first, evoked, "frames", self.resampling)
            compared["pattern"] = compare_patterns(frames_by_day, scope, self.resampling)
        else:
            notes = [*notes, "evoked maps and activation patterns skipped: the data have no idle frames"]
        headline = compared.get(self.headline, compared["network"])

        scalars: dict[str, float] = {}
        for kind, own in compared.items():
            scalars |= self._told(KINDS[kind], own.changes, *self.null[kind])
        scalars |= self._fixed_sizes(rows, compared["network"])
        mask = entries[0].mask
        scalars |= compare_with_truth(compared, source, pair, mask)
        scalars |= beyond_targets(compared, source, mask)
        cell_names = list(dict.fromkeys(cell for own in headline.cells for cell in own))
        scores = {
            kind: _cell_scores(own, list(dict.fromkeys(cell for cells in own.cells for cell in cells)))
            for kind, own in compared.items()
        }
        for kind, own_scores in scores.items():
            for name, (before, after) in own_scores.items():
                scalars[f"{KINDS[kind]}/{name}_reference"] = _mean(before)
                scalars[f"{KINDS[kind]}/{name}_day"] = _mean(after)

        area = f"area {entries[0].area}" if entries[0].area else "area not named"
        sentences = self._sentences(compared, headline, pair, area)
        notes = [*sentences, *notes, *agreement_note(scalars, compared, pair, self.method)]
        notes += self._warnings(compared["network"].changes, scope, scalars)
        return Result(
            scalars=scalars,
            figures=self._figures(compared, headline, framed[0].names, pair, source, mask)
            | self._cell_figures(scores[headline.kind], cell_names, headline, pair, source),
            tables={"changes": _change_rows(compared), "levels": _level_rows(compared, pair)},
            arrays={
                **kept,
                "names": np.array(compared["network"].names),
                **_saved(compared, scores),
            },
            notes=notes,
        )

    def _sentences(
        self, compared: Mapping[str, Compared], headline: Compared, pair: tuple[str, str], area: str
    ) -> list[str]:
        """The headline first: sum and disjoint pairs of each kind of maps."""
        words = {"network": f"{self.method} maps", "evoked": "evoked maps", "pattern": "activation patterns"}
        told = []
        for own in (headline, *(other for other in compared.values() if other is not headline)):
            for name in ("zncc_sum", "disjoint"):
                if name in own.changes:
                    comma = "" if name == "zncc_sum" else ","
                    what = f"{WORDS[name]}{comma} of {words[own.kind]}{comma}"
                    null = self.null[own.kind] if name == "zncc_sum" else (0, 0)
                    told.append(describe_change(own.changes[name], what, pair, area, self.num_animals, *null))
        return told

    def _figures(
        self, compared: Mapping[str, Compared], headline: Compared, names: Sequence[str], pair: tuple[str, str],
        source: Any, mask: np.ndarray,
    ) -> dict[str, Figure]:  # fmt: skip
        """Matrices and change of every kind, the headline's first and in its order; maps over the mean image."""
        figures: dict[str, Figure] = {}
        shown = order_rows(headline.matrices()[0], headline.names, self.order)
        listed = [headline.names[i] for i in shown]
        listed = list(names) if self.order == "cell" else [*listed, *(name for name in names if name not in listed)]
        for own in (headline, *(other for other in compared.values() if other is not headline)):
            ending = "" if own is headline else f"_{own.kind}"
            wanted = [name for name in listed if name in names and (own.kind == "network" or name != "none")]
            matrices = [_spread(matrix, own.names, wanted) for matrix in own.matrices()]
            figures[f"matrices{ending}"] = draw.day_matrices(matrices, wanted, pair, TITLES[own.kind])
            figures[f"change{ending}"] = draw.change(
                own.changes, own.drawn, own.levels, pair, own.seeds, TITLES[own.kind]
            )
        if getattr(source, "mean_image", None) is not None:
            figures["maps"] = draw.day_maps(compared, pair, source, mask)
        return figures

    def _cell_figures(
        self, scores: dict[str, list[np.ndarray]], names: list[str], headline: Compared, pair: tuple[str, str],
        source: Any,
    ) -> dict[str, Figure]:  # fmt: skip
        figures = {"cells": draw.cell_scores(scores, names, pair)}
        if source.cells.positions_px is not None and set(names) <= set(source.cells.names):
            figures["clusters"] = draw.clusters(scores["direct"], names, source, pair)
        made = f" Made from {TITLES[headline.kind]}."
        return {name: replace(figure, caption=figure.caption + made) for name, figure in figures.items()}

    def _told(self, prefix: str, changes: dict[str, Change], null_effects: int, null_worlds: int) -> dict[str, float]:
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
                f"{prefix}/{name}_effect": float(find_effect(change, null_effects, null_worlds)[0]),
                f"{prefix}/{name}_networks_p05": float(np.count_nonzero(change.p_trial < 0.05)),
                f"{prefix}/{name}_networks_rose": float(np.count_nonzero(_paired_difference(change) > 0)),
                f"{prefix}/{name}_networks_rose_p05": float(
                    np.count_nonzero((change.p_trial < 0.05) & (_paired_difference(change) > 0))
                ),
            }
            if name in declared:
                told[f"{prefix}/{name}_p_holm"] = declared[name]
        told[f"{prefix}/networks"] = float(len(next(iter(changes.values())).p_trial))
        return told

    def _fixed_sizes(self, rows: list[list[TrialRows]], network: Compared) -> dict[str, float]:
        """Change with as many trials per pattern on both days."""
        named = statistic_weights(network.cells)
        weights = np.stack(list(named.values()))
        differences = []
        for a, b in zip(*rows, strict=False):
            before, after = match_counts(a, b, weights, self.match_repeats, self.resampling.seed)
            differences.append(after - before)
        matched = dict(zip(named, np.mean(differences, axis=0), strict=True))
        return {f"days/{name}_change_matched": float(matched[name]) for name in TOLD if name in matched}

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
        if not any(worlds for _, worlds in self.null.values()):
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


def _cell_scores(own: Compared, cells: list[str]) -> dict[str, list[np.ndarray]]:
    """Direct and profile scores (C, C) of both days, mean over networks."""
    matrices = [[zncc_matrix(image) for image in day] for day in own.images]
    return {
        name: [np.mean([make(matrix, own.cells, cells) for matrix in day], axis=0) for day in matrices]
        for name, make in (("direct", direct_scores), ("profile", profile_scores))
    }


def _spread(matrix: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """A matrix with its rows in the wanted order; NaN for those it has not."""
    at = [names.index(name) if name in names else -1 for name in wanted]
    padded = np.pad(matrix, (0, 1), constant_values=np.nan)
    return padded[np.ix_(at, at)]


def _saved(
    compared: Mapping[str, Compared], scores: Mapping[str, dict[str, list[np.ndarray]]]
) -> dict[str, np.ndarray]:
    """Matrices and scores of cells of every kind, by day."""
    saved: dict[str, np.ndarray] = {}
    for kind, own in compared.items():
        ending = "" if kind == "network" else f"_{kind}"
        for label, matrix in zip(("reference", "day"), own.matrices(), strict=True):
            saved[f"matrix_{label}{ending}"] = matrix
        for name, both in scores[kind].items():
            saved |= {f"{name}_{label}{ending}": m for label, m in zip(("reference", "day"), both, strict=True)}
    return saved


def _mean(scores: np.ndarray) -> float:
    upper = scores[np.triu_indices(len(scores), 1)]
    return float(np.nanmean(upper)) if np.isfinite(upper).any() else float("nan")


def _level_rows(compared: Mapping[str, Compared], pair: tuple[str, str]) -> list[dict[str, Any]]:
    """One row per kind of maps, day and network."""
    rows = []
    for own in compared.values():
        names = list(own.changes)
        for day, seeds, values in zip(pair, own.seeds, own.levels, strict=True):
            for seed, value in zip(seeds, values, strict=True):
                found = dict(zip(names, value.tolist(), strict=True))
                known = {name: found.get(name, float("nan")) for name in STATISTICS}
                rows.append({"maps": _word(own.kind), "day": day, "seed": seed} | known)
    return rows


def _word(kind: str) -> str:
    return "activation pattern" if kind == "pattern" else kind


def _change_rows(compared: Mapping[str, Compared]) -> list[dict[str, Any]]:
    return [
        {
            "maps": _word(own.kind),
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
        for own in compared.values()
        for name, change in own.changes.items()
    ]
