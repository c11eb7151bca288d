"""Tissues refuse what contradicts them; axes and angles are put right."""

from dataclasses import replace

import numpy as np
import pytest

from nissl.datasets.cell_graph import CellGraph
from nissl.datasets.morphology_tissue import check_tissue, oriented, upright
from nissl.datasets.tree_views import ViewSettings

CELL = CellGraph(np.array([[1, 2, 3], [2, 2, 3], [1, 3, 3], [1, 2, 4]], np.float32), np.ones(4), np.zeros(4),
                 np.array([-1, 0, 0, 0]), id="cell.swc")  # fmt: skip
AXIS_Y = ViewSettings(10, rotation="axis", rotation_axis="y", shift_std_um=10.0)
FREE = ViewSettings(10, rotation="so3", shift_std_um=10.0)
RETINA = ViewSettings(10, rotation="axis", rotation_axis="z", mirror=True, shift_std_um=[10, 10, 0])


@pytest.mark.parametrize(
    ("tissue", "views", "centre"),
    [(None, FREE, "xyz"), ("cortex", AXIS_Y, "xyz"), ("retina", RETINA, "xy"), ("fly", FREE, "xyz"),
     ("isotropic", FREE, "xyz"), ("fly", ViewSettings(10), "")],
)  # fmt: skip
def test_a_tissue_takes_what_suits_it(tissue: str | None, views: ViewSettings, centre: str) -> None:
    check_tissue(tissue, views, centre, oriented=None)


@pytest.mark.parametrize(
    ("tissue", "views", "centre", "is_oriented", "message"),
    [
        ("cortex", AXIS_Y, "xyz", False, "dataset.oriented=false"),
        ("cortex", FREE, "xyz", True, "rotation=so3 turns depth into width"),
        ("cortex", RETINA, "xyz", True, "rotation_axis=z tilts the cell; use y"),
        ("retina", AXIS_Y, "xy", True, r"(?s)rotation_axis=y.*moves depth by 10 um; use \[10, 10, 0\]"),
        ("retina", RETINA, "xyz", True, "takes depth away; use xy"),
        ("retina", replace(RETINA, scale_log_std=0.1), "xy", True, "scales depth"),
        ("fly", AXIS_Y, "xyz", None, "singles out an axis"),
        ("isotropic", replace(FREE, jitter_std_um=[1, 1, 2]), "xyz", None, "differ between axes"),
        ("liver", AXIS_Y, "xyz", None, "null or one of cortex"),
    ],
)
def test_a_tissue_refuses_what_contradicts_it(
    tissue: str, views: ViewSettings, centre: str, is_oriented: bool | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_tissue(tissue, views, centre, is_oriented)


def test_axes_are_reordered_and_turned_round() -> None:
    np.testing.assert_array_equal(oriented(CELL, ["x", "-z", "y"]).pos[0], [1, -3, 2])
    with pytest.raises(ValueError, match="name x, y and z once each"):
        oriented(CELL, ["x", "y", "y"])
    with pytest.raises(ValueError, match="three of x, y, z"):
        oriented(CELL, ["x", "y", "w"])


def test_angles_of_the_table_turn_about_the_root_one_axis_after_another() -> None:
    cell = replace(CELL, meta={"a": "90", "b": "90,0", "c": "", "d": "steep"})
    turned = upright(cell, {"z": "a"})
    np.testing.assert_allclose(turned.pos[1], [1, 3, 3], atol=1e-6)  # +x became +y
    np.testing.assert_array_equal(turned.pos[0], CELL.pos[0])
    both = upright(cell, {"z": "a", "x": "b"})
    np.testing.assert_allclose(both.pos[1], [1, 2, 4], atol=1e-6)  # and then +z
    np.testing.assert_array_equal(upright(cell, {"x": "c"}).pos, CELL.pos)
    with pytest.raises(ValueError, match="'steep', not an angle"):
        upright(cell, {"z": "d"})
    with pytest.raises(ValueError, match="no column 'e'"):
        upright(cell, {"z": "e"})
    with pytest.raises(ValueError, match="axis 'w'"):
        upright(cell, {"w": "a"})
