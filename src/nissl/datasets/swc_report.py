"""What may be done to an SWC file, what was found in it, and what was done.

A finding has a stable code, a severity, the first lines where it occurs, and the fix that was applied or the advice
where there is none. `Diagnosis` collects findings and decides by the rules whether one raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np

Policy = Literal["strict", "repair", "diagnose"]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Rules:
    """What may be done to a file. Choices that change the cell are the caller's, so their default is to raise.

    Attributes:
        policy: see the module's docstring.
        root: which node stands for the soma where the file has none.
        min_soma_radius_um: root="largest_radius" takes no node thinner than this for the soma.
        soma: which one to keep where the file has several separate ones; "largest" is by radius.
        scale_um: um per unit of the file, one number or x, y, z.
        type_map: custom type (5 and up) -> standard type; unknown ones become 0.
        drop_types: types the caller drops afterwards; pieces made of these alone are dropped, not joined.
        max_gap_um: pieces further from the tree than this are dropped, not joined.
        merge_coincident: remove nodes that lie exactly on their parent.
    """

    policy: Policy = "repair"
    root: Literal["error", "first", "largest_radius"] = "error"
    soma: Literal["error", "first", "largest"] = "error"
    scale_um: float | Sequence[float] = 1.0
    type_map: Mapping[int, int] = field(default_factory=dict)
    drop_types: Sequence[int] = ()
    max_gap_um: float = float("inf")
    merge_coincident: bool = False
    min_soma_radius_um: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "policy": ("strict", "repair", "diagnose"),
            "root": ("error", "first", "largest_radius"),
            "soma": ("error", "first", "largest"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, came {getattr(self, name)!r}")
        scale = np.atleast_1d(np.asarray(self.scale_um, float))
        if scale.shape not in {(1,), (3,)} or not np.all(np.isfinite(scale) & (scale > 0)):
            raise ValueError(f"scale_um must be one positive number or three (x, y, z), came {self.scale_um!r}")


@dataclass(frozen=True)
class Finding:
    """One pathology of one file. `fix` is what was done; `advice` what the caller can do where nothing was."""

    code: str
    severity: Severity
    count: int
    lines: tuple[int, ...]
    fix: str = ""
    advice: str = ""

    def __str__(self) -> str:
        where = f", line{'s' * (len(self.lines) > 1)} {', '.join(map(str, self.lines))}" if self.lines else ""
        if self.count > len(self.lines) > 0:
            where += ", ..."
        what = self.fix or self.advice
        return f"{self.severity} {self.code} ({self.count}{where})" + (f": {what}" if what else "")


@dataclass
class SwcReport:
    """What was found in one file, and what was done about it."""

    file: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def codes(self) -> list[str]:
        return [finding.code for finding in self.findings]

    def __str__(self) -> str:
        return "\n".join([f"{self.file}: {'no findings' if not self.findings else ''}".rstrip()]
                         + [f"  {finding}" for finding in self.findings])  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def rows(self) -> list[dict[str, str | int]]:
        """One row per finding, for a table over a folder."""
        return [
            {
                "file": self.file,
                "code": f.code,
                "severity": f.severity,
                "count": f.count,
                "lines": " ".join(map(str, f.lines)),
                "fix": f.fix,
                "advice": "" if f.fix else f.advice,
            }
            for f in self.findings
        ]


class SwcError(ValueError):
    """A file that cannot be used under the given rules; `report` says everything that was found."""

    def __init__(self, report: SwcReport, finding: Finding) -> None:
        self.report, self.finding = report, finding
        where = f", line {finding.lines[0]}" if finding.lines else ""
        super().__init__(f"{finding.code} in '{report.file}'{where}: {finding.advice or finding.fix}")


class StopDiagnosis(Exception):
    """Diagnosis cannot go on past the last finding."""


class Diagnosis:
    """Collects findings, and decides by the rules whether each one raises."""

    def __init__(self, file: str, rules: Rules) -> None:
        self.report, self.rules = SwcReport(file), rules

    def add(self, code: str, severity: Severity, lines: Iterable[int], fix: str = "", advice: str = "") -> None:
        """Report lines with one pathology. An empty `fix` means there is no safe one."""
        where = [int(line) for line in lines]
        acts = self.rules.policy != "diagnose"
        finding = Finding(code, severity, max(len(where), 1), tuple(where[:3]), fix if acts else "", advice)
        self.report.findings.append(finding)
        if severity == "error" and (self.rules.policy == "strict" or (acts and not fix)):
            hint = advice or f"policy 'strict' allows no repair; policy 'repair' would: {fix}"
            raise SwcError(self.report, Finding(code, severity, finding.count, finding.lines, "", hint))

    def extend_fix(self, codes: Sequence[str], fix: str) -> None:
        """Add what happened later to the first finding with one of these codes."""
        for k, finding in enumerate(self.report.findings):
            if finding.code in codes:
                self.report.findings[k] = replace(finding, fix=f"{finding.fix}; {fix}")
                return
