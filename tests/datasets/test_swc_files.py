"""Where neurons may lie: files, folders, archives, MouseLight's JSON."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nissl.datasets.swc import parse_swc
from nissl.datasets.swc_files import members
from nissl.datasets.swc_mouselight import neurons_as_swc

CELL = "1 1 0 0 0 5 -1\n2 3 0 20 0 1 1\n"


def sample(number: int, parent: int, x: float, mark: int = 0) -> dict[str, Any]:
    return {"sampleNumber": number, "parentNumber": parent, "structureIdentifier": mark,
            "x": x, "y": 0.0, "z": 0.0, "radius": 1.0}  # fmt: skip


NEURON = {
    "idString": "AA0001",
    "soma": {"x": 100.0, "y": 0.0, "z": 0.0},
    "axon": [sample(1, -1, 100.0, 1), sample(2, 1, 120.0, 5), sample(3, 2, 140.0, 6)],
    "dendrite": [sample(1, -1, 100.0, 1), sample(2, 1, 90.0), sample(3, 1, 80.0, 4)],
}


def paths(source: Path, pattern: str = "*.swc") -> list[str]:
    return [member.key[1] for member in members(source, [], pattern)]


def test_a_zip_archive_is_read_without_what_macos_adds(tmp_path: Path) -> None:
    path = tmp_path / "lab.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("lab/CNG version/b.CNG.swc", "lab/CNG version/a.CNG.swc", "lab/Source-Version/a.swc",
                     "__MACOSX/lab/._a.swc", "lab/readme.txt"):  # fmt: skip
            archive.writestr(name, CELL)
    assert paths(path, "*CNG version/*.swc") == ["lab/CNG version/a.CNG.swc", "lab/CNG version/b.CNG.swc"]
    assert len(paths(path)) == 3
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated or no archive"):
        paths(path)


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "one.swc").write_text(CELL)
    assert paths(tmp_path / "one.swc") == ["one.swc"] == paths(tmp_path)


def test_mouselight_json_becomes_one_tree_with_axon_and_dendrite(tmp_path: Path) -> None:
    (tmp_path / "AA0001.json").write_text(json.dumps({"neurons": [NEURON]}))
    (member,) = members(tmp_path, [], "*.json")
    cell, report = parse_swc(member.content, member.key[1])
    assert cell is not None and member.key[1] == "AA0001.json"
    assert cell.type.tolist() == [1, 2, 2, 3, 4] and cell.parent.tolist() == [-1, 0, 1, 0, 0]
    assert cell.pos[:, 0].tolist() == [100.0, 120.0, 140.0, 90.0, 80.0]
    assert report.codes == ["non_positive_radius"]


def test_several_mouselight_neurons_in_a_file_are_several_cells() -> None:
    content = json.dumps({"neurons": [NEURON, {**NEURON, "idString": "AA0002"}]}).encode()
    assert [name for name, _ in neurons_as_swc(content, "all.json")] == ["all.json/AA0001", "all.json/AA0002"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"neurons": [{"axon": []}]}', b"\xff\xfe"])
def test_other_json_is_an_error_that_says_what_is_needed(content: bytes) -> None:
    with pytest.raises(ValueError, match="is not MouseLight JSON"):
        list(neurons_as_swc(content, "x.json"))
