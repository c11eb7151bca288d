"""How far a pattern's map repeats itself between halves of its trials, and ZNCC corrected for it.

Noisy maps correlate less, so two days of unequal noise differ in ZNCC without a change in the brain. Split halves and
the formula of Spearman and Brown (1910) are ours; the source presentation has no reliability.
"""

from __future__ import annotations

import numpy as np

from nissl.evaluators.trial_resampling import TrialRows
from nissl.evaluators.zncc import zncc_matrix


def split_half_reliability(trials: TrialRows) -> np.ndarray:
    """Reliability (P,) of each pattern's map: ZNCC of odd with even trials r, corrected to 2 r / (1 + |r|).

    The absolute value only matters for negative r, where the formula without it runs off to minus infinity. Trials
    alternate in the order of the rows. NaN for one trial or a constant half.
    """
    reliability = np.full(trials.num_patterns, np.nan)
    for p, rows in enumerate(trials.by_pattern()):
        if len(rows) > 1:
            r = zncc_matrix(np.stack([rows[::2].mean(axis=0), rows[1::2].mean(axis=0)]))[0, 1]
            reliability[p] = 2 * r / (1 + abs(r))
    return reliability


def disattenuate(matrix: np.ndarray, reliability: np.ndarray) -> np.ndarray:
    """ZNCC / sqrt(reliability of both maps); NaN where either is not positive. May exceed 1; diagonal as it came."""
    positive = np.where(reliability > 0, reliability, np.nan)
    corrected = matrix / np.sqrt(positive[:, None] * positive[None])
    np.fill_diagonal(corrected, np.where(np.isnan(positive), np.nan, np.diag(matrix)))
    return corrected
