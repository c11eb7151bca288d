"""Every named cohort reads tiny files in the layout that its configuration and `nissl data list` describe."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from nissl.datasets.morphology import Morphologies
from nissl.runs.compose import compose_config

NUM_NODES = 40


def tree(seed: int, root_type: int = 1, size: float = 10.0) -> list[tuple[int, int, np.ndarray, int]]:
    """(id, type, position, parent) of a small cell: dendrite on ids 2 to 20, axon from the soma on 21 to 40."""
    rng = np.random.default_rng(seed)
    rows = [(1, root_type, np.array([500.0, 600.0, 700.0]), -1)]
    for i in range(2, NUM_NODES + 1):
        parent = 1 if i in (2, 21) else int(rng.integers(max(2 if i < 21 else 21, i - 3), i))
        rows.append((i, 3 if i < 21 else 2, rows[parent - 1][2] + rng.normal(0, size, 3), parent))
    return rows


def swc(rows: list[tuple[int, int, np.ndarray, int]], separator: str = " ") -> str:
    lines = [separator.join(map(str, (i, t, *map(float, p), 1.0, above))) for i, t, p, above in rows]
    return "\n".join(lines) + "\n"


def table(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NISSL_DATA", str(tmp_path))
    monkeypatch.setenv("NISSL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def read(name: str, *overrides: str) -> Morphologies:
    """The source of a configuration of conf/dataset."""
    chosen = ["model=graph_dino", "task=self_distillation", f"dataset={name}", *overrides]
    options: Any = OmegaConf.to_container(compose_config("train", chosen).dataset, resolve=True)
    assert options.pop("_target_") == "nissl.datasets.morphology.Morphologies"
    return Morphologies(**options)


def folder(root: Path, name: str, files: dict[str, str]) -> Path:
    place = root / "swc" / name
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


def test_neuromorpho_reads_the_standardised_files_of_a_zip_alone(root: Path) -> None:
    with zipfile.ZipFile(root / "lab.zip", "w") as archive:
        for k in range(5):
            archive.writestr(f"lab/CNG version/{k}.CNG.swc", swc(tree(k)))
            archive.writestr(f"lab/Source-Version/{k}.swc", swc(tree(k)))
    source = read("morphology_neuromorpho", f"dataset.path={root}/lab.zip")
    assert source.classes == ["CNG version"] and len(source.labels("all")) == 5


def test_bbp_keeps_clones_of_a_cell_together(root: Path) -> None:
    names = [f"c{k}{mark}.swc" for k in range(6) for mark in ("", "_-_Clone_1")]
    place = folder(root, "bbp", {name: swc(tree(seed)) for seed, name in enumerate(names)})
    table(place / "metadata.csv", "file,mtype", [f"{name},L5_TTPC1" for name in names])
    source = read("morphology_bbp")
    assert len(source.labels("all")) == 12 and len(set(source.groups("all"))) == 6


def test_m1_patchseq_keeps_the_dendrites_of_excitatory_cells_or_the_axons_of_others(root: Path) -> None:
    place = folder(root, "m1_patchseq", {f"{k}.swc": swc(tree(k)) for k in range(5)})
    table(place / "metadata.csv", "file,type", [f"{k}.swc,tufted" for k in range(5)])
    small = ("dataset.min_nodes=10",)
    assert set(read("morphology_m1_patchseq", *small).cells("all")[0].type) == {1, 3}
    axons = read("morphology_m1_patchseq", *small, "dataset.compartments=[soma,axon]").cells("all")[0]
    assert set(axons.type) == {1, 2} and len(axons) == 21


def test_allen_cells_are_turned_upright_by_the_angles_of_the_table(root: Path) -> None:
    place = folder(root, "allen_cell_types", {f"{k}.swc": swc(tree(0)) for k in range(5)})
    header = "file,dendrite_type,upright_angle,estimated_slice_angle"
    table(place / "metadata.csv", header, [f'{k}.swc,spiny,"{90 * k},0",' for k in range(5)])
    first, second = read("morphology_allen_cell_types", "dataset.min_nodes=10").cells("all")[:2]
    np.testing.assert_allclose(second.pos[:, 1], first.pos[:, 0], atol=1e-3)
    np.testing.assert_allclose(second.pos[:, 2], first.pos[:, 2], atol=1e-3)


def test_bil_scales_files_in_voxels_once_and_others_not(root: Path) -> None:
    place = folder(root, "bil", {f"{k}{m}reg.swc": swc(tree(0)) for k in range(5) for m in ("_", "__")})
    names = [path.name for path in place.iterdir()]
    table(place / "metadata.csv", "file,structure_merge__acronym", [f"{name},VPM" for name in names])
    cells = {cell.id: cell for cell in read("morphology_bil", "dataset.min_nodes=10").cells("all")}
    np.testing.assert_allclose(cells["0__reg.swc"].pos, cells["0_reg.swc"].pos * [0.114, 0.114, 0.28], atol=1e-3)


def test_mouselight_is_read_as_it_is_downloaded(root: Path) -> None:
    def samples(seed: int, kind: int) -> list[dict[str, Any]]:
        rows = [row for row in tree(seed) if row[1] in (1, kind)]
        number = {i: k for k, (i, *_) in enumerate(rows, start=1)}
        return [
            {"sampleNumber": number[i], "structureIdentifier": t, "x": p[0], "y": p[1], "z": p[2], "radius": 1.0,
             "parentNumber": number.get(above, -1)} for i, t, p, above in rows
        ]  # fmt: skip

    soma = {"x": 500.0, "y": 600.0, "z": 700.0}
    files = {
        f"AA{k}.json": json.dumps({"neurons": [{"soma": soma, "axon": samples(k, 2), "dendrite": samples(k, 3)}]})
        for k in range(5)
    }
    place = folder(root, "mouselight", files)
    table(place / "metadata.csv", "file,label", [f"{name},MOs" for name in files])
    cells = read("morphology_mouselight", "dataset.min_nodes=10").cells("all")
    assert len(cells) == 5 and len(cells[0]) == 20 and set(cells[0].type) == {1, 3}


def test_jml_has_tabs_and_a_soma_without_a_label(root: Path) -> None:
    def unlabelled(seed: int) -> str:
        rows = [(1, 3, np.array([500.0, 600.0, 700.0]), -1)] + tree(seed)[1:20]
        axon = [(i + 1, t, p, 21 if above == 1 else above + 1) for i, t, p, above in tree(seed)[20:]]
        return swc([*rows, (21, 2, rows[0][2], -1), *axon], "\t")

    place = folder(root, "jml", {f"{k}.swc": unlabelled(k) for k in range(5)})
    table(place / "metadata.csv", "file,label", [f"{k}.swc,VPM" for k in range(5)])
    source = read("morphology_jml", "dataset.min_nodes=10")
    assert len(source.cells("all")[0]) == 20
    assert all(report.codes == ["tabs", "soma_unlabelled"] for report in source.reports)


def test_retina_keeps_depth_and_refuses_to_move_it(root: Path) -> None:
    place = folder(root, "rgc", {f"37c/{k}.swc": swc(tree(k)) for k in range(5)})
    given = (f"dataset.path={place}", "dataset.metadata=null", "dataset.min_nodes=10")
    source = read("morphology_retina", *given)
    np.testing.assert_array_equal(source.cells("all")[0].pos[0], [0.0, 0.0, 700.0])
    with pytest.raises(ValueError, match="moves depth by 5 um"):
        read("morphology_retina", *given, "dataset.shift_std_um=5.0")


def test_botanical_trees_stand_on_their_trunk_and_are_in_metres(root: Path) -> None:
    place = folder(root, "trees", {f"oak/{k}.swc": swc(tree(k, root_type=0, size=0.1)) for k in range(5)})
    source = read("morphology_trees", f"dataset.path={place}", "dataset.metadata=null")
    assert source.units == "m" and all("wrong_unit" not in report.codes for report in source.reports)
    cell = source.cells("all")[0]
    up = np.array([p for *_, p, _ in tree(0, size=0.1)])[:, 2].max() - 700.0
    assert cell.pos[:, 1].max() == pytest.approx(up, abs=1e-3), "z of the file is up"
