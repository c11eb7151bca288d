"""Every reading of "correct" for multi-hot labels, with what a constant and a random answer would score.

For a frame: T the label set, A the strongest output, P the outputs with probability above 0.5, K the |T| strongest.
The source presentation's rule is lenient: A in T. With pairs in the design, no single answer names both cells, so a
cell's recall by A alone cannot average above the mean of 1 / |T| (0.5625 for all singles and pairs of 8 cells): that
ceiling stands beside the recalls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from nissl.evaluators.rate_intervals import wilson_interval


@dataclass(frozen=True)
class Predictions:
    """What a network said about F frames.

    Attributes:
        logits: (F, C).
        labels: (F, C), 0 or 1, at least one 1 a row.
        pattern: (F,) row of the frame's pattern.
        trial: (F,) trial that owns the frame.
        since_onset: (F,) frames since the trial's onset.
        has_none: whether the last output means "no stimulation".
    """

    logits: np.ndarray
    labels: np.ndarray
    pattern: np.ndarray
    trial: np.ndarray
    since_onset: np.ndarray
    has_none: bool

    @cached_property
    def answer(self) -> np.ndarray:
        """A: the strongest output, (F,)."""
        return self.logits.argmax(axis=1)

    @cached_property
    def probability(self) -> np.ndarray:
        """(F, C)."""
        return 1 / (1 + np.exp(-self.logits.astype(np.float64)))

    @cached_property
    def predicted(self) -> np.ndarray:
        """P: probability above 0.5, (F, C) bool."""
        return self.logits > 0

    @cached_property
    def top(self) -> np.ndarray:
        """K: as many of the strongest outputs as the label has, (F, C) bool."""
        rank = (-self.logits).argsort(axis=1, kind="stable").argsort(axis=1)
        return rank < self.labels.sum(axis=1, keepdims=True)

    @cached_property
    def lenient(self) -> np.ndarray:
        """Whether A is in T, (F,) float."""
        return np.take_along_axis(self.labels, self.answer[:, None], axis=1)[:, 0].astype(float)

    @cached_property
    def none(self) -> np.ndarray:
        """Frames without stimulation, (F,) bool."""
        return self.labels[:, -1] > 0 if self.has_none else np.zeros(len(self.labels), dtype=bool)

    @cached_property
    def trial_pattern(self) -> np.ndarray:
        """The stimulated pattern of the frame's trial, (F,); the frame's own where the trial has none."""
        trials, member = np.unique(self.trial, return_inverse=True)
        played = np.full(len(trials), -1)
        played[member[~self.none]] = self.pattern[~self.none]
        return np.where(played[member] >= 0, played[member], self.pattern)


def accuracy_card(p: Predictions) -> dict[str, float]:
    """All accuracies of a part, name -> value in [0, 1]; NaN where a kind of frame does not occur."""
    true = p.labels > 0
    both, either = (true & p.predicted).sum(axis=1), (true | p.predicted).sum(axis=1)
    size = true.sum(axis=1)
    strata = [group for group in (p.none, ~p.none & (size == 1), ~p.none & (size > 1)) if group.any()]
    return {
        "accuracy_lenient": _mean(p.lenient),
        "accuracy_strict": _mean((p.top == true).all(axis=1)),
        "accuracy_exact": _mean((p.predicted == true).all(axis=1)),
        "accuracy_balanced": _mean([p.lenient[p.pattern == row].mean() for row in np.unique(p.pattern)]),
        "accuracy_balanced_strata": _mean([p.lenient[group].mean() for group in strata]),
        "accuracy_stimulated": _mean(p.lenient[~p.none]),
        "accuracy_trial": trial_accuracy(p),
        "recall_topk": _mean((p.top & true).sum(axis=1) / size),
        "jaccard": _mean(both / either.clip(1)),
        "any_overlap": _mean(both > 0),
        "mean_predicted": _mean(p.predicted.sum(axis=1)),
        "none_recall": _mean(p.lenient[p.none]),
        "none_share": _mean(p.none),
        "majority": float(true.mean(axis=0).max()) if len(true) else float("nan"),
        "chance": _mean(size / true.shape[1]),
        "auroc_macro": _macro(roc_auc_score, p),
        "ap_macro": _macro(average_precision_score, p),
        "calibration_error": calibration_error(p.probability, true),
    }


def trial_accuracy(p: Predictions) -> float:
    """Share of trials whose logits, averaged over stimulated frames, are right by the lenient rule.

    Where a trial shows several patterns (blocks of a covariate), each pattern's frames are averaged on their own.
    """
    hits = []
    for trial, pattern in np.unique(np.stack([p.trial, p.pattern], axis=1)[~p.none], axis=0):
        frames = (p.trial == trial) & (p.pattern == pattern)
        hits.append(p.labels[frames][0][p.logits[frames].mean(axis=0).argmax()])
    return _mean(hits)


def calibration_error(probability: np.ndarray, true: np.ndarray, bins: int = 15) -> float:
    """Mean distance of stated probability and observed frequency, all outputs pooled, equal bins, by bin size."""
    which = (probability * bins).astype(int).clip(0, bins - 1).ravel()
    stated = np.bincount(which, weights=probability.ravel(), minlength=bins)
    observed = np.bincount(which, weights=true.ravel().astype(float), minlength=bins)
    return float(np.abs(stated - observed).sum() / true.size) if true.size else float("nan")


def cell_recalls(p: Predictions, names: list[str]) -> list[dict[str, float | str]]:
    """One row per cell: recall under each reading, split by single and pair, with intervals.

    `*_low`, `*_high`: Wilson over trials (a trial is right when most of its frames are). `top1_naive_*`: over frames,
    as if they were independent, for comparison.
    """
    num_cells = len(names) - 1 if p.has_none else len(names)
    size = p.labels.sum(axis=1)
    rows: list[dict[str, float | str]] = []
    for c in range(num_cells):
        own = p.labels[:, c] > 0
        readings = {
            "top1": p.answer == c,
            "topk": p.top[:, c],
            "sigmoid": p.predicted[:, c],
            "lenient": p.lenient > 0,
        }
        row: dict[str, float | str] = {
            "cell": names[c],
            "num_frames": int(own.sum()),
            "num_trials": len(np.unique(p.trial[own])),
        }
        for name, hit in readings.items():
            right, trials = _trials_right(hit[own], p.trial[own])
            row[name] = _mean(hit[own])
            row[f"{name}_low"], row[f"{name}_high"] = wilson_interval(right, trials)
        row["top1_naive_low"], row["top1_naive_high"] = wilson_interval(float((p.answer[own] == c).sum()), own.sum())
        row["top1_single"] = _mean(p.answer[own & (size == 1)] == c)
        row["top1_pair"] = _mean(p.answer[own & (size > 1)] == c)
        row["topk_pair"] = _mean(p.top[own & (size > 1), c])
        row["precision_sigmoid"] = _mean(own[p.predicted[:, c]])
        row["false_alarm_sigmoid"] = _mean(p.predicted[~own, c])
        row["ceiling_top1"] = _mean(1 / size[own])
        rows.append(row)
    return rows


def confusion_counts(p: Predictions, num_patterns: int) -> np.ndarray:
    """Frames of each true pattern (rows) by the strongest output (columns): (P, C)."""
    counts = np.zeros((num_patterns, p.logits.shape[1]), dtype=int)
    np.add.at(counts, (p.pattern, p.answer), 1)
    return counts


def accuracy_by_frame(p: Predictions) -> list[dict[str, float]]:
    """Lenient accuracy against frames since onset; frames before onset are idle."""
    rows = []
    for since in np.unique(p.since_onset):
        hit = p.lenient[p.since_onset == since]
        low, high = wilson_interval(hit.sum(), len(hit))
        rows.append(
            {"frame_since_onset": int(since), "accuracy_lenient": _mean(hit), "low": low, "high": high, "n": len(hit)}
        )
    return rows


def _trials_right(hit: np.ndarray, trial: np.ndarray) -> tuple[float, int]:
    """(trials with most frames right, trials)."""
    if len(hit) == 0:
        return 0.0, 0
    _, member = np.unique(trial, return_inverse=True)
    share = np.bincount(member, weights=hit) / np.bincount(member)
    return float((share > 0.5).sum()), len(share)


def _macro(score: object, p: Predictions) -> float:
    """Mean over the outputs that occur and do not always occur."""
    true = p.labels > 0
    mixed = [c for c in range(true.shape[1]) if 0 < true[:, c].sum() < len(true)]
    return _mean([score(true[:, c], p.logits[:, c]) for c in mixed])  # type: ignore[operator]


def _mean(values: object) -> float:
    array = np.asarray(values, dtype=float)
    return float(array.mean()) if array.size else float("nan")
