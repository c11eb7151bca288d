"""What is wrong with a folder or archive of SWC files, and what reading them would do: behind `nissl doctor swc`.

Each file is read twice: under policy "diagnose", which goes as far as it can and changes nothing, and under the policy
asked for, which repairs or refuses. The outcome of a file is one of

- clean: nothing to say;
- noted: notes and warnings alone, such as a soma of three points that became one;
- repaired: errors, all of which were repaired;
- refused: an error without a safe fix under these rules; the advice says which rule would help.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nissl.datasets.cell_graph import CellGraph
from nissl.datasets.swc import parse_swc, write_swc
from nissl.datasets.swc_files import members
from nissl.datasets.swc_report import Finding, Rules, SwcError, SwcReport

Outcome = Literal["clean", "noted", "repaired", "refused"]
OUTCOMES: tuple[Outcome, ...] = ("clean", "noted", "repaired", "refused")
COLUMNS = ("archive", "file", "outcome", "code", "severity", "count", "lines", "fix", "advice")


@dataclass(frozen=True)
class FileDiagnosis:
    """One file: what was found, what was done, what came out.

    Attributes:
        archive: name of the archive, "" in a folder.
        file: path inside.
        outcome: see the module's docstring.
        findings: with the fix where there was one.
        cell: what reading gives; None if refused.
    """

    archive: str
    file: str
    outcome: Outcome
    findings: tuple[Finding, ...]
    cell: CellGraph | None

    @property
    def cable_um(self) -> float:
        """Cable of the cell, um; 0 if refused."""
        return 0.0 if self.cell is None else float(self.cell.edge_length_um.sum())

    def rows(self) -> list[dict[str, str | int]]:
        """One row per finding; a clean file has one row without a code."""
        same: dict[str, str | int] = {"archive": self.archive, "file": self.file, "outcome": self.outcome}
        if not self.findings:
            return [{**same, "code": "", "severity": "", "count": 0, "lines": "", "fix": "", "advice": ""}]
        report = SwcReport(self.file, list(self.findings))
        return [{**same, **row} for row in report.rows()]

    def __str__(self) -> str:
        size = "" if self.cell is None else f", {len(self.cell)} nodes, {self.cable_um:.0f} um of cable"
        where = f"{self.archive}:{self.file}" if self.archive else self.file
        return "\n".join([f"{where}: {self.outcome}{size}"] + [f"  {finding}" for finding in self.findings])


def diagnose_files(
    paths: Iterable[str | Path], rules: Rules | None = None, pattern: str = "*.swc"
) -> Iterator[FileDiagnosis]:
    """The diagnosis of each file of folders, archives or single files, one at a time.

    Args:
        rules: what reading may do; its policy is "repair" or "strict".

    Raises:
        ValueError: for a path that cannot hold SWC files, or holds none.
    """
    rules = rules or Rules()
    for path in map(Path, paths):
        files: list[Path] = []
        found = False
        for member in members(path, files, pattern):
            found = True
            yield diagnose_file(member.content, *member.key, rules)
        if not found:
            raise ValueError(f"no file in '{path}' matches {pattern!r}")


def diagnose_file(content: bytes, archive: str, file: str, rules: Rules) -> FileDiagnosis:
    """The diagnosis of one file."""
    _, everything = parse_swc(content, file, replace(rules, policy="diagnose"))
    try:
        cell, report = parse_swc(content, file, rules)
    except SwcError as error:
        # Reading stopped here; the diagnosis goes further.
        stopped = [replace(f, fix="") for f in error.report.findings]
        advice = replace(error.finding, fix="")
        findings = [advice if f.code == error.finding.code else f for f in stopped]
        known = {f.code for f in findings}
        findings += [f for f in everything.findings if f.code not in known]
        return FileDiagnosis(archive, file, "refused", tuple(findings), None)
    severities = {f.severity for f in report.findings}
    outcome: Outcome = "clean" if not severities else "repaired" if "error" in severities else "noted"
    return FileDiagnosis(archive, file, outcome, tuple(report.findings), cell)


def repairs_table(diagnoses: Iterable[FileDiagnosis]) -> list[dict[str, str | int]]:
    """One row per archive and code: severity, files, places, and what was done to the first file."""
    files: Counter[tuple[str, str]] = Counter()
    places: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Finding] = {}
    refused: Counter[tuple[str, str]] = Counter()
    for diagnosis in diagnoses:
        for code in dict.fromkeys(f.code for f in diagnosis.findings):
            key = diagnosis.archive, code
            files[key] += 1
            refused[key] += diagnosis.outcome == "refused"
            places[key] += sum(f.count for f in diagnosis.findings if f.code == code)
            first.setdefault(key, next(f for f in diagnosis.findings if f.code == code))
    return [
        {
            "archive": archive,
            "code": code,
            "severity": first[archive, code].severity,
            "files": files[archive, code],
            "places": places[archive, code],
            "refused": refused[archive, code],
            "first_file": first[archive, code].fix or first[archive, code].advice,
        }
        for archive, code in sorted(files)
    ]


def summary(diagnoses: Iterable[FileDiagnosis]) -> str:
    """Outcomes per archive, then the table of codes, as text."""
    seen = list(diagnoses)
    per_archive: dict[str, Counter[str]] = defaultdict(Counter)
    for diagnosis in seen:
        per_archive[diagnosis.archive][diagnosis.outcome] += 1
    lines = []
    for archive, counts in per_archive.items():
        parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
        lines.append(f"{archive or 'files'}: {counts.total()} read, {parts}")
    rows = repairs_table(seen)
    if rows:
        lines.append("")
        wide = max(len(str(row["archive"])) for row in rows)
        lines += [
            f"{row['archive']!s:<{wide}}  {row['severity']:<7}  {row['code']:<29}  {row['files']:>4} files  "
            f"{row['places']:>6} places  {row['first_file']}".rstrip()
            for row in rows
        ]
    return "\n".join(lines)


def write_csv(diagnoses: Iterable[FileDiagnosis], path: str | Path) -> None:
    """One row per file and finding."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for diagnosis in diagnoses:
            writer.writerows(diagnosis.rows())


def write_clean(diagnoses: Iterable[FileDiagnosis], folder: str | Path) -> int:
    """Write every cell that could be read below `folder`, under its own path; returns how many.

    Raises:
        ValueError: if a file of that name is there already.
    """
    count = 0
    for diagnosis in diagnoses:
        if diagnosis.cell is None:
            continue
        inside = Path(diagnosis.archive.split(".")[0]) / diagnosis.file
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"'{diagnosis.file}' would be written outside '{folder}'")
        path = (Path(folder) / inside).with_suffix(".swc")
        if path.exists():
            raise ValueError(f"'{path}' is there already; name an empty folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_swc(diagnosis.cell, path)
        count += 1
    return count
