"""Scores between cells from pattern maps, by hand and by loops."""

from itertools import combinations

import numpy as np
import pytest

from nissl.evaluators.functional_connectivity import (
    assess_named_set,
    consensus,
    cut_clusters,
    direct_scores,
    link_cells,
    profile_columns,
    profile_scores,
    silhouette,
    strong_pairs,
)
from nissl.evaluators.zncc import zncc_matrix

CELLS = [str(i) for i in range(1, 9)]
SETS = [(c,) for c in CELLS] + list(combinations(CELLS, 2))
TRIANGLE = np.full((8, 8), 0.1)  # cells 1, 4 and 6 belong together
for a, b in combinations((0, 3, 5), 2):
    TRIANGLE[a, b] = TRIANGLE[b, a] = 0.8
np.fill_diagonal(TRIANGLE, np.nan)


@pytest.mark.parametrize(("conditions", "columns"), [(1, 21), (3, 63)])
def test_profiles_have_the_columns_of_the_design(conditions: int, columns: int) -> None:
    patterns = SETS * conditions + [()]
    assert len(profile_columns(patterns, "1", "2")) == columns
    assert len(profile_columns(patterns, "1", "2", with_none=True)) == columns + 1


def test_direct_scores_are_means_over_conditions() -> None:
    matrix = np.array([[1, 0.5, 0.2, 0.4], [0.5, 1, 0.6, 0.8], [0.2, 0.6, 1, 0.9], [0.4, 0.8, 0.9, 1]])
    scores = direct_scores(matrix, [("1",), ("1",), ("2",), ("2",)], ["1", "2"])
    assert scores[0, 1] == scores[1, 0] == pytest.approx((0.2 + 0.4 + 0.6 + 0.8) / 4)
    assert np.isnan(np.diag(scores)).all()


def test_profiles_equal_a_plain_loop() -> None:
    matrix = zncc_matrix(np.random.default_rng(0).normal(size=(36, 20)))
    scores = profile_scores(matrix, SETS, CELLS)
    columns = [p for p, names in enumerate(SETS) if "2" not in names and "5" not in names]
    assert scores[1, 4] == pytest.approx(np.corrcoef(matrix[1, columns], matrix[4, columns])[0, 1])
    assert np.array_equal(scores, scores.T, equal_nan=True)


def test_a_missing_map_leaves_only_its_column_out_of_profiles() -> None:
    matrix = zncc_matrix(np.random.default_rng(0).normal(size=(36, 20)))
    matrix[20], matrix[:, 20] = np.nan, np.nan
    assert not np.isnan(profile_scores(matrix, SETS, CELLS)[np.triu_indices(8, 1)]).any()
    matrix[0], matrix[:, 0] = np.nan, np.nan
    assert np.isnan(profile_scores(matrix, SETS, CELLS)[0]).all() and np.isnan(direct_scores(matrix, SETS, CELLS)[0, 1])


def test_few_columns_are_no_profile() -> None:
    patterns = [(c,) for c in CELLS[:6]]
    assert np.isnan(
        profile_scores(zncc_matrix(np.random.default_rng(0).normal(size=(6, 9))), patterns, CELLS[:6])
    ).all()


def test_the_triangle_is_one_cluster_and_the_rest_are_alone() -> None:
    strict, loose = cut_clusters(TRIANGLE, [0.5, 0.05])
    assert len({strict[0], strict[3], strict[5]}) == 1 and len(set(strict)) == 6
    assert len(set(loose)) == 1
    assert link_cells(TRIANGLE).shape == (7, 4)
    assert strong_pairs(TRIANGLE, CELLS, 0.5) == [("1", "4", 0.8), ("1", "6", 0.8), ("4", "6", 0.8)]


def test_the_silhouette_of_a_clear_division_is_high_and_of_none_undefined() -> None:
    scores = np.full((4, 4), 0.0)
    scores[0, 1] = scores[1, 0] = scores[2, 3] = scores[3, 2] = 0.9
    assert silhouette(scores, np.array([1, 1, 2, 2])) == pytest.approx(0.9)
    assert np.isnan(silhouette(scores, np.ones(4))) and np.isnan(silhouette(scores, np.arange(4)))


def test_consensus_counts_draws() -> None:
    apart = np.full((8, 8), 0.1)
    share = consensus([TRIANGLE, TRIANGLE, apart], 0.5)
    assert share[0, 3] == pytest.approx(2 / 3) and share[0, 1] == 0 and np.all(np.diag(share) == 1)
    with pytest.raises(ValueError, match="no draws"):
        consensus([], 0.5)


def test_the_best_triple_of_56_has_p_one_in_56() -> None:
    outcome = assess_named_set(TRIANGLE, CELLS, ["1", "4", "6"])
    assert outcome["sets"] == 56 and outcome["p"] == pytest.approx(1 / 56)
    assert outcome["inside"] == pytest.approx(0.8) and outcome["outside"] == pytest.approx(0.1)
    assert assess_named_set(TRIANGLE, CELLS, ["2", "3", "5"])["p"] == 1


@pytest.mark.parametrize("named", [["1"], ["1", "1"], ["1", "9"], CELLS])
def test_malformed_sets_are_refused(named: list[str]) -> None:
    with pytest.raises(ValueError, match="a set names 2 to 7 different cells"):
        assess_named_set(TRIANGLE, CELLS, named)


def test_clusters_of_undefined_scores_are_refused() -> None:
    broken = TRIANGLE.copy()
    broken[0, 1] = broken[1, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 8 cells' pairs are undefined"):
        link_cells(broken)
