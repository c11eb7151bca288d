"""Resample trials of cached maps: permutation between days, bootstrap and jackknife, without the network.

The source presentation gives one ZNCC sum per day (208.8 and 262.1) and no uncertainty; all of this file is ours.
ZNCC ignores a map's gain, so a pattern's mean map may stand as a plain sum of its trials' rows, and one draw is one
product of 0/1 (or multinomial) weights with those rows.

Shapes: R trials, P patterns, D positions inside the mask, K statistics, B draws at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nissl.evaluators.zncc import CLASSES, FLAT, pair_classes, single_pairs

DRAWS_AT_ONCE = 32  # keeps the maps of a batch of draws within the processor's cache


@dataclass(frozen=True)
class TrialRows:
    """What each trial adds to its pattern's map.

    Attributes:
        rows: (R, D) float64, positions inside the mask only.
        pattern: (R,) pattern index; every pattern has a trial.
    """

    rows: np.ndarray
    pattern: np.ndarray

    @property
    def num_patterns(self) -> int:
        return int(self.pattern.max()) + 1

    def by_pattern(self) -> list[np.ndarray]:
        """Rows (n_p, D) of each pattern."""
        return [self.rows[self.pattern == p] for p in range(self.num_patterns)]

    def maps(self) -> np.ndarray:
        """One map per pattern (P, D), up to a positive factor, which ZNCC ignores."""
        total = np.zeros((self.num_patterns, self.rows.shape[1]))
        np.add.at(total, self.pattern, self.rows)
        return total


def make_trial_rows(
    sums: np.ndarray, counts: np.ndarray, pattern: np.ndarray, names: Sequence[str], weight: str
) -> TrialRows:
    """Rows from the sums and counts of a day's maps.

    Args:
        sums: (R, D) sum of the maps of a trial's frames.
        counts: (R,) frames in each sum; trials without a usable frame are left out.
        pattern: (R,) pattern index.
        names: of all patterns.
        weight: "frame" lets a trial count by its frames, "trial" once.
    """
    if weight not in ("frame", "trial"):
        raise ValueError(f"weight='{weight}' is unknown; choose frame or trial")
    used = counts > 0
    missing = sorted(set(range(len(names))) - set(pattern[used].tolist()))
    if missing:
        listed = ", ".join(names[p] for p in missing)
        raise ValueError(f"no usable trial for {len(missing)} pattern(s): {listed}. Drop them on both days.")
    rows = sums[used].astype(np.float64)
    return TrialRows(rows / counts[used, None] if weight == "trial" else rows, pattern[used])


def statistic_weights(cells: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Weights (P, P) whose sum with a ZNCC matrix is a statistic; those with no pair are left out.

    `zncc_sum` is the presentation's number (whole matrix with its diagonal); `mean_offdiag`, the mean of each class of
    pairs, and `singles`, over pairs of single-cell patterns with different cells.
    """
    n = len(cells)
    upper, classes = np.triu(np.ones((n, n), dtype=bool), 1), pair_classes(cells)
    groups = {"mean_offdiag": upper}
    groups |= {name: upper & (classes == index) for index, name in enumerate(CLASSES)}
    groups["singles"] = single_pairs(cells)
    return {"zncc_sum": np.ones((n, n))} | {name: g / g.sum() for name, g in groups.items() if g.any()}


def statistics(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of ZNCC matrices (B, K); NaN where a constant map leaves one undefined.

    Args:
        maps: (B, P, D).
        weights: (K, P, P).
    """
    centred = maps - maps.mean(axis=2, keepdims=True)
    norm = np.sqrt(np.einsum("bpd,bpd->bp", centred, centred))
    norm[norm <= FLAT * (1 + np.abs(maps).max(axis=2))] = np.nan
    centred /= norm[..., None]
    matrices = centred @ centred.transpose(0, 2, 1)
    return matrices.reshape(len(maps), -1) @ weights.reshape(len(weights), -1).T


@dataclass(frozen=True)
class Permutation:
    """Outcome of a permutation of trials between days.

    Attributes:
        change: (K,) day minus reference, observed.
        p: (K,) two-sided.
        drawn: (draws, K) changes under permutation.
    """

    change: np.ndarray
    p: np.ndarray
    drawn: np.ndarray


def permute_trials(reference: TrialRows, day: TrialRows, weights: np.ndarray, draws: int, seed: int) -> Permutation:
    """Test whether trials could change days, pattern by pattern, each day keeping its number of trials.

    p = (1 + draws at least as far from 0) / (1 + draws); an undefined draw counts as far. Trials are exchangeable
    only when one network made both days' maps; with a network per day the p is conditional on the two networks.
    """
    pools = [np.concatenate(both) for both in zip(reference.by_pattern(), day.by_pattern(), strict=True)]
    kept = [len(rows) for rows in reference.by_pattern()]
    totals = np.stack([pool.sum(axis=0) for pool in pools])
    rng = np.random.default_rng(seed)

    def shuffled(number: int) -> np.ndarray:
        maps = np.empty((number, *totals.shape))
        for p, (pool, count) in enumerate(zip(pools, kept, strict=True)):
            chosen = np.argpartition(rng.random((number, len(pool))), count - 1, axis=1)[:, :count]
            share = np.zeros((number, len(pool)))
            np.put_along_axis(share, chosen, 1.0, axis=1)
            maps[:, p] = share @ pool
        return statistics(totals - maps, weights) - statistics(maps, weights)

    change = change_between(reference, day, weights)
    drawn = in_batches(shuffled, draws)
    # Summing in another order moves the last digits: a draw that is the observed division must count as equal.
    near = np.abs(drawn) < np.abs(change) - 1e-9 * (1 + np.abs(change))
    return Permutation(change, (1 + np.count_nonzero(~near, axis=0)) / (1 + draws), drawn)


def change_between(reference: TrialRows, day: TrialRows, weights: np.ndarray) -> np.ndarray:
    """Statistics (K,) of the day minus those of the reference."""
    return statistics(day.maps()[None], weights)[0] - statistics(reference.maps()[None], weights)[0]


def bootstrap_change(
    reference: Sequence[TrialRows], day: Sequence[TrialRows], weights: np.ndarray, draws: int, seed: int, joint: bool
) -> np.ndarray:
    """Changes (draws, K) with seeds, then trials within pattern, drawn again with replacement.

    Resampled means hold a trial more than once, are noisier and so lower ZNCC, on both days alike: read the
    difference, not the two levels, and compare with `jackknife_error`.

    Args:
        reference: the reference day's rows by each seed's network; one entry for a bootstrap over trials alone.
        day: the other day's.
        weights: (K, P, P).
        draws: number of bootstrap samples.
        seed: of the draws.
        joint: one network made both days of a seed, so that both days draw the same seed.
    """
    if joint and len(reference) != len(day):
        raise ValueError(f"a joint network has both days for each seed; came {len(reference)} and {len(day)} seeds")
    rng = np.random.default_rng(seed)
    by_pattern = [[rows.by_pattern() for rows in seeds] for seeds in (reference, day)]

    def drawn(number: int) -> np.ndarray:
        first = rng.integers(len(reference), size=number)
        second = first if joint else rng.integers(len(day), size=number)
        before = _bootstrapped(by_pattern[0], first, rng)
        return statistics(_bootstrapped(by_pattern[1], second, rng), weights) - statistics(before, weights)

    return in_batches(drawn, draws)


def bootstrap_maps(trials: TrialRows, chosen: Sequence[int], draws: int, seed: int) -> Iterator[np.ndarray]:
    """Maps (len(chosen), D) of the chosen patterns with their trials drawn again with replacement, `draws` times."""
    rng = np.random.default_rng(seed)
    own = [trials.rows[trials.pattern == p] for p in chosen]
    for _ in range(draws):
        yield np.stack([rows[rng.integers(len(rows), size=len(rows))].sum(axis=0) for rows in own])


def percentile_interval(drawn: np.ndarray) -> np.ndarray:
    """95 % percentile interval (2, K) of bootstrap draws (draws, K)."""
    return np.percentile(drawn, [2.5, 97.5], axis=0)


def jackknife_error(rows: TrialRows, weights: np.ndarray) -> np.ndarray:
    """Standard error (K,) of a day's statistics by leaving out one trial at a time, within patterns.

    The variance is the sum over patterns of (n - 1) / n times the squared deviations; NaN where a pattern has one
    trial. The error of a change between independent days is the root of the sum of squares.
    """
    maps, variance = rows.maps(), np.zeros(len(weights))
    for p, own in enumerate(rows.by_pattern()):
        if len(own) < 2:
            return np.full(len(weights), np.nan)
        left_out = np.repeat(maps[None], len(own), axis=0)
        left_out[:, p] -= own
        values = statistics(left_out, weights)
        variance += (len(own) - 1) / len(own) * ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return np.sqrt(variance)


def match_counts(
    reference: TrialRows, day: TrialRows, weights: np.ndarray, repeats: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics (K,) of reference and day with as many trials per pattern on both, averaged over subsamples.

    More trials make smoother maps, and smoother maps correlate more: without this a longer session looks like
    stronger connectivity. Trials are matched; frames inside a trial are not divided.
    """
    rng = np.random.default_rng(seed)
    pairs = list(zip(reference.by_pattern(), day.by_pattern(), strict=True))

    def subsampled(index: int) -> np.ndarray:
        maps = np.empty((repeats, len(pairs), reference.rows.shape[1]))
        for p, pair in enumerate(pairs):
            fewest = min(len(rows) for rows in pair)
            for r in range(repeats):
                maps[r, p] = pair[index][rng.permutation(len(pair[index]))[:fewest]].sum(axis=0)
        return statistics(maps, weights).mean(axis=0)

    return subsampled(0), subsampled(1)


def _bootstrapped(seeds: list[list[np.ndarray]], chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Maps (B, P, D) of trials drawn with replacement, each draw from the seed `chosen` for it."""
    maps = np.empty((len(chosen), len(seeds[0]), seeds[0][0].shape[1]))
    for s in np.unique(chosen):
        mine = np.flatnonzero(chosen == s)
        for p, rows in enumerate(seeds[s]):
            maps[mine, p] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(mine)) @ rows
    return maps


def in_batches(draw: Callable[[int], np.ndarray], draws: int) -> np.ndarray:
    """Results of `draw`, which makes as many as it is told, put together until there are `draws`."""
    if draws < 1:
        raise ValueError(f"draws={draws}: one draw or more is needed")
    return np.concatenate([draw(number) for number in _batch_sizes(draws)])


def _batch_sizes(draws: int) -> Iterator[int]:
    for start in range(0, draws, DRAWS_AT_ONCE):
        yield min(DRAWS_AT_ONCE, draws - start)
