"""Laplacian positional encodings of trees: where a node sits in the topology, from eigenvectors of its graph.

With d the row sums of A (at least 1), L = I - D^-1/2 A D^-1/2 (Dwivedi and Bresson 2021, https://arxiv.org/abs/2012.09699).

- "smooth" (default): A without self-loops, eigenvectors by ascending eigenvalue after the constant-like first one.
- "reference": as published with GraphDINO (marissaweis/ssl_neuron@0a292e7178): A with self-loops, *descending*
  eigenvalue, the first dropped, so the columns are the highest frequencies.

- "random_walk": probability that a random walk is back after 2, 4, 6, ... steps (Dwivedi et al. 2022, RWPE,
  https://arxiv.org/abs/2110.07875; on a tree it is never back after an odd number). No signs, no eigenvectors.
- "none": zeros; the tree is then known from the adjacency in the attention alone.

The sign of an eigenvector means nothing. `signs="flip"` (default): training flips each column at random; otherwise the
entry of largest magnitude is made positive. "canonical": that in training too. "absolute": magnitudes only, which
cannot tell the two ends of a column apart but are the same for every solver. "raw": as the solver returns them, which
is what the reference does. Computed on the CPU in float64: batched `eigh` on CUDA is far slower
(https://github.com/pytorch/pytorch/issues/175585).

A tree is bipartite, so for "smooth" the eigenvectors of the N x N matrix follow from those of the Gram matrix of its
bipartite block, half the size (2.0 against 3.7 CPU-ms at N = 200, P = 32).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Kind = Literal["smooth", "reference", "random_walk", "none"]
Signs = Literal["flip", "canonical", "absolute", "raw"]
KINDS: tuple[str, ...] = get_args(Kind)
SIGNS: tuple[str, ...] = get_args(Signs)
SMALLEST_GAP = 1e-5  # between eigenvalues that count as different
SMALLEST_SINGULAR_VALUE = 1e-3  # below it the half-size form divides by too little; the full form is used


def laplacian_positions(
    edge_index: np.ndarray,
    num_nodes: int,
    num_columns: int,
    kind: Kind = "smooth",
    rng: np.random.Generator | None = None,
    signs: Signs = "flip",
) -> np.ndarray:
    """Positional encoding of one graph.

    Args:
        edge_index: (2, E) node pairs, each edge in both directions, no self-loops.
        num_nodes: N.
        num_columns: P; on a graph with too few eigenvectors the columns on the right are 0.
        kind: see the module's docstring.
        rng: draws the signs of the columns (training, with `signs="flip"`); None gives canonical signs.
        signs: see the module's docstring; without meaning for "random_walk" and "none".

    Returns:
        (N, P) float32; unit columns, except of "random_walk" and "none".
    """
    if signs not in SIGNS:
        raise ValueError(f"signs must be one of {', '.join(SIGNS)}, came {signs!r}")
    if kind == "smooth":
        vectors = _smooth_by_halves(edge_index, num_nodes, num_columns)
        if vectors is None:
            vectors = _smooth(edge_index, num_nodes, num_columns)
    elif kind == "reference":
        vectors = _reference(edge_index, num_nodes, num_columns)
    elif kind == "random_walk":
        return _returns(edge_index, num_nodes, num_columns).astype(np.float32)
    elif kind == "none":
        return np.zeros((num_nodes, num_columns), np.float32)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, came {kind!r}")
    encoding = np.zeros((num_nodes, num_columns), np.float32)
    width = vectors.shape[1]
    if width and signs == "absolute":
        encoding[:, :width] = np.abs(vectors)
    elif width and signs == "raw":
        encoding[:, :width] = vectors
    elif width:
        if rng is None or signs == "canonical":
            size = np.abs(vectors)
            first = np.argmax(size >= size.max(axis=0) * (1.0 - 1e-6), axis=0)  # ties by the lowest node, not by noise
            flips = np.where(vectors[first, np.arange(width)] < 0, -1.0, 1.0)
        else:
            flips = rng.choice([-1.0, 1.0], size=width)
        encoding[:, :width] = vectors * flips
    return encoding


def repeated_eigenvalues(edge_index: np.ndarray, num_nodes: int, num_columns: int, kind: Kind) -> int:
    """Columns of an encoding that share their eigenvalue with another one: any rotation among these is as valid.

    Symmetric trees have them (the arms of a star are alike). Two eigenvalues less than 1e-5 apart count as one; the
    first column left out counts as a neighbour. 0 for kinds without eigenvectors.
    """
    if kind not in ("smooth", "reference"):
        return 0
    values = np.linalg.eigvalsh(normalised_adjacency(edge_index, num_nodes, self_loops=kind == "reference"))
    if kind == "smooth":
        values = values[::-1]
    close = np.append(np.abs(np.diff(values)) < SMALLEST_GAP, False)
    shared = close | np.roll(close, 1)
    return int(shared[1 : num_columns + 1].sum())


def normalised_adjacency(edge_index: np.ndarray, num_nodes: int, self_loops: bool) -> np.ndarray:
    """D^-1/2 A D^-1/2, (N, N) float64."""
    a = np.zeros((num_nodes, num_nodes))
    a[edge_index[0], edge_index[1]] = 1.0
    if self_loops:
        np.fill_diagonal(a, 1.0)
    scale = np.maximum(a.sum(axis=1), 1.0) ** -0.5
    return a * scale[:, None] * scale[None, :]


def _returns(edge_index: np.ndarray, num_nodes: int, num_columns: int) -> np.ndarray:
    """Diagonals of the even powers of the walk's matrix, (N, P); those of the symmetric form are the same."""
    a = normalised_adjacency(edge_index, num_nodes, self_loops=False)
    step, power, columns = a @ a, np.eye(num_nodes), []
    for _ in range(num_columns):
        power = power @ step
        columns.append(np.diagonal(power).copy())
    return np.stack(columns, axis=1)


def _smooth(edge_index: np.ndarray, num_nodes: int, num_columns: int) -> np.ndarray:
    _, vectors = np.linalg.eigh(normalised_adjacency(edge_index, num_nodes, self_loops=False))
    # Ascending eigenvalues of I - a are descending ones of a.
    return vectors[:, ::-1][:, 1 : num_columns + 1]


def _smooth_by_halves(edge_index: np.ndarray, num_nodes: int, num_columns: int) -> np.ndarray | None:
    """The same through the bipartite block; None for anything but a tree with parents first, or a small one."""
    parent = _parents(edge_index, num_nodes)
    if parent is None:
        return None
    parity = [0] * num_nodes
    for node in range(1, num_nodes):
        parity[node] = 1 - parity[parent[node - 1]]
    odd = np.array(parity, bool)
    small, large = np.flatnonzero(odd), np.flatnonzero(~odd)
    if len(small) > len(large):
        small, large = large, small
    n = len(small)
    if n <= num_columns:
        return None
    row = np.empty(num_nodes, np.int64)
    row[small], row[large] = np.arange(n), np.arange(num_nodes - n)
    scale = np.maximum(np.bincount(edge_index[0], minlength=num_nodes), 1.0) ** -0.5
    in_small = np.zeros(num_nodes, bool)
    in_small[small] = True
    i, j = edge_index[:, in_small[edge_index[0]]]
    block = np.zeros((n, num_nodes - n))
    block[row[i], row[j]] = scale[i] * scale[j]
    squared, u = np.linalg.eigh(block @ block.T)
    squared, u = squared[::-1][1 : num_columns + 1], u[:, ::-1][:, 1 : num_columns + 1]
    if squared[-1] < SMALLEST_SINGULAR_VALUE**2:
        return None
    vectors = np.empty((num_nodes, num_columns))
    vectors[small], vectors[large] = u, (block.T @ u) / np.sqrt(squared)
    return vectors * np.sqrt(0.5)


def _parents(edge_index: np.ndarray, num_nodes: int) -> list[int] | None:
    """Parent of nodes 1, 2, ..., if the first half of the edges is child to parent in node order; else None."""
    half = num_nodes - 1
    if edge_index.shape[1] != 2 * half or half < 1:
        return None
    child, above = edge_index[:, :half]
    if not (np.array_equal(child, np.arange(1, num_nodes)) and np.all(above < child)):
        return None
    return above.tolist()


def _reference(edge_index: np.ndarray, num_nodes: int, num_columns: int) -> np.ndarray:
    _, vectors = np.linalg.eigh(normalised_adjacency(edge_index, num_nodes, self_loops=True))
    # Descending eigenvalues of I - a are ascending ones of a.
    return vectors[:, 1 : num_columns + 1]
