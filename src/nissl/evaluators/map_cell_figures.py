"""Figures of scores between cells: tables with values, dendrograms, the graph over the field of view.

Colours: RdBu for signed scores on one scale, Okabe-Ito colours for groups; both hold for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.cluster import hierarchy

from nissl.evaluators.functional_connectivity import link_cells
from nissl.evaluators.map_cells import Distance
from nissl.evaluators.pattern_distance import disjoint_pairs
from nissl.evaluators.result import Figure
from nissl.evaluators.zncc import single_pairs

WORDS = {"direct": "direct score F_d", "profile": "profile score F_p"}
STRONG = 0.5  # quantile of the scores above which an edge is drawn, where no threshold is given


def cell_scores(scores: dict[str, list[np.ndarray]], cells: Sequence[str], columns: Sequence[str]) -> Figure:
    """Scores between cells with their values: one row per kind of score, one column per day (or method)."""
    from matplotlib.figure import Figure as Canvas

    kinds, n = list(scores), len(cells)
    side = max(2.6, 0.42 * n + 1.0)
    canvas = Canvas(figsize=(side * len(columns) + 1.2, side * len(kinds)), layout="constrained")
    axes = canvas.subplots(len(kinds), len(columns), squeeze=False)
    image: Any = None
    for row, kind in zip(axes, kinds, strict=True):
        for ax, values, title in zip(row, scores[kind], columns, strict=True):
            image = draw_scores(ax, values, cells)
            ax.set_title(f"{WORDS[kind]}, {title}", fontsize=9)
    canvas.colorbar(image, ax=axes, label="score (correlation)", fraction=0.03)
    return Figure.from_matplotlib(
        canvas,
        "How alike the maps of two cells are: F_d, ZNCC of the cells stimulated alone; F_p, correlation of their rows "
        "of ZNCC over patterns with neither.",
        {f"{kind}_{title}": values for kind in kinds for title, values in zip(columns, scores[kind], strict=True)},
    )


def draw_scores(ax: Any, values: np.ndarray, cells: Sequence[str]) -> Any:
    """One table of scores on -1 to 1 with its values written in."""
    ax.set_facecolor("0.85")
    image = ax.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-1, vmax=1)
    for i, k in np.argwhere(~np.isnan(values)):
        dark = abs(values[i, k]) > 0.6
        ax.text(k, i, f"{values[i, k]:.2f}", ha="center", va="center", fontsize=6, color="white" if dark else "black")
    ax.set_xticks(range(len(cells)), cells, fontsize=8)
    ax.set_yticks(range(len(cells)), cells, fontsize=8)
    ax.set(xlabel="cell", ylabel="cell")
    return image


def clusters(
    scores: Sequence[np.ndarray],
    cells: Sequence[str],
    source: Any,
    columns: Sequence[str],
    together: Sequence[np.ndarray] = (),
) -> Figure:
    """Dendrogram and graph over the field of view per day; below, how often cells cluster together, if given.

    Args:
        scores: (C, C) per column.
        cells: names, as in `source.cells`.
        source: for the mean image and the cells' places.
        columns: titles.
        together: share (C, C) of bootstrap samples in which two cells fall into one cluster, per column.
    """
    from matplotlib.figure import Figure as Canvas

    rows = 3 if together else 2
    canvas = Canvas(figsize=(3.6 * len(columns) + 0.6, 3.0 * rows), layout="constrained")
    axes = canvas.subplots(rows, len(columns), squeeze=False)
    upper = np.triu_indices(len(cells), 1)
    widest = max((float(np.nanmax(s[upper])) for s in scores if np.isfinite(s[upper]).any()), default=1.0)
    lowest = min((float(np.nanquantile(s[upper], STRONG)) for s in scores if np.isfinite(s[upper]).any()), default=0.0)
    for i, (values, title) in enumerate(zip(scores, columns, strict=True)):
        _dendrogram(axes[0, i], values, cells, title)
        _graph(axes[1, i], values, cells, source, lowest, widest)
        if together:
            image = axes[2, i].imshow(together[i], cmap="cividis", vmin=0, vmax=1)
            axes[2, i].set_xticks(range(len(cells)), cells)
            axes[2, i].set_yticks(range(len(cells)), cells)
            axes[2, i].set(xlabel="cell", ylabel="cell", title="in one cluster")
            canvas.colorbar(image, ax=axes[2, i], label="share of bootstrap samples")
    return Figure.from_matplotlib(
        canvas,
        f"Clusters of cells by average linkage on 1 - F_d, and pairs with F_d above {lowest:.2f} (the upper half) "
        "drawn over the mean image, wider when more alike.",
        {f"F_{title}": values for values, title in zip(scores, columns, strict=True)},
    )


def _dendrogram(ax: Any, values: np.ndarray, cells: Sequence[str], title: str) -> None:
    off = ~np.eye(len(values), dtype=bool)
    ax.set_title(title, fontsize=9)
    if np.isnan(values[off]).any():
        ax.text(0.5, 0.5, "undefined: a cell has no map", ha="center", transform=ax.transAxes, fontsize=8)
        ax.set(xticks=[], yticks=[])
        return
    hierarchy.dendrogram(
        link_cells(values), labels=list(cells), ax=ax, color_threshold=0, above_threshold_color="black"
    )
    ax.set(xlabel="cell", ylabel="1 - F_d")


def _graph(ax: Any, values: np.ndarray, cells: Sequence[str], source: Any, lowest: float, widest: float) -> None:
    low, high = np.percentile(source.mean_image[source.mask], [1, 99.5])
    ax.imshow(source.mean_image, cmap="gray", vmin=low, vmax=high)
    place = {name: source.cells.positions_px[i] for i, name in enumerate(source.cells.names)}
    for i, k in combinations(range(len(cells)), 2):
        if values[i, k] >= lowest:  # False for NaN
            (y0, x0), (y1, x1) = place[cells[i]], place[cells[k]]
            share = (values[i, k] - lowest) / max(widest - lowest, 1e-9)
            ax.plot([x0, x1], [y0, y1], color="#E69F00", lw=0.6 + 3.4 * share, alpha=0.35 + 0.65 * share)
    for name in cells:
        y, x = place[name]
        ax.plot(x, y, "o", color="#56B4E9", ms=11, mec="white")
        ax.text(x, y, name, ha="center", va="center", fontsize=7, color="black")
    ax.set(xticks=[], yticks=[])
    if source.um_per_px:
        draw_scale_bar(ax, source.mean_image.shape, source.um_per_px)


def draw_scale_bar(ax: Any, shape: tuple[int, ...], um_per_px: float) -> None:
    """A white bar of a round length, about a fifth of the width, at the lower left."""
    wanted = 0.2 * shape[1] * um_per_px
    length = max((n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= wanted), default=1)
    y, x = shape[0] * 0.94, shape[1] * 0.05
    ax.plot([x, x + length / um_per_px], [y, y], color="white", lw=3, solid_capstyle="butt")
    ax.text(x, y - 0.02 * shape[0], f"{length} µm", color="white", fontsize=7, va="bottom")


def distance(matrix: np.ndarray, found: Distance, patterns: Sequence[Sequence[str]], in_um: bool) -> Figure:
    """ZNCC of disjoint pairs against the mean distance of their targets, and what is left without it."""
    from matplotlib.figure import Figure as Canvas

    chosen = disjoint_pairs(patterns) & ~np.isnan(found.residual)
    singles = single_pairs(patterns) & chosen
    canvas = Canvas(figsize=(8.2, 3.4), layout="constrained")
    axes = canvas.subplots(1, 2, sharex=True)
    unit = "µm" if in_um else "px"
    for ax, values, title in zip(
        axes, (matrix, found.residual), ("ZNCC", "ZNCC without distance and overlap"), strict=True
    ):
        rest = chosen & ~singles
        ax.scatter(found.mean_um[rest], values[rest], s=7, color="#56B4E9", linewidths=0, label="with a pair")
        ax.scatter(found.mean_um[singles], values[singles], s=16, color="#D55E00", linewidths=0, label="single cells")
        ax.axhline(0, color="black", lw=0.7, linestyle=":")
        ax.set(xlabel=f"mean distance of the targets ({unit})", ylabel=title)
    fitted = (matrix - found.residual)[chosen]
    order = np.argsort(found.mean_um[chosen])
    axes[0].plot(
        found.mean_um[chosen][order], fitted[order], ".", color="black", ms=2, label="fit: distance, decay, overlap"
    )
    axes[0].legend(fontsize=7, frameon=False)
    pairs = np.argwhere(chosen)
    columns = [found.mean_um[chosen], found.smallest_um[chosen], found.overlap[chosen], matrix[chosen]]
    return Figure.from_matplotlib(
        canvas,
        "Pairs of patterns without a common cell against the distance of their targets; neighbours resemble each other "
        "without any connection, so the right side is what may speak of one.",
        {"pairs": np.column_stack([pairs, *columns, found.residual[chosen]])},
    )
