"""Which files are one neuron: exact duplicates by geometry, and parts or copies by name.

A score on held-out cells means nothing if the same neuron is among the training cells. Two files are one group if

- their geometry is the same (`content_hash`: every edge, relative to the root, to 0.01 um, in any order of nodes);
- their paths differ only in words for a part of a cell (`axon_34-SR.swc`, `dentrite_34-SR.swc`) or in the marks of the
  rescaled clones of the Blue Brain Project (`..._-_Clone_3.swc`, `..._-_Scale_x1.000_y0.975_z1.000.swc`);
- a regular expression of the configuration gives both the same text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from nissl.datasets.cell_graph import CellGraph

RESOLUTION_UM = 0.01
PARTS = r"axons?|dendrites?|dentrites?|dend|apicals?|basals?|soma"
CLONE = re.compile(r"_-_(clone_\d+|scale_x[\d.]+_y[\d.]+_z[\d.]+)", re.IGNORECASE)
PART = re.compile(rf"(?<![a-z])({PARTS})(?![a-z])", re.IGNORECASE)
SUFFIX = re.compile(r"(\.cng)?\.(swc|json)$", re.IGNORECASE)


def content_hash(cell: CellGraph) -> str:
    """A fingerprint of a tree's geometry; unchanged by node order, file name, position in space, types and radii."""
    pos = np.round((cell.pos - cell.pos[0]).astype(np.float64) / RESOLUTION_UM).astype(np.int64)
    edges = np.concatenate([pos[1:], pos[cell.parent[1:]]], axis=1)
    order = np.lexsort(edges.T[::-1])
    return hashlib.sha256(edges[order].tobytes()).hexdigest()


def neuron_name(path: str) -> tuple[str, bool]:
    """What names the neuron in a path, and whether anything was taken off that names a part or a clone of it.

    >>> neuron_name("hippo/axon_34-SR.CNG.swc")
    ('hippo/_34-sr', True)
    """
    whole = SUFFIX.sub("", path).lower()
    stem = PART.sub("", CLONE.sub("", whole))
    return stem, stem != whole


def group_cells(
    cells: Sequence[CellGraph], ids: Sequence[str] | None = None, pattern: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """Group of each cell, (N,) integer, and one line for each reason that put cells together.

    Args:
        ids: path of each cell; None takes `cell.id`.
        pattern: regular expression searched in the path; cells with the same match (its groups, or the whole match) are
            one neuron. Cells without a match stay as they are.

    Raises:
        ValueError: for a pattern that is no regular expression or matches no cell.
    """
    names = [cell.id for cell in cells] if ids is None else list(ids)
    leader = list(range(len(cells)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    reasons = []
    keys: list[tuple[str, dict[str, list[int]]]] = [("have the same geometry", {}), ("are parts or clones", {})]
    for row, cell in enumerate(cells):
        keys[0][1].setdefault(content_hash(cell), []).append(row)
    stems = [neuron_name(name) for name in names]
    for row, (stem, _) in enumerate(stems):
        keys[1][1].setdefault(stem, []).append(row)
    if pattern is not None:
        keys.append((f"match {pattern!r} alike", _by_pattern(names, pattern)))
    for reason, members in keys:
        together = [rows for rows in members.values() if len(rows) > 1]
        if reason == "are parts or clones":  # equal names alone, such as those of two archives, say nothing
            together = [rows for rows in together if any(stems[row][1] for row in rows)]
        for rows in together:
            for row in rows[1:]:
                leader[find(row)] = find(rows[0])
        if together:
            shown = " and ".join(names[row] for row in together[0][:2])
            reasons.append(f"{sum(map(len, together))} files {reason} of {len(together)} neurons, such as {shown}")
    roots = [find(row) for row in range(len(cells))]
    number = {root: k for k, root in enumerate(dict.fromkeys(roots))}
    return np.array([number[root] for root in roots], np.int64), reasons


def _by_pattern(names: Sequence[str], pattern: str) -> dict[str, list[int]]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"dataset.group_pattern {pattern!r} is not a regular expression: {error}") from error
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        match = expression.search(name)
        if match is not None:
            found.setdefault("\0".join(g or "" for g in match.groups()) or match.group(), []).append(row)
    if not found:
        raise ValueError(f"dataset.group_pattern {pattern!r} matches no file; the first is '{names[0]}'")
    return found
