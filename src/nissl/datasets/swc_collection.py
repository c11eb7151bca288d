"""A collection of SWC files, in folders or archives, with a table of labels, read into preprocessed cells.

`swc_cells` reads one folder or archive; here several come together and cells meet the rows of the metadata table. What
is wrong with files, rows and labels is collected and raised together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from nissl.datasets.cell_graph import CellGraph
from nissl.datasets.morphology_cache import DiskCache
from nissl.datasets.morphology_tissue import upright
from nissl.datasets.swc_cells import Preprocessing, read_source
from nissl.datasets.swc_files import ARCHIVES, check_source
from nissl.datasets.swc_report import SwcReport


@dataclass
class Collection:
    """Cells read, and everything there is to say about the files.

    Attributes:
        cells: in the order of the table, or of the files without one.
        labels: class name of each cell.
        sources: name of the archive or folder of each cell.
        files: what was read.
        reports: one per file that had findings.
        left_out: (cell, reason).
    """

    cells: list[CellGraph] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
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
    upright_columns: Mapping[str, str] | None = None,
    cache: DiskCache | None = None,
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
        upright_columns: axis -> column of the table with an angle in degrees, see `upright`.
        cache: see `read_source`.

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

    if table is None and upright_columns:
        raise ValueError("dataset.upright takes angles from a metadata table; set dataset.metadata")
    seen: dict[tuple[str, str], tuple[CellGraph, str]] = {}
    failures: list[str] = []
    without_row: list[str] = []
    num_files = 0
    for source in sources:
        name = source_name(source)
        read = read_source(source, collection.files, preprocessing, pattern, cache)
        num_files += len(read.paths)
        rowless = set() if table is None else {key[1] for key in read.paths if key not in table.index}
        without_row += sorted(rowless)
        collection.reports += [report for report in read.reports if report.file not in rowless]
        collection.left_out += [(path, reason) for path, reason in read.left_out if path not in rowless]
        failures += [message for path, message in read.failures.items() if path not in rowless]
        for key, cell in zip(read.keys, read.cells, strict=True):
            if key[1] in rowless:
                continue
            if table is None:
                collection.cells.append(cell)
                collection.labels.append(Path(key[1]).parent.name or name)
                collection.sources.append(name)
            elif key in seen:
                raise ValueError(
                    f"'{key[1]}' is in two of {', '.join(map(str, sources))}; the table cannot tell them apart"
                )
            else:
                seen[key] = cell, name
    if num_files == 0:
        raise ValueError(f"no file in {', '.join(map(str, sources))} matches {pattern!r}")
    if failures:
        raise ValueError(
            f"{len(failures)} SWC files cannot be used:\n  "
            + "\n  ".join(failures[:5])
            + ("\n  ..." if len(failures) > 5 else "")
        )
    if table is not None:
        _attach_labels(seen, table, label, without_row, unmatched, collection)
    if upright_columns:
        collection.cells = [upright(cell, upright_columns) for cell in collection.cells]
    if not collection.cells:
        raise ValueError(f"no cell is left of {', '.join(map(str, sources))}:\n  {collection.summary()}")
    return collection


def source_name(source: Path) -> str:
    """Name of an archive without its endings, or of a folder."""
    ending = next((ending for ending in sorted(ARCHIVES, key=len, reverse=True) if source.name.endswith(ending)), "")
    return source.name.removesuffix(ending)


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


def _attach_labels(
    seen: dict[tuple[str, str], tuple[CellGraph, str]],
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
            cell, source = seen[key]
            collection.cells.append(replace(cell, meta={str(k): str(v) for k, v in row.items()}))
            collection.labels.append(str(row[label]))
            collection.sources.append(source)
