"""Which files are one neuron."""

from dataclasses import replace

import numpy as np
import pytest

from nissl.datasets.cell_graph import CellGraph, take
from nissl.datasets.morphology_groups import content_hash, group_cells, neuron_name


def cell(name: str, seed: int = 0) -> CellGraph:
    rng = np.random.default_rng(seed)
    parent = np.array([-1, 0, 1, 1, 0, 4], np.int32)
    made = CellGraph(rng.normal(0, 50, (6, 3)).astype(np.float32), np.ones(6, np.float32), np.zeros(6, np.int8), parent)
    return replace(take(made, parent, 0), id=name)


def test_the_hash_sees_geometry_and_nothing_else() -> None:
    a = cell("a.swc")
    moved = replace(a, pos=a.pos + np.float32([1000, -50, 3]), id="b.swc", type=a.type + 3)
    order = np.array([0, 4, 5, 1, 3, 2])  # the same tree, siblings the other way round
    row = np.argsort(order)
    parent = np.where(a.parent[order] < 0, -1, row[a.parent[order]]).astype(np.int32)
    turned = replace(a, pos=a.pos[order], parent=parent)
    assert content_hash(a) == content_hash(moved) == content_hash(turned)
    assert content_hash(a) != content_hash(cell("a.swc", seed=1))
    rewired = replace(a, parent=np.array([-1, 0, 1, 0, 0, 4], np.int32))
    assert content_hash(a) != content_hash(rewired)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("h/axon_34-SR.CNG.swc", "h/dentrite_34-SR.CNG.swc", True),
        ("h/axon_34-SR.CNG.swc", "h/dentrite_35-SR.CNG.swc", False),
        ("axons/cell1.swc", "dendrites/cell1.swc", True),
        ("a/sm080902a1-2_-_Clone_1.swc", "a/sm080902a1-2_-_Clone_7.swc", True),
        ("a/x_-_Scale_x1.000_y0.975_z1.000.swc", "a/x.swc", True),
        ("a/cell_1.swc", "b/cell_1.swc", False),  # folders are labels
        ("MTC300600A-IDB.CNG.swc", "MTC300600A-IDC.CNG.swc", False),
        ("taxon_1.swc", "t_1.swc", False),  # a word in a word
    ],
)
def test_parts_and_clones_of_a_neuron_are_told_by_name(first: str, second: str, same: bool) -> None:
    groups, reasons = group_cells([cell(first, 0), cell(second, 1)])
    assert (groups[0] == groups[1]) == same == bool(reasons)


def test_equal_names_of_two_archives_say_nothing() -> None:
    groups, reasons = group_cells([cell("a/1.swc", 0), cell("a/1.swc", 1)])
    assert groups.tolist() == [0, 1] and reasons == []


def test_duplicates_are_grouped_and_reasons_add_up() -> None:
    cells = [cell("1.swc", 0), cell("2.swc", 1), cell("3.swc", 0), cell("axon_2.swc", 2), cell("dend_2.swc", 1)]
    groups, reasons = group_cells(cells)
    assert groups.tolist() == [0, 1, 0, 2, 1] or groups.tolist() == [0, 1, 0, 1, 1]
    assert "4 files have the same geometry of 2 neurons, such as 1.swc and 3.swc" in reasons


def test_a_pattern_groups_what_matches_alike() -> None:
    cells = [cell("m1_s2_a.swc", 0), cell("m1_s2_b.swc", 1), cell("m1_s3_a.swc", 2), cell("other.swc", 3)]
    groups, _ = group_cells(cells, pattern=r"^(m\d+)_(s\d+)")
    assert groups.tolist() == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="matches no file"):
        group_cells(cells, pattern="rat")
    with pytest.raises(ValueError, match="is not a regular expression"):
        group_cells(cells, pattern="(")


def test_the_name_of_a_neuron_lacks_its_part() -> None:
    assert neuron_name("hippo/axon_34-SR.CNG.swc") == ("hippo/_34-sr", True)
    assert neuron_name("L1/542634.swc") == ("l1/542634", False)
