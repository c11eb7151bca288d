"""Bootstrap intervals of plain and balanced accuracy of cell types, over cells and stratified by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """Plain and balanced accuracy (mean recall over classes) with 95 % percentile intervals; higher is better."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    balanced_accuracy_low: float
    balanced_accuracy_high: float


def bootstrap_accuracy(correct: np.ndarray, labels: np.ndarray, num_resamples: int, seed: int) -> Accuracy:
    """Accuracy of per-cell scores.

    Args:
        correct: (n,) or (methods, n): 1 where right, 0 where wrong; a mean over several runs may lie between.
        labels: class of each cell, (n,).
    """
    plain, balanced = bootstrap_means(correct[None], labels, num_resamples, seed)
    low_high = [np.percentile(values[0], [2.5, 97.5]) for values in (plain, balanced)]
    recalls = [correct[labels == c].mean() for c in np.unique(labels)]
    return Accuracy(
        float(correct.mean()),
        float(low_high[0][0]),
        float(low_high[0][1]),
        float(np.mean(recalls)),
        float(low_high[1][0]),
        float(low_high[1][1]),
    )


def bootstrap_means(
    scores: np.ndarray, labels: np.ndarray, num_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Resampled plain and balanced means of scores (rows, n), each (rows, num_resamples).

    All rows see the same resampled cells, so that differences between rows are paired.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    plain = np.zeros((len(scores), num_resamples))
    balanced = np.zeros((len(scores), num_resamples))
    for c in classes:
        members = scores[:, labels == c]
        drawn = rng.integers(0, members.shape[1], size=(num_resamples, members.shape[1]))
        means = np.stack([row[drawn].mean(axis=1) for row in members])
        plain += means * members.shape[1] / len(labels)
        balanced += means / len(classes)
    return plain, balanced


def paired_difference(
    a: np.ndarray, b: np.ndarray, labels: np.ndarray, num_resamples: int, seed: int
) -> tuple[float, float, float, float]:
    """Difference a - b of balanced accuracy on the same cells: value, 95 % interval, two-sided bootstrap p.

    An interval that holds 0 is not a result.
    """
    _, balanced = bootstrap_means(np.stack([a, b]), labels, num_resamples, seed)
    difference = balanced[0] - balanced[1]
    low, high = np.percentile(difference, [2.5, 97.5])
    value = np.mean([(a - b)[labels == c].mean() for c in np.unique(labels)])
    tail = min((difference <= 0).mean(), (difference >= 0).mean())
    return float(value), float(low), float(high), float(min(1.0, max(2 * tail, 1 / num_resamples)))
