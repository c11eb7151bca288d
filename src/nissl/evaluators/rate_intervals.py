"""How sure a rate is: Wilson's interval for independent trials, a bootstrap over trials for frames."""

from __future__ import annotations

import numpy as np

Z95 = 1.959963984540054  # normal quantile of a two-sided 95 % interval


def wilson_interval(hits: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; NaN where there are no observations.

    >>> [round(end, 4) for end in wilson_interval(8, 10, z=1.96)]
    [0.4902, 0.9433]
    """
    if count == 0:
        return float("nan"), float("nan")
    p = hits / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return float(centre - half), float(centre + half)


def trial_bootstrap_interval(
    hit: np.ndarray, trial: np.ndarray, stratum: np.ndarray, draws: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `hit` when whole trials are drawn again, within their stratum.

    Args:
        hit: (F,) 0 or 1 per frame.
        trial: (F,) trial of each frame.
        stratum: (F,) what stays balanced (the trial's pattern); one value per trial.
        draws: number of bootstrap samples.
        seed: of the draws.
    """
    if len(hit) == 0:
        return float("nan"), float("nan")
    trials, first, member = np.unique(trial, return_index=True, return_inverse=True)
    hits = np.bincount(member, weights=hit)
    counts = np.bincount(member)
    strata = np.asarray(stratum)[first]
    rng = np.random.default_rng(seed)
    drawn_hits, drawn_counts = np.zeros(draws), np.zeros(draws)
    for value in np.unique(strata):
        own = np.flatnonzero(strata == value)
        times = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=draws)  # (draws, trials)
        drawn_hits += times @ hits[own]
        drawn_counts += times @ counts[own]
    low, high = np.percentile(drawn_hits / drawn_counts, [2.5, 97.5])
    return float(low), float(high)
