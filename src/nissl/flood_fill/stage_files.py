"""Results of stages in files named by what they were made from: made once, found again, never mistaken for another.

A stage's file is `<stage>-<key>.npz`, where the key is a hash of everything the result depends on. When an input or a
setting changes, so does the name, and the stage runs again; nothing has to be deleted by hand. Files hold arrays and
one JSON text, no pickled objects, and are complete or not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


class StageFiles:
    """The files of one folder, which is made when first written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, stage: str, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and facts of a finished stage, or None."""
        path = self.path(stage, key)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(str(arrays.pop("facts")))

    def write(self, stage: str, key: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        write_arrays(self.path(stage, key), arrays, facts)

    def path(self, stage: str, key: str) -> Path:
        return self.folder / f"{stage}-{key[:16]}.npz"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write a compressed npz beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        everything: dict[str, Any] = {"facts": np.array(json.dumps(dict(facts))), **arrays}
        np.savez_compressed(file, **everything)
    temporary.replace(path)


def fingerprint(*parts: Any) -> str:
    """Hash of numbers, texts, arrays, tensors, and dataclasses, sequences and mappings of them.

    >>> fingerprint(1, "a") == fingerprint(1, "a"), fingerprint(1, "a") == fingerprint((1, "a"))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value):
        _add(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for name, item in value.items():
            digest.update(repr(name).encode())
            _add(digest, item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _add(digest, item)
    else:
        assert value is None or isinstance(value, str | int | float | np.number), type(value)
        digest.update(f"{value!r};".encode())
