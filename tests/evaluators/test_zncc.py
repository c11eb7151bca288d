"""ZNCC against the formula, its invariances, and the bookkeeping of its sum."""

from itertools import combinations

import numpy as np
import pytest

from nissl.evaluators.zncc import (
    CLASSES,
    compare_matrices,
    order_rows,
    pair_classes,
    single_pairs,
    summarise_matrix,
    zncc_matrix,
)

RNG = np.random.default_rng(0)
SINGLES = [(str(i),) for i in range(1, 9)]
PAIRS = list(combinations([str(i) for i in range(1, 9)], 2))


def zncc(a: np.ndarray, b: np.ndarray) -> float:
    """The formula, with loops."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return top / (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5


def test_the_matrix_equals_the_formula() -> None:
    maps = RNG.normal(size=(12, 64)) * RNG.uniform(0.1, 100, size=(12, 1)) + RNG.normal(size=(12, 1))
    expected = np.array([[zncc(a, b) for b in maps] for a in maps])
    assert np.abs(zncc_matrix(maps) - expected).max() < 1e-12


def test_it_equals_numpys_correlation() -> None:
    maps = RNG.normal(size=(30, 256))
    assert np.abs(zncc_matrix(maps) - np.corrcoef(maps)).max() < 1e-12


@pytest.mark.parametrize(("other", "value"), [([2, 4, 6, 8], 1.0), ([4, 3, 2, 1], -1.0), ([1, 3, 2, 4], 0.8)])
def test_worked_pairs(other: list[int], value: float) -> None:
    assert zncc_matrix(np.array([[1, 2, 3, 4], other]))[0, 1] == pytest.approx(value, abs=1e-12)


def test_a_shared_surround_of_zeros_raises_zncc() -> None:
    maps = np.array([[1.0, 2, 3, 4] + [0] * 12, [4.0, 3, 2, 1] + [0] * 12])
    assert zncc_matrix(maps[:, :4])[0, 1] == pytest.approx(-1, abs=1e-12)
    assert zncc_matrix(maps)[0, 1] == pytest.approx(0.579, abs=5e-4)


def test_gain_and_offset_do_not_matter() -> None:
    maps = RNG.normal(size=(5, 40))
    changed = maps * np.array([[2], [0.1], [30], [1], [7]]) + np.array([[0], [5], [-3], [100], [1]])
    assert np.allclose(zncc_matrix(maps), zncc_matrix(changed), atol=1e-12)


def test_it_is_symmetric_bounded_and_exactly_one_with_itself() -> None:
    matrix = zncc_matrix(np.repeat(RNG.normal(size=(1, 9)), 6, axis=0) + 1e-9 * RNG.normal(size=(6, 9)))
    assert np.array_equal(matrix, matrix.T) and np.all(np.diag(matrix) == 1) and matrix.max() <= 1


def test_constant_maps_and_maps_with_nan_are_undefined() -> None:
    maps = RNG.normal(size=(4, 20))
    maps[1], maps[2, 3] = 0.1, np.nan
    matrix = zncc_matrix(maps)
    assert np.isnan(matrix[[1, 2]]).all() and np.isnan(matrix[:, [1, 2]]).all()
    assert not np.isnan(matrix[np.ix_([0, 3], [0, 3])]).any()
    assert summarise_matrix(matrix, [("1",), ("2",), ("3",), ("4",)])["undefined_maps"] == 2


def test_one_pixel_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two pixels or more"):
        zncc_matrix(np.ones((3, 1)))


@pytest.mark.parametrize(
    ("cells", "counts"),
    [
        (SINGLES + PAIRS, (0, 224, 406, 0)),
        (SINGLES + PAIRS + [()], (0, 224, 406, 36)),
        ((SINGLES + PAIRS) * 3 + [()], (108, 2016, 3654, 108)),
    ],
)
def test_pairs_of_patterns_are_counted_by_class(cells: list, counts: tuple) -> None:
    classes = pair_classes(cells)[np.triu_indices(len(cells), 1)]
    assert tuple(int((classes == i).sum()) for i in range(4)) == counts
    assert CLASSES == ("same", "share", "disjoint", "none")


def test_28_disjoint_pairs_are_between_singles() -> None:
    assert single_pairs(SINGLES + PAIRS + [()]).sum() == 28


def test_the_sum_is_the_rows_and_twice_its_classes() -> None:
    cells = SINGLES + PAIRS + [()]
    s = summarise_matrix(zncc_matrix(RNG.normal(size=(37, 50))), cells)
    assert s["sum"] == pytest.approx(37 + 2 * sum(s[f"{name}_sum"] for name in CLASSES))
    assert s["mean_offdiag"] == pytest.approx((s["sum"] - 37) / (37 * 36))
    assert np.isnan(s["same_mean"]) and s["same_pairs"] == 0


def test_orders_are_by_cell_by_cluster_or_listed() -> None:
    maps = np.array([[1.0, 0, 0, 0], [0, 0, 0, 1], [1, 0.1, 0, 0], [0, 0, 0.1, 1], [0, 0, 0, 0]])
    matrix = zncc_matrix(maps)
    names = ["a", "b", "c", "d", "flat"]
    assert order_rows(matrix, names, "cell").tolist() == [0, 1, 2, 3, 4]
    clustered = order_rows(matrix, names, "cluster").tolist()
    assert {frozenset(clustered[:2]), frozenset(clustered[2:4])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert clustered[4] == 4  # undefined rows last
    assert order_rows(matrix, names, "listed", ["flat", "d", "c", "b", "a"]).tolist() == [4, 3, 2, 1, 0]


def test_an_order_that_forgets_a_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="must name every pattern once; missing {'b'}"):
        order_rows(np.eye(2), ["a", "b"], "listed", ["a"])
    with pytest.raises(ValueError, match="order='size' is unknown"):
        order_rows(np.eye(2), ["a", "b"], "size")


def test_a_matrix_agrees_with_itself_and_not_with_noise() -> None:
    cells = SINGLES + PAIRS + [()]
    truth, noise = zncc_matrix(RNG.normal(size=(37, 20))), zncc_matrix(RNG.normal(size=(37, 20)))
    assert all(r == pytest.approx(1) for r in compare_matrices(truth, truth, cells).values())
    assert abs(compare_matrices(noise, truth, cells)["truth_r_disjoint"]) < 0.2


def test_agreement_over_too_few_pairs_is_undefined() -> None:
    cells = [("1",), ("2",), ()]
    assert np.isnan(compare_matrices(np.eye(3), np.eye(3), cells)["truth_r_singles"])
