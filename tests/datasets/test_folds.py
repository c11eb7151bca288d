import numpy as np
import pytest

from nissl.datasets.folds import split_by_folds, stratified_folds


def test_every_class_is_spread_evenly_over_folds_of_equal_size() -> None:
    labels = np.repeat([0, 1, 2], [20, 13, 7])
    fold = stratified_folds(labels, 5, seed=0)
    for c in range(3):
        counts = np.bincount(fold[labels == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 1


def test_splits_are_disjoint_complete_and_seeded() -> None:
    labels = np.repeat([0, 1], 15)
    a, b, c = (split_by_folds(labels, 5, 1, 0, seed) for seed in (0, 0, 1))
    assert sorted(np.concatenate(list(a.values())).tolist()) == list(range(30))
    assert all(np.array_equal(a[k], b[k]) for k in a) and not np.array_equal(a["test"], c["test"])


def test_without_a_test_fold_nothing_is_held_out_for_testing() -> None:
    parts = split_by_folds(np.zeros(20, int), 5, 0, None, 0)
    assert len(parts["test"]) == 0 and len(parts["val"]) == 4


@pytest.mark.parametrize(("folds", "val", "test"), [(2, 0, 1), (5, 5, 0), (5, 1, -1), (5, 2, 2)])
def test_impossible_folds_are_errors(folds: int, val: int, test: int) -> None:
    with pytest.raises(ValueError, match="dataset\\."):
        split_by_folds(np.zeros(20, int), folds, val, test, 0)
