"""A collection of SWC files, in folders or tar archives, with a table of labels, read into preprocessed cells.

Order of preprocessing: read and repair, scale to um, keep the wanted compartments, connect again (a mislabelled axon
node inside a dendrite cuts it), centre on the soma, leave out cells with too few nodes. Every cell left out has a
reason; every repair is in the report. One bad file does not hide the next: errors are collected and raised together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from nissl.datasets.cell_graph import CellGraph, join_components, take
from nissl.datasets.swc import NAMED_TYPES, parse_swc
from nissl.datasets.swc_files import ARCHIVES, Member, check_source, members
from nissl.datasets.swc_report import Finding, Rules, SwcError, SwcReport

log = logging.getLogger(__name__)

CANNOT_BE_CELLS = ("empty", "soma_only")  # left out with a reason, not an error of the collection


@dataclass(frozen=True)
class Preprocessing:
    """How files become cells.

    Attributes:
        rules: what the reader may do.
        compartments: names of the SWC types to keep, or None for all; node 0 is always kept.
        centre_axes: axes along which the soma is moved to 0; "xyz" for all, "" for none.
        min_nodes: smaller cells are left out.
    """

    rules: Rules
    compartments: Sequence[str] | None = None
    centre_axes: str = "xyz"
    min_nodes: int = 2

    def __post_init__(self) -> None:
        for name in self.compartments or ():
            if name not in NAMED_TYPES:
                raise ValueError(f"unknown compartment {name!r}; choose from {', '.join(NAMED_TYPES)}")
        if not set(self.centre_axes) <= set("xyz"):
            raise ValueError(f"centre_axes must be letters of 'xyz', came {self.centre_axes!r}")

    @property
    def kept_types(self) -> list[int]:
        return [NAMED_TYPES[name] for name in self.compartments or NAMED_TYPES]


@dataclass
class Collection:
    """Cells read, and everything there is to say about the files.

    Attributes:
        cells: in the order of the table, or of the files without one.
        labels: class name of each cell.
        files: what was read.
        reports: one per file that had findings.
        left_out: (cell, reason).
    """

    cells: list[CellGraph] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    reports: list[SwcReport] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines: how many cells, which findings in how many files, what was left out."""
        counts = Counter(code for report in self.reports for code in set(report.codes))
        lines = [f"{len(self.cells)} cells of {len(set(self.labels))} classes"]
        if counts:
            lines.append("findings (files): " + ", ".join(f"{code} {n}" for code, n in sorted(counts.items())))
        lines += [f"left out {name}: {reason}" for name, reason in self.left_out[:10]]
        if len(self.left_out) > 10:
            lines.append(f"... and {len(self.left_out) - 10} more left out")
        return "\n  ".join(lines)


def read_collection(
    paths: str | Path | Sequence[str | Path],
    metadata: str | Path | None,
    label: str,
    preprocessing: Preprocessing,
    unmatched: Literal["error", "skip"] = "error",
    pattern: str = "*.swc",
) -> Collection:
    """Read every SWC file of `paths`.

    Args:
        paths: folders, .tar(.gz) or .zip archives, single files.
        metadata: CSV with a column `file` (path inside the folder or archive), optionally `archive` (its file name),
            and the label column. None takes the name of the folder that a file lies in as its label.
        label: the column that holds the class.
        preprocessing: how files become cells.
        unmatched: what to do about rows without a file, files without a row, and empty labels.
        pattern: which paths inside folder or archive are neurons, see `members`.

    Raises:
        ValueError: for missing paths, columns, files or labels, and for files that cannot be repaired; all at once.
    """
    sources = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not sources:
        raise ValueError("dataset.path is empty; give a folder or a .tar.gz archive of SWC files")
    for source in sources:
        check_source(source)
    table = None if metadata is None else _read_table(Path(metadata), label, sources)
    collection = Collection(files=[] if metadata is None else [Path(metadata)])

    seen: dict[tuple[str, str], CellGraph] = {}
    failures: list[str] = []
    without_row: list[str] = []
    for source in sources:
        for member in members(source, collection.files, pattern):
            if table is not None and member.key not in table.index:
                without_row.append(member.key[1])
                continue
            cell = _read_cell(member, preprocessing, collection, failures)
            if cell is not None:
                seen[member.key] = cell
    if not seen and not failures and not collection.left_out and not without_row:
        raise ValueError(f"no file in {', '.join(map(str, sources))} matches {pattern!r}")
    if failures:
        raise ValueError(
            f"{len(failures)} SWC files cannot be used:\n  "
            + "\n  ".join(failures[:5])
            + ("\n  ..." if len(failures) > 5 else "")
        )
    if table is None:
        for key, cell in seen.items():
            collection.cells.append(cell)
            collection.labels.append(Path(key[1]).parent.name or sources[0].name)
    else:
        _attach_labels(seen, table, label, without_row, unmatched, collection)
    if not collection.cells:
        raise ValueError(f"no cell is left of {', '.join(map(str, sources))}:\n  {collection.summary()}")
    return collection


def _read_table(path: Path, label: str, sources: list[Path]) -> pd.DataFrame:
    """Rows for these sources, indexed by (archive name or "", file)."""
    if not path.is_file():
        raise ValueError(f"no such metadata table: '{path}'. Pass dataset.metadata=null to label by folder name")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in ("file", label):
        if column not in table.columns:
            raise ValueError(f"'{path}' has no column {column!r}; it has {', '.join(table.columns)}")
    archives = {s.name for s in sources if s.name.endswith(ARCHIVES)}
    archive = table["archive"] if "archive" in table.columns else pd.Series("", index=table.index)
    if archives and "archive" in table.columns:
        here = archive.isin(archives)
    elif archives:
        here, archive = pd.Series(True, index=table.index), pd.Series(next(iter(archives)), index=table.index)
    else:
        here, archive = pd.Series(True, index=table.index), pd.Series("", index=table.index)
    if not here.any():
        raise ValueError(f"'{path}' has no row for {', '.join(sorted(archives))} in its column 'archive'")
    table = table[here].set_index([archive[here].rename("key_archive"), table["file"][here].rename("key_file")])
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise ValueError(f"'{path}' lists {twice[0][1]!r} twice")
    return table


def _read_cell(
    member: Member, preprocessing: Preprocessing, collection: Collection, failures: list[str]
) -> CellGraph | None:
    name = member.key[1]
    rules = preprocessing.rules
    kept = preprocessing.kept_types
    try:
        drop_types = [t for t in NAMED_TYPES.values() if t not in kept]
        cell, report = parse_swc(member.content, name, replace(rules, drop_types=drop_types))
    except SwcError as error:
        collection.reports.append(error.report)
        if error.finding.code in CANNOT_BE_CELLS and rules.policy == "repair":
            collection.left_out.append((name, error.finding.code))
        else:
            failures.append(str(error))
        return None
    assert cell is not None, "a policy that returns no cell was let through"
    if preprocessing.compartments is not None:
        if np.all(cell.type == 0):
            failures.append(f"'{name}' has no types, so compartments cannot be chosen; pass dataset.compartments=null")
            return None
        cell = select_compartments(cell, kept, rules.max_gap_um, report)
    if report.findings:
        collection.reports.append(report)
    if len(cell) < preprocessing.min_nodes:
        collection.left_out.append((name, f"{len(cell)} nodes, fewer than min_nodes={preprocessing.min_nodes}"))
        return None
    return centred(cell, preprocessing.centre_axes)


def _attach_labels(
    seen: dict[tuple[str, str], CellGraph],
    table: pd.DataFrame,
    label: str,
    without_row: list[str],
    unmatched: str,
    collection: Collection,
) -> None:
    reasons = {name for name, _ in collection.left_out}
    without_file = [key[1] for key in table.index if key not in seen and key[1] not in reasons]
    without_label = [key[1] for key in table.index if key in seen and not table.at[key, label]]
    problems = [
        (without_file, "rows of the metadata have no file"),
        (without_row, "files have no row in the metadata"),
        (without_label, f"rows have nothing in column {label!r}"),
    ]
    found = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}" for names, what in problems if names
    ]
    if found and unmatched == "error":
        raise ValueError(";\n  ".join(found) + ". Correct them, or pass dataset.unmatched=skip to leave them out")
    for names, what in problems:
        collection.left_out += [(name, what) for name in names]
    for key, row in table.iterrows():
        assert isinstance(key, tuple)
        if key in seen and row[label]:
            collection.cells.append(replace(seen[key], meta={str(k): str(v) for k, v in row.items()}))
            collection.labels.append(str(row[label]))


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
