"""The diagnosis of a folder: one file per pathology, each with its outcome, its fix and its advice."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from nissl.cli import main
from nissl.datasets.swc import read_swc
from nissl.datasets.swc_doctor import FileDiagnosis, diagnose_file, diagnose_files, repairs_table, write_clean
from nissl.datasets.swc_report import Rules

FILES = Path(__file__).parent / "swc_files"
RULES = Rules(root="first", soma="first")


def diagnoses(rules: Rules = RULES) -> dict[str, FileDiagnosis]:
    return {Path(d.file).stem: d for d in diagnose_files([FILES], rules)}


def test_every_file_has_an_outcome_and_every_finding_a_fix_or_advice() -> None:
    seen = diagnoses()
    assert Counter(d.outcome for d in seen.values()) == {"clean": 2, "noted": 14, "repaired": 14, "refused": 5}
    for code, diagnosis in seen.items():
        if diagnosis.outcome != "clean":
            assert code in [f.code for f in diagnosis.findings]
        assert all(f.fix or f.advice for f in diagnosis.findings), code
        assert (diagnosis.cell is None) == (diagnosis.outcome == "refused")


def test_what_is_refused_says_which_choice_would_help() -> None:
    seen = diagnoses(Rules())
    assert "root='first'" in str(seen["no_soma"]) and seen["no_soma"].outcome == "refused"
    assert "soma='first'" in str(seen["several_somata"])


def test_strict_refuses_every_error_and_says_what_repair_would_do() -> None:
    strict = diagnoses(Rules(policy="strict", root="first", soma="first"))
    for code, repaired in diagnoses().items():
        expected = "refused" if repaired.outcome == "repaired" else repaired.outcome
        assert strict[code].outcome == expected, code
    assert "policy 'repair' would: joined 1 pieces over 20.0 um" in str(strict["several_roots"])


def test_a_refused_file_is_diagnosed_to_the_end() -> None:
    text = (FILES / "several_roots.swc").read_text().replace("1 1 0 0 0 5 -1", "1 3 0 0 0 5 -1").replace(" ", "\t")
    findings = diagnose_file(text.encode(), "", "cell.swc", Rules()).findings
    assert [f.code for f in findings] == ["tabs", "no_soma", "several_roots"]


def test_the_table_counts_files_and_places_per_code() -> None:
    rows = {row["code"]: row for row in repairs_table(diagnoses().values())}
    assert rows["soma_points"]["files"] == 1 and rows["soma_points"]["places"] == 3
    assert rows["empty"]["refused"] == 1 and rows["cycle"]["refused"] == 0


def test_repaired_files_are_written_and_clean(tmp_path: Path) -> None:
    seen = diagnoses()
    assert write_clean(seen.values(), tmp_path) == 30
    for path in sorted(tmp_path.glob("*.swc")):
        cell, report = read_swc(path, RULES)
        written = seen[path.stem].cell
        assert cell is not None and written is not None and len(cell) == len(written)
        errors = {f.code for f in report.findings if f.severity == "error"}
        assert errors <= {"no_soma"}, path.name  # what stood for a soma is not called one
    with pytest.raises(ValueError, match="is there already"):
        write_clean(seen.values(), tmp_path)


def test_the_command_prints_the_table_and_writes_a_row_per_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["doctor", "swc", str(FILES), "--root", "first", "--soma", "first", "--csv", str(tmp_path / "t.csv")]) == 1
    )
    printed = capsys.readouterr().out
    assert "files: 35 read, 2 clean, 14 noted, 14 repaired, 5 refused" in printed
    assert "empty.swc: refused" in printed and "joined 1 pieces over 20.0 um (longest gap 20.0)" in printed
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["code"] for row in rows} >= {"several_roots", "soma_points", ""}
    assert main(["doctor", "swc", str(FILES / "clean.swc")]) == 0
    assert main(["doctor", "swc", str(tmp_path)]) == 1
    assert "no file in" in capsys.readouterr().err
