"""Did activation patterns change between days? The same permutation and bootstrap as for maps, on trials' moments.

The map of a pattern here is a sum of its cells' activation patterns (`map_activation`), which are regressed on all
trials at once; a trial therefore brings moments, not a map, and every draw solves the regression anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nissl.evaluators.map_activation import TrialMoments
from nissl.evaluators.trial_resampling import Permutation, in_batches, statistics

# B draws, R trials, C signals, D positions, P patterns, K statistics
RIDGE = 1e-9  # of the mean diagonal: a draw may leave a signal without a frame


def pattern_images(gram: np.ndarray, cross: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Activation patterns (B, P - 1, D) of all patterns but the last.

    Args:
        gram: (B, C + 1, C + 1) of the network's answers and a constant.
        cross: (B, C + 1, D).
        labels: (P, C), the last output "none", for which the constant stands.
    """
    cells = np.append(np.arange(labels.shape[1] - 1), labels.shape[1])
    own = gram[:, cells][:, :, cells]
    scale = np.trace(own, axis1=1, axis2=2)[:, None, None] / len(cells)
    maps = np.linalg.solve(own + RIDGE * scale * np.eye(len(cells)), cross[:, cells])[:, :-1]
    return labels[:-1, :-1] @ maps


def pattern_statistics(gram: np.ndarray, cross: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Statistics (B, K) of activation patterns; `weights` (K, P - 1, P - 1) over the patterns but the last."""
    return statistics(pattern_images(gram, cross, labels), weights)


def level_of(trials: TrialMoments, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Statistics (K,) of a day."""
    total = trials.total()
    return pattern_statistics(total.gram[None], total.cross[None], labels, weights)[0]


def permute_pattern_trials(
    reference: TrialMoments, day: TrialMoments, labels: np.ndarray, weights: np.ndarray, draws: int, seed: int
) -> Permutation:
    """`permute_trials` for activation patterns: trials change days within what was stimulated in them."""
    pool = _flat(reference, day)
    total = pool.sum(axis=0)
    pattern = np.concatenate([reference.pattern, day.pattern])
    kept = np.bincount(reference.pattern, minlength=len(labels))
    rng = np.random.default_rng(seed)

    def levels(sums: np.ndarray) -> np.ndarray:
        return pattern_statistics(*_unflat(sums, reference), labels, weights)

    def shuffled(number: int) -> np.ndarray:
        share = np.zeros((number, len(pool)))
        for p in np.unique(pattern):
            own = np.flatnonzero(pattern == p)
            order = rng.permuted(np.broadcast_to(own, (number, len(own))), axis=1)
            np.put_along_axis(share, order[:, : kept[p]], 1.0, axis=1)
        before = share @ pool
        return levels(total - before) - levels(before)

    change = level_of(day, labels, weights) - level_of(reference, labels, weights)
    drawn = in_batches(shuffled, draws)
    near = np.abs(drawn) < np.abs(change) - 1e-9 * (1 + np.abs(change))
    return Permutation(change, (1 + np.count_nonzero(~near, axis=0)) / (1 + draws), drawn)


def bootstrap_pattern_change(
    reference: Sequence[TrialMoments], day: Sequence[TrialMoments], labels: np.ndarray, weights: np.ndarray,
    draws: int, seed: int, joint: bool,
) -> np.ndarray:  # fmt: skip
    """`bootstrap_change` for activation patterns: networks, then trials within what was stimulated, drawn again."""
    rng = np.random.default_rng(seed)
    draw_of: list[Callable[[int, np.ndarray], np.ndarray]] = [_drawer(own, rng) for own in (reference, day)]

    def drawn(number: int) -> np.ndarray:
        first = rng.integers(len(reference), size=number)
        second = first if joint else rng.integers(len(day), size=number)
        before, after = (
            pattern_statistics(*_unflat(draw(number, chosen), reference[0]), labels, weights)
            for draw, chosen in zip(draw_of, (first, second), strict=True)
        )
        return after - before

    return in_batches(drawn, draws)


def _drawer(seeds: Sequence[TrialMoments], rng: np.random.Generator) -> Callable[[int, np.ndarray], np.ndarray]:
    flat = [_flat(trials) for trials in seeds]

    def draw(number: int, chosen: np.ndarray) -> np.ndarray:
        sums = np.zeros((number, flat[0].shape[1]))
        for s in np.unique(chosen):
            mine = np.flatnonzero(chosen == s)
            times = np.zeros((len(mine), len(flat[s])))
            for p in np.unique(seeds[s].pattern):
                own = np.flatnonzero(seeds[s].pattern == p)
                times[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=len(mine))
            sums[mine] = times @ flat[s]
        return sums

    return draw


def _flat(*days: TrialMoments) -> np.ndarray:
    return np.concatenate(
        [np.concatenate([t.gram.reshape(len(t.gram), -1), t.cross.reshape(len(t.cross), -1)], axis=1) for t in days]
    )


def _unflat(sums: np.ndarray, like: TrialMoments) -> tuple[np.ndarray, np.ndarray]:
    signals = like.gram.shape[1]
    gram = sums[:, : signals * signals].reshape(-1, signals, signals)
    return gram, sums[:, signals * signals :].reshape(-1, signals, like.cross.shape[2])
