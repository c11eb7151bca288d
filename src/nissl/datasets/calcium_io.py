"""Movies from files, read lazily: HDF5, TIFF (also BigTIFF and ImageJ), npy and npz; always (time, y, x) when read.

Folders, ScanImage, Suite2p and Zarr are in `calcium_stacks`, videos in `calcium_video`; `open_movie` opens all of them.

A movie knows its shape and gives frames by index; it never holds the whole file (unless asked to, for small ones), and
never changes the data type. Files are opened where they are read, so a movie can be sent to a worker process.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import tifffile

TIFF_SUFFIXES, HDF5_SUFFIXES = (".tif", ".tiff"), (".h5", ".hdf5", ".hdf")
FRAMES_AT_ONCE = 256  # how many frames a pass over a whole movie reads at a time


class Movie(Protocol):
    """Frames by index.

    Attributes:
        shape: (T, Y, X).
        dtype: as in the file.
        files: what it reads; empty in memory.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    files: list[Path]

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames (n, Y, X) in the order asked for; indices may repeat."""
        ...


class ArrayMovie:
    """A movie that is an array already, in memory or memory-mapped."""

    def __init__(self, array: np.ndarray, name: str, files: list[Path] | None = None) -> None:
        check_frames(name, array.shape, array.dtype)
        self._array = array
        self.shape: tuple[int, int, int] = array.shape
        self.dtype, self.files = array.dtype, files or []

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        block = np.asarray(self._array[np.asarray(frames)])
        mapped = getattr(self._array, "_mmap", None)
        if mapped is not None:
            # Pages that were read stay resident until the machine needs them: an epoch would hold the whole movie.
            mapped.madvise(mmap.MADV_DONTNEED)
        return block


class HDF5Movie:
    """One data set of an HDF5 file.

    Args:
        path: the file.
        key: name of the data set; None where the file holds exactly one that could be a movie.
        axes: order of its axes, such as "TYX", "TXY" or "TZYX"; T first.
        plane: index along Z, needed where there is one.
    """

    def __init__(self, path: Path, key: str | None, axes: str, plane: int | None) -> None:
        self.path, self._plane = path, plane
        with _open_hdf5(path) as file:
            self.key = _only_movie(file, path) if key is None else key
            if self.key not in file or not isinstance(file[self.key], h5py.Dataset):
                names = _dataset_names(file)
                raise ValueError(f"no data set '{self.key}' in {path}; it has {', '.join(names) or 'none'}. Set key.")
            shape, self.dtype = file[self.key].shape, file[self.key].dtype
        self._order = frame_axes(axes, shape, plane, f"{path}:{self.key}")
        self._plane_last = axes.upper().endswith("Z")
        named = dict(zip(axes.upper(), shape, strict=True))
        self.shape = (named["T"], named["Y"], named["X"])
        check_frames(f"{path}:{self.key}", self.shape, self.dtype)
        self.files = [path]
        self._file: h5py.File | None = None

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        wanted, back = np.unique(np.asarray(frames), return_inverse=True)  # h5py wants sorted, distinct indices
        data = self._file[self.key]
        if self._plane is None:
            block = data[wanted]
        else:
            block = data[wanted, :, :, self._plane] if self._plane_last else data[wanted, self._plane]
        return (block.transpose(0, 2, 1) if self._order == "XY" else block)[back]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file cannot follow into another process


class TIFFMovie:
    """A stack of grey pages. ImageJ files that call their time axis Z are read as time."""

    def __init__(self, path: Path, axes: str | None) -> None:
        self.path = path
        try:
            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                shape, came, self.dtype = series.shape, series.axes, series.dtype
                size = path.stat().st_size
                ends = [int(o) + int(n) for page in series.pages for o, n in _extents(page)]
                if series.dataoffset is not None:
                    ends.append(series.dataoffset + series.nbytes)
        except (tifffile.TiffFileError, IndexError, OSError, AttributeError) as error:
            raise ValueError(f"{path} is not a readable TIFF file: {error}. Truncated? Copy it again.") from error
        if max(ends, default=0) > size:
            raise ValueError(f"{path} is truncated: pages end at byte {max(ends)}, the file at {size}. Copy it again.")
        if "S" in came:
            raise ValueError(f"{path} is a colour TIFF (axes {came}, shape {shape}). Convert it to one grey channel.")
        if len(shape) != 3 or (axes or "TYX").upper() != "TYX":
            raise ValueError(f"{path} has axes {came}, shape {shape}; expected a stack of pages (time, y, x).")
        check_frames(str(path), shape, self.dtype)
        self.shape: tuple[int, int, int] = shape
        self.files = [path]

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted, back = np.unique(np.asarray(frames), return_inverse=True)
        # imread by page index fails on ImageJ files above 4 GB, which have one page: the series knows its frames.
        with tifffile.TiffFile(self.path) as file:
            series = file.series[0]
            if series.dataoffset is not None:  # contiguous: seek instead of walking the pages
                stored = series.dtype.newbyteorder(file.byteorder)
                mapped = np.memmap(self.path, stored, "r", series.dataoffset, self.shape)
                return np.asarray(mapped[wanted])[back]
            return np.stack([file.asarray(key=int(i)) for i in wanted])[back]


def open_movie(
    path: str | Path, key: str | None = None, axes: str | None = None, plane: int | None = None, memory_mb: float = 0
) -> Movie:
    """Open a movie by its suffix; a folder is a Zarr store, or TIFF files in natural order.

    Args:
        path: the file or folder.
        key: data set inside an HDF5, npz or Zarr file; may be None where only one can be meant. The channel's number
            of a ScanImage file; the frame size of a Suite2p binary, such as "512x796".
        axes: axis order in the file; default TYX, in NWB files TXY.
        plane: index along Z for movies of volumes.
        memory_mb: movies up to this size are read once and kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of an unknown kind, or holds no movie under that name.
    """
    # These read what this file defines, and bring packages that most movies do not need.
    from nissl.datasets import calcium_stacks as stacks
    from nissl.datasets import calcium_video as videos

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"movie {path} does not exist. Check dataset.path, or NISSL_DATA for the data folder.")
    suffix = path.suffix.lower()
    movie: Movie
    if path.is_dir() and stacks.is_zarr(path):
        movie = stacks.ZarrMovie(path, key, axes or "TYX", plane)
    elif path.is_dir() and videos.has_videos(path):
        movie = videos.open_videos(path)
    elif suffix in videos.VIDEO_SUFFIXES:
        movie = videos.VideoMovie(path)
    elif path.is_dir():
        movie = stacks.open_tiff_folder(path, lambda file: open_movie(file, key, axes, plane))
    elif suffix in HDF5_SUFFIXES:
        movie = HDF5Movie(path, key, axes or "TYX", plane)
    elif suffix in TIFF_SUFFIXES:
        check_page_chain(path)
        if stacks.is_scanimage(path):
            if key is not None and not key.isdigit():
                raise ValueError(f"key='{key}' for the ScanImage file {path}: expected the number of a channel")
            movie = stacks.ScanImageMovie(path, None if key is None else int(key), plane)
        else:
            movie = TIFFMovie(path, axes)
    elif suffix == ".nwb":
        from nissl.datasets.calcium_nwb import open_nwb

        movie = open_nwb(path, key, axes, plane)
    elif suffix == ".bin":
        movie = stacks.open_suite2p(path, key)
    elif suffix in (".npy", ".npz"):
        movie = ArrayMovie(_load_numpy(path, key), str(path), [path])
    else:
        raise ValueError(
            f"cannot read a movie from {path}: expected .h5, .hdf5, .tif, .tiff, .npy, .npz, .nwb, .avi, .bin "
            "(Suite2p), or a folder of TIFF files, of videos or of a Zarr store"
        )
    size_mb = np.prod(movie.shape, dtype=float) * movie.dtype.itemsize / 2**20
    if size_mb <= memory_mb:
        return ArrayMovie(movie.read(np.arange(movie.shape[0])), str(path), movie.files)
    return movie


def read_series(path: str | Path, key: str) -> np.ndarray:
    """One value per frame (T,) from the data set `key` of an HDF5 file, or the column `key` of a CSV file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"covariate file {path} does not exist. Check dataset.covariate_path.")
    if path.suffix.lower() in HDF5_SUFFIXES:
        with _open_hdf5(path) as file:
            if key not in file:
                raise ValueError(f"no data set '{key}' in {path}; it has {', '.join(_dataset_names(file))}")
            values = np.asarray(file[key])
    else:
        table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
        if table.dtype.names is None or key not in table.dtype.names:
            raise ValueError(f"no column '{key}' in {path}; it has {', '.join(table.dtype.names or ())}")
        values = np.atleast_1d(table[key])
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(f"covariate '{key}' of {path} must be a number per frame, came {values.shape} {values.dtype}")
    return values


def check_page_chain(path: Path) -> None:
    """Follow a TIFF's list of pages to its end; tifffile only logs a broken list and gives the pages before the break.

    Raises:
        ValueError: if the file is no TIFF, or its list leads beyond its end.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8 or head[2:4] not in (struct.pack(order + "H", v) for v in (42, 43)):
            raise ValueError(f"{path} is not a TIFF file: it begins with {head[:4]!r}")
        big = head[2:4] == struct.pack(order + "H", 43)
        count_format, entry, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
        width = struct.calcsize(order + offset_format)
        place = head[8:16] if big else head[4:8]
        visited: set[int] = set()
        while len(place) == width and (offset := struct.unpack(order + offset_format, place)[0]):
            file.seek(offset)
            count = file.read(struct.calcsize(order + count_format))
            if offset in visited or offset >= size or len(count) < struct.calcsize(order + count_format):
                raise ValueError(
                    f"{path} is damaged or truncated: a page is listed at byte {offset} of {size}. Copy it again."
                )
            visited.add(offset)
            file.seek(entry * struct.unpack(order + count_format, count)[0], 1)
            place = file.read(width)
        if len(place) < width:
            raise ValueError(f"{path} is truncated: its list of pages breaks off at byte {size}. Copy it again.")


def check_frames(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"movie {name} has shape {shape}; expected three axes (time, y, x), none of them empty")
    if dtype.kind not in "fiu":
        raise ValueError(f"movie {name} holds {dtype}; expected integers or floats")


def frame_axes(axes: str, shape: tuple[int, ...], plane: int | None, name: str) -> str:
    """ "YX" or "XY": the order in which a frame is stored."""
    axes = axes.upper()
    if len(axes) != len(shape):
        raise ValueError(f"{name} has {len(shape)} axes {shape}, but axes='{axes}' names {len(axes)}")
    inner = axes.replace("Z", "")
    if inner not in ("TYX", "TXY") or (len(axes) == 4 and axes[1] != "Z" and axes[3] != "Z"):
        raise ValueError(f"axes='{axes}' is not supported; use TYX, TXY, or with Z second or last")
    if ("Z" in axes) != (plane is not None):
        need = "choose one with plane=" if "Z" in axes else "plane must be null"
        raise ValueError(f"{name} with axes='{axes}': {need}")
    if plane is not None and not 0 <= plane < shape[axes.index("Z")]:
        raise ValueError(f"plane={plane} is outside {name}, which has {shape[axes.index('Z')]} planes")
    return inner[1:]


def _open_hdf5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}. Truncated? Copy it again.") from error


def _dataset_names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _only_movie(file: h5py.File, path: Path) -> str:
    movies = [name for name in _dataset_names(file) if file[name].ndim == 3]
    if len(movies) != 1:
        found = ", ".join(movies) or f"none (of {', '.join(_dataset_names(file)) or 'no data sets'})"
        raise ValueError(
            f"without key, {path} must hold exactly one data set with three axes; it has {found}. Set key."
        )
    return movies[0]


def _extents(page: Any) -> list[tuple[int, int]]:
    """(offset, bytes) of the strips of a TIFF page; pages of a uniform series may be None."""
    return [] if page is None else list(zip(page.dataoffsets, page.databytecounts, strict=True))


def _load_numpy(path: Path, key: str | None) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            movies = [name for name in arrays.files if arrays[name].ndim == 3]
            if key is None and len(movies) == 1:
                key = movies[0]
            if key not in arrays.files:
                raise KeyError(f"no array '{key}' in {path}; it has {', '.join(arrays.files)}")
            return arrays[key]
    except KeyError as error:
        raise ValueError(f"{error.args[0]}. Set key.") from error
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable numpy file: {error}. Truncated? Copy it again.") from error
