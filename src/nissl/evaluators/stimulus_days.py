"""Accuracy of every network of a run on every day: spread over seeds, recall per cell, and what changed between days.

The source presentation reports 92 % before and 85 % after, one network each, and reads the fall as stronger coupling.
Ours: several networks per day; the change is tested by giving trials, never frames, to either day, and by giving
networks to either day; and the constant and the random answer stand beside both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators import stimulus_figures as draw
from nissl.evaluators.accuracy import Predictions, accuracy_by_frame, accuracy_card, cell_recalls
from nissl.evaluators.day_change import permute_seeds
from nissl.evaluators.rate_intervals import permute_days, trial_bootstrap_interval
from nissl.evaluators.result import Result
from nissl.evaluators.stimulus import laser_notes, predict

SHOWN = (
    "accuracy_lenient", "accuracy_strict", "accuracy_exact", "accuracy_balanced", "accuracy_stimulated",
    "accuracy_trial", "recall_topk", "jaccard", "none_recall", "none_share", "majority", "chance", "auroc_macro",
)  # fmt: skip
READINGS = ("top1", "topk", "sigmoid", "lenient")


class StimulusDays:
    """Measure the classifiers of one or several days.

    Args:
        batch_size: frames per forward pass.
        draws: of the permutation of trials between days.
        bootstrap_draws: of the interval over trials.
        seed: of both.
    """

    # Each with the name of a day in place of the star.
    metrics = {
        "stimulus_days/accuracy_lenient_sd_*": None,
        "stimulus_days/accuracy_lenient_low_*": "max",
        "stimulus_days/accuracy_lenient_high_*": "max",
        "stimulus_days/train_accuracy_lenient_*": "max",
        "stimulus_days/accuracy_*": "max",
        "stimulus_days/recall_*": "max",
        "stimulus_days/cells_at_or_below_half_*": "min",
        "stimulus_days/jaccard_*": "max",
        "stimulus_days/none_recall_*": "max",
        "stimulus_days/none_share_*": None,
        "stimulus_days/majority_*": None,
        "stimulus_days/chance_*": None,
        "stimulus_days/auroc_macro_*": "max",
        "stimulus_days/ceiling_top1_*": None,
        "stimulus_days/change_*": None,
        "stimulus_days/p_trial_*": None,
        "stimulus_days/p_seed_*": None,
    }

    def __init__(self, batch_size: int, draws: int, bootstrap_draws: int, seed: int) -> None:
        self.batch_size, self.draws, self.bootstrap_draws, self.seed = batch_size, draws, bootstrap_draws, seed

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        outputs = list(source.outputs)
        scalars: dict[str, float] = {}
        tables: dict[str, list[dict[str, Any]]] = {"networks": [], "recall_per_cell": [], "by_frame": []}
        tests: dict[str, list[Predictions]] = {}
        levels: dict[str, np.ndarray] = {}
        recalls: dict[str, list[dict[str, Any]]] = {}
        notes = []
        for day in source.days:
            view = source.of_day(day)
            networks = [network for network in task.networks if network.day in (day, None)]
            tests[day] = [predict(network, view, "test", self.batch_size) for network in networks]
            train = [predict(network, view, "train", self.batch_size).lenient.mean() for network in networks]
            cards = [accuracy_card(p) for p in tests[day]]
            for network, known, card in zip(networks, train, cards, strict=True):
                scope = "all" if network.day is None else network.day
                row = {"day": day, "seed": network.seed, "trained_on": scope, "train_accuracy_lenient": float(known)}
                tables["networks"].append({**row, **card})
            levels[day] = np.array([card["accuracy_lenient"] for card in cards])
            scalars |= {f"stimulus_days/{name}_{day}": float(np.mean([c[name] for c in cards])) for name in SHOWN}
            spread = float(levels[day].std(ddof=1)) if len(cards) > 1 else float("nan")
            low, high = self._interval(tests[day])
            rows = mean_rows([cell_recalls(p, outputs) for p in tests[day]])
            recalls[day] = rows
            ceiling = float(np.mean([row["ceiling_top1"] for row in rows]))
            scalars |= {
                f"stimulus_days/accuracy_lenient_sd_{day}": spread,
                f"stimulus_days/accuracy_lenient_low_{day}": low,
                f"stimulus_days/accuracy_lenient_high_{day}": high,
                f"stimulus_days/train_accuracy_lenient_{day}": float(np.mean(train)),
                f"stimulus_days/ceiling_top1_{day}": ceiling,
            }
            for reading in READINGS[:3]:
                values = np.array([float(row[reading]) for row in rows])
                scalars[f"stimulus_days/recall_{reading}_{day}"] = float(values.mean())
                scalars[f"stimulus_days/cells_at_or_below_half_{reading}_{day}"] = float((values <= 0.5).sum())
            tables["recall_per_cell"] += [{"day": day, **row} for row in rows]
            frames = mean_rows([accuracy_by_frame(p) for p in tests[day]])
            tables["by_frame"] += [{"day": day, **row} for row in frames]
            notes.append(
                f"{day}: test accuracy (lenient) {levels[day].mean():.3f} [{low:.3f}, {high:.3f}] over trials, "
                f"{_range(levels[day])} over {len(cards)} network(s), training {np.mean(train):.3f}; commonest output "
                f"{cards[0]['majority']:.3f}, random {cards[0]['chance']:.3f}; "
                f"{scalars[f'stimulus_days/cells_at_or_below_half_top1_{day}']:.0f} of {len(rows)} cells are the "
                f"strongest output in at most half of their frames (mean ceiling {ceiling:.3f})"
            )
        for day in source.days[1:]:
            notes.append(self._compare(source.days[0], day, tests, levels, scalars))
        notes += laser_notes(source)
        return Result(
            scalars=scalars,
            figures={
                "accuracy": draw.day_accuracies(levels, scalars),
                "recall_per_cell": draw.day_recalls(recalls),
                "by_frame": draw.day_frames(tables["by_frame"]),
            },
            tables=tables,
            notes=notes,
        )

    def _interval(self, predictions: Sequence[Predictions]) -> tuple[float, float]:
        """95 % over trials of the accuracy, averaged over networks: they saw the same frames."""
        hit = np.mean([p.lenient for p in predictions], axis=0)
        first = predictions[0]
        return trial_bootstrap_interval(hit, first.trial, first.trial_pattern, self.bootstrap_draws, self.seed)

    def _compare(
        self,
        reference: str,
        day: str,
        tests: dict[str, list[Predictions]],
        levels: dict[str, np.ndarray],
        scalars: dict[str, float],
    ) -> str:
        """Add the change and its p values to the scalars; returns the sentence."""
        both = [tests[reference], tests[day]]
        change, p_trial = permute_days(
            [np.mean([p.lenient for p in ps], axis=0) for ps in both],
            [ps[0].trial for ps in both],
            [ps[0].trial_pattern for ps in both],
            self.draws,
            self.seed,
        )
        p_seed = permute_seeds(levels[reference], levels[day])
        scalars[f"stimulus_days/change_{day}"] = change
        scalars[f"stimulus_days/p_trial_{day}"] = p_trial
        scalars[f"stimulus_days/p_seed_{day}"] = p_seed
        return (
            f"{reference} to {day}: accuracy changed by {change:+.3f}, p {p_trial:.2g} over trials (given the "
            f"networks), {p_seed:.2g} over networks. That stronger coupling makes patterns less separable is a "
            "hypothesis, not shown by this number."
        )


def mean_rows(tables: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Mean of the numbers of equally shaped tables, row by row; text is taken from the first.

    An interval's end becomes the mean end: the interval of one network, not of their mean.
    """
    return [
        {
            key: value if isinstance(value, str) else float(np.mean([row[key] for row in rows]))
            for key, value in rows[0].items()
        }
        for rows in zip(*tables, strict=True)
    ]


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3f} to {values.max():.3f}"
