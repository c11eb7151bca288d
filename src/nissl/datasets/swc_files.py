"""Where SWC files lie: a single file, a folder, or a .tar(.gz) or .zip archive, as a stream of (path, bytes).

MouseLight's JSON files are read too: each neuron in one becomes an SWC text (`swc_mouselight`).
"""

from __future__ import annotations

import fnmatch
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nissl.datasets.swc_mouselight import neurons_as_swc

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class Member:
    """One neuron's file: archive name ("" in a folder) and path inside, and its content as SWC text."""

    key: tuple[str, str]
    content: bytes


def check_source(source: Path) -> None:
    """Raise a ValueError unless `source` is something that can hold SWC files."""
    if not source.exists():
        raise ValueError(f"no such folder or archive: '{source}'. Set NISSL_DATA or dataset.path")
    if source.is_file() and not source.name.endswith((*ARCHIVES, ".swc", ".json")):
        raise ValueError(f"'{source}' is neither a folder nor a {', '.join(ARCHIVES)} archive, .swc or .json file")


def members(source: Path, files: list[Path], pattern: str = "*.swc") -> Iterator[Member]:
    """Neurons of one file, folder or archive, in order of their paths; what is opened is added to `files`.

    Args:
        source: see `check_source`.
        files: gets the paths that were read.
        pattern: what paths inside must match, * also across folders: "*CNG version/*.swc", "*.json".
    """
    check_source(source)
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            inside = path.relative_to(source).as_posix()
            if _matches(inside, pattern):
                files.append(path)
                yield from _neurons("", inside, path.read_bytes())
        return
    files.append(source)
    if not source.name.endswith(ARCHIVES):
        yield from _neurons("", source.name, source.read_bytes())
        return
    try:
        found = _zip_contents(source) if source.name.endswith(".zip") else _tar_contents(source)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"'{source}' is truncated or no archive: {error}") from error
    for inside, content in sorted(found.items()):
        if _matches(inside, pattern):
            yield from _neurons(source.name, inside, content)


def _matches(inside: str, pattern: str) -> bool:
    # Not what macOS leaves beside files in archives ("._cell.swc", "__MACOSX/").
    return fnmatch.fnmatchcase(inside, pattern) and not inside.rpartition("/")[2].startswith("._")


def _tar_contents(source: Path) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(source) as archive:
        for info in archive:
            stream = archive.extractfile(info) if info.name.endswith((".swc", ".json")) else None
            if stream is not None:
                contents[info.name.removeprefix("./")] = stream.read()
    return contents


def _zip_contents(source: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(source) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith((".swc", ".json"))}


def _neurons(archive: str, inside: str, content: bytes) -> Iterator[Member]:
    if not inside.endswith(".json"):
        yield Member((archive, inside), content)
        return
    for name, text in neurons_as_swc(content, inside):
        yield Member((archive, name), text.encode())
