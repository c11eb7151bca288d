"""Run lengths and edge accuracy of axons, dendrites and spines apart.

Definitions are ours; the paper's figures for axons and dendrites state none. An edge has the type of its nodes; an edge
between two types has that of the node farther from the root, and counts half to each where there is no root. Types are
read from the skeleton file (`nissl.volumes.skeletons.NEURITE_TYPES`); what matched nothing is "unknown" and reported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nissl.evaluators.run_lengths import CORRECT, MERGED, OMITTED, SPLIT, RunLengths
from nissl.volumes.skeletons import NEURITE_TYPES, Skeletons

DENDRITE, SPINE = NEURITE_TYPES.index("dendrite"), NEURITE_TYPES.index("spine")


def edge_shares(skeletons: Skeletons) -> np.ndarray:
    """(E, T) how much of each edge is of each neurite type; rows sum to 1."""
    types = skeletons.node_type if skeletons.node_type is not None else np.zeros(len(skeletons.skeleton_of), int)
    shares = np.zeros((len(skeletons.edges), len(NEURITE_TYPES)))
    u, v = skeletons.edges.T
    rows = np.arange(len(u))
    np.add.at(shares, (rows, types[u]), 0.5)
    np.add.at(shares, (rows, types[v]), 0.5)
    if skeletons.depth is not None:
        du, dv = skeletons.depth[u], skeletons.depth[v]
        rooted = (types[u] != types[v]) & (du >= 0) & (dv >= 0) & (du != dv)
        shares[rooted] = 0
        shares[rows[rooted], np.where(du > dv, types[u], types[v])[rooted]] = 1
    return shares


def by_type(skeletons: Skeletons, runs: RunLengths) -> list[dict[str, Any]]:
    """One row per neurite type that occurs.

    `erl_nm` drops its points on cable of this type and counts run length over the whole neurite, so that the mean over
    types, weighted by `cable_nm`, is the run length of all cable. Recall is the correct share of the type's cable,
    precision correct / (correct + merged); NaN where neither occurs.
    """
    shares = edge_shares(skeletons)
    u = skeletons.edges[:, 0]
    correct = runs.edge_class == CORRECT
    run = runs.node_run[u[correct]]
    rows = []
    for index, name in enumerate(NEURITE_TYPES):
        length = runs.edge_nm * shares[:, index]
        total = float(length.sum())
        if total == 0:
            continue
        cable = np.bincount(runs.edge_class, length, 4)
        in_run = np.bincount(run, length[correct], len(runs.run_nm))
        held = cable[CORRECT] + cable[MERGED]
        rows.append(
            {
                "type": name,
                "cable_nm": total,
                "erl_nm": float((in_run * runs.run_nm).sum() / total),
                "recall": float(cable[CORRECT] / total),
                "precision": float(cable[CORRECT] / held) if held else float("nan"),
                "omitted": float(cable[OMITTED] / total),
                "split": float(cable[SPLIT] / total),
                "merged": float(cable[MERGED] / total),
            }
        )
    return rows


def spines(skeletons: Skeletons, runs: RunLengths) -> dict[str, float]:
    """How many spines hang on the right dendrite.

    A spine is a connected piece of type spine beside a node of type dendrite, its base. Its tip is the end of the
    longest path from there. Recall: spines whose tip has the segment of its base, and that is no merger. Precision: of
    the spines whose tip lies in a segment that holds a node of any dendrite, those where it is the own dendrite alone.

    Returns:
        `num`, `recall` and `precision`; NaN where there is nothing to count.
    """
    types = skeletons.node_type
    nothing = {"num": 0.0, "recall": float("nan"), "precision": float("nan")}
    if types is None or not np.any(types == SPINE):
        return nothing
    u, v = skeletons.edges.T
    inner = (types[u] == SPINE) & (types[v] == SPINE)
    size = (len(types),) * 2
    spine_graph = sparse.coo_matrix((runs.edge_nm[inner], (u[inner], v[inner])), shape=size).tocsr()
    _, piece = connected_components(spine_graph, directed=False)
    outer = ((types[u] == SPINE) & (types[v] == DENDRITE)) | ((types[v] == SPINE) & (types[u] == DENDRITE))
    neck, base = np.where(types[u[outer]] == SPINE, (u[outer], v[outer]), (v[outer], u[outer]))
    _, first = np.unique(piece[neck], return_index=True)  # one base each
    neck, base = neck[first], base[first]
    if len(neck) == 0:
        return nothing
    both_ways = spine_graph + spine_graph.T
    tips = np.array([_farthest(both_ways, int(node)) for node in neck])

    merged = runs.pair_is_merged[runs.node_pair]
    id_tip, id_base = runs.node_segment[tips], runs.node_segment[base]
    right = (id_tip != 0) & (id_tip == id_base) & ~merged[base]
    of_dendrite = (types == DENDRITE) & (runs.node_segment != 0)
    pairs = np.unique(np.stack([runs.node_segment[of_dendrite], runs.node_skeleton[of_dendrite]], 1), axis=0)
    owners: dict[int, set[int]] = {}
    for segment, skeleton in pairs.tolist():
        owners.setdefault(segment, set()).add(skeleton)
    held = [i for i, segment in enumerate(id_tip.tolist()) if segment in owners]
    own = [owners[int(id_tip[i])] == {int(runs.node_skeleton[tips[i]])} for i in held]
    return {
        "num": float(len(neck)),
        "recall": float(right.mean()),
        "precision": float(np.mean(own)) if own else float("nan"),
    }


def _farthest(graph: sparse.csr_matrix, start: int) -> int:
    """The node with the longest path from `start` in a tree of both directions (the smallest one of a tie)."""
    best, best_nm = start, 0.0
    seen, todo = {start}, [(start, 0.0)]
    while todo:
        node, path_nm = todo.pop()
        if (path_nm, -node) > (best_nm, -best):
            best, best_nm = node, path_nm
        for place in range(graph.indptr[node], graph.indptr[node + 1]):
            neighbour = int(graph.indices[place])
            if neighbour not in seen:
                seen.add(neighbour)
                todo.append((neighbour, path_nm + float(graph.data[place])))
    return best
