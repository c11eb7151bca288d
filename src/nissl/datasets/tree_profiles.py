"""What a cell is like, in numbers that a network can learn to tell from a few of its nodes: targets without labels.

Four blocks for each cell: share of its cable by height y; counts of tips and of forks by distance along the tree; and
a dozen summaries (lengths, counts, extents). Each block is centred and has the same total variance over the cells of a
source, whatever its units, so none drowns the others and cells are compared with those of their own source. Rotation
about y leaves all of them as they are. Ours; the reference predicts nothing but the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_BINS = 16
NUM_SUMMARIES = 11
PROFILE_COLUMNS = 3 * NUM_BINS + NUM_SUMMARIES
HEIGHT_PERCENTILES = (1.0, 99.0)
REACH_PERCENTILE = 98.0  # of distances along the tree, over the nodes of a source


def tree_profiles(trees: Sequence[tuple[np.ndarray, np.ndarray]], source: np.ndarray) -> np.ndarray:
    """Standardised profiles, (cells, PROFILE_COLUMNS) float32; the mean squared length of a row is 1 in each source.

    Args:
        trees: positions (N, 3) um and parents (N,) of each cell, node 0 the root and parents first.
        source: which source each cell is of, (cells,).
    """
    profiles = np.zeros((len(trees), PROFILE_COLUMNS), np.float32)
    for k in np.unique(source):
        rows = np.flatnonzero(source == k)
        blocks = [_equal_variance(block) for block in _blocks([trees[row] for row in rows.tolist()])]
        joined = np.concatenate(blocks, axis=1)
        profiles[rows] = joined / max(float(np.sqrt(np.square(joined).sum(axis=1).mean())), 1e-12)
    return profiles


def path_lengths(pos: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Distance from the root along the tree, (N,) um."""
    edge = np.zeros(len(parent))
    edge[1:] = np.linalg.norm(pos[1:] - pos[parent[1:]], axis=1)
    path, above = edge.tolist(), parent.tolist()
    for i in range(1, len(path)):
        path[i] += path[above[i]]
    return np.array(path)


def _blocks(trees: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Heights, tips, forks and summaries of the cells of one source, (cells, columns) each."""
    paths = [path_lengths(pos, parent) for pos, parent in trees]
    low, high = np.percentile(np.concatenate([pos[:, 1] for pos, _ in trees]), HEIGHT_PERCENTILES)
    reach = float(np.percentile(np.concatenate(paths), REACH_PERCENTILE))
    heights, tips, forks, summaries = [], [], [], []
    for (pos, parent), path in zip(trees, paths, strict=True):
        length = np.linalg.norm(pos[1:] - pos[parent[1:]], axis=1)
        middle = (pos[1:, 1] + pos[parent[1:], 1]) / 2
        cable = max(float(length.sum()), 1e-9)
        children = np.bincount(parent[1:], minlength=len(parent))
        is_tip, is_fork = children == 0, children > 1
        is_fork[0] = False
        heights.append(np.sqrt(soft_histogram(middle, length, low, high) / cable))
        tips.append(np.sqrt(soft_histogram(path[is_tip], np.ones(is_tip.sum()), 0.0, reach)))
        forks.append(np.sqrt(soft_histogram(path[is_fork], np.ones(is_fork.sum()), 0.0, reach)))
        extent, spread = np.ptp(pos, axis=0), pos.std(axis=0)
        summaries.append(
            [
                np.log1p(cable),
                np.log1p(is_tip.sum()),
                np.log1p(is_fork.sum()),
                np.log1p(extent[1]),
                np.log1p(np.hypot(extent[0], extent[2])),
                np.log1p(path.max()),
                spread[1],
                np.hypot(spread[0], spread[2]),
                np.average(middle, weights=np.maximum(length, 1e-9)),
                cable / max(is_tip.sum() + is_fork.sum(), 1),
                children[0],
            ]
        )
    z_scored = np.array(summaries, float)
    std = z_scored.std(axis=0)
    z_scored = (z_scored - z_scored.mean(axis=0)) / np.where(std > 1e-9, std, 1.0)
    return [np.array(heights), np.array(tips), np.array(forks), z_scored]


def soft_histogram(values: np.ndarray, weights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Weights by value in NUM_BINS, each value spread over neighbouring bins; what lies beyond goes to the border.

    The sum of the bins is that of the weights.
    """
    width = max(high - low, 1e-9) / NUM_BINS
    centres = low + (np.arange(NUM_BINS) + 0.5) * width
    near = np.exp(-0.5 * ((np.clip(values, low, high)[:, None] - centres) / width) ** 2)
    return weights @ (near / near.sum(axis=1, keepdims=True))


def _equal_variance(block: np.ndarray) -> np.ndarray:
    centred = block - block.mean(axis=0)
    return centred / max(float(np.sqrt(centred.var(axis=0).sum())), 1e-12)
