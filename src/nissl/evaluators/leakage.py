"""How much of an accuracy is leak: the same networks under the run's own split and under one that tears its groups.

Neighbouring frames share decaying calcium, drift and motion, so a test frame beside a training frame is partly known.
The source presentation does not say how its test frames were chosen. With `dataset.leak_split=frame` each network has a
twin of the same first weights, trained and tested on that split; the gap between both is printed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.evaluators.result import Figure, Result
from nissl.evaluators.stimulus import predict

BLUE, ORANGE = "#0072B2", "#E69F00"  # Okabe and Ito


class Leakage:
    """Compare the twins of a run; with folds, every frame is tested once under both splits.

    Args:
        batch_size: frames per forward pass.
        bootstrap_draws: of the interval over trials (or blocks of time).
        seed: of the draws.
    """

    metrics = {
        "leakage/accuracy_own": "max",
        "leakage/accuracy_leaky": None,
        "leakage/majority": None,
        "leakage/gap": "min",
        "leakage/gap_low": None,
        "leakage/gap_high": None,
        "leakage/gap_lowest_seed": None,
        "leakage/gap_highest_seed": None,
    }

    def __init__(self, batch_size: int, bootstrap_draws: int, seed: int) -> None:
        self.batch_size, self.bootstrap_draws, self.seed = batch_size, bootstrap_draws, seed

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        members = getattr(task, "members", [])
        if not any(member.leaky for member in members):
            raise ValueError(
                "leakage needs twins on a split that leaks: set dataset.leak_split=frame and dataset.network_seeds, "
                "with model=stimulus_networks and task=parallel_classification"
            )
        # (leaky, seed) -> hits and trials of the test frames, over folds and days
        hits: dict[tuple[bool, int], list[np.ndarray]] = {}
        trials: dict[tuple[bool, int], list[np.ndarray]] = {}
        shares: list[np.ndarray] = []
        for member in members:
            p = predict(member, source.view(member), "test", self.batch_size)
            hits.setdefault((member.leaky, member.seed), []).append(p.lenient)
            trials.setdefault((member.leaky, member.seed), []).append(p.trial)
            shares.append(p.labels.mean(axis=0))
        seeds = sorted({seed for _, seed in hits})
        rows: list[dict[str, Any]] = []
        for seed in seeds:
            own, leaky = (float(np.concatenate(hits[kind, seed]).mean()) for kind in (False, True))
            rows.append({"seed": seed, "accuracy_own": own, "accuracy_leaky": leaky, "gap": leaky - own})
        mean = {name: float(np.mean([row[name] for row in rows])) for name in ("accuracy_own", "accuracy_leaky", "gap")}
        leaky_hit, own_hit = (np.concatenate([np.concatenate(hits[k, s]) for s in seeds]) for k in (True, False))
        leaky_trial, own_trial = (np.concatenate([np.concatenate(trials[k, s]) for s in seeds]) for k in (True, False))
        low, high = bootstrap_gap(leaky_hit, own_hit, leaky_trial, own_trial, self.bootstrap_draws, self.seed)
        gaps = [row["gap"] for row in rows]
        majority = float(np.mean(shares, axis=0).max())
        torn, whole = source.leak_split, source.split_group
        return Result(
            scalars={
                "leakage/accuracy_own": mean["accuracy_own"],
                "leakage/accuracy_leaky": mean["accuracy_leaky"],
                "leakage/majority": majority,
                "leakage/gap": mean["gap"],
                "leakage/gap_low": low,
                "leakage/gap_high": high,
                "leakage/gap_lowest_seed": min(gaps),
                "leakage/gap_highest_seed": max(gaps),
            },
            figures={"leakage": _draw(rows, majority, whole, torn)},
            tables={"seeds": rows},
            notes=[
                f"test accuracy (lenient) split by {torn}: {mean['accuracy_leaky']:.3f}; split by {whole}: "
                f"{mean['accuracy_own']:.3f}; commonest output {majority:.3f}. The leak is {mean['gap']:+.3f} "
                f"[{low:+.3f}, {high:+.3f}] over trials, {min(gaps):+.3f} to {max(gaps):+.3f} over {len(seeds)} seed(s)"
            ],
        )


def bootstrap_gap(
    hit: np.ndarray, other_hit: np.ndarray, trial: np.ndarray, other_trial: np.ndarray, draws: int, seed: int
) -> tuple[float, float]:
    """95 % interval of mean(hit) - mean(other_hit) when trials are drawn again; the same draw serves both.

    Args:
        hit, other_hit: (F,) and (F',), 0 or 1 per frame; a frame may occur once per seed.
        trial, other_trial: their trials; a trial missing on one side counts on the other only.
    """
    trials, place = np.unique(np.concatenate([trial, other_trial]), return_inverse=True)
    sides = [(place[: len(trial)], hit), (place[len(trial) :], other_hit)]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(trials), np.full(len(trials), 1 / len(trials)), size=draws)  # (draws, trials)
    means = []
    for where, values in sides:
        sums = np.bincount(where, weights=values, minlength=len(trials))
        means.append((times @ sums) / (times @ np.bincount(where, minlength=len(trials))))
    low, high = np.nanpercentile(means[0] - means[1], [2.5, 97.5])
    return float(low), float(high)


def _draw(rows: list[dict[str, Any]], majority: float, whole: str, torn: str) -> Figure:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(3.8, 3.2))
    ax = canvas.subplots()
    values = np.array([[row["accuracy_own"], row["accuracy_leaky"]] for row in rows])
    ax.bar([0, 1], values.mean(axis=0), color=[BLUE, ORANGE], alpha=0.6, width=0.6)
    for pair in values:
        ax.plot([0, 1], pair, "o-", color="black", ms=3, lw=0.8)
    ax.axhline(majority, color="black", linestyle="--", lw=1, label="commonest output")
    ax.set(xticks=[0, 1], xticklabels=[f"split by {whole}", f"split by {torn}"], ylim=(0, 1.02))
    ax.set(ylabel="lenient accuracy (share of frames)")
    ax.legend(loc="upper left", frameon=False, fontsize=8)
    return Figure.from_matplotlib(
        canvas,
        f"Test accuracy of the same networks when {whole}s stay together and when they are torn. Lines: one seed each; "
        "what the right bar has above the left one is leak.",
        {"seeds": values},
    )
