"""Pictures of a segmentation: sections across all three axes, truth and segments in matching colours, errors marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nissl.evaluators.result import Figure
from nissl.volumes.annotated import AnnotatedVolume

# Okabe and Ito's colours, told apart without red and green. Blank: unassigned. Merged: in a segment that is mostly
# another object. Split: in a segment that is mostly this object, but not its largest.
ERROR_COLOURS = {"blank": (86, 180, 233), "merged": (213, 94, 0), "split": (240, 228, 66)}
BLANK, MERGED, SPLIT = 1, 2, 3
HALF_WIDTH_NM = 600.0  # of the pictures of error sites
PLANES = (("xy", 0), ("xz", 1), ("yz", 2))  # name, axis that it is a section across


def matched(truth: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
    """`segmentation` (any shape) renamed so that the largest segment of each true object bears the object's id.

    Every other segment gets an id above all of them; 0 stays 0.
    """
    renamed, _ = _partners(truth, segmentation)
    return renamed


def voxel_errors(truth: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
    """(uint8, any shape) 0 right or without a true label, 1 blank, 2 merged, 3 split."""
    return _errors(truth, *_partners(truth, segmentation))


def _errors(truth: np.ndarray, renamed: np.ndarray, main_object: np.ndarray) -> np.ndarray:
    errors = np.zeros(truth.shape, np.uint8)
    errors[renamed != truth] = SPLIT
    errors[main_object != truth] = MERGED
    errors[renamed == 0] = BLANK
    errors[truth == 0] = 0
    return errors


def _partners(truth: np.ndarray, segmentation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments renamed to objects, and under each voxel the object that its segment covers most (0: none)."""
    segments, column = np.unique(segmentation, return_inverse=True)
    objects, row = np.unique(truth, return_inverse=True)
    column, row = column.reshape(truth.shape), row.reshape(truth.shape)
    inside = (truth > 0) & (segmentation > 0)
    keys, count = np.unique(row[inside].astype(np.int64) * len(segments) + column[inside], return_counts=True)
    pair_row, pair_column = np.divmod(keys, len(segments))
    order = np.argsort(count, kind="stable")  # the largest overlap is written last
    main = np.zeros(len(segments), np.int64)
    main[pair_column[order]] = objects[pair_row[order]]
    own = main[pair_column] == objects[pair_row]
    largest = np.full(len(objects), -1)
    chosen = order[own[order]]
    largest[pair_row[chosen]] = pair_column[chosen]
    name = int(objects.max(initial=0)) + 1 + np.arange(len(segments))
    held = np.flatnonzero(largest >= 0)
    name[largest[held]] = objects[held]
    name[segments == 0] = 0
    return name[column], main[column]


def sections_figure(
    volume: AnnotatedVolume, truth: np.ndarray, segmentation: np.ndarray, at_zyx: Sequence[int] | None = None
) -> Figure:
    """Image, true objects, segments and errors in the xy, xz and yz sections through one voxel (default: the middle).

    Sections across z are drawn with voxels of the right proportions.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Patch

    at = [size // 2 for size in volume.raw.shape] if at_zyx is None else [int(p) for p in at_zyx]
    grey = grey_levels(volume.raw)
    found, main_object = _partners(truth, segmentation)
    errors = _errors(truth, found, main_object)
    canvas = Canvas(figsize=(12.5, 8.5))
    axes = canvas.subplots(3, 4, gridspec_kw={"hspace": 0.25, "wspace": 0.25})  # constrained layout takes seconds
    size = np.asarray(volume.voxel_size_zyx_nm)
    for row, (name, axis) in enumerate(PLANES):
        image, true, segments, wrong = (np.take(array, at[axis], axis) for array in (grey, truth, found, errors))
        down, across = (k for k in range(3) if k != axis)
        if name == "yz":  # y across, z down, as the other two have z down where there is one
            down, across = 0, 1
        height, width = size[down] * truth.shape[down] / 1e3, size[across] * truth.shape[across] / 1e3
        pictures = (tint(image), tint(image, true), tint(image, segments), tint_errors(image, wrong))
        for column, picture in enumerate(pictures):
            ax = axes[row, column]
            ax.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
            ax.set_xlabel(f"{'zyx'[across]} (um)", fontsize=7)
            ax.tick_params(labelsize=6)
            if column == 0:
                where = (at[axis] + volume.offset_zyx[axis]) * size[axis] / 1e3
                ax.set_ylabel(f"{name} at {'zyx'[axis]} = {where:.2f} um\n{'zyx'[down]} (um)", fontsize=7)
            if row == 0:
                ax.set_title(("image", "true objects", "segments", "errors")[column], fontsize=10)
    patches = [Patch(color=(r / 255, g / 255, b / 255), label=name) for name, (r, g, b) in ERROR_COLOURS.items()]
    canvas.legend(handles=patches, loc="lower right", bbox_to_anchor=(0.9, 0.01), ncols=3, frameon=False, fontsize=9)
    shares = [float(np.mean(errors[truth > 0] == k)) if (truth > 0).any() else 0.0 for k in (BLANK, MERGED, SPLIT)]
    caption = (
        f"{volume.name}: sections through the middle of the volume, voxels of "
        f"{' x '.join(f'{v:g}' for v in volume.voxel_size_zyx_nm)} nm (zyx). The largest segment of an object bears "
        f"its colour. Of all labelled voxels {shares[0]:.1%} are blank, {shares[1]:.1%} lie in a segment that is "
        f"mostly another object, {shares[2]:.1%} in a smaller fragment of their own."
    )
    return Figure.from_matplotlib(canvas, caption)


def grey_levels(raw: np.ndarray) -> np.ndarray:
    """Grey values stretched to 0-1 between the 0.5th and the 99.5th percentile, float32."""
    low, high = np.percentile(raw, [0.5, 99.5])
    return np.clip((raw.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def colours_of(ids: np.ndarray) -> np.ndarray:
    """(..., 3) a colour in 0-1 for each id, the same in every picture; multiplicative hashing spreads neighbours."""
    spread = (ids.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)).astype(np.float64) / 2**32
    phase = 2 * np.pi * (spread[..., None] + np.array([0, 1 / 3, 2 / 3]))
    return 0.5 + 0.5 * np.cos(phase)


def tint(grey: np.ndarray, ids: np.ndarray | None = None, opacity: float = 0.45) -> np.ndarray:
    """(H, W) grey values in 0-1 as (H, W, 3), with each id other than 0 in a colour of its own."""
    image = np.repeat(grey[..., None], 3, axis=-1)
    if ids is None:
        return image
    return np.where((ids > 0)[..., None], (1 - opacity) * image + opacity * colours_of(ids), image)


def tint_errors(grey: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(H, W, 3) grey values with the errors of `voxel_errors` in their colours."""
    table = np.array([(0, 0, 0), *ERROR_COLOURS.values()]) / 255
    image = np.repeat(grey[..., None], 3, axis=-1)
    return np.where((errors > 0)[..., None], 0.45 * image + 0.55 * table[errors], image)


def sites_figure(
    sites: Sequence[dict[str, Any]], volumes: Sequence[AnnotatedVolume], segmentations: Sequence[np.ndarray]
) -> Figure:
    """The most costly error sites, one column each: true objects above, segments below, in the xy section.

    Args:
        sites: rows of the table of error sites, most costly first.
        volumes: with labels or without; in the order that the rows' `volume` names them.
        segmentations: (Z, Y, X) ids of each.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(1.9 * max(len(sites), 1) + 0.4, 4.3))
    axes = canvas.subplots(2, max(len(sites), 1), squeeze=False, gridspec_kw={"hspace": 0.08, "wspace": 0.08})
    names = [volume.name for volume in volumes]
    for column, site in enumerate(sites):
        volume = volumes[names.index(site["volume"])]
        segmentation = segmentations[names.index(site["volume"])]
        at = np.array([site["z"], site["y"], site["x"]]) - volume.offset_zyx
        size = volume.voxel_size_zyx_nm
        half = [max(2, round(HALF_WIDTH_NM / size[k])) for k in (1, 2)]
        low = [max(0, at[1] - half[0]), max(0, at[2] - half[1])]
        part = (int(at[0]), slice(low[0], at[1] + half[0] + 1), slice(low[1], at[2] + half[1] + 1))
        grey = grey_levels(volume.raw[part])
        truth = np.zeros(grey.shape, int) if volume.labels is None else volume.labels[part]
        for ax, ids in zip(axes[:, column], (truth, segmentation[part]), strict=True):
            ax.imshow(tint(grey, ids), interpolation="nearest", aspect=size[1] / size[2])
            ax.plot(at[2] - low[1], at[1] - low[0], "+", color="white", ms=12, mew=3)
            ax.plot(at[2] - low[1], at[1] - low[0], "+", color="black", ms=10, mew=1.2)
            ax.set(xticks=[], yticks=[])
        axes[0, column].set_title(f"{site['rank']}. {site['kind']}\n+{site['gain_nm']:.3g} nm", fontsize=8)
        axes[1, column].set_xlabel(f"z {site['z']}, y {site['y']}, x {site['x']}", fontsize=7)
    axes[0, 0].set_ylabel("true objects", fontsize=8)
    axes[1, 0].set_ylabel("segments", fontsize=8)
    caption = (
        "The most costly error sites (cross), xy sections about 1.2 um wide, and the expected run length that putting "
        "each right would recover. Coordinates are voxels of the file; colours of the two rows do not correspond."
    )
    return Figure.from_matplotlib(canvas, caption)
