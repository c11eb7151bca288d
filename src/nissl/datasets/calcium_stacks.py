"""Movies kept as microscopes and pipelines leave them: TIFF folders, ScanImage files, Suite2p binaries, Zarr stores.

ScanImage writes channels and planes page by page, one after the other, with flyback pages between volumes: they are
taken apart by its own metadata (field names as in ScanImage's TIFF header, `SI.hChannels` and `SI.hStackManager`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from nissl.datasets.calcium_io import TIFF_SUFFIXES, ArrayMovie, Movie, check_frames, frame_axes


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sorts frame_2 before frame_10."""
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", path.name) if part]


class JoinedMovie:
    """Movies one after the other in time."""

    def __init__(self, parts: Sequence[Movie], name: str) -> None:
        kinds = {(part.shape[1:], part.dtype.str) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"the movies joined in {name} differ in frame size or type: {sorted(kinds)}")
        self._parts, self._ends = list(parts), np.cumsum([part.shape[0] for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype, self.files = parts[0].dtype, [file for part in parts for file in part.files]

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = _inside(frames, self.shape[0])
        part = np.searchsorted(self._ends, wanted, side="right")
        result = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for p in np.unique(part):
            start = self._ends[p] - self._parts[p].shape[0]
            result[part == p] = self._parts[p].read(wanted[part == p] - start)
        return result


class TIFFFolder:
    """A folder with a file per frame, in natural order; the folder is listed once, every frame checked when read."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        first = _read_image(self.files[0])
        self.shape = (len(self.files), *first.shape)
        self.dtype = first.dtype
        check_frames(str(self.files[0].parent), self.shape, self.dtype)

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        result = np.empty((len(frames), *self.shape[1:]), self.dtype)
        for place, index in enumerate(_inside(frames, self.shape[0])):
            image = _read_image(self.files[index])
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                raise ValueError(
                    f"{self.files[index]} holds {image.dtype} {image.shape}, but the folder's first frame is "
                    f"{self.dtype} {self.shape[1:]}. Remove it or choose another folder."
                )
            result[place] = image
        return result


def open_tiff_folder(path: Path, open_stack: Callable[[Path], Movie]) -> Movie:
    """A folder of single frames, or of stacks that follow each other (as multi-file acquisitions do).

    Args:
        path: the folder.
        open_stack: opens one file with several pages.
    """
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in TIFF_SUFFIXES), key=natural_key)
    if not files:
        raise ValueError(f"folder {path} holds no TIFF file (and is no Zarr store)")
    with tifffile.TiffFile(files[0]) as file:
        single = file.series[0].ndim == 2
    return TIFFFolder(files) if single else JoinedMovie([open_stack(file) for file in files], str(path))


class ScanImageMovie:
    """One channel and one plane of a ScanImage file.

    Args:
        path: the file.
        channel: number as in ScanImage, from 1; None where one was saved.
        plane: slice from 0; None where there is one.
    """

    def __init__(self, path: Path, channel: int | None, plane: int | None) -> None:
        self.files = [path]
        with tifffile.TiffFile(path) as file:
            text, num_pages, first = _software(file), len(file.pages), file.pages[0]
            size, self.dtype = (int(first.shape[0]), int(first.shape[1])), np.dtype(first.dtype or np.void)
        saved = [int(n) for n in re.findall(r"\d+", _field(text, "hChannels.channelSave", "1"))]
        volumes = _field(text, "hStackManager.enable", "true") == "true"
        slices = max(1, int(float(_field(text, "hStackManager.numSlices", "1")))) if volumes else 1
        flyback = int(float(_field(text, "hFastZ.numDiscardFlybackFrames", "0"))) if slices > 1 else 0
        if (channel is None and len(saved) > 1) or (channel is not None and channel not in saved):
            raise ValueError(f"{path} holds channels {saved}; came {channel}. Set key to the number of one.")
        if (plane is None and slices > 1) or (plane is not None and not 0 <= plane < slices):
            raise ValueError(f"{path} holds {slices} plane(s), from 0; came plane={plane}. Set plane.")
        per_volume = (slices + flyback) * len(saved)
        # A recording stopped by hand ends within a volume; its incomplete last volume is left out.
        page = (plane or 0) * len(saved) + (0 if channel is None else saved.index(channel))
        self._pages = np.arange(num_pages // per_volume) * per_volume + page
        self.shape = (len(self._pages), *size)
        check_frames(str(path), self.shape, self.dtype)

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted, back = np.unique(self._pages[_inside(frames, self.shape[0])], return_inverse=True)
        with tifffile.TiffFile(self.files[0]) as file:
            return np.stack([file.pages[int(page)].asarray() for page in wanted])[back]


def is_scanimage(path: Path) -> bool:
    """Whether a TIFF file carries ScanImage's header."""
    with tifffile.TiffFile(path) as file:
        return "SI.hChannels." in _software(file)


def open_suite2p(path: Path, size: str | None) -> ArrayMovie:
    """Suite2p's registered `data.bin`: int16, (T, Ly, Lx) in C order, memory-mapped.

    Args:
        path: the file.
        size: "LyxLx" such as "512x796". It stands in Suite2p's ops.npy too, but that is a pickle and never loaded.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", size or "")
    if match is None:
        raise ValueError(f"{path} does not say its frame size: set key to Ly x Lx, such as '512x796'; came {size!r}")
    height, width = int(match[1]), int(match[2])
    frames, rest = divmod(path.stat().st_size, 2 * height * width)
    if rest or not frames:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, no whole number of int16 frames of {size}. Check key."
        )
    return ArrayMovie(np.memmap(path, "<i2", "r", shape=(frames, height, width)), str(path), [path])


class ZarrMovie:
    """One array of a Zarr store (format 2 or 3); arguments as for `HDF5Movie`."""

    def __init__(self, path: Path, key: str | None, axes: str, plane: int | None) -> None:
        self.path, self.key, self._plane = path, key, plane
        array = self._open()
        self._axes = axes.upper()
        name = f"{path}:{key or ''}"
        self._order = frame_axes(axes, array.shape, plane, name)
        named = dict(zip(self._axes, array.shape, strict=True))
        self.shape, self.dtype = (named["T"], named["Y"], named["X"]), np.dtype(array.dtype)
        check_frames(name, self.shape, self.dtype)
        self.files = sorted(file for file in path.rglob("*") if file.is_file())

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted, back = np.unique(_inside(frames, self.shape[0]), return_inverse=True)
        selection: list[Any] = [slice(None)] * len(self._axes)
        selection[0] = wanted
        if self._plane is not None:
            selection[self._axes.index("Z")] = self._plane
        block = np.asarray(self._open().oindex[tuple(selection)])
        return (block.transpose(0, 2, 1) if self._order == "XY" else block)[back]

    def _open(self) -> Any:
        import zarr

        store: Any = zarr.open(str(self.path), mode="r")
        if isinstance(store, zarr.Array):
            if self.key is not None:
                raise ValueError(f"{self.path} is a single array; key must be null, came '{self.key}'")
            return store
        arrays = {name: item for name, item in store.members(max_depth=None) if isinstance(item, zarr.Array)}
        if self.key is None:
            movies = [name for name, item in arrays.items() if item.ndim == 3]
            if len(movies) != 1:
                raise ValueError(
                    f"without key, {self.path} must hold exactly one array with three axes; it has {movies}"
                )
            self.key = movies[0]
        if self.key not in arrays:
            raise ValueError(f"no array '{self.key}' in {self.path}; it has {', '.join(sorted(arrays)) or 'none'}")
        return arrays[self.key]


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def _inside(frames: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    wanted = np.asarray(frames)
    if len(wanted) and not (0 <= wanted.min() and wanted.max() < length):
        raise IndexError(f"frames {wanted.min()} to {wanted.max()} asked of a movie of {length}")
    return wanted


def _read_image(path: Path) -> np.ndarray:
    try:
        image = tifffile.imread(path)
    except (tifffile.TiffFileError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable TIFF image: {error}. Copy it again.") from error
    if image.size == 0:  # tifffile only logs a list of pages that leads nowhere
        raise ValueError(f"{path} is not a readable TIFF image: no page in it. Copy it again.")
    if image.ndim != 2:
        raise ValueError(f"{path} holds {image.shape}; expected one grey image, as in the rest of its folder")
    return image


def _software(file: tifffile.TiffFile) -> str:
    tag = file.pages[0].tags.get("Software") if len(file.pages) else None  # type: ignore[union-attr]
    return str(tag.value) if tag is not None else ""


def _field(text: str, name: str, otherwise: str) -> str:
    match = re.search(rf"^SI\.{re.escape(name)} = (.*)$", text, re.MULTILINE)
    return match[1].strip() if match else otherwise
