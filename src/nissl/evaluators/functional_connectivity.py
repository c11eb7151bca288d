"""From a ZNCC matrix over patterns to scores between cells, their clusters, and a test of a named set of cells.

The source presentation reads clusters (its cells 1, 4 and 6) off the ZNCC matrix by eye. Ours: a direct score, a
profile score that shares no target with what it compares, clusters with their stability, and a p for a set named
beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

FEWEST_COLUMNS = 5  # a profile of fewer patterns than this is no profile


def direct_scores(matrix: np.ndarray, patterns: Sequence[Sequence[str]], cells: Sequence[str]) -> np.ndarray:
    """F_d (C, C): ZNCC of the map of one cell alone with that of another, mean over conditions; diagonal NaN.

    Args:
        matrix: (n, n) ZNCC over patterns.
        patterns: cells of each pattern; empty for "none".
        cells: order of the rows returned.
    """
    rows = [_singles(patterns, cell) for cell in cells]
    scores = np.full((len(cells), len(cells)), np.nan)
    for i, k in combinations(range(len(cells)), 2):
        scores[i, k] = scores[k, i] = _mean(matrix[np.ix_(rows[i], rows[k])])
    return scores


def profile_scores(
    matrix: np.ndarray, patterns: Sequence[Sequence[str]], cells: Sequence[str], with_none: bool = False
) -> np.ndarray:
    """F_p (C, C): correlation of two cells' rows of ZNCC over the patterns that contain neither; diagonal NaN.

    Two cells that resemble the same third patterns score high, though their own targets never enter. Rows are averaged
    over conditions first. In a design of 8 cells and all pairs there are 21 columns, with three conditions 63.
    NaN columns are left out; fewer than 5 give NaN.

    Args:
        matrix, patterns, cells: as for `direct_scores`.
        with_none: also use the column of "none".
    """
    profile = np.full((len(cells), len(patterns)), np.nan)
    for i, cell in enumerate(cells):
        rows = matrix[_singles(patterns, cell)]
        if len(rows):
            profile[i] = rows.mean(axis=0)  # a NaN in any condition makes the column NaN
    scores = np.full((len(cells), len(cells)), np.nan)
    for i, k in combinations(range(len(cells)), 2):
        columns = profile_columns(patterns, cells[i], cells[k], with_none)
        a, b = profile[i, columns], profile[k, columns]
        defined = ~np.isnan(a) & ~np.isnan(b)
        if defined.sum() >= FEWEST_COLUMNS and np.ptp(a[defined]) > 0 and np.ptp(b[defined]) > 0:
            scores[i, k] = scores[k, i] = np.corrcoef(a[defined], b[defined])[0, 1]
    return scores


def profile_columns(patterns: Sequence[Sequence[str]], a: str, b: str, with_none: bool = False) -> np.ndarray:
    """Indices of the patterns that contain neither cell; "none" only if asked for."""
    return np.array(
        [p for p, names in enumerate(patterns) if not {a, b} & set(names) and (with_none or len(names) > 0)], dtype=int
    )


def link_cells(scores: np.ndarray) -> np.ndarray:
    """Dendrogram (C - 1, 4) of average linkage on 1 - F, in SciPy's form."""
    off = ~np.eye(len(scores), dtype=bool)
    if len(scores) < 2 or np.isnan(scores[off]).any():
        bad = int(np.isnan(scores[off]).sum()) // 2
        raise ValueError(
            f"clusters need a score for every pair of two cells or more; {bad} of {len(scores)} cells' "
            "pairs are undefined. Leave out cells without a map."
        )
    return hierarchy.linkage(_distances(scores), method="average", optimal_ordering=True)


def cut_clusters(scores: np.ndarray, thresholds: Iterable[float]) -> list[np.ndarray]:
    """Cluster number (C,) of each cell where the dendrogram is cut at F = threshold, for each threshold."""
    tree = link_cells(scores)
    return [hierarchy.fcluster(tree, 1 - threshold, criterion="distance") for threshold in thresholds]


def silhouette(scores: np.ndarray, cluster: np.ndarray) -> float:
    """Mean silhouette of a division on 1 - F, in [-1, 1]; NaN for one cluster, or one per cell."""
    if not 1 < len(np.unique(cluster)) < len(cluster):
        return float("nan")
    return float(silhouette_score(squareform(_distances(scores)), cluster, metric="precomputed"))


def strong_pairs(scores: np.ndarray, cells: Sequence[str], threshold: float) -> list[tuple[str, str, float]]:
    """Pairs of cells with F at the threshold or above, strongest first."""
    pairs = [(cells[i], cells[k], float(scores[i, k])) for i, k in combinations(range(len(cells)), 2)]
    return sorted((pair for pair in pairs if pair[2] >= threshold), key=lambda pair: -pair[2])


def consensus(draws: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Share (C, C) of draws, bootstrap samples or seeds, in which two cells fall into one cluster.

    Args:
        draws: scores (C, C) of each draw.
        threshold: F at which each dendrogram is cut.
    """
    if not draws:
        raise ValueError("consensus of no draws; give the scores of one or more")
    clusters = np.stack([cut_clusters(scores, [threshold])[0] for scores in draws])
    return (clusters[:, :, None] == clusters[:, None]).mean(axis=0)


def assess_named_set(scores: np.ndarray, cells: Sequence[str], named: Sequence[str]) -> dict[str, float]:
    """Are the cells of a set closer to each other than other pairs are? Against every set of that size.

    A set found on the same data is post hoc: its p then says only how it ranks.

    Args:
        scores: (C, C) F.
        cells: names of the rows.
        named: the set, two cells or more, not all.

    Returns:
        `inside`, `outside` (mean F of pairs within the set, and of all others), `difference`, `p` (share of sets of the
        size whose difference is as large or larger, the set itself included; at least 1 / `sets`), `sets`.
    """
    unknown = sorted(set(named) - set(cells))
    if unknown or len(set(named)) != len(named) or not 2 <= len(named) < len(cells):
        raise ValueError(f"a set names 2 to {len(cells) - 1} different cells of {list(cells)}; came {list(named)}")
    upper = np.triu(np.ones_like(scores, dtype=bool), 1) & ~np.isnan(scores)

    def means(members: Sequence[int]) -> tuple[float, float]:
        member = np.isin(np.arange(len(cells)), members)
        within = upper & member[:, None] & member[None]
        return _mean(scores[within]), _mean(scores[upper & ~within])

    inside, outside = means([list(cells).index(name) for name in named])
    others = np.array([np.subtract(*means(members)) for members in combinations(range(len(cells)), len(named))])
    difference = inside - outside
    # Undefined sets count as large, so that missing maps cannot make a p small.
    p = float("nan") if np.isnan(difference) else float(np.mean(~(others < difference - 1e-12)))
    return {"inside": inside, "outside": outside, "difference": difference, "p": p, "sets": float(len(others))}


def _singles(patterns: Sequence[Sequence[str]], cell: str) -> np.ndarray:
    return np.array([p for p, names in enumerate(patterns) if tuple(names) == (cell,)], dtype=int)


def _distances(scores: np.ndarray) -> np.ndarray:
    square = (1 - scores).clip(0)
    np.fill_diagonal(square, 0)
    return squareform(square, checks=False)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
