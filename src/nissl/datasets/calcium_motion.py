"""Rigid registration of a movie: each frame is shifted onto a template by phase correlation.

The template is the mean of given (training) frames, sharpened once by registering them to their own mean. Ours, after
the general method: Kuglin and Hines 1975; the peak is refined by a parabola through its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from nissl.datasets.calcium_io import FRAMES_AT_ONCE, Movie

TEMPLATE_FRAMES = 200  # evenly spread over those given
MOTIONS = ("none", "rigid")


class RegisteredMovie:
    """A movie whose frames are moved by known shifts when they are read; bilinear, edges repeated.

    Attributes:
        stored: the movie as it is.
        shifts_px: (T, 2) y, x added to each frame's content to bring it onto the template.
    """

    def __init__(self, movie: Movie, shifts_px: np.ndarray) -> None:
        self.stored, self.shifts_px = movie, shifts_px
        self.shape, self.files = movie.shape, movie.files
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    files: list[Path]

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        frames_yx = self.stored.read(frames).astype(np.float32)
        return shift_frames(frames_yx, self.shifts_px[np.asarray(frames)])


def register(movie: Movie, template_frames: np.ndarray) -> RegisteredMovie:
    """Estimate every frame's shift and return the movie that applies them.

    Args:
        movie: as stored.
        template_frames: indices of the frames the template may be made of.
    """
    chosen = template_frames[
        np.linspace(0, len(template_frames) - 1, min(len(template_frames), TEMPLATE_FRAMES)).astype(int)
    ]
    sample = movie.read(np.unique(chosen)).astype(np.float32)
    template = sample.mean(axis=0)
    template = shift_frames(sample, find_shifts(sample, template)).mean(axis=0)
    blocks = [
        find_shifts(movie.read(np.arange(start, min(start + FRAMES_AT_ONCE, movie.shape[0]))), template)
        for start in range(0, movie.shape[0], FRAMES_AT_ONCE)
    ]
    return RegisteredMovie(movie, np.concatenate(blocks))


def move(movie: Movie, shift_px: np.ndarray) -> RegisteredMovie:
    """A movie all of whose frames are moved by one more shift (2,); moved once, not twice, if it is registered."""
    shifts = np.tile(shift_px, (movie.shape[0], 1))
    if isinstance(movie, RegisteredMovie):
        return RegisteredMovie(movie.stored, movie.shifts_px + shifts)
    return RegisteredMovie(movie, shifts)


def correlate_moved(image: np.ndarray, template: np.ndarray, shift_px: np.ndarray) -> float:
    """Pearson correlation of an image (H, W), once moved, with a template, where both were seen."""
    edge = int(np.ceil(np.abs(shift_px).max()))
    if 2 * edge >= min(template.shape) - 1:
        return 0.0
    inner = slice(edge, -edge or None)
    moved = shift_frames(image[None], shift_px[None])[0]
    return float(np.corrcoef(moved[inner, inner].ravel(), template[inner, inner].ravel())[0, 1])


def find_shifts(frames: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Shifts (n, 2), y and x in pixels, that bring frames (n, H, W) onto the template (H, W)."""
    window = np.outer(np.hanning(template.shape[0] + 2)[1:-1], np.hanning(template.shape[1] + 2)[1:-1])
    fixed = np.fft.rfft2((template - template.mean()) * window)
    centred = frames - frames.mean(axis=(1, 2), keepdims=True)
    cross = fixed * np.conj(np.fft.rfft2(centred * window))
    # Whitened, but not where there is no signal: noise would count as much as structure.
    power = np.abs(cross)
    surface = np.fft.irfft2(cross / (power + 1e-3 * power.max(axis=(1, 2), keepdims=True)), s=template.shape)
    return np.stack([_peak(one) for one in surface])


def shift_frames(frames: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Frames (n, H, W) with their content moved by (n, 2) y, x."""
    return np.stack(
        [ndimage.shift(frame, shift, order=1, mode="nearest") for frame, shift in zip(frames, shifts_px, strict=True)]
    )


def _peak(surface: np.ndarray) -> np.ndarray:
    """Place (2,) of the highest value of a cyclic surface, refined along each axis; halves count as negative."""
    top = np.unravel_index(int(surface.argmax()), surface.shape)
    place = []
    for axis, size in enumerate(surface.shape):
        line = surface[:, top[1]] if axis == 0 else surface[top[0]]
        index = int(top[axis])
        before, here, after = line[index - 1], line[index], line[(index + 1) % size]
        curvature = before - 2 * here + after
        offset = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
        place.append((index + offset + size / 2) % size - size / 2)
    return np.array(place)
