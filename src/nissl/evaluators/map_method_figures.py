"""Figures of map methods side by side: agreement with the truth, and their matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators.result import Figure

COLOURS = {"network": "#D55E00", "none": "#0072B2", "untrained": "#999999"}  # Okabe and Ito
KINDS = {"network": "maps of the trained network", "none": "without a network", "untrained": "random weights"}
MATRICES = ("gradcam", "layercam", "activation_pattern", "evoked", "truth")
WORDS = {
    "truth_r_disjoint": "correlation with the true matrix, pairs without a common cell",
    "disjoint_mean": "mean ZNCC of pairs without a common cell",
}


def agreement(rows: list[dict[str, Any]], key: str) -> Figure:
    """One line per method, best on top; a dot per network, its mean as a bar."""
    from matplotlib.figure import Figure as Canvas

    names = list(dict.fromkeys(row["method"] for row in rows))
    values = {name: np.array([row[key] for row in rows if row["method"] == name], dtype=float) for name in names}
    kind = {row["method"]: row["network"] for row in rows}
    means = {name: float(own.mean()) for name, own in values.items()}
    order = sorted(names, key=lambda name: means[name] if np.isfinite(means[name]) else -2)
    canvas = Canvas(figsize=(6.4, 0.9 + 0.27 * len(order)), layout="constrained")
    ax = canvas.subplots()
    for y, name in enumerate(order):
        colour = COLOURS[kind[name]]
        ax.plot([0, means[name]], [y, y], color=colour, lw=1, alpha=0.5)
        ax.scatter(values[name], np.full(len(values[name]), y), color=colour, s=14, zorder=3)
    if "evoked" in means:
        ax.axvline(means["evoked"], color=COLOURS["none"], lw=0.9, linestyle=":")
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(order)), [name.replace("_", " ") for name in order], fontsize=8)
    ax.set_xlabel(WORDS[key], fontsize=9)
    for k, label in KINDS.items():
        if k in kind.values():
            ax.scatter([], [], color=COLOURS[k], s=14, label=label)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return Figure.from_matplotlib(
        canvas,
        "Map methods by their agreement over pairs of patterns without a common cell; one dot per network, dotted: "
        "the evoked map.",
        {"names": np.array(order), "means": np.array([means[name] for name in order])},
    )


def some_matrices(matrices: dict[str, np.ndarray], names: Sequence[str]) -> Figure:
    """ZNCC matrices of the methods that matter most, beside the truth, on one scale."""
    from matplotlib.figure import Figure as Canvas

    shown = [name for name in MATRICES if name in matrices]
    canvas = Canvas(figsize=(3.3 * len(shown) + 0.8, 3.7), layout="constrained")
    axes = canvas.subplots(1, len(shown), squeeze=False)[0]
    n, step = len(names), max(1, round(len(names) / 12))
    image: Any = None
    for ax, name in zip(axes, shown, strict=True):
        ax.set_facecolor("0.85")
        image = ax.imshow(np.ma.masked_invalid(matrices[name]), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_xticks(range(0, n, step), names[::step], rotation=90, fontsize=6)
        ax.set_yticks(range(0, n, step), names[::step], fontsize=6)
        ax.set_title(name.replace("_", " "), fontsize=9)
    canvas.colorbar(image, ax=list(axes), label="ZNCC", fraction=0.02)
    return Figure.from_matplotlib(
        canvas,
        "ZNCC between patterns by map method (mean over networks), and the true one where it is known.",
        {name: matrices[name] for name in shown},
    )
