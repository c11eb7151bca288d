"""How sure a rate is: Wilson's interval for independent trials, a bootstrap over trials for frames."""

from __future__ import annotations

from collections.abc import Sequence

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


def permute_days(
    hit: Sequence[np.ndarray], trial: Sequence[np.ndarray], stratum: Sequence[np.ndarray], draws: int, seed: int
) -> tuple[float, float]:
    """Change of the mean of `hit` between two days, and its two-sided p when trials change days within their stratum.

    Frames of a trial stay together: they are not independent. p = (1 + draws at least as far from 0) / (1 + draws).

    Args:
        hit: of each day, (F,) in [0, 1] per frame.
        trial: of each day, (F,) trial of each frame.
        stratum: of each day, (F,) pattern of the frame's trial; each day keeps its number of trials of each.
        draws: number of permutations.
        seed: of the draws.
    """
    hits, counts, strata, is_late = [], [], [], []
    for late, (own_hit, own_trial, own_stratum) in enumerate(zip(hit, trial, stratum, strict=True)):
        trials, first, member = np.unique(own_trial, return_index=True, return_inverse=True)
        hits.append(np.bincount(member, weights=own_hit))
        counts.append(np.bincount(member))
        strata.append(np.asarray(own_stratum)[first])
        is_late.append(np.full(len(trials), bool(late)))
    h, c, s, late_trials = (np.concatenate(parts) for parts in (hits, counts, strata, is_late))
    rng = np.random.default_rng(seed)
    late_hits, late_counts = np.zeros(draws), np.zeros(draws)
    for value in np.unique(s):
        own = np.flatnonzero(s == value)
        chosen = rng.permuted(np.tile(late_trials[own], (draws, 1)), axis=1)
        late_hits += chosen @ h[own]
        late_counts += chosen @ c[own]

    def difference(in_late: np.ndarray, number: np.ndarray) -> np.ndarray:
        return in_late / number - (h.sum() - in_late) / (c.sum() - number)

    observed = float(difference(h[late_trials].sum(), c[late_trials].sum()))
    far = np.count_nonzero(np.abs(difference(late_hits, late_counts)) >= abs(observed) - 1e-12)
    return observed, (1 + far) / (1 + draws)
