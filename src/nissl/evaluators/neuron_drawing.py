"""Neurons drawn as line pictures, seen along z with y (pia) up, for figures and for the explorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators.result import Figure


def segments_xy(cell: Any, max_edges: int | None = None) -> np.ndarray:
    """Edges of a cell from its soma, (m, 2, 2) um: start and end, x and y.

    Args:
        max_edges: unbranched chains are drawn with fewer, longer edges until about this many are left; None keeps all.
    """
    pos, parent = np.asarray(cell.pos, float), np.asarray(cell.parent)
    pos = pos - pos[0]
    n = len(parent)
    children = np.bincount(parent[1:], minlength=n)
    must_stay = children != 1
    must_stay[0] = True
    kept = np.ones(n, bool)
    if max_edges is not None and n - 1 > max_edges:
        spare = max(max_edges + 1 - int(must_stay.sum()), 0)
        inner = np.flatnonzero(~must_stay)
        kept = must_stay.copy()
        if spare and len(inner):
            kept[inner[np.linspace(0, len(inner) - 1, min(spare, len(inner))).astype(int)]] = True
    above = parent.tolist()
    nearest_kept = [0] * n
    for i in range(1, n):
        nearest_kept[i] = above[i] if kept[above[i]] else nearest_kept[above[i]]
    ends = np.flatnonzero(kept)[1:]
    starts = np.array(nearest_kept)[ends]
    return np.stack([pos[starts, :2], pos[ends, :2]], axis=1)


def draw_neuron(axes: Any, cell: Any, colour: Any = "#1f2a44", max_edges: int = 1500) -> None:
    """Draw a cell into matplotlib axes, to scale, without frame; the soma is a dot."""
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(segments_xy(cell, max_edges)), colors=[colour], linewidths=0.6))
    axes.plot([0], [0], "o", color=colour, markersize=3)
    axes.autoscale()
    axes.set_aspect("equal")
    axes.set_axis_off()


def gallery(rows: Sequence[Sequence[tuple[Any, str, Any]]], caption: str, unit: str = "um") -> Figure:
    """A grid of neurons; each entry is (cell, title, colour). Every neuron has its own scale bar of 100 units."""
    from matplotlib.figure import Figure as Canvas

    columns = max(len(row) for row in rows)
    canvas = Canvas(figsize=(1.7 * columns, 2.0 * len(rows)))
    for r, row in enumerate(rows):
        for c, (cell, title, colour) in enumerate(row):
            axes = canvas.add_subplot(len(rows), columns, r * columns + c + 1)
            draw_neuron(axes, cell, colour)
            x0, y0 = axes.get_xlim()[0], axes.get_ylim()[0]
            axes.plot([x0, x0 + 100.0], [y0, y0], color="black", linewidth=1.5)
            axes.set_title(title, fontsize=7)
    return Figure.from_matplotlib(canvas, f"{caption} Bars are 100 {unit}; y (towards the pia where known) is up.")
