"""Where flood filling began in vain, and why: an answer to "why is this neurite blank?"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators.result import Figure
from nissl.evaluators.segmentation_figures import PLANES, grey_levels, tint
from nissl.volumes.annotated import AnnotatedVolume

# Okabe and Ito; reasons beyond these share the last one.
COLOURS = ("#E69F00", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#56B4E9", "0.4")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SLAB = 0.04  # of the volume's extent: seeds this near to a section are drawn on it

Rejected = Sequence[tuple[tuple[int, int, int], str, int]]


def rejected_rows(rejected: Sequence[Rejected], volumes: Sequence[AnnotatedVolume]) -> list[dict[str, Any]]:
    """One row per seed that became no segment: native voxel of the file, reason, moves that it cost."""
    rows: list[dict[str, Any]] = []
    for seeds, volume in zip(rejected, volumes, strict=True):
        for start, reason, moves in seeds:
            z, y, x = (int(p) for p in native_voxel(start, volume) + volume.offset_zyx)
            rows.append({"volume": volume.name, "z": z, "y": y, "x": x, "reason": reason, "moves": int(moves)})
    return rows


def native_voxel(start_zyx: tuple[int, int, int], volume: AnnotatedVolume) -> np.ndarray:
    """The voxel in the middle of a block that the network sees as one."""
    scale = np.asarray(volume.scale_zyx)
    return np.asarray(start_zyx) * scale + scale // 2


def rejected_figure(volume: AnnotatedVolume, segmentation: np.ndarray, rejected: Rejected) -> Figure:
    """Segments in the three middle sections with the rejected seeds near them, and how many there are of each reason.

    Args:
        volume: with `raw` at native resolution.
        segmentation: (Z, Y, X) ids, native.
        rejected: start at the network's resolution, reason, moves.
    """
    from matplotlib.figure import Figure as Canvas

    counts = Counter(reason for _, reason, _ in rejected)
    moves = Counter[str]()
    for _, reason, cost in rejected:
        moves[reason] += cost
    reasons = [reason for reason, _ in counts.most_common()]
    places = {r: np.array([native_voxel(s, volume) for s, reason, _ in rejected if reason == r]) for r in reasons}
    grey = grey_levels(volume.raw)
    canvas = Canvas(figsize=(13, 4.2))
    axes = canvas.subplots(1, 4, gridspec_kw={"wspace": 0.28, "width_ratios": [1, 1, 1, 0.8]})
    size = np.asarray(volume.voxel_size_zyx_nm)
    for ax, (name, axis) in zip(axes[:3], PLANES, strict=True):
        middle = volume.raw.shape[axis] // 2
        down, across = (k for k in range(3) if k != axis)
        picture = tint(np.take(grey, middle, axis), np.take(segmentation, middle, axis), 0.3)
        height, width = size[down] * volume.raw.shape[down] / 1e3, size[across] * volume.raw.shape[across] / 1e3
        ax.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
        for i, reason in enumerate(reasons):
            near = np.abs(places[reason][:, axis] - middle) <= max(1, SLAB * volume.raw.shape[axis])
            points = (places[reason][near] + 0.5) * size / 1e3
            style = {
                "color": COLOURS[min(i, 6)],
                "marker": MARKERS[min(i, 6)],
                "edgecolors": "white",
                "linewidths": 0.4,
            }
            ax.scatter(points[:, across], points[:, down], s=22, **style)
        ax.set(xlim=(0, width), ylim=(height, 0), xlabel=f"{'zyx'[across]} (um)", ylabel=f"{'zyx'[down]} (um)")
        ax.set_title(f"{name}, middle", fontsize=9)
    for i, reason in enumerate(reasons):
        bar = axes[3].barh(i, counts[reason], color=COLOURS[min(i, 6)], edgecolor="0.3", linewidth=0.4)
        axes[3].bar_label(bar, [f"{counts[reason]} ({moves[reason]} moves)"], fontsize=7, padding=2)
    axes[3].set_yticks(range(len(reasons)), reasons, fontsize=8)
    axes[3].invert_yaxis()
    axes[3].set_xlim(0, 1.9 * max(counts.values(), default=1))
    axes[3].set_xlabel("rejected seeds")
    for side in ("top", "right"):
        axes[3].spines[side].set_visible(False)
    caption = (
        f"{volume.name}: {len(rejected)} seeds that became no segment, by reason; on the sections those within "
        f"{SLAB:.0%} of the volume's extent, over the segments found."
    )
    data = {"moves": np.array([moves[reason] for reason in reasons]), "seeds": np.array([counts[r] for r in reasons])}
    return Figure.from_matplotlib(canvas, caption, data)
