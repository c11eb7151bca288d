"""Zero-mean normalised cross-correlation of pattern maps, and what its sum is made of.

ZNCC(A, B) = sum (A - mean A)(B - mean B) / sqrt(sum (A - mean A)^2 sum (B - mean B)^2): Pearson's correlation over
pixels. Only pixels inside the mask enter: zeros shared outside it would raise every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

FLAT = 1e-10  # a map whose deviation is below this share of its size is constant: its ZNCC is undefined
CLASSES = ("same", "share", "disjoint", "none")


def zncc_matrix(maps: np.ndarray) -> np.ndarray:
    """ZNCC of every pair of maps.

    Args:
        maps: (n, D), one flattened map a row, already reduced to the pixels inside the mask.

    Returns:
        (n, n) float64, symmetric, in [-1, 1], diagonal exactly 1. Rows and columns of constant maps, or maps with NaN,
        are NaN, diagonal included.
    """
    if maps.ndim != 2 or maps.shape[1] < 2:
        raise ValueError(f"expected maps (n, D) with two pixels or more inside the mask, came {maps.shape}")
    rows = np.asarray(maps, dtype=np.float64)
    mean = rows.mean(axis=1)
    centred = rows - mean[:, None]
    # One pass over the maps: the norms are on the diagonal of the product that is needed anyway.
    matrix = centred @ centred.T
    norm = np.sqrt(np.diag(matrix))
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = norm > FLAT * (1 + np.abs(mean) + norm)  # False for NaN
        norm = np.where(usable, norm, np.nan)
        matrix = (matrix / (norm[:, None] * norm)).clip(-1, 1)
    np.fill_diagonal(matrix, np.where(usable, 1.0, np.nan))
    return matrix


def pair_classes(cells: Sequence[Sequence[str]]) -> np.ndarray:
    """Class of every pair of patterns (n, n), as index into `CLASSES`; -1 on the diagonal.

    `none` where either pattern is "none"; else `same` cells (another condition), some cell in common (`share`), or
    `disjoint`. Only disjoint pairs speak of connectivity: patterns with a common target resemble each other anyway.
    """
    sets = [set(names) for names in cells]
    classes = np.full((len(sets), len(sets)), -1)
    for i, j in combinations(range(len(sets)), 2):
        if not sets[i] or not sets[j]:
            name = "none"
        elif sets[i] == sets[j]:
            name = "same"
        else:
            name = "share" if sets[i] & sets[j] else "disjoint"
        classes[i, j] = classes[j, i] = CLASSES.index(name)
    return classes


def summarise_matrix(matrix: np.ndarray, cells: Sequence[Sequence[str]]) -> dict[str, float]:
    """Sum and means of a ZNCC matrix, over entries that are defined.

    Returns:
        `sum` (whole matrix with its diagonal: the source presentation's "correlation overall"), `mean_offdiag`,
        `fisher_mean`, `undefined_maps`, `rows`; for each class `<class>_mean`, `<class>_sum`, `<class>_pairs`, counted
        once per unordered pair; `singles_mean` over pairs of single-cell patterns with different cells. Means of
        nothing are NaN. sum = defined rows + 2 (same_sum + share_sum + disjoint_sum + none_sum).
    """
    defined = ~np.isnan(np.diag(matrix))
    upper = np.triu(np.ones_like(matrix, dtype=bool), 1)
    values = matrix[upper & ~np.isnan(matrix)]
    summary = {
        "sum": float(np.nansum(matrix)),
        "mean_offdiag": _mean(values),
        "fisher_mean": float(np.tanh(_mean(np.arctanh(values.clip(-1 + 1e-6, 1 - 1e-6))))),
        "undefined_maps": float(np.count_nonzero(~defined)),
        "rows": float(len(matrix)),
    }
    classes = pair_classes(cells)
    for index, name in enumerate(CLASSES):
        inside = matrix[upper & (classes == index) & ~np.isnan(matrix)]
        summary[f"{name}_mean"] = _mean(inside)
        summary[f"{name}_sum"] = float(inside.sum())
        summary[f"{name}_pairs"] = float(len(inside))
    summary["singles_mean"] = _mean(matrix[single_pairs(cells) & ~np.isnan(matrix)])
    return summary


def single_pairs(cells: Sequence[Sequence[str]]) -> np.ndarray:
    """Pairs of single-cell patterns with different cells, upper triangle (n, n) bool."""
    single = np.array([len(names) == 1 for names in cells])
    disjoint = pair_classes(cells) == CLASSES.index("disjoint")
    return np.triu(single[:, None] & single[None] & disjoint, 1)


def order_rows(matrix: np.ndarray, names: Sequence[str], how: str, listed: Sequence[str] = ()) -> np.ndarray:
    """Order in which to show patterns (n,).

    Args:
        matrix: ZNCC.
        names: of the patterns, in cell order.
        how: `cell` keeps the order; `cluster` is average linkage on 1 - ZNCC with the best leaf order, undefined rows
            last; `listed` follows `listed`, which names every pattern once.
    """
    if how == "cell":
        return np.arange(len(names))
    if how == "listed":
        if sorted(listed) != sorted(names):
            missing, extra = set(names) - set(listed), set(listed) - set(names)
            raise ValueError(f"the listed order must name every pattern once; missing {missing}, unknown {extra}")
        return np.array([list(names).index(name) for name in listed])
    if how != "cluster":
        raise ValueError(f"order='{how}' is unknown; choose cell, cluster or listed")
    defined = np.flatnonzero(~np.isnan(np.diag(matrix)))
    undefined = np.flatnonzero(np.isnan(np.diag(matrix)))
    if len(defined) < 2:
        return np.arange(len(names))
    distance = squareform(1 - matrix[np.ix_(defined, defined)], checks=False)
    tree = hierarchy.linkage(distance.clip(0), method="average", optimal_ordering=True)
    return np.concatenate([defined[hierarchy.leaves_list(tree)], undefined])


def compare_matrices(matrix: np.ndarray, truth: np.ndarray, cells: Sequence[Sequence[str]]) -> dict[str, float]:
    """Pearson correlation of a recovered matrix with the true one.

    Returns:
        `truth_r_all` over all pairs of distinct patterns defined in both, `truth_r_disjoint`, `truth_r_singles`.
    """
    upper = np.triu(np.ones_like(matrix, dtype=bool), 1)
    both = upper & ~np.isnan(matrix) & ~np.isnan(truth)
    disjoint = pair_classes(cells) == CLASSES.index("disjoint")
    groups = {"all": both, "disjoint": both & disjoint, "singles": both & single_pairs(cells)}
    return {f"truth_r_{name}": _correlation(matrix[chosen], truth[chosen]) for name, chosen in groups.items()}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
