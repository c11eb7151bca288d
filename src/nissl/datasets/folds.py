"""Stratified, seeded folds: which cells train, validate and test."""

from __future__ import annotations

import numpy as np


def stratified_folds(labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Fold of each item, (N,), 0 to num_folds - 1; each class spread as evenly as its size allows.

    Each class is shuffled and dealt out in turn, starting where the class before stopped, so that fold sizes differ by
    at most one.

    Args:
        labels: class of each item, (N,) integer.
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), np.int64)
    start = 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        fold[members] = (start + np.arange(len(members))) % num_folds
        start += len(members)
    return fold


def split_by_folds(
    labels: np.ndarray, num_folds: int, val_fold: int, test_fold: int | None, seed: int
) -> dict[str, np.ndarray]:
    """Indices of `train`, `val` and `test`; without a test fold (a separate test set exists) `test` is empty."""
    if num_folds < 3:
        raise ValueError(f"dataset.num_folds must be at least 3 (train, val, test), came {num_folds}")
    for name, fold in (("val_fold", val_fold), ("test_fold", test_fold)):
        if fold is not None and not 0 <= fold < num_folds:
            raise ValueError(f"dataset.{name} must be 0 to {num_folds - 1}, came {fold}")
    if val_fold == test_fold:
        raise ValueError(f"dataset.val_fold and dataset.test_fold are both {val_fold}; they must differ")
    fold_of = stratified_folds(labels, num_folds, seed)
    test = np.zeros(len(labels), bool) if test_fold is None else fold_of == test_fold
    val = fold_of == val_fold
    return {
        "train": np.flatnonzero(~val & ~test),
        "val": np.flatnonzero(val),
        "test": np.flatnonzero(test),
    }
