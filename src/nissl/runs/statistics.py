"""Few numbers per group: intervals for a mean over seeds, and a paired test.

With three or five seeds the percentile bootstrap is too narrow (it cannot leave the range of the values), so the
Student-t interval stands beside it, and the smallest p that a test can reach stands beside its p.
Plain numpy: scipy.stats would cost more time than reading a thousand runs.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

# Above these sizes enumeration gives way to random draws, always from the same seed.
_EXACT_BOOTSTRAP = 8  # 6,435 different resamples
_EXACT_FLIPS = 20  # 1,048,576 sign patterns
_NUM_DRAWS = 20_000

Interval = tuple[float, float]
UNDEFINED: Interval = (math.nan, math.nan)


def t_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Student-t interval of the mean; NaN for fewer than two values.

    >>> [round(end, 3) for end in t_interval(np.array([1.0, 2.0, 3.0]))]
    [-0.484, 4.484]
    """
    n = len(values)
    if n < 2:
        return UNDEFINED
    half = t_quantile(level, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return mean - half, mean + half


@functools.cache
def t_quantile(level: float, degrees: int) -> float:
    """The t with P(|T| < t) = level.

    The distribution is a finite sum for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1.0
    while _central_probability(high, degrees) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_probability(middle, degrees) < level else (low, middle)
    return high


def _central_probability(t: float, degrees: int) -> float:
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2:
        term = total = cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for k in range(2, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return sine * total


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean; every resample is enumerated up to eight values. NaN for fewer than two."""
    if len(values) < 2:
        return UNDEFINED
    counts, probability = _resamples(len(values))
    means = counts @ np.asarray(values, dtype=float) / len(values)
    order = np.argsort(means)
    cumulative = np.cumsum(probability[order])
    tail = (1 - level) / 2
    # Just below each quantile's probability, so that a step exactly at it counts as reached.
    low, high = np.searchsorted(cumulative, [tail - 1e-12, 1 - tail - 1e-12])
    return float(means[order[low]]), float(means[order[min(high, len(order) - 1)]])


@functools.cache
def _resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each of n values is drawn, (R, n), and the probability of each resample, (R,)."""
    if n > _EXACT_BOOTSTRAP:
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_NUM_DRAWS)
        return counts, np.full(_NUM_DRAWS, 1 / _NUM_DRAWS)
    drawn = np.array(list(itertools.combinations_with_replacement(range(n), n)))
    counts = np.stack([(drawn == index).sum(1) for index in range(n)], axis=1)
    factorial = np.array([math.factorial(k) for k in range(n + 1)], dtype=float)
    return counts, factorial[n] / factorial[counts].prod(1) / float(n) ** n


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p of paired differences: the share of sign patterns with a mean at least as far from zero.

    Exact up to 20 pairs, from random patterns above. NaN without pairs.

    >>> sign_flip_p(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    n = len(differences)
    if n == 0:
        return math.nan
    size = np.abs(np.asarray(differences, dtype=float))
    observed = abs(float(np.sum(differences)))
    slack = 1e-9 * float(size.sum())  # the same sum in another order is the same sum
    if n <= _EXACT_FLIPS:
        sums = np.zeros(1)
        for value in size:
            sums = np.concatenate([sums - value, sums + value])
        return float(np.mean(np.abs(sums) >= observed - slack))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(_NUM_DRAWS, n))
    reached = int(np.sum(np.abs(signs @ size) >= observed - slack))
    return (reached + 1) / (_NUM_DRAWS + 1)


def smallest_p(num_pairs: int) -> float:
    """The smallest two-sided p that a sign-flip test of so many pairs can give: 0.0625 for five."""
    return min(1.0, 2.0 / 2**num_pairs) if num_pairs else math.nan
