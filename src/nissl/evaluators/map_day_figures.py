"""Figures of a comparison of days: both matrices and their difference, what the change is made of, scores of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nissl.evaluators.day_change import Change
from nissl.evaluators.gradcam import upsample
from nissl.evaluators.map_cell_figures import cell_scores, clusters
from nissl.evaluators.map_day_kinds import Compared
from nissl.evaluators.result import Figure

__all__ = ["cell_scores", "change", "clusters", "day_maps", "day_matrices"]
BEFORE, AFTER = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito
SHORT = {"network": "networks' maps", "evoked": "evoked", "pattern": "patterns"}
PAIRS_SHOWN = 3
CLASSES = ("same", "share", "disjoint", "none", "singles")


def day_matrices(matrices: list[np.ndarray], names: Sequence[str], days: tuple[str, str], made: str) -> Figure:
    """Both days on one scale of -1 to 1 in one order, and the difference on its own symmetric scale.

    Args:
        matrices: of both days, NaN where undefined.
        names: of the patterns.
        days: names.
        made: what kind of maps they are of, for the title.
    """
    from matplotlib.figure import Figure as Canvas

    n = len(names)
    canvas = Canvas(figsize=(15.5, 4.9), layout="constrained")
    axes = canvas.subplots(1, 3)
    difference = matrices[1] - matrices[0]
    bound = float(np.nanmax(np.abs(difference))) or 1.0
    step, size = max(1, round(n / 40)), float(np.clip(200 / n, 5.0, 9))
    titles = (*days, f"{days[1]} - {days[0]}")
    for ax, matrix, title in zip(axes, (*matrices, difference), titles, strict=True):
        top, colours = (1.0, "RdBu_r") if matrix is not difference else (bound, "PuOr_r")
        ax.set_facecolor("0.85")
        ax.patch.set_hatch("////")
        ax.patch.set_edgecolor("0.5")
        image = ax.imshow(np.ma.masked_invalid(matrix), cmap=colours, vmin=-top, vmax=top, interpolation="nearest")
        ax.set_xticks(range(0, n, step), names[::step], rotation=90, fontsize=size)
        ax.set_yticks(range(0, n, step), names[::step], fontsize=size)
        ax.set_title(title, fontsize=10)
        defined = int(np.count_nonzero(~np.isnan(np.diag(matrix))))
        missing = f", {n - defined} without a map" if defined < n else ""
        ax.set_xlabel(f"{n} patterns{missing}, sum {np.nansum(matrix):+.1f}", fontsize=9)
        if ax is not axes[0]:
            canvas.colorbar(image, ax=ax, label="ZNCC" if matrix is not difference else "change of ZNCC", fraction=0.04)
    canvas.suptitle(made, fontsize=10)
    return Figure.from_matplotlib(
        canvas,
        f"ZNCC of {made}, every pair of patterns, on {days[0]} and {days[1]} (mean over networks, one scale), and the "
        "change; hatched: undefined.",
        {"reference": matrices[0], "day": matrices[1], "difference": difference},
    )


def change(
    changes: dict[str, Change],
    drawn: dict[str, np.ndarray],
    levels: list[np.ndarray],
    days: tuple[str, str],
    seeds: list[list[int]],
    made: str,
) -> Figure:
    """Permutation histogram with the observed change, the sum by network, and means by class of pairs."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(13.5, 3.6), layout="constrained")
    left, middle, right = canvas.subplots(1, 3, width_ratios=[1.2, 1, 1.6])
    total = changes["zncc_sum"]
    observed = float(total.day[0] - total.reference[0])
    left.hist(drawn["zncc_sum"], bins=40, color="0.7")
    left.axvline(observed, color=AFTER, lw=2)
    left.axvline(0, color="black", lw=0.8, linestyle=":")
    whose = "" if total.scope == "frames" else f" (network {seeds[0][0]})"
    left.set(xlabel=f"change of the ZNCC sum{whose}", ylabel="permutations of trials")
    left.set_title(f"observed {observed:+.1f}, p over trials {total.p_trial[0]:.2g}", fontsize=9)

    both = (total.reference, total.day)
    for s in range(min(len(own) for own in both)):
        middle.plot([0, 1], [both[0][s], both[1][s]], color="0.75", lw=1, zorder=1)
    for x, (own, colour) in enumerate(zip(both, (BEFORE, AFTER), strict=True)):
        middle.scatter(np.full(len(own), x), own, color=colour, zorder=2)
        middle.plot([x - 0.15, x + 0.15], [own.mean()] * 2, color=colour, lw=2.5)
    low, high = total.interval
    middle.set_xticks([0, 1], days)
    middle.set(xlim=(-0.5, 1.5), ylabel="ZNCC sum, one dot per network" if len(total.day) > 1 else "ZNCC sum")
    over_networks = "" if total.scope == "frames" else f"\np over networks {total.p_seed:.2g}"
    middle.set_title(f"change {total.size:+.1f} [{low:+.1f}, {high:+.1f}]{over_networks}", fontsize=9)

    shown = [name for name in CLASSES if name in changes]
    at = np.arange(len(shown))
    for offset, day, colour, label in ((-0.2, "reference", BEFORE, days[0]), (0.2, "day", AFTER, days[1])):
        values = [getattr(changes[name], day) for name in shown]
        right.bar(at + offset, [v.mean() for v in values], 0.38, color=colour, label=label)
        for x, v in zip(at + offset, values, strict=True):
            right.scatter(np.full(len(v), x), v, color="black", s=6, zorder=3)
    right.axhline(0, color="black", lw=0.8)
    right.set_xticks(at, [f"{name}\np {changes[name].p:.2g}" for name in shown], fontsize=8)
    right.set_ylabel("mean ZNCC of the pairs")
    right.legend(fontsize=8, frameon=False)
    canvas.suptitle(made, fontsize=10)
    return Figure.from_matplotlib(
        canvas,
        f"{made.capitalize()}, {days[1]} against {days[0]}: what exchanging trials between days gives, each network, "
        "and the mean over pairs of patterns that share cells (same, share) or do not (disjoint, of them single "
        "cells). Interval: bootstrap over networks and trials.",
        {
            "drawn": drawn["zncc_sum"],
            "levels_reference": levels[0],
            "levels_day": levels[1],
        },
    )


def day_maps(compared: Mapping[str, Compared], days: tuple[str, str], source: Any, mask: np.ndarray) -> Figure:
    """Single cells, some pairs and "none" over the mean image, a row per kind of maps and day; targets ringed."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Circle

    first = max(compared.values(), key=lambda own: len(own.names))  # the networks may lack maps of some patterns
    strongest = {cells: name for name, cells in zip(first.names, first.cells, strict=True)}  # last condition of a set
    alone = [strongest[cells] for cells in dict.fromkeys(c for c in first.cells if len(c) == 1)][:8]
    several = [strongest[cells] for cells in dict.fromkeys(c for c in first.cells if len(c) > 1)]
    spread = [several[i] for i in np.linspace(0, len(several) - 1, min(PAIRS_SHOWN, len(several))).astype(int)]
    chosen = [*alone, *spread]
    rows = [(kind, d) for kind in compared for d in range(2)]
    canvas = Canvas(figsize=(1.25 * len(chosen) + 0.9, 1.42 * len(rows) + 0.3), layout="constrained")
    axes = canvas.subplots(len(rows), len(chosen), squeeze=False)
    low, high = np.percentile(source.mean_image[source.mask], [1, 99.5])
    shape = source.mean_image.shape
    cells_of = dict(zip(first.names, first.cells, strict=True))
    data = {}
    for row, (kind, d) in enumerate(rows):
        own = compared[kind]
        # Each network's map is scaled to length 1 first, so that none outweighs the others.
        maps = np.mean([i / np.maximum(np.linalg.norm(i, axis=1, keepdims=True), 1e-12) for i in own.images[d]], axis=0)
        data[f"{kind}_{days[d]}"] = maps
        top = float(maps.max()) or 1.0
        for ax, name in zip(axes[row], chosen, strict=True):
            ax.imshow(source.mean_image, cmap="gray", vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
            if name not in own.names:
                continue
            image = np.zeros(mask.shape)
            image[mask] = maps[own.names.index(name)].clip(0)
            big = upsample(torch.from_numpy(image)[None], shape)[0].numpy()
            ax.imshow(big, cmap="inferno", vmin=0, vmax=top, alpha=(big / top).clip(0, 1) ** 0.5 * 0.75 * source.mask)
            if source.cells.positions_px is not None:
                for cell in cells_of[name]:
                    at = list(source.cells.names).index(cell)
                    y, x = source.cells.positions_px[at]
                    radius = 4.0 if source.cells.radius_px is None else 1.4 * float(source.cells.radius_px[at])
                    ax.add_patch(Circle((x, y), radius, fill=False, color="cyan", lw=1.2))
        axes[row, 0].set_ylabel(f"{SHORT[kind]}\n{days[d]}", fontsize=8)
    for ax, name in zip(axes[0], chosen, strict=True):
        ax.set_title(name, fontsize=9)
    return Figure.from_matplotlib(
        canvas,
        f"Maps of single cells and some pairs on {days[0]} and {days[1]}, positive part over the mean image of "
        f"{days[0]}, stimulated cells ringed; mean over networks, each row scaled to its largest value.",
        data,
    )
