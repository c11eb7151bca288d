"""Are the catalogue's files there, whole, and of the right shape? Behind `nissl data check`."""

from __future__ import annotations

import csv
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nissl.datasets.catalogue import Entry, File, Shape

State = Literal["ok", "missing", "truncated", "wrong shape", "changed"]


@dataclass(frozen=True)
class Checked:
    """What became of one file."""

    entry: str
    file: File
    state: State
    detail: str = ""


def check_files(entries: Iterable[Entry], data_root: Path) -> Iterator[Checked]:
    """Check each file once, in the catalogue's order; a file that several sets share is named with the first."""
    seen: set[str] = set()
    for entry in entries:
        for file in entry.files:
            if file.path not in seen:
                seen.add(file.path)
                state, detail = check_file(file, data_root / file.path)
                yield Checked(entry.name, file, state, detail)


def check_file(file: File, path: Path) -> tuple[State, str]:
    """Presence, shapes, then the checksum: a wrong shape says more than a wrong checksum."""
    if not path.exists():
        return "missing", ""
    size = path.stat().st_size
    try:
        shapes = shapes_of(path) if file.shapes else {}
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        return "truncated", f"{size} bytes of {file.num_bytes}; {error}"
    for name, shape in file.shapes.items():
        if name not in shapes:
            return "wrong shape", f"no '{name}' in it; there are: {', '.join(shapes) or 'none'}"
        if shapes[name] != shape:
            return "wrong shape", f"'{name}' is {shapes[name]}, expected {shape}"
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        return "changed", f"sha256 {digest[:12]}..., expected {file.sha256[:12]}..."
    return "ok", ""


def shapes_of(path: Path) -> dict[str, Shape]:
    """Array name -> shape of an HDF5 or npz file; `*.swc` -> count of an archive; `rows` of a table."""
    if path.suffix == ".h5":
        import h5py

        shapes: dict[str, Shape] = {}
        with h5py.File(path, "r") as opened:
            opened.visititems(
                lambda name, item: shapes.update({name: tuple(item.shape)}) if isinstance(item, h5py.Dataset) else None
            )
        return shapes
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].shape for name in arrays.files}
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            return {"*.swc": (sum(member.name.endswith(".swc") for member in archive),)}
    assert path.suffix == ".csv", path
    with path.open(newline="") as table:
        return {"rows": (sum(1 for _ in csv.DictReader(table)),)}
