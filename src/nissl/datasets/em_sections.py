"""Faults of serial sections, drawn on purpose: shifted, missing, blurred and unevenly stained sections.

Source: Lee et al. 2017, https://arxiv.org/abs/1706.00120, and google/ffn (training/augmentation.py). Departures: a
shifted example is cut from a larger patch, where the reference rolls it around its edge; and the section of the
centre never moves, so that the voxel an example was drawn for stays in its middle.

Every function takes an image (Z, Y, X) float32 with sections along z, and a generator; it returns a new array.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage


def affected_sections(num_sections: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of the sections that a fault befalls: max(int(ratio * Z), 1) of 1 ... Z-1; none of a single section."""
    if num_sections < 2:
        return np.zeros(0, int)
    count = min(max(int(ratio * num_sections), 1), num_sections - 1)
    return np.sort(1 + rng.permutation(num_sections - 1)[:count])


def section_shifts(num_sections: int, max_offset: int, slip_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """How far each section lies from its place, (Z, 2) integer (dy, dx).

    With probability `slip_ratio` one section slips; otherwise all sections on the far side of a random cut move, so
    that neighbours no longer meet there. The middle section stays in both cases.
    """
    shifts = np.zeros((num_sections, 2), int)
    offset = rng.integers(-max_offset, max_offset + 1, 2)
    middle = num_sections // 2
    if num_sections < 2:
        return shifts
    if rng.random() < slip_ratio:
        others = [z for z in range(num_sections) if z != middle]
        shifts[others[rng.integers(len(others))]] = offset
    else:
        cut = rng.integers(1, num_sections)
        shifts[cut:] = offset
        shifts -= shifts[middle]
    return shifts


def shift_sections(array: np.ndarray, shifts: np.ndarray, margin: int) -> np.ndarray:
    """The middle of a patch with `margin` to spare on each side of y and x, each section cut where its shift says."""
    height, width = (size - 2 * margin for size in array.shape[1:])
    out = np.empty((array.shape[0], height, width), array.dtype)
    for z, (dy, dx) in enumerate(shifts):
        y, x = margin + dy, margin + dx
        out[z] = array[z, y : y + height, x : x + width]
    return out


def missing_sections(
    image: np.ndarray, sections: np.ndarray, fill: float | tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Sections, or quadrants of them, replaced by one grey value each.

    Args:
        fill: the grey value, or the range that it is drawn from.
    """
    image = image.copy()
    for z in sections:
        grey = fill if isinstance(fill, int | float) else rng.uniform(*fill)
        for part in _wholes_or_quadrants(image.shape[1:], rng):
            image[z][part] = grey
    return image


def blurred_sections(image: np.ndarray, sections: np.ndarray, sigma_max: float, rng: np.random.Generator) -> np.ndarray:
    """Sections, or quadrants of them, out of focus: a Gaussian of up to `sigma_max` voxels."""
    image = image.copy()
    for z in sections:
        blurred = ndimage.gaussian_filter(image[z], rng.uniform(0, sigma_max), mode="reflect")
        for part in _wholes_or_quadrants(image.shape[1:], rng):
            image[z][part] = blurred[part]
    return image


def _wholes_or_quadrants(shape_yx: tuple[int, ...], rng: np.random.Generator) -> Iterator[tuple[slice, slice]]:
    """With probability one half the whole section, else each of four quadrants with probability one half."""
    if rng.random() < 0.5:
        yield slice(None), slice(None)
        return
    y, x = (int(rng.integers(1, size)) if size > 1 else 1 for size in shape_yx)
    for rows in (slice(0, y), slice(y, None)):
        for columns in (slice(0, x), slice(x, None)):
            if rng.random() < 0.5:
                yield rows, columns


def regraded(
    share: np.ndarray, contrast: float, brightness: float, gamma: bool, rng: np.random.Generator
) -> np.ndarray:
    """Grey values as shares of white, changed as (share * c + b) ** g and clipped to [0, 1].

    c is uniform in 1 -+ contrast / 2, b in -+ brightness / 2, and g = 2 ** U(-1, 1) if `gamma`. One draw holds for the
    whole volume with probability one half, else each section has its own.
    """
    num_draws = 1 if rng.random() < 0.5 else len(share)
    draws = rng.uniform(-1, 1, (3, num_draws, 1, 1))
    factor, shift = 1 + draws[0] * contrast / 2, draws[1] * brightness / 2
    power = 2.0 ** draws[2] if gamma else 1.0
    return (np.clip(share * factor + shift, 0, 1) ** power).astype(np.float32)
