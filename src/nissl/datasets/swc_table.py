"""The text of an SWC file as a table of nodes, with ids resolved: the first half of reading.

Accepts any white space and commas between columns, comments anywhere, CRLF, a byte-order mark, extra columns, and whole
numbers written as floats. Parents are looked up by table, never by arithmetic on ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nissl.datasets.cell_graph import root_of_each
from nissl.datasets.swc_report import Diagnosis, StopDiagnosis


@dataclass
class SwcTable:
    """A file as arrays while it is being repaired.

    `parent` holds rows, -1 for roots; `declared_root` marks those the file itself calls roots, so that pieces made by
    another finding (a missing parent, a cut cycle) are not reported a second time.
    """

    line: np.ndarray
    type: np.ndarray
    pos: np.ndarray
    radius: np.ndarray
    parent: np.ndarray
    declared_root: np.ndarray

    def keep(self, mask: np.ndarray) -> None:
        row = np.cumsum(mask) - 1
        parent = self.parent[mask]
        parent = np.where(parent >= 0, row[np.maximum(parent, 0)], -1)
        self.line, self.type, self.pos = self.line[mask], self.type[mask], self.pos[mask]
        self.radius, self.parent, self.declared_root = self.radius[mask], parent, self.declared_root[mask]


def parse_table(content: bytes | str, diagnosis: Diagnosis) -> SwcTable:
    """Rows of numbers, with parent ids turned into rows."""
    text = content.decode("utf-8", errors="replace") if isinstance(content, bytes) else content
    rows, numbers, tabs = [], [], False
    for number, written in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        data = written.partition("#")[0]
        tabs = tabs or "\t" in data
        tokens = data.replace(",", " ").split()
        if tokens:
            rows.append(tokens)
            numbers.append(number)
    if not rows:
        diagnosis.add("empty", "error", [], advice="the file holds no node; leave it out")
        raise StopDiagnosis
    if tabs:
        diagnosis.add("tabs", "note", [], fix="read as separators")
    short = [n for n, row in zip(numbers, rows, strict=True) if len(row) < 7]
    if short:
        diagnosis.add("short_line", "error", short, advice="7 columns are needed: id type x y z radius parent")
        raise StopDiagnosis
    long = [n for n, row in zip(numbers, rows, strict=True) if len(row) > 7]
    if long:
        diagnosis.add("extra_columns", "note", long, fix="columns after the seventh are ignored")
    try:
        table = np.array([list(map(float, row[:7])) for row in rows])
    except ValueError:
        wrong = [(n, token) for n, row in zip(numbers, rows, strict=True) for token in row[:7] if not _is_number(token)]
        diagnosis.add("not_a_number", "error", [n for n, _ in wrong], advice=f"{wrong[0][1]!r} is not a number")
        raise StopDiagnosis from None

    line = np.array(numbers)
    integers = table[:, [0, 1, 6]]
    broken = ~np.all(np.isfinite(integers) & (integers == np.round(integers)), axis=1)
    if broken.any():
        diagnosis.add("not_an_integer", "error", line[broken], advice="id, type and parent must be whole numbers")
        raise StopDiagnosis
    floats = [n for n, row in zip(numbers, rows, strict=True) if not row[0].lstrip("+-").isdigit()
              or not row[1].lstrip("+-").isdigit() or not row[6].lstrip("+-").isdigit()]  # fmt: skip
    if floats:
        diagnosis.add("float_id", "note", floats, fix="whole numbers written as floats were accepted")
    ids, parent_ids = table[:, 0].astype(np.int64), table[:, 6].astype(np.int64)
    return SwcTable(
        line=line,
        type=table[:, 1].astype(np.int64),
        pos=table[:, 2:5] * np.asarray(diagnosis.rules.scale_um, float),
        radius=table[:, 5] * float(np.mean(diagnosis.rules.scale_um)),
        parent=_parent_rows(ids, parent_ids, line, diagnosis),
        declared_root=parent_ids == -1,
    )


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _parent_rows(ids: np.ndarray, parent_ids: np.ndarray, line: np.ndarray, diagnosis: Diagnosis) -> np.ndarray:
    """Row of each node's parent, by table and never by arithmetic on ids; -1 for roots."""
    unique, first = np.unique(ids, return_index=True)
    if len(unique) < len(ids):
        repeated = np.setdiff1d(np.arange(len(ids)), first)
        diagnosis.add("duplicate_id", "error", line[repeated], fix="the first keeps the id; later ones got a new one")
    if unique[0] == 0:
        diagnosis.add("ids_from_zero", "note", [int(line[first[0]])], fix="ids were mapped by table")
    gaps = np.flatnonzero(np.diff(unique) > 1)
    if len(gaps):
        diagnosis.add("gaps_in_ids", "note", line[first[gaps + 1]], fix="ids were mapped by table")

    at = np.minimum(np.searchsorted(unique, parent_ids), len(unique) - 1)
    known = unique[at] == parent_ids
    parent = np.where(known, first[at], -1)
    # -1 is the root mark even in a file that (wrongly) has a node -1.
    parent[parent_ids == -1] = -1
    zero = ~known & (parent_ids == 0)
    if zero.any():
        diagnosis.add("parent_zero", "error", line[zero], fix="no node has id 0: read as -1, a root")
    missing = ~known & (parent_ids != 0) & (parent_ids != -1)
    if missing.any():
        diagnosis.add("missing_parent", "error", line[missing], fix="nodes became roots of their own piece")
    itself = parent == np.arange(len(ids))
    if itself.any():
        diagnosis.add("self_parent", "error", line[itself], fix="nodes became roots of their own piece")
        parent[itself] = -1

    loose = root_of_each(parent) == -1
    cut = []
    while loose.any():
        # Walk up from the first loose node until the walk repeats: that is on a cycle. The edge that closes it is the
        # one above its earliest line, which a file written in order could not have had.
        node = int(np.flatnonzero(loose)[0])
        for _ in range(len(ids)):
            node = int(parent[node])
        cycle = [node]
        while parent[cycle[-1]] != node:
            cycle.append(int(parent[cycle[-1]]))
        closing = min(cycle)
        parent[closing] = -1
        cut.append(int(line[closing]))
        loose = root_of_each(parent) == -1
    if cut:
        diagnosis.add("cycle", "error", cut, fix="cut above the first node of each cycle")

    late = parent > np.arange(len(ids))
    if late.any() and not cut:
        diagnosis.add("child_before_parent", "note", line[late], fix="sorted, parents first")
    return parent
