"""How much of ZNCC is mere distance between the stimulated cells, and what is left without it.

Neighbouring targets give overlapping spots of fluorescence, so their maps resemble each other without any connection.
The source presentation does not ask this. Ours: regressors of distance, residuals, a partial Mantel test that
exchanges cells (rows are not independent: they share cells), and ZNCC with the targets' discs left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import factorial

import numpy as np
from scipy.stats import spearmanr

from nissl.evaluators.zncc import CLASSES, FLAT, pair_classes

ENUMERATED = 40_320  # exchanges of 8 cells; up to here all are used when that many draws are asked for
DECAYS = 40  # candidate length constants between the nearest and twice the farthest pair


def disjoint_pairs(patterns: Sequence[Sequence[str]]) -> np.ndarray:
    """Pairs of patterns without a common cell, upper triangle (n, n) bool."""
    return np.triu(pair_classes(patterns) == CLASSES.index("disjoint"), 1)


def target_distances(
    patterns: Sequence[Sequence[str]], cells: Sequence[str], positions_um: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and smallest distance between the targets of two patterns, both (n, n) in um; NaN with "none"."""
    place = {name: positions_um[i] for i, name in enumerate(cells)}
    mean, smallest = np.full((2, len(patterns), len(patterns)), np.nan)
    for p, first in enumerate(patterns):
        for q, second in enumerate(patterns):
            apart = [float(np.linalg.norm(place[a] - place[b])) for a in first for b in second]
            if apart:
                mean[p, q], smallest[p, q] = np.mean(apart), min(apart)
    return mean, smallest


def disc_maps(
    patterns: Sequence[Sequence[str]],
    cells: Sequence[str],
    positions_yx: np.ndarray,
    radius: float,
    size: tuple[int, int],
) -> np.ndarray:
    """Positions (n, h, w) bool within a radius of a target; places and radius in the map's own units.

    ZNCC of these, blurred as the maps are, is what it would be if maps were nothing but their targets."""
    y, x = np.mgrid[: size[0], : size[1]]
    discs = [(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in positions_yx]
    of_cell = dict(zip(cells, discs, strict=True))
    return np.stack([np.any([of_cell[c] for c in names] or [np.zeros(size, dtype=bool)], axis=0) for names in patterns])


def correlate_with_distance(
    matrix: np.ndarray, regressors: dict[str, np.ndarray], chosen: np.ndarray
) -> dict[str, float]:
    """Spearman's correlation of ZNCC with each regressor over the chosen pairs."""
    result = {}
    for name, regressor in regressors.items():
        defined = chosen & ~np.isnan(matrix) & ~np.isnan(regressor)
        enough = defined.sum() > 2 and np.ptp(matrix[defined]) > 0 and np.ptp(regressor[defined]) > 0
        result[name] = float(spearmanr(matrix[defined], regressor[defined])[0]) if enough else float("nan")
    return result


def remove_distance(
    matrix: np.ndarray, distance_um: np.ndarray, overlap: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, float]:
    """Residual of ZNCC on distance, its exponential decay and disc overlap, and the fitted length constant in um.

    Least squares over the chosen pairs, with the length constant that leaves least; NaN elsewhere. The residual (n, n)
    is symmetric and has mean 0.
    """
    defined = chosen & ~np.isnan(matrix) & ~np.isnan(distance_um) & ~np.isnan(overlap)
    z, d = matrix[defined], distance_um[defined]
    if len(z) < 6:
        raise ValueError(f"distance is fitted by 4 numbers and a length; {len(z)} defined pairs are too few")
    best, decay = np.inf, float("nan")
    left = z
    for length in np.geomspace(max(d.min(), 1e-3 * d.max()), 2 * d.max(), DECAYS):
        design = np.column_stack([np.ones_like(d), d / d.max(), np.exp(-d / length), overlap[defined]])
        residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
        if (error := float(residual @ residual)) < best:
            best, decay, left = error, float(length), residual
    return _symmetric(left, defined), decay


def partial_mantel(
    matrix: np.ndarray,
    other: np.ndarray,
    regressors: Sequence[np.ndarray],
    patterns: Sequence[Sequence[str]],
    conditions: Sequence[str],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """Correlation of two matrices over disjoint pairs given regressors, and its two-sided p by exchanging cells.

    Both are made residual on the regressors; then the first is rearranged as if the cells had exchanged names. Disjoint
    pairs stay disjoint. All exchanges are used when there are no more of them than draws.

    Args:
        matrix, other: (n, n); pairs that are NaN in either are left out.
        regressors: (n, n) each; none for a plain Mantel test.
        patterns: cells of each pattern; every exchange must lead to a pattern that exists, as in a complete design.
        conditions: of each pattern; exchanged patterns keep theirs.
        draws: number of exchanges.
        seed: of the exchanges.
    """
    cells = sorted({name for names in patterns for name in names})
    index = {(frozenset(names), c): p for p, (names, c) in enumerate(zip(patterns, conditions, strict=True))}
    chosen = disjoint_pairs(patterns)
    defined = chosen & ~np.isnan(matrix) & ~np.isnan(other)
    for regressor in regressors:
        defined &= ~np.isnan(regressor)
    design = np.column_stack([np.ones(defined.sum()), *(r[defined] for r in regressors)])
    if len(design) < design.shape[1] + 2:
        raise ValueError(f"{len(design)} pairs are too few for a partial correlation given {len(regressors)} matrices")
    first, second = (
        _symmetric(m[defined] - design @ np.linalg.lstsq(design, m[defined], rcond=None)[0], defined)
        for m in (matrix, other)
    )
    rows, columns = np.nonzero(defined)
    fixed = second[rows, columns]
    total = factorial(len(cells))
    rng = np.random.default_rng(seed)
    everything = total <= min(draws, ENUMERATED)
    orders = permutations(range(len(cells))) if everything else (rng.permutation(len(cells)) for _ in range(draws))

    observed, far, count = _correlation(first[rows, columns], fixed), 0, 0
    for order in orders:
        renamed = {name: cells[to] for name, to in zip(cells, order, strict=True)}
        try:
            moved = np.array(
                [
                    index[frozenset(renamed[c] for c in names), condition]
                    for names, condition in zip(patterns, conditions, strict=True)
                ]
            )
        except KeyError as error:
            wanted, condition = error.args[0]
            raise ValueError(
                f"cells cannot be exchanged: the design has no pattern {'+'.join(sorted(wanted))} "
                f"(condition '{condition}'). Keep only complete sets of singles or pairs."
            ) from error
        drawn = _correlation(first[moved[rows], moved[columns]], fixed)
        far += not abs(drawn) < abs(observed) - 1e-12
        count += 1
    return observed, far / count if everything else (1 + far) / (1 + count)


def zncc_outside(maps: np.ndarray, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ZNCC of every pair over the positions that neither excludes, and how many positions those are.

    For maps with their targets' discs excluded: what is alike beyond the stimulated cells. By masked moments, so no
    loop over pairs.

    Args:
        maps: (n, D).
        excluded: (n, D) bool.

    Returns:
        (n, n) ZNCC, NaN where a map is constant or fewer than 2 positions are left; (n, n) number of positions.
    """
    if maps.shape != excluded.shape:
        raise ValueError(f"maps {maps.shape} and excluded positions {excluded.shape} must have one shape")
    keep = (~excluded).astype(np.float64)
    rows = maps.astype(np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)  # a large offset would cancel in the moments
    inside = rows * keep
    number = keep @ keep.T
    sums, squares = inside @ keep.T, (inside * rows) @ keep.T  # of the row's map over the pair's positions
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = inside @ inside.T - sums * sums.T / number
        variance = squares - sums**2 / number
        flat = variance <= (FLAT * (1 + np.abs(maps).max(axis=1, keepdims=True))) ** 2 * number
        result = (covariance / np.sqrt(variance * variance.T)).clip(-1, 1)
    result[flat | flat.T | (number < 2) | np.isnan(variance) | np.isnan(variance.T)] = np.nan
    np.fill_diagonal(result, np.where(np.isnan(np.diag(result)), np.nan, 1.0))
    return result, number.astype(int)


def _symmetric(values: np.ndarray, upper: np.ndarray) -> np.ndarray:
    matrix = np.full(upper.shape, np.nan)
    matrix[upper] = values
    return np.where(upper, matrix, matrix.T)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    both = ~np.isnan(a) & ~np.isnan(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])
