"""Read, diagnose, repair and write SWC files.

One line per node: `id type x y z radius parent`, um, parent -1 for a root. Files in the wild break every part of that
sentence, so reading is a diagnosis: each pathology has a stable code, a severity, the first lines where it occurs and
the fix that was applied. Nothing is fixed silently, and joined gaps are reported with number and length.

Policies: `repair` (default) fixes what has a safe fix and raises on the rest; `strict` raises on any finding of
severity error; `diagnose` reports everything and changes nothing.

Codes and fixes follow the issues collected from AllenSDK, NeuroM, MorphIO, Vaa3D, jaxley and others (for instance
https://github.com/BlueBrain/NeuroM/issues/835, https://github.com/AllenInstitute/AllenSDK/issues/2651). Numbers are
parsed by Python's own float, never by a scanf-like reader (https://github.com/BlueBrain/MorphIO/issues/419).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nissl.datasets.cell_graph import CellGraph, Joins, join_components, reroot, root_of_each, take
from nissl.datasets.swc_report import Diagnosis, Rules, StopDiagnosis, SwcReport
from nissl.datasets.swc_table import SwcTable, parse_table

SOMA, AXON, DENDRITE, APICAL = 1, 2, 3, 4
NAMED_TYPES = {"undefined": 0, "soma": SOMA, "axon": AXON, "dendrite": DENDRITE, "apical": APICAL}
PLAUSIBLE_EXTENT_UM = (10.0, 20_000.0)  # a cell outside this is in nm, voxels or mm
DISPLACED_SOMA_FACTOR = 50.0  # first edge beyond the soma's radius, in median edges


def read_swc(path: str | Path, rules: Rules | None = None) -> tuple[CellGraph | None, SwcReport]:
    """Read one file; see `parse_swc`."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such SWC file: '{path}'")
    return parse_swc(path.read_bytes(), path.name, rules)


def parse_swc(content: bytes | str, name: str, rules: Rules | None = None) -> tuple[CellGraph | None, SwcReport]:
    """A repaired cell and the report of what was found in it.

    Args:
        content: the file, as bytes or text.
        name: what to call it in messages, and the cell's id.
        rules: what may be done; default repairs, and raises where a choice is needed.

    Returns:
        The cell (one component, root = soma = node 0, depth-first order) and the report. Under policy "diagnose" the
        cell is None.

    Raises:
        SwcError: (a ValueError) under "strict" for any error, under "repair" for one without a safe fix.
    """
    rules = rules or Rules()
    diagnosis = Diagnosis(name, rules)
    try:
        nodes = parse_table(content, diagnosis)
        _check_values(nodes, diagnosis)
        root = _find_soma(nodes, diagnosis)
        root = _collapse_soma(nodes, root, diagnosis)
        cell = _connect(nodes, root, diagnosis)
        _check_geometry(cell, diagnosis)
    except StopDiagnosis:
        return None, diagnosis.report
    if rules.policy == "diagnose":
        return None, diagnosis.report
    if rules.merge_coincident:
        cell = merge_coincident(cell)
    return cell, diagnosis.report


def write_swc(cell: CellGraph, path: str | Path) -> None:
    """Write a cell with ids 1..N, parents first; reading it gives the same tree. Undefined radii are written as 0."""
    rows = [
        f"{i + 1} {t} {x!r} {y!r} {z!r} {0.0 if np.isnan(r) else float(r)!r} {p + 1 if p >= 0 else -1}"
        for i, (t, (x, y, z), r, p) in enumerate(
            zip(cell.type.tolist(), cell.pos.tolist(), cell.radius, cell.parent.tolist(), strict=True)
        )
    ]
    Path(path).write_text("# id type x y z radius parent (um)\n" + "\n".join(rows) + "\n")


def merge_coincident(cell: CellGraph) -> CellGraph:
    """Without the nodes that lie exactly on their parent; their children hang on that parent instead."""
    drop = (cell.edge_length_um == 0) & (cell.parent >= 0)
    parent = cell.parent.astype(np.int64)
    for i in np.flatnonzero(drop):  # parents come first, so a chain of coincident nodes resolves in one pass
        parent[parent == i] = parent[i]
    parent[drop] = -1
    return take(cell, parent, 0)


# Values and types ---------------------------------------------------------------------------------------------------


def _check_values(nodes: SwcTable, diagnosis: Diagnosis) -> None:
    bad = ~np.isfinite(nodes.pos).all(axis=1)
    if bad.any():
        inner = bad.copy()
        drop = np.zeros(len(bad), bool)
        while True:  # tips first; what hung on a dropped tip's parent may become a tip itself
            children = np.bincount(nodes.parent[(nodes.parent >= 0) & ~drop], minlength=len(bad))
            tips = inner & (children == 0) & (nodes.parent >= 0)
            if not tips.any():
                break
            drop |= tips
            inner &= ~tips
        advice = "a position inside the tree is not finite; correct it by hand" if inner.any() else ""
        fix = "" if inner.any() else "tips without a position were dropped"
        diagnosis.add("non_finite", "error", nodes.line[bad], fix, advice)
        if inner.any():
            raise StopDiagnosis
        nodes.keep(~drop)
    flat = ~(np.isfinite(nodes.radius) & (nodes.radius > 0))
    if flat.any():
        diagnosis.add("non_positive_radius", "warning", nodes.line[flat], fix="radius set to NaN")
        nodes.radius[flat] = np.nan
    custom = (nodes.type < 0) | (nodes.type > APICAL)
    if custom.any():
        found = sorted(set(nodes.type[custom].tolist()))
        mapping = {t: diagnosis.rules.type_map.get(t, 0) for t in found}
        text = ", ".join(f"{a} -> {b}" for a, b in mapping.items())
        diagnosis.add("custom_types", "warning", nodes.line[custom], fix=f"mapped {text}")
        nodes.type[custom] = [mapping[t] for t in nodes.type[custom].tolist()]


# Soma and root ------------------------------------------------------------------------------------------------------


def _soma_clusters(nodes: SwcTable) -> list[np.ndarray]:
    """Rows of type 1 grouped by connection through type-1 edges, each with its top node first."""
    soma = nodes.type == SOMA
    up = np.where(soma & (nodes.parent >= 0) & soma[np.maximum(nodes.parent, 0)], nodes.parent, -1)
    top = root_of_each(up)
    tops = np.unique(top[soma])
    clusters = []
    for t in tops:
        members = np.flatnonzero(soma & (top == t))
        clusters.append(np.concatenate([[t], members[members != t]]))
    return clusters


def _find_soma(nodes: SwcTable, diagnosis: Diagnosis) -> int:
    """Row of the soma, made the root of its tree."""
    rules = diagnosis.rules
    clusters = _soma_clusters(nodes)
    if not clusters:
        return _root_without_soma(nodes, diagnosis)
    at_root = [c for c in clusters if nodes.parent[c[0]] < 0]
    candidates = at_root or clusters
    if len(candidates) > 1:
        tops = [c[0] for c in candidates]
        if rules.soma == "error":
            advice = "several separate somata; pass soma='first' or soma='largest', or split the file"
            diagnosis.add("several_somata", "error", nodes.line[tops], advice=advice)
        else:
            fix = f"kept the {rules.soma}; the others were relabelled 0"
            diagnosis.add("several_somata", "error", nodes.line[tops], fix=fix)
        nodes.declared_root[tops] = False
    radii = [np.nan_to_num(nodes.radius[c], nan=0.0).max() for c in candidates]
    main = candidates[int(np.argmax(radii)) if rules.soma == "largest" else 0]
    top = int(main[0])

    if nodes.parent[top] >= 0:
        neurite = nodes.type[nodes.parent[top]] in (AXON, DENDRITE, APICAL)
        code = "soma_with_neurite_parent" if neurite else "soma_not_root"
        diagnosis.add(code, "error", [nodes.line[top]], fix="the tree was re-rooted at the soma")
        reroot(nodes.parent, top)

    # Type 1 elsewhere in the tree, or a soma that branches like a neurite: wrong labels.
    other = [c for c in clusters if c[0] != top and c[0] not in {k[0] for k in candidates}]
    wrong = [int(i) for c in other for i in c] + _soma_branch(nodes, main)
    if wrong:
        diagnosis.add(
            "soma_bifurcates", "error", sorted(nodes.line[wrong].tolist()), fix="relabelled 0 away from the root"
        )
    relabel = wrong + [int(i) for c in candidates if c[0] != top for i in c]
    nodes.type[relabel] = 0
    return top


def _soma_branch(nodes: SwcTable, cluster: np.ndarray) -> list[int]:
    """Members of a soma cluster at or beyond a branch point other than its top node."""
    soma = np.zeros(len(nodes.type), bool)
    soma[cluster] = True
    inner = cluster[1:]
    forks = np.bincount(nodes.parent[inner], minlength=len(soma)) >= 2
    forks[cluster[0]] = False
    if not forks.any():
        return []
    wrong = []
    for i in inner:
        node = int(i)
        while node != cluster[0]:
            if forks[node]:
                wrong.append(int(i))
                break
            node = int(nodes.parent[node])
    return wrong


def _root_without_soma(nodes: SwcTable, diagnosis: Diagnosis) -> int:
    """Row that stands for the soma of a file without one."""
    rules = diagnosis.rules
    roots = np.flatnonzero(nodes.parent < 0)
    together = np.all(nodes.pos[roots] == nodes.pos[roots[0]])
    if len(roots) > 1 and together and len(set(nodes.type[roots].tolist())) > 1:
        # JML (https://github.com/fiji/SNT/issues/63): each neurite starts at the unlabelled soma.
        fix = "the common first node of the neurites is the soma"
        diagnosis.add("soma_unlabelled", "error", nodes.line[roots], fix=fix)
        nodes.type[roots[0]] = SOMA
        nodes.parent[np.isin(nodes.parent, roots[1:])] = roots[0]
        keep = np.ones(len(nodes.type), bool)
        keep[roots[1:]] = False
        nodes.keep(keep)
        return int(roots[0])  # the first of the roots; only later rows went
    chosen = int(roots[0])
    if rules.root == "largest_radius":
        chosen = int(np.argmax(np.nan_to_num(nodes.radius, nan=-1.0)))
        if rules.min_soma_radius_um > 0 and not nodes.radius[chosen] >= rules.min_soma_radius_um:
            advice = (
                f"no node of type 1, and the largest radius is {nodes.radius[chosen]:.4g} um, below "
                f"min_soma_radius_um={rules.min_soma_radius_um:g}; lower it, or pass root='first'"
            )
            diagnosis.add("no_soma", "error", [nodes.line[chosen]], advice=advice)
            raise StopDiagnosis
    fix = "" if rules.root == "error" else f"line {nodes.line[chosen]} ({rules.root}) stands for the soma"
    if np.all(nodes.type == 0):
        advice = "no node has a type, so neither soma nor axon is known; pass root='first' or root='largest_radius'"
        diagnosis.add("all_type_zero", "error" if rules.root == "error" else "warning", [], fix, advice)
    else:
        advice = f"no node of type 1 among {len(nodes.type)}. Pass root='first' to use line {nodes.line[roots[0]]}"
        diagnosis.add("no_soma", "error", [], fix, advice)
    reroot(nodes.parent, chosen)
    return chosen


def _collapse_soma(nodes: SwcTable, root: int, diagnosis: Diagnosis) -> int:
    """One node for the soma: the first of up to three points, the centroid of a contour."""
    if nodes.type[root] != SOMA:
        return root
    soma = nodes.type == SOMA
    up = np.where(soma & (nodes.parent >= 0) & soma[np.maximum(nodes.parent, 0)], nodes.parent, -1)
    members = np.flatnonzero(soma & (root_of_each(up) == root))
    if len(members) == 1:
        return root
    points, code = nodes.pos[members], "soma_points"
    if len(members) == 3:
        # NeuroMorpho's convention: two more points one radius above and below the first, in y.
        rest = points[members != root] - nodes.pos[root]
        offset = np.array([0.0, nodes.radius[root], 0.0])
        follows = np.allclose(np.sort(rest[:, 1]), [-offset[1], offset[1]], rtol=1e-2, atol=1e-2) and np.allclose(
            rest[:, [0, 2]], 0.0, atol=1e-2
        )
        code = "soma_points" if follows else "soma_rule_broken"
    if len(members) > 3:
        centroid = points.mean(axis=0)
        nodes.radius[root] = np.linalg.norm(points - centroid, axis=1).mean()
        nodes.pos[root] = centroid
    fix = f"{len(members)} soma points became one, the {'centroid' if len(members) > 3 else 'first'}"
    diagnosis.add(code, "note", nodes.line[members], fix=fix)
    inside = np.zeros(len(soma), bool)
    inside[members] = True
    nodes.parent = np.where((nodes.parent >= 0) & inside[np.maximum(nodes.parent, 0)], root, nodes.parent)
    nodes.parent[root] = -1
    keep = ~inside
    keep[root] = True
    line_of_root = nodes.line[root]
    nodes.keep(keep)
    return int(np.flatnonzero(nodes.line == line_of_root)[0])


# Connection and geometry ----------------------------------------------------------------------------------------------


def _connect(nodes: SwcTable, root: int, diagnosis: Diagnosis) -> CellGraph:
    """One tree: loose pieces dropped if they are of unwanted types, else joined to the soma's tree."""
    rules = diagnosis.rules
    extra = np.flatnonzero(nodes.declared_root & (nodes.parent < 0) & (np.arange(len(nodes.parent)) != root))
    piece = root_of_each(nodes.parent)
    unwanted = np.isin(nodes.type, list(rules.drop_types))
    wanted_per_root = np.bincount(piece[~unwanted], minlength=len(piece))
    drop = (wanted_per_root[piece] == 0) & (piece != root)
    num_dropped_pieces = len(np.unique(piece[drop]))
    at_soma = False
    if len(extra):
        reach = 2.0 * np.nan_to_num(nodes.radius[root], nan=0.0)
        at_soma = bool(np.all(np.linalg.norm(nodes.pos[extra] - nodes.pos[root], axis=1) <= reach))
    extra_lines = nodes.line[extra]

    parent = nodes.parent.copy()
    keep = ~drop
    pos = np.where(keep[:, None], nodes.pos, np.nan)
    joins = Joins()
    if np.any(keep & (piece != root)):
        rows = np.flatnonzero(keep)
        row = np.cumsum(keep) - 1
        local = np.where(parent[rows] >= 0, row[np.maximum(parent[rows], 0)], -1)
        joins = join_components(pos[rows], local, int(row[root]), rules.max_gap_um)
        parent[rows] = np.where(local >= 0, rows[np.maximum(local, 0)], -1)
    what = []
    if num_dropped_pieces:
        what.append(f"dropped {num_dropped_pieces} pieces ({int(drop.sum())} nodes) of unwanted types")
    if joins.lengths_um or joins.num_dropped_nodes:
        what.append(str(joins))
    fix = "; ".join(what)
    if len(extra):
        code = "disconnected_after_conversion" if at_soma else "several_roots"
        diagnosis.add(code, "error", extra_lines, fix=fix)
    elif fix and rules.policy == "repair":
        diagnosis.extend_fix(("missing_parent", "cycle", "self_parent", "parent_zero"), fix)

    whole = CellGraph(
        pos=nodes.pos.astype(np.float32),
        radius=nodes.radius.astype(np.float32),
        type=nodes.type.astype(np.int8),
        parent=parent.astype(np.int32),
        id=diagnosis.report.file,
    )
    cell = take(whole, parent, root)
    if len(cell) == 1:
        diagnosis.add("soma_only", "error", [], advice="there is nothing but a soma; leave the file out")
        raise StopDiagnosis
    return cell


def _check_geometry(cell: CellGraph, diagnosis: Diagnosis) -> None:
    extent = float(np.ptp(cell.pos, axis=0).max())
    low, high = PLAUSIBLE_EXTENT_UM
    if not low <= extent <= high:
        advice = f"the cell is {extent:.4g} um wide, outside {low:g} to {high:g}; set scale_um"
        diagnosis.add("wrong_unit", "warning", [], advice=advice)
    edges = cell.edge_length_um
    zero = (edges == 0) & (cell.parent >= 0)
    if zero.any():
        what = "merged" if diagnosis.rules.merge_coincident else "kept"
        diagnosis.add("coincident_nodes", "note", [], fix=f"{int(zero.sum())} nodes lie on their parent; {what}")
    median = float(np.median(edges[1:]))
    first = float(edges[cell.parent == 0].min())
    if cell.type[0] == SOMA and first - np.nan_to_num(cell.radius[0]) > DISPLACED_SOMA_FACTOR * median:
        advice = f"the soma lies {first:.0f} um from its nearest neurite, the median edge is {median:.2f} um"
        diagnosis.add("soma_displaced", "warning", [], advice=advice)
