"""Figures of the checks: weights drawn anew, pixels deleted and inserted, targets hidden, light at onset."""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.evaluators.result import Figure

# Okabe and Ito
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
ORDERS = {"map": (VERMILION, "by the map"), "random": (GREY, "at random"), "reversed": (BLUE, "map reversed")}


def randomisation(steps: list[dict[str, Any]], between: float | None) -> Figure:
    """Similarity of maps to those of the trained network as layers are drawn anew, last to first."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.0, 3.4), layout="constrained")
    ax = canvas.subplots()
    for kind, colour, marker in (("zncc", VERMILION, "o"), ("spearman", BLUE, "s"), ("ssim", GREEN, "^")):
        ax.plot(range(len(steps)), [step[kind] for step in steps], marker=marker, color=colour, label=kind)
    if between is not None:
        ax.axhline(between, color="black", lw=0.9, linestyle=":", label="another trained network (zncc)")
    ax.axhline(0, color="black", lw=0.6)
    ax.set_xticks(range(len(steps)), [step["redrawn"] for step in steps], rotation=40, ha="right", fontsize=7)
    ax.set(xlabel="layers with random weights, from the last up to", ylabel="similarity to trained maps (median)")
    ax.legend(fontsize=8, frameon=False)
    return Figure.from_matplotlib(
        canvas,
        "Maps as more of the network is drawn anew; maps that stay alike do not show what was learned.",
        {"similarity": np.array([[step[k] for k in ("zncc", "spearman", "ssim")] for step in steps])},
    )


def perturbation(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Mean probability of the label as pixels go (left) and come (right), in three orders."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7.6, 3.2), layout="constrained")
    axes = canvas.subplots(1, 2, sharey=True)
    for k, (ax, title) in enumerate(zip(axes, ("deletion", "insertion"), strict=True)):
        for name, both in curves.items():
            colour, label = ORDERS[name]
            values = both[k].mean(axis=1)
            error = both[k].std(axis=1) / np.sqrt(both[k].shape[1])
            share = np.linspace(0, 1, len(values))
            ax.plot(share, values, color=colour, label=label)
            ax.fill_between(share, values - error, values + error, color=colour, alpha=0.2, linewidth=0)
        ax.set(xlabel="share of pixels in the mask", title=title, ylim=(0, 1.02))
    axes[0].set_ylabel("probability of the true cells")
    axes[1].legend(fontsize=8, frameon=False)
    return Figure.from_matplotlib(
        canvas,
        "Pixels replaced by the mean idle frame (deletion) or revealed on it (insertion); mean over frames and its "
        "error. A good map deletes faster and inserts sooner than chance.",
        {
            f"{name}_{kind}": both[k]
            for name, both in curves.items()
            for k, kind in enumerate(("deletion", "insertion"))
        },
    )


def hidden_targets(scalars: dict[str, float]) -> Figure:
    """Accuracy with everything shown, all targets hidden, nothing but targets shown; network and linear decoder."""
    from matplotlib.figure import Figure as Canvas

    views = {"": "all shown", "_targets_hidden": "all targets\nhidden", "_targets_only": "only targets\nshown"}
    canvas = Canvas(figsize=(5.6, 3.4), layout="constrained")
    ax = canvas.subplots()
    at = np.arange(len(views))
    network = [scalars[f"map_checks/accuracy{view}"] for view in views]
    ends = np.array([[scalars[f"map_checks/accuracy{view}_{end}"] for end in ("low", "high")] for view in views])
    errors = np.abs(np.stack([(network - ends[:, 0]).clip(0), (ends[:, 1] - network).clip(0)]))
    ax.bar(at - 0.27, network, 0.25, yerr=errors, capsize=3, color=VERMILION, label="network (not trained anew)")
    linear = [scalars[f"map_checks/linear_accuracy{view}"] for view in views]
    ax.bar(at, linear, 0.25, color=BLUE, label="linear decoder, trained so")
    anew = scalars.get("map_checks/retrained_accuracy_targets_hidden")
    if anew is not None:
        ax.bar([1.27], [anew], 0.25, color=GREEN, label="network trained so")
    ax.axhline(scalars["map_checks/majority"], color="black", lw=0.9, linestyle=":", label="commonest answer")
    ax.set_xticks(at, list(views.values()))
    ax.set(ylim=(0, 1.02), ylabel="lenient test accuracy (share of frames)")
    canvas.legend(fontsize=7, frameon=False, loc="outside lower center", ncol=3)
    return Figure.from_matplotlib(
        canvas,
        "Test accuracy when discs over all stimulated cells, the same for every label, are filled with the mean frame; "
        "what is left above the dotted line is told by other cells. Intervals: bootstrap over trials.",
        {"network": np.column_stack([network, ends]), "linear": np.array(linear)},
    )


def laser(frames: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Figure:
    """Brightness of the stimulated cells by frame since onset."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.8, 3.0), layout="constrained")
    ax = canvas.subplots()
    ax.errorbar(frames, values, yerr=2 * errors, color=BLUE, marker="o", capsize=3)
    ax.axhline(0, color="black", lw=0.6)
    ax.set(xlabel="frames since onset", ylabel="stimulated cells above idle\n(input units)")
    return Figure.from_matplotlib(
        canvas,
        "Brightness of the stimulated cells after onset, frames excluded from training included (mean, two errors). "
        "Calcium rises and lingers; laser light is there at once and gone.",
        {"course": np.column_stack([frames, values, errors])},
    )
