"""Folders and archives of SWC files: labels, repairs, and one clear error for each bad input."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nissl.datasets.swc import parse_swc
from nissl.datasets.swc_cells import Preprocessing, select_compartments
from nissl.datasets.swc_collection import read_collection
from nissl.datasets.swc_report import Rules

CELL = """1 1 5 5 5 5 -1
2 3 5 25 5 1 1
3 2 5 45 5 1 2
4 3 5 65 5 1 3
5 2 25 5 5 1 1
"""
PLAIN = Preprocessing(Rules())


def make_folder(root: Path, names: tuple[str, ...] = ("a", "b", "c"), text: str = CELL) -> Path:
    folder = root / "cells"
    (folder / "sub").mkdir(parents=True)
    for name in names:
        (folder / "sub" / f"{name}.swc").write_text(text)
    return folder


def make_table(root: Path, rows: list[str], header: str = "file,label") -> Path:
    path = root / "metadata.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def make_archive(root: Path, files: dict[str, str]) -> Path:
    path = root / "cells.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def test_a_folder_with_a_table_gives_labelled_centred_cells(tmp_path: Path) -> None:
    table = make_table(tmp_path, ["sub/b.swc,y", "sub/a.swc,x", "sub/c.swc,x"])
    collection = read_collection(make_folder(tmp_path), table, "label", PLAIN)
    assert collection.labels == ["y", "x", "x"] and collection.cells[0].id == "sub/b.swc"
    np.testing.assert_array_equal(collection.cells[0].pos[0], 0.0)
    assert collection.cells[1].meta["label"] == "x" and len(collection.files) == 4


def test_without_a_table_the_folder_is_the_label(tmp_path: Path) -> None:
    assert read_collection(make_folder(tmp_path), None, "label", PLAIN).labels == ["sub"] * 3


def test_an_archive_reads_its_own_rows_only(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, {"x/1.swc": CELL, "x/2.swc": CELL, "README": "no cell"})
    rows = ["cells.tar.gz,x/1.swc,p", "cells.tar.gz,x/2.swc,q", "other.tar.gz,x/3.swc,r"]
    collection = read_collection(archive, make_table(tmp_path, rows, "archive,file,label"), "label", PLAIN)
    assert collection.labels == ["p", "q"] and collection.files == [tmp_path / "metadata.csv", archive]


def test_rows_without_file_and_files_without_row_are_one_error_or_skipped(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    table = make_table(tmp_path, ["sub/a.swc,x", "sub/b.swc,", "sub/gone.swc,x"])
    with pytest.raises(ValueError) as error:
        read_collection(folder, table, "label", PLAIN)
    message = str(error.value)
    assert "1 rows of the metadata have no file: sub/gone.swc" in message
    assert "1 files have no row in the metadata: sub/c.swc" in message
    assert "1 rows have nothing in column 'label': sub/b.swc" in message and "dataset.unmatched=skip" in message
    skipped = read_collection(folder, table, "label", PLAIN, unmatched="skip")
    assert skipped.labels == ["x"] and len(skipped.left_out) == 3


def test_bad_files_are_listed_together_with_their_reasons(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "sub" / "a.swc").write_text(CELL.replace("25 5 1", "25 five 1"))
    (folder / "sub" / "b.swc").write_text(CELL.replace("1 1 5", "1 3 5"))
    with pytest.raises(ValueError, match=r"(?s)2 SWC files cannot be used.*'five' is not a number.*no_soma"):
        read_collection(folder, None, "label", PLAIN)


def test_empty_cells_are_left_out_with_a_reason_and_small_ones_too(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "sub" / "a.swc").write_text("# nothing\n")
    (folder / "sub" / "b.swc").write_text("1 1 0 0 0 5 -1\n2 3 0 30 0 1 1\n")
    collection = read_collection(folder, None, "label", Preprocessing(Rules(), min_nodes=4))
    assert collection.left_out == [("sub/a.swc", "empty"), ("sub/b.swc", "2 nodes, fewer than min_nodes=4")]
    assert "left out sub/a.swc: empty" in collection.summary()


def test_removing_axon_connects_the_dendrite_again_and_says_so(tmp_path: Path) -> None:
    preprocessing = Preprocessing(Rules(), compartments=["soma", "dendrite", "apical"])
    collection = read_collection(make_folder(tmp_path), None, "label", preprocessing)
    cell = collection.cells[0]
    assert len(cell) == 3 and cell.parent.tolist() == [-1, 0, 1]
    finding = collection.reports[0].findings[-1]
    assert finding.code == "cut_by_selection" and "joined 1 pieces over 40.0 um" in finding.fix


def test_keeping_all_types_keeps_the_cell() -> None:
    cell, _ = parse_swc(CELL, "x", Rules())
    assert cell is not None and select_compartments(cell, [0, 1, 2, 3, 4]) is cell


def test_compartments_of_cells_without_types_are_an_error(tmp_path: Path) -> None:
    untyped = "1 0 0 0 0 5 -1\n2 0 0 20 0 1 1\n3 0 0 40 0 1 2\n"
    preprocessing = Preprocessing(Rules(root="first"), compartments=["soma", "dendrite"])
    with pytest.raises(ValueError, match="has no types"):
        read_collection(make_folder(tmp_path, text=untyped), None, "label", preprocessing)


def test_centring_may_leave_an_axis_alone(tmp_path: Path) -> None:
    cell = read_collection(make_folder(tmp_path), None, "label", Preprocessing(Rules(), centre_axes="xy")).cells[0]
    np.testing.assert_array_equal(cell.pos[0], [0.0, 0.0, 5.0])


def test_missing_things_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with pytest.raises(ValueError, match="no such folder or archive: .*nowhere"):
        read_collection(tmp_path / "nowhere", None, "label", PLAIN)
    with pytest.raises(ValueError, match="no such metadata table"):
        read_collection(folder, tmp_path / "no.csv", "label", PLAIN)
    with pytest.raises(ValueError, match="has no column 'type'; it has file, label"):
        read_collection(folder, make_table(tmp_path, ["sub/a.swc,x"]), "type", PLAIN)
    with pytest.raises(ValueError, match="neither a folder nor"):
        read_collection(tmp_path / "metadata.csv", None, "label", PLAIN)
    with pytest.raises(ValueError, match="lists 'sub/a.swc' twice"):
        read_collection(folder, make_table(tmp_path, ["sub/a.swc,x", "sub/a.swc,y"]), "label", PLAIN)
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="matches '[*].swc'"):
        read_collection(tmp_path / "void", None, "label", PLAIN)
    with pytest.raises(ValueError, match="has no row for cells.tar.gz"):
        archive = make_archive(tmp_path, {"1.swc": CELL})
        read_collection(archive, make_table(tmp_path, ["other.tar.gz,1.swc,x"], "archive,file,label"), "label", PLAIN)


def test_a_truncated_archive_is_an_error_that_says_so(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, {f"{k}.swc": CELL * 50 + f"# {k}" for k in range(50)})
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(ValueError, match="truncated or no archive"):
        read_collection(archive, None, "label", PLAIN)


@pytest.mark.parametrize("options", [{"compartments": ["dendrites"]}, {"centre_axes": "xyw"}])
def test_wrong_preprocessing_is_an_error(options: dict) -> None:
    with pytest.raises(ValueError, match="unknown compartment 'dendrites'|letters of 'xyz'"):
        Preprocessing(Rules(), **options)
