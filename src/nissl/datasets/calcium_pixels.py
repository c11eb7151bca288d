"""From stored frames to network input: size, normalisation, mask, and the brightness and contrast of training frames.

Whatever is measured (mean image, mask, mean and deviation) is measured on training frames only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from nissl.datasets.calcium_io import FRAMES_AT_ONCE, Movie

log = logging.getLogger(__name__)
MASKS = ("none", "fov", "file", "discs")
NORMALISATIONS = ("global", "recording", "none", "dff")
SATURATED_SHARE = 1e-3  # of the pixels at the type's maximum; more is warned of
FRAMES_MEASURED = 4096  # statistics of longer movies come from this many training frames, evenly spread
DFF_FRAMES = 256  # and the resting level of dF/F from this many a recording
DFF_PERCENTILE = 20.0


@dataclass(frozen=True)
class Normalisation:
    """`(frame - shift) / scale` by recording; each (R, 1, 1) or (R, H, W)."""

    shift: np.ndarray
    scale: np.ndarray

    def __call__(self, frames: np.ndarray, recording: np.ndarray) -> np.ndarray:
        """Normalise (n, H, W) float32 frames of the given recordings (n,)."""
        return (frames - self.shift[recording]) / self.scale[recording]


def resize_frames(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Average (n, H, W) frames over areas down to `size`, as float32."""
    frames = frames.astype(np.float32)
    if size is None or frames.shape[1:] == size:
        return frames
    return functional.adaptive_avg_pool2d(torch.from_numpy(frames)[:, None], size)[:, 0].numpy()


def check_movie(movie: Movie, name: str) -> None:
    """Refuse a movie with NaN, infinite or constant frames: all frames of float movies, a sample of integer ones.

    Raises:
        ValueError: naming the first bad frame.
    """
    length = movie.shape[0]
    stride = 1 if movie.dtype.kind == "f" else max(1, length // FRAMES_MEASURED)
    frames = np.arange(0, length, stride)
    saturated = pixels_seen = 0
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        chosen = frames[start : start + FRAMES_AT_ONCE]
        try:
            block = movie.read(chosen)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"cannot read frames {chosen[0]} to {chosen[-1]} of {name}: {error}") from error
        flat = block.reshape(len(block), -1)
        if movie.dtype.kind in "iu":
            saturated += int(np.count_nonzero(flat == np.iinfo(movie.dtype).max))
            pixels_seen += flat.size
        bad = ~np.isfinite(flat).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name} has NaN or infinite values, first in frame {chosen[np.argmax(bad)]}. Repair the movie: "
                "replace the values and, if the frames mean nothing, list them in dataset.exclude_frames."
            )
        constant = flat.min(axis=1) == flat.max(axis=1)
        if constant.any():
            raise ValueError(
                f"frame {chosen[np.argmax(constant)]} of {name} is constant ({flat[np.argmax(constant), 0]}): "
                "a dropped frame? Remove it from the movie."
            )
    if pixels_seen and saturated / pixels_seen > SATURATED_SHARE:
        log.warning(
            "%s: %.2g %% of the pixels are saturated (%d): brighter than that is not seen",
            name, 100 * saturated / pixels_seen, np.iinfo(movie.dtype).max,
        )  # fmt: skip


def sample_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def read_rows(
    movies: Sequence[Movie], recording: np.ndarray, frame: np.ndarray, size: tuple[int, int] | None
) -> np.ndarray:
    """Frames (n, H, W) float32 of any recordings, in the order asked for."""
    shape = size or movies[0].shape[1:]
    out = np.empty((len(frame), *shape), dtype=np.float32)
    for index in np.unique(recording):
        chosen = recording == index
        out[chosen] = resize_frames(movies[index].read(frame[chosen]), size)
    return out


def in_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows, `FRAMES_AT_ONCE` at a time."""
    for start in range(0, len(rows), FRAMES_AT_ONCE):
        yield rows[start : start + FRAMES_AT_ONCE]


def field_of_view(mean_image: np.ndarray, border_px: int, dark_share: float) -> np.ndarray:
    """Mask (H, W), True inside: without a border, and without dark pixels joined to it.

    Args:
        mean_image: temporal mean.
        border_px: always outside.
        dark_share: pixels among this share of the darkest are outside if they join the border.
    """
    inside = np.zeros(mean_image.shape, dtype=bool)
    inner = tuple(slice(border_px, side - border_px) for side in mean_image.shape)
    inside[inner] = True
    if not inside.any():
        raise ValueError(f"border_px={border_px} leaves nothing of a field of {mean_image.shape} pixels")
    dark = mean_image < np.quantile(mean_image[inside], dark_share)
    outside, _ = ndimage.label(~inside | dark)
    # Every component that touches the frame of the picture is outside; dark islands (vessels) stay inside.
    edge = np.unique(np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]]))
    return ~np.isin(outside, edge[edge > 0])


def mask_from_file(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Any one-page image; non-zero is inside."""
    path = Path(path)
    if path.suffix == ".npy" and path.is_file():
        image = np.load(path, allow_pickle=False)
    elif path.is_file():
        from PIL import Image

        image = np.asarray(Image.open(path).convert("F"))
    else:
        raise FileNotFoundError(f"mask {path} does not exist. Check dataset.mask_path.")
    if image.shape != shape:
        raise ValueError(f"mask {path} has shape {image.shape}, but frames are {shape}")
    if not image.any():
        raise ValueError(f"mask {path} is zero everywhere: nothing would be left to see")
    return image != 0


def discs(shape: tuple[int, int], positions_px: np.ndarray, radius_px: np.ndarray | float) -> np.ndarray:
    """Union of discs (H, W) around positions (N, 2), y and x of pixel centres."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    radii = np.broadcast_to(radius_px, len(positions_px))
    covered = np.zeros(shape, dtype=bool)
    for (cy, cx), radius in zip(positions_px, radii, strict=True):
        covered |= np.hypot(y - cy, x - cx) <= radius
    return covered


def fit_normalisation(
    kind: str,
    movies: Sequence[Movie],
    recording: np.ndarray,
    frame: np.ndarray,
    size: tuple[int, int] | None,
    mask: np.ndarray,
) -> Normalisation:
    """Measure mean and deviation on the given (training) frames, inside the mask.

    `global`: one mean and deviation. `recording`: one of each per recording. `dff`: (F - F0) / F0 with F0 the low
    percentile of each pixel, then divided by the deviation of all. `none`: as stored.
    """
    num = len(movies)
    if kind == "none":
        return Normalisation(np.zeros((num, 1, 1), np.float32), np.ones((num, 1, 1), np.float32))
    rows = sample_rows(np.arange(len(frame)), FRAMES_MEASURED)
    if kind == "dff":
        return _fit_dff(movies, recording, frame, size, mask)
    sums = np.zeros((num, 3))  # count, sum, sum of squares per recording
    for block in in_blocks(rows):
        values = read_rows(movies, recording[block], frame[block], size)[:, mask].astype(np.float64)
        counts = np.full(len(block), mask.sum())
        np.add.at(sums, recording[block], np.stack([counts, values.sum(axis=1), (values**2).sum(axis=1)], axis=1))
    if kind == "global":
        sums = np.broadcast_to(sums.sum(axis=0), sums.shape)
    with np.errstate(invalid="ignore"):
        mean = sums[:, 1] / sums[:, 0]
        deviation = np.sqrt(sums[:, 2] / sums[:, 0] - mean**2)
    empty = sums[:, 0] == 0
    if empty.any():
        raise ValueError(
            f"recording {int(np.argmax(empty))} has no training frames to normalise by. Use dataset.normalise=global."
        )
    return Normalisation(mean[:, None, None].astype(np.float32), deviation[:, None, None].astype(np.float32))


def _fit_dff(
    movies: Sequence[Movie], recording: np.ndarray, frame: np.ndarray, size: tuple[int, int] | None, mask: np.ndarray
) -> Normalisation:
    shape = size or movies[0].shape[1:]
    resting = np.ones((len(movies), *shape), dtype=np.float32)
    deviations = []
    for index in np.unique(recording):
        chosen = sample_rows(frame[recording == index], DFF_FRAMES)
        frames = resize_frames(movies[index].read(chosen), size)
        resting[index] = np.percentile(frames, DFF_PERCENTILE, axis=0)
        if (resting[index][mask] <= 0).any():
            raise ValueError(
                f"dF/F needs a positive resting level, but the {DFF_PERCENTILE:.0f}th percentile of some pixel of "
                f"recording {index} is {resting[index][mask].min()}. Use dataset.normalise=global."
            )
        deviations.append(((frames - resting[index]) / resting[index])[:, mask].std())
    resting[resting <= 0] = 1  # outside the mask only
    return Normalisation(resting, resting * np.float32(np.mean(deviations)))


def vary_brightness(
    frames: np.ndarray,
    mask: np.ndarray,
    contrast: tuple[float, float],
    brightness: float,
    seeds: Sequence[int | Sequence[int]],
) -> np.ndarray:
    """x' = a (x - m) + m + b s, with m and s each frame's mean and deviation inside the mask.

    a is uniform in `contrast`, b in +-`brightness`; each frame draws from its own seed.
    """
    # Contiguous: otherwise the order of summation, and the last bit, depends on how many frames come together.
    inside = np.ascontiguousarray(frames[:, mask])
    mean, deviation = inside.mean(axis=1), inside.std(axis=1)
    draws = np.array([np.random.default_rng(seed).random(2) for seed in seeds])
    a = contrast[0] + draws[:, 0] * (contrast[1] - contrast[0])
    b = brightness * (2 * draws[:, 1] - 1) * deviation
    scale, shift = a.astype(np.float32), (mean * (1 - a) + b).astype(np.float32)
    return frames * scale[:, None, None] + shift[:, None, None]
