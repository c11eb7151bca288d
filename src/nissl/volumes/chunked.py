"""Reading volumes from files, with every complaint about the file in one sentence, and writing them.

HDF5 for now; arrays come out in z, y, x.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from nissl.volumes.boxes import Box


def read_hdf5(path: str | Path, dataset: str, kind: str, box: Box | None = None) -> np.ndarray:
    """A three-dimensional dataset of an HDF5 file, or a box of it.

    Args:
        path: the file.
        dataset: its dataset, such as "raw" or "volumes/labels/neuron_ids".
        kind: "image" (integers or finite floats) or "labels" (non-negative integers).
        box: the voxels to read; None: all.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is truncated or no HDF5, or the dataset is missing or not what `kind` says.
    """
    assert kind in ("image", "labels"), kind
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"EM volume {path} does not exist. Set dataset.path, or NISSL_DATA to the data folder.")
    try:
        with h5py.File(path, "r") as file:
            found = file.get(dataset)
            if not isinstance(found, h5py.Dataset):
                raise ValueError(_missing(file, dataset, path))
            if found.ndim != 3:
                raise ValueError(f"'{dataset}' in {path} has shape {found.shape}; expected three axes, z, y, x")
            if box is not None and any(np.greater(box.stop_zyx, found.shape)):
                raise ValueError(f"'{dataset}' in {path} has shape {found.shape}, too small for {box.stop_zyx}")
            array = found[:] if box is None else found[box.slices]
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5, it is truncated or of another format ({error})") from error

    if kind == "labels":
        if array.dtype.kind not in "iub":  # a bool mask has the labels 0 and 1
            raise ValueError(f"labels '{dataset}' in {path} are {array.dtype}; expected integers, one id per object")
        if array.dtype.kind == "i" and array.size and array.min() < 0:
            raise ValueError(f"labels '{dataset}' in {path} go down to {array.min()}; ids must be 0 (none) or positive")
    elif array.dtype.kind == "f":
        num_bad = int(np.size(array) - np.isfinite(array).sum())
        if num_bad:
            raise ValueError(f"image '{dataset}' in {path} has {num_bad} NaN or infinite voxels. Fill them first.")
    elif array.dtype.kind not in "iu":
        raise ValueError(f"image '{dataset}' in {path} is {array.dtype}; expected grey values")
    return array


def write_hdf5(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    voxel_size_zyx_nm: tuple[float, float, float],
    offset_zyx: tuple[int, int, int],
) -> None:
    """Datasets of (Z, Y, X) arrays in the frame of an image file, in which they begin at `offset_zyx`; 0 before it."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            whole = np.pad(array, [(offset, 0) for offset in offset_zyx])
            file.create_dataset(name, data=whole, compression="gzip")
            file[name].attrs["resolution_nm"] = voxel_size_zyx_nm
            file[name].attrs["axes"] = "zyx"


def read_resolution_nm(path: str | Path, dataset: str) -> tuple[float, float, float] | None:
    """Voxel size z, y, x in nm from the attribute `resolution_nm` (or CREMI's `resolution`), if the file has one."""
    with h5py.File(path, "r") as file:
        for holder in (file[dataset], file):
            for name in ("resolution_nm", "resolution"):
                if name in holder.attrs:
                    z, y, x = (float(value) for value in np.asarray(holder.attrs[name]).ravel())
                    return z, y, x
    return None


def _missing(file: h5py.File, dataset: str, path: Path) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    close = difflib.get_close_matches(dataset, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{path} has no dataset '{dataset}'; it holds {', '.join(sorted(names)) or 'none'}.{hint}"
