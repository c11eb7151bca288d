"""Did ZNCC change between two days: what may be compared, how sure the change is, and the sentence to print.

The source presentation reads a rise of the ZNCC sum from 208.8 (POD0) to 262.1 (POD3), one network per day, as stronger
functional connectivity. Ours: an effect is called only when it exceeds both the trials' and the networks' noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

DECLARED = ("mean_offdiag", "disjoint", "singles")  # what Holm's correction runs over, fixed before looking
ENUMERATED = 20_000  # divisions of seeds beyond this number are drawn, not listed
NULL_BOUND = 0.1  # share of null worlds that may come out as an effect: two of twenty
SCOPES = ("per_day", "joint", "frames")


def check_comparable(reference: Mapping[str, Any], day: Mapping[str, Any]) -> None:
    """Refuse to compare days made differently.

    Args:
        reference: what must agree, by name: cells, area, patterns, mask, map resolution, method, layer.
        day: the same of the other day.

    Raises:
        ValueError: listing everything that differs.
    """
    differences = []
    for name in sorted(set(reference) | set(day)):
        before, after = reference.get(name), day.get(name)
        if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
            if before.shape != after.shape:
                differences.append(f"{name}: shape {before.shape} and {after.shape}")
            elif not np.array_equal(before, after):
                differences.append(f"{name}: {np.count_nonzero(before != after)} of {before.size} positions differ")
        elif name == "patterns" and before is not None and after is not None:
            differences += _difference_of_lists(before, after)
        elif before != after:
            differences.append(f"{name}: {before!r} and {after!r}")
    if differences:
        raise ValueError("the days cannot be compared: " + "; ".join(differences) + ". Make both in the same way.")


def align_patterns(reference: Sequence[str], day: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of the patterns both days have, in the reference's order, and the names that fall out."""
    common = [name for name in reference if name in set(day)]
    if len(common) < 2:
        raise ValueError(f"the days share {len(common)} pattern(s) of {len(reference)} and {len(day)}; two are needed")
    dropped = sorted(set(reference) ^ set(day))
    rows = [np.array([list(names).index(name) for name in common]) for names in (reference, day)]
    return rows[0], rows[1], dropped


def permute_seeds(reference: np.ndarray, day: np.ndarray, draws: int = 5000, seed: int = 0) -> float:
    """Two-sided p of the difference of means when the networks' seeds change days.

    All divisions are listed while they are few (5 + 5 seeds: 252, smallest p 2/252); it measures the noise of
    training only, not that of sampling trials. Three seeds a day can never give p below 0.1.

    Args:
        reference: (S,) one statistic per seed.
        day: (S',) of the other day.
        draws: random divisions where there are too many to list.
        seed: of the draws.
    """
    if len(reference) == 0 or len(day) == 0:
        raise ValueError(f"a seed or more per day is needed, came {len(reference)} and {len(day)}")
    pooled = np.concatenate([reference, day]).astype(np.float64)
    n, first = len(pooled), len(reference)
    listed = comb(n, first) <= ENUMERATED
    if listed:
        chosen = np.array(list(combinations(range(n), first)))
    else:
        rng = np.random.default_rng(seed)
        chosen = np.argsort(rng.random((draws, n)), axis=1)[:, :first]
    sums = pooled[chosen].sum(axis=1)
    changes = (pooled.sum() - sums) / len(day) - sums / first
    observed = day.mean() - reference.mean()
    far = np.count_nonzero(np.abs(changes) >= np.abs(observed) - 1e-12 * (1 + np.abs(pooled).max()))
    return far / len(chosen) if listed else (1 + far) / (1 + draws)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number by Holm's step-down rule.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    corrected, floor = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = floor
    return {name: corrected[name] for name in p_values}


@dataclass(frozen=True)
class Change:
    """One statistic on two days.

    Attributes:
        reference, day: its level per seed (S,) and (S',).
        p_trial: p of the trial permutation, one per pair of seeds.
        p_seed: p of the seed permutation.
        interval: 95 % of the change, by bootstrap over seeds and trials.
        scope: "per_day", a network per day; "joint", one for both; "frames", maps made without a network.
    """

    reference: np.ndarray
    day: np.ndarray
    p_trial: np.ndarray
    p_seed: float
    interval: tuple[float, float]
    scope: str

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ValueError(f"scope='{self.scope}' is unknown; choose one of {', '.join(SCOPES)}")
        if self.scope != "per_day" and len(self.reference) != len(self.day):
            raise ValueError(f"joint networks have both days: came {len(self.reference)} and {len(self.day)} seeds")

    @property
    def size(self) -> float:
        """Mean over seeds, day minus reference."""
        return float(self.day.mean() - self.reference.mean())

    @property
    def percent(self) -> float:
        """Of the reference's mean; NaN where that is 0."""
        level = float(self.reference.mean())
        return 100 * self.size / abs(level) if level else float("nan")

    @property
    def p(self) -> float:
        """The p that the rule reads: with a network per day the larger of both kinds, else that over trials."""
        over_trials = float(np.median(self.p_trial))
        return max(over_trials, self.p_seed) if self.scope == "per_day" else over_trials


def find_effect(change: Change, null_effects: int = 0, null_worlds: int = 0) -> tuple[bool, str]:
    """Whether a change may be called an effect, and why not.

    With a network per day: the larger of the median trial p and the seed p is below 0.05. With joint networks, or
    without one: the median trial p is, and every seed has the same sign. In both the interval excludes 0, and
    simulated null worlds (effects found in worlds without one) stay within their bound.
    """
    reasons = []
    if not change.p < 0.05:
        reasons.append(f"p = {change.p:.2g} is not below 0.05")
    if not (change.interval[0] > 0 or change.interval[1] < 0):
        reasons.append(f"the interval {change.interval[0]:.3g} to {change.interval[1]:.3g} holds 0")
    if change.scope != "per_day" and len(np.unique(np.sign(change.day - change.reference))) > 1:
        reasons.append("seeds disagree about the sign")
    if null_worlds and null_effects / null_worlds > NULL_BOUND:
        reasons.append(f"{null_effects} of {null_worlds} worlds without an effect came out as one: headline withheld")
    return not reasons, "; ".join(reasons)


def describe_change(
    change: Change,
    name: str,
    days: tuple[str, str],
    area: str,
    num_animals: int,
    null_effects: int = 0,
    null_worlds: int = 0,
) -> str:
    """The headline in one sentence, with effect, interval, p and number of seeds.

    Args:
        change: of one statistic.
        name: of the statistic, such as "the ZNCC sum".
        days: names of the reference and of the other day.
        area: where was imaged.
        num_animals: one animal speaks for itself only.
        null_effects, null_worlds: see `find_effect`; 0 worlds when none were run.
    """
    called, reasons = find_effect(change, null_effects, null_worlds)
    who = "In this animal" if num_animals == 1 else f"In {num_animals} animals"
    direction = ("rose" if change.size > 0 else "fell") if called else "was not distinguishable"
    before, after = change.reference.mean(), change.day.mean()
    noise = {
        "per_day": (
            f" (conditional on the networks of each day), p over seeds {change.p_seed:.2g}, "
            f"{len(change.reference)} + {len(change.day)} seeds"
        ),
        "joint": f" (one network for both days), p over seeds {change.p_seed:.2g}, {len(change.day)} seeds",
        "frames": " (no network)",
    }[change.scope]
    between = f"from {before:.4g} ({days[0]}) to {after:.4g} ({days[1]})"
    if not called:
        between = f"between {days[0]} ({before:.4g}) and {days[1]} ({after:.4g})"
    sentence = (
        f"{who} ({area}), {name} {direction} {between}: change {change.size:+.4g} ({change.percent:+.1f} %), "
        f"95 % interval {change.interval[0]:+.4g} to {change.interval[1]:+.4g}, p over trials "
        f"{np.median(change.p_trial):.2g}{noise}"
    )
    if null_worlds:
        sentence += f"; {null_effects} of {null_worlds} worlds without an effect gave one"
    return sentence + (f" ({reasons})." if reasons else ".")


def _difference_of_lists(before: Sequence[str], after: Sequence[str]) -> list[str]:
    if list(before) == list(after):
        return []
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    if not gone and not new:
        return ["patterns: the same in another order"]
    return [f"patterns: only in the reference {gone or 'none'}, only in the other {new or 'none'} (align them to drop)"]
