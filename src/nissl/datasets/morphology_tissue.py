"""What a tissue allows: augmentations that would destroy the label, or need what the files do not have, are refused.

- cortex: y points to the pia, so cells turn about y only. Needs files that are oriented.
- retina: z is depth, and depth in a layer of about 35 um is the type: cells turn about z; no shift, scale or centring
  along z (berenslab/ssl_neuron@5796d200d8 on the harm of a 10 um shift). Needs files that are oriented.
- fly: no common axis within a brain region of stereotyped position: any rotation (so3), or none.
- isotropic: no axis is special (dissociated cells, botanical trees without their ground): so3, and one
  strength for all axes.

Axis and sign of a file's own axes are put right by `oriented`, tilt by angles of the metadata table by `upright`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from nissl.datasets.cell_graph import CellGraph
from nissl.datasets.tree_views import AXES, ViewSettings

Tissue = Literal["cortex", "retina", "fly", "isotropic"]
TISSUES = ("cortex", "retina", "fly", "isotropic")


def check_tissue(tissue: str | None, views: ViewSettings, centre_axes: str, oriented: bool | None) -> None:
    """Raise a ValueError that lists every setting the tissue forbids; None allows everything.

    Args:
        oriented: whether the files' axes are those of the tissue; None: not known, which no tissue refuses.
    """
    if tissue is None:
        return
    if tissue not in TISSUES:
        raise ValueError(f"dataset.tissue must be null or one of {', '.join(TISSUES)}, came {tissue!r}")
    shift = np.broadcast_to(np.asarray(views.shift_std_um, float), 3)
    jitter = np.broadcast_to(np.asarray(views.jitter_std_um, float), 3)
    wrong = []
    if tissue in ("cortex", "retina"):
        axis = "y" if tissue == "cortex" else "z"
        if oriented is False:
            wrong.append(f"the files are not oriented (dataset.oriented=false), so their {axis} axis means nothing")
        if views.rotation == "so3":
            wrong.append("dataset.rotation=so3 turns depth into width; use axis")
        if views.rotation in ("axis", "reference") and views.rotation_axis != axis:
            wrong.append(f"dataset.rotation_axis={views.rotation_axis} tilts the cell; use {axis}")
    if tissue == "retina":
        if shift[2] > 0:
            wrong.append(f"dataset.shift_std_um moves depth by {shift[2]:g} um; use [{shift[0]:g}, {shift[1]:g}, 0]")
        if views.scale_log_std > 0:
            wrong.append("dataset.scale_log_std scales depth; use 0")
        if "z" in centre_axes:
            wrong.append(f"dataset.centre_axes={centre_axes} takes depth away; use xy")
    if tissue in ("fly", "isotropic") and views.rotation not in ("so3", "none"):
        wrong.append(f"dataset.rotation={views.rotation} singles out an axis; use so3 or none")
    if tissue == "isotropic" and (np.ptp(shift) > 0 or np.ptp(jitter) > 0):
        wrong.append("dataset.jitter_std_um and shift_std_um differ between axes; use one number each")
    if wrong:
        raise ValueError(f"dataset.tissue={tissue} and other settings contradict each other:\n  " + ";\n  ".join(wrong))


def oriented(cell: CellGraph, axes: Sequence[str]) -> CellGraph:
    """The cell with its axes taken in another order or sign: ["x", "-z", "y"] makes the file's -z the new y."""
    columns = []
    for axis in axes:
        if axis.removeprefix("-") not in AXES:
            raise ValueError(f"dataset.axes must be three of x, y, z, each maybe with -, came {list(axes)!r}")
        sign = -1.0 if axis.startswith("-") else 1.0
        columns.append(sign * cell.pos[:, AXES[axis.removeprefix("-")]])
    if sorted(axis.removeprefix("-") for axis in axes) != ["x", "y", "z"]:
        raise ValueError(f"dataset.axes must name x, y and z once each, came {list(axes)!r}")
    return cell.moved(np.stack(columns, axis=1))


def upright(cell: CellGraph, angles_deg: Mapping[str, str]) -> CellGraph:
    """The cell turned about its root by angles of its row of the metadata table, in degrees, one axis after another.

    Allen cells: {"z": "upright_angle", "x": "estimated_slice_angle"} of Gouwens et al. 2019, supplementary data 3. An
    empty or NaN angle turns nothing. Decimal commas are read.

    Args:
        angles_deg: axis -> column.
    """
    pos = cell.pos.astype(float) - cell.pos[0]
    for axis, column in angles_deg.items():
        if axis not in AXES:
            raise ValueError(f"dataset.upright names the axis {axis!r}; it must be x, y or z")
        if column not in cell.meta:
            raise ValueError(f"dataset.upright: the metadata table has no column {column!r}")
        written = cell.meta[column].strip().replace(",", ".")
        try:
            angle = np.radians(float(written or "nan"))
        except ValueError:
            raise ValueError(f"'{cell.id}': {column} is {written!r}, not an angle in degrees") from None
        if np.isfinite(angle):
            pos = pos @ _rotation_about(AXES[axis], float(angle)).T
    return replace(cell, pos=(pos + cell.pos[0]).astype(np.float32))


def _rotation_about(axis: int, angle: float) -> np.ndarray:
    """Right-handed rotation of column vectors."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
