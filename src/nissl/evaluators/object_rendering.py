"""Objects of a label volume in three dimensions, without a graphics library.

Parallel rays are cast through the volume; each stops at the first voxel of an object that is drawn. The surface is
shaded by its slope, taken from the smoothed depth of the hits of one object, and by its distance, so that near
processes stand out. Nearest voxels, no meshes: what is drawn is what was segmented.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from nissl.evaluators.result import Figure
from nissl.evaluators.segmentation_figures import colours_of, matched
from nissl.volumes.annotated import AnnotatedVolume

TURN, TILT = 35.0, 25.0  # degrees, of the view
LIGHT = np.array([-0.45, -0.55, 0.7])  # from the upper left, towards the viewer
EDGE = 0.25  # of an object's width in depth: a larger step is an edge and drawn dark


def render(
    labels: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float], pixels: int, turn: float, tilt: float
) -> np.ndarray:
    """(H, W, 3) uint8 picture of every label above 0, in the colours of `colours_of`, on white.

    Args:
        labels: (Z, Y, X) integer.
        voxel_size_zyx_nm: proportions.
        pixels: of the longer side.
        turn, tilt: degrees about the z axis and then towards the viewer. 0, 0 looks along y from its low end, z up.
    """
    depth, hit = cast_rays(labels, voxel_size_zyx_nm, pixels, turn, tilt)
    seen = hit > 0
    if not seen.any():
        return np.full((*hit.shape, 3), 255, np.uint8)
    smooth = _smooth_within(depth, hit)
    down, across = np.gradient(smooth)
    normal = np.stack([across, down, -np.ones_like(smooth)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    # The normal faces the viewer (-depth); x is to the right, y down.
    lit = np.clip(normal @ np.array([LIGHT[0], LIGHT[1], -LIGHT[2]]), 0, 1)
    near, far = np.percentile(depth[seen], [2, 98])
    fog = np.clip((depth - near) / max(far - near, 1), 0, 1)
    colour = colours_of(hit) * (0.35 + 0.75 * lit)[..., None]
    colour = colour * (1 - 0.45 * fog)[..., None] + 0.45 * fog[..., None]
    edge = np.zeros_like(seen)
    for axis in (0, 1):
        edge |= np.roll(hit, 1, axis) != hit
    colour = np.where(edge[..., None], 0.35 * colour, colour)
    return (255 * np.where(seen[..., None], np.clip(colour, 0, 1), 1)).astype(np.uint8)


def cast_rays(
    labels: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float], pixels: int, turn: float, tilt: float
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (in pixels from the viewer's plane; 0 where nothing is hit) and label of the first hit, (H, W) each."""
    size = np.asarray(voxel_size_zyx_nm)
    extent = np.asarray(labels.shape) * size  # nm, zyx
    a, b = np.deg2rad([turn, tilt])
    # Viewer's axes in z, y, x: right, down, into the picture.
    right = np.array([0, np.sin(a), np.cos(a)])
    into = np.array([-np.sin(b), np.cos(b) * np.cos(a), -np.cos(b) * np.sin(a)])
    down = np.array([-np.cos(b), -np.sin(b) * np.cos(a), np.sin(b) * np.sin(a)])
    width, height, depth = (float(np.abs(axis) @ extent) for axis in (right, down, into))
    pixel = max(width, height) / pixels
    columns, rows = int(np.ceil(width / pixel)), int(np.ceil(height / pixel))
    across = (np.arange(columns) + 0.5) * pixel - width / 2
    downwards = (np.arange(rows) + 0.5) * pixel - height / 2
    plane = extent / 2 + downwards[:, None, None] * down + across[None, :, None] * right  # (H, W, 3) nm
    hit = np.zeros((rows, columns), np.int64)
    found = np.zeros((rows, columns))
    open_rays = np.arange(rows * columns)
    start = plane.reshape(-1, 3)
    shape = np.asarray(labels.shape)
    for step in range(int(np.ceil(depth / pixel))):
        voxel = np.floor((start[open_rays] + ((step + 0.5) * pixel - depth / 2) * into) / size).astype(np.int64)
        inside = np.flatnonzero(((voxel >= 0) & (voxel < shape)).all(axis=1))
        at = labels[tuple(voxel[inside].T)]
        struck = at > 0
        rays = open_rays[inside[struck]]
        hit.flat[rays], found.flat[rays] = at[struck], step + 1
        if struck.any():
            keep = np.ones(len(open_rays), bool)
            keep[inside[struck]] = False
            open_rays = open_rays[keep]
    return found, hit


def _smooth_within(depth: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Depth averaged over the neighbours that belong to the same object and are not far behind or before it."""
    total, weight = depth.copy(), np.ones_like(depth)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if dy == dx == 0:
                continue
            moved, label = np.roll(depth, (dy, dx), (0, 1)), np.roll(hit, (dy, dx), (0, 1))
            near = (label == hit) & (np.abs(moved - depth) < 8)
            total += np.where(near, moved, 0)
            weight += near
    return ndimage.uniform_filter(total / weight, 3)


def objects_figure(
    volume: AnnotatedVolume, truth: np.ndarray, segmentation: np.ndarray, num_objects: int, pixels: int = 420
) -> Figure:
    """The largest true objects, and what the segmentation made of them, from the same side.

    On the right every segment is drawn that is mostly one of these objects, as far as it reaches: the largest segment
    of an object bears its colour, smaller fragments have others, and a merger leaves the shapes on the left.
    """
    from matplotlib.figure import Figure as Canvas

    ids, counts = np.unique(truth[truth > 0], return_counts=True)
    largest = ids[np.argsort(-counts, kind="stable")][:num_objects]
    shown = np.where(np.isin(truth, largest), truth, 0)
    found = matched(truth, segmentation)
    segments, column = np.unique(found, return_inverse=True)
    column = column.reshape(found.shape)
    mostly = np.bincount(column[shown > 0], minlength=len(segments)) > np.bincount(column.ravel()) / 2
    mostly &= segments > 0
    size = volume.voxel_size_zyx_nm
    pixels = min(pixels, 3 * max(truth.shape))  # finer than that, rays only meet the same voxels again
    pictures = [render(labels, size, pixels, TURN, TILT) for labels in (shown, np.where(mostly[column], found, 0))]
    canvas = Canvas(figsize=(10, 5.2))
    axes = canvas.subplots(1, 2, gridspec_kw={"wspace": 0.02})
    for ax, picture, title in zip(axes, pictures, ("true objects", "segments"), strict=True):
        ax.imshow(picture, interpolation="bilinear")
        ax.set_title(title, fontsize=11)
        ax.axis("off")
    extent = " x ".join(f"{n * v / 1e3:.2f}" for n, v in zip(truth.shape, size, strict=True))
    caption = (
        f"{volume.name}: the {len(largest)} largest true objects and the segments that are mostly one of them, in a "
        f"box of {extent} um (zyx), seen from the low end of y, turned {TURN:g} and tilted {TILT:g} degrees. "
        "The largest segment of an object bears its colour."
    )
    return Figure.from_matplotlib(canvas, caption)
