"""How sure a run length is: bootstrap over neurons.

Neurons are drawn with replacement and every number is computed from those drawn. What a segment merges is decided once,
on all neurons: a merger of two does not become right because only one of them was drawn. Percentile intervals; with
few neurons they are too narrow.
"""

from __future__ import annotations

import numpy as np

from nissl.evaluators.run_lengths import RunLengths


def bootstrap(runs: RunLengths, num_samples: int, seed: int, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Intervals of `mean_nm`, `normalized`, `mergers`, `mergers_per_mm` and `splits`.

    A sample without cable is left out.

    Args:
        runs: the estimate.
        num_samples: times that as many neurons as there are are drawn.
        seed: of the draws.
        level: share of the samples inside the interval.
    """
    num = len(runs.skeleton_nm)
    times = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), num_samples)  # (B, S)
    cable = times @ runs.skeleton_nm
    times, cable = times[cable > 0], cable[cable > 0]
    squares = times @ (runs.skeleton_nm * runs.skeleton_erl_nm)
    mergers = times @ runs.skeleton_mergers
    samples = {
        "mean_nm": squares / cable,
        "normalized": times @ runs.skeleton_erl_nm / cable
        if runs.labelled_only
        else squares / (times @ runs.skeleton_nm**2),
        "mergers": mergers,
        "mergers_per_mm": mergers / (cable / 1e6),
        "splits": times @ runs.skeleton_splits.astype(float),
    }
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, values in samples.items():
        low, high = np.quantile(values, tails) if len(values) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals
