"""Where neighbouring sections do not fit: the shift between them, measured patch by patch.

Each section is compared with the one before it. Patches on a regular grid are cross-correlated; the place of the peak
is how far the later section lies beside the earlier one. A flood-filling network does not cross such a jump if the
field is given to `nissl.flood_fill.masks.blocked_by_shift`, or its mask to the segmenter.

Normalised cross-correlation by FFT, with a parabola through the peak, is the standard of alignment (Lewis 1995, Fast
normalized cross-correlation). google/ffn consumes such a field and does not make it; quality limits here are ours.

Shapes: sections (Z, Y, X); fields (2, Z, y, x) hold (dy, dx) in voxels on a grid of `step`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from nissl.volumes.chunked import write_hdf5


def patch_shift(before: np.ndarray, after: np.ndarray, max_shift: int) -> tuple[float, float, float, float]:
    """How far `after` lies beside `before`, and how sure that is.

    Args:
        before, after: patches of one shape (Y, X).
        max_shift: largest shift looked for, voxels.

    Returns:
        dy, dx in voxels with fractions; the normalised correlation at the peak (-1 to 1); and its ratio to the highest
        correlation that is not part of the peak (above 1: clear).
    """
    height, width = before.shape
    inner = before[max_shift : height - max_shift, max_shift : width - max_shift].astype(np.float64)
    if inner.size == 0:
        raise ValueError(f"patches of {list(before.shape)} voxels are too small for shifts of {max_shift}")
    inner = inner - inner.mean()
    after = after.astype(np.float64)
    energy = np.sqrt((inner**2).sum())
    # Correlation of the inner patch with each window of the later section: one product of FFTs.
    shape = [a + b - 1 for a, b in zip(after.shape, inner.shape, strict=True)]
    product = np.fft.irfft2(np.fft.rfft2(after, shape) * np.fft.rfft2(inner[::-1, ::-1], shape), shape)
    products = product[inner.shape[0] - 1 : height, inner.shape[1] - 1 : width]
    size = 2 * max_shift + 1
    sums, squares = (_window_sums(values, inner.shape) for values in (after, after**2))
    deviation = np.sqrt(np.maximum(squares - sums**2 / inner.size, 0))
    flat = deviation < 1e-9
    correlation = np.where(flat, 0.0, products / np.where(flat, 1.0, deviation * max(energy, 1e-12)))
    y, x = divmod(int(correlation.argmax()), size)
    peak = float(correlation[y, x])
    far = np.hypot(*np.ogrid[-y : size - y, -x : size - x]) > max(2.0, max_shift / 4)
    second = float(correlation[far].max()) if far.any() else 0.0
    dy = y + _vertex(correlation[:, x], y) - max_shift
    dx = x + _vertex(correlation[y], x) - max_shift
    return dy, dx, peak, peak / max(second, 1e-6)


def _window_sums(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = shape
    return total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]


def _vertex(values: np.ndarray, at: int) -> float:
    """Where the parabola through a maximum and its neighbours has its top, relative to the maximum."""
    if at in (0, len(values) - 1):
        return 0.0
    low, middle, high = values[at - 1 : at + 2]
    curvature = low - 2 * middle + high
    return 0.0 if curvature >= 0 else float(0.5 * (low - high) / curvature)


def shift_field(
    raw: np.ndarray,
    patch: int,
    step: int,
    max_shift: int,
    min_peak: float = 0.3,
    min_ratio: float = 1.1,
    drift_window: int | None = None,
) -> np.ndarray:
    """Shift of each section against the one before it, (2, Z, y, x) float32; NaN where it is unknown.

    Grid point (i, j) stands for the voxels from i * step and j * step on; section 0 has shift 0.

    Args:
        raw: (Z, Y, X) grey values.
        patch: side of what is compared, voxels; several times max_shift.
        step: of the grid, voxels.
        max_shift: largest shift looked for, voxels.
        min_peak: lower correlations are unknown.
        min_ratio: peaks less than this many times the second one are unknown.
        drift_window: what is smooth over this many grid points is taken off as slow drift; None: nothing is.
    """
    if patch <= 2 * max_shift:
        raise ValueError(f"patch ({patch} voxels) must be more than twice max_shift ({max_shift})")
    num_sections, height, width = raw.shape
    if min(height, width) < patch:
        raise ValueError(f"sections of {height} x {width} voxels are smaller than a patch of {patch}")
    grid = (-(-height // step), -(-width // step))
    field = np.full((2, num_sections, *grid), np.nan, np.float32)
    field[:, 0] = 0
    for z in range(1, num_sections):
        for i, j in np.ndindex(grid):
            y = min(max(i * step + step // 2 - patch // 2, 0), height - patch)
            x = min(max(j * step + step // 2 - patch // 2, 0), width - patch)
            part = (slice(y, y + patch), slice(x, x + patch))
            dy, dx, peak, ratio = patch_shift(raw[z - 1][part], raw[z][part], max_shift)
            if peak >= min_peak and ratio >= min_ratio:
                field[:, z, i, j] = dy, dx
    if drift_window is not None:
        known = np.where(np.isnan(field), 0, field)
        field = field - ndimage.median_filter(known, (1, 1, drift_window, drift_window), mode="nearest")
    return field


def missing_sections(raw: np.ndarray, min_std_share: float = 0.2) -> np.ndarray:
    """Sections without an image, (Z,) bool: their grey values vary less than this share of the usual section's."""
    deviations = raw.reshape(len(raw), -1).std(axis=1)
    return deviations < min_std_share * np.median(deviations)


def known_everywhere(field: np.ndarray) -> np.ndarray:
    """A shift field in which the nearest known place of a section stands for unknown ones.

    A section of which nothing is known stays NaN.
    """
    found = field.copy()
    for z in range(field.shape[1]):
        unknown = np.isnan(field[:, z]).any(axis=0)
        if unknown.any() and not unknown.all():
            nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
            found[:, z] = field[(slice(None), z, *nearest)]
    return found


def jump_mask(field: np.ndarray, shape_zyx: tuple[int, int, int], step: int, threshold: float) -> np.ndarray:
    """Voxels of the two sections on both sides of each jump, (Z, Y, X) bool: no field of view may be centred there.

    Args:
        field: from `shift_field`.
        shape_zyx: of the volume.
        step: of the field's grid.
        threshold: voxels; a shift of this much along y or x is a jump. Where it is unknown the nearest known place of
            the section decides; a section of which nothing is known has none.
    """
    with np.errstate(invalid="ignore"):
        jump = (np.abs(known_everywhere(field)) >= threshold).any(axis=0)
    jump = jump.repeat(step, axis=1).repeat(step, axis=2)[:, : shape_zyx[1], : shape_zyx[2]]
    mask = jump.copy()
    mask[:-1] |= jump[1:]
    return mask


def write_movement_mask(
    path: str | Path,
    mask: np.ndarray,
    voxel_size_zyx_nm: tuple[float, float, float],
    offset_zyx: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """A mask as the segmenter reads it: dataset `movement_mask`, (Z, Y, X) bool, True = forbidden.

    Args:
        offset_zyx: where the mask begins in its image file, voxels; nothing is forbidden before it.
    """
    if mask.dtype != bool or mask.ndim != 3:
        raise ValueError(f"a movement mask is (Z, Y, X) bool, came {mask.dtype} of shape {mask.shape}")
    write_hdf5(path, {"movement_mask": mask}, voxel_size_zyx_nm, offset_zyx)
