import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from nissl.datasets.catalogue import CATALOGUE, File
from nissl.datasets.catalogue_check import check_file, check_files, shapes_of


def test_every_entry_says_what_it_is_whose_and_how_to_get_it() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in CATALOGUE:
        assert entry.what and entry.licence and entry.citation and entry.how, entry.name
        assert all(len(file.sha256) == 64 and file.num_bytes > 0 for file in entry.files)


def test_non_commercial_data_say_so_in_capitals() -> None:
    marked = {entry.name for entry in CATALOGUE if "NON-COMMERCIAL" in entry.licence}
    assert marked == {"em_vnc", "morphology_allen", "allen_cell_types", "mouselight", "jml"}


def test_every_cohort_of_neurons_names_a_configuration_that_is_there() -> None:
    folder = Path(__file__).parents[2] / "conf" / "dataset"
    for entry in CATALOGUE:
        if entry.kind == "morphology":
            name = entry.name if entry.files else entry.how.split("dataset=")[1].split()[0]
            assert (folder / f"{name}.yaml").exists(), entry.name


def digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_ok_changed_misshapen_truncated_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = np.arange(24).reshape(2, 3, 4)
    entry = File("a.h5", path.stat().st_size, digest(path), {"raw": (2, 3, 4)})
    assert check_file(entry, path) == ("ok", "")
    assert check_file(File("a.h5", 1, entry.sha256, {"raw": (2, 3, 5)}), path) == (
        "wrong shape",
        "'raw' is (2, 3, 4), expected (2, 3, 5)",
    )
    assert "no 'labels' in it; there are: raw" in check_file(File("a.h5", 1, entry.sha256, {"labels": (1,)}), path)[1]
    assert check_file(File("a.h5", 1, "0" * 64, {"raw": (2, 3, 4)}), path)[0] == "changed"
    path.write_bytes(path.read_bytes()[:500])
    assert check_file(entry, path)[0] == "truncated"
    path.unlink()
    assert check_file(entry, path)[0] == "missing"


def test_archives_and_tables_are_counted(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "a.swc").write_text("1 1 0 0 0 1 -1\n")
    (tmp_path / "t.csv").write_text('name,note\na,"two\nlines"\nb,c\n')
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.swc", "n/a.swc")
        archive.add(tmp_path / "t.csv", "n/t.csv")
    assert shapes_of(tmp_path / "x.tar.gz") == {"*.swc": (1,)}
    assert shapes_of(tmp_path / "t.csv") == {"rows": (2,)}
    whole = (tmp_path / "x.tar.gz").read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert check_file(File("x.tar.gz", len(whole), "", {"*.swc": (1,)}), tmp_path / "x.tar.gz")[0] == "truncated"


@pytest.mark.data
def test_the_data_here_are_those_of_the_catalogue() -> None:
    root = Path(os.environ.get("NISSL_DATA", "data"))
    if not root.is_dir():
        pytest.skip(f"no data root {root}: set NISSL_DATA")
    found = [checked for checked in check_files(CATALOGUE, root) if checked.state != "missing"]
    assert {checked.state for checked in found} <= {"ok"}, [checked for checked in found if checked.state != "ok"]
