"""Where a segmentation is wrong, most costly first: what would the expected run length gain if this one place were put
right?

* *merge*: the segment is made correct on every neuron that it merges. A segment that joins k neurons has k - 1 places
  (the closest approaches that connect them); each row carries the gain of undoing them all.
* *split*: the two segments are joined. The gain is 0 if one of them is a merger, which joining would only enlarge.
* *omission*: a stretch of unassigned cable is filled with that segment at its ends which gains most, or with a new one.

Gains are in nm of expected run length over all cable and are exact for the `funlib` and `strict` variants, one place at
a time (they do not add up); with a merge threshold, nodes below it are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from nissl.evaluators.run_lengths import MERGED, OMITTED, SPLIT, RunLengths
from nissl.volumes.skeletons import Skeletons

NODES_PER_MERGER = 4000  # a larger segment is thinned before its closest approaches are looked for


@dataclass(frozen=True)
class Site:
    """One place to look at.

    Attributes:
        kind: "merge", "split" or "omission".
        gain_nm: of expected run length over all cable if it were right.
        cable_nm: the cable in question: merged cable, the split edges, the omitted edges that would become correct.
        node, other_node: rows of the skeletons' nodes. Merge: of the two neurons where they are closest. Split: the two
            ends. Omission: the middle of the stretch, and a node whose segment should fill it (-1: a new one).
        position_zyx_nm: between the two, or the middle of the stretch.
        num_sites: places that must be put right together.
    """

    kind: str
    gain_nm: float
    cable_nm: float
    node: int
    other_node: int
    position_zyx_nm: tuple[float, float, float]
    num_sites: int = 1


def error_sites(skeletons: Skeletons, runs: RunLengths, limit: int) -> list[Site]:
    """The most costly places, at least `limit` of them if there are as many; ties in order of nodes.

    All places of one merger are listed, also where that exceeds the limit.
    """
    candidates = [*_merges(skeletons, runs), *_splits(skeletons, runs), *_omissions(skeletons, runs)]
    candidates.sort(key=lambda found: -found[0])
    sites: list[Site] = []
    for gain, kind, what in candidates:
        if len(sites) >= limit:
            break
        cable, first, second = what["cable"], what["node"], what["other_node"]
        if kind == "merge":
            approaches = closest_approaches(skeletons, runs, what["segment"])
            for a, b in approaches:
                middle = (skeletons.nodes_zyx_nm[a] + skeletons.nodes_zyx_nm[b]) / 2
                sites.append(Site(kind, gain, cable, a, b, _triple(middle), len(approaches)))
            if not approaches:  # forbidden, on one neuron only
                sites.append(Site(kind, gain, cable, first, -1, _triple(skeletons.nodes_zyx_nm[first])))
        else:
            ends = skeletons.nodes_zyx_nm[[first, second] if kind == "split" else [first]]
            sites.append(Site(kind, gain, cable, first, second, _triple(ends.mean(axis=0))))
    return sites


Candidate = tuple[float, str, dict[str, Any]]


def _merges(skeletons: Skeletons, runs: RunLengths) -> list[Candidate]:
    u = skeletons.edges[:, 0]
    merged = runs.edge_class == MERGED
    segments, column = np.unique(runs.pair_segment, return_inverse=True)
    in_run = np.bincount(runs.node_run[u[merged]], runs.edge_nm[merged], len(runs.run_nm))
    run_column = np.zeros(len(in_run), np.int64)
    run_column[runs.node_run] = column[runs.node_pair]
    gain = np.bincount(run_column, in_run**2, len(segments)) / runs.total_nm
    cable = np.bincount(run_column, in_run, len(segments))
    wrong = np.unique(column[runs.pair_is_merged])
    node = np.zeros(len(segments), np.int64)
    node[column[runs.node_pair][::-1]] = np.arange(len(runs.node_pair))[::-1]  # the first node of each
    return [
        (
            float(gain[i]),
            "merge",
            {"cable": float(cable[i]), "node": int(node[i]), "other_node": -1, "segment": segments[i]},
        )
        for i in wrong
    ]


def _splits(skeletons: Skeletons, runs: RunLengths) -> list[Candidate]:
    split = runs.edge_class == SPLIT
    edges, length = skeletons.edges[split], runs.edge_nm[split]
    if len(edges) == 0:
        return []
    ends = np.sort(runs.node_run[edges], axis=1)
    between, first, of = np.unique(ends, axis=0, return_index=True, return_inverse=True)
    cable = np.bincount(of.ravel(), length)
    a, b = runs.run_nm[between].T
    merger = runs.pair_is_merged[runs.node_pair[edges[first]]].any(axis=1)
    gain = np.where(merger, 0.0, ((a + b + cable) ** 2 - a**2 - b**2) / runs.total_nm)
    return [
        (float(g), "split", {"cable": float(c), "node": int(u), "other_node": int(v)})
        for g, c, (u, v) in zip(gain, cable, edges[first], strict=True)
    ]


def _omissions(skeletons: Skeletons, runs: RunLengths) -> list[Candidate]:
    blank = runs.node_segment == 0
    lost = runs.edge_class == OMITTED
    edges, length = skeletons.edges[lost], runs.edge_nm[lost]
    if len(edges) == 0:
        return []
    inner = blank[edges].all(axis=1)
    num = len(blank)
    graph = sparse.coo_matrix((np.ones(inner.sum(), bool), tuple(edges[inner].T)), shape=(num, num))
    _, piece = connected_components(graph, directed=False)
    blank_end = np.where(blank[edges[:, 0]], edges[:, 0], edges[:, 1])
    other_end = np.where(blank[edges[:, 0]], edges[:, 1], edges[:, 0])
    pieces, stretch = np.unique(piece[blank_end], return_inverse=True)
    inside = np.bincount(stretch[inner], length[inner], len(pieces)).astype(float)  # of nothing, it is integer
    best, cable = inside**2, inside.copy()
    filler = np.full(len(pieces), -1)

    # What each stretch would gain from each segment at its ends.
    end = ~inner & ~runs.pair_is_merged[runs.node_pair[other_end]]
    if end.any():
        at, node = stretch[end], other_end[end]
        options, first, of = np.unique(
            np.stack([at, runs.node_pair[node]], 1), axis=0, return_index=True, return_inverse=True
        )
        of = of.ravel()
        filled = inside[options[:, 0]] + np.bincount(of, length[end])
        runs_at = np.unique(np.stack([of, runs.node_run[node]], 1), axis=0)
        held = np.bincount(runs_at[:, 0], runs.run_nm[runs_at[:, 1]], len(options))
        squares = np.bincount(runs_at[:, 0], runs.run_nm[runs_at[:, 1]] ** 2, len(options))
        more = (held + filled) ** 2 - squares
        for i in np.argsort(more, kind="stable"):  # the best option of a stretch comes last
            s = options[i, 0]
            if more[i] > best[s]:
                best[s], cable[s], filler[s] = more[i], filled[i], node[first[i]]

    nodes = np.flatnonzero(blank & np.isin(piece, pieces))
    row = np.searchsorted(pieces, piece[nodes])
    position = skeletons.nodes_zyx_nm[nodes]
    count = np.bincount(row, minlength=len(pieces))
    centre = np.stack([np.bincount(row, position[:, k], len(pieces)) for k in range(3)], 1) / count[:, None]
    order = np.lexsort([np.linalg.norm(position - centre[row], axis=1), row])
    middle = nodes[order][np.unique(row[order], return_index=True)[1]]
    return [
        (float(g), "omission", {"cable": float(c), "node": int(m), "other_node": int(f)})
        for g, c, m, f in zip(best / runs.total_nm, cable, middle, filler, strict=True)
    ]


def closest_approaches(skeletons: Skeletons, runs: RunLengths, segment: int) -> list[tuple[int, int]]:
    """Pairs of nodes that connect all neurons merged by a segment, by the shortest bridges (Prim's tree)."""
    member = (runs.node_segment == segment) & runs.pair_is_merged[runs.node_pair]
    nodes = np.flatnonzero(member)
    nodes = nodes[np.argsort(runs.node_skeleton[nodes], kind="stable")]
    step = -(-len(nodes) // NODES_PER_MERGER)
    firsts = np.unique(runs.node_skeleton[nodes], return_index=True)[1]
    keep = np.zeros(len(nodes), bool)
    keep[::step] = keep[firsts] = True
    nodes = nodes[keep]
    neuron = runs.node_skeleton[nodes]
    position = skeletons.nodes_zyx_nm[nodes]
    outside = np.ones(len(nodes), bool)
    distance = np.full(len(nodes), np.inf)
    nearest = np.zeros(len(nodes), np.int64)
    joined = neuron[0]
    bridges: list[tuple[int, int]] = []
    while True:
        added = np.flatnonzero(neuron == joined)
        outside[added] = False
        if not outside.any():
            return bridges
        left = np.flatnonzero(outside)
        far, which = KDTree(position[added]).query(position[left])
        closer = far < distance[left]
        distance[left[closer]], nearest[left[closer]] = far[closer], added[which[closer]]
        best = left[np.argmin(distance[left])]
        bridges.append((int(nodes[nearest[best]]), int(nodes[best])))
        joined = neuron[best]


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    z, y, x = (float(value) for value in values)
    return z, y, x
