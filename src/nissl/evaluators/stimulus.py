"""Accuracy card of a stimulus classifier: all readings, baselines, recall per cell, on train, val and test frames.

The headline `stimulus/accuracy_lenient` is the source presentation's rule on test frames; the majority answer stands
beside it, because frames without stimulation may make most of the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from nissl.evaluators import stimulus_figures as draw
from nissl.evaluators.accuracy import (
    Predictions,
    accuracy_by_frame,
    accuracy_card,
    cell_recalls,
    confusion_counts,
)
from nissl.evaluators.rate_intervals import trial_bootstrap_interval
from nissl.evaluators.result import Result

LASER_WARNING = 3.0  # standard deviations of unlit frames


def predict(task: Any, source: Any, part: str, batch_size: int) -> Predictions:
    """Logits of all frames of a part, none of them varied."""
    loader = DataLoader(source.unvaried(part), batch_size=batch_size)
    logits, rows = [], []
    with torch.inference_mode():
        for batch in loader:
            rows.append(batch["index"].numpy())
            moved = {**batch, "frames": batch["frames"].to(task.device)}
            logits.append(task(moved).float().cpu().numpy())
    index = np.concatenate(rows)
    pattern = source.table.pattern[index]
    return Predictions(
        logits=np.concatenate(logits),
        labels=source.labels[pattern],
        pattern=pattern,
        trial=source.table.trial[index],
        since_onset=source.table.since_onset[index],
        has_none=source.outputs[-1] == "none",
    )


class Stimulus:
    """Measure a classifier of calcium frames.

    Args:
        batch_size: frames per forward pass.
        bootstrap_draws: samples of the interval over trials.
        seed: of the bootstrap.
    """

    metrics = {
        "stimulus/accuracy_lenient": "max",
        "stimulus/accuracy_lenient_low": "max",
        "stimulus/accuracy_lenient_high": "max",
        "stimulus/accuracy_strict": "max",
        "stimulus/accuracy_exact": "max",
        "stimulus/accuracy_balanced": "max",
        "stimulus/accuracy_balanced_strata": "max",
        "stimulus/accuracy_stimulated": "max",
        "stimulus/accuracy_trial": "max",
        "stimulus/recall_topk": "max",
        "stimulus/jaccard": "max",
        "stimulus/any_overlap": None,
        "stimulus/mean_predicted": None,
        "stimulus/none_recall": "max",
        "stimulus/none_share": None,
        "stimulus/majority": None,
        "stimulus/chance": None,
        "stimulus/auroc_macro": "max",
        "stimulus/ap_macro": "max",
        "stimulus/calibration_error": "min",
        "stimulus/train_accuracy_lenient": "max",
        "stimulus/val_accuracy_lenient": "max",
        "stimulus/gap_train_test": "min",
        "stimulus/ceiling_top1": None,
        "stimulus/mean_recall_top1": "max",
        "stimulus/mean_recall_topk": "max",
        "stimulus/mean_recall_sigmoid": "max",
        "stimulus/cells_at_or_below_half_top1": "min",
        "stimulus/cells_at_or_below_half_topk": "min",
        "stimulus/cells_at_or_below_half_sigmoid": "min",
    }

    def __init__(self, batch_size: int, bootstrap_draws: int, seed: int) -> None:
        self.batch_size, self.bootstrap_draws, self.seed = batch_size, bootstrap_draws, seed

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        parts = {name: predict(task, source, name, self.batch_size) for name in ("train", "val", "test")}
        cards = {name: self._card(p) for name, p in parts.items()}
        test = cards["test"]
        recalls = cell_recalls(parts["test"], list(source.outputs))
        scalars = {f"stimulus/{name}": value for name, value in test.items()}
        for name in ("train", "val"):
            scalars[f"stimulus/{name}_accuracy_lenient"] = cards[name]["accuracy_lenient"]
        scalars["stimulus/gap_train_test"] = cards["train"]["accuracy_lenient"] - test["accuracy_lenient"]
        scalars["stimulus/ceiling_top1"] = _column_mean(recalls, "ceiling_top1")
        for reading in ("top1", "topk", "sigmoid"):
            scalars[f"stimulus/mean_recall_{reading}"] = _column_mean(recalls, reading)
            at_most_half = sum(float(row[reading]) <= 0.5 for row in recalls)
            scalars[f"stimulus/cells_at_or_below_half_{reading}"] = float(at_most_half)

        names = [pattern.name for pattern in source.patterns]
        counts = confusion_counts(parts["test"], len(names))
        by_frame = accuracy_by_frame(parts["test"])
        return Result(
            scalars=scalars,
            figures={
                "accuracy": draw.accuracy_bars(cards),
                "recall_per_cell": draw.recall_bars(recalls),
                "confusion": draw.confusion(counts, names, list(source.outputs)),
                "by_frame": draw.by_frame(by_frame),
            },
            tables={
                "card": [{"metric": name, **{part: card[name] for part, card in cards.items()}} for name in test],
                "recall_per_cell": recalls,
                "by_frame": by_frame,
                "frames": source.frame_rows(),
            },
            arrays={"confusion": counts, "test_logits": parts["test"].logits},
            notes=_notes(source, cards, scalars, len(recalls)),
        )

    def _card(self, p: Predictions) -> dict[str, float]:
        card = accuracy_card(p)
        low, high = trial_bootstrap_interval(p.lenient, p.trial, p.trial_pattern, self.bootstrap_draws, self.seed)
        return {**card, "accuracy_lenient_low": low, "accuracy_lenient_high": high}


def _notes(source: Any, cards: dict[str, dict[str, float]], scalars: dict[str, float], num_cells: int) -> list[str]:
    test = cards["test"]
    notes = [
        f"test accuracy (lenient) {test['accuracy_lenient']:.3f} "
        f"[{test['accuracy_lenient_low']:.3f}, {test['accuracy_lenient_high']:.3f}]; always answering the commonest "
        f"output scores {test['majority']:.3f}, answering at random {test['chance']:.3f}",
        f"{scalars['stimulus/cells_at_or_below_half_top1']:.0f} of {num_cells} classes are recalled in at most half "
        f"of their frames by the strongest output alone (the ceiling of that reading is "
        f"{scalars['stimulus/ceiling_top1']:.3f}), {scalars['stimulus/cells_at_or_below_half_topk']:.0f} by the k "
        "strongest",
    ]
    notes += laser_notes(source)
    if source.split_group == "frame":
        notes.append("split by frame: neighbouring frames are in training and test, so these accuracies are inflated")
    if cards["train"]["accuracy_lenient"] < 0.99:
        notes.append(
            f"training accuracy is {cards['train']['accuracy_lenient']:.3f}, below the 0.99 at which the source "
            "presentation reads maps from training frames"
        )
    return notes


def laser_notes(source: Any) -> list[str]:
    """A warning where frames with laser light are used and stand out: they may be what the network reads."""
    bright = {name: z for name, z in source.laser_light().items() if z > LASER_WARNING}
    if not bright:
        return []
    listed = ", ".join(f"{name} ({z:.1f})" for name, z in bright.items())
    return [
        f"WARNING: laser artefact: used frames with laser light are brighter at the targets by more than "
        f"{LASER_WARNING:g} standard deviations in {listed}; a network may name the light, not the cells. Set "
        "dataset.drop_laser_frames=true and compare"
    ]


def _column_mean(rows: list[dict[str, float | str]], name: str) -> float:
    return float(np.mean([float(row[name]) for row in rows]))
