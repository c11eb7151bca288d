"""Votes of the nearest cells, as plain functions: hard or soft votes, and k chosen on the training cells alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def knn_predict(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    k: int,
    metric: str,
    temperature: float | None = None,
) -> np.ndarray:
    """Class of each test row by the vote of its k nearest training rows.

    Args:
        temperature: None counts votes, ties as in scikit-learn (lowest class). A number weighs a vote by
            exp(cosine / temperature) (Wu et al. 2018, https://arxiv.org/abs/1805.01978) or, with another metric, by
            exp(-distance / (temperature * mean distance of the k)).
    """
    distance, index = nearest(train, test, k, metric)
    return votes(distance, train_labels[index], int(train_labels.max()) + 1, metric, temperature).argmax(axis=1)


def nearest(train: np.ndarray, test: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest training rows of each test row, (test, k) each, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(train).kneighbors(test)


def nearest_others(features: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest rows of each row, itself never among them, (n, k) each."""
    from sklearn.neighbors import NearestNeighbors

    # Without an argument scikit-learn leaves out the row itself, also where another row equals it.
    return NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(features).kneighbors()


def votes(
    distance: np.ndarray, labels: np.ndarray, num_classes: int, metric: str, temperature: float | None
) -> np.ndarray:
    """Votes for each class, (n, classes), from the neighbours' distances and labels, (n, k) each."""
    weight = np.ones_like(distance)
    if temperature is not None and metric == "cosine":
        weight = np.exp((1.0 - distance) / temperature)
    elif temperature is not None:
        scale = np.maximum(distance.mean(axis=1, keepdims=True), 1e-12)
        weight = np.exp(-distance / (temperature * scale))
    count = np.zeros((len(labels), num_classes))
    np.add.at(count, (np.arange(len(labels))[:, None], labels), weight)
    return count


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall over the classes of `labels`."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def choose_k(
    features: np.ndarray, labels: np.ndarray, candidates: Sequence[int], metric: str, temperature: float | None
) -> int:
    """The candidate with the best leave-one-out balanced accuracy on these (training) cells; ties: the smallest.

    Raises:
        ValueError: if no candidate is below the number of cells.
    """
    possible = sorted(k for k in candidates if k < len(features))
    if not possible:
        raise ValueError(f"every k of {list(candidates)} needs more than the {len(features)} training cells")
    if len(possible) == 1:
        return possible[0]
    distance, index = nearest_others(features, possible[-1], metric)
    num_classes = int(labels.max()) + 1
    scores = [
        balanced_accuracy(
            votes(distance[:, :k], labels[index[:, :k]], num_classes, metric, temperature).argmax(1), labels
        )
        for k in possible
    ]
    return possible[int(np.argmax(scores))]
