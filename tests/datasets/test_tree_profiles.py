"""Targets that a view is to tell about its cell."""

import numpy as np
import pytest

from nissl.datasets.tree_profiles import (
    NUM_BINS,
    NUM_SUMMARIES,
    PROFILE_COLUMNS,
    path_lengths,
    soft_histogram,
    tree_profiles,
)
from nissl.tasks import self_distillation


def cells(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    parent = np.array([-1, 0, 1, 2, 1, 4, 0])
    return [(rng.normal(0, 50, (7, 3)), parent) for _ in range(count)]


def test_path_lengths_of_a_y_are_those_along_its_arms() -> None:
    pos = np.array([[0, 0, 0], [0, 10, 0], [3, 14, 0], [-3, 14, 0]], float)
    np.testing.assert_allclose(path_lengths(pos, np.array([-1, 0, 1, 1])), [0, 10, 15, 15])


def test_a_soft_histogram_keeps_its_weight_and_its_place() -> None:
    counted = soft_histogram(np.array([1.0, 99.0, 500.0]), np.array([1.0, 2.0, 4.0]), 0.0, 100.0)
    assert counted.sum() == pytest.approx(7.0)
    assert counted[: NUM_BINS // 2].sum() == pytest.approx(1.0, abs=1e-3)


def test_rows_have_unit_length_on_average_and_blocks_equal_variance_in_each_source() -> None:
    trees, source = cells(12), np.repeat([0, 1], 6)
    trees[6:] = [(100.0 * pos, parent) for pos, parent in trees[6:]]
    profiles = tree_profiles(trees, source)
    assert profiles.shape == (12, PROFILE_COLUMNS) and profiles.dtype == np.float32
    for k in (0, 1):
        own = profiles[source == k]
        assert np.square(own).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-4)
        variance = own.var(axis=0)
        assert variance[:NUM_BINS].sum() == pytest.approx(variance[-NUM_SUMMARIES:].sum(), rel=1e-3)


def test_a_turn_about_y_changes_nothing_but_widths_in_x_and_z() -> None:
    trees = cells(5)
    turned = [(pos[:, [2, 1, 0]] * [1, 1, -1], parent) for pos, parent in trees]
    np.testing.assert_allclose(tree_profiles(trees, np.zeros(5)), tree_profiles(turned, np.zeros(5)), atol=1e-5)


def test_the_task_expects_as_many_columns_as_there_are() -> None:
    assert self_distillation.PROFILE_COLUMNS == PROFILE_COLUMNS
