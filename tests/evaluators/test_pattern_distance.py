"""Distance taken out of ZNCC."""

from itertools import combinations

import numpy as np
import pytest

from nissl.evaluators.pattern_distance import (
    correlate_with_distance,
    disc_maps,
    disjoint_pairs,
    partial_mantel,
    remove_distance,
    target_distances,
    zncc_outside,
)
from nissl.evaluators.zncc import zncc_matrix

CELLS = ["1", "2", "3", "4", "5"]
SETS = [(c,) for c in CELLS] + list(combinations(CELLS, 2)) + [()]
CONDITIONS = [""] * len(SETS)
PLACES = np.random.default_rng(3).uniform(0, 200, size=(5, 2))


def noise(seed: int) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(len(SETS), len(SETS)))
    return matrix + matrix.T


def test_distances_of_pairs_by_hand() -> None:
    mean, smallest = target_distances([("a",), ("b", "c"), ()], ["a", "b", "c"], np.array([[0.0, 0], [3, 4], [0, 1]]))
    assert mean[0, 1] == 3 and smallest[0, 1] == 1
    assert np.isnan(mean[2]).all()


def test_discs_cover_their_targets() -> None:
    discs = disc_maps([("a",), ("a", "b"), ()], ["a", "b"], np.array([[1, 1], [4, 4]]), 1.0, (6, 6))
    assert discs.sum(axis=(1, 2)).tolist() == [5, 10, 0]
    assert discs[0, 1, 2] and not discs[0, 2, 2]


def test_zncc_made_of_distance_leaves_nothing() -> None:
    distance, smallest = target_distances(SETS, CELLS, PLACES)
    overlap = noise(0)
    chosen = disjoint_pairs(SETS)
    z = 0.3 - 0.001 * distance + 0.5 * overlap
    left, _ = remove_distance(z, distance, overlap, chosen)
    assert np.abs(left[chosen]).max() < 1e-10 and np.isnan(left[~(chosen | chosen.T)]).all()
    decayed, length = remove_distance(np.exp(-distance / 60) + 0.001 * noise(1), distance, overlap, chosen)
    assert 40 < length < 90 and np.abs(np.nanmean(decayed)) < 1e-12
    rank = correlate_with_distance(-distance, {"mean_um": distance, "smallest_um": smallest}, chosen)
    assert rank["mean_um"] == pytest.approx(-1) and rank["smallest_um"] < 0


def test_too_few_pairs_for_distance_are_refused() -> None:
    distance = noise(0)
    with pytest.raises(ValueError, match="0 defined pairs are too few"):
        remove_distance(noise(1), distance, noise(2), np.zeros_like(distance, dtype=bool))


def test_a_partial_correlation_ignores_what_the_regressor_explains() -> None:
    distance, _ = target_distances(SETS, CELLS, PLACES)
    z, truth = distance / 50 + 0.3 * noise(1), distance / 50 + 0.3 * noise(2)
    plain, _ = partial_mantel(z, truth, [], SETS, CONDITIONS, 120, 0)
    given, p = partial_mantel(z, truth, [distance], SETS, CONDITIONS, 120, 0)
    assert plain > 0.5 and abs(given) < 0.5 and p > 0.05


def test_equal_matrices_correlate_fully_with_the_smallest_p() -> None:
    z = noise(4)
    r, p = partial_mantel(z, z, [], SETS, CONDITIONS, 120, 0)  # 5! = 120: every exchange once
    assert r == pytest.approx(1) and p == pytest.approx(1 / 120)
    assert partial_mantel(z, z, [], SETS, CONDITIONS, 50, 0)[1] <= 3 / 51


def test_incomplete_designs_cannot_exchange_cells() -> None:
    keep = [i for i in range(len(SETS)) if i != 5]
    z = noise(4)[np.ix_(keep, keep)]
    with pytest.raises(ValueError, match=r"no pattern 1\+2"):
        partial_mantel(z, z, [], [SETS[i] for i in keep], [""] * len(keep), 120, 0)


def test_zncc_outside_discs_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    maps, excluded = rng.normal(size=(6, 50)) + 1e3, rng.random((6, 50)) < 0.3
    matrix, left = zncc_outside(maps, excluded)
    for p, q in combinations(range(6), 2):
        both = ~excluded[p] & ~excluded[q]
        assert matrix[p, q] == pytest.approx(np.corrcoef(maps[p, both], maps[q, both])[0, 1], abs=1e-9)
        assert left[p, q] == both.sum()
    assert np.array_equal(matrix, matrix.T) and np.all(np.diag(matrix) == 1)


def test_with_nothing_excluded_it_is_zncc() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 30))
    assert np.abs(zncc_outside(maps, np.zeros_like(maps, dtype=bool))[0] - zncc_matrix(maps)).max() < 1e-12


def test_constant_or_empty_remains_are_undefined() -> None:
    maps = np.array([[1.0, 2, 3, 9], [4, 1, 2, 2], [5, 5, 5, 7]])
    excluded = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    matrix, _ = zncc_outside(maps, excluded)
    assert not np.isnan(matrix[0, 1]) and np.isnan(matrix[2]).all()
    assert np.isnan(zncc_outside(maps, np.ones((3, 4), dtype=bool))[0]).all()
    with pytest.raises(ValueError, match="must have one shape"):
        zncc_outside(maps, excluded[:2])
