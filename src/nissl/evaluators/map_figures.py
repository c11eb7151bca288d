"""Figures of pattern maps: overlays on the mean image, ZNCC matrices on one colour scale, recovered against true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nissl.evaluators.gradcam import upsample
from nissl.evaluators.map_cell_figures import draw_scale_bar
from nissl.evaluators.result import Figure
from nissl.evaluators.zncc import CLASSES, pair_classes, single_pairs

TITLES = {
    "zncc": "maps of the network",
    "zncc_pattern": "activation patterns",
    "zncc_evoked": "evoked maps (no network)",
    "zncc_truth": "truth (simulated)",
}
PAIRS_SHOWN = 3


def overlays(maps: np.ndarray, source: Any, mask: np.ndarray, label: str) -> Figure:
    """Each single pattern, some pairs and "none": map over the mean image with its targets ringed, raw map below."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Circle

    patterns = source.patterns
    singles = [i for i, p in enumerate(patterns) if len(p.cells) == 1]
    pairs = [i for i, p in enumerate(patterns) if len(p.cells) > 1]
    spread = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(PAIRS_SHOWN, len(pairs))).astype(int)]
    chosen = singles[:8] + spread + [i for i, p in enumerate(patterns) if not p.cells]
    columns = len(chosen)
    canvas = Canvas(figsize=(1.35 * columns + 0.9, 3.2))
    axes = canvas.subplots(2, columns, squeeze=False)
    top = float(np.nanmax(maps[chosen])) if np.isfinite(maps[chosen]).any() else 1.0
    shape = source.mean_image.shape
    grey_low, grey_high = np.percentile(source.mean_image[source.mask], [1, 99.5])
    shown = None
    for column, i in enumerate(chosen):
        upper, lower = axes[:, column]
        upper.imshow(source.mean_image, cmap="gray", vmin=grey_low, vmax=grey_high)
        raw = np.where(mask, maps[i], np.nan)
        lower.imshow(raw, cmap="inferno", vmin=0, vmax=top)
        if np.isfinite(maps[i]).all():
            big = upsample(torch.from_numpy(maps[i])[None], shape)[0].numpy()
            opacity = (big / max(top, 1e-12)).clip(0, 1) ** 0.5 * 0.75 * source.mask
            shown = upper.imshow(big, cmap="inferno", vmin=0, vmax=top, alpha=opacity)
        if source.cells.positions_px is not None:
            for cell in patterns[i].cells:
                at = list(source.cells.names).index(cell)
                y, x = source.cells.positions_px[at]
                radius = 4.0 if source.cells.radius_px is None else 1.4 * float(source.cells.radius_px[at])
                upper.add_patch(Circle((x, y), radius, fill=False, color="cyan", lw=1.2))
        upper.set_title(patterns[i].name, fontsize=9)
        for ax in (upper, lower):
            ax.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("on mean image", fontsize=8)
    axes[1, 0].set_ylabel(f"raw, {maps.shape[1]} x {maps.shape[2]}", fontsize=8)
    if shown is not None:
        from matplotlib.cm import ScalarMappable

        scale = ScalarMappable(norm=shown.norm, cmap="inferno")
        canvas.colorbar(scale, ax=axes, label="mean map (a.u.)", fraction=0.02, pad=0.01)
    return Figure.from_matplotlib(
        canvas,
        f"Mean map of single-cell patterns, some pairs and none ({label}); targets ringed, one colour scale.",
        {"maps": maps},
    )


def zncc_matrices(matrices: dict[str, np.ndarray], names: Sequence[str], label: str) -> Figure:
    """ZNCC matrices side by side, -1 to 1; undefined entries hatched."""
    from matplotlib.figure import Figure as Canvas

    n = len(names)
    canvas = Canvas(figsize=(4.6 * len(matrices) + 1.2, 4.9))
    axes = canvas.subplots(1, len(matrices), squeeze=False)[0]
    step, size = max(1, round(n / 40)), float(np.clip(200 / n, 5.5, 9))
    image: Any = None
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        ax.set_facecolor("0.85")
        ax.patch.set_hatch("////")
        ax.patch.set_edgecolor("0.5")
        image = ax.imshow(np.ma.masked_invalid(matrix), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_xticks(range(0, n, step), names[::step], rotation=90, fontsize=size)
        ax.set_yticks(range(0, n, step), names[::step], fontsize=size)
        kinds = [name_.count("+") if name_ != "none" else -1 for name_ in names]
        for i in range(1, n):
            if kinds[i] != kinds[i - 1]:
                ax.axhline(i - 0.5, color="black", lw=0.6)
                ax.axvline(i - 0.5, color="black", lw=0.6)
        ax.set_title(TITLES[name], fontsize=10)
        rows = int(np.count_nonzero(~np.isnan(np.diag(matrix))))
        ax.set_xlabel(f"{rows} defined rows, sum {np.nansum(matrix):.1f}", fontsize=9)
    canvas.colorbar(image, ax=list(axes), label="ZNCC", fraction=0.02, pad=0.02)
    return Figure.from_matplotlib(
        canvas,
        f"ZNCC of every pair of patterns ({label}); hatched: undefined.",
        {f"{k}": m for k, m in matrices.items()},
    )


def truth_scatter(matrices: dict[str, np.ndarray], cells: Sequence[Sequence[str]]) -> Figure:
    """Recovered against true ZNCC for every pair of patterns, by whether they share a target."""
    from matplotlib.figure import Figure as Canvas

    truth = matrices["zncc_truth"]
    upper = np.triu(np.ones_like(truth, dtype=bool), 1)
    classes, singles = pair_classes(cells), single_pairs(cells)
    groups = {
        "share a target": (upper & (classes == CLASSES.index("share")), "#777777"),
        "disjoint": (upper & (classes == CLASSES.index("disjoint")) & ~singles, "#56B4E9"),
        "disjoint singles": (singles, "#D55E00"),
    }
    recovered = [name for name in ("zncc", "zncc_pattern", "zncc_evoked") if name in matrices]
    canvas = Canvas(figsize=(4.0 * len(recovered), 3.8))
    axes = canvas.subplots(1, len(recovered), squeeze=False, sharex=True, sharey=True)[0]
    for ax, name in zip(axes, recovered, strict=True):
        for label, (chosen, colour) in groups.items():
            ax.scatter(truth[chosen], matrices[name][chosen], s=9, color=colour, label=label, alpha=0.7, linewidths=0)
        ax.plot([-1, 1], [-1, 1], color="black", lw=0.7, linestyle=":")
        ax.set(title=TITLES[name], xlabel="true ZNCC", xlim=(-1, 1), ylim=(-1, 1))
    axes[0].set_ylabel("recovered ZNCC")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    pairs = np.argwhere(upper & ~np.isnan(truth))
    columns = [truth[tuple(pairs.T)], *(matrices[name][tuple(pairs.T)] for name in recovered)]
    return Figure.from_matplotlib(
        canvas,
        "Simulated data: recovered against true ZNCC, one point per pair of patterns. Only disjoint pairs speak of "
        "connectivity.",
        {"pairs": np.column_stack([pairs, *columns])},
    )


def field(source: Any) -> Figure:
    """Mean image with the mask's outline and the stimulated cells, numbered."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Circle

    canvas = Canvas(figsize=(4.2, 4.2), layout="constrained")
    ax = canvas.subplots()
    low, high = np.percentile(source.mean_image[source.mask], [1, 99.5])
    ax.imshow(source.mean_image, cmap="gray", vmin=low, vmax=high)
    if not source.mask.all():
        ax.contour(source.mask, levels=[0.5], colors="#E69F00", linewidths=1.2)
    if source.cells.positions_px is not None:
        for i, name in enumerate(source.cells.names):
            y, x = source.cells.positions_px[i]
            radius = 4.0 if source.cells.radius_px is None else 1.4 * float(source.cells.radius_px[i])
            ax.add_patch(Circle((x, y), radius, fill=False, color="cyan", lw=1.3))
            ax.text(x + radius, y - radius, name, color="cyan", fontsize=9)
    ax.set(xticks=[], yticks=[])
    if source.um_per_px:
        draw_scale_bar(ax, source.mean_image.shape, source.um_per_px)
    return Figure.from_matplotlib(
        canvas,
        "Mean training image, outline of the mask (orange) and stimulated cells (rings, by number).",
        {"mean_image": source.mean_image},
    )


def against_evoked(matrices: dict[str, np.ndarray], cells: Sequence[Sequence[str]]) -> Figure:
    """ZNCC of the network's maps against that of evoked maps: what does the network add?"""
    from matplotlib.figure import Figure as Canvas

    evoked = matrices["zncc_evoked"]
    upper = np.triu(np.ones_like(evoked, dtype=bool), 1) & ~np.isnan(evoked)
    classes = pair_classes(cells)
    shown = [name for name in ("zncc", "zncc_pattern") if name in matrices]
    canvas = Canvas(figsize=(3.9 * len(shown), 3.8), layout="constrained")
    axes = canvas.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for ax, name in zip(axes, shown, strict=True):
        for label, kinds, colour in (
            ("share a target", ("same", "share"), "#777777"),
            ("disjoint", ("disjoint",), "#56B4E9"),
        ):
            chosen = upper & np.isin(classes, [CLASSES.index(kind) for kind in kinds]) & ~np.isnan(matrices[name])
            ax.scatter(evoked[chosen], matrices[name][chosen], s=7, color=colour, alpha=0.7, linewidths=0, label=label)
        ax.plot([-1, 1], [-1, 1], color="black", lw=0.7, linestyle=":")
        ax.set(title=TITLES[name], xlabel="ZNCC of evoked maps", xlim=(-1, 1), ylim=(-1, 1))
    axes[0].set_ylabel("ZNCC of the maps")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    return Figure.from_matplotlib(
        canvas,
        "ZNCC of the network's maps against evoked maps, which need no network; one point per pair of patterns.",
        {name: matrices[name] for name in ("zncc_evoked", *shown)},
    )
