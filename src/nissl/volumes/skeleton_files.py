"""Skeletons of EM volumes from files, by their ending: npz, SWC, KNOSSOS NML and NMX, em_erl's HDF5.

Positions leave here in nm, z, y, x, counted from the centre of the volume's first voxel.

SWC says nothing of its units. Micrometres are taken, as is the custom; a comment line `# unit: nm` (or `um`, `mm`)
says otherwise. One file is one neuron, whatever its number of roots; a folder of files is as many. Type codes are the
usual ones: 1 soma, 2 axon, 3 and 4 dendrite, and 7, which the custom leaves free, for a spine.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nissl.volumes import nml
from nissl.volumes.skeletons import NEURITE_TYPES, Skeletons
from nissl.volumes.trees import depths

log = logging.getLogger(__name__)

NM_PER = {"nm": 1.0, "um": 1e3, "µm": 1e3, "micron": 1e3, "mm": 1e6}
SWC_TYPES = {1: "soma", 2: "axon", 3: "dendrite", 4: "dendrite", 7: "spine"}
ENDINGS = (".npz", ".swc", ".nml", ".nmx", ".k.zip", ".h5", ".hdf5")


def read_skeletons(path: str | Path) -> Skeletons:
    """Skeletons of one file, or of a folder of SWC files.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: an ending that is not read, or what is wrong with the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"skeleton file {path} does not exist. Set dataset.skeletons, or null to go without.")
    if path.is_dir():
        files = sorted(path.glob("*.swc"))
        if not files:
            raise ValueError(f"folder {path} holds no .swc file")
        skeletons = Skeletons.concatenate([read_swc(file) for file in files])
    elif path.name.endswith(".npz"):
        skeletons = read_npz(path)
    elif path.name.endswith(".swc"):
        skeletons = read_swc(path)
    elif path.name.endswith((".nml", ".nmx", ".k.zip")):
        skeletons, _ = nml.skeletons_of(nml.read_tracings(path), name=str(path))
    elif path.name.endswith((".h5", ".hdf5")):
        skeletons = read_em_erl(path)
    else:
        raise ValueError(f"skeletons in '{path.name}' are not read; known endings: {', '.join(ENDINGS)}")
    log.info("%s: %s", path, describe(skeletons))
    return skeletons


def describe(skeletons: Skeletons) -> str:
    """Number of skeletons, cable, loose pieces and cycles, for a log."""
    num = len(skeletons.skeleton_of)
    graph = sparse.coo_matrix((np.ones(len(skeletons.edges), bool), tuple(skeletons.edges.T)), shape=(num, num))
    components, _ = connected_components(graph, directed=False)
    neurons = len(np.unique(skeletons.skeleton_of))
    return (
        f"{neurons} skeletons, {num} nodes, {skeletons.edge_lengths_nm.sum() / 1e3:.1f} um of cable, "
        f"{components - neurons} pieces that are not connected to the rest of theirs, "
        f"{len(skeletons.edges) - num + components} cycles"
    )


def read_npz(path: str | Path) -> Skeletons:
    """Skeletons from arrays `nodes_zyx_nm`, `edges` and `node_label` (and `node_type`, `depth`) of an npz file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"skeleton file {path} does not exist. Set dataset.skeletons, or null to go without.")
    with np.load(path, allow_pickle=False) as file:
        missing = {"nodes_zyx_nm", "edges", "node_label"} - set(file.files)
        if missing:
            raise ValueError(f"{path} lacks the arrays {sorted(missing)}; it holds {sorted(file.files)}")
        types = file["node_type"].astype(np.int64) if "node_type" in file.files else None
        if types is not None and types.size and not 0 <= types.min() <= types.max() < len(NEURITE_TYPES):
            raise ValueError(f"{path}: node_type must be 0 to {len(NEURITE_TYPES) - 1}, for {', '.join(NEURITE_TYPES)}")
        return Skeletons(
            file["nodes_zyx_nm"].astype(np.float64),
            file["edges"].astype(np.int64),
            file["node_label"].astype(np.int64),
            types,
            file["depth"].astype(np.int64) if "depth" in file.files else None,
        )


def write_npz(path: str | Path, skeletons: Skeletons) -> None:
    """What `read_npz` reads."""
    more = {name: getattr(skeletons, name) for name in ("node_type", "depth")}
    np.savez_compressed(
        path,
        allow_pickle=False,
        nodes_zyx_nm=skeletons.nodes_zyx_nm,
        edges=skeletons.edges,
        node_label=skeletons.skeleton_of,
        **{name: value for name, value in more.items() if value is not None},
    )


def read_swc(path: str | Path) -> Skeletons:
    """Lines `id type x y z radius parent`; a parent that is not there makes a root, with a warning."""
    path = Path(path)
    unit, rows = "um", []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text, _, comment = line.partition("#")
        if found := re.search(r"(?i)\bunits?\s*[:=]?\s*(nm|um|µm|microns?|mm)\b", comment):
            unit = found.group(1).lower().rstrip("s")
        if not text.strip():
            continue
        words = text.replace(",", " ").split()
        try:
            rows.append([float(word) for word in words[:7]])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != 7 or not np.isfinite(rows[-1]).all():
            raise ValueError(f"{path}, line {number}: expected id type x y z radius parent, came {line.strip()!r}")
    if not rows:
        raise ValueError(f"{path} holds no node")
    table = np.array(rows)
    ids, parents = table[:, 0].astype(np.int64), table[:, 6].astype(np.int64)
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"{path}: node ids repeat, so parents are ambiguous")
    order = np.argsort(ids)
    at = np.searchsorted(ids[order], parents).clip(max=len(ids) - 1)
    has_parent = (ids[order][at] == parents) & (parents != ids)
    lost = int(np.sum(~has_parent & (parents >= 0)))
    if lost:
        log.warning("%s: %d nodes name a parent that is not there; they begin trees of their own", path, lost)
    child = np.flatnonzero(has_parent)
    edges = np.stack([child, order[at[child]]], axis=1)
    kinds = [NEURITE_TYPES.index(SWC_TYPES.get(int(code), "unknown")) for code in table[:, 1]]
    return Skeletons(
        table[:, [4, 3, 2]] * NM_PER[unit],
        edges,
        np.ones(len(ids), np.int64),
        np.array(kinds) if any(kinds) else None,
        depths(len(ids), edges, np.flatnonzero(~has_parent).tolist()),
    )


def read_em_erl(path: str | Path) -> Skeletons:
    """One group per skeleton, named by its number, with `vertices` (N, 3; nm, zyx) and `edges` (E, 2).

    Groups are taken in the order of their numbers: in HDF5's own order, 10 comes before 2, and the node table of
    em_erl's example is misaligned by it.
    """
    parts, numbers = [], []
    with h5py.File(path, "r") as file:
        keys = [key for key in file if isinstance(file[key], h5py.Group)]
        if not keys or not all(key.isdigit() for key in keys):
            raise ValueError(f"{path} is no file of skeletons: expected groups '0', '1', ..., came {sorted(file)[:5]}")
        for key in sorted(keys, key=int):
            group = file[key]
            if not {"vertices", "edges"} <= set(group):
                raise ValueError(f"{path}: group '{key}' lacks vertices or edges, it holds {sorted(group)}")
            vertices = np.asarray(group["vertices"], np.float64)
            edges = np.asarray(group["edges"], np.int64).reshape(-1, 2)
            parts.append(Skeletons(vertices, edges, np.zeros(len(vertices), np.int64)))
            numbers += [int(key)] * len(vertices)
    joined = Skeletons.concatenate(parts)
    return Skeletons(joined.nodes_zyx_nm, joined.edges, np.array(numbers))
