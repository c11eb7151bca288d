"""SWC files of one folder or archive as preprocessed cells, from a cache where they were read before.

Order of preprocessing: read and repair, scale to um, keep the wanted compartments, connect again (a mislabelled axon
node inside a dendrite cuts it), put the axes in order, leave out cells with too few nodes, centre on the soma. Every
cell left out has a reason; every repair is in the report. One bad file does not hide the next: errors are collected.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nissl.datasets import cell_graph, swc, swc_files, swc_mouselight, swc_report, swc_table
from nissl.datasets.cell_graph import CellGraph, join_components, take
from nissl.datasets.morphology_cache import Arrays, DiskCache, code_of, from_text_array, key_of, text_array
from nissl.datasets.morphology_tissue import oriented
from nissl.datasets.swc import NAMED_TYPES, parse_swc
from nissl.datasets.swc_files import Member, members
from nissl.datasets.swc_report import Finding, Rules, SwcError, SwcReport

CANNOT_BE_CELLS = ("empty", "soma_only")  # left out with a reason, not an error of the collection


@dataclass(frozen=True)
class Preprocessing:
    """How files become cells.

    Attributes:
        rules: what the reader may do.
        compartments: names of the SWC types to keep, or None for all; node 0 is always kept.
        centre_axes: axes along which the soma is moved to 0; "xyz" for all, "" for none.
        min_nodes: smaller cells are left out.
        scale_by_pattern: um per unit by file: pattern -> scale, the first that matches; others have the rules' scale.
            BIL: {"*__reg*": [0.114, 0.114, 0.28]}.
        axes: see `oriented`; None takes them as they are.
        units: what a length is after scaling; anything but "um" says that it is not micrometres, and ends `wrong_unit`.
    """

    rules: Rules
    compartments: Sequence[str] | None = None
    centre_axes: str = "xyz"
    min_nodes: int = 2
    scale_by_pattern: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    axes: Sequence[str] | None = None
    units: str = "um"

    def __post_init__(self) -> None:
        for name in self.compartments or ():
            if name not in NAMED_TYPES:
                raise ValueError(f"unknown compartment {name!r}; choose from {', '.join(NAMED_TYPES)}")
        if not set(self.centre_axes) <= set("xyz"):
            raise ValueError(f"centre_axes must be letters of 'xyz', came {self.centre_axes!r}")

        for scale in self.scale_by_pattern.values():
            Rules(scale_um=scale)
        if self.axes is not None:
            oriented(CellGraph(np.zeros((1, 3)), np.zeros(1), np.zeros(1), np.zeros(1)), self.axes)

    def scale_of(self, path: str) -> float | Sequence[float]:
        """um per unit of a file."""
        for pattern, scale in self.scale_by_pattern.items():
            if fnmatch.fnmatchcase(path, pattern):
                return scale
        return self.rules.scale_um

    @property
    def kept_types(self) -> list[int]:
        return [NAMED_TYPES[name] for name in self.compartments or NAMED_TYPES]


@dataclass
class SourceCells:
    """What reading one folder or archive gave.

    Attributes:
        keys: (archive name or "", path inside) of each cell.
        cells: as preprocessed.
        reports: one per file with findings.
        left_out: (path, reason).
        failures: path -> why the file cannot be used.
        paths: every neuron that was there.
    """

    keys: list[tuple[str, str]] = field(default_factory=list)
    cells: list[CellGraph] = field(default_factory=list)
    reports: list[SwcReport] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    paths: list[tuple[str, str]] = field(default_factory=list)


def read_source(
    source: Path,
    files: list[Path],
    preprocessing: Preprocessing,
    pattern: str = "*.swc",
    cache: DiskCache | None = None,
) -> SourceCells:
    """Read every neuron of a folder or archive.

    Args:
        files: gets the paths that were read.
        pattern: see `members`.
        cache: where cells of the same content and settings are kept.
    """
    if cache is None:
        return _read_members(members(source, files, pattern), preprocessing)
    if source.is_file():  # an archive need not be unpacked to know it
        content: list[Any] = [source.name, source.read_bytes()]
        found: list[Member] | None = None
    else:
        found = list(members(source, files, pattern))
        content = [part for member in found for part in (member.key[1], member.content)]
    key = key_of(_code(), asdict(preprocessing), pattern, *content)
    stored = cache.load("cells", key)
    if stored is not None:
        if found is None:
            files.append(source)
        return _from_arrays(stored)
    read = _read_members(members(source, files, pattern) if found is None else found, preprocessing)
    cache.store("cells", key, _to_arrays(read))
    return read


def _read_members(found: Any, preprocessing: Preprocessing) -> SourceCells:
    read = SourceCells()
    for member in found:
        read.paths.append(member.key)
        cell = _read_cell(member, preprocessing, read)
        if cell is not None:
            read.keys.append(member.key)
            read.cells.append(cell)
    return read


def _read_cell(member: Member, preprocessing: Preprocessing, found: SourceCells) -> CellGraph | None:
    name = member.key[1]
    rules = replace(preprocessing.rules, scale_um=preprocessing.scale_of(name))
    kept = preprocessing.kept_types
    try:
        drop_types = [t for t in NAMED_TYPES.values() if t not in kept]
        cell, report = parse_swc(member.content, name, replace(rules, drop_types=drop_types))
    except SwcError as error:
        found.reports.append(error.report)
        if error.finding.code in CANNOT_BE_CELLS and rules.policy == "repair":
            found.left_out.append((name, error.finding.code))
        else:
            found.failures[name] = str(error)
        return None
    assert cell is not None, "a policy that returns no cell was let through"
    if preprocessing.compartments is not None:
        if np.all(cell.type == 0):
            found.failures[name] = (
                f"'{name}' has no types, so compartments cannot be chosen; pass dataset.compartments=null"
            )
            return None
        cell = select_compartments(cell, kept, rules.max_gap_um, report)
    if preprocessing.units != "um":
        report.findings = [finding for finding in report.findings if finding.code != "wrong_unit"]
    if preprocessing.axes is not None:
        cell = oriented(cell, preprocessing.axes)
    if report.findings:
        found.reports.append(report)
    if len(cell) < preprocessing.min_nodes:
        found.left_out.append((name, f"{len(cell)} nodes, fewer than min_nodes={preprocessing.min_nodes}"))
        return None
    return centred(cell, preprocessing.centre_axes)


def select_compartments(
    cell: CellGraph, kept_types: Sequence[int], max_gap_um: float = np.inf, report: SwcReport | None = None
) -> CellGraph:
    """The nodes of some types, connected again across what was taken out; node 0 always stays."""
    keep = np.isin(cell.type, list(kept_types))
    keep[0] = True
    if keep.all():
        return cell
    row = np.cumsum(keep) - 1
    above = cell.parent[keep]
    whole = (above >= 0) & keep[np.maximum(above, 0)]
    parent = np.where(whole, row[np.maximum(above, 0)], -1).astype(np.int32)
    part = replace(cell, pos=cell.pos[keep], radius=cell.radius[keep], type=cell.type[keep], parent=parent)
    joins = join_components(part.pos, parent, 0, max_gap_um)
    if joins.lengths_um and report is not None:
        report.findings.append(
            Finding("cut_by_selection", "warning", len(joins.lengths_um), (), f"compartments kept: {joins}")
        )
    return take(part, parent, 0)


def centred(cell: CellGraph, axes: str) -> CellGraph:
    """The cell moved so that its soma is at 0 along the given axes."""
    offset = np.array([cell.pos[0, k] if axis in axes else 0.0 for k, axis in enumerate("xyz")])
    return cell.moved(cell.pos - offset)


# In the cache ---------------------------------------------------------------------------------------------------------


def _code() -> str:
    modules = (cell_graph, swc, swc_files, swc_mouselight, swc_report, swc_table)
    return code_of(__file__, *(str(module.__file__) for module in modules))


def _to_arrays(read: SourceCells) -> Arrays:
    def joined(name: str, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([getattr(cell, name) for cell in read.cells]) if read.cells else empty

    facts = {
        "keys": read.keys,
        "ids": [cell.id for cell in read.cells],
        "reports": [asdict(report) for report in read.reports],
        "left_out": read.left_out,
        "failures": read.failures,
        "paths": read.paths,
    }
    return {
        "pos": joined("pos", np.empty((0, 3), np.float32)),
        "radius": joined("radius", np.empty(0, np.float32)),
        "type": joined("type", np.empty(0, np.int8)),
        "parent": joined("parent", np.empty(0, np.int32)),
        "num_nodes": np.array([len(cell) for cell in read.cells], np.int64),
        "facts": text_array(facts),
    }


def _from_arrays(arrays: Arrays) -> SourceCells:
    facts = from_text_array(arrays["facts"])
    starts = np.cumsum(arrays["num_nodes"])[:-1]
    parts = [np.split(arrays[name], starts) for name in ("pos", "radius", "type", "parent")]
    reports = [
        SwcReport(r["file"], [Finding(**{**f, "lines": tuple(f["lines"])}) for f in r["findings"]])
        for r in facts["reports"]
    ]
    return SourceCells(
        keys=[(archive, path) for archive, path in facts["keys"]],
        cells=[
            CellGraph(pos, radius, kind, parent, name)
            for pos, radius, kind, parent, name in zip(*parts, facts["ids"], strict=False)
        ],
        reports=reports,
        left_out=[(name, reason) for name, reason in facts["left_out"]],
        failures=facts["failures"],
        paths=[(archive, path) for archive, path in facts["paths"]],
    )
