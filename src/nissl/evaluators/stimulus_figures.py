"""Figures of the accuracy card: bars with intervals, recall per cell, confusion, accuracy by frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.evaluators.result import Figure

# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"


def accuracy_bars(cards: dict[str, dict[str, float]]) -> Figure:
    """Lenient accuracy by part, against the constant and the random answer."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.6, 3.2))
    ax = canvas.subplots()
    parts = list(cards)
    values = np.array([cards[part]["accuracy_lenient"] for part in parts])
    ends = np.array([[cards[part][f"accuracy_lenient_{end}"] for end in ("low", "high")] for part in parts])
    ax.bar(parts, values, color=[GREY, GREEN, BLUE][: len(parts)], width=0.6)
    ax.errorbar(parts, values, yerr=_error(values, ends), fmt="none", color="black", capsize=4)
    for i, value in enumerate(values):
        ax.text(i, 0.03, f"{value:.3f}", ha="center", color="white", fontweight="bold")
    ax.axhline(cards["test"]["majority"], color=ORANGE, label="commonest output, test")
    ax.axhline(cards["test"]["chance"], color="black", linestyle=":", label="random output, test")
    ax.set(ylim=(0, 1.02), ylabel="lenient accuracy (share of frames)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return Figure.from_matplotlib(
        canvas,
        "Share of frames whose strongest output is a stimulated cell; 95 % intervals by drawing whole trials again.",
        {"accuracy": np.column_stack([values, ends])},
    )


def recall_bars(rows: list[dict[str, Any]]) -> Figure:
    """Recall of each cell under three readings, with Wilson intervals over trials."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(max(5.0, 0.8 * len(rows) + 2), 3.4))
    ax = canvas.subplots()
    readings = {"top1": "strongest output", "topk": "k strongest", "sigmoid": "p > 0.5"}
    places = np.arange(len(rows))
    for shift, (name, label), colour in zip((-0.27, 0, 0.27), readings.items(), (BLUE, ORANGE, GREEN), strict=True):
        values = np.array([row[name] for row in rows])
        ends = np.array([[row[f"{name}_low"], row[f"{name}_high"]] for row in rows])
        ax.bar(places + shift, values, width=0.25, color=colour, label=label)
        ax.errorbar(places + shift, values, yerr=_error(values, ends), fmt="none", color="black", capsize=2, lw=0.8)
    ceiling = float(np.mean([row["ceiling_top1"] for row in rows]))
    ax.axhline(ceiling, color=BLUE, linestyle="--", lw=1, label=f"mean ceiling of strongest output, {ceiling:.3f}")
    ax.axhline(0.5, color="black", linestyle=":", lw=1, label="0.5")
    ax.set(xticks=places, xticklabels=[row["cell"] for row in rows], ylim=(0, 1.02))
    ax.set(xlabel="output", ylabel="recall (share of its frames)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    columns = (
        "top1",
        "top1_low",
        "top1_high",
        "topk",
        "topk_low",
        "topk_high",
        "sigmoid",
        "sigmoid_low",
        "sigmoid_high",
    )
    return Figure.from_matplotlib(
        canvas,
        "Test recall of each cell; bars over frames, 95 % Wilson intervals over trials. With pairs in the design the "
        "strongest output alone cannot name both cells, hence the dashed ceiling.",
        {"recall": np.array([[row[c] for c in columns] for row in rows])},
    )


def confusion(counts: np.ndarray, patterns: list[str], outputs: list[str]) -> Figure:
    """Share of each true pattern's frames by the strongest output."""
    from matplotlib.figure import Figure as Canvas

    share = counts / counts.sum(axis=1, keepdims=True).clip(1)
    canvas = Canvas(figsize=(1.8 + 0.38 * len(outputs), 1.4 + 0.18 * len(patterns)))
    ax = canvas.subplots()
    image = ax.imshow(share, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(outputs)), outputs)
    ax.set_yticks(range(len(patterns)), patterns, fontsize=7)
    ax.set(xlabel="strongest output", ylabel="true pattern")
    canvas.colorbar(image, ax=ax, label="share of the pattern's test frames")
    return Figure.from_matplotlib(
        canvas, "Test frames of each true pattern (row) by the network's strongest output.", {"counts": counts}
    )


def by_frame(rows: list[dict[str, float]]) -> Figure:
    """Lenient accuracy against frames since onset."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.6, 3.0))
    ax = canvas.subplots()
    since = np.array([row["frame_since_onset"] for row in rows])
    values = np.array([row["accuracy_lenient"] for row in rows])
    ends = np.array([[row["low"], row["high"]] for row in rows])
    ax.errorbar(since, values, yerr=_error(values, ends), fmt="o", color=BLUE, capsize=3)
    ax.axvline(-0.5, color="black", linestyle=":", lw=1)
    ax.set(
        ylim=(0, 1.02), xlabel="frames since onset (or start of a block)", ylabel="lenient accuracy (share of frames)"
    )
    return Figure.from_matplotlib(
        canvas,
        "Test accuracy by frame since stimulus onset (dotted: onset; before it the right answer is none); "
        "95 % Wilson intervals over frames.",
        {"by_frame": np.column_stack([since, values, ends])},
    )


def day_accuracies(levels: dict[str, np.ndarray], scalars: dict[str, float]) -> Figure:
    """Lenient test accuracy of every network, by day, with the interval over trials of their mean."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(1.6 + 1.2 * len(levels), 3.2))
    ax = canvas.subplots()
    days = list(levels)
    means = np.array([levels[day].mean() for day in days])
    ends = np.array(
        [[scalars[f"stimulus_days/accuracy_lenient_{end}_{day}"] for end in ("low", "high")] for day in days]
    )
    ax.bar(range(len(days)), means, width=0.6, color=[BLUE, ORANGE, GREEN, GREY][: len(days)], alpha=0.6)
    ax.errorbar(range(len(days)), means, yerr=_error(means, ends), fmt="none", color="black", capsize=5)
    for i, day in enumerate(days):
        own = levels[day]
        ax.plot(i + np.linspace(0.1, 0.25, len(own)), own, "o", color="black", ms=3)
        ax.text(i, 0.03, f"{means[i]:.3f}", ha="center", fontweight="bold")
        for name, style in (("majority", "--"), ("chance", ":")):
            level = scalars[f"stimulus_days/{name}_{day}"]
            label = {"majority": "commonest output", "chance": "random output"}[name] if i == 0 else None
            ax.plot([i - 0.4, i + 0.4], [level, level], color="black", linestyle=style, lw=1, label=label)
    ax.set(xticks=range(len(days)), xticklabels=days, ylim=(0, 1.02), ylabel="lenient accuracy (share of frames)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    rows = np.array([[i, value] for i, day in enumerate(days) for value in levels[day]])
    return Figure.from_matplotlib(
        canvas,
        "Test frames of held-out trials whose strongest output is a stimulated cell, by day. Points: one network each; "
        "bars: their mean, with the 95 % interval by drawing whole trials again.",
        {"networks": rows, "mean_low_high": np.column_stack([means, ends])},
    )


def day_recalls(recalls: dict[str, list[dict[str, Any]]]) -> Figure:
    """Recall of each cell, the days side by side, by the strongest output and by the k strongest."""
    from matplotlib.figure import Figure as Canvas

    days, cells = list(recalls), [row["cell"] for row in next(iter(recalls.values()))]
    canvas = Canvas(figsize=(max(5.0, 0.6 * len(cells) + 2), 5.0))
    axes = canvas.subplots(2, 1, sharex=True)
    width, data = 0.8 / len(days), []
    for ax, (reading, label) in zip(axes, {"top1": "strongest output", "topk": "k strongest"}.items(), strict=True):
        for i, (day, colour) in enumerate(zip(days, (BLUE, ORANGE, GREEN, GREY), strict=False)):
            values = np.array([row[reading] for row in recalls[day]])
            ends = np.array([[row[f"{reading}_low"], row[f"{reading}_high"]] for row in recalls[day]])
            places = np.arange(len(cells)) + (i - (len(days) - 1) / 2) * width
            ax.bar(places, values, width=0.9 * width, color=colour, label=day)
            ax.errorbar(places, values, yerr=_error(values, ends), fmt="none", color="black", capsize=2, lw=0.8)
            data.append(np.column_stack([values, ends]))
        ax.axhline(0.5, color="black", linestyle=":", lw=1)
        ax.set(ylim=(0, 1.02), ylabel=f"recall,\n{label}")
    ceiling = float(np.mean([row["ceiling_top1"] for rows in recalls.values() for row in rows]))
    axes[0].axhline(ceiling, color="black", linestyle="--", lw=1, label=f"mean ceiling {ceiling:.3f}")
    axes[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    axes[1].set(xticks=range(len(cells)), xticklabels=cells, xlabel="stimulated cell")
    return Figure.from_matplotlib(
        canvas,
        "Test recall of each cell by day, mean over networks; 95 % Wilson intervals over trials (of one network). "
        "Dotted: one half. Dashed: what the strongest output alone can reach, as it names one cell of a pair.",
        {"recall": np.concatenate(data)},
    )


def day_frames(rows: list[dict[str, Any]]) -> Figure:
    """Lenient accuracy against frames since onset, one line per day."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.2, 3.0))
    ax = canvas.subplots()
    days = list(dict.fromkeys(row["day"] for row in rows))
    for i, (day, colour, mark) in enumerate(zip(days, (BLUE, ORANGE, GREEN, GREY), "osD^", strict=False)):
        own = [row for row in rows if row["day"] == day]
        since = np.array([row["frame_since_onset"] for row in own]) + 0.12 * i
        values = np.array([row["accuracy_lenient"] for row in own])
        ends = np.array([[row["low"], row["high"]] for row in own])
        ax.errorbar(since, values, yerr=_error(values, ends), fmt=mark, color=colour, capsize=3, ms=4, label=day)
    ax.axvline(-0.5, color="black", linestyle=":", lw=1)
    ax.set(ylim=(0, 1.02), xlabel="frames since onset", ylabel="lenient accuracy (share of frames)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    columns = ("frame_since_onset", "accuracy_lenient", "low", "high", "n")
    return Figure.from_matplotlib(
        canvas,
        "Test accuracy by frame since stimulus onset (dotted; before it the right answer is none), mean over networks; "
        "95 % Wilson intervals over frames.",
        {"by_frame": np.array([[days.index(row["day"]), *(row[c] for c in columns)] for row in rows])},
    )


def _error(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Distances below and above for `errorbar`; an interval over trials need not contain the rate over frames."""
    return np.abs(np.stack([(values - ends[:, 0]).clip(0), (ends[:, 1] - values).clip(0)]))
