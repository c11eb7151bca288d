"""Results kept on disk between runs: cells as read and repaired, positional encodings of their graphs.

An entry is one `.npz` named by the SHA-256 of everything it depends on: the content of the files, the settings, and the
source code that made it. So nothing has to be invalidated; old entries are merely no longer asked for. Writers work on
a file of their own and rename it, so two processes that make the same entry do not see each other's halves. Reading
checks the checksums inside; an entry that is damaged is thrown away, with a warning, and made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def default_folder() -> Path:
    """NISSL_CACHE, or nissl below the user's cache folder."""
    chosen = os.environ.get("NISSL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nissl"


def open_cache(cache_dir: str | None) -> DiskCache | None:
    """The cache of a configuration: "auto" is `default_folder`, None is none."""
    if cache_dir is None:
        return None
    return DiskCache(default_folder() if cache_dir == "auto" else Path(cache_dir).expanduser())


def key_of(*parts: Any) -> str:
    """SHA-256 of values that JSON can hold, and of bytes and arrays among them."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            part = part.tobytes() + str((part.shape, part.dtype.str)).encode()
        if not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=_plain).encode()
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What JSON does not know: numbers of numpy, sequences and mappings of a configuration."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a cache key cannot hold {type(value).__name__}")


def code_of(*paths: str | Path) -> str:
    """Fingerprint of source files, so that results of older code are not taken for results of this one."""
    return key_of(*(Path(path).read_bytes() for path in paths))


class DiskCache:
    """A folder of entries; `hits` and `misses` count what was asked of this object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits, self.misses = 0, 0

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.npz"

    def load(self, kind: str, key: str) -> Arrays | None:
        """The arrays of an entry; None if there is none, or a damaged one."""
        path = self.path(kind, key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self.misses += 1
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if str(arrays.pop("key")) != key:
                raise ValueError("it holds another entry")
        except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError) as error:
            log.warning("cache entry %s is damaged (%s) and is made again", path, error)
            path.unlink(missing_ok=True)
            self.misses += 1
            return None
        self.hits += 1
        return arrays

    def store(self, kind: str, key: str, arrays: Arrays) -> None:
        """Write an entry. A full disk or a folder that cannot be written costs a warning, not the run."""
        path = self.path(kind, key)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, key=np.array(key), **arrays)
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            with os.fdopen(descriptor, "wb") as file:
                file.write(buffer.getvalue())
            os.replace(temporary, path)
        except OSError as error:
            log.warning("cannot write the cache entry %s: %s", path, error)
            if temporary:
                Path(temporary).unlink(missing_ok=True)


def text_array(value: Any) -> np.ndarray:
    """A JSON value as bytes in an array."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def from_text_array(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


# Positional encodings -------------------------------------------------------------------------------------------------

Encode = Callable[..., np.ndarray]


class EncodingMemory:
    """Positional encodings of trees, never computed twice for the same tree and the same way of encoding.

    In memory within a run, on disk between runs if the way of encoding is a `functools.partial` of a module's function,
    whose arguments and source code can then be part of the key.
    """

    def __init__(self, cache: DiskCache | None) -> None:
        self.cache = cache
        self.computed = 0
        self._known: dict[str, np.ndarray] = {}

    def encodings(self, parents: Sequence[np.ndarray], encode: Encode) -> list[np.ndarray]:
        """Encoding (n, P) float32 of each tree, given its parents (n,), with canonical signs."""
        way = _way_of_encoding(encode)
        name = way or f"object {id(encode)}"
        keys = [key_of(name, np.asarray(parent, np.int32)) for parent in parents]
        if any(key not in self._known for key in keys):
            self._fill(keys, parents, encode, on_disk=way is not None)
        return [self._known[key] for key in keys]

    def _fill(self, keys: list[str], parents: Sequence[np.ndarray], encode: Encode, on_disk: bool) -> None:
        entry = key_of(*keys)
        stored = self.cache.load("encodings", entry) if self.cache is not None and on_disk else None
        if stored is not None:
            for key, rows in zip(keys, np.split(stored["pe"], stored["starts"]), strict=True):
                self._known.setdefault(key, rows)
            return
        for key, parent in zip(keys, parents, strict=True):
            if key not in self._known:
                self._known[key] = encode(edges_of(parent), len(parent), rng=None)
                self.computed += 1
        if self.cache is not None and on_disk:
            all_rows = [self._known[key] for key in keys]
            starts = np.cumsum([len(rows) for rows in all_rows])[:-1]
            self.cache.store("encodings", entry, {"pe": np.concatenate(all_rows), "starts": starts})


def edges_of(parent: np.ndarray) -> np.ndarray:
    """Edges of a tree, (2, 2 (n - 1)): child to parent in the order of the children, then parent to child."""
    child, above = np.arange(1, len(parent)), parent[1:].astype(np.int64)
    return np.stack([np.concatenate([child, above]), np.concatenate([above, child])])


def _way_of_encoding(encode: Encode) -> str | None:
    if not isinstance(encode, partial) or not hasattr(encode.func, "__code__"):
        return None
    function = encode.func
    code = code_of(function.__code__.co_filename)
    return key_of(function.__module__, function.__qualname__, code, list(encode.args), encode.keywords)
